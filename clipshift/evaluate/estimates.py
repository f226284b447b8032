"""Tables of numbers that are means over photos, each with its 95 % interval."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import mean_interval, share_interval, unit_interval
from clipshift.results.table import PhotoSample


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: Its columns' values but for ``ci_low`` and ``ci_high``, in their order.
        photos: Which photos it is of, in the order of ids, boolean, shape (N,).
        values: What each of these adds to the mean that the interval is of.
        limits: Where the interval is cut off.
        kind: Of the interval, one of `INTERVALS`; empty for none.
    """

    cells: tuple[Any, ...]
    photos: np.ndarray
    values: Any
    limits: tuple[float, float] = (-np.inf, np.inf)
    kind: str = "mean"


INTERVALS: dict[str, Callable[..., Any]] = {
    "mean": mean_interval,
    "unit": unit_interval,
    "share": lambda values, _, groups: np.transpose(
        [share_interval(column, groups) for column in values.T]
    ),
}
"""What makes intervals of the columns of values, (N, C), a seed, and the photos' groups."""


def estimate_table(name: str, rows: Iterable[Row], sample: PhotoSample) -> pd.DataFrame:
    """A table with ``ci_low`` and ``ci_high``, all its rows resampled together.

    Args:
        name: The table's name.
        rows: Its rows; there may be none.
        sample: The photos that they are of.
    """
    listed, names = list(rows), list(DEFINITIONS[name])
    if not listed:
        return pd.DataFrame(columns=names, dtype=float)
    values = np.full((len(listed[0].photos), len(listed)), np.nan)
    for column, row in enumerate(listed):
        values[row.photos, column] = row.values
    kinds, ends = np.array([row.kind for row in listed]), np.full((2, len(listed)), np.nan)
    for kind in set(kinds) & set(INTERVALS):
        of_kind = values[:, kinds == kind]
        ends[:, kinds == kind] = INTERVALS[kind](of_kind, sample.seed, sample.groups)
    low, high = np.clip(ends, *np.transpose([row.limits for row in listed]))
    others = [column for column in names if column not in ("ci_low", "ci_high")]
    table = pd.DataFrame([row.cells for row in listed], columns=others)
    return table.assign(ci_low=low, ci_high=high)[names]


def ends_of(name: str, ends: Any) -> dict[str, Any]:
    """The lower and the upper ends of intervals, by the names of their columns."""
    return dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))


def interval_rows(
    sample: PhotoSample,
    values: np.ndarray,
    photos: Collection[int] | None = None,
    **levels: Sequence[Any],
) -> pd.DataFrame:
    """Means over photos with intervals, a row for each combination of levels.

    Args:
        sample: The photos.
        values: Shape (N, …), photos in the order of ids, with an axis for each level.
        photos: The indices of the N photos; None: all.
        levels: The values of each column.

    Returns:
        The levels, ``mean``, ``ci_low``, ``ci_high``, and ``n``, the number of photos with a value.
    """
    columns = values.reshape(len(values), -1)
    low, high = sample.mean_interval(columns, photos)
    numbers = {"mean": pd.DataFrame(columns).mean().to_numpy(), "ci_low": low, "ci_high": high}
    numbers["n"] = np.isfinite(columns).sum(axis=0)
    index = pd.MultiIndex.from_product(levels.values(), names=list(levels))
    return pd.DataFrame(numbers, index).reset_index()
