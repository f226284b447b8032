"""What tests share: models, augmentations, commands, and services that run on this machine."""
