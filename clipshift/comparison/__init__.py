"""Comparisons of finished runs: two of them photo by photo, or all jobs of a sweep."""

from clipshift.comparison.pair import compare_runs
from clipshift.comparison.sweep import compare_sweep

__all__ = ["compare_runs", "compare_sweep"]
