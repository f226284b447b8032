"""Results: per-photo tables, summaries with intervals, and the files of a run."""

from clipshift.results.files import (
    data_fingerprint,
    package_versions,
    skipped_table,
    write_provenance,
    write_tables,
    write_tensors,
    write_whole,
)
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import SEVERITY, mean_interval, pivot, shift_table, summarize

__all__ = [
    "CLEAN",
    "SEVERITY",
    "Measured",
    "data_fingerprint",
    "mean_interval",
    "package_versions",
    "pivot",
    "shift_table",
    "skipped_table",
    "summarize",
    "write_provenance",
    "write_tables",
    "write_tensors",
    "write_whole",
]
