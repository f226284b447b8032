"""Comparisons of finished runs: two of them photo by photo, a sweep's jobs, or any number."""

from clipshift.comparison.pair_report import compare_runs
from clipshift.comparison.sweep_report import compare_sweep, rank_runs

__all__ = ["compare_runs", "compare_sweep", "rank_runs"]
