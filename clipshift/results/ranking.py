"""Rankings of augmentations by their shift, with what the choice of photos leaves open."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata, spearmanr

from clipshift.results.table import CONFIDENCE, RESAMPLES

CAUSES = {
    "rmse": "RMSE",
    "ssim": "1 − SSIM",
    "gaze_divergence": "gaze divergence",
    "edge_preservation": "edge loss",
    "detail_preservation": "detail loss",
    "brightness": "brightness of the photo",
    "contrast": "contrast of the photo",
}
"""What a shift is compared with; similarities are turned round, so that more is more lost."""
LOSSES = {"ssim", "edge_preservation", "detail_preservation"}


def shift_matrix(shift: pd.DataFrame, severity: str) -> pd.DataFrame:
    """The shift 1 − cosine at one severity: a row a photo, a column an augmentation, in order."""
    rows = shift[shift["severity"] == severity]
    matrix = rows.pivot(index="photo", columns="augmentation", values="cosine_similarity")
    return 1 - matrix[rows["augmentation"].unique()]


def resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of 1000 bootstrap samples of photos, the same photos for all columns.

    Args:
        values: (photos, columns).
        seed: Seed of the resampling.

    Returns:
        (1000, columns).
    """
    rng = np.random.default_rng(seed)
    count = len(values)
    return np.stack([values[rng.integers(count, size=count)].mean(0) for _ in range(RESAMPLES)])


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval of bootstrap samples, along the first axis."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def rank_augmentations(shift: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Augmentations from the largest mean shift to the smallest, at each severity.

    All intervals are 95 % percentile bootstrap intervals over photos (Efron, 1979), and paired:
    every resample takes the same photos for all augmentations.

    Args:
        shift: From `clipshift.results.shift_table`, with ``cosine_similarity``.
        seed: Seed of the resampling.

    Returns:
        A row per (severity, augmentation): ``shift`` (mean 1 − cosine) with ``ci_low`` and
        ``ci_high``; ``rank`` (1: largest) with ``rank_low`` and ``rank_high``; ``difference`` to
        the next in the ranking with ``difference_low`` and ``difference_high`` (NaN for the last);
        and ``different``, whether that interval excludes zero.
    """
    tables = []
    for severity in shift["severity"].unique():
        matrix = shift_matrix(shift, severity).dropna()
        if len(matrix) < 2:
            continue
        means = matrix.mean()
        order = means.sort_values(ascending=False, kind="stable").index
        samples = resampled_means(matrix[order].to_numpy(), seed)
        low, high = interval(samples)
        rank_low, rank_high = interval(rankdata(-samples, axis=1, method="min"))
        gap_low, gap_high = interval(samples[:, :-1] - samples[:, 1:])
        tables.append(
            pd.DataFrame(
                {
                    "severity": severity,
                    "augmentation": order,
                    "shift": means[order].to_numpy(),
                    "ci_low": low,
                    "ci_high": high,
                    "rank": np.arange(1, len(order) + 1),
                    "rank_low": rank_low.round().astype(int),
                    "rank_high": rank_high.round().astype(int),
                    "difference": np.append(-np.diff(means[order]), np.nan),
                    "difference_low": np.append(gap_low, np.nan),
                    "difference_high": np.append(gap_high, np.nan),
                    "different": np.append((gap_low > 0) | (gap_high < 0), False),
                }
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def ranking_agreement(
    shift: pd.DataFrame, severities: tuple[str, str], seed: int
) -> tuple[float, float, float]:
    """Kendall's τ between the rankings at two severities, with its 95 % bootstrap interval.

    Source: Kendall, "A new measure of rank correlation", 1938; scipy's τ-b.

    Args:
        shift: From `clipshift.results.shift_table`.
        severities: The two.
        seed: Seed of the resampling.

    Returns:
        τ in [−1, 1], and the interval's ends. Both rankings are resampled with the same photos.
    """
    first, second = (shift_matrix(shift, severity) for severity in severities)
    names = [name for name in first if name in second]
    both = pd.concat([first[names], second[names]], axis=1).dropna().to_numpy()
    k = len(names)
    samples = resampled_means(both, seed)
    taus = np.array([kendalltau(row[:k], row[k:]).statistic for row in samples])
    low, high = interval(taus)
    means = both.mean(axis=0)
    return float(kendalltau(means[:k], means[k:]).statistic), float(low), float(high)


def correlate(shift: pd.DataFrame) -> pd.DataFrame:
    """What goes with the shift over photos: Spearman's ρ with distortion, gaze and the photo.

    The 95 % interval is Fisher's, with the variance of Bonett and Wright ("Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations", 2000): tanh(artanh ρ ± 1.96 ·
    √((1 + ρ²/2) / (n − 3))).

    Args:
        shift: From `clipshift.results.shift_table`, with ``cosine_similarity``.

    Returns:
        A row per (augmentation, severity, cause): ``cause`` (a column of the table; of
        similarities, what is lost), ``rho``, ``ci_low``, ``ci_high`` and ``n``. NaN for fewer than
        four photos or where one of both does not vary.
    """
    rows = []
    for (name, severity), group in shift.groupby(["augmentation", "severity"], sort=False):
        for cause in (cause for cause in CAUSES if cause in group):
            pair = group[["cosine_similarity", cause]].dropna()
            moved = 1 - pair["cosine_similarity"]
            other = 1 - pair[cause] if cause in LOSSES else pair[cause]
            varied = len(pair) > 3 and moved.nunique() > 1 and other.nunique() > 1
            rho = float(spearmanr(moved, other).statistic) if varied else np.nan
            low, high = spearman_interval(rho, len(pair)) if varied else (np.nan, np.nan)
            rows.append((name, severity, cause, rho, low, high, len(pair)))
    columns = ["augmentation", "severity", "cause", "rho", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def spearman_interval(rho: float, n: int) -> tuple[float, float]:
    """The 95 % interval of Spearman's ρ over n pairs (Bonett and Wright, 2000)."""
    if abs(rho) >= 1:
        return rho, rho
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = np.arctanh(rho)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def extreme_photos(shift: pd.DataFrame, count: int) -> dict[str, list[tuple[str, str, str]]]:
    """The photos that moved most and least over all variants, and the variant that moved each most.

    Args:
        shift: From `clipshift.results.shift_table`.
        count: How many of each; fewer where there are not twice as many photos.

    Returns:
        Under ``most`` and ``least``: (photo, augmentation, severity), the photo of the largest or
        smallest mean of 1 − cosine over its views first, each with its view of the lowest cosine.
    """
    moved = shift.dropna(subset="cosine_similarity")
    means = moved.groupby("photo")["cosine_similarity"].mean().sort_values(kind="stable")
    count = min(count, len(means) // 2)
    chosen: Mapping[str, list[str]] = {
        "most": list(means.index[:count]),
        "least": list(means.index[::-1][:count]),
    }
    top = moved.sort_values("cosine_similarity", kind="stable").groupby("photo").head(1)
    top = top.set_index("photo")
    return {
        side: [(p, str(top.augmentation[p]), str(top.severity[p])) for p in photos]
        for side, photos in chosen.items()
    }
