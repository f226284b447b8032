r"""Whether a classifier's confidence can be trusted: calibration, and selective classification.

Of N photos each function takes ``confidence``, the largest class probability, and ``hit``, 1 where
the class was right and 0 where it was not (in between where classes tie), both of shape (N,) and
without NaN, N ≥ 1. Those whose names end in ``_values`` return values ψ, float64, (N,), whose mean
is the measure, and whose variation is that of the measure to first order, so that its interval is
one of a mean over photos (Hampel, "The influence curve and its role in robust estimation", 1974).
"""

import numpy as np
import pandas as pd

BINS = 15
"""Number of bins of the expected calibration error."""


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each photo: the m-th holds ((m − 1) / `BINS`, m / `BINS`]."""
    return np.asarray(np.searchsorted(np.arange(1, BINS) / BINS, confidence))


def calibration_values(confidence: np.ndarray, hit: np.ndarray) -> np.ndarray:
    r"""Expected calibration error, over `BINS` bins of equal width.

    .. math::
        \mathrm{ECE} = \sum_b \frac{n_b}{N} |\bar c_b - \bar h_b|, \quad
        \psi_i = \operatorname{sign}(\bar c_b - \bar h_b) \, (c_i - h_i)

    with the mean confidence and the share of hits of the photos in a bin. Source: Guo et al., "On
    calibration of modern neural networks", 2017 (arXiv 1706.04599), eq. 3.

    Example:
        >>> confidence, hit = np.array([0.9, 0.9, 0.5]), np.array([1.0, 0.0, 1.0])
        >>> calibration_values(confidence, hit).mean().round(3)
        np.float64(0.433)
    """
    bins, gap = _bins(confidence), confidence - hit
    return np.asarray(np.sign(np.bincount(bins, gap)[bins]) * gap)


def calibration_noise(confidence: np.ndarray, hit: np.ndarray) -> float:
    r"""How much of an expected calibration error noise alone makes, at most.

    .. math::
        \sqrt{2 / \pi} \, \frac{1}{N} \sum_b \sqrt{n_b} s_b

    with the standard deviation s of the gaps c − h of a bin's n photos. Of a bin without a true gap
    the mean gap is normal about 0, and this is the mean of its absolute value; where there is a
    true gap, noise adds less. The error of a sample is too large by at most this, on average.

    Example:
        >>> round(calibration_noise(np.full(200, 0.5), np.arange(200.0) % 2), 3)
        0.028
    """
    gaps = pd.Series(confidence - hit).groupby(_bins(confidence))
    # one photo does not tell how much hits vary: at most by 0.5
    spread = (gaps.std() * np.sqrt(gaps.size())).fillna(0.5)
    return float(np.sqrt(2 / np.pi) * spread.sum() / len(confidence))


def risk_coverage_values(confidence: np.ndarray, hit: np.ndarray) -> np.ndarray:
    r"""Area under the risk–coverage curve: the mean error of the k most confident, over all k.

    .. math::
        \mathrm{AURC} = \frac{1}{N} \sum_{k=1}^N \frac{1}{k} \sum_{i \le k} e_i, \quad
        \psi_i = e_i \sum_{k \ge i} \frac{1}{k} - \sum_{k \ge i} \frac{e_k}{k} + \bar e

    of the errors e = 1 − h, the most confident first; its mean over all orders of photos whose
    confidence ties. Source: Geifman and El-Yaniv, "Selective classification for deep neural
    networks", 2017 (arXiv 1705.08500); the area, Geifman, Uziel and El-Yaniv, "Bias-reduced
    uncertainty estimation for deep neural classifiers", 2019 (arXiv 1805.08206).

    Example:
        >>> values = risk_coverage_values(np.array([0.9, 0.8, 0.7]), np.array([1.0, 0.0, 1.0]))
        >>> values.mean().round(3)
        np.float64(0.278)
    """
    order = np.argsort(-confidence, kind="stable")
    ties = pd.Series(-confidence[order])
    error = pd.Series(1 - hit[order])
    expected = error.groupby(ties).transform("mean")
    rank = np.arange(1, len(order) + 1)
    later = pd.DataFrame({"weight": 1 / rank, "error": expected / rank})[::-1].cumsum()[::-1]
    later = later.groupby(ties).transform("mean")
    values = np.empty(len(order))
    values[order] = error * later["weight"] - later["error"] + error.mean()
    return values


def auroc_values(confidence: np.ndarray, hit: np.ndarray) -> np.ndarray:
    r"""Probability that a right answer is more confident than a wrong one, ties counting half.

    .. math::
        A = \frac{1}{N_+ N_-} \sum_{i, j} h_i (1 - h_j) \big([c_i > c_j] +
        \tfrac{1}{2} [c_i = c_j]\big), \quad
        \psi_i = A + \frac{N}{N_+} h_i (a_i - A) + \frac{N}{N_-} (1 - h_i) (b_i - A)

    with the share a of wrong answers below c, and b of right ones above it. Source: DeLong, DeLong
    and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", 1988; of confidence, Hendrycks and Gimpel,
    2017 (arXiv 1610.02136).

    Returns:
        ψ; NaN where fewer than two answers are right, or wrong: nobody knows how one would vary.

    Example:
        >>> auroc_values(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])).mean()
        np.float64(0.75)
    """
    right, wrong = hit.sum(), (1 - hit).sum()
    if min(right, wrong) < 2:
        return np.full(len(hit), np.nan)
    _, level = np.unique(confidence, return_inverse=True)
    of_right, of_wrong = np.bincount(level, hit), np.bincount(level, 1 - hit)
    below = ((of_wrong.cumsum() - of_wrong / 2) / wrong)[level]
    above = (1 - (of_right.cumsum() - of_right / 2) / right)[level]
    area = (hit * below).sum() / right
    share = right / len(hit)
    change = hit * (below - area) / share + (1 - hit) * (above - area) / (1 - share)
    return np.asarray(area + change)
