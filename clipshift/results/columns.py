"""What every column of a run's tables means: it travels with them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from clipshift.data import typed
from clipshift.measure import Facts

METADATA = b"clipshift.columns"
"""Where ``shift.parquet`` holds what its measured columns mean."""

COLUMN_FACTS: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(dict[str, dict[str, Any]])
KEYS = {
    "photo": "id of the photo: its path below the data root, or SHARD/KEY",
    "label": "the photo's class, where it has one",
    "augmentation": "what was done to the photo",
    "severity": "how strongly: paper, 1 to 5, or matched",
}
VARIANT = {name: KEYS[name] for name in ("augmentation", "severity")}
INTERVAL = {
    "ci_low": "lower end of the 95 % interval (over photos or classes: resampled in run.json)",
    "ci_high": "upper end of the 95 % interval (over photos or classes: resampled in run.json)",
}
COUNT = {"n": "photos with a value"}
DEFINITIONS: dict[str, dict[str, str]] = {
    "summary": VARIANT
    | {
        "measure": "a measured column of shift.parquet",
        "mean": "its mean over photos",
        "std": "its standard deviation over photos (N − 1)",
    }
    | INTERVAL
    | COUNT,
    "ranking": VARIANT
    | {"shift": "mean over photos of 1 − cosine"}
    | INTERVAL
    | {
        "rank": "1: the largest shift at this severity",
        "rank_low": "lower end of the rank's interval; all intervals of a severity hold together "
        "with 95 %",
        "rank_high": "upper end of the rank's interval",
        "difference": "paired difference to the shift of the next in the ranking",
        "difference_low": "lower end of the difference's interval; all pairs of a severity hold "
        "together with 95 %",
        "difference_high": "upper end of the difference's interval",
        "different": "whether that interval excludes 0",
    }
    | COUNT
    | {
        "distortion": "mean over photos of what severities were matched by, ssim or rmse",
        "distortion_low": "lower end of its 95 % interval over photos",
        "distortion_high": "upper end of its 95 % interval over photos",
    },
    "correlations": VARIANT
    | {
        "with": "what 1 − cosine is compared with over photos; a loss is 1 − the measure",
        "rho": "Spearman's rank correlation",
    }
    | INTERVAL
    | {
        "p": "two-sided p-value of no correlation",
        "p_holm": "p after Holm's correction over all rows of the severity",
    }
    | COUNT,
    "layers": VARIANT
    | {
        "layer": "block or stage of the image tower, from 1",
        "cosine": "mean cosine of the class tokens of view and clean view",
    }
    | INTERVAL
    | {
        "patch_cosine": "mean cosine of the mean patch tokens of view and clean view",
        "patch_low": "lower end of its 95 % interval",
        "patch_high": "upper end of its 95 % interval",
        "amplification": "relative shift of the class tokens over that of the layer before; 1 − "
        "cosine divided by its mean over different clean photos",
        "amplification_low": "lower end of its 95 % interval",
        "amplification_high": "upper end of its 95 % interval",
        "cka": "debiased linear CKA of the mean patch tokens of views and clean views",
        "cka_low": "lower end of its 95 % interval, with inside=true",
        "cka_high": "upper end of its 95 % interval, with inside=true",
        "cka_null": "standard deviation of cka over all permutations of the photos; its mean is 0",
        "cka_p": "upper bound of the p-value of cka under permutations of the photos (Cantelli)",
        "cka_biased": "linear CKA of the same, biased upwards where photos are few",
    },
    "outliers": {
        "augmentation": "what was done to the photo; clean: nothing",
        "severity": KEYS["severity"] + "; the clean views have their rows at each",
        "layer": "block of the image tower, from 1",
        "tokens": "mean number of outlier tokens: patch tokens more than three times as long as "
        "the view's median one",
    }
    | INTERVAL
    | {
        "share": "share of all patch tokens that are outliers",
        "gaze_share": "mean share of the gaze that falls on them",
        "gaze_low": "lower end of its 95 % interval",
        "gaze_high": "upper end of its 95 % interval",
    }
    | COUNT,
    "directions": VARIANT
    | {
        "direction": "length of the mean unit displacement, perpendicular to the mean clean "
        "embedding, debiased; 1: all photos the same way",
    }
    | INTERVAL
    | {
        "null": "95 % of the directions are below this where displacements have random signs",
        "p": "p-value of a direction as large where displacements have random signs",
        "p_holm": "p after Holm's correction over all rows of the severity",
        "share": "share of the mean squared displacement that the mean displacement carries, "
        "perpendicular to the mean clean embedding",
        "share_low": "lower end of its 95 % interval",
        "share_high": "upper end of its 95 % interval",
        "contraction": "mean change of a view's cosine with the other clean photos, over the mean "
        "1 − cosine between those; positive: views come nearer, negative: they move away",
        "contraction_low": "lower end of its 95 % interval",
        "contraction_high": "upper end of its 95 % interval",
        "n": "photos that were moved",
    },
    "direction_cosines": {
        "severity": KEYS["severity"],
        "augmentation": "one augmentation",
        "other": "another",
        "cosine": "cosine of their mean displacements, perpendicular to the mean clean embedding, "
        "over different photos; empty where one has none",
    }
    | INTERVAL
    | COUNT,
    "undone": VARIANT
    | {
        "method": "how the clean embedding is estimated from the view's: none, as it is; mean, the "
        "mean displacement subtracted; orthogonal, by a rotation as well; ridge, by a linear map "
        "or the clean mean",
        "r_squared": "cross-validated R² of the clean embeddings; 1: undone, 0: as good as their "
        "mean",
    }
    | INTERVAL
    | COUNT,
    "neighbourhoods": VARIANT
    | {
        "measure": "neighbours_kept, alignment, uniformity, uniformity_change, effective_rank or "
        "hubness",
        "value": "its value of the views",
    }
    | INTERVAL
    | {
        "reference": "what to compare it with: the value of the clean views; chance for "
        "neighbours_kept; 0 for alignment and uniformity_change",
        "n": COUNT["n"],
    },
    "named": VARIANT
    | {
        "vocabulary": "the texts that it is one of: classes, or attributes (left out for models "
        "that know only names)",
        "text": "what the text says: a class, or how a photo can look",
        "change": "mean over photos of the view's cosine with the text minus the clean view's",
    }
    | INTERVAL
    | {
        "p": "two-sided p-value of no change, from Student's t",
        "p_holm": "p after Holm's correction over all texts of the vocabulary and augmentations of "
        "the severity",
        "softmax_change": "the same of the text's probability: the softmax of the model's scaled "
        "cosines over the vocabulary",
        "softmax_low": "lower end of its 95 % interval",
        "softmax_high": "upper end of its 95 % interval",
        "softmax_p": "two-sided p-value of no change, from Student's t",
        "softmax_p_holm": "softmax_p after Holm's correction, as p_holm",
        "n": COUNT["n"],
    },
    "corruption_error": VARIANT
    | {"error": "zero-shot top-1 error under the stored corruption"}
    | INTERVAL
    | {
        "alexnet_error": "AlexNet's, the mean over severities, where it is published",
        "relative_error": "error divided by AlexNet's",
        "relative_low": "lower end of its 95 % interval over photos",
        "relative_high": "upper end of its 95 % interval over photos",
        "shift": "mean over photos of 1 − cosine",
    }
    | COUNT,
    "skipped": {"photo": KEYS["photo"], "reason": "why it was not measured"},
}
"""The columns of the tables beside ``shift.parquet``, by their names in `Tables`."""


class ShiftFile:
    """A run's ``shift.parquet``, of which a column is read at a time.

    Its rows are those of `clipshift.results.shift_table`: photo by photo in the order of their ids,
    each under every variant in the same order. Iterating gives the names of its columns.

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
        missing = [name for name in ("photo", *VARIANT) if name not in self.names]
        wrong = [n for n in self.names if str(schema.field(n).type) != types.get(n)]
        if missing or wrong:
            column = (missing + wrong)[0]
            raise ValueError(f"{path.name} has no column {column} as clipshift writes it")
        if len(self) % (len(self.variants) or 1):
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
        return pd.MultiIndex.from_frame(first[["augmentation", "severity"]])

    @cached_property
    def photos(self) -> pd.Index:
        """The photos' ids, in order."""
        return pd.Index(self._of_photos("photo"), name="photo")

    @property
    def labels(self) -> pd.Series:
        """The photos' labels, by id."""
        return self._of_photos("label").set_axis(self.photos)

    def by_photo(self, measure: str) -> pd.DataFrame:
        """A measure: one row per photo, one column per variant, float64."""
        with pq.ParquetFile(self.path) as file:  # opens it in half of `read_table`'s time
            column = file.read([measure])[measure].to_numpy()
        values = column.reshape(-1, len(self.variants) or 1).astype(float, order="F")
        return pd.DataFrame(values, self.photos, self.variants)

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
        first = stored.take(pa.array(np.arange(0, len(self), len(self.variants) or 1)))
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
    keys = {name: {"definition": text} for name, text in KEYS.items()}
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
            for key in KEYS.keys() & set(schema.names):  # where the first part has no labels
                schema = schema.set(schema.get_field_index(key), pa.field(key, pa.string()))
            stored = {name: facts.as_json() for name, facts in columns.items() if name in part}
            told = {METADATA: json.dumps(stored, ensure_ascii=False)}
            writer = pq.ParquetWriter(path, schema.with_metadata({**schema.metadata, **told}))
        writer.write_table(pa.Table.from_pandas(part, writer.schema, preserve_index=False))
    if writer is not None:
        writer.close()
