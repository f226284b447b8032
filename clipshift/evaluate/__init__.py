"""The evaluation: photos through augmentations and encoder into measures, tables and facts."""
