"""Errors under stored corruptions: the mean corruption error, and whether the shift predicts it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from clipshift.results.intervals import spearman_interval

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
SEVERITIES = ("1", "2", "3", "4", "5")


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
    if any(len(errors.get(name, ())) != len(SEVERITIES) for name in ALEXNET_ERROR):
        return float("nan")
    return float(np.mean([np.mean(errors[name]) / e for name, e in ALEXNET_ERROR.items()]))


def corruption_errors(summary: pd.DataFrame, corruptions: Sequence[str]) -> pd.DataFrame:
    """Errors and shifts under stored corruptions.

    Args:
        summary: From `clipshift.results.summarize`.
        corruptions: The names of the stored ones among its augmentations.

    Returns:
        One row per corruption and severity: top-1 ``error`` with its 95 % interval, AlexNet's mean
        ``alexnet_error`` under the corruption, ``relative_error``, the one by the other, and
        ``shift``, the mean of 1 − cosine. Empty without zero-shot accuracies.
    """
    names = ["augmentation", "severity", "error", "ci_low", "ci_high", "alexnet_error",
             "relative_error", "shift", "n"]  # fmt: skip
    stored = summary[summary["augmentation"].isin(corruptions)]
    by_measure = stored.set_index(["augmentation", "severity"]).groupby("measure")
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
    table["relative_error"] = table["error"] / table["alexnet_error"]
    return table.reindex(columns=names)


def errors_by_corruption(table: pd.DataFrame) -> pd.DataFrame:
    """Means over severities of the errors and shifts under stored corruptions.

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


def shift_and_error(table: pd.DataFrame) -> dict[str, float | None]:
    """What follows from the errors under stored corruptions.

    Args:
        table: From `corruption_errors`.

    Returns:
        ``mce``, see `mean_corruption_error`; and ``rho``, Spearman's rank correlation of ``error``
        and ``shift`` over corruptions and severities, with its 95 % interval (``ci_low``,
        ``ci_high``) as if these were drawn at random. None where it cannot be said.
    """
    errors = {
        str(name): list(rows.loc[rows["severity"].isin(SEVERITIES), "error"])
        for name, rows in table.groupby("augmentation")
    }
    found = {
        "mce": mean_corruption_error(errors),
        "rho": np.nan,
        "ci_low": np.nan,
        "ci_high": np.nan,
    }
    pairs = table[["error", "shift"]].dropna()
    if len(pairs) > 3 and (pairs.nunique() > 1).all():
        found["rho"] = float(spearmanr(pairs["error"], pairs["shift"])[0])
        found["ci_low"], found["ci_high"] = spearman_interval(found["rho"], len(pairs))
    return {name: None if np.isnan(value) else value for name, value in found.items()}
