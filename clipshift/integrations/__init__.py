"""Results in other people's tools: W&B, the Hugging Face hub, and CLIP_benchmark's files."""
