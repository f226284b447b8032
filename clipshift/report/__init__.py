"""The report: figures, one HTML page, the terminal's last words, and W&B."""
