"""The tables of a run: one row per photo and variant, and means over photos with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipshift.augment import Variant
from clipshift.data import Photo
from clipshift.measure import Facts
from clipshift.results.intervals import mean_interval, relative_shift_values, share_interval
from clipshift.results.measured import Measured

KEYS = ["photo", "label", "augmentation", "severity"]


def shift_table(
    measured: Measured, photos: Sequence[Photo], variants: Mapping[str, Variant]
) -> pd.DataFrame:
    """One row per photo and variant, in an order that does not depend on how they were measured.

    Args:
        measured: What was measured.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.

    Returns:
        Columns ``photo, label, augmentation, severity`` and one per measure; sorted by photo id,
        and within a photo in the order of the run's variants.
    """
    names = list(dict.fromkeys(name for name, _ in measured.values))
    measures = list(dict.fromkeys(measure for _, measure in measured.values))
    parts = [
        pd.DataFrame(
            {
                "photo": [photos[index].id for index in measured.index],
                "label": [photos[index].label for index in measured.index],
                "augmentation": variants[name].name,
                "severity": variants[name].severity,
                "rank": rank,
            }
            | {measure: measured.values[name, measure] for measure in measures}
        )
        for rank, name in enumerate(names)
    ]
    if not parts:
        return pd.DataFrame(columns=KEYS)
    table = pd.concat(parts).sort_values(["photo", "rank"], ignore_index=True)
    return table.drop(columns="rank").astype({name: "str" for name in KEYS if name != "label"})


def summarize(shift: pd.DataFrame, columns: Mapping[str, Facts], seed: int) -> pd.DataFrame:
    """Means over photos with 95 % intervals of the measure's kind.

    Shares have `share_interval`, all others `mean_interval`, cut off at the measure's range; that
    of ``relative_shift`` lets the spread vary (`relative_shift_values`).

    Args:
        shift: From `shift_table`.
        columns: What the measured columns are. Those of which more is neither better nor worse, as
            a photo's brightness, are no measures.
        seed: Seed of the resampling.

    Returns:
        One row per (augmentation, severity, measure): ``mean``, ``std`` (of a photo, N − 1),
        ``ci_low``, ``ci_high`` and ``n``, the number of photos with a value.
    """
    measures = [name for name in shift if name in columns and columns[name].better]
    ranges = [(columns[measure].low, columns[measure].high) for measure in measures]
    parts = []
    for (augmentation, severity), group in shift.groupby(["augmentation", "severity"], sort=False):
        values = group[measures].astype(float)
        influence = values.copy()
        if "relative_shift" in measures:
            influence["relative_shift"] = relative_shift_values(
                values["relative_shift"].to_numpy(), group["distance_to_others"].to_numpy(float)
            )
        low, high = np.clip(mean_interval(influence.to_numpy(), seed), *np.transpose(ranges))
        for column, measure in enumerate(measures):
            if columns[measure].is_share:
                low[column], high[column] = share_interval(values[measure].dropna().to_numpy())
        parts.append(
            pd.DataFrame(
                {
                    "augmentation": augmentation,
                    "severity": severity,
                    "measure": measures,
                    "mean": values.mean().to_numpy(),
                    "std": values.std(ddof=1).to_numpy(),
                    "ci_low": low,
                    "ci_high": high,
                    "n": values.count().to_numpy(),
                }
            )
        )
    names = ["augmentation", "severity", "measure", "mean", "std", "ci_low", "ci_high", "n"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def distance_tables(
    measured: Measured, photos: Sequence[Photo], names: Sequence[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean distances between the views of one photo under every two variants, and their intervals.

    Args:
        measured: What was measured.
        photos: The run's photos.
        names: View names of the K variants.
        seed: Seed of the resampling.

    Returns:
        The means and the ends of their 95 % intervals (`mean_interval`), low and high, each K × K
        with names; zero on the diagonal.
    """
    pairs = len(names) * (len(names) - 1) // 2
    order = order_of_photos(measured, photos)
    values = measured.distances[order] if order else np.empty((0, pairs), np.float32)
    upper = np.triu_indices(len(names), 1)

    def table(ends: np.ndarray) -> pd.DataFrame:
        matrix = np.zeros((len(names), len(names)))
        matrix[upper] = ends
        return pd.DataFrame(
            matrix + matrix.T, index=pd.Index(names, name="augmentation"), columns=list(names)
        )

    means = np.nanmean(values, axis=0, dtype=float) if order else np.full(pairs, np.nan)
    low, high = np.clip(mean_interval(values, seed), 0, 2)
    return table(means), table(low), table(high)


def order_of_photos(measured: Measured, photos: Sequence[Photo]) -> list[int]:
    """The rows of what was measured in the order of photo ids, in which tables have them."""
    return sorted(range(len(measured.index)), key=lambda row: photos[int(measured.index[row])].id)


def pivot(summary: pd.DataFrame, column: str = "mean") -> pd.DataFrame:
    """One column of a summary as a matrix: one row per augmentation, one column per measure."""
    matrix = summary.pivot(index="augmentation", columns="measure", values=column)
    return matrix.loc[summary["augmentation"].unique(), summary["measure"].unique()]


def skipped_table(measured: Measured, photos: Sequence[Photo]) -> pd.DataFrame:
    """One row per photo that could not be read: ``photo``, ``reason``."""
    rows = sorted((photos[skipped.index].id, skipped.reason) for skipped in measured.skipped)
    return pd.DataFrame(rows, columns=["photo", "reason"])
