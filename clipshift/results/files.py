"""The files of a run: tables, tensors and provenance, each written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from clipshift.data import Photo
from clipshift.results.columns import column_dictionary, write_shift
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import Tables

CALIBRATION = "calibration.json"

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet runs as a formula."""

TABLES = (
    "summary",
    "distances",
    "distances_low",
    "distances_high",
    "ranking",
    "correlations",
    "layers",
    "skipped",
)
"""The tables of a run beside ``shift.parquet``, by their names in `clipshift.results.Tables`."""

RESULTS = (
    "run.json",
    "shift.parquet",
    "columns.json",
    *(f"{table}.csv" for table in TABLES),
    *(f"{tensors}.safetensors" for tensors in ("embeddings", "views", "gaze")),
    CALIBRATION,
    "report.html",
)
"""What an evaluation writes, the figures apart."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that no half of it is ever seen."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)


def clear_results(folder: Path) -> None:
    """Remove an earlier run's results, so that none of them is taken for one of the next run."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


def write_tables(folder: Path, tables: Tables) -> None:
    """Write ``shift.parquet``, the other tables that have rows as CSV, and ``columns.json``."""
    write_whole(
        folder / "shift.parquet", lambda path: write_shift(path, tables.shift, tables.columns)
    )
    made = {name: getattr(tables, name) for name in TABLES}
    written = {n: table for n, table in made.items() if len(table) or n == "skipped"}
    for name, table in written.items():
        write_csv(folder / f"{name}.csv", table)
    write_json(folder / "columns.json", column_dictionary(tables.shift, tables.columns, written))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table to nine digits, with its index where that has a name.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises
    against CSV injection: a photo may be called ``=1+1.jpg``.
    """
    index = table.index.name is not None
    texts = table.select_dtypes(["object", "string"])
    safe = texts.map(lambda cell: f"'{cell}" if str(cell).startswith(FORMULA) else cell)
    made = table.assign(**{str(name): safe[name] for name in safe})
    write_whole(path, lambda partial: made.to_csv(partial, index=index, float_format="%.9g"))


def write_tensors(
    folder: Path, measured: Measured, photos: Sequence[Photo], views: int, gaze: int
) -> None:
    """Write the ``embeddings`` of all views where kept, ``views`` and ``gaze``, as safetensors.

    Each holds a tensor a view (``clean`` or an augmentation), photos in the order of the run's
    list, and the photos' ids as a JSON list under ``photos`` in the metadata.

    Args:
        folder: The run's folder.
        measured: What was measured.
        photos: The run's photos.
        views: Write the views of the first so many photos.
        gaze: Write the gazes of the first so many photos.
    """
    order = np.argsort(measured.index, kind="stable")
    if len(measured.embeddings) > 1:
        ids = [photos[measured.index[row]].id for row in order]
        stacked = {name: np.stack(rows)[order] for name, rows in measured.embeddings.items()}
        _write_views(folder / "embeddings.safetensors", stacked, ids)
    for file, kept, count in (("views", measured.views, views), ("gaze", measured.gazes, gaze)):
        if kept and count:
            indices = sorted(photo for photo in kept[CLEAN] if photo < count)
            stacked = {name: np.stack([rows[i] for i in indices]) for name, rows in kept.items()}
            _write_views(folder / f"{file}.safetensors", stacked, [photos[i].id for i in indices])


def _write_views(path: Path, tensors: Mapping[str, np.ndarray], ids: Sequence[str]) -> None:
    metadata = {"photos": json.dumps(list(ids))}
    write_whole(path, lambda partial: save_file(dict(tensors), partial, metadata))


def skipped_table(measured: Measured, photos: Sequence[Photo]) -> pd.DataFrame:
    """A row a photo that could not be read: ``photo``, ``reason``."""
    rows = sorted((photos[skipped.index].id, skipped.reason) for skipped in measured.skipped)
    return pd.DataFrame(rows, columns=["photo", "reason"])


def data_fingerprint(digests: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over photos' ids and the SHA-256 of their encoded bytes, in the order of ids."""
    digest = hashlib.sha256()
    for photo, content in sorted(digests):
        digest.update(photo.encode() + b"\0" + content)
    return digest.hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
