"""Comparisons of finished runs: two of them photo by photo, or all jobs of a sweep."""

from clipshift.comparison.pair_report import compare_runs
from clipshift.comparison.sweep_report import compare_sweep

__all__ = ["compare_runs", "compare_sweep"]
