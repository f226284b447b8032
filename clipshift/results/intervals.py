"""Uncertainty: every interval and every p-value of a table is made here, over photos.

All intervals are meant to cover 95 %. Means, and all that is a mean over photos, have bootstrap-t
intervals; shares have Wilson's. Where photos come in groups, as classes are, intervals take the
groups as drawn at random, and not the photos. How often each covers in simulation:
docs/protocol.md, "Intervals", made by benchmarks/coverage.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from clipshift.results.info import Resampled

CONFIDENCE = 0.95
RESAMPLES = 2000
Z = ndtri((1 + CONFIDENCE) / 2)
"""The normal quantile of a two-sided interval, 1.96."""
ERROR_FLOOR = 0.2
"""The least standard error of a resample, as a share of that of all photos.

Where most photos share one value, some resamples have no other: their error of 0 would make the
interval infinite. If they were left out, it would cover 0.81 (of ten photos seven alike in the
mean); with this floor it covers 0.97, and other populations are hardly touched.
"""
BLOCK = 256
"""Photos, or groups of them, that are resampled at once, from one stream of random numbers: part of
every interval."""
PHOTOS: Literal["photos"] = "photos"
CLASSES: Literal["classes"] = "classes"
"""What is resampled: photos or classes."""
AUTO = "auto"
"""To resample photos or classes, see `resampling`."""
FEW_CLASSES = 5
"""Of fewer classes nothing can be said beyond these: Student's t of 3 degrees of freedom alone
makes an interval 1.6 times as wide."""
DESIGN_EFFECT = 1.1
"""Above this, intervals over photos are more than 5 % too narrow for photos of one label alike."""
ROUNDING = 1e-12
"""Values that differ by less, relative to their mean, are equal."""


@dataclass(frozen=True)
class Studentized:
    """Means over photos, and by how many standard errors resampled means miss them.

    Attributes:
        mean: Mean of each column, shape (C,).
        error: Its standard error, (C,): 0 where all values are equal, NaN for fewer than two.
        count: How many photos, or groups of them, have a value, (C,).
        t: (mean of the resample − mean) ÷ standard error of the resample, (resamples, C).
    """

    mean: np.ndarray
    error: np.ndarray
    count: np.ndarray
    t: np.ndarray

    def __getitem__(self, columns: np.ndarray | slice) -> "Studentized":
        """Some of the columns."""
        mean, error, count = (value[columns] for value in (self.mean, self.error, self.count))
        return Studentized(mean, error, count, self.t[:, columns])

    def widened(self, other: "Studentized") -> "Studentized":
        r"""The same means, with what the choice of another sample leaves open of them as well.

        The means are sums over two independent samples, the other one's being 0: standard errors
        add in quadrature, t* is :math:`(s_1 t_1^* + s_2 t_2^*) / \sqrt{s_1^2 + s_2^2}`, and the
        degrees of freedom are Welch's. Source: Behrens, "Ein Beitrag zur Fehlerberechnung bei
        wenigen Beobachtungen", 1929; Welch, "The generalization of 'Student's' problem when several
        different population variances are involved", 1947.

        Args:
            other: Of the other sample, made with the same seed: its resamples are taken in reverse
                order, so that no two are drawn from the same random numbers.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.hypot(self.error, other.error)
            t = (self.t * self.error + other.t[::-1] * other.error) / error
            each = self.error**4 / (self.count - 1) + other.error**4 / (other.count - 1)
            count = 1 + error**4 / each
        pairs = ((error, self.error), (count, self.count), (t, self.t))
        return Studentized(self.mean, *(np.where(other.error > 0, *pair) for pair in pairs))

    @property
    def student(self) -> np.ndarray:
        """Student's quantiles of a two-sided 95 % interval, (C,)."""
        return np.asarray(stdtrit(np.maximum(self.count - 1, 1), (1 + CONFIDENCE) / 2))

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """How many standard errors `mean_interval` extends below and above the mean, each (C,)."""
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(self.t, [tail, 1 - tail], axis=0)
        return np.maximum(high, self.student), np.maximum(-low, self.student)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of `mean_interval`, each (C,)."""
        below, above = self.reach()
        return self.mean - below * self.error, self.mean + above * self.error

    def simultaneous_interval(self) -> tuple[np.ndarray, np.ndarray]:
        r"""The ends of intervals that cover all means at once with 95 %, each (C,).

        .. math::
            \bar x_c \pm \max(q, t_{0.975}) \, s_c / \sqrt{N_c}

        with q the 0.95 quantile of the largest absolute t* of a resample, and Student's quantile as
        in `mean_interval`. Source: Romano and Wolf, "Exact and approximate stepdown methods for
        multiple hypothesis testing", 2005, in a single step.
        """
        largest = np.nanmax(np.abs(self.t), axis=1, initial=0)
        half = np.maximum(np.quantile(largest, CONFIDENCE), self.student) * self.error
        return self.mean - half, self.mean + half

    def p_values(self) -> np.ndarray:
        r"""Two-sided p-values of a mean of 0, (C,): below 0.05 just where `interval` excludes 0.

        .. math::
            2 \, P\Big(T_{N-1} \ge \frac{|\bar x|}{s / \sqrt N} \cdot \frac{t_{0.975}}{r}\Big)

        with r the interval's reach, in standard errors, on the side of 0. The intervals of other
        levels that are inverted have Student's shape, with the interval's reach at 95 %: 2,000
        resamples have no quantiles as far out as Holm's correction asks for. That is our choice.
        NaN for fewer than two values; 0 where all values are equal and not 0.
        """
        below, above = self.reach()
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.mean == 0, 0 * self.error, np.abs(self.mean) / self.error)
        scaled = t * self.student / np.where(self.mean > 0, below, above)
        return np.asarray(2 * stdtr(np.maximum(self.count - 1, 1), -scaled))


def resampled(units: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """How often every resample draws every photo or group, `BLOCK` of them at a time.

    Exactly the bootstrap: as many draws as there are units, each of any of them. How many of them
    fall into each block is multinomial, and within a block every unit is as likely. Each block has
    a stream of its own, keyed by the seed and its number, so that its weights can be made without
    those of the others.

    Args:
        units: How many there are.
        seed: Seed of the resampling.

    Yields:
        A block, and its weights, whole numbers in float64, (`RESAMPLES`, units in the block).
    """
    starts = range(0, units, BLOCK)
    sizes = np.array([min(BLOCK, units - start) for start in starts])
    draws = np.random.default_rng([seed, len(starts)]).multinomial(units, sizes / units, RESAMPLES)
    for block, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        times = draws[:, block]
        drawn = np.random.default_rng([seed, block]).integers(size, size=times.sum())
        drawn += np.repeat(size * np.arange(RESAMPLES), times)
        weights = np.bincount(drawn, minlength=RESAMPLES * size).reshape(RESAMPLES, size)
        yield slice(start, start + size), weights.astype(float)


def studentize(
    values: np.ndarray,
    seed: int,
    derive: Callable[[np.ndarray], np.ndarray] = np.asarray,
    groups: np.ndarray | None = None,
) -> Studentized:
    r"""Resample photos, the same ones for all columns, and studentise the columns' means.

    With groups these are resampled whole. The mean over photos is then a ratio, of the groups' sums
    :math:`T_g` by the numbers :math:`m_g` of their photos that have a value, and its standard error
    is that of the linearised ratio over G groups (Cochran, "Sampling techniques", 1977, section
    6; one photo a group makes it :math:`s / \sqrt N`):

    .. math::
        \bar x = \frac{\sum_g T_g}{\sum_g m_g}, \quad
        \frac{1}{\sum_g m_g} \sqrt{\frac{G}{G - 1} \sum_g (T_g - \bar x \, m_g)^2}

    Of a block only sums remain: of its values, of their squares, and of both by the weights of
    `resampled`. They are added in the order of the blocks, so that the result does not depend on
    where they were made.

    Args:
        values: One row per photo and one column per quantity, shape (N, C). Of NaN values neither
            the means nor the resamples take notice.
        seed: Seed of the resampling.
        derive: Makes of some photos' rows the columns to resample, so that those of all photos are
            never held at once.
        groups: The group of each photo, integers, shape (N,); None where photos are independent,
            which is the same, to the bit, as a group for each.
    """
    columns = derive(values[:0]).shape[1]
    members = _members(groups, len(values))
    units = len(values) if members is None else len(members)
    terms = 3 if members is None else 6
    totals, sums = np.zeros((terms, columns)), np.zeros((terms, RESAMPLES, columns))
    with np.errstate(invalid="ignore", divide="ignore"):
        first = derive(values[:BLOCK]).astype(float)
        centre = np.nansum(first, axis=0) / (~np.isnan(first)).sum(axis=0)
        centre[np.isnan(centre)] = 0
        for block, weights in resampled(units, seed) if units else ():
            rows = block if members is None else np.concatenate(members[block])
            deviation = derive(values[rows]) - centre
            has_value = ~np.isnan(deviation)
            deviation[~has_value] = 0
            added = _terms(has_value.astype(float), deviation, members and members[block])
            for place, term in enumerate(added):
                totals[place] += term.sum(axis=0)
                alike = place == 0 and members is None and has_value.all()
                sums[place] += weights.sum(axis=1)[:, None] if alike else weights @ term
        shift = totals[1] / totals[0]
        mean = centre + shift
        squares = np.maximum(totals[2] - totals[0] * shift**2 + _between(totals, shift), 0)
        count = totals[5 if members else 0].astype(int)
        error = np.sqrt(squares / (count - 1) / count) * (count / totals[0])
        error[error <= ROUNDING * np.abs(mean)] = 0
        error[count < 2] = np.nan
        size = np.maximum(sums[0], 1)
        drawn = sums[1] / size
        variance = sums[2] / size - drawn**2 + _between(sums, drawn) / size
        number = np.maximum(sums[5], 1) if members else size
        drawn_error = np.sqrt(np.maximum(variance, 0) / np.maximum(number - 1, 1) * (number / size))
        scaled = (drawn - shift) / np.maximum(drawn_error, ERROR_FLOOR * error)
    return Studentized(mean, error, count, np.where(error == 0, 0, scaled))


def resampled_sums(values: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Sums over photos, and over each resample of them, for statistics that are made of sums.

    Args:
        values: One row per photo and one column per quantity, shape (N, C), without NaN.
        seed: Seed of the resampling.
        groups: The group of each photo, which is resampled whole, integers, shape (N,).

    Returns:
        The sums over all photos and, below them, those of `RESAMPLES` resamples, (1 + resamples,
        C).
    """
    members = _members(groups, len(values))
    if members is not None:
        values = np.stack([values[rows].sum(axis=0) for rows in members])
    sums = [values.sum(axis=0), np.zeros((RESAMPLES, values.shape[1]))]
    for block, weights in resampled(len(values), seed):
        sums[1] += weights @ values[block]
    return np.vstack(sums)


def _members(groups: np.ndarray | None, photos: int) -> list[np.ndarray] | None:
    """The photos of each group, groups in the order of their first photos; None without groups."""
    if groups is None:
        return None
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) == photos:
        return None
    place = np.argsort(np.argsort(first))[inverse]
    return np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])


def _terms(
    has_value: np.ndarray, deviation: np.ndarray, members: list[np.ndarray] | None
) -> list[np.ndarray]:
    """Of photos, or of groups, m, T, T² and, of groups, T (m − 1), m (m − 1) and whether m > 0."""
    if members is None:
        return [has_value, deviation, deviation**2]
    starts = np.cumsum([0, *map(len, members[:-1])])
    size, total = (np.add.reduceat(rows, starts) for rows in (has_value, deviation))
    more = size - 1
    return [size, total, total**2, total * more, size * more, (size > 0).astype(float)]


def _between(sums: np.ndarray, mean: np.ndarray) -> np.ndarray | float:
    r"""What makes :math:`\sum T^2 - \bar x^2 \sum m` :math:`\sum (T - \bar x m)^2`, of groups."""
    return mean**2 * sums[4] - 2 * mean * sums[3] if len(sums) > 3 else 0.0


def mean_interval(
    values: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""The 95 % bootstrap-t interval of means over photos, at no end shorter than Student's.

    .. math::
        \Big[\bar x - \max(t^*_{0.975}, t_{0.975}) \, \frac{s}{\sqrt N}, \;
              \bar x + \max(-t^*_{0.025}, t_{0.975}) \, \frac{s}{\sqrt N}\Big]

    with the quantiles t of Student's distribution with N − 1 degrees of freedom, and t* of the
    resamples' (mean of the resample − mean) ÷ (its standard error). Of skewed values the mean is
    mostly too small where its standard error is too small: t* knows that, percentiles of the
    resampled mean do not. Of values with long tails on both sides, as differences of two models
    have, t* alone would be too short, which Student's t mends. Source: Efron, "Nonparametric
    standard errors and confidence intervals", 1981; Hall, "Theoretical comparison of bootstrap
    confidence intervals", 1988; that Student's t bounds it is our choice, by simulation. A
    resample's standard error is at least `ERROR_FLOOR` of the sample's. With groups, these are
    resampled, the standard error is theirs (`studentize`), and N their number.

    Args:
        values: Shape (N,), or (N, C) with a column per quantity; NaN values are left out. All
            columns are resampled with the same photos.
        seed: Seed of the resampling.
        groups: The group of each photo, integers, shape (N,): photos of one are not independent.

    Returns:
        The ends, each of shape () or (C,). Both are the mean where all values are equal; NaN for
        fewer than two values, or groups with one.

    Example:
        >>> low, high = mean_interval(np.array([0.0, 0.1, 0.1, 0.2, 0.2, 0.2, 0.4, 1.5]), seed=0)
        >>> bool(low < 0.34 < high), bool(0.34 - low < high - 0.34)
        (True, True)
    """
    values = np.asarray(values)
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    low, high = studentize(columns, seed, groups=groups).interval()
    return low.reshape(values.shape[1:])[()], high.reshape(values.shape[1:])[()]


def effective_count(values: np.ndarray, groups: np.ndarray | None) -> float:
    r"""How many independent photos would say as much of a mean as these, which come in groups.

    .. math::
        \frac{N}{D} \Big(\frac{z}{t_{G - 1}}\Big)^2, \quad
        D = \max\Big(1, \frac{G}{G - 1}
            \frac{\sum_g (T_g - \bar x \, m_g)^2}{\sum_i (x_i - \bar x)^2}\Big)

    with the design effect D, the variance of the mean over G groups (`studentize`) by that over
    photos; the quantile of Student's t is for what G groups leave open of D. Sources: Kish, "Survey
    sampling", 1965; Korn and Graubard, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data", 1998.

    Args:
        values: Of N photos, shape (N,), without NaN.
        groups: The group of each, integers, shape (N,); None where photos are independent.

    Returns:
        N without groups, or where no group has two photos; D is 1 where all values are equal. 0 for
        fewer than two groups.

    Example:
        >>> effective_count(np.array([0, 0, 1, 1]), None)
        4
        >>> round(effective_count(np.repeat([0, 1], 50), np.arange(100) // 2), 1)
        46.6
    """
    members = _members(groups, len(values))
    if members is None:
        return len(values)
    if len(members) < 2:
        return 0
    deviation = values - np.mean(values)
    between = np.square([deviation[rows].sum() for rows in members]).sum()
    within = np.square(deviation).sum()
    many = len(members)
    effect = max(1.0, many / (many - 1) * between / within) if within else 1.0
    quantile = stdtrit(many - 1, (1 + CONFIDENCE) / 2)
    return float(len(values) / effect * (Z / quantile) ** 2)


def share_interval(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    r"""Wilson's 95 % interval of a share.

    .. math::
        \frac{p + z^2 / 2N \pm z \sqrt{p (1 - p) / N + z^2 / 4 N^2}}{1 + z^2 / N}

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        values: 0 or 1 for each photo, shape (N,); NaN values are left out. Fractions (of
            `retained`, where several photos share the first place) vary less than the formula takes
            them to: the interval is then too wide rather than too narrow.
        groups: The group of each photo, integers, shape (N,): then N is the `effective_count`.

    Returns:
        The ends, in [0, 1]; NaN without values, or of fewer than two groups.

    Example:
        >>> [round(end, 3) for end in share_interval(np.zeros(20))]
        [0.0, 0.161]
    """
    values, groups = _with_value(values, groups)
    n = effective_count(values, groups)
    if not n:
        return np.nan, np.nan
    share = float(np.mean(values))
    centre = share + Z**2 / (2 * n)
    half = Z * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = (centre + half * np.array([-1, 1])) / (1 + Z**2 / n)
    # with the share inside, as rounding may not leave it
    return min(max(float(low), 0.0), share), max(min(float(high), 1.0), share)


def _with_value(
    values: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Those of photos' values that are not NaN, and their groups."""
    has_value = ~np.isnan(values)
    return values[has_value], None if groups is None else groups[has_value]


def unit_interval(
    values: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of means that lie in [0, 1], as an area under a curve does.

    That of `mean_interval`; where all photos add the same, as where nothing overlaps, it would have
    no width, and is `share_interval`.

    Args:
        values: What each photo adds to a mean, shape (N, …); NaN values are left out.
        seed: Seed of the resampling.
        groups: The group of each photo, which is resampled whole, integers, shape (N,).

    Returns:
        The ends, in [0, 1], each of shape (…); NaN as of `mean_interval`.

    Example:
        >>> [end.round(3).tolist() for end in unit_interval(np.ones((20, 1)), seed=0)]
        [[0.839], [1.0]]
    """
    low, high = np.clip(mean_interval(values, seed, groups), 0, 1)
    for place in zip(*np.nonzero(low == high), strict=True):
        of_photos = (slice(None), *place)
        low[place], high[place] = share_interval(values[of_photos], groups)
    return low, high


def share_difference(
    change: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    r"""The 95 % interval of the difference of two shares over the same photos, and its p-value.

    .. math::
        \tilde p_+ - \tilde p_- \pm
        z \sqrt{\frac{\tilde p_+ + \tilde p_- - (\tilde p_+ - \tilde p_-)^2}{N + 2}}, \quad
        \tilde p_\pm = \frac{N_\pm + 1}{N + 2}

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", 2012. The two-sided p-value of no difference inverts it: it
    is below 0.05 just where the interval excludes 0.

    Args:
        change: −1, 0 or 1 for each photo, shape (N,); NaN values are left out.
        groups: The group of each photo, integers, shape (N,): then N is the `effective_count`, and
            N₊ and N₋ are as many of it as of all photos.

    Returns:
        The ends, in [−1, 1], and p; NaN without values, or of fewer than two groups. The interval
        never has zero width: photos that do not change leave open that a few of others would.

    Example:
        >>> [round(number, 3) for number in share_difference(np.array([1] * 5 + [0] * 45))]
        [-0.0, 0.192, 0.05]
    """
    change, groups = _with_value(change, groups)
    n = effective_count(change, groups)
    if not n:
        return np.nan, np.nan, np.nan
    counted = n / len(change)
    gained, lost = ((counted * np.sum(sign * change > 0) + 1) / (n + 2) for sign in (1, -1))
    difference = gained - lost
    error = np.sqrt((gained + lost - difference**2) / (n + 2))
    low, high = np.clip(difference + Z * error * np.array([-1, 1]), -1, 1)
    return float(low), float(high), float(2 * ndtr(-abs(difference) / error))


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's ρ of n > 2 pairs, and its two-sided p of no correlation, from Student's t.

    scipy.stats has it too, and takes half a second to import.
    """
    ranks = pd.DataFrame({"x": x, "y": y}).rank().to_numpy()
    rho = np.corrcoef(ranks, rowvar=False)[0, 1]
    with np.errstate(divide="ignore"):
        t = abs(rho) * np.sqrt((len(x) - 2) / ((1 - rho) * (1 + rho)))
    return float(rho), float(2 * stdtr(len(x) - 2, -t))


def spearman_interval(rho: float, n: int) -> tuple[float, float]:
    r"""The 95 % interval of Spearman's ρ over n pairs, n > 3.

    .. math::
        \tanh\big(\operatorname{artanh} \rho \pm z \sqrt{(1 + \rho^2 / 2) / (n - 3)}\big)

    Source: Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations", 2000.
    """
    if abs(rho) >= 1:
        return rho, rho
    half = Z * np.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = np.arctanh(rho)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def relative_shift_values(relative: np.ndarray, others: np.ndarray) -> np.ndarray:
    r"""A relative shift as a mean over photos, so that its interval lets the spread vary too.

    .. math::
        \psi_i = r_i - 2 R \, (S_i - S) / S

    with :math:`r_i` photo i's relative shift, :math:`S_i` the mean of 1 − cosine between its clean
    view and those of all others, and R and S their means. The mean of :math:`\psi` is R, and its
    variation is that of the ratio R, the mean shift over the mean distance S, to first order; the
    2 is there because S is a mean over pairs. Source: Hoeffding, "A class of statistics with
    asymptotically normal distribution", 1948; the linearised ratio is Cochran's, "Sampling
    techniques", 1977, section 6.

    Args:
        relative: ``relative_shift`` of N photos.
        others: Their ``distance_to_others``.

    Returns:
        Shape (N,), NaN where one of the two is.

    Example:
        >>> relative_shift_values(np.array([0.1, 0.3]), np.array([0.5, 0.5]))
        array([0.1, 0.3])
    """
    has_value = ~np.isnan(relative + others)
    if not has_value.any():
        return np.full(len(relative), np.nan)
    mean, spread = relative[has_value].mean(), others[has_value].mean()
    return relative - 2 * mean * (others - spread) / spread


def pair_values(others: np.ndarray) -> np.ndarray:
    r"""A mean over pairs of photos as a mean over photos, so that its interval is one of those.

    .. math::
        \psi_i = 2 h_i - h

    with :math:`h_i` the mean over the pairs that photo i is in, and h the mean of these, which is
    that over all pairs and that of :math:`\psi`. Source: Hoeffding, "A class of statistics with
    asymptotically normal distribution", 1948. No photo is paired with itself, as a photo that is
    drawn twice in a resample would be.

    Args:
        others: h of N photos.

    Example:
        >>> pair_values(np.array([0.0, 1.0, 2.0]))
        array([-1.,  1.,  3.])
    """
    return 2 * others - others.mean()


def ratio_values(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    r"""A ratio of two means over photos as a mean over photos, so that both vary in its interval.

    .. math::
        \psi_i = R + (t_i - R b_i) / b, \quad R = t / b

    with the means t and b. The mean of :math:`\psi` is R, and its variation that of R to first
    order. Source: Cochran, "Sampling techniques", 1977, section 6.

    Args:
        top: Numerators of N photos, shape (N,) or (N, …).
        bottom: Denominators of the same.

    Returns:
        The shape of both, broadcast; NaN where the denominators' mean is 0.

    Example:
        >>> ratio_values(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
        array([0.5, 0.5])
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = top.mean(axis=0) / bottom.mean(axis=0)
        return np.asarray(ratio + (top - ratio * bottom) / bottom.mean(axis=0))


def stratum_values(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    r"""A mean over two strata of fixed shares as a mean over photos.

    .. math::
        \psi_i = \bar y + c_h (y_i - \bar y_h), \quad
        c_h^2 = \frac{n_h}{n_h - 1} \cdot \frac{N - 1}{N}

    with the mean :math:`\bar y_h` of photo i's stratum of :math:`n_h` photos: the mean of
    :math:`\psi` is :math:`\bar y`, and its variation that of the :math:`\bar y_h` in their shares
    alone, as the number of photos in each stratum is not left to chance. Source: Cochran, "Sampling
    techniques", 1977, section 5.

    Args:
        values: Of N photos; NaN values are left out.
        strata: Which photos are in the second stratum, bool, shape (N,).

    Returns:
        Shape (N,): the values as they are where a stratum has a single photo, of which nobody knows
        how it would vary.

    Example:
        >>> values = np.array([0.0, 0.0, 0.0, 4.0, 6.0])
        >>> stratum_values(values, np.array([False, False, False, True, True])).round(3)
        array([2.   , 2.   , 2.   , 0.735, 3.265])
    """
    has_value = ~np.isnan(values)
    parts = [part for part in (strata & has_value, ~strata & has_value) if part.any()]
    sizes = [part.sum() for part in parts]
    if 1 in sizes:
        return values
    stratified = values.copy()
    for part, size in zip(parts, sizes, strict=True):
        scale = np.sqrt(size / (size - 1) * (has_value.sum() - 1) / has_value.sum())
        stratified[part] = values[has_value].mean() + scale * (values[part] - values[part].mean())
    return stratified


def cosine_values(both: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    r"""A mean product, divided by the lengths, as a mean over photos: a cosine of two mean vectors.

    .. math::
        \psi_i = C \Big(\frac{x_i}{x} - \frac{a_i}{2 a} - \frac{b_i}{2 b} + 1\Big), \quad
        C = x / \sqrt{a b}

    with the means x, a and b. The mean of :math:`\psi` is C, and its variation that of C to first
    order (the delta method).

    Args:
        both: Products x of N photos.
        first: Squared lengths a of the same, with a mean above 0.
        second: Squared lengths b.

    Returns:
        Shape (N,).

    Example:
        >>> cosine_values(np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([3.0, 5.0]))
        array([0.5625, 0.4375])
    """
    lengths = np.sqrt(first.mean() * second.mean())
    cosine = both.mean() / lengths
    change = both / lengths - cosine * (first / first.mean() + second / second.mean()) / 2
    return np.asarray(cosine + change)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the i-th smallest of m p-values times m − i + 1, never falling.

    NaN values are not tests: they do not count, and stay.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    adjusted = np.full_like(p, np.nan)
    raised = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(raised).clip(max=1)
    return adjusted


def limit_distance(ends: np.ndarray, limit: np.ndarray, beyond: np.ndarray, n: Any) -> np.ndarray:
    r"""How far means are from limits, in lengths of their intervals on the limit's side.

    Intervals of means beyond their limits are first made simultaneous over all m limits, by
    Bonferroni: longer by :math:`t_{1 - 0.025 / m} / t_{0.975}`, of N − 1 degrees of freedom, which
    takes them to have Student's shape, as `Studentized.p_values` does. As intervals shrink with
    :math:`1 / \sqrt N`, the limit is at the end of that of N ÷ distance² photos.

    Args:
        ends: Means, and the lower and upper ends of their 95 % intervals, (3, m).
        limit: The limits, (m,).
        beyond: Whether a mean is on the wrong side of its limit, (m,).
        n: N, how many photos, or groups of them, each interval is over, (m,), or of all.

    Returns:
        Shape (m,): 1 where the limit is at the interval's end; 0 where it is the mean, to the eight
        digits that a reader of tables has; NaN without an interval.
    """
    mean, low, high = ends
    reach = np.where(limit > mean, high - mean, mean - low).clip(0)
    level = 1 - (1 - CONFIDENCE) / 2 / np.where(beyond, max(np.isfinite(reach).sum(), 1), 1)
    freedom = np.maximum(n - 1, 1)
    reach *= stdtrit(freedom, level) / stdtrit(freedom, (1 + CONFIDENCE) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(limit - mean) / reach
    return np.where(np.isclose(mean, limit, rtol=1e-8, atol=0) & (reach >= 0), 0, distance)


def label_groups(labels: Sequence[str | None]) -> np.ndarray:
    """The groups of photos with labels, for `mean_interval`: one a label; without one, one a photo.

    Example:
        >>> label_groups(["cat", None, "dog", "cat", None])
        array([0, 2, 1, 0, 3])
    """
    codes, names = pd.factorize(np.asarray(labels, object))
    alone = codes < 0
    codes[alone] = len(names) + np.arange(alone.sum())
    return np.asarray(codes)


def design_effect(correlation: float, labels: Sequence[str | None]) -> float:
    r"""By how much the variance of a mean is larger than that over as many independent photos.

    .. math::
        1 + \Big(\frac{\sum_j n_j^2}{N} - 1\Big) \, \mathrm{ICC}

    with the number of photos :math:`n_j` of each label. Source: Kish, "Survey sampling", 1965.

    Args:
        correlation: From `intraclass_correlation`.
        labels: Of N photos; a photo without one counts as the only one of its label.

    Example:
        >>> design_effect(0.5, ["cat"] * 10 + ["dog"] * 10)
        5.5
    """
    sizes = np.bincount(label_groups(labels))
    return float(1 + (np.square(sizes).sum() / sizes.sum() - 1) * correlation)


def intraclass_correlation(values: np.ndarray, labels: Sequence[str | None]) -> float:
    r"""How alike photos of one label are: the intraclass correlation ICC(1).

    .. math::
        \frac{MS_B - MS_W}{MS_B + (k_0 - 1) MS_W}

    from the mean squares between and within labels of a one-way random effects model, with
    :math:`k_0 = (N - \sum_j n_j^2 / N) / (J - 1)` photos per label. Where it is large, photos of
    one label say less than as many of different labels. Source: Shrout and Fleiss, "Intraclass
    correlations: uses in assessing rater reliability", 1979; for labels of unequal size Donner,
    "A review of inference procedures for the intraclass correlation coefficient", 1986.

    Args:
        values: A measure of N photos; NaN values are left out.
        labels: Their labels; photos without one are left out.

    Returns:
        At most 1, negative where labels differ less than by chance; NaN for fewer than two labels,
        or without two photos of one label, or where no photo differs.

    Example:
        >>> intraclass_correlation(np.array([1.0, 1.0, 3.0, 3.0]), ["cat", "cat", "dog", "dog"])
        1.0
    """
    rows = pd.DataFrame({"value": np.asarray(values, float), "label": list(labels)}).dropna()
    groups = rows.groupby("label")["value"]
    size, total = groups.size(), len(rows)
    if len(size) < 2 or total == len(size):
        return np.nan
    means, mean = groups.transform("mean"), rows["value"].mean()
    between = ((means - mean) ** 2).sum() / (len(size) - 1)
    within = ((rows["value"] - means) ** 2).sum() / (total - len(size))
    typical = (total - (size**2).sum() / total) / (len(size) - 1)
    spread = between + (typical - 1) * within
    return float((between - within) / spread) if spread > (ROUNDING * mean) ** 2 else np.nan


def resampling(
    labels: Sequence[str | None], correlation: float | None, asked: str
) -> tuple[np.ndarray | None, Resampled]:
    """What intervals take as drawn at random: photos, or the classes that they are of.

    Classes where that is asked for, or where it is left to us and intervals over photos would be
    noticeably too narrow: by a `design_effect` of more than `DESIGN_EFFECT`, of at least
    `FEW_CLASSES` classes.

    Args:
        labels: Of the photos, in the order of ids.
        correlation: Their `intraclass_correlation`, where it is known.
        asked: ``auto``, ``photos`` or ``classes``.

    Returns:
        The group of each photo, None where photos are resampled; and what ``run.json`` says of it.
    """
    classes = len({label for label in labels if isinstance(label, str)})
    effect = None if correlation is None else design_effect(correlation, labels)
    alike = effect is not None and effect > DESIGN_EFFECT and classes >= FEW_CLASSES
    if asked == CLASSES or (asked == AUTO and alike):
        groups = label_groups(labels)
        alone = len(np.unique(groups)) - classes
        return groups, Resampled(unit=CLASSES, units=classes, alone=alone, design_effect=effect)
    return None, Resampled(unit=PHOTOS, units=len(labels), alone=0, design_effect=effect)
