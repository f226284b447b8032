"""Summaries and intervals against numpy and the normal theory."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipshift.data import Photo, Skipped
from clipshift.results import Measured, mean_interval, shift_table, skipped_table, summarize
from clipshift.results.files import data_fingerprint, write_whole


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
    table = shift_table(measured, photos)
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
    photos = [Photo(id, None) for id in ("a", "b")]  # type: ignore[arg-type]
    one = data_fingerprint(Measured(index=[0, 1], digests=[b"x", b"y"]), photos)
    assert one == data_fingerprint(Measured(index=[1, 0], digests=[b"y", b"x"]), photos)
    assert one != data_fingerprint(Measured(index=[0, 1], digests=[b"x", b"z"]), photos)


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "table.csv"
    target.write_text("old")

    def breaks(path) -> None:  # type: ignore[no-untyped-def]
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, breaks)
    assert target.read_text() == "old"
