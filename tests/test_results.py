"""Summaries and intervals against numpy and the normal theory."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipshift.augment import make_variants
from clipshift.data import Photo, Skipped
from clipshift.results import (
    Measured,
    correlate,
    extreme_photos,
    mean_interval,
    rank_augmentations,
    ranking_agreement,
    shift_table,
    skipped_table,
    summarize,
)
from clipshift.results.files import data_fingerprint, write_whole
from clipshift.results.ranking import spearman_interval


def test_interval_is_that_of_plain_resampling_and_near_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = mean_interval(values, seed=5)
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 400).mean() for _ in range(4000)]
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.04)
    half = 1.96 * stats.sem(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)
    assert mean_interval(values, seed=5) == (low, high)
    assert np.isnan(mean_interval(values[:1], seed=5)).all()


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = [low <= 1 <= high for low, high in (
        mean_interval(rng.exponential(1, 200), seed=s) for s in range(200)
    )]  # fmt: skip
    assert 0.90 <= np.mean(covered) <= 0.99


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
    summary = summarize(table, seed=0).set_index("augmentation")
    assert summary.index.tolist() == ["noise", "blur"]
    assert summary.loc["noise", "n"] == 2
    assert summary.loc["noise", "mean"] == pytest.approx(0.2)
    assert summary.loc["blur", "std"] == pytest.approx(pd.Series([0.6, 0.4, 0.2]).std())
    assert skipped_table(measured, photos).to_numpy().tolist() == [["a", "gone"]]


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
        for s in range(200)
    ]
    assert 0.01 <= np.mean(called) <= 0.11


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


def test_correlations_are_spearmans_of_what_is_lost() -> None:
    rng = np.random.default_rng(0)
    table = shifts({("noise", "paper"): rng.uniform(0, 1, 80)})
    table["ssim"] = table["cosine_similarity"] + rng.normal(0, 0.2, 80)
    table["brightness"] = 0.5
    made = correlate(table).set_index("cause")
    expected = stats.spearmanr(table["cosine_similarity"], table["ssim"]).statistic
    assert made.loc["ssim", "rho"] == pytest.approx(expected)
    assert made.loc["ssim", "ci_low"] < expected < made.loc["ssim", "ci_high"]
    assert made.loc["brightness"].isna().any()


def test_spearman_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's rho of a normal pair with r = 0.6
    pairs = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], (1000, 60))
    intervals = [spearman_interval(stats.spearmanr(p).statistic, 60) for p in pairs]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_extreme_photos_and_the_variant_that_moved_them() -> None:
    """As the page says it: by the mean shift, each with its view of the lowest cosine."""
    weak, strong = np.linspace(0.1, 0.2, 10), np.full(10, 0.9)
    weak[5], strong[5] = 1.2, 0.3  # mean 0.75: farther than any other but the next
    strong[3] = 1.7
    made = extreme_photos(shifts({("blur", "paper"): weak, ("noise", "paper"): strong}), 3)
    assert made["most"] == [
        ("003", "noise", "paper"), ("005", "blur", "paper"), ("009", "noise", "paper"),
    ]  # fmt: skip
    assert [photo for photo, *_ in made["least"]] == ["000", "001", "002"]
    few = extreme_photos(shifts({("a", "1"): weak}), 20)
    assert len(few["most"]) == len(few["least"]) == 5
