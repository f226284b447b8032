"""The meaning of every column of a run's tables, which is written beside them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import TypeAdapter

from clipshift.data.files import typed
from clipshift.measure.facts import Facts

METADATA = b"clipshift.columns"
"""Where ``shift.parquet`` holds what its measured columns mean."""

COLUMN_FACTS: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(dict[str, dict[str, Any]])
VARIANT = ("augmentation", "severity")
KEYS = ("photo", "label", *VARIANT)
"""The columns of ``shift.parquet`` that are not measured."""
DRAW = "draw"
"""One more, of a run with several draws."""


def _read_definitions() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    tables = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    common = tables.pop("common")
    return common, {
        table: {name: text or common[name] for name, text in columns.items()}
        for table, columns in tables.items()
    }


COMMON, DEFINITIONS = _read_definitions()
"""What columns mean: those of all tables, and all of each table beside ``shift.parquet``, by its
name in `clipshift.results.runs.Run`."""


class ShiftFile:
    """A run's ``shift.parquet``, of which a column is read at a time.

    Its rows are those of `clipshift.results.table.shift_table`: photo by photo in the order of
    their ids, each draw after draw under every variant in the same order. Iterating gives the names
    of its columns.

    Args:
        path: The file.

    Attributes:
        facts: What its measured columns mean.

    Raises:
        OSError: If there is no such file.
        ValueError, TypeError: If it is not one of clipshift's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        schema = pq.read_schema(path)
        stored = (schema.metadata or {}).get(METADATA)
        if stored is None:
            raise ValueError(f"{path.name} does not say what its columns mean: measure it again")
        kept = typed(COLUMN_FACTS, stored.decode())
        self.facts = {name: Facts.from_json(facts) for name, facts in kept.items()}
        self.names: list[str] = schema.names
        types = dict.fromkeys(KEYS, "string") | dict.fromkeys(self.facts, "double")
        types[DRAW] = "int64"
        missing = [name for name in ("photo", *VARIANT) if name not in self.names]
        wrong = [n for n in self.names if str(schema.field(n).type) != types.get(n)]
        if missing or wrong:
            column = (missing + wrong)[0]
            raise ValueError(f"{path.name} has no column {column} as clipshift writes it")
        if len(self) % self.views:
            raise ValueError(f"{path.name} has not the same views of every photo")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return int(pq.read_metadata(self.path).num_rows)

    @property
    def empty(self) -> bool:
        """Whether it has no rows."""
        return not len(self)

    @cached_property
    def variants(self) -> pd.MultiIndex:
        """Augmentation and severity of every photo's rows."""
        rows = self.head(1024)
        first = rows[rows["photo"] == rows["photo"].iloc[0]] if len(rows) else rows
        return pd.MultiIndex.from_frame(first[["augmentation", "severity"]].drop_duplicates())

    @cached_property
    def draws(self) -> int:
        """How often each augmentation was drawn for a photo."""
        if DRAW not in self.names or self.empty:
            return 1
        return int(pq.read_table(self.path, columns=[DRAW])[DRAW].to_numpy().max())

    @property
    def views(self) -> int:
        """How many rows a photo has."""
        return (len(self.variants) or 1) * self.draws

    @cached_property
    def photos(self) -> pd.Index:
        """The photos' ids, in order."""
        return pd.Index(self._of_photos("photo"), name="photo")

    @property
    def labels(self) -> pd.Series:
        """The photos' labels, by id."""
        return self._of_photos("label").set_axis(self.photos)

    def by_photo(self, measure: str) -> pd.DataFrame:
        """A measure: one row per photo, one column per variant, float64; the mean over draws."""
        values = self.by_draw(measure)
        folded = values[:, 0] if self.draws == 1 else self.fold(measure, values)
        return pd.DataFrame(folded, self.photos, self.variants)

    def fold(self, measure: str, values: np.ndarray) -> Any:
        """The mean over the draws that have a value: (N, draws, variants) → (N, variants)."""
        with np.errstate(invalid="ignore"):
            return np.nansum(values, axis=1) / np.isfinite(values).sum(axis=1)

    def by_draw(self, measure: str) -> np.ndarray:
        """A measure of every draw, float64, shape (N, draws, variants)."""
        with pq.ParquetFile(self.path) as file:  # opens it in half of `read_table`'s time
            column = file.read([measure])[measure].to_numpy()
        shape = -1, self.draws, len(self.variants) or 1
        return np.asarray(column.reshape(shape).astype(float, order="F"))

    def head(self, rows: int) -> pd.DataFrame:
        """The first rows."""
        with pq.ParquetFile(self.path) as file:
            first = next(file.iter_batches(rows), file.schema_arrow.empty_table())
            return first.to_pandas(ignore_metadata=True)

    def read(self) -> pd.DataFrame:
        """All rows."""
        return pq.read_table(self.path).to_pandas(ignore_metadata=True)

    def _of_photos(self, column: str) -> pd.Series:
        """One value for each photo, of a column that its rows have in common."""
        stored = pq.read_table(self.path, columns=[column], read_dictionary=[column])[column]
        first = stored.take(pa.array(np.arange(0, len(self), self.views)))
        return first.cast(pa.string()).to_pandas()


def column_dictionary(
    shift: Iterable[str], columns: Mapping[str, Facts], tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, Any]]:
    """What ``columns.json`` holds: what every column of every table means, by file.

    Args:
        shift: The names of the columns of ``shift.parquet``.
        columns: What its measured columns mean.
        tables: The other tables that are written, by name.
    """
    measured = {name: columns[name].as_json() for name in shift if name in columns}
    of_tables = {
        f"{name}.csv": {
            column: {"definition": DEFINITIONS[name][column]} for column in table.columns
        }
        for name, table in tables.items()
        if name in DEFINITIONS
    }
    listed = (*KEYS, *shift)
    keys = {name: {"definition": COMMON[name]} for name in listed if name in COMMON}
    return {"shift.parquet": keys | measured, **of_tables}


def write_shift(path: Path, parts: Iterable[pd.DataFrame], columns: Mapping[str, Facts]) -> None:
    """Write ``shift.parquet``, with what its measured columns mean in its metadata.

    Args:
        path: The file.
        parts: Its rows, part by part: each becomes a row group, so that no more than one is held.
        columns: What measured columns mean.
    """
    writer = None
    for part in parts:
        if writer is None:
            schema = pa.Schema.from_pandas(part, preserve_index=False)
            for key in set(KEYS) & set(schema.names):  # where the first part has no labels
                schema = schema.set(schema.get_field_index(key), pa.field(key, pa.string()))
            stored = {name: facts.as_json() for name, facts in columns.items() if name in part}
            metadata = {METADATA: json.dumps(stored, ensure_ascii=False)}
            writer = pq.ParquetWriter(path, schema.with_metadata({**schema.metadata, **metadata}))
        writer.write_table(pa.Table.from_pandas(part, writer.schema, preserve_index=False))
    if writer is not None:
        writer.close()
