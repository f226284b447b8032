"""Dose and response: the shift as a monotone function of the distortion that views realise."""

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import CONFIDENCE, resampled_sums
from clipshift.results.table import Shift, by_photo

STEPS = 100
"""The number of steps of the grid of distortions, from 0 to the next power of ten."""
INNER = 0.95
"""The share of an augmentation's views, without the least and the most distorted, over which its
curve is shown: at its ends isotonic regression follows single views."""
TAILS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def dose_curves(
    shift: Shift,
    measure: str,
    unchanged: float,
    level: float,
    influence: np.ndarray,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    r"""Isotonic regression of the shift on the distortion, and where it reaches a level.

    The views of an augmentation at all its severities are put on a grid of distortions x, each to
    the nearest of its points. The curve is the rising function f with the least

    .. math::
        \sum_x n_x \, (\bar s_x - f(x))^2

    for the means :math:`\bar s_x` of the shifts 1 − cosine of :math:`n_x` views, linear between
    points with views. Source: Barlow, Bartholomew, Bremner and Brunk, "Statistical inference under
    order restrictions", 1972. Its band and the threshold's interval are percentiles over resampled
    photos, each with all its views and, to first order, with what it changes of the level. On a
    grid that does not become finer with more photos, these errors are those of means; of isotonic
    regression at a point the bootstrap fails (Kosorok, "Bootstrapping the Grenander estimator",
    2008).

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file.
        measure: Its column with the distortion.
        unchanged: The measure of the clean view; the distortion is the distance from it.
        level: The shift whose distortion is the threshold.
        influence: By how much each photo changes the level, photos in the order of ids, (N,): see
            `clipshift.measure.embeddings.distance_quantile`.
        seed: Seed of the resampling.
        groups: The group of each photo, which is resampled whole, integers, (N,).

    Returns:
        Of augmentations with two severities or more, the tables ``dose`` and ``dose_thresholds``,
        whose columns are in ``results/columns.yaml``. Ends beyond the curve are NaN.
    """
    cosines, values = by_photo(shift, "cosine_similarity"), by_photo(shift, measure)
    largest = np.nanmax(np.abs(values.to_numpy() - unchanged), initial=0)
    step = 10 ** np.ceil(np.log10(largest or 1)) / STEPS
    curves, thresholds = [], []
    for name in cosines.columns.unique("augmentation"):
        moved = 1 - cosines[name].to_numpy()
        distortion = np.abs(values[name].to_numpy() - unchanged)
        views = np.isfinite(moved) & np.isfinite(distortion)
        if views.shape[1] < 2 or not views.any():
            continue
        nearest = np.rint(np.where(views, distortion, 0) / step).astype(int)
        first, last = np.quantile(nearest[views], [0.5 - INNER / 2, 0.5 + INNER / 2]).astype(int)
        grid = np.arange(first, last + 1)
        by_dose = [_on_grid(nearest, of) for of in (views, np.where(views, moved, 0))]
        sums = resampled_sums(np.hstack([*by_dose, influence[:, None]]), seed, groups)
        fits = np.stack([_rising(row[:-1].reshape(2, -1), grid) for row in sums])
        levels = level + (sums[:, -1] - sums[0, -1]) / len(moved)
        pairs = zip(levels, fits, strict=True)
        beyond = {"left": -np.inf, "right": np.inf}
        reached = step * np.array([np.interp(at, fit, grid, **beyond) for at, fit in pairs])
        low, high = np.quantile(fits[1:], TAILS, axis=0)
        points = {"distortion": step * grid, "mean": fits[0], "ci_low": low, "ci_high": high}
        curves.append(pd.DataFrame({"augmentation": name, **points}))
        ends = np.quantile(reached[1:], TAILS, method="nearest")
        reasons = {
            np.inf: f"not reached up to a distortion of {step * last:.2g}",
            -np.inf: f"exceeded from a distortion of {step * first:.2g} on",
        }
        partly = "" if np.isfinite(ends).all() else "its interval exceeds the measured distortions"
        reason = reasons.get(reached[0], partly)
        count = views.any(axis=1).sum()
        thresholds.append((name, measure, level, reached[0], *ends, reason, count))
    table = pd.DataFrame(thresholds, columns=list(DEFINITIONS["dose_thresholds"]))
    curve = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    return curve, table.replace([np.inf, -np.inf], np.nan)


def _on_grid(nearest: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sums of each photo's values at the points of the grid, (N, S) → (N, points)."""
    table = np.zeros((len(values), STEPS + 1))
    np.add.at(table, (np.arange(len(values))[:, None], nearest), values)
    return table


def _rising(sums: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The isotonic regression at points of a grid, from the views and their shifts at all, (2, …).

    Flat beyond its ends.
    """
    views, moved = sums
    points = views.nonzero()[0]
    fit = isotonic_regression(moved[points] / views[points], weights=views[points])
    return np.interp(grid, points, fit.x)
