"""Intervals and p-values against scipy, plain loops and enumerations, and their coverage."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from clipshift.results import intervals
from clipshift.results.intervals import (
    design_effect,
    effective_count,
    holm,
    intraclass_correlation,
    label_groups,
    mean_interval,
    relative_shift_values,
    resampled,
    resampling,
    share_difference,
    share_interval,
    spearman,
    spearman_interval,
    studentize,
)

# --- means ---------------------------------------------------------------------------------------


def skewed_values_and_their_t() -> tuple[np.ndarray, list[float]]:
    """Forty lognormal values, and Student's t of resamples by a plain loop."""
    values = np.random.default_rng(0).lognormal(0, 1, 40)
    rng = np.random.default_rng(9)
    t = []
    for _ in range(8000):
        sample = rng.choice(values, 40)
        t.append((sample.mean() - values.mean()) / (sample.std(ddof=1) / np.sqrt(40)))
    return values, t


def test_a_skewed_means_interval_is_that_of_a_plain_loop() -> None:
    values, t = skewed_values_and_their_t()
    low, high = mean_interval(values, seed=5)
    error, reach = stats.sem(values), stats.t.ppf(0.975, 39)
    assert -np.quantile(t, 0.025) > reach > np.quantile(t, 0.975)
    assert high == pytest.approx(values.mean() - np.quantile(t, 0.025) * error, abs=0.15 * error)
    assert low == pytest.approx(values.mean() - reach * error)
    assert mean_interval(values, seed=5) == (low, high)


def test_resamples_are_studentised_as_samples_are() -> None:
    """By the photos' own values, where the code counts how often each was drawn."""
    values = np.random.default_rng(0).lognormal(0, 1, (12, 3))
    values[4, 1] = np.nan
    values[6:, 2] = np.nan  # so that resamples hold two values, or one, which has no error
    drawn = values[np.random.default_rng(5).integers(12, size=(2000, 12))]
    own = stats.sem(drawn, axis=1, nan_policy="omit")
    error = stats.sem(values, axis=0, nan_policy="omit")
    expected = (np.nanmean(drawn, axis=1) - np.nanmean(values, axis=0)) / np.fmax(own, 0.2 * error)
    np.testing.assert_allclose(studentize(values, seed=5).t, expected, atol=1e-9)


def test_a_normal_means_interval_is_near_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    np.testing.assert_allclose(mean_interval(values, seed=5), expected, atol=0.03)


def test_an_interval_holds_both_samples() -> None:
    """The mean of a shift at a strength that was matched on as many other photos.

    600 runs of 40 photos: 95 % of the intervals hold the truth to within 3 standard errors; without
    the other photos' choice in them, far fewer.
    """
    rng = np.random.default_rng(0)
    measured, calibrated = np.exp(0.6 * rng.normal(size=(2, 40, 600)))
    mean = calibrated.mean(axis=0)
    made = studentize(measured / mean, seed=1)
    both = made.widened(studentize(made.mean * (calibrated / mean - 1), seed=1))
    np.testing.assert_array_equal(both.mean, made.mean)
    covered = [
        np.mean((low <= 1) & (high >= 1)) for low, high in (both.interval(), made.interval())
    ]
    assert 0.92 <= covered[0] <= 0.98
    assert covered[1] < 0.88


def test_another_sample_without_variation_changes_nothing() -> None:
    made = studentize(np.random.default_rng(0).lognormal(0, 1, (12, 2)), seed=0)
    for other in (np.zeros((7, 2)), np.zeros((1, 2))):
        same = made.widened(studentize(other, seed=0))
        for name in ("mean", "error", "count", "t"):
            np.testing.assert_array_equal(getattr(same, name), getattr(made, name))


def test_two_values_have_students_interval() -> None:
    """A resample of both misses by nothing, one of the same twice by 5 errors: less than 12.7."""
    expected = stats.t.interval(0.95, 1, 0.3, 0.1)
    np.testing.assert_allclose(mean_interval(np.array([0.2, 0.4]), seed=0), expected)


def test_an_interval_of_equal_values_has_no_width_and_one_value_has_no_interval() -> None:
    low, high = mean_interval(np.full((7, 2), [0.1, 1.0]), seed=0)
    np.testing.assert_allclose([low, high], [[0.1, 1.0]] * 2, rtol=1e-15)
    np.testing.assert_array_equal(low, high)
    for few in ([0.3], [], [np.nan, 0.3, np.nan]):
        assert np.isnan(mean_interval(np.array(few), seed=0)).all()


def test_an_interval_stays_finite_where_resamples_do_not_vary() -> None:
    values = np.zeros(10)
    values[3] = 1
    low, high = mean_interval(values, seed=0)
    assert low < 0.1 < 0.5 < high < 5


def test_a_resample_draws_each_photo_as_often_as_any_other_in_whatever_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many draws as photos; the variances and covariances are those of a multinomial."""
    monkeypatch.setattr(intervals, "BLOCK", 7)
    monkeypatch.setattr(intervals, "RESAMPLES", 20_000)
    blocks = {rows.start: weights for rows, weights in resampled(17, seed=3)}
    assert [weights.shape[1] for weights in blocks.values()] == [7, 7, 3]
    weights = np.hstack(list(blocks.values()))
    assert (weights.sum(axis=1) == 17).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    expected = np.eye(17) - 1 / 17
    np.testing.assert_allclose(np.cov(weights, rowvar=False), expected, atol=0.05)
    pooled = np.bincount(weights.astype(int).ravel(), minlength=9)[:9] / weights.size
    np.testing.assert_allclose(pooled, stats.binom.pmf(np.arange(9), 17, 1 / 17), atol=0.002)


def test_sums_of_blocks_are_studentised_as_their_photos_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intervals, "BLOCK", 16)
    values = np.random.default_rng(0).lognormal(0, 1, (40, 3))
    values[::3, 1] = np.nan
    values[:, 2] = 1e6 + 1e-3 * values[:, 0]
    weights = np.hstack([weights for _, weights in resampled(40, seed=5)]).astype(int)
    drawn = values[[np.repeat(np.arange(40), row) for row in weights]]
    own, error = (
        stats.sem(x, axis=axis, nan_policy="omit") for x, axis in ((drawn, 1), (values, 0))
    )
    made = studentize(values, seed=5)
    expected = (np.nanmean(drawn, axis=1) - np.nanmean(values, axis=0)) / np.maximum(
        own, 0.2 * error
    )
    np.testing.assert_allclose(made.t, expected, atol=2e-4)
    np.testing.assert_allclose(made.t[:, :2], expected[:, :2], atol=1e-9)
    np.testing.assert_allclose(made.t[:, 2], made.t[:, 0], atol=2e-4)
    np.testing.assert_allclose(made.mean, np.nanmean(values, axis=0), rtol=1e-14)
    np.testing.assert_allclose(made.error, error, rtol=1e-6)


def test_columns_have_the_same_photos_and_do_not_depend_on_one_another() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, (50, 3))
    values[:, 2] = -values[:, 0]
    low, high = mean_interval(values, seed=1)
    np.testing.assert_allclose(mean_interval(values[:, 1], seed=1), [low[1], high[1]])
    np.testing.assert_allclose((low[2], high[2]), (-high[0], -low[0]))
    np.testing.assert_allclose(mean_interval(np.tile(values, 9), seed=1)[1], np.tile(high, 9))


def test_missing_values_are_left_out() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.5, 300)
    gaps = np.full(600, np.nan)
    gaps[::2] = values
    error = stats.sem(values)
    np.testing.assert_allclose(mean_interval(gaps, 0), mean_interval(values, 0), atol=0.3 * error)


# --- shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (7, 10), (50, 100), (30, 30), (1, 1)])
def test_a_shares_interval_is_wilsons(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    got = share_interval((np.arange(n) < hits).astype(float))
    assert got == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost", "n"), [(5, 0, 50), (0, 0, 12), (3, 9, 30)])
def test_a_difference_of_shares_has_the_normal_interval_with_one_photo_more_on_each_side(
    gained: int, lost: int, n: int
) -> None:
    change = np.repeat([1, -1, 0], [gained, lost, n - gained - lost])
    more = np.append(change, [1, -1])
    error = more.std() / np.sqrt(n + 2)
    low, high = stats.norm.interval(0.95, more.mean(), error)
    p = 2 * stats.norm.sf(abs(more.mean()) / error)
    assert share_difference(change) == pytest.approx((low, high, p))


def test_shares_of_no_photos_have_no_interval() -> None:
    assert np.isnan([*share_interval(np.empty(0)), *share_difference(np.empty(0))]).all()


@pytest.mark.parametrize("n", [3, 4, 60])
def test_spearmans_rho_and_p_are_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    ties = rng.integers(3, size=n) + np.linspace(0, 1, n).round()
    for x, y in (rng.normal(size=(2, n)), (ties, ties + rng.normal(size=n).round())):
        assert spearman(x, y) == pytest.approx(tuple(stats.spearmanr(x, y)), abs=1e-12)
    assert spearman(x, x**3) == (1, 0)
    assert spearman(x, -x) == (-1, 0)


def test_spearmans_interval_is_bonett_and_wrights() -> None:
    """In artanh ρ it is as wide as theirs: their variance is (1 + ρ² / 2) / (n − 3)."""
    for rho, n, variance in ((0.0, 103, 1 / 100), (0.5, 12, 1.125 / 9), (-0.8, 4, 1.32)):
        ends = stats.norm.interval(0.95, np.arctanh(rho), np.sqrt(variance))
        assert spearman_interval(rho, n) == pytest.approx(np.tanh(ends))
    assert spearman_interval(1, 9) == (1, 1)


# --- relative shift ------------------------------------------------------------------------------


def test_relative_shift_varies_as_the_weights_of_its_photos_do() -> None:
    """Against the derivative of mean shift ÷ mean distance by each photo's weight."""
    rng = np.random.default_rng(0)
    shift, n = rng.lognormal(0, 1, 12), 12
    distance = rng.uniform(0.2, 1, (n, n))
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)

    def ratio(weights: np.ndarray) -> float:
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0)
        return np.average(shift, weights=weights) / np.average(distance, weights=pairs)

    step = 1e-6 * np.eye(n)
    whole = ratio(np.ones(n))
    slope = [(ratio(1 + more) - ratio(1 - more)) / 2e-6 for more in step]
    others = distance.sum(axis=1) / (n - 1)
    values = relative_shift_values(shift / others.mean(), others)
    np.testing.assert_allclose(values, whole + n * np.array(slope), rtol=1e-6)
    assert values.mean() == pytest.approx(whole)


def test_relative_shift_without_a_distance_has_no_value() -> None:
    values = relative_shift_values(np.array([0.1, 0.2, 0.3]), np.array([0.5, np.nan, 0.7]))
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.nanmean(values) == pytest.approx(0.2)
    assert np.isnan(relative_shift_values(np.ones(2), np.full(2, np.nan))).all()


# --- tests ---------------------------------------------------------------------------------------


def test_a_p_below_5_per_cent_is_an_interval_without_0() -> None:
    """On skewed data, where Wilcoxon's p and the interval of a mean contradict each other."""
    rng = np.random.default_rng(0)
    for n in (5, 12, 40):
        values = rng.lognormal(0, 1, (n, 400)) - rng.uniform(0.8, 3, 400)
        made = studentize(values, seed=n)
        low, high = made.interval()
        excluded = (low > 0) | (high < 0)
        assert 0.1 < excluded.mean() < 0.9
        assert ((made.p_values() < 0.05) == excluded).all()
    ranks = stats.wilcoxon(values).pvalue < 0.05
    assert (ranks != excluded).mean() > 0.1


def test_p_is_students_by_the_reach_of_a_plain_loop() -> None:
    values, t = skewed_values_and_their_t()
    error, reach = stats.sem(values), stats.t.ppf(0.975, 39)
    for errors in (-3.5, 2.5):
        moved = values - values.mean() + errors * error
        own = -np.quantile(t, 0.025) if moved.mean() < 0 else np.quantile(t, 0.975)
        scaled = abs(errors) * reach / max(own, reach)
        [p] = studentize(moved[:, None], seed=5).p_values()
        assert stats.t.isf(p / 2, 39) == pytest.approx(scaled, rel=0.07)
    normal = np.random.default_rng(1).normal(0.3, 2, 400)
    [p] = studentize(normal[:, None], seed=5).p_values()
    assert p == pytest.approx(stats.ttest_1samp(normal, 0).pvalue, rel=0.1)


def test_equal_differences_are_certain_and_one_alone_is_no_test() -> None:
    values = np.array([[0.0, 0.5, np.nan], [0.0, 0.5, 1.0], [0.0, 0.5, np.nan]])
    np.testing.assert_array_equal(studentize(values, seed=0).p_values(), [1, 0, np.nan])


@pytest.mark.parametrize("n", [30, 100])
def test_a_skewed_difference_of_nothing_is_significant_one_time_in_twenty(n: int) -> None:
    rng = np.random.default_rng(n)
    photo = rng.normal(0, 0.8, (n, 1000))
    before, after = np.exp(photo + rng.normal(0, 0.6, (2, n, 1000)))
    assert 0.02 <= (studentize(after - before, seed=0).p_values() < 0.05).mean() <= 0.08
    skewed = rng.lognormal(0, 1, (n, 1000)) - np.exp(0.5)
    assert 0.02 <= (studentize(skewed, seed=0).p_values() < 0.05).mean() <= 0.08


def test_intervals_of_many_means_hold_together() -> None:
    rng = np.random.default_rng(0)
    missed, alone = [], []
    for seed in range(200):
        made = studentize(rng.normal(0, 1, (30, 8)) + rng.normal(0, 1, (30, 1)), seed)
        for intervals_of, found in (
            (made.simultaneous_interval, missed),
            (made.interval, alone),
        ):
            low, high = intervals_of()
            found.append(((low > 0) | (high < 0)).any())
    assert 0.01 <= np.mean(missed) <= 0.08 < np.mean(alone)


def test_paired_shares_have_one_interval_and_its_p() -> None:
    """Every outcome of 30 photos; and McNemar's exact p, where that is not coarse."""
    size, chances = 0.0, [0.15, 0.15, 0.7]
    for gained, lost in product(range(31), repeat=2):
        if gained + lost <= 30:
            low, high, p = share_difference(
                np.repeat([1, -1, 0], [gained, lost, 30 - gained - lost])
            )
            assert (p < 0.05) == (low > 0 or high < 0)
            outcome = [gained, lost, 30 - gained - lost]
            size += (p < 0.05) * stats.multinomial.pmf(outcome, 30, chances)
    assert 0.02 <= size <= 0.05
    for gained, lost in ((60, 40), (90, 50)):
        *_, p = share_difference(np.repeat([1, -1, 0], [gained, lost, 400]))
        assert p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, abs=0.02)
    assert share_difference(np.array([1] * 5 + [0] * 495))[2] > 0.05  # five against none
    assert share_difference(np.zeros(9))[2] == 1
    assert np.isnan(share_difference(np.empty(0))).all()


def test_what_is_no_test_does_not_count_in_holms_correction() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    assert holm(np.empty(0)).shape == (0,)


# --- groups of photos ----------------------------------------------------------------------------


def test_groups_of_one_are_photos_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(300, 2))
    values[3, 1] = np.nan
    hits = (rng.random(300) < 0.3).astype(float)
    alone = rng.permutation(300) + 7
    for with_groups, without in (
        (mean_interval(values, 5, alone), mean_interval(values, 5)),
        (share_interval(hits, alone), share_interval(hits)),
        (share_difference(hits, alone), share_difference(hits)),
    ):
        np.testing.assert_array_equal(with_groups, without)


def test_the_mean_over_groups_is_a_ratio_and_its_error_is_linearised() -> None:
    """Against sums taken group by group, and resamples of whole groups drawn one by one."""
    rng = np.random.default_rng(0)
    groups = rng.integers(9, size=60)
    values = rng.normal(size=(60, 2)) + groups[:, None]
    values[groups == 2, 1] = np.nan
    values[[3, 8], 0] = np.nan
    made = studentize(values, seed=5, groups=groups * 10 - 4)
    draws = np.random.default_rng([5, 0]).integers(9, size=(2000, 9))
    in_order = list(dict.fromkeys(groups.tolist()))

    def ratio(chosen: list[np.ndarray]) -> tuple[float, float]:
        sums, sizes = np.array([(np.nansum(g), np.isfinite(g).sum()) for g in chosen]).T
        sums, sizes = sums[sizes > 0], sizes[sizes > 0]
        mean, many = sums.sum() / sizes.sum(), len(sums)
        spread = np.square(sums - mean * sizes).sum() * many / max(many - 1, 1)
        return mean, np.sqrt(spread) / sizes.sum()

    for column in range(2):
        parts = [values[groups == group, column] for group in in_order]
        mean, error = ratio(parts)
        assert made.mean[column] == pytest.approx(mean)
        assert made.error[column] == pytest.approx(error)
        assert made.count[column] == (9, 8)[column]
        for row in range(0, 2000, 100):
            drawn, own = ratio([parts[k] for k in draws[row]])
            expected = (drawn - mean) / max(own, 0.2 * error)
            assert made.t[row, column] == pytest.approx(expected, abs=1e-9)


def test_copies_in_groups_have_the_intervals_of_their_originals() -> None:
    values = np.random.default_rng(0).lognormal(size=(30, 3))
    fourfold, groups = np.repeat(values, 4, axis=0), np.repeat(np.arange(30), 4)
    expected = mean_interval(values, seed=1)
    np.testing.assert_allclose(mean_interval(fourfold, 1, groups), expected, rtol=1e-12)
    low, high = mean_interval(fourfold, seed=1)
    assert (high - low < 0.7 * (expected[1] - expected[0])).all()


@pytest.mark.parametrize("classes", [5, 10, 30])
def test_intervals_over_classes_cover_where_their_photos_are_alike(classes: int) -> None:
    """Ten photos a class, intraclass correlation 0.3."""
    rng = np.random.default_rng(classes)
    groups = np.repeat(np.arange(classes), 10)
    alike = np.repeat(rng.normal(size=(classes, 1000)), 10, axis=0)
    values = np.sqrt(0.3) * alike + np.sqrt(0.7) * rng.normal(size=alike.shape)
    covered = [
        np.mean((low < 0) & (high > 0))
        for low, high in (mean_interval(values, 0, groups), mean_interval(values, 0))
    ]
    assert covered[0] > 0.94
    assert covered[1] < 0.76


def test_the_effective_count_is_that_of_the_design_effect() -> None:
    """Classes that are one photo ten times over count as one photo each, less what t costs."""
    rng = np.random.default_rng(0)
    hits, groups = np.repeat(rng.random(20) < 0.4, 10), np.repeat(np.arange(20), 10)
    t = stats.t.ppf(0.975, 19) / stats.norm.ppf(0.975)
    assert effective_count(hits, groups) == pytest.approx(19 / t**2)
    assert effective_count(hits, None) == 200
    assert effective_count(np.ones(200), groups) == pytest.approx(200 / t**2)
    assert np.isnan(share_interval(hits, np.zeros(200, int))).all()
    labels = ["a"] * 10 + ["b"] * 30 + [None] * 60
    assert label_groups(labels).tolist() == [0] * 10 + [1] * 30 + list(range(2, 62))
    assert design_effect(0.5, labels) == pytest.approx(1 + (1060 / 100 - 1) * 0.5)


def test_classes_are_resampled_where_photos_of_one_shift_alike() -> None:
    labels = [name for name in "abcdef" for _ in range(10)]
    none, units = resampling(labels, 0.01, "auto")  # 9 % more variance: 4 % too narrow
    assert (none, units.unit, units.units) == (None, "photos", 60)
    assert units.design_effect == pytest.approx(1.09)
    groups, units = resampling([*labels, None, np.nan], 0.3, "auto")
    assert groups is not None
    assert groups.tolist() == [k for k in range(6) for _ in range(10)] + [6, 7]
    assert (units.unit, units.units, units.alone) == ("classes", 6, 2)
    for few, correlation, asked, unit in (
        (labels[:40], 0.3, "auto", "photos"),  # four classes
        (list(map(str, range(60))), 0.3, "auto", "photos"),  # one photo a class
        (labels, None, "auto", "photos"),
        (labels, 0.3, "photos", "photos"),
        (labels[:40], 0.0, "classes", "classes"),
    ):
        assert resampling(few, correlation, asked)[1].unit == unit


def test_shares_and_their_differences_cover_over_classes() -> None:
    rng = np.random.default_rng(0)
    groups, covered = np.repeat(np.arange(20), 10), []
    for _ in range(300):
        chance = rng.beta(0.7, 1.633, size=(2, 20))  # mean 0.3, intraclass correlation 0.3
        a, b = (rng.random((20, 10)) < p[:, None] for p in chance)
        change = (a.astype(float) - b).ravel()
        ends = [
            (share_interval(a.ravel(), groups), 0.3),
            (share_interval(a.ravel()), 0.3),
            (share_difference(change, groups)[:2], 0),
        ]
        covered.append([low <= truth <= high for (low, high), truth in ends])
    classes, photos, differences = np.mean(covered, axis=0)
    assert classes > 0.92 > 0.8 > photos
    assert differences > 0.92


# --- intraclass correlation ----------------------------------------------------------------------


def test_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    """Their table 2: six targets, four judges each; ICC(1, 1) is .17."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    labels = [name for name in "abcdef" for _ in range(4)]
    made = intraclass_correlation(np.array(ratings, float).ravel(), labels)
    assert made == pytest.approx(0.17, abs=0.005)


def test_intraclass_correlation_of_unequal_classes_is_that_of_the_f_ratio() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(rng.normal(0, 1), 1, size) for size in (3, 9, 5, 1, 14)]
    values = np.concatenate([*groups, [5.0, np.nan]])
    labels = [f"{k}" for k, group in enumerate(groups) for _ in group] + [None, "1"]
    f = stats.f_oneway(*groups).statistic
    n = np.array([len(group) for group in groups])
    k = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    assert intraclass_correlation(values, labels) == pytest.approx((f - 1) / (f - 1 + k))
    for few in (["a"] * 4, ["a", "b", "c", "d"]):
        assert np.isnan(intraclass_correlation(np.arange(4.0), few))


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7])
def test_where_no_photo_differs_photos_of_one_label_are_no_more_alike(value: float) -> None:
    """Nor does the rounding of their mean differ, however many they are."""
    for count in range(4, 31):
        assert np.isnan(intraclass_correlation(np.full(count, value), list("ab" * count)[:count]))


# --- coverage: benchmarks/coverage.py tries more -------------------------------------------------


def covered(low: np.ndarray, truth: float, high: np.ndarray) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("block", [8, 256])
@pytest.mark.parametrize(("sigma", "least", "most"), [(0.05, 0.935, 0.965), (1.0, 0.91, 0.96)])
def test_means_are_covered(
    sigma: float, least: float, most: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 runs of 40 photos; percentiles of resampled means would cover 0.87 of the skewed."""
    monkeypatch.setattr(intervals, "BLOCK", block)
    values = np.random.default_rng(1).lognormal(0, sigma, (40, 2000))
    low, high = mean_interval(values, seed=0)
    assert least < covered(low, np.exp(sigma**2 / 2), high) < most


def test_differences_with_long_tails_are_covered() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(0, 1.2, (40, 2000)) - rng.lognormal(0, 1.2, (40, 2000))
    low, high = mean_interval(values, seed=0)
    assert 0.935 < covered(low, 0, high) < 0.98


def test_relative_shift_is_covered() -> None:
    """Where photos that lie apart move further; with the spread as exact it would cover 0.99."""
    rng = np.random.default_rng(2)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        vectors = rng.normal(0, 1, (size, 8)) + np.eye(8)[0]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit, (1.2 - unit[:, 0]) * rng.normal(1, 0.1, size)

    unit, shift = draw(400_000)
    truth = shift.mean() / (1 - np.square(unit.mean(axis=0)).sum())
    columns = []
    for _ in range(1000):
        unit, shift = draw(100)
        others = 1 - ((unit @ unit.T).sum(axis=1) - 1) / 99
        columns.append(relative_shift_values(shift / others.mean(), others))
    low, high = mean_interval(np.stack(columns, axis=1), seed=0)
    assert 0.93 < covered(low, truth, high) < 0.975


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_shares_are_covered(share: float) -> None:
    hits = np.arange(61)
    ends = np.array([share_interval(np.arange(60) < k) for k in hits])
    held = (ends[:, 0] <= share) & (share <= ends[:, 1])
    assert 0.93 < held @ stats.binom.pmf(hits, 60, share) < 0.97


def test_differences_of_shares_are_covered() -> None:
    changes = np.random.default_rng(3).choice([1, -1, 0], size=(1000, 60), p=[0.3, 0.2, 0.5])
    low, high, _ = np.transpose([share_difference(change) for change in changes])
    assert 0.935 < covered(low, 0.1, high) < 0.975


@pytest.mark.parametrize("r", [0.0, 0.9])
def test_spearmans_rho_is_covered(r: float) -> None:
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(r / 2)  # of a normal pair with correlation r
    x, other = rng.normal(size=(2, 60, 2000))
    ranks = (stats.rankdata(values, axis=0) for values in (x, r * x + np.sqrt(1 - r**2) * other))
    x, y = (values - 30.5 for values in ranks)
    rho = (x * y).sum(axis=0) / (60 * (60**2 - 1) / 12)
    low, high = np.transpose([spearman_interval(float(value), 60) for value in rho])
    assert 0.935 < covered(low, truth, high) < 0.97
    assert spearman_interval(1.0, 60) == (1, 1)


@pytest.mark.parametrize("n", [1, 14, 21, 400, 1999])
def test_a_shares_interval_holds_the_share(n: int) -> None:
    for count in {0, 1, n - 1, n}:
        values = np.arange(n) < count
        low, high = share_interval(values)
        assert 0 <= low <= values.mean() <= high <= 1
