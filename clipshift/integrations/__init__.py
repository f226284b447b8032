"""Results in other tools: W&B, the Hugging Face hub, and CLIP_benchmark's files."""
