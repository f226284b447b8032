"""The tables of a run: a row a photo, and means with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from clipshift.augment import Variant
from clipshift.data import Photo
from clipshift.results.measured import Measured

KEYS = ["photo", "label", "augmentation", "severity"]
PHOTO = ["brightness", "contrast"]
"""Columns that tell of the clean photo and not of a shift: mean and standard deviation of luma."""
LOWER_IS_BETTER = {
    "l2_distance",
    "rmse",
    "relative_shift",
    "gaze_divergence",
    "gaze_divergence_aligned",
    "gaze_entropy_change",
    "zero_shot_flip",
}
"""Measures that are 0, and smallest, where nothing changed."""
CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass
class Tables:
    """A run's tables and facts, as written to its folder.

    Attributes:
        shift: A row per photo, augmentation and severity.
        summary: Means with intervals.
        distances: Distances between variants.
        distances_half: Half the widths of their 95 % intervals.
        ranking: Augmentations by their shift; empty where the cosine was not measured.
        correlations: What goes with the shift; empty likewise.
        layers: Shift by layer; empty where not asked for.
        skipped: Photos that could not be read.
        agreement: Kendall's τ between the rankings at the paper's and at matched severities, with
            its interval; None where a run has not both.
        facts: Provenance.
    """

    shift: pd.DataFrame
    summary: pd.DataFrame
    distances: pd.DataFrame
    distances_half: pd.DataFrame
    ranking: pd.DataFrame
    correlations: pd.DataFrame
    layers: pd.DataFrame
    skipped: pd.DataFrame
    agreement: tuple[float, float, float] | None
    facts: dict[str, Any]


def shift_table(
    measured: Measured, photos: Sequence[Photo], variants: Mapping[str, Variant]
) -> pd.DataFrame:
    """A row per photo and variant, in an order that does not depend on how they were measured.

    Args:
        measured: What was measured.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.

    Returns:
        Columns ``photo, label, augmentation, severity`` and one a measure, sorted by photo id, and
        within a photo in the order of the run's variants.
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


def summarize(shift: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Means over photos, with 95 % percentile bootstrap intervals (Efron, 1979; 1000 resamples).

    All measures and augmentations are resampled with the same photos.

    Args:
        shift: From `shift_table`.
        seed: Seed of the resampling.

    Returns:
        A row per (augmentation, severity, measure): ``mean``, ``std`` (of a photo, N − 1),
        ``ci_low``, ``ci_high`` and ``n``, the number of photos with a value. The interval is NaN
        for fewer than two.
    """
    rows = []
    for (augmentation, severity), group in shift.groupby(["augmentation", "severity"], sort=False):
        for measure in group.columns.difference(KEYS + PHOTO, sort=False):
            values = group[measure].dropna().to_numpy(float)
            low, high = mean_interval(values, seed)
            rows.append(
                {
                    "augmentation": augmentation,
                    "severity": severity,
                    "measure": measure,
                    "mean": values.mean() if len(values) else np.nan,
                    "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "ci_low": low,
                    "ci_high": high,
                    "n": len(values),
                }
            )
    columns = ["augmentation", "severity", "measure", "mean", "std", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def pivot(summary: pd.DataFrame, column: str = "mean") -> pd.DataFrame:
    """One column of a summary as a matrix: a row an augmentation, a column a measure, in order."""
    matrix = summary.pivot(index="augmentation", columns="measure", values=column)
    return matrix.loc[summary["augmentation"].unique(), summary["measure"].unique()]
