"""Results: what was measured, its tables with intervals, and the files of a run."""

from clipshift.results.corruptions import (
    corruption_errors,
    mean_corruption_error,
    shift_and_error,
)
from clipshift.results.files import (
    data_fingerprint,
    file_sha256,
    write_csv,
    write_json,
    write_whole,
)
from clipshift.results.intervals import (
    cosine_values,
    holm,
    intraclass_correlation,
    mean_interval,
    pair_values,
    ratio_values,
)
from clipshift.results.measured import CLEAN, Measured, join
from clipshift.results.paired import GROUPS, compare_photos, with_group_means
from clipshift.results.ranking import (
    correlate,
    rank_augmentations,
    ranking_agreement,
    shown_photos,
)
from clipshift.results.records import Records
from clipshift.results.runs import (
    CALIBRATION,
    GAZED_PHOTOS,
    SHOWN_PHOTOS,
    Run,
    clear_results,
    differing_views,
    incomparable,
    read_gazes,
    read_nearest,
    read_run,
    write_nearest,
    write_run,
    write_tensors,
)
from clipshift.results.table import (
    distance_tables,
    order_of_photos,
    pivot,
    shift_table,
    skipped_table,
    summarize,
)

__all__ = [
    "CALIBRATION",
    "CLEAN",
    "GAZED_PHOTOS",
    "GROUPS",
    "SHOWN_PHOTOS",
    "Measured",
    "Records",
    "Run",
    "clear_results",
    "compare_photos",
    "correlate",
    "corruption_errors",
    "cosine_values",
    "data_fingerprint",
    "differing_views",
    "distance_tables",
    "file_sha256",
    "holm",
    "incomparable",
    "intraclass_correlation",
    "join",
    "mean_corruption_error",
    "mean_interval",
    "order_of_photos",
    "pair_values",
    "pivot",
    "rank_augmentations",
    "ranking_agreement",
    "ratio_values",
    "read_gazes",
    "read_nearest",
    "read_run",
    "shift_and_error",
    "shift_table",
    "shown_photos",
    "skipped_table",
    "summarize",
    "with_group_means",
    "write_csv",
    "write_json",
    "write_nearest",
    "write_run",
    "write_tensors",
    "write_whole",
]
