"""Copy detection: brute force, scikit-learn, and distributions whose thresholds are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from support.augmentations import augmentation_named

from clipshift.augment.variants import make_variants
from clipshift.data.photos import Photo
from clipshift.evaluate.thresholds import threshold_tables
from clipshift.measure import functional
from clipshift.measure.copy_detection import RATES, separate
from clipshift.measure.functional import recall, retained
from clipshift.results.intervals import share_interval
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import PhotoSample


def made_up(photos: int, augmentations: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Views and clean views of photos with a direction in common, the later views farther off."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(photos, 24)) + rng.normal(size=24)
    noise = rng.normal(size=(augmentations, photos, 24))
    views = clean + noise * np.linspace(0.5, 3, augmentations)[:, None, None]
    clean[7], views[0, 3:6] = clean[9], views[0, [6, 6, 8]]  # ties
    return views, clean


def cosines(views: np.ndarray, clean: np.ndarray) -> np.ndarray:
    views, clean = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (views, clean))
    return views @ clean.T


@pytest.mark.parametrize("by_class", [False, True])
def test_equal_to_brute_force_and_scikit_learn(by_class: bool) -> None:
    views, clean = made_up(300, 3)
    classes = np.sort(np.random.default_rng(1).integers(4, size=300))
    own = np.eye(300, dtype=bool)
    pairs = own | (classes[:, None] == classes if by_class else True)
    for rows in (slice(1), slice(1, 2), slice(3)):
        found = separate(views[rows], clean, classes if by_class else None)
        scores = cosines(views[rows], clean)[:, pairs].ravel()
        genuine = np.tile(own[pairs], len(views[rows]))
        np.testing.assert_allclose(
            found.statistics,
            [roc_auc_score(genuine, scores), average_precision_score(genuine, scores)],
            rtol=1e-12,
        )
        impostors = np.sort(scores[~genuine])
        expected = np.quantile(impostors, 1 - np.array(RATES), method="inverted_cdf")
        np.testing.assert_allclose(found.thresholds, expected, atol=1e-9)
        np.testing.assert_allclose(found.values.mean(axis=0), found.statistics)
        np.testing.assert_allclose([found.quantile(r) for r in RATES], expected, atol=7e-5)


@pytest.mark.parametrize("by_class", [False, True])
def test_what_a_photo_adds_is_the_derivative_by_its_weight(by_class: bool) -> None:
    """Of scikit-learn's weighted statistics, with as many impostors for each genuine score."""
    views, clean = made_up(120, 1)
    classes = np.sort(np.random.default_rng(1).integers(3, size=120))
    own = np.eye(120, dtype=bool)
    pairs = own | (classes[:, None] == classes if by_class else True)
    scores, genuine = cosines(views[0], clean)[pairs], own[pairs]
    photos = [0, 7, 60, 119]
    slopes, statistics = np.empty((4, 2)), (roc_auc_score, average_precision_score)
    for row, photo in enumerate(photos):
        ends = []
        for weight in (1 - 1e-4, 1 + 1e-4):
            of_photo = np.where(np.arange(120) == photo, weight, 1)
            weights = np.outer(of_photo, of_photo)[pairs]
            weights *= (~genuine).sum() / weights[~genuine].sum()
            weights[genuine] = of_photo
            ends.append([of(genuine, scores, sample_weight=weights) for of in statistics])
        slopes[row] = 120 * np.diff(ends, axis=0)[0] / 2e-4
    values = separate(views, clean, classes if by_class else None).values[photos]
    assert (np.ptp(slopes, axis=0) > 0.1).all()
    np.testing.assert_allclose(values - values[0], slopes - slopes[0], atol=1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_error_of_a_share_is_that_over_all_pairs(grouped: bool) -> None:
    """Aronow, Samii and Assenova's, with all pairs in memory; of pairs within a group, once."""
    count, photos = 2, 90
    groups = np.random.default_rng(2).integers(20, size=photos) if grouped else np.arange(photos)
    views, clean = made_up(photos, count)
    clean += np.random.default_rng(3).normal(size=(groups.max() + 1, 24))[groups]
    found = separate(views, clean, None, groups if grouped else None)
    of_unit = np.eye(groups.max() + 1)[groups]
    between, pairs = groups[:, None] != groups, ~np.eye(photos, dtype=bool)
    scores = np.array([cosines(view, clean) for view in views])
    scores = np.concatenate([scores, scores.swapaxes(1, 2)])  # of i's views with j, j's with i
    for rate, error, threshold in zip(RATES, found.errors, found.thresholds, strict=True):
        least = found.cells[found.cells <= threshold + 1e-12].max()
        over = (scores > least - 1e-9).sum(axis=0)
        apart = (over - over[pairs].mean()) * pairs
        weights = np.where(between, 1, 0.5)
        sums = of_unit.T @ (apart * weights).sum(axis=1)
        every = np.var(sums, ddof=1) * len(sums)
        of_groups = of_unit.T @ ((over - over[between].mean()) * between) @ of_unit
        dependent = every - np.square(of_groups).sum() / 2
        independent = np.square(apart).sum() / 2
        assert dependent > 1.2 * independent or rate < max(RATES)
        expected = np.sqrt(max(dependent, independent)) / (count * pairs.sum())
        assert error == pytest.approx(expected)


def test_recall_is_the_rank_and_retained_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    views, clean = made_up(100, 3)
    scores = cosines(views, clean)
    own = scores.diagonal(axis1=1, axis2=2)[..., None]
    above, tied = (scores > own + 1e-9).sum(axis=-1), (abs(scores - own) < 1e-9).sum(axis=-1)
    tensors = torch.from_numpy(views), torch.from_numpy(clean)
    hits = [recall(view, tensors[1], (1, 5, 10)).numpy() for view in tensors[0]]
    for place, k in enumerate((1, 5, 10)):
        places = above[..., None] + np.arange(tied.max())
        shared = (places < k) & (places < (above + tied)[..., None])
        expected = shared.sum(axis=-1) / tied
        np.testing.assert_allclose([hit[place] for hit in hits], expected, rtol=1e-6)
    monkeypatch.setattr(functional, "GALLERY_COSINES", 700)
    for view, hit in zip(tensors[0], hits, strict=True):
        np.testing.assert_array_equal(retained(view, tensors[1]), hit[0])


def on_sphere(photos: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Views and clean views in directions that are uniform: other photos are independent."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(photos, 32))
    return clean + rng.normal(size=(1, photos, 32)), clean


def tables_of(
    views: np.ndarray, clean: np.ndarray, labels: np.ndarray | None = None
) -> pd.DataFrame:
    """``thresholds.csv`` of constructed embeddings, under names of augmentations."""
    names = ["noise", "blur", "flip"][: len(views)]
    photos = [Photo(f"{i:04d}", Path("a"), label=None if labels is None else str(labels[i]))
              for i in range(len(clean))]  # fmt: skip
    gallery = {
        name: dict(enumerate(rows.astype(np.float32)))
        for name, rows in zip([*names, CLEAN], [*views, clean], strict=True)
    }
    measured = Measured(index=np.arange(len(clean)), gallery=gallery)
    variants = make_variants({n: augmentation_named(n) for n in names}, {}, ["paper"], {})
    return threshold_tables(PhotoSample(measured, photos, variants, seed=0))["thresholds"]


def test_a_known_threshold_is_found_and_its_interval_covers() -> None:
    """Of uniform directions (1 + cosine) / 2 is Beta((D − 1) / 2, (D − 1) / 2).

    1,000 simulations of each population: benchmarks/thresholds.py.
    """
    truth = 2 * stats.beta(31 / 2, 31 / 2).isf(0.01) - 1
    covered = []
    for seed in range(40):
        found = separate(*on_sphere(100, seed))
        reach = stats.t.ppf(0.975, 99) * found.errors[0]
        ends = found.quantile(0.01 + reach), found.quantile(0.01 - reach)
        covered.append(ends[0] <= truth <= ends[1])
    assert np.mean(covered) >= 0.875  # 95 % but for chance of 1 in 100


def test_the_table_says_what_the_gallery_can_tell() -> None:
    views, clean = made_up(300, 3)
    labels = np.arange(300) % 3
    table = tables_of(views, clean, labels).set_index(["augmentation", "impostors", "measure"])
    table = table.sort_index()
    rows = table.loc[("all", "all")]
    hits = np.array([retained(*map(torch.from_numpy, (v, clean))).numpy() for v in views])
    assert rows.loc["recall1", "value"] == pytest.approx(hits.mean(), rel=1e-6)
    first = table.loc[("noise", "all")].loc["recall1"]
    assert (first["ci_low"], first["ci_high"]) == pytest.approx(share_interval(hits[0]))
    found = rows[rows["fpr"] == 1e-2]
    assert found["value"].notna().all()
    assert found["reason"].isna().all()
    blank = table.loc[("flip", "all")].query("fpr == 1e-4")
    assert blank["value"].isna().all()
    assert blank["reason"].str.contains("10 are required").all()
    own = cosines(views.astype(np.float32), clean).diagonal(axis1=1, axis2=2)
    share = (own > found.loc["threshold", "value"]).mean()
    assert found.loc["found", "value"] == pytest.approx(share)
    inside = table.loc[("all", "class")]
    assert set(inside.index) == {"auroc", "micro_ap", "threshold", "found"}
    assert (table["n"] == 300).all()
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"]))[
        table["value"].notna()
    ].all()


def test_embeddings_that_are_all_equal_or_missing() -> None:
    """A collapsed model tells nothing apart; photos without a direction are left out."""
    clean = np.ones((30, 4))
    table = tables_of(np.ones((2, 30, 4)), clean).set_index(["augmentation", "measure"])
    assert table.loc[("all", "auroc"), "value"].item() == 0.5
    assert table.loc[("all", "recall1"), "value"].item() == pytest.approx(1 / 30)
    clean[0] = 0
    assert tables_of(np.ones((2, 30, 4)), clean)["n"].eq(29).all()


@pytest.mark.parametrize("photos", [2, 8])
def test_no_overlap_among_few_photos_is_no_proof(photos: int) -> None:
    clean = np.eye(photos)
    table = tables_of(np.stack([clean, clean]), clean).set_index(["augmentation", "measure"])
    rows = table.loc[("noise", ["auroc", "micro_ap"]), ["value", "ci_low", "ci_high"]]
    assert rows.to_numpy() == pytest.approx(np.array([[1, *share_interval(np.ones(photos))]] * 2))
