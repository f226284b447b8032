"""Rank augmentations by their shift, with simultaneous intervals of ranks and differences."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.results.intervals import Studentized, holm, spearman, spearman_interval, studentize
from clipshift.results.matching import UNMATCHED, Matching
from clipshift.results.table import Shift, by_photo, labels_of


def shift_matrix(shift: Shift, severity: str) -> pd.DataFrame:
    """The shift 1 − cosine at one severity: one row per photo, one column per augmentation.

    Augmentations under which fewer than two photos have a value are left out.
    """
    cosines = by_photo(shift, "cosine_similarity")
    of_severity = cosines.columns.get_level_values("severity") == severity
    return 1 - cosines.loc[:, of_severity].droplevel("severity", axis=1).dropna(axis=1, thresh=2)


def pairs_of(count: int) -> np.ndarray:
    """The positions of every two of some columns, (pairs, 2)."""
    return np.array(list(combinations(range(count), 2)), int).reshape(-1, 2)


def with_differences(values: np.ndarray) -> np.ndarray:
    """Some columns, and behind them the differences of every two, the first minus the second.

    Args:
        values: One row per photo, one column per augmentation: K of them.

    Returns:
        Shape (photos, K + pairs), the pairs in the order of `pairs_of`: NaN where a photo has no
        value in either column.
    """
    first, second = pairs_of(values.shape[1]).T
    return np.hstack([values, values[:, first] - values[:, second]])


def told_apart(differences: Studentized) -> np.ndarray:
    """The signs of the mean differences of pairs that are told apart, all of them with 95 %.

    Returns:
        1, −1, or 0 where the `Studentized.simultaneous_interval` of a pair includes 0, (pairs,).
    """
    low, high = differences.simultaneous_interval()
    return (low > 0).astype(int) - (high < 0)


def rank_augmentations(
    shift: Shift, seed: int, matching: Matching = UNMATCHED, groups: np.ndarray | None = None
) -> pd.DataFrame:
    """Augmentations from the largest mean shift to the smallest, at each severity.

    An augmentation's rank is at least 1 + the number of those that are significantly above it, and
    at most that of all minus those that are significantly below: by the differences of the same
    photos, at a level that holds for all pairs of the severity at once (`told_apart`), and what is
    above an augmentation is above all below that as well. So all ranks are in their intervals
    together with at least 95 %, also that of an augmentation which was
    chosen because it came first. Source: Mogstad, Romano, Shaikh and Wilhelm, "Inference for ranks
    with applications to mobility across neighbourhoods and academic achievement across countries",
    2024, simultaneous confidence sets.

    A mean is over all photos with a value under its augmentation, a difference over all with a
    value under both.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file, with ``cosine_similarity``.
        seed: Seed of the resampling.
        matching: What intervals at severity ``matched`` hold as well.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.

    Returns:
        One row per (severity, augmentation): ``shift`` (mean 1 − cosine) with ``ci_low`` and
        ``ci_high``; ``rank`` (1: largest) with ``rank_low`` and ``rank_high``; ``difference`` to
        the next in the ranking with ``difference_low`` and ``difference_high`` (NaN for the last),
        of intervals that hold for all pairs at once, as neighbours are chosen by their means;
        ``different``, whether that interval excludes zero; and ``n``, the number of photos with a
        value; ``distortion`` with ``distortion_low`` and ``distortion_high``, which are NaN here
        (`clipshift.evaluate.tables.with_distortion`). Intervals of shifts are `mean_interval`, with
        what ``matching`` adds, as to those of differences.
    """
    tables = []
    for severity in by_photo(shift, "cosine_similarity").columns.unique("severity"):
        matrix = shift_matrix(shift, severity)
        means = matrix.mean().sort_values(ascending=False, kind="stable")
        matrix = matrix[means.index]
        size = len(means)
        if not size:
            continue
        positions = pairs_of(size)
        variants = [(name, severity) for name in means.index]
        values = matching.stratified(matrix.to_numpy(), variants)
        errors = studentize(values, seed, with_differences, groups)
        errors = matching.widened(errors, means.to_numpy(), variants, seed, with_differences)
        low, high = np.clip(errors[:size].interval(), 0, 2)
        differences = errors[size:]
        ranks = rank_intervals(size, positions, told_apart(differences))
        following = positions[:, 1] == positions[:, 0] + 1
        of_pairs = differences.mean, *differences.simultaneous_interval()
        gap, gap_low, gap_high = (np.append(one[following], np.nan) for one in of_pairs)
        columns = {
            "severity": severity,
            "augmentation": means.index,
            "shift": means.to_numpy(),
            "ci_low": low,
            "ci_high": high,
            "rank": np.arange(1, size + 1),
            "rank_low": ranks[0],
            "rank_high": ranks[1],
            "difference": gap,
            "difference_low": gap_low,
            "difference_high": gap_high,
            "different": (gap_low > 0) | (gap_high < 0),
            "n": matrix.count().to_numpy(),
            **dict.fromkeys(("distortion", "distortion_low", "distortion_high"), np.nan),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def rank_intervals(
    size: int, positions: np.ndarray, signs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % intervals of all ranks, 1 for the largest mean: `rank_augmentations`.

    Args:
        size: How many columns are ranked.
        positions: From `pairs_of`.
        signs: From `told_apart`, of these pairs.

    Example:
        >>> rank_intervals(3, pairs_of(3), np.array([1, 1, 0]))
        (array([1, 2, 2]), array([1, 3, 3]))
    """
    first, second = positions.T
    above = np.zeros((size, size), bool)
    above[first, second], above[second, first] = signs > 0, signs < 0
    for middle in range(size):  # what is above it is above all that it is above (Warshall)
        above |= above[:, [middle]] & above[middle]
    return 1 + above.sum(axis=0), size - above.sum(axis=1)


def ranking_agreement(
    shift: Shift,
    severities: tuple[str, str],
    seed: int,
    matching: Matching = UNMATCHED,
    groups: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Kendall's τ between the rankings at two severities, with an interval.

    The interval holds every τ that the photos leave possible: two augmentations whose order is
    told at both severities (`told_apart`, all pairs at both severities at once) are concordant or
    discordant, all others can be either. It covers at least 95 %, mostly more: resampled rankings,
    which copy the order that chance gave to close means, cover less. Source of τ: Kendall, "A new
    measure of rank correlation", 1938; scipy's τ-b.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file.
        severities: The two.
        seed: Seed of the resampling.
        matching: What intervals at severity ``matched`` hold as well.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.

    Returns:
        τ in [−1, 1], and the interval's ends; NaN for fewer than two augmentations.
    """
    from scipy.stats import kendalltau  # takes half a second, which other runs do not need

    first, second = (shift_matrix(shift, severity) for severity in severities)
    names = [name for name in first if name in second]
    pairs = len(pairs_of(len(names)))
    if not pairs:
        return np.nan, np.nan, np.nan
    variants = [(name, severity) for severity in severities for name in names]
    values = np.hstack([first[names].to_numpy(), second[names].to_numpy()])

    def differences(rows: np.ndarray) -> np.ndarray:
        return np.hstack([with_differences(of)[:, len(names) :] for of in np.hsplit(rows, 2)])

    errors = studentize(matching.stratified(values, variants), seed, differences, groups)
    errors = matching.widened(errors, np.nanmean(values, axis=0), variants, seed, differences)
    tau = kendalltau(first[names].mean(), second[names].mean()).statistic
    signs = told_apart(errors)
    order = signs[:pairs] * signs[pairs:]
    certain, open_pairs = order.sum(), (order == 0).sum()
    low, high = (certain - open_pairs) / pairs, (certain + open_pairs) / pairs
    return float(tau), float(np.fmin(low, tau)), float(np.fmax(high, tau))


def correlate(shift: Shift, columns: Mapping[str, Facts]) -> pd.DataFrame:
    """Correlations with the shift over photos: Spearman's ρ with distortion, gaze and the photo.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file, with ``cosine_similarity``.
        columns: What its measured columns are: those with `Facts.correlate` are compared.

    Returns:
        One row per (augmentation, severity, ``with``), where ``with`` is a `Facts.correlate`:
        ``rho`` with `spearman_interval`'s ``ci_low`` and ``ci_high``; ``p``, two-sided, of no
        correlation (`spearman`); ``p_holm``, that after Holm's correction over all rows of the
        severity; and ``n``. NaN for fewer than four photos or where one of both does not vary.
    """
    compared = {name: facts for name, facts in columns.items() if facts.correlate and name in shift}
    cosines = by_photo(shift, "cosine_similarity")
    rows = []
    for order, (column, facts) in enumerate(compared.items()):
        values = by_photo(shift, column)
        for place, variant in enumerate(cosines.columns):
            complete = (cosines[variant].notna() & values[variant].notna()).to_numpy()
            # Only ranks count: −x ranks as 1 − x does, without its rounding.
            moved = -cosines[variant].to_numpy()[complete]
            beside = values[variant].to_numpy()[complete] * (-1 if facts.better == "higher" else 1)
            rho = p = low = high = np.nan
            if len(moved) > 3 and all(one.min() < one.max() for one in (moved, beside)):
                rho, p = spearman(moved, beside)
                low, high = spearman_interval(rho, len(moved))
            row = (*variant, facts.correlate, rho, low, high, p, len(moved))
            rows.append((place, order, row))
    names = ["augmentation", "severity", "with", "rho", "ci_low", "ci_high", "p", "n"]
    table = pd.DataFrame([row for *_, row in sorted(rows)], columns=names)
    corrected = table.groupby("severity")["p"].transform(lambda p: holm(p.to_numpy()))
    table.insert(names.index("n"), "p_holm", corrected)
    return table


def shown_photos(shift: Shift, count: int) -> dict[str, str]:
    """The photos that a page shows: those that moved most and least, and typical ones.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file.
        count: How many.

    Returns:
        ``most``, ``typical`` or ``least`` by photo id, the largest mean of 1 − cosine over a
        photo's views first: a third of each, the typical ones in the middle. All photos where they
        are not more than ``count``; the first ones by id where the cosine was not measured.
    """
    if "cosine_similarity" not in shift:
        return dict.fromkeys(labels_of(shift).index[:count], "typical")
    means = by_photo(shift, "cosine_similarity").mean(axis=1).dropna().sort_values(kind="stable")
    photos = list(means.index)
    third = min(count, len(photos)) // 3
    middle = min(count, len(photos)) - 2 * third
    start = (len(photos) - middle) // 2
    parts = {
        "most": photos[:third],
        "typical": photos[start : start + middle],
        "least": photos[len(photos) - third :],
    }
    return {photo: part for part, chosen in parts.items() for photo in chosen}
