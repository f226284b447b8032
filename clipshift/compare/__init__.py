"""Comparisons of finished runs: two of them photo by photo, or all jobs of a sweep."""

from clipshift.compare.pair import compare_runs
from clipshift.compare.sweep import compare_sweep

__all__ = ["compare_runs", "compare_sweep"]
