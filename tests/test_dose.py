"""Dose and response: isotonic curves, the distance of near photos, and where a curve reaches it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression

import clipshift
from clipshift.api import Result
from clipshift.measure.embeddings import distance_quantile
from clipshift.report.sections.ranking import dose_section
from clipshift.results import intervals
from clipshift.results.dose import STEPS, dose_curves
from clipshift.results.intervals import RESAMPLES, resampled_sums


@pytest.fixture(scope="module")
def result() -> Result:
    return clipshift.measure_shift(
        model="tiny",
        augmentations=["noise", "blur"],
        severities=[1, 5],
        measures=["cosine_similarity", "ssim"],
        limit=8,
        progress=False,
    )


def shift_of(distortion: np.ndarray, moved: np.ndarray) -> pd.DataFrame:
    """Rows of photos (N) at severities (S) under one augmentation."""
    photos, severities = distortion.shape
    return pd.DataFrame({
        "photo": np.repeat([f"{photo:03d}" for photo in range(photos)], severities),
        "augmentation": "blur",
        "severity": np.tile([str(step + 1) for step in range(severities)], photos),
        "ssim": 1 - distortion.ravel(),
        "cosine_similarity": 1 - moved.ravel(),
    })  # fmt: skip


def test_a_curve_is_the_isotonic_regression_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    distortion = rng.uniform(0, 0.8, size=(40, 3))
    moved = np.clip(0.4 * distortion + 0.2 * rng.normal(size=distortion.shape), 0, 2)
    curve, _ = dose_curves(shift_of(distortion, moved), "ssim", 1, 0.1, np.zeros(40), 0)
    on_grid = (np.rint(distortion * STEPS) / STEPS).ravel()
    reference = IsotonicRegression().fit(on_grid, moved.ravel())
    assert np.allclose(curve["mean"], reference.predict(curve["distortion"]))
    assert (curve["ci_low"] <= curve["mean"]).all()
    assert (curve["mean"] <= curve["ci_high"]).all()
    assert (curve[["mean", "ci_low", "ci_high"]].diff().dropna() >= -1e-12).all(axis=None)


def test_a_known_threshold_is_found_or_blank_with_its_reason() -> None:
    rng = np.random.default_rng(1)
    distortion = np.rint(100 * rng.uniform(0.1, 0.6, size=(60, 4))) / 100
    shift = shift_of(distortion, 0.5 * distortion)
    expected = {0.15: (0.3, ""), 0.5: (np.nan, "not reached"), 0.01: (np.nan, "exceeded")}
    for level, (threshold, reason) in expected.items():
        _, table = dose_curves(shift, "ssim", 1, level, np.zeros(60), 0)
        [row] = table.itertuples()
        # Of a level that all photos change by as much, no resample differs.
        alike = dose_curves(shift, "ssim", 1, level, np.full(60, 7.0), 0)[1]
        pd.testing.assert_frame_equal(alike, table)
        assert row.distortion == pytest.approx(threshold, abs=1e-9, nan_ok=True)
        assert row.ci_low == pytest.approx(threshold, abs=1e-9, nan_ok=True)
        assert row.reason.startswith(reason)
        assert bool(row.reason) == bool(reason)
    one = shift[shift["severity"] == "1"]
    assert [len(table) for table in dose_curves(one, "ssim", 1, 0.1, np.zeros(60), 0)] == [0, 0]


def test_the_interval_of_a_threshold_covers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        distortion = rng.uniform(0.7, 1.3, size=(50, 1)) * [0.1, 0.25, 0.4, 0.55]
        scale = np.exp(0.3 * rng.normal(size=(50, 1)) - 0.045)  # of mean 1
        table = shift_of(distortion, 0.5 * distortion * scale)
        [row] = dose_curves(table, "ssim", 1, 0.15, np.zeros(50), seed)[1].itertuples()
        covered.append(row.ci_low <= 0.3 <= row.ci_high)
    assert np.mean(covered) >= 0.87  # of 0.95: three standard errors


def test_a_quantile_of_distances_varies_as_its_influences_say() -> None:
    rng = np.random.default_rng(2)
    photos = rng.normal(size=(150, 6)) + 0.7
    value, influence = distance_quantile(photos, 0.05)
    cosines = np.corrcoef(np.hstack([photos, -photos]))[np.triu_indices(150, 1)]  # of mean 0
    assert value == pytest.approx(np.quantile(1 - cosines, 0.05))
    drawn = [distance_quantile(photos[rng.permutation(150)[:75]], 0.05)[0] for _ in range(300)]
    # of half the photos without replacement, the variance is that of all with replacement
    assert np.std(drawn) == pytest.approx(np.std(influence) / np.sqrt(150), rel=0.2)


def test_resampled_sums_are_those_of_photos_or_whole_groups() -> None:
    values = np.random.default_rng(3).normal(size=(300, 2))
    sums = resampled_sums(values, 0)
    assert sums.shape == (1 + RESAMPLES, 2)
    assert np.allclose(sums[0], values.sum(axis=0))
    assert np.allclose(sums[1:].std(axis=0), np.sqrt(300) * values.std(axis=0), rtol=0.1)
    assert np.array_equal(sums, resampled_sums(values, 0, np.arange(300)))
    pairs = np.repeat(np.arange(150), 2)
    grouped = values.reshape(150, 2, 2).sum(axis=1)
    assert np.allclose(resampled_sums(values, 0, pairs), resampled_sums(grouped, 0))


def test_a_run_has_its_curves_on_its_page(result: Result) -> None:
    dose, thresholds = result.dose, result.run.dose_thresholds
    assert set(dose["augmentation"]) == {"noise", "blur"}
    assert set(thresholds["measure"]) == {"ssim"}
    assert thresholds["level"].nunique() == 1
    read = clipshift.load_run(result.run.folder)
    pd.testing.assert_frame_equal(read.dose, dose, rtol=1e-8)
    section = dose_section(read.run)
    assert section is not None
    assert [row[0].text for row in section.tables[0].rows] == ["noise", "blur"]
    assert {"rule", "area", "line"} <= {
        layer["mark"]["type"] for layer in section.figures[0].drawn["layer"]
    }
