"""Fine-tune a CLIP model to be more robust to augmentations, and resume and export trainings."""
