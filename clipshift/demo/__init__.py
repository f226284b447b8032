"""The demo: a photograph that one drags in, measured as a run measures it."""
