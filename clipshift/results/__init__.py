"""Results: per-photo tables, summaries with intervals, and the files of a run."""

from clipshift.results.files import (
    CALIBRATION,
    TABLES,
    clear_results,
    data_fingerprint,
    skipped_table,
    write_csv,
    write_json,
    write_tables,
    write_tensors,
    write_whole,
)
from clipshift.results.intervals import holm, intraclass_correlation, mean_interval
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.paired import compare_photos, with_group_means
from clipshift.results.ranking import (
    CORRELATES,
    correlate,
    extreme_photos,
    rank_augmentations,
    ranking_agreement,
)
from clipshift.results.runs import Run, differing_views, incomparable, read_run
from clipshift.results.table import (
    Tables,
    distance_tables,
    order_of_photos,
    pivot,
    shift_table,
    summarize,
)

__all__ = [
    "CALIBRATION",
    "CLEAN",
    "CORRELATES",
    "TABLES",
    "Measured",
    "Run",
    "Tables",
    "clear_results",
    "compare_photos",
    "correlate",
    "data_fingerprint",
    "differing_views",
    "distance_tables",
    "extreme_photos",
    "holm",
    "incomparable",
    "intraclass_correlation",
    "mean_interval",
    "order_of_photos",
    "pivot",
    "rank_augmentations",
    "ranking_agreement",
    "read_run",
    "shift_table",
    "skipped_table",
    "summarize",
    "with_group_means",
    "write_csv",
    "write_json",
    "write_tables",
    "write_tensors",
    "write_whole",
]
