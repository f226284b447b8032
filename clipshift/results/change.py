"""What a summary says of change: the measures that show it, and how far each mean is from none."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from clipshift.measure import Facts
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
    changes = {}
    for name in means:
        facts = columns[str(name)]
        if facts.unchanged is None:
            changes[name] = pd.Series(0.0, means.index)
            continue
        changed = (low[name] > facts.unchanged) | (high[name] < facts.unchanged)
        distance = (means[name] - facts.unchanged).abs().where(changed, 0.0)
        span = facts.high - facts.low
        least = LEAST_CHANGE * (max(span, 1.0) if np.isfinite(span) else 1.0)
        changes[name] = distance / max(distance.max(), least)
    return pd.DataFrame(changes)
