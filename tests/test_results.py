"""Tables against numpy and scipy: what they hold, and what their intervals are made of."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Barrier, local
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import stats
from support.columns import all_columns
from support.runs import run_facts, run_info

from clipshift.augment.variants import make_variants
from clipshift.data.dataset import GONE, Skipped
from clipshift.data.photos import Photo
from clipshift.errors import UserError
from clipshift.options import SaveOptions
from clipshift.results.columns import ShiftFile, write_shift
from clipshift.results.compatibility import differing_views
from clipshift.results.files import data_fingerprint, write_csv, write_whole
from clipshift.results.info import RunInfo
from clipshift.results.intervals import (
    holm,
    mean_interval,
    relative_shift_values,
    share_difference,
    studentize,
)
from clipshift.results.kept import read_kept, read_nearest, write_nearest, write_tensors
from clipshift.results.matching import Matching
from clipshift.results.measured import Measured
from clipshift.results.paired import compare_photos, with_group_means
from clipshift.results.ranking import (
    correlate,
    pairs_of,
    rank_augmentations,
    rank_intervals,
    ranking_agreement,
    shown_photos,
    told_apart,
    with_differences,
)
from clipshift.results.records import Records
from clipshift.results.runs import Run, clear_results, read_run, write_run
from clipshift.results.table import (
    PhotoSample,
    by_photo,
    distance_tables,
    labels_of,
    shift_table,
    skipped_table,
    summarize,
)


def test_table_and_summary_are_sorted_and_leave_out_nan() -> None:
    photos = [Photo(id, None, label="x") for id in ("b", "a", "c")]  # type: ignore[arg-type]
    measured = Measured(
        index=[2, 0, 1],
        values={
            ("noise", "rmse"): [0.3, 0.1, float("nan")],
            ("blur", "rmse"): [0.6, 0.4, 0.2],
        },
        skipped=[Skipped(1, "gone")],
    )
    variants = make_variants(dict.fromkeys(("noise", "blur")), {}, ["paper"], {})  # type: ignore[arg-type]
    table = shift_table(measured, photos, variants)
    assert table["photo"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert table["augmentation"].tolist() == ["noise", "blur"] * 3
    np.testing.assert_array_equal(table["rmse"], [np.nan, 0.2, 0.1, 0.4, 0.3, 0.6])
    summary = summarize(table, all_columns(), seed=0).set_index("augmentation")
    assert summary.index.tolist() == ["noise", "blur"]
    assert summary.loc["noise", "n"] == 2
    assert summary.loc["noise", "mean"] == pytest.approx(0.2)
    assert summary.loc["blur", "std"] == pytest.approx(pd.Series([0.6, 0.4, 0.2]).std())
    assert skipped_table(measured, photos).to_numpy().tolist() == [["a", "gone"]]


def of_measures(**measures: np.ndarray) -> pd.DataFrame:
    """A table of photos under one augmentation."""
    count = len(next(iter(measures.values())))
    keys = {"photo": [f"{i:03d}" for i in range(count)], "label": None, "augmentation": "noise"}
    return pd.DataFrame(keys | {"severity": "paper"} | measures)


def test_each_measure_has_the_interval_of_its_kind() -> None:
    rng = np.random.default_rng(0)
    shift, others = rng.lognormal(-3, 1, 40), rng.uniform(0.4, 0.6, 40)
    hit = np.where(np.arange(40) < 3, 1.0, 0.0)
    hit[39] = np.nan
    table = of_measures(
        cosine_similarity=1 - shift,
        relative_shift=shift / others.mean(),
        zero_shot_top1=hit,
        distance_to_others=others,
    )
    made = summarize(table, all_columns(), seed=3)
    assert made.index.tolist() == [0, 1, 2]
    summary = made.set_index("measure")
    assert list(summary.index) == ["cosine_similarity", "relative_shift", "zero_shot_top1"]
    ends = summary[["ci_low", "ci_high"]]
    wilson = stats.binomtest(3, 39).proportion_ci(0.95, method="wilson")
    assert ends.loc["zero_shot_top1"].tolist() == pytest.approx([wilson.low, wilson.high])
    np.testing.assert_allclose(ends.loc["cosine_similarity"], mean_interval(1 - shift, 3))
    values = relative_shift_values(shift / others.mean(), others)
    np.testing.assert_allclose(ends.loc["relative_shift"], mean_interval(values, 3))
    assert summary["n"].tolist() == [40, 40, 39]


def test_no_interval_reaches_beyond_what_a_measure_can_be() -> None:
    cosines = np.append(np.ones(9), 0.2)
    assert mean_interval(cosines, seed=0)[1] > 1
    assert (
        summarize(of_measures(cosine_similarity=cosines), all_columns(), seed=0)["ci_high"].item()
        == 1
    )
    ranking = rank_augmentations(of_measures(cosine_similarity=cosines), seed=0)
    assert ranking["ci_low"].item() == 0


def test_distances_are_means_over_photos_in_whatever_order_they_came() -> None:
    rng = np.random.default_rng(0)
    photos = [Photo(f"{i}", None) for i in range(8)]  # type: ignore[arg-type]
    own = rng.uniform(0, 1, (8, 3)).astype(np.float32)  # of the pairs ab, ac, bc

    def tables(order: list[int]) -> tuple[pd.DataFrame, ...]:
        measured = Measured(index=np.array(order), distances=own[order])
        return distance_tables(PhotoSample(measured, photos, dict.fromkeys("abc"), seed=0))

    made = tables(list(range(8)))
    for first, again in zip(made, tables([5, 0, 7, 1, 2, 6, 3, 4]), strict=True):
        pd.testing.assert_frame_equal(first, again, check_exact=True)
    mean, low, high = made
    assert mean.loc["c", "a"] == mean.loc["a", "c"] == pytest.approx(own[:, 1].mean())
    assert (np.diag(mean) == 0).all()
    ends = mean_interval(own[:, 2], seed=0)
    np.testing.assert_allclose([low.loc["b", "c"], high.loc["c", "b"]], ends)


def test_without_photos_no_distance_is_known() -> None:
    for table in distance_tables(PhotoSample(Measured(), [], dict.fromkeys("abcd"), seed=0)):
        assert np.isnan(table.to_numpy()[~np.eye(4, dtype=bool)]).all()


def test_a_photo_without_a_value_in_one_run_is_left_out_of_both() -> None:
    values = np.array([0.5, 0.6, 0.7, 0.8])
    gap = np.array([0.9, 0.9, np.nan, 0.9])
    row = compare_photos(
        of_measures(cosine_similarity=values),
        of_measures(cosine_similarity=gap),
        all_columns(),
        seed=0,
    ).iloc[0]
    assert row["n"] == 3
    assert row["mean_a"] == pytest.approx((0.5 + 0.6 + 0.8) / 3)
    assert row["difference"] == pytest.approx(row["mean_b"] - row["mean_a"])
    assert np.isfinite([row["ci_low"], row["ci_high"]]).all()


def test_paired_shares_are_tested_by_the_photos_that_changed() -> None:
    """Five against none among 500 photos: 0.058, where McNemar's exact test has 0.0625."""
    before, after = np.zeros(500), np.zeros(500)
    after[:5] = 1
    table = compare_photos(
        of_measures(zero_shot_top1=before, cosine_similarity=before),
        of_measures(zero_shot_top1=after, cosine_similarity=after * 0.1),
        all_columns(),
        seed=0,
    ).set_index("measure")
    share = table.loc["zero_shot_top1"]
    assert share["p"] == share_difference(after)[2] == pytest.approx(0.058, abs=0.001)
    assert share["ci_low"] < 0 < share["difference"] == 0.01 < share["ci_high"]
    np.testing.assert_allclose(
        table.loc["cosine_similarity", ["ci_low", "ci_high"]].astype(float),
        mean_interval(after * 0.1, 0),
    )
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    half = of_measures(retained=np.append(after[:20], 0.5))
    fractions = compare_photos(
        of_measures(retained=np.zeros(21)), half, all_columns(), seed=0
    ).iloc[0]
    np.testing.assert_allclose(
        fractions[["ci_low", "ci_high"]].astype(float), mean_interval(half["retained"], 0)
    )


def test_less_shift_is_better_and_less_change_of_the_gazes_entropy_in_either_direction() -> None:
    before = of_measures(
        cosine_similarity=np.full(10, 0.5),
        relative_shift=np.full(10, 0.5),
        gaze_entropy_change=np.full(10, -0.5),
        distance_to_others=np.full(10, 0.5),
    )
    after = of_measures(
        cosine_similarity=np.repeat([0.6, 0.4], [7, 3]),
        relative_shift=np.repeat([0.4, 0.6], [7, 3]),
        gaze_entropy_change=np.repeat([0.1, -0.6, 0.7], [7, 2, 1]),
        distance_to_others=np.full(10, 0.5),
    )
    table = compare_photos(before, after, all_columns(), seed=0)
    assert table["improved"].tolist() == [0.7] * 3
    assert table["worsened"].tolist() == [0.3] * 3


def test_paired_relative_shifts_let_both_spreads_vary() -> None:
    rng = np.random.default_rng(0)
    others = rng.uniform(0.3, 0.7, (2, 50))
    relative = 0.6 * (others - 0.25) + rng.normal(0, 0.005, (2, 50))
    relative[1, 7] = np.nan
    runs = [
        of_measures(relative_shift=r, distance_to_others=s)
        for r, s in zip(relative, others, strict=True)
    ]
    row = compare_photos(*runs, all_columns(), seed=0).iloc[0]
    both = np.arange(50) != 7
    a, b = (relative_shift_values(r[both], s[both]) for r, s in zip(relative, others, strict=True))
    assert row["difference"] == pytest.approx((b - a).mean())
    width, fixed = (np.ptp(mean_interval(v, 0)) for v in (b - a, (relative[1] - relative[0])[both]))
    assert row["ci_high"] - row["ci_low"] == pytest.approx(width, rel=0.1)
    assert width < fixed / 2


def test_group_means_are_of_photos() -> None:
    rng = np.random.default_rng(0)
    names = ["noise", "blur", "flip"]
    keys = pd.DataFrame(
        [(f"{i:02d}", None, name, "paper") for i in range(20) for name in names],
        columns=["photo", "label", "augmentation", "severity"],
    )
    a, b = (keys.assign(cosine_similarity=rng.uniform(size=60)) for _ in range(2))
    made = compare_photos(
        *(with_group_means(t, ["noise", "blur"]) for t in (a, b)), all_columns(), seed=0
    )
    row = made.set_index("augmentation").loc["mean of trained on"]
    change = (b["cosine_similarity"] - a["cosine_similarity"]).to_numpy().reshape(20, 3)
    assert row["difference"] == pytest.approx(change[:, :2].mean())
    assert row["improved"] == (change[:, :2].mean(axis=1) > 0).mean()
    assert row["n"] == 20
    three = with_group_means(a, ["noise"], ["flip", "noise"])[60:].set_index("augmentation")
    groups = {"trained on": "noise", "held out": "blur", "corruptions": "flip"}
    for group, name in groups.items():
        values = three.loc[f"mean of {group}", "cosine_similarity"]
        assert values.tolist() == a.loc[a["augmentation"] == name, "cosine_similarity"].tolist()
    assert with_group_means(a, []) is a
    assert with_group_means(a, names) is a


def test_fingerprint_depends_on_content_and_not_on_order() -> None:
    one = data_fingerprint([("a", b"x"), ("b", b"y")])
    assert one == data_fingerprint([("b", b"y"), ("a", b"x")])
    assert one != data_fingerprint([("a", b"x"), ("b", b"z")])


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "table.csv"
    target.write_text("old")

    def breaks(path) -> None:  # type: ignore[no-untyped-def]
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, breaks)
    assert target.read_text() == "old"
    # safetensors makes files that only their owner can read
    write_whole(tmp_path / "t.safetensors", lambda path: save_file({"a": np.ones(1)}, path))
    modes = {file.stat().st_mode & 0o777 for file in (target, tmp_path / "t.safetensors")}
    assert len(modes) == 1


def shifts(columns: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """A table of photos' shifts, by (augmentation, severity)."""
    parts = [
        pd.DataFrame(
            {
                "photo": [f"{i:03d}" for i in range(len(values))],
                "augmentation": name,
                "severity": severity,
                "cosine_similarity": 1 - values,
            }
        )
        for (name, severity), values in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_rows_of_all_severities_are_numbered_through() -> None:
    table = shifts({(n, s): np.linspace(0, 1, 5) for s in ("1", "2") for n in ("noise", "blur")})
    for made in (summarize(table, all_columns(), seed=0), rank_augmentations(table, seed=0)):
        assert made["severity"].tolist() == ["1", "1", "2", "2"]
        assert made.index.tolist() == [0, 1, 2, 3]


def test_ranking_calls_different_only_what_the_pairs_show() -> None:
    """Paired: a small but steady difference counts, however much photos differ."""
    rng = np.random.default_rng(0)
    photo = rng.uniform(0.1, 0.9, 200)
    noise = rng.normal(0, 0.01, (3, 200))
    table = shifts(
        {
            ("flip", "paper"): photo + noise[0],
            ("noise", "paper"): photo + 0.02 + noise[1],
            ("blur", "paper"): photo + noise[2],
        }
    )
    ranking = rank_augmentations(table, seed=0).set_index("augmentation")
    assert ranking.index[0] == "noise"
    assert ranking["rank"].tolist() == [1, 2, 3]
    assert ranking.loc["noise", ["rank_low", "rank_high"]].tolist() == [1, 1]
    assert ranking.iloc[1][["rank_low", "rank_high"]].tolist() == [2, 3]
    assert ranking["different"].tolist() == [True, False, False]
    assert ranking.loc["noise", "shift"] == pytest.approx(photo.mean() + 0.02, abs=0.005)
    # unpaired intervals would overlap: photos differ by ten times as much
    assert ranking["ci_low"].iloc[0] < ranking["ci_high"].iloc[1]


def test_a_difference_of_nothing_is_called_different_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    called = [
        rank_augmentations(
            shifts({(name, "paper"): rng.normal(0.5, 0.1, 60) for name in "ab"}), seed=s
        )["different"].iloc[0]
        for s in range(120)
    ]
    assert 0.01 <= np.mean(called) <= 0.11


def test_differences_in_a_ranking_are_to_the_next_below() -> None:
    rng = np.random.default_rng(0)
    means = {"flip": 0.1, "noise": 0.5, "blur": 0.3}
    values = {name: mean + rng.normal(0, 0.05, 40) for name, mean in means.items()}
    ranking = rank_augmentations(shifts({(n, "paper"): v for n, v in values.items()}), seed=0)
    assert ranking["augmentation"].tolist() == ["noise", "blur", "flip"]
    for row, (above, below) in enumerate((("noise", "blur"), ("blur", "flip"))):
        gap = values[above] - values[below]
        assert ranking.loc[row, "difference"] == pytest.approx(gap.mean())
        low, high = ranking.loc[row, ["difference_low", "difference_high"]].astype(float)
        alone = mean_interval(gap, 0)
        assert 0 < low < alone[0] < alone[1] < high  # it holds for all three pairs at once
    assert ranking.iloc[-1][["difference", "difference_low", "difference_high"]].isna().all()
    assert ranking[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 1], [2, 2], [3, 3]]


def test_a_photo_without_a_value_under_one_augmentation_counts_under_the_others() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.uniform(0.1, 0.9, (3, 30))
    b[4] = np.nan
    table = shifts({("a", "paper"): a, ("b", "paper"): b, ("c", "paper"): c})
    ranking = rank_augmentations(table, seed=0).set_index("augmentation")
    assert ranking["n"].to_dict() == {"a": 30, "b": 29, "c": 30}
    for name, values in (("a", a), ("b", b), ("c", c)):
        assert ranking.loc[name, "shift"] == pytest.approx(np.nanmean(values))
    order = ranking.index.tolist()
    pairs = {"a": a, "b": b, "c": c}
    for above, below in pairwise(order):
        gap = np.nanmean(pairs[above] - pairs[below])
        assert ranking.loc[above, "difference"] == pytest.approx(gap)


def test_columns_that_are_equal_are_not_told_apart() -> None:
    values = np.random.default_rng(0).uniform(size=(30, 1)).repeat(3, axis=1)
    assert not told_apart(studentize(values, 0, with_differences)[3:]).any()


def simulated_ranks(means: np.ndarray, runs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ends of rank intervals in simulated runs, by `rank_augmentations`' own steps."""
    rng = np.random.default_rng(1)
    for seed in range(runs):
        values = means * rng.lognormal(0, 0.5, (40, len(means)))
        signs = told_apart(studentize(values, seed, with_differences)[len(means) :])
        yield rank_intervals(len(means), pairs_of(len(means)), signs)


def test_ranks_of_equal_means_stay_open() -> None:
    """Of six equal means any may have any rank: one run in twenty says otherwise of any of them."""
    said = [(low > 1).any() or (high < 6).any() for low, high in simulated_ranks(np.ones(6), 200)]
    assert 0 < np.mean(said) <= 0.08


def test_what_is_above_is_above_all_that_are_below() -> None:
    """The noisy third of three is told apart from the second, and so is below the first as well."""
    low, high = rank_intervals(3, pairs_of(3), np.array([1, 0, 1]))
    assert low.tolist() == high.tolist() == [1, 2, 3]


def test_two_that_tie_for_the_first_place_share_it() -> None:
    """The one that chance puts first leads hardly ever, though all others are far behind."""
    claimed = []
    for low, high in simulated_ranks(np.array([6, 6, 2, 2, 1, 1]), 200):
        assert (high[:2] <= 2).all()
        claimed.append(low[:2].max() > 1)
    assert np.mean(claimed) <= 0.02


def test_agreement_of_rankings_is_kendalls() -> None:
    rng = np.random.default_rng(0)
    means = dict(zip("abcdef", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], strict=True))
    other = dict(zip("abcdef", [0.2, 0.1, 0.3, 0.6, 0.5, 0.4], strict=True))
    table = shifts(
        {(n, "paper"): m + rng.normal(0, 0.001, 50) for n, m in means.items()}
        | {(n, "matched"): m + rng.normal(0, 0.001, 50) for n, m in other.items()}
    )
    tau, low, high = ranking_agreement(table, ("paper", "matched"), seed=0)
    expected = stats.kendalltau(list(means.values()), list(other.values())).statistic
    assert (tau, low, high) == pytest.approx((expected, expected, expected))


def test_agreement_of_close_means_is_open() -> None:
    """Two of three pairs are told apart, and the third may have either order at each severity."""
    noise = np.random.default_rng(0).normal(0, 0.1, (60, 6))
    noise -= noise.mean(axis=0)
    for b, expected in ((0.21, 1), (0.19, 1 / 3)):
        means = [("a", 0.2), ("b", 0.21), ("c", 0.8)], [("a", 0.2), ("b", b), ("c", 0.8)]
        keys = [(n, s, m) for s, of in zip(("1", "2"), means, strict=True) for n, m in of]
        table = shifts({(n, s): m + noise[:, i] for i, (n, s, m) in enumerate(keys)})
        agreement = ranking_agreement(table, ("1", "2"), seed=0)
        assert agreement == pytest.approx((expected, 1 / 3, 1))
    rng = np.random.default_rng(0)
    one = ranking_agreement(shifts({("a", "1"): rng.uniform(0, 1, 9)}), ("1", "1"), seed=0)
    assert np.isnan(one).all()


def test_agreement_takes_the_same_photos_at_both_severities() -> None:
    """Two severities with the same shifts tell no less apart than one of them alone."""
    noise = stats.zscore(np.random.default_rng(0).normal(0, 1, 60), ddof=1)
    gap = noise + 2.1 / np.sqrt(60)  # 2.1 standard errors: 2.0 are enough for one, 2.3 for two
    table = shifts(
        {(n, s): v for s in ("paper", "matched") for n, v in (("a", gap), ("b", 0 * gap))}
    )
    assert ranking_agreement(table, ("paper", "matched"), seed=0) == (1, 1, 1)


def test_intervals_at_matched_severity_hold_the_calibration_photos_as_well() -> None:
    """By the delta method, of normal values; and at no other severity."""
    rng = np.random.default_rng(0)
    a, b = rng.normal([[0.4], [0.35]], 0.05, (2, 900))
    both = {("a", "matched"): a, ("b", "matched"): b}
    relative = dict(zip("ab", rng.normal(0, 0.5, (2, 100)), strict=True))
    relative = {name: values - values.mean() for name, values in relative.items()}
    table = shifts(both | {("a", "paper"): a, ("b", "paper"): b})
    matching = Matching(relative)
    plain = rank_augmentations(table, 0).set_index(["severity", "augmentation"])
    made = rank_augmentations(table, 0, matching).set_index(["severity", "augmentation"])
    pd.testing.assert_frame_equal(made.loc["paper"], plain.loc["paper"])
    assert made["shift"].equals(plain["shift"])
    pushed = [values.mean() * relative[name] for name, values in (("a", a), ("b", b))]
    for name, values, push in (("a", a, pushed[0]), ("b", b, pushed[1])):
        half = 1.96 * np.sqrt(values.var(ddof=1) / 900 + push.var(ddof=1) / 100)
        row = made.loc["matched", name]
        assert [row["shift"] - row["ci_low"], row["ci_high"] - row["shift"]] == pytest.approx(
            [half, half], rel=0.06
        )
    gap = 1.96 * np.sqrt((a - b).var(ddof=1) / 900 + (pushed[0] - pushed[1]).var(ddof=1) / 100)
    row = made.loc["matched", "a"]
    assert row["difference_high"] - row["difference"] == pytest.approx(gap, rel=0.06)
    assert (
        plain.loc["matched", "a"]["rank_high"] == 1
    )  # certain, without the calibration photos' share
    assert row[["rank_low", "rank_high", "different"]].tolist() == [1, 2, False]
    assert ranking_agreement(table, ("paper", "matched"), 0) == (1, 1, 1)
    assert ranking_agreement(table, ("paper", "matched"), 0, matching) == (1, -1, 1)
    columns = {"cosine_similarity": all_columns()["cosine_similarity"]}
    summary = summarize(table, columns, 0, matching).set_index(["severity", "augmentation"])
    for key, row in made.iterrows():
        ends = 1 - summary.loc[key, ["ci_high", "ci_low"]].astype(float)
        np.testing.assert_allclose(row[["ci_low", "ci_high"]].astype(float), ends)


def test_a_share_that_is_exact_adds_nothing_to_intervals() -> None:
    """Of 400 photos 160 are moved, by 0.5 ± 0.05: the mean's error is that of these alone."""
    rng = np.random.default_rng(0)
    changed = rng.permutation(400) < 160
    values = np.where(changed, rng.normal(0.5, 0.05, 400), 0)
    table = shifts({("flip", "matched"): values, ("flip", "paper"): values})
    made = rank_augmentations(table, 0, Matching(changed={"flip": changed})).set_index("severity")
    assert made["shift"].tolist() == pytest.approx([values.mean()] * 2)
    exact = 1.96 * 0.4 * values[changed].std() / np.sqrt(160)
    left = 1.96 * values.std() / np.sqrt(400)
    half = (made["ci_high"] - made["ci_low"]) / 2
    assert half.to_dict() == pytest.approx({"matched": exact, "paper": left}, rel=0.06)


def test_shown_photos_are_the_extreme_and_the_typical() -> None:
    shifts = np.arange(10) / 10
    keys = {"label": None, "augmentation": "noise", "severity": "paper"}
    ids = {"photo": [f"{i}" for i in range(10)]}
    table = pd.DataFrame(ids | keys | {"cosine_similarity": 1 - shifts})
    assert shown_photos(table, 6) == {
        "9": "most", "8": "most", "5": "typical", "4": "typical", "1": "least", "0": "least",
    }  # fmt: skip
    assert list(shown_photos(table, 24)) == [f"{i}" for i in range(10)][::-1]
    assert list(shown_photos(table.drop(columns="cosine_similarity"), 2)) == ["0", "1"]


@pytest.mark.filterwarnings("error")
def test_correlations_are_spearmans_of_what_is_lost() -> None:
    rng = np.random.default_rng(0)
    table = shifts({("noise", "paper"): rng.uniform(0, 1, 80)})
    similar = {"ssim": 0.2, "edge_preservation": 0.5, "detail_preservation": 2}
    for name, spread in similar.items():
        table[name] = table["cosine_similarity"] + rng.normal(0, spread, 80)
    table["rmse"] = 1 - table["cosine_similarity"] + rng.normal(0, 0.3, 80)
    table["brightness"] = 0.5
    made = correlate(table, all_columns()).set_index("with")
    assert set(made.index) == {"rmse", "ssim_loss", "edge_loss", "detail_loss", "brightness"}
    for row, column, sign in (
        ("rmse", "rmse", -1),
        ("ssim_loss", "ssim", 1),
        ("edge_loss", "edge_preservation", 1),
        ("detail_loss", "detail_preservation", 1),
    ):
        expected = stats.spearmanr(table["cosine_similarity"], table[column])
        assert made.loc[row, "rho"] == pytest.approx(sign * expected.statistic)
        assert made.loc[row, "p"] == pytest.approx(expected.pvalue)
        assert made.loc[row, "ci_low"] < sign * expected.statistic < made.loc[row, "ci_high"]
    assert made.loc["brightness"].drop(["augmentation", "severity", "n"]).isna().all()


def test_correlations_are_corrected_for_all_of_their_severity() -> None:
    rng = np.random.default_rng(0)
    table = shifts(
        {(n, s): rng.uniform(0, 1, 30) for s in ("1", "2") for n in ("noise", "blur")}
    ).assign(rmse=rng.uniform(0, 1, 120), contrast=rng.uniform(0, 1, 120), brightness=0.5)
    made = correlate(table, all_columns())
    for _, rows in made.groupby("severity"):
        known = rows.dropna()
        assert len(known) == 4
        np.testing.assert_allclose(known["p_holm"], holm(known["p"].to_numpy()))
    assert (made["p_holm"].dropna() >= made["p"].dropna()).all()


def test_two_values_are_enough_for_a_correlation() -> None:
    """Of a table of two by two, where Spearman's ρ is Pearson's φ."""
    moved, distorted = np.repeat([[1, 1, 0, 0], [1, 0, 1, 0]], [5, 2, 1, 4], axis=1)
    table = of_measures(cosine_similarity=1 - moved / 4, rmse=distorted / 8)
    row = correlate(table, all_columns()).iloc[0]
    assert row["rho"] == pytest.approx((5 * 4 - 2 * 1) / np.sqrt(7 * 5 * 6 * 6))


@pytest.mark.parametrize(("photos", "known"), [(3, False), (4, True)])
def test_correlations_take_four_photos(photos: int, known: bool) -> None:
    table = of_measures(cosine_similarity=np.arange(photos) / 8, rmse=np.arange(photos) ** 2 / 16)
    row = correlate(table, all_columns()).iloc[0]
    assert row["n"] == photos
    assert np.isfinite(row[["rho", "ci_low", "p"]].astype(float)).all() == known


# --- records on the disk -------------------------------------------------------------------------


def batch(*photos: int, skipped: list[Skipped] | None = None) -> Measured:
    """What was measured of some photos: all of it tells which photo it is of."""
    rows = np.array(photos, float)
    kept = {"clean": {photo: np.full((2, 2), photo) for photo in photos if photo < 2}}
    return Measured(
        index=np.array(photos, np.int64),
        values={("noise", "rmse"): rows / 8, ("blur", "ssim"): -rows},
        digests=np.repeat(rows[:, None], 32, axis=1).astype(np.uint8),
        distances=np.stack([rows, rows + 1], axis=1).astype(np.float32),
        layers=rows[:, None, None] * np.ones((1, 3, 2)),
        embeddings={"clean": rows[:, None] * np.ones(4, np.float32)},
        gallery=kept if kept["clean"] else {},
        skipped=skipped or [],
        seconds={"encode": 0.25},
    )


def test_records_are_read_in_the_order_of_photos_in_whatever_order_they_were_written(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path)
    assert records.begin({"seed": 1}, restart=False) == []
    for part in (batch(5, 3), batch(0, 6, skipped=[Skipped(4, "broken")]), batch(2, 1)):
        records.add(part)
    (records.folder / "000000007.safetensors").write_bytes(b"cut by a power failure")
    read, photos = records.read(), [0, 1, 2, 3, 5, 6]
    whole = batch(*photos)
    for name in ("index", "digests", "distances", "layers"):
        np.testing.assert_array_equal(getattr(read, name), getattr(whole, name))
    for kind in ("values", "embeddings"):
        np.testing.assert_equal(getattr(read, kind), getattr(whole, kind))
    np.testing.assert_equal(read.gallery, whole.gallery)
    assert read.skipped == [Skipped(4, "broken")]
    assert read.seconds == {"encode": 0.75}
    assert records.photos() == read.photos == {*photos, 4}


def test_values_are_sorted_a_few_photos_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipshift.results.records.PHOTOS_PER_CHUNK", 2)
    records, order = Records(tmp_path), [2, 6, 0, 3, 5]
    records.begin({}, restart=True)
    for photos in ((5, 3), (0, 6), (2,)):
        records.add(batch(*photos))

    def complete(part: Measured) -> None:
        part.values["blur", "twice"] = 2.0 * part.index

    parts = list(records.sorted_values(np.array(order), complete))
    assert [part.index.tolist() for part in parts] == [[2, 6], [0, 3], [5]]
    whole = {key: np.concatenate([part.values[key] for part in parts]) for key in parts[0].values}
    expected = {
        ("noise", "rmse"): np.array(order) / 8,
        ("blur", "ssim"): -np.array(order, float),
        ("blur", "twice"): 2.0 * np.array(order),
    }
    np.testing.assert_equal(whole, expected)


def test_of_no_photos_there_is_a_part_without_rows(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.begin({}, restart=True)
    [part] = records.sorted_values(np.empty(0, int), lambda part: None)
    assert (len(part.index), part.values) == (0, {})


@pytest.mark.parametrize("tensor", ["values", "gallery"])
def test_a_record_that_lacks_what_its_names_promise_is_removed(tensor: str, tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.begin({}, restart=True)
    records.add(batch(0, 1))
    [file] = records.folder.glob("[0-9]*")
    with safe_open(file, "np") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file(tensors | {tensor: tensors[tensor][:1]}, file, metadata)
    records.settle(layers=False)
    assert records.photos() == set()
    assert not file.exists()


def test_records_are_gone_on_with_by_the_same_options_alone(tmp_path: Path) -> None:
    options = {"seed": 1, "aug": ["noise"]}
    Records(tmp_path).begin(options, restart=False)
    Records(tmp_path).add(batch(0))
    assert Records(tmp_path).begin(options, restart=False) == []
    assert Records(tmp_path).begin(options | {"seed": 2}, restart=False) == ["seed"]
    assert Records(tmp_path).photos() == {0}
    assert Records(tmp_path).begin(options | {"seed": 2}, restart=True) == []
    assert Records(tmp_path).photos() == set()
    assert (
        Records(tmp_path).begin(options, restart=False) == []
    )  # without records, any options will do
    Records(tmp_path).add(batch(0))
    (tmp_path / "measured/options.json").unlink()
    assert Records(tmp_path).begin(options, restart=False) == []
    assert Records(tmp_path).photos() == set()


@pytest.mark.parametrize("layers", [False, True])
def test_a_run_goes_on_from_photos_whose_layers_are_in_a_sum(layers: bool, tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.begin({}, restart=True)
    gone = batch(8, skipped=[Skipped(9, GONE)])
    for part in (batch(0, 2), batch(1), batch(3, 5), gone):
        records.add(part)
    for rank, photos in enumerate(([0, 2], [1])):
        records.add_sums({"xx": torch.tensor(2.0 + 3 * rank)}, photos, rank)
    records.settle(layers)
    assert records.photos() == ({0, 1, 2} if layers else {0, 1, 2, 3, 5})
    records.add_sums({"xx": torch.tensor(10.0)}, [3], 0 if layers else 2)
    assert records.sums()["xx"] == 17
    assert sorted(records.sums()["photos"].tolist()) == [0, 1, 2, 3]
    records.settle(layers=True)  # where a sum holds a photo of no batch, it says nothing
    assert records.photos() == (set() if layers else {0, 1, 2})


def test_the_latest_sum_of_a_process_counts_alone(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.begin({}, restart=True)
    records.gather()  # of a single process there is nothing to bring
    for photos in ([0], [0, 1]):
        records.add_sums({"xx": torch.tensor(float(len(photos)))}, photos, rank=1)
    assert records.sums()["xx"] == 2
    assert records.own == ["sums-1.safetensors"]


class TwoProcesses:
    """What records need of ``torch.distributed``, between two threads."""

    def __init__(self) -> None:
        self.barrier, self.own, self.given = Barrier(2), local(), [None, None]
        self.sent: Queue[torch.Tensor] = Queue()

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return self.own.rank

    def new_group(self, backend: str) -> str:
        return backend

    def send(self, tensor: torch.Tensor, receiver: int, group: str) -> None:
        assert receiver == 0
        self.sent.put(tensor)

    def recv(self, tensor: torch.Tensor, sender: int, group: str) -> None:
        tensor.copy_(self.sent.get())

    def all_gather_object(self, gathered: list, given: Any) -> None:
        self.given[self.own.rank] = given
        self.barrier.wait()
        gathered[:] = self.given
        self.barrier.wait()

    def broadcast_object_list(self, objects: list) -> None:
        both = [None, None]
        self.all_gather_object(both, list(objects))
        objects[:] = both[0]


def test_records_on_another_disk_are_brought_to_the_first_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = TwoProcesses()
    monkeypatch.setattr("clipshift.results.records.dist", processes)

    def measure(rank: int) -> Records:
        processes.own.rank = rank
        records = Records(tmp_path / f"disk {rank}")
        records.begin({}, restart=True)
        records.add(batch(rank, rank + 2))
        records.gather()
        return records

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(measure, range(2))
    assert first.read().index.tolist() == [0, 1, 2, 3]
    assert second.read().index.tolist() == [1, 3]


# --- a run's files -------------------------------------------------------------------------------


def small_run(folder: Path, **changes: Any) -> Run:
    """Ten photos under noise, with ``changes`` of `run_info`."""
    shift = of_measures(cosine_similarity=np.linspace(0, 0.9, 10)).assign(severity="1", label="x")
    names = ["clean", "noise"]
    distances = pd.DataFrame([[0.0, 0.5], [0.5, 0.0]], pd.Index(names, name="augmentation"))
    return Run(
        folder,
        run_info(**changes),
        {"cosine_similarity": all_columns()["cosine_similarity"]},
        shift,
        skipped=skipped_table(Measured(), []),
        summary=summarize(shift, all_columns(), seed=0),
        ranking=rank_augmentations(shift, seed=0),
        distances=distances.set_axis(names, axis=1),
    )


def test_facts_are_written_as_they_were_given() -> None:
    """No defaults are added, and what a user's own parts add to the options is kept."""
    facts = run_facts(config={"compare": None, "own": {"_target_": "mine.Part"}}, data={})
    assert RunInfo.model_validate(facts).as_json() == facts
    assert RunInfo.model_validate_json(json.dumps(facts), strict=True).as_json() == facts


def test_facts_of_earlier_versions_are_read() -> None:
    info = run_info(model={"gaze": True})
    assert (info.model.gaze, info.model.gaze_layer, info.config.inside) == (
        "attention",
        None,
        False,
    )
    assert run_info(model={"gaze": False}).model.gaze is None
    assert (info.data.classes, info.data.shown_sha256, info.by_class) == ([], {}, False)
    assert run_info(config={"prompts": {"templates": ["a {}"]}}).prompts == ["a {}"]


@pytest.mark.parametrize("change", [
    {"evil": 1}, {"data": {"evil": 1}}, {"versions": {"torch": "2.9"}}, {"seed": -1},
    {"model": {"name": "\n"}}, {"model": {"weights_sha256": "0"}}, {"strengths": {"noise": None}},
    {"config": {"data": {"resize": "crop"}}}, {"floor": {"noise": {"paper": {"p95": 0.1}}}},
])  # fmt: skip
def test_facts_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        run_info(**change)


def test_facts_travel_with_the_table(tmp_path: Path) -> None:
    keys = {"photo": ["a"], "augmentation": ["noise"], "severity": ["paper"]}
    shift = pd.DataFrame({**keys, "l2_distance": [1.0], "gaze_entropy_change": [0.0]})
    write_shift(tmp_path / "shift.parquet", [shift], all_columns())
    file = ShiftFile(tmp_path / "shift.parquet")
    pd.testing.assert_frame_equal(file.read(), shift)
    assert file.facts == {
        name: all_columns()[name] for name in ("l2_distance", "gaze_entropy_change")
    }


def test_a_column_of_the_file_is_that_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in two parts, of which the first has no labels."""
    rng = np.random.default_rng(0)
    keys = [(f"{i}.jpg", None if i < 3 else f"class {i % 2}") for i in range(7)]
    rows = [
        (*key, *variant) for key in keys for variant in (("noise", "1"), ("noise", "2"), ("a", "1"))
    ]
    table = pd.DataFrame(rows, columns=["photo", "label", "augmentation", "severity"])
    table["rmse"], table["ssim"] = rng.random((2, 21))
    table.loc[4, "ssim"] = np.nan
    write_shift(tmp_path / "shift.parquet", [table[:9], table[9:]], all_columns())
    file = ShiftFile(tmp_path / "shift.parquet")
    pd.testing.assert_frame_equal(file.read(), table, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "shift.parquet"), file.read())
    for measure in ("rmse", "ssim"):
        own, other = by_photo(file, measure), by_photo(table, measure)
        np.testing.assert_array_equal(own, table[measure].to_numpy().reshape(7, 3))
        pd.testing.assert_frame_equal(own, other, check_index_type=False, check_column_type=False)
    assert [*labels_of(file).items()][3:] == [*labels_of(table).items()][3:]
    assert labels_of(file).isna().tolist() == [True] * 3 + [False] * 4
    assert file.head(2)["rmse"].tolist() == table["rmse"].tolist()[:2]
    assert (len(file), list(file), file.empty) == (21, list(table), False)
    whole = summarize(table, all_columns(), 0)
    pd.testing.assert_frame_equal(summarize(file, all_columns(), 0), whole)
    monkeypatch.setattr("clipshift.results.table.COLUMNS_PER_CHUNK", 1)
    pd.testing.assert_frame_equal(summarize(file, all_columns(), 0), whole)


def test_a_spreadsheet_takes_no_cell_for_a_formula(tmp_path: Path) -> None:
    names = ["=1+1.jpg", "+1.jpg", "-1.jpg", "@SUM(A1).jpg", "\t=1.jpg", "a=1.jpg"]
    write_csv(tmp_path / "t.csv", pd.DataFrame({"photo": names, "value": [-1.5] * 6}))
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table["photo"]) == [f"'{name}" for name in names[:-1]] + names[-1:]
    assert list(table["value"]) == [-1.5] * 6


def test_a_run_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    written = small_run(tmp_path)
    write_shift(tmp_path / "shift.parquet", [written.shift], written.columns)
    write_run(written)
    read = read_run(tmp_path)
    for name in ("shift", "summary", "ranking", "distances"):
        pd.testing.assert_frame_equal(
            getattr(read, name), getattr(written, name), check_dtype=False, rtol=1e-8
        )
    assert read.columns == written.columns
    assert list(read.skipped) == ["photo", "reason"]
    assert read.correlations.empty
    assert not (tmp_path / "correlations.csv").exists()
    files = {file.name for file in tmp_path.iterdir()} - {"run.json"}
    assert set(read.info.sha256) == files
    for name in files:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-1] + b"?")
        with pytest.raises(UserError, match=f"{name} is not what the run wrote"):
            read_run(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match="no finished run"):
            read_run(tmp_path)
        (tmp_path / name).write_bytes(content)
    clear_results(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_interrupted_or_measured_nothing_is_none(tmp_path: Path) -> None:
    interrupted = small_run(tmp_path, complete=False)
    write_shift(tmp_path / "shift.parquet", [interrupted.shift], interrupted.columns)
    write_run(interrupted)
    with pytest.raises(UserError, match="was interrupted: run it again"):
        read_run(tmp_path)
    for content in ("{", "[]", "{}"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(UserError, match="no finished run"):
            read_run(tmp_path)
    empty = small_run(tmp_path)
    write_shift(tmp_path / "shift.parquet", [empty.shift[:0]], empty.columns)
    write_run(empty)
    with pytest.raises(UserError, match="measured no photo"):
        read_run(tmp_path)


def test_a_run_says_how_its_rankings_agree_and_what_its_model_was_trained_on() -> None:
    agreement = {"tau": 0.5, "ci_low": None, "ci_high": 1}
    run = small_run(Path(), paper_and_matched=agreement, model={"trained_on": ["blur"]})
    assert run.agreement == pytest.approx((0.5, np.nan, 1), nan_ok=True)
    assert run.trained_on == ["blur"]
    assert small_run(Path()).agreement is None
    assert small_run(Path()).trained_on == []


@pytest.mark.parametrize(("change", "told"), [
    ({"data": {"fingerprint": "0" * 64, "photos": 10}}, "their photos (40 and 10, or others)"),
    ({"config": {"seed": 1}}, "seed (0 and 1)"),
    ({"config": {"aug": {}}}, "aug"),
    ({"config": {"data": {"_target_": "clipshift.data.sample", "resize": "crop"}}},
     "data.resize (squash and crop)"),
    ({"strengths": {"noise": 2}}, "the strengths of their augmentations"),
])  # fmt: skip
def test_runs_of_other_views_say_in_what_they_differ(change: dict[str, Any], told: str) -> None:
    one = small_run(Path())
    assert differing_views(one, small_run(Path())) == []
    assert differing_views(one, small_run(Path(), **change)) == [told]
    other = small_run(Path())
    other.rows = other.rows.assign(severity="2")
    assert differing_views(one, other) == ["their augmentations or severities"]


def test_tensors_hold_the_first_photos_under_their_ids(tmp_path: Path) -> None:
    photos = [Photo(f"{i}.jpg", None) for i in range(4)]  # type: ignore[arg-type]
    maps = {
        view: {i: np.full((2, 2), 10 * k + i) for i in (3, 1, 0)}
        for k, view in enumerate(("clean", "noise"))
    }
    embeddings = {"clean": np.eye(3)}
    measured = Measured(np.array([0, 1, 3]), embeddings=embeddings, views=maps, gazes=maps)
    write_tensors(tmp_path, measured, photos, SaveOptions(), shown=[])
    assert list(tmp_path.iterdir()) == []
    assert read_kept(tmp_path) == {}
    measured.embeddings = embeddings | {"noise": -np.eye(3)}
    write_tensors(tmp_path, measured, photos, SaveOptions(views=1, gaze=2), shown=[])
    gazes = read_kept(tmp_path)
    assert {photo: {v: m[0, 0] for v, m in by.items()} for photo, by in gazes.items()} == {
        "0.jpg": {"clean": 0, "noise": 10},
        "1.jpg": {"clean": 1, "noise": 11},
    }
    for name, ids in (("embeddings", ["0.jpg", "1.jpg", "3.jpg"]), ("views", ["0.jpg"])):
        with safe_open(tmp_path / f"{name}.safetensors", "np") as stored:
            assert json.loads(stored.metadata()["photos"]) == ids
            assert len(stored.get_tensor("noise")) == len(ids)
    (tmp_path / "gaze.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot read"):
        read_kept(tmp_path)


def test_nearest_classes_are_read_as_they_were_written(tmp_path: Path) -> None:
    photos = [Photo(f"{i}.jpg", None) for i in range(3)]  # type: ignore[arg-type]
    classes = {i: np.array([[2, 0.5 + i], [0, 0.25]]) for i in (2, 0)}
    nearest = {"clean": classes, "noise": classes}
    measured = Measured(np.arange(3), nearest=nearest)
    write_nearest(tmp_path, measured, photos, ["cat", "cow", "dog"], shown=["1.jpg"])
    assert list(tmp_path.iterdir()) == []
    assert read_nearest(tmp_path) == {}
    write_nearest(tmp_path, measured, photos, ["cat", "cow", "dog"], shown=["1.jpg", "2.jpg"])
    rows = [("dog", 2.5), ("cat", 0.25)]
    assert read_nearest(tmp_path) == {"2.jpg": {"clean": rows, "noise": rows}}
    for content in ("{", "[]", '{"2.jpg": {"clean": 1}}', '{"2.jpg": {"clean": [1]}}'):
        (tmp_path / "nearest.json").write_text(content)
        with pytest.raises(UserError, match="cannot read"):
            read_nearest(tmp_path)
