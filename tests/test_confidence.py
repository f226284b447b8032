"""Calibration, selective classification and retrieval against their definitions in plain loops."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from support.augmentations import augmentations_named
from torchmetrics.classification import BinaryCalibrationError

from clipshift.augment.variants import make_variants
from clipshift.data.photos import Photo
from clipshift.evaluate.retrieval import retrieval_table
from clipshift.measure import confidence as measures
from clipshift.measure.embeddings import percentile_shift, recall_hits
from clipshift.measure.whitening import shrunk_covariance, whitened_shift
from clipshift.measure.zero_shot import confidence
from clipshift.results.confidence import confidence_table
from clipshift.results.intervals import share_interval
from clipshift.results.measured import Measured
from clipshift.results.table import PhotoSample

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
RNG = np.random.default_rng(0)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_confidence_is_the_largest_softmax_probability() -> None:
    embedding, classifier = RNG.normal(size=(20, 8)), unit(RNG.normal(size=(6, 8))).T
    logits = np.exp(30 * unit(embedding) @ classifier)
    expected = (logits / logits.sum(axis=1, keepdims=True)).max(axis=1)
    got = confidence(torch.tensor(embedding), torch.tensor(classifier), 30.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert confidence(torch.zeros(1, 8), torch.tensor(classifier), 30.0).isnan()


def test_calibration_error_is_torchmetrics_and_has_closed_forms() -> None:
    sure, hit = RNG.beta(4, 2, 500), RNG.integers(2, size=500).astype(float)
    got = measures.calibration_values(sure, hit).mean()
    metric = BinaryCalibrationError(n_bins=15, norm="l1")
    assert got == pytest.approx(float(metric(torch.tensor(sure), torch.tensor(hit))), abs=1e-6)
    four_of_five = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    same = measures.calibration_values(np.full(5, 0.6), four_of_five)
    assert same.mean() == pytest.approx(0.2)
    # 1 is in the last bin, and cancels what is below it there; 0.2 is the end of the third
    sure, hit = np.array([1.0, 0.95, 0.2, 0.19]), np.array([0.95, 1.0, 0.19, 0.2])
    assert measures.calibration_values(sure, hit).mean() == pytest.approx(0)


def test_noise_is_the_calibration_error_of_a_calibrated_model() -> None:
    errors, noise = [], []
    for _ in range(300):
        sure = RNG.choice([0.5, 0.7, 0.9], 90)
        hit = (RNG.random(90) < sure).astype(float)
        errors.append(measures.calibration_values(sure, hit).mean())
        noise.append(measures.calibration_noise(sure, hit))
    assert np.mean(noise) == pytest.approx(np.mean(errors), rel=0.1)


def risk_coverage(sure: np.ndarray, hit: np.ndarray) -> float:
    """The mean over coverages of the error of the most confident, over all orders of ties."""
    areas = []
    for order in map(list, permutations(range(len(sure)))):
        if (np.diff(sure[order]) <= 0).all():
            risks = [1 - hit[order[:k]].mean() for k in range(1, len(order) + 1)]
            areas.append(np.mean(risks))
    return float(np.mean(areas))


def test_risk_coverage_is_its_definition_and_has_closed_forms() -> None:
    hit = np.array([1, 0, 1, 1, 0, 0.5])
    for sure in (
        np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        np.array([0.9, 0.6, 0.6, 0.6, 0.4, 0.4]),
    ):
        got = measures.risk_coverage_values(sure, hit).mean()
        assert got == pytest.approx(risk_coverage(sure, hit))
    # w wrong answers among n, all less confident than the right ones: (1/n) Σ max(0, k − r) / k
    right, wrong = 30, 20
    perfect = np.repeat([1.0, 0.0], [right, wrong])
    area = sum((k - right) / k for k in range(right + 1, right + wrong + 1)) / (right + wrong)
    sure = np.linspace(1, 0.5, right + wrong)
    assert measures.risk_coverage_values(sure, perfect).mean() == pytest.approx(area)
    # confidence that says nothing: the error itself
    nothing = measures.risk_coverage_values(np.full(50, 0.7), perfect)
    assert nothing.mean() == pytest.approx(wrong / (right + wrong))


def test_auroc_is_that_of_scikit_learn() -> None:
    sure, hit = RNG.integers(20, size=200) / 20, RNG.integers(2, size=200).astype(float)
    got = measures.auroc_values(sure, hit).mean()
    assert got == pytest.approx(roc_auc_score(hit, sure))
    shared = np.where(RNG.random(200) < 0.1, 0.5, hit)  # of tied classes: half right, half wrong
    twice, weights = np.repeat([1, 0], 200), np.append(shared, 1 - shared)
    expected = roc_auc_score(twice, np.tile(sure, 2), sample_weight=weights)
    assert measures.auroc_values(sure, shared).mean() == pytest.approx(expected)
    assert np.isnan(measures.auroc_values(sure, np.ones(200))).all()


@pytest.mark.parametrize("values_of", [measures.risk_coverage_values, measures.auroc_values])
def test_values_are_what_each_photo_adds(values_of: Values) -> None:
    """What one more copy of a photo changes among very many copies of all: the derivative."""
    sure, hit = np.array([0.9, 0.8, 0.8, 0.7, 0.5, 0.3]), np.array([1, 1, 0, 0.5, 1, 0])
    values, copies = values_of(sure, hit), 2000
    many = [np.tile(side, copies) for side in (sure, hit)]
    total = values_of(*many).mean()
    for photo, value in enumerate(values_of(*many)[:6]):
        more = [np.append(side, side[[photo] * 50]) for side in many]
        slope = (values_of(*more).mean() - total) * len(more[0]) / 50
        assert value - total == pytest.approx(slope, abs=5e-3)
    assert values.mean() == pytest.approx(total, abs=0.2)


def answers(photos: int) -> pd.DataFrame:
    rows = []
    for photo in range(photos):
        clean = {
            "confidence_clean": RNG.uniform(0.5, 1),
            "zero_shot_top1_clean": float(photo % 3 > 0),
        }
        for name, severity in (("blur", "1"), ("blur", "2"), ("noise", "1"), ("noise", "2")):
            view = {"confidence": RNG.uniform(0.5, 1), "zero_shot_top1": float(RNG.random() < 0.6)}
            keys = {"photo": f"{photo:03d}", "label": "a", "augmentation": name}
            rows.append(keys | {"severity": severity} | clean | view)
    return pd.DataFrame(rows)


def test_the_table_of_confidence_has_clean_views_at_each_severity_and_intervals() -> None:
    shift = answers(60)
    shift.loc[shift["photo"] == "000", ["zero_shot_top1", "zero_shot_top1_clean"]] = np.nan
    table = confidence_table(shift, 0, None)
    keys = ["augmentation", "severity", "measure"]
    assert len(table) == (2 + 4) * 5
    assert (table["n"] == 59).all()
    assert ((table["ci_low"] <= table["mean"]) & (table["mean"] <= table["ci_high"])).all()
    clean = table[table["augmentation"] == "clean"].set_index(keys[1:]).drop(columns="augmentation")
    pd.testing.assert_frame_equal(clean.loc["1"], clean.loc["2"])
    rows = shift[(shift["augmentation"] == "noise") & (shift["severity"] == "2")].dropna()
    sure, hit = rows["confidence"].to_numpy(), rows["zero_shot_top1"].to_numpy()
    noise = table[(table["augmentation"] == "noise") & (table["severity"] == "2")].set_index(
        "measure"
    )
    assert noise.loc["auroc", "mean"] == pytest.approx(roc_auc_score(hit, sure))
    assert tuple(noise.loc["accuracy", ["ci_low", "ci_high"]]) == pytest.approx(share_interval(hit))
    low, high = noise.loc["auroc", ["ci_low", "ci_high"]]
    resampled = bootstrap(
        (sure, hit), lambda s, h: roc_auc_score(h, s), paired=True, vectorized=False,
        n_resamples=500, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx(tuple(resampled), abs=0.05)
    assert confidence_table(shift[["photo", "label", "augmentation", "severity"]], 0, None).empty


def recall_at(k: int, queries: np.ndarray, others: np.ndarray, own: list[set[int]]) -> float:
    """CLIP_benchmark's recall@k: the share of queries with any of their own among the first k."""
    found = []
    for query, wanted in zip(unit(queries), own, strict=True):
        scores = [float(query @ other) for other in unit(others)]
        first = sorted(range(len(scores)), key=lambda place: -scores[place])[:k]
        found.append(bool(wanted & set(first)))
    return float(np.mean(found))


def test_retrieval_is_that_of_clip_benchmark(tmp_path: Path) -> None:
    """Of photos with one to four captions, among them one that is not in the gallery."""
    counts = RNG.integers(1, 5, size=31)
    counts[7] = 0
    names = augmentations_named("noise", "blur")
    variants = make_variants(names, {}, ["paper"], {})
    photos = [Photo(f"{k:02d}", tmp_path) for k in RNG.permutation(31)]
    truth = RNG.normal(size=(31, 12))
    captions = [
        torch.tensor(truth[photo] + 1.2 * RNG.normal(size=(count, 12)))
        for photo, count in enumerate(counts)
    ]
    gallery = {
        view: {
            photo: truth[photo] + spread * RNG.normal(size=12) for photo in range(31) if photo != 9
        }
        for view, spread in (("clean", 0.1), ("noise", 0.6), ("blur", 1.5))
    }
    sample = PhotoSample(Measured(index=np.arange(31), gallery=gallery), photos, variants, 0)
    table = retrieval_table(sample, captions)
    assert set(table["n"]) == {29}
    rows = table.set_index(["augmentation", "task", "k"])
    chosen = [photo for photo in range(31) if photo not in (7, 9)]
    texts = np.concatenate([captions[photo].numpy() for photo in chosen])
    owner = np.repeat(np.arange(29), counts[chosen])
    for view, by_photo in gallery.items():
        images = np.stack([by_photo[photo] for photo in chosen])
        own_texts = [set(np.flatnonzero(owner == photo)) for photo in range(29)]
        for k in (1, 5, 10):
            text = recall_at(k, texts, images, [{one} for one in owner])
            image = recall_at(k, images, texts, own_texts)
            assert rows.loc[(view, "text-to-image", k), "mean"] == pytest.approx(text)
            assert rows.loc[(view, "image-to-text", k), "mean"] == pytest.approx(image)
    assert ((table["ci_low"] <= table["mean"]) & (table["mean"] <= table["ci_high"])).all()
    assert set(table["among"]) == {29, len(texts)}
    of_photos = rows.loc[("blur", "image-to-text", 5)]
    assert of_photos["ci_low"] == pytest.approx(share_interval(
        np.repeat([1.0, 0.0], [round(29 * of_photos["mean"]), 29 - round(29 * of_photos["mean"])])
    )[0])  # fmt: skip
    # classes resampled whole; captions that all find their photos count once for each photo
    classes = PhotoSample(sample.measured, photos, variants, 0, np.arange(31) // 8)
    wider = retrieval_table(classes, captions)
    assert (wider["mean"] == table["mean"]).all()
    assert (wider["ci_high"] - wider["ci_low"]).mean() > (table["ci_high"] - table["ci_low"]).mean()
    perfect = {view: {photo: np.eye(31)[photo] for photo in range(31)} for view in gallery}
    exact = [torch.tensor(np.eye(31)[[photo] * count]) for photo, count in enumerate(counts)]
    measured = Measured(index=np.arange(31), gallery=perfect)
    found = retrieval_table(PhotoSample(measured, photos, variants, 0), exact)
    assert (found["mean"] == 1).all()
    assert found["ci_low"].to_numpy() == pytest.approx(share_interval(np.ones(30))[0])
    few = retrieval_table(PhotoSample(Measured(index=np.arange(31), gallery={
        view: {photo: by_photo[photo] for photo in (0, 1, 2)} for view, by_photo in gallery.items()
    }), photos, variants, 0), captions)  # fmt: skip
    assert set(few[few["task"] == "text-to-image"]["k"]) == {1}


def test_candidates_that_tie_are_found_as_by_chance() -> None:
    query, same = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    got = recall_hits(query, same, np.array([0]), np.arange(4))
    np.testing.assert_allclose(got[:, 0], [1 / 3, 1, 1])
    zero = recall_hits(np.zeros((1, 2)), same, np.array([0]), np.arange(4))
    lost = recall_hits(query, np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0]), np.arange(2))
    assert np.isnan(zero).all()
    assert np.isnan(lost).all()


def test_percentile_shift_is_brute_force() -> None:
    clean = RNG.normal(size=(60, 8)) + 1
    view = clean + RNG.exponential(1, size=(60, 1)) * RNG.normal(size=(60, 8))
    view[3], clean[4] = clean[5], clean[6]  # photo 5 ties with photo 3's view, and 4 is photo 6
    view[6] = clean[6]
    cosines, own = unit(clean) @ unit(clean).T, (unit(view) * unit(clean)).sum(1)
    for photo, got in enumerate(percentile_shift(view, clean)):
        others = [cosines[photo, other] - own[photo] for other in range(60) if other != photo]
        expected = [1 if apart > 1e-9 else 0.5 if apart > -1e-9 else 0 for apart in others]
        assert got == pytest.approx(np.mean(expected))
    assert percentile_shift(view, clean)[6] == pytest.approx(0.5 / 59)
    assert 0.05 < percentile_shift(view, clean).mean() < 0.5
    view[0] = 0
    assert np.isnan(percentile_shift(view, clean)).tolist() == [True] + [False] * 59
    np.testing.assert_allclose(
        percentile_shift(clean[:1].repeat(9, 0), clean[:1].repeat(9, 0)), 0.5
    )


@pytest.mark.parametrize("photos", [7, 40, 300])
def test_whitening_is_by_the_covariance_of_ledoit_and_wolf(photos: int) -> None:
    clean = RNG.normal(size=(photos, 16)) / np.arange(1, 17) + 0.5
    view = clean + 0.3 * RNG.normal(size=clean.shape)
    view[2] = 0
    fitted = LedoitWolf().fit(unit(clean))
    np.testing.assert_allclose(shrunk_covariance(unit(clean)), fitted.covariance_, atol=1e-12)
    places = RNG.permutation(photos)
    [shift, none] = whitened_shift([view, clean], clean, places)
    for fold in range(5):
        test = np.flatnonzero(places % 5 == fold)
        fitted = LedoitWolf().fit(unit(np.delete(clean, test, 0)))
        values, vectors = np.linalg.eigh(fitted.covariance_)
        for photo in test:
            if photo == 2:
                assert np.isnan(shift[photo])
                continue
            z, z_clean = (
                (vectors * values**-0.5) @ vectors.T @ (unit(side[[photo]])[0] - fitted.location_)
                for side in (view, clean)
            )
            cosine = z @ z_clean / np.linalg.norm(z) / np.linalg.norm(z_clean)
            assert shift[photo] == pytest.approx(1 - cosine, abs=1e-7)
    assert (none == 0).all()


def test_whitened_shift_of_other_photos_is_one_and_ignores_the_models_cone() -> None:
    clean, other = (RNG.normal(size=(400, 8)) + 3 for _ in range(2))
    moved = clean + 0.5 * RNG.normal(size=clean.shape)
    far, near = whitened_shift([other, moved], clean, np.arange(400))
    assert far.mean() == pytest.approx(1, abs=0.05)
    wider = whitened_shift([moved - 2], clean - 2, np.arange(400))[0]
    assert near.mean() == pytest.approx(wider.mean(), abs=0.05)
    assert np.isnan(whitened_shift([other[:5]], clean[:1].repeat(5, 0), np.arange(5))).all()
