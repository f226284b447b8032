"""Errors under corruptions: the mean corruption error, and whether the shift predicts it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import mean_interval, spearman, spearman_interval
from clipshift.results.table import Shift, by_photo
from clipshift.severities import LADDER

ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error under each corruption of ImageNet-C, the mean over its five severities:
``ALEXNET_ERR`` in ``imagenet.py`` of github.com/google-research/augmix (Hendrycks et al., "AugMix",
2020), from github.com/hendrycks/robustness."""


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    r"""The mean corruption error of ImageNet-C, a share; papers print it in per cent.

    .. math::
        \mathrm{mCE} = \frac{1}{15} \sum_c
            \Big(\sum_s E_{s,c} \Big/ \sum_s E^{\mathrm{AlexNet}}_{s,c}\Big)

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", 2019, section 4.2.

    Args:
        errors: Top-1 errors at severity 1 to 5, by corruption. Those beyond ImageNet-C's fifteen,
            as its four extra ones, do not count.

    Returns:
        1 for AlexNet; NaN where a corruption or a severity is missing.

    Example:
        >>> round(mean_corruption_error({c: [e] * 5 for c, e in ALEXNET_ERROR.items()}), 6)
        1.0
    """
    if any(len(errors.get(name, ())) != len(LADDER) for name in ALEXNET_ERROR):
        return float("nan")
    return float(np.mean([np.mean(errors[name]) / e for name, e in ALEXNET_ERROR.items()]))


def corruption_errors(summary: pd.DataFrame, corruptions: Sequence[str]) -> pd.DataFrame:
    """Errors and shifts under stored or generated corruptions.

    Args:
        summary: From `clipshift.results.table.summarize`.
        corruptions: The names of these among its augmentations.

    Returns:
        One row per corruption and severity: top-1 ``error`` with its 95 % interval, AlexNet's mean
        ``alexnet_error`` under the corruption, ``relative_error``, the one by the other, with its
        interval (``relative_low``, ``relative_high``), AlexNet's being given, and ``shift``, the
        mean of 1 − cosine. Empty without zero-shot accuracies.
    """
    names = list(DEFINITIONS["corruption_error"])
    rows = summary[summary["augmentation"].isin(corruptions)]
    by_measure = rows.set_index(["augmentation", "severity"]).groupby("measure")
    if "zero_shot_top1" not in by_measure.groups:
        return pd.DataFrame(columns=names)
    accuracy = by_measure.get_group("zero_shot_top1")
    table = accuracy[["n"]].copy()
    table["error"] = 1 - accuracy["mean"]
    table["ci_low"], table["ci_high"] = 1 - accuracy["ci_high"], 1 - accuracy["ci_low"]
    if "cosine_similarity" in by_measure.groups:
        table["shift"] = 1 - by_measure.get_group("cosine_similarity")["mean"]
    table = table.reset_index()
    table["alexnet_error"] = table["augmentation"].map(ALEXNET_ERROR)
    ends = {"relative_error": "error", "relative_low": "ci_low", "relative_high": "ci_high"}
    for name, of in ends.items():
        table[name] = table[of] / table["alexnet_error"]
    return table.reindex(columns=names)


def errors_by_corruption(table: pd.DataFrame) -> pd.DataFrame:
    """Means over severities of the errors and shifts under corruptions.

    Args:
        table: From `corruption_errors`.

    Returns:
        One row per corruption, the largest error first: its number of ``severities``, and means of
        ``error``, ``relative_error`` (its part in the mean corruption error, where AlexNet's error
        is known) and ``shift``.
    """
    grouped = table.groupby("augmentation", sort=False)
    means = grouped[["error", "relative_error", "shift"]].mean()
    means.insert(0, "severities", grouped.size())
    return means.sort_values("error", ascending=False, kind="stable").reset_index()


def corruption_error_interval(shift: Shift, seed: int) -> tuple[float, float]:
    r"""The 95 % interval of the mean corruption error over photos.

    All photos are seen under all corruptions, and AlexNet's errors are given. So the mean
    corruption error is a mean over photos, with `mean_interval`, of

    .. math::
        \psi_i = \frac{1}{15} \sum_c \frac{1}{5} \sum_s e_{i,s,c} \Big/ E^{\mathrm{AlexNet}}_c

    with the error e of photo i, 0 or 1. Where one has no value, it counts as the mean of the
    others.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file, with ``zero_shot_top1``
            under all corruptions and severities.
        seed: Seed of the resampling.
    """
    errors = 1 - by_photo(shift, "zero_shot_top1")
    named = [(name, severity) for name in ALEXNET_ERROR for severity in LADDER]
    errors = errors[named].dropna(how="all")
    relative = errors.fillna(errors.mean()) / [ALEXNET_ERROR[name] for name, _ in named]
    low, high = mean_interval(relative.mean(axis=1).to_numpy(), seed)
    return max(float(low), 0.0), float(high)


def shift_and_error(table: pd.DataFrame, shift: Shift, seed: int) -> dict[str, float | None]:
    """What follows from the errors under corruptions.

    Args:
        table: From `corruption_errors`.
        shift: From `clipshift.results.table.shift_table`, or its file.
        seed: Seed of the resampling.

    Returns:
        ``mce``, see `mean_corruption_error`, with its 95 % interval over photos (``mce_low``,
        ``mce_high``). ``rho``: Spearman's rank correlation of ``error`` and ``shift`` over ``n``
        corruptions, of their means over severities, with its 95 % interval (``ci_low``,
        ``ci_high``) as if the corruptions were drawn at random. ``rho_within``: that over the
        severities of one corruption, the mean over the ``n_within`` that have at least three. None
        where it cannot be said.
    """
    errors = {
        str(name): list(rows.loc[rows["severity"].isin(LADDER), "error"])
        for name, rows in table.groupby("augmentation")
    }
    results = {"mce": mean_corruption_error(errors)}
    complete = not np.isnan(results["mce"])
    ends = corruption_error_interval(shift, seed) if complete else (np.nan, np.nan)
    results["mce_low"], results["mce_high"] = ends
    means = errors_by_corruption(table)
    results["rho"], count = _correlation(means)
    results["ci_low"], results["ci_high"] = (
        (np.nan, np.nan) if np.isnan(results["rho"]) else spearman_interval(results["rho"], count)
    )
    steps = [_correlation(rows, least=3)[0] for _, rows in table.groupby("augmentation")]
    steps = [rho for rho in steps if not np.isnan(rho)]
    results["rho_within"] = float(np.mean(steps)) if steps else np.nan
    numbers = {name: None if np.isnan(value) else value for name, value in results.items()}
    return numbers | {"n": count, "n_within": len(steps)}


def _correlation(rows: pd.DataFrame, least: int = 4) -> tuple[float, int]:
    """Spearman's ρ of error and shift, NaN where it cannot be said, and over how many rows."""
    pairs = rows[["error", "shift"]].dropna()
    if len(pairs) < least or not (pairs.nunique() > 1).all():
        return np.nan, len(pairs)
    return spearman(pairs["error"], pairs["shift"])[0], len(pairs)
