"""Results: what was measured, its tables with intervals, and the files of a run."""
