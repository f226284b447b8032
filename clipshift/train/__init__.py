"""Training: the built-in model from scratch, and CLIPs that care less about augmentations."""
