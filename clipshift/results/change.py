"""How far each mean of a summary is from no change, and which measures show a change."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.results.table import pivot

LEAST_CHANGE = 0.05
"""The largest change of a measure counts as at least this share of its range, or of 1."""


def shown_measures(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> list[str]:
    """The measures of a summary that tell of a shift: of embeddings first, of pixels last."""
    spaces = ["embedding", "text", "gaze", "aligned gaze", "pixels"]
    measures = [m for m in summary["measure"].unique() if columns[m].space in spaces]
    return sorted(measures, key=lambda m: spaces.index(columns[m].space))


def augmentations_by_shift(summary: pd.DataFrame) -> list[str]:
    """Augmentations by their cosine over all severities, the largest shift first."""
    rows = summary[summary["measure"] == "cosine_similarity"]
    if rows.empty:
        return list(summary["augmentation"].unique())
    return list(rows.groupby("augmentation")["mean"].mean().sort_values(kind="stable").index)


def normalized_change(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> pd.DataFrame:
    """How far each mean is from no change, in shares of its measure's farthest.

    0 where the interval includes no change, or where a measure has no value for it.

    Args:
        summary: One severity's means with intervals.
        columns: What the measures are.

    Returns:
        One row per augmentation, one column per measure, in [0, 1].
    """
    means, low, high = (pivot(summary, column) for column in ("mean", "ci_low", "ci_high"))
    facts = {name: columns[str(name)] for name in means}
    unchanged = pd.Series({name: one.unchanged for name, one in facts.items()}, dtype=float)
    ranges = pd.Series({name: one.high - one.low for name, one in facts.items()}, dtype=float)
    least = LEAST_CHANGE * ranges.clip(lower=1.0).where(np.isfinite(ranges), 1.0)
    changed = (low > unchanged) | (high < unchanged)
    distances = (means - unchanged).abs().where(changed, 0.0)
    return distances / distances.max().clip(lower=least)
