"""The demo: one photograph that the user drags into a page, measured as in a run."""
