"""What happens inside the space of embeddings: known answers, and second implementations."""

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from scipy import stats
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from support.augmentations import augmentation_named, augmentations_named
from support.evaluation import run_module
from support.runs import run_info

from clipshift.augment.variants import make_variants
from clipshift.choices import NAMES
from clipshift.cli.build import make_evaluation
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain as to_dict
from clipshift.cli.evaluate import evaluate
from clipshift.cli.trainer import trainer_maker
from clipshift.data.dataset import ViewDataset
from clipshift.data.photos import Photo, decode
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.encode.modules import as_encoder
from clipshift.encode.open_clip_models import MODELS, trained_texts
from clipshift.encode.texts import Vocabulary
from clipshift.evaluate.evaluation import encode_attributes
from clipshift.evaluate.inside import inside_tables
from clipshift.evaluate.layers import (
    amplification_values,
    carried_gaze,
    cka_intervals,
    outlier_table,
)
from clipshift.measure import embeddings as measures
from clipshift.measure.functional import cka_null, linear_cka
from clipshift.measure.metrics import OutlierTokens
from clipshift.pipeline import carry_out, evaluation_trainer, prepare
from clipshift.report.sections.geometry import cosine_matrices
from clipshift.results.intervals import cosine_values, mean_interval, pair_values, ratio_values
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.records import Records
from clipshift.results.runs import Run, read_run
from clipshift.results.table import PhotoSample
from clipshift.train.export import export_model

TABLES = ("directions", "direction_cosines", "undone", "neighbourhoods", "named")


def on_sphere(photos: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(photos, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tables_of(
    views: dict[str, np.ndarray],
    seed: int = 0,
    ids: list[str] | None = None,
    groups: np.ndarray | None = None,
    **inputs: object,
) -> dict[str, pd.DataFrame]:
    """The tables of constructed embeddings, under names of the paper's augmentations."""
    count = len(views[CLEAN])
    photos = [Photo(name, Path(name)) for name in ids or [f"{i:04d}.jpg" for i in range(count)]]
    variants = make_variants(
        {n: augmentation_named(n) for n in views if n != CLEAN}, {}, ["paper"], {}
    )
    measured = Measured(index=np.arange(count), embeddings=views)
    return inside_tables(PhotoSample(measured, photos, variants, seed, groups), **inputs)


def translated(photos: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings, and the same with all moved by one vector: still of length 1."""
    around = on_sphere(photos, 6) * 0.8
    clean = np.column_stack([around, np.full(photos, 0.6), np.zeros(photos)])
    return clean[:, [0, 1, 2, 3, 4, 5, 7, 6]], clean


def turned(photos: int = 200, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings all over the sphere, and the same after a rotation."""
    clean = on_sphere(photos, width)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    return clean @ rotation, clean


# --- known answers -------------------------------------------------------------------------------


def test_a_translation_is_one_direction_and_undone_by_the_mean() -> None:
    view, clean = translated()
    made = tables_of({CLEAN: clean, "noise": view})
    row = made["directions"].iloc[0]
    assert row["direction"] == pytest.approx(1, abs=0.01)
    assert 0.98 < row["ci_low"] <= row["direction"] <= row["ci_high"] <= 1
    # From 0.6 along one axis to 0.6 along another, of which the first is the mean's: half is across
    assert row["share_low"] < 0.5 < row["share_high"]
    assert row["share"] == pytest.approx(0.5, abs=0.03)
    assert row["contraction_low"] < -0.36 / 0.64 < row["contraction_high"]
    assert row["contraction"] == pytest.approx(-0.36 / 0.64, abs=0.03)
    assert row["null"] < 0.3
    assert row["p"] == pytest.approx(1 / (1 + measures.FLIPS))
    recovered = made["undone"].set_index("method")["r_squared"]
    assert recovered["none"] < 0.1
    np.testing.assert_allclose(recovered[["mean", "orthogonal", "ridge"]], 1, atol=1e-6)


def test_a_rotation_is_no_direction_and_undone_by_procrustes() -> None:
    view, clean = turned()
    made = tables_of({CLEAN: clean, "noise": view})
    row = made["directions"].iloc[0]
    assert row["direction"] < row["null"] < 0.25
    assert row["p"] > 0.05
    assert row["share"] < 0.05
    recovered = made["undone"].set_index("method")["r_squared"]
    assert recovered["none"] < 0
    assert recovered["mean"] < 0
    np.testing.assert_allclose(recovered[["orthogonal", "ridge"]], 1, atol=1e-5)


def test_the_direction_of_isotropic_noise_is_at_its_null() -> None:
    """Without a cone: the mean clean embedding is chance as well."""
    found = []
    for seed in range(60):
        clean = on_sphere(40, 32, seed + 60)
        view = moved_on_the_sphere(np.random.default_rng(seed), clean, 0.8)
        steps, _ = measures.unit_steps(measures.displacements(view, clean), clean)
        null = measures.flipped_directions(steps, seed)
        found.append(np.mean(null >= measures.direction(steps)))
    assert stats.kstest(np.array(found)[np.array(found) < 0.5] * 2, "uniform").pvalue > 0.01
    assert 0.25 < np.mean(np.array(found) < 0.5) < 0.75


def in_a_cone(rng: np.random.Generator, photos: int) -> np.ndarray:
    """Unit embeddings with a mean cosine of about 0.5, in 32 dimensions of unequal variance."""
    spread = np.linspace(2, 0.3, 32)
    rows = rng.normal(size=(photos, 32)) * spread / np.linalg.norm(spread) + np.eye(32)[0]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def moved_on_the_sphere(
    rng: np.random.Generator, clean: np.ndarray, angle: float | np.ndarray, common: float = 0
) -> np.ndarray:
    """Photos moved by an angle, at right angles to themselves: at random, or partly one way."""
    step = rng.normal(size=clean.shape) / np.sqrt(32) + common * np.eye(32)[5]
    step -= (step * clean).sum(axis=1, keepdims=True) * clean
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    return np.cos(angle) * clean + np.sin(angle) * step


@pytest.mark.parametrize("angle", [0.3, 1.2, None])
def test_moves_at_random_in_a_cone_have_no_direction(
    angle: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With signs of whole displacements, each of these runs had one."""
    monkeypatch.setattr(measures, "FLIPS", 200)
    found, lengths, between = [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clean = in_a_cone(rng, 60)
        far = rng.lognormal(-1, 0.5, size=(60, 1)) if angle is None else angle
        moves = measures.displacements(moved_on_the_sphere(rng, clean, far), clean)
        steps, _ = measures.unit_steps(moves, clean)
        null = measures.flipped_directions(steps, seed)
        found.append((1 + (null >= measures.direction(steps)).sum()) / 201)
        lengths.append(measures.with_others(steps, steps).mean())
        other = measures.displacements(moved_on_the_sphere(rng, clean, far), clean)
        pushes = [measures.remove_contraction(of, clean) for of in (moves, other)]
        between.append(measures.with_others(*pushes).mean() / np.square(moves).sum(axis=1).mean())
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    for products in (lengths, between):  # debiased: 0 on average
        assert abs(np.mean(products)) < 3 * np.std(products) / np.sqrt(200)


def test_views_that_could_be_exchanged_with_their_photos_have_no_direction() -> None:
    """As those of a mirror have none, although they lie apart on the sphere."""
    found, nearer = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clean, view = (moved_on_the_sphere(rng, photos, 0.8) for photos in [in_a_cone(rng, 60)] * 2)
        moves = measures.displacements(view, clean)
        steps, _ = measures.unit_steps(moves, clean)
        null = measures.flipped_directions(steps, seed)[:200]
        found.append((1 + (null >= measures.direction(steps)).sum()) / 201)
        nearer.append(measures.contraction(moves, clean))
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert abs(np.mean(nearer)) < 3 * np.std(nearer) / np.sqrt(200)


def test_common_moves_in_a_cone_are_found_and_told_apart() -> None:
    rng = np.random.default_rng(0)
    clean = in_a_cone(rng, 200)
    views = {name: moved_on_the_sphere(rng, clean, 0.7, 0.4) for name in ("noise", "blur")}
    views["elastic"] = moved_on_the_sphere(rng, clean, 0.7)
    views["flip"] = moved_on_the_sphere(rng, clean[:, ::-1], 0.7, 0.4)[:, ::-1]  # along another
    made = tables_of({CLEAN: clean} | views)
    rows = made["directions"].set_index("augmentation")
    # 0.4 along one axis and 1 in all of 32 others: an angle of arctan 0.4 to the common direction
    for name in ("noise", "blur", "flip"):
        assert rows.loc[name, "direction"] == pytest.approx(np.sin(np.arctan(0.4)), abs=0.06)
        assert rows.loc[name, "p_holm"] < 0.01
    assert rows.loc["elastic", "direction"] < rows.loc["elastic", "null"]
    cosines = made["direction_cosines"].set_index(["augmentation", "other"])["cosine"]
    assert cosines["noise", "blur"] > 0.9
    assert abs(cosines["noise", "flip"]) < 0.15


@pytest.mark.parametrize("angle", [0.3, 1.2])
def test_contraction_is_what_random_moves_and_a_collapse_have_in_closed_form(angle: float) -> None:
    rng = np.random.default_rng(0)
    clean = in_a_cone(rng, 400)
    mean = clean.mean(axis=0)
    cosine = (400 * mean @ mean - 1) / 399
    view = moved_on_the_sphere(rng, clean, angle)
    row = tables_of({CLEAN: clean, "noise": view})["directions"].iloc[0]
    expected = -(1 - np.cos(angle)) * cosine / (1 - cosine)  # − relative shift × cosine
    assert row["contraction"] == pytest.approx(expected, rel=0.05)
    assert row["contraction_low"] < expected < row["contraction_high"] < 0
    length = np.linalg.norm(mean)
    at_the_mean = measures.displacements(np.tile(mean, (400, 1)), clean)
    assert measures.contraction(at_the_mean, clean) == pytest.approx(
        length / (1 + length), rel=0.01
    )
    assert np.isnan(measures.contraction(at_the_mean, np.ones((400, 1))))


@pytest.mark.parametrize(("photos", "width"), [(40, 64), (200, 16)])
def test_of_independent_views_ridge_recovers_nothing_and_loses_nothing(
    photos: int, width: int
) -> None:
    """Shrunk towards the identity alone it had an R² of −0.9 to −0.2."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clean, view = (rng.normal(size=(photos, width)) + np.eye(width)[0] * 4 for _ in range(2))
        errors, spread = measures.undoing_errors(view, clean, np.arange(photos) % 5)
        assert errors["none"].sum() > 1.5 * spread.sum()
        assert 1 - errors["ridge"].sum() / spread.sum() == pytest.approx(0, abs=0.05)


def test_a_collapse_has_rank_one_no_spread_and_neighbours_by_chance() -> None:
    clean = on_sphere(60, 8)
    made = tables_of({CLEAN: clean, "blur": np.ones((60, 8), np.float32)})
    rows = made["neighbourhoods"].set_index("measure")
    assert rows.loc["effective_rank", "value"] == pytest.approx(1, abs=1e-6)
    assert rows.loc["effective_rank", "reference"] > 7
    assert rows.loc["uniformity", "value"] == pytest.approx(0, abs=1e-9)
    assert rows.loc["uniformity_change", "ci_low"] > 0
    ends = rows.loc["neighbours_kept", ["value", "reference"]].astype(float)
    np.testing.assert_allclose(ends, 10 / 59)
    assert rows.loc["hubness", "value"] == 0
    recovered = made["undone"].set_index("method")["r_squared"]
    np.testing.assert_allclose(recovered[["mean", "orthogonal", "ridge"]], 0, atol=1e-6)


def test_what_changes_nothing_has_no_direction_and_loses_nothing() -> None:
    clean = on_sphere(60, 8)
    made = tables_of({CLEAN: clean, "flip": 3 * clean})
    row = made["directions"].iloc[0]
    assert row["n"] == 0
    assert row[["direction", "null", "p", "p_holm"]].isna().all()
    np.testing.assert_allclose(made["undone"]["r_squared"], 1, atol=1e-9)
    rows = made["neighbourhoods"].set_index("measure")
    assert rows.loc["neighbours_kept", "value"] == 1
    for measure in ("alignment", "uniformity_change"):
        assert rows.loc[measure, "value"] == pytest.approx(0, abs=1e-12)
    assert rows.loc["hubness", "value"] == rows.loc["hubness", "reference"]


def test_a_photo_that_rounding_alone_moves_has_no_direction() -> None:
    clean = np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    steps, moved = measures.unit_steps(np.array([[1.0, 0.0], [1.0, 0.0], [-1e-8, 0.0]]), clean)
    assert measures.direction(steps) == 1
    assert moved.tolist() == [True, True, False]


def test_one_photo_has_no_null() -> None:
    for seed in range(5):
        assert np.isnan(measures.flipped_directions(on_sphere(1, 6, seed), 0)).all()


def test_two_augmentations_push_the_same_way_only_if_they_do() -> None:
    rng = np.random.default_rng(3)
    clean = np.column_stack([on_sphere(300, 6), np.zeros((300, 2))])
    noise = [0.5 * np.column_stack([rng.normal(size=(300, 6)), np.zeros((300, 2))]) for _ in "abcd"]
    push = np.eye(8)[6:]
    views = {
        "noise": clean + noise[0] + 0.5 * push[0],
        "blur": clean + noise[1] + 1.5 * push[0],
        "flip": clean + noise[2] + 0.5 * push[1],
        "elastic": on_sphere(300, 8, 9)[rng.permutation(300)],  # no photo's own, and no direction
    }
    made = tables_of({CLEAN: clean} | views)["direction_cosines"]
    cosines = made.set_index(["augmentation", "other"])
    same, apart = cosines.loc[("noise", "blur")], cosines.loc[("noise", "flip")]
    assert same["cosine"] > 0.95
    assert same["ci_low"] > 0.9
    assert abs(apart["cosine"]) < 0.15
    assert apart["ci_low"] < 0 < apart["ci_high"]


# --- second implementations ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of 60 photos, and of views that are turned, pushed and noisy; not of length 1."""
    rng = np.random.default_rng(5)
    clean = rng.normal(size=(60, 7)) * rng.uniform(0.5, 4, size=(60, 1)) + 1
    view = clean + 0.4 * rng.normal(size=(60, 7)) + np.linspace(0, 1, 7)
    return view.astype(np.float32), clean.astype(np.float32)


def by_pairs(first: np.ndarray, second: np.ndarray) -> float:
    count = len(first)
    return float(
        np.mean([first[i] @ second[j] for i in range(count) for j in range(count) if i != j])
    )


def plain_units(rows: np.ndarray) -> np.ndarray:
    return np.array([row / np.sqrt((row**2).sum()) for row in rows.astype(float)])


def test_directions_are_means_over_pairs(pair: tuple) -> None:
    view, clean = pair
    moves = plain_units(view) - plain_units(clean)
    np.testing.assert_allclose(measures.displacements(view, clean), moves, atol=1e-12)
    photos = plain_units(clean)
    mean = photos.mean(axis=0)
    projection = np.eye(7) - np.outer(mean, mean) / (mean @ mean)

    def stepped(rows: np.ndarray) -> np.ndarray:
        slope = rows.mean(axis=0) @ mean / (mean @ mean)
        return np.array(
            [projection @ (row - slope * u) for row, u in zip(rows, photos, strict=True)]
        )

    scaled = np.array([move / np.linalg.norm(projection @ move) for move in moves])
    steps, moved = measures.unit_steps(moves, photos)
    assert moved.all()
    np.testing.assert_allclose(steps, stepped(scaled), atol=1e-12)
    lengthwise = [projection @ move / np.linalg.norm(projection @ move) for move in moves]
    np.testing.assert_allclose(steps.mean(axis=0), np.mean(lengthwise, axis=0), atol=1e-12)
    assert measures.direction(steps) == pytest.approx(np.sqrt(by_pairs(steps, steps)))
    energy = np.mean([(move**2).sum() for move in moves])
    own = stepped(moves)
    share = by_pairs(own, own) / energy
    assert measures.common_share(moves, photos) == pytest.approx(share)
    other = np.random.default_rng(0).normal(size=moves.shape) + 2 * moves + [0, 0, 0, 0, 0, 0, 1]
    expected = by_pairs(own, other) / np.sqrt(by_pairs(own, own) * by_pairs(other, other))
    assert measures.direction_cosine(own, other) == pytest.approx(expected)
    nearer = by_pairs(moves, photos) / (1 - by_pairs(photos, photos))
    assert measures.contraction(moves, photos) == pytest.approx(nearer)


def test_the_null_of_a_direction_is_that_of_all_signs() -> None:
    steps = np.random.default_rng(2).normal(size=(9, 3)) + np.eye(3)[0]
    every = [
        measures.direction(steps * np.array(signs)[:, None]) for signs in product((-1, 1), repeat=9)
    ]
    drawn = measures.flipped_directions(steps, 0)
    for level in (0.5, 0.9, 0.95):
        assert np.quantile(drawn, level) == pytest.approx(np.quantile(every, level), abs=0.03)
    own = measures.direction(steps)
    assert np.mean(drawn >= own) == pytest.approx(np.mean(np.array(every) >= own - 1e-9), abs=0.02)


def test_two_photos_moved_at_an_angle_share_its_cosine() -> None:
    moves = np.array([[1.0, 0.0], [np.cos(0.7), np.sin(0.7)]])
    clean = np.array([[1.0, 0.0], [-1.0, 0.0]])  # of mean 0: there is no cone
    assert measures.common_share(moves, clean) == pytest.approx(np.cos(0.7))


def test_penalties_are_half_a_power_of_ten_apart() -> None:
    assert measures.RIDGES.tolist() == pytest.approx([*np.logspace(-6, 6, 25), np.inf])


@pytest.mark.parametrize("lost", [False, True])
def test_undoing_is_least_squares_with_the_penalty_as_more_rows(pair: tuple, lost: bool) -> None:
    pair = (pair[0][::-1] if lost else pair[0], pair[1])  # views of other photos
    view, clean = (plain_units(rows) for rows in pair)
    folds = np.arange(60) % 5
    errors, spread = measures.undoing_errors(*pair, folds)
    for fold in range(5):
        train, test = folds != fold, folds == fold
        x, y = view[train] - view[train].mean(axis=0), clean[train] - clean[train].mean(axis=0)
        x_test, y_test = view[test] - view[train].mean(axis=0), clean[test] - clean[train].mean(0)
        scale = (x**2).sum() / 7
        scores = []
        for ridge in measures.RIDGES[:-1] * scale:
            hat = x @ np.linalg.inv(x.T @ x + ridge * np.eye(7)) @ x.T
            residuals = [of - hat @ of for of in (y - x, y)]  # towards the identity, towards 0
            left = [(of**2).sum() for of in residuals]
            scores.append(np.array(left) / (1 - 1 / 48 - np.trace(hat) / 48) ** 2)
        scores = np.array(scores)
        penalty = measures.RIDGES[np.argmin(scores[:, 0])] * scale
        least, kept = np.unravel_index(scores.argmin(), scores.shape)
        assert kept == lost
        assert scores.min() < ((y - x) ** 2).sum() / (1 - 1 / 48) ** 2
        x_more = np.vstack([x, np.sqrt(penalty) * np.eye(7)])
        y_more = np.vstack([y, np.sqrt(penalty) * np.eye(7)])
        maps = {
            "mean": np.eye(7),
            "orthogonal": orthogonal_procrustes(x_more, y_more)[0],
            "ridge": np.linalg.lstsq(
                np.vstack([x, np.sqrt(measures.RIDGES[least] * scale) * np.eye(7)]),
                np.vstack([y, np.sqrt(measures.RIDGES[least] * scale) * np.eye(7) * (1 - kept)]),
                rcond=None,
            )[0],
        }
        for name, matrix in maps.items():
            expected = ((y_test - x_test @ matrix) ** 2).sum(axis=1)
            np.testing.assert_allclose(errors[name][test], expected, rtol=1e-7)
        np.testing.assert_allclose(spread[test], (y_test**2).sum(axis=1))
    np.testing.assert_allclose(errors["none"], ((clean - view) ** 2).sum(axis=1))


@pytest.mark.parametrize("block", [2**24, 7 * 60])
def test_neighbours_are_those_of_a_tree(
    pair: tuple, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "BLOCK", block)
    near = []
    for rows in pair:
        units = plain_units(rows)
        found = cKDTree(units).query(units, k=11)[1]
        near.append([set(row.tolist()) - {own} for own, row in enumerate(found)])
    shares, occurrence = measures.neighbours_kept(*pair)
    assert shares.tolist() == [len(a & b) / 10 for a, b in zip(*near, strict=True)]
    counts = [sum(photo in row for row in near[0]) for photo in range(60)]
    assert occurrence.tolist() == counts
    deviation = np.array(counts) - np.mean(counts)
    skewness = (deviation**3).mean() / (deviation**2).mean() ** 1.5
    assert measures.hubness(occurrence) == pytest.approx(skewness)
    units = plain_units(pair[0])
    near_by_pairs = np.exp(-2 * pdist(units, "sqeuclidean")).mean()
    assert measures.closeness(pair[0]).mean() == pytest.approx(near_by_pairs)


def test_photos_that_tie_share_the_last_places() -> None:
    clean = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0.9, -0.1, 0], [0.9, 0, 0.1], [-1, 0, 0]])
    kept, occurrence = measures.neighbours_kept(clean, clean, k=1)
    assert kept[0] == pytest.approx(1 / 3)  # three are equally near: each with 1/3, twice
    assert occurrence.sum() == pytest.approx(5)


def test_the_effective_rank_is_that_of_the_spectrum(pair: tuple) -> None:
    units = plain_units(pair[0])
    spectrum = np.sqrt(np.linalg.eigvalsh(units @ units.T).clip(min=0)[-7:])
    expected = np.exp(stats.entropy(spectrum))
    assert measures.effective_rank(pair[0]) == pytest.approx(expected)
    assert measures.effective_rank(np.repeat(np.eye(5), 3, axis=0)) == pytest.approx(5)


def test_changes_towards_texts_are_those_of_cosines_and_probabilities(pair: tuple) -> None:
    view, clean = pair
    texts = on_sphere(30, 7, 4)
    names = tuple(f"class {k % 29}" for k in range(30))  # two have one name
    few = Vocabulary(("a blurry photo", "a photo"), on_sphere(2, 7, 5), 100.0)
    lists = {"classes": Vocabulary(names, texts, 14.0), "attributes": few}
    whole = tables_of({CLEAN: clean, "noise": view}, vocabularies=lists)["named"]
    assert whole["vocabulary"].tolist() == ["classes"] * 20 + ["attributes"] * 2
    table = whole[:20]
    before, after = (plain_units(rows) @ texts.T for rows in (clean, view))
    change = (after - before).mean(axis=0)
    order = np.argsort(-change)
    chosen = [*order[:10], *order[-10:]]
    np.testing.assert_allclose(table["change"], change[chosen])
    assert table["text"].tolist() == [names[k] for k in chosen]
    likely = [np.exp(14 * cosines) for cosines in (before, after)]
    earlier, later = (rows / rows.sum(axis=1, keepdims=True) for rows in likely)
    np.testing.assert_allclose(table["softmax_change"], (later - earlier).mean(axis=0)[chosen])
    for prefix, pairs in (("", (after, before)), ("softmax_", (later, earlier))):
        p = stats.ttest_rel(*pairs).pvalue
        np.testing.assert_allclose(table[f"{prefix}p"], p[chosen])
        from_least = np.sort(p)
        holm = np.maximum.accumulate(from_least * np.arange(30, 0, -1)).clip(max=1)
        expected = holm[np.searchsorted(from_least, p[chosen])]
        np.testing.assert_allclose(table[f"{prefix}p_holm"], expected)
    ends = mean_interval((after - before)[:, chosen], 0)
    np.testing.assert_allclose(table[["ci_low", "ci_high"]].T, ends, atol=1e-9)


def test_a_text_that_gains_as_all_others_do_gains_no_probability() -> None:
    clean = np.column_stack([on_sphere(50, 4), np.ones(50)])
    view = clean + np.array([0, 0, 0, 0, 1.0])  # towards what all texts have in common
    texts = np.column_stack([0.1 * np.eye(4), np.ones(4)])
    vocabulary = Vocabulary(tuple("abcd"), texts / np.linalg.norm(texts[0]), 10.0)
    table = tables_of({CLEAN: clean, "blur": view}, vocabularies={"attributes": vocabulary})
    assert (table["named"]["change"] > 0.1).all()
    assert (table["named"]["p_holm"] < 1e-6).all()
    assert table["named"]["softmax_change"].abs().max() < 0.03


def test_only_sentences_are_asked_of_a_model_that_knows_them(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small open_clip model: its own embeddings of the attributes, and none where it knows
    names alone."""

    attributes = compose_config("evaluate", []).attributes
    own, notes = encode_attributes(encoder, attributes)
    assert own is not None
    assert not notes
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)(["a blurry photo"])
    text = encoder.model.encode_text(tokens)[0].detach().double().numpy()
    row = own.embeddings[own.texts.index("a blurry photo")]
    np.testing.assert_allclose(row, text / np.linalg.norm(text), atol=1e-6)
    assert own.logit_scale == pytest.approx(encoder.model.logit_scale.exp().item())
    monkeypatch.setattr(encoder, "text", NAMES)
    known, notes = encode_attributes(encoder, attributes)
    assert known is None
    assert "only names" in notes[0]


def test_a_model_without_layers_that_are_known_has_no_outliers() -> None:
    class Colours(torch.nn.Module):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    encoder = as_encoder(Colours(), {"size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]})
    chosen = augmentations_named("flip")
    variants, photos = make_variants(chosen, {}, ["paper"], {}), sample()[:2]
    dataset = ViewDataset(photos, chosen, 0, "squash")
    records, _ = run_module(encoder, variants, {}, dataset, batch_size=2, layers=True)
    measured = records.read()
    assert measured.layers is measured.outliers is None
    assert outlier_table(PhotoSample(measured, photos, variants, 0)).empty


def test_an_exported_model_says_what_it_knows(tmp_path: Path) -> None:
    export_model({}, {}, {}, tmp_path, NAMES)
    assert trained_texts(tmp_path) == NAMES
    export_model({}, {}, {}, tmp_path)
    assert trained_texts(tmp_path) == "sentences"


@pytest.mark.parametrize("name", ["lite", "tiny"])
def test_the_builtin_models_say_that_they_know_names_alone(name: str) -> None:
    assert trained_texts(MODELS / name) == NAMES


def test_the_null_of_cka_is_that_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, width, generator=generator) ** 3 for width in (3, 2))
    every = [float(linear_cka(x[list(order)], y)) for order in permutations(range(6))]
    assert np.mean(every) == pytest.approx(0, abs=1e-12)
    assert np.std(every) == pytest.approx(cka_null(6), rel=1e-9)
    assert np.isnan([cka_null(count) for count in (0, 2, 3)]).all()


def test_amplification_is_the_growth_of_the_relative_shift() -> None:
    rng = np.random.default_rng(0)
    cosines = 1 - rng.uniform(0.1, 0.5, size=(20, 3, 2))
    cosines[4, 1, 0] = np.nan
    spread = np.array([0.2, 0.5, 0.4])
    values = amplification_values(cosines, spread)
    assert np.isnan(values[:, 0]).all()
    known = np.arange(20) != 4
    relative = [(1 - cosines[known, layer, 0]).mean() / spread[layer] for layer in range(3)]
    assert np.nanmean(values[:, 1, 0]) == pytest.approx(relative[1] / relative[0])
    assert np.nanmean(values[:, 2, 0]) == pytest.approx(relative[2] / relative[1])


# --- intervals -----------------------------------------------------------------------------------


def jackknife(statistic: object, count: int) -> np.ndarray:
    """Standard error of a statistic, by leaving one photo out after the other."""
    left_out = np.array(
        [statistic(np.arange(count) != own) for own in range(count)]  # type: ignore[operator]
    )
    return np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())


def test_values_of_photos_vary_as_the_jackknife_says(pair: tuple) -> None:
    moves = measures.displacements(*pair) + np.linspace(0, 0.4, 7)
    clean = measures.units(pair[1])
    other = (
        np.random.default_rng(0).normal(size=moves.shape) / 3 + moves + np.repeat([0.3, 0], [3, 4])
    )
    energy = np.square(moves).sum(axis=1)
    first, second = (measures.remove_contraction(of, clean) for of in (moves, other))

    def pairs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return pair_values(measures.with_others(x, y))

    def cosine(k: np.ndarray) -> float:
        return measures.direction_cosine(
            *(measures.remove_contraction(of[k], clean[k]) for of in (moves, other))
        )

    for values, statistic in (
        (
            ratio_values(pairs(first, first), energy),
            lambda k: measures.common_share(moves[k], clean[k]),
        ),
        (
            ratio_values(pairs(moves, clean), pair_values(1 - measures.with_others(clean, clean))),
            lambda k: measures.contraction(moves[k], clean[k]),
        ),
        (
            cosine_values(pairs(first, second), pairs(first, first), pairs(second, second)),
            cosine,
        ),
        (ratio_values(energy, energy**2), lambda k: energy[k].mean() / (energy[k] ** 2).mean()),
    ):
        assert values.mean() == pytest.approx(statistic(np.ones(60, bool)))
        error = values.std(ddof=1) / np.sqrt(60)
        assert error == pytest.approx(jackknife(statistic, 60), rel=0.1)


def related(photos: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of unequal variance by dimension, and the same with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(photos, 8)) * np.linspace(2, 0.5, 8)
    return x, x + noise * rng.normal(size=x.shape)


def skewed(photos: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and the same with noise that is large for few photos."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(photos, 8)) * np.linspace(2, 0.5, 8)
    return x, x + 0.5 * rng.lognormal(0, 1, (photos, 1)) * rng.normal(size=x.shape)


@pytest.mark.parametrize(
    ("noise", "kept", "least"),
    [(1.0, 60, 0.92), (1.0, 30, 0.92), (30.0, 60, 0.92), (None, 60, 0.88)],
)
def test_the_interval_of_cka_covers_it(noise: float | None, kept: int, least: float) -> None:
    """Also where the tokens have nothing in common to speak of, where half of them are kept, and
    where a few photos have most of the noise: to first order alone it covered 82 % there."""
    x = np.linspace(2, 0.5, 8) ** 2
    truth = np.linalg.norm(x) / np.linalg.norm(x + (noise**2 if noise else 0.25 * np.exp(2)))
    covered = []
    for seed in range(200):
        x, y = related(60, seed + 2, noise) if noise else skewed(60, seed + 2)
        cka = linear_cka(torch.tensor(x), torch.tensor(y)).item()
        tokens = {CLEAN: x[:kept], "noise": y[:kept]}
        low, high = cka_intervals(tokens, [8], np.array([[cka]]), 60, 0)
        covered.append(low[0, 0] <= truth <= high[0, 0])
    assert least <= np.mean(covered) <= 1


def test_the_interval_of_cka_is_that_of_pseudo_values() -> None:
    """By leaving out one photo after the other, where the code subtracts from sums."""
    x, y = (torch.tensor(rows) for rows in skewed(30, 0))
    z = np.arctanh(linear_cka(x, y).item())
    left_out = [
        np.arctanh(linear_cka(x[keep], y[keep]).item()) for keep in ~torch.eye(30, dtype=bool)
    ]
    low, high = mean_interval(30 * z - 29 * np.array(left_out), 4)
    centre = 30 * z - 29 * np.mean(left_out)
    for count, scale in ((30, 1), (120, 0.5)):
        made = cka_intervals({CLEAN: x.numpy(), "noise": y.numpy()}, [8], np.tanh([[z]]), count, 4)
        ends = np.tanh(z + scale * (np.array([low, high]) - centre))
        np.testing.assert_allclose(np.ravel(made), ends, rtol=1e-9)


def test_where_all_that_differs_is_one_photo_cka_has_no_interval() -> None:
    x = np.eye(6)[:, :2]
    x[1] = 0
    low, high = cka_intervals({CLEAN: x, "noise": x}, [2], np.ones((1, 1)), 6, 0)
    assert np.isnan([low, high]).all()


def test_the_interval_of_cka_has_no_width_where_nothing_changes() -> None:
    x, _ = related(30, 0, 0)
    low, high = cka_intervals({CLEAN: x, "flip": 2 * x + 1}, [5, 3], np.ones((2, 1)), 30, 0)
    np.testing.assert_allclose([low, high], 1, atol=1e-9)


# --- outlier tokens ------------------------------------------------------------------------------


def gazed(norms: np.ndarray, gaze: np.ndarray) -> list[str]:
    """The warnings of clean views and views under noise, made of 20 photos' lengths of tokens after
    two layers, and gazes: each (2, patches)."""
    spread = np.random.default_rng(0).uniform(0.9, 1.1, size=(2, 20, 2, norms.shape[1]))
    lengths = torch.tensor(norms[:, None, None] * spread)
    seen = torch.tensor(gaze)[:, None].expand(-1, 20, -1)
    measured = Measured(
        index=np.arange(20), outliers=OutlierTokens(2, 2)(lengths, seen).movedim(1, 0).numpy()
    )
    photos = [Photo(f"{k}.jpg", Path(f"{k}.jpg")) for k in range(20)]
    variants = make_variants(augmentations_named("noise"), {}, ["paper"], {})
    table = outlier_table(PhotoSample(measured, photos, variants, 0))
    assert table["augmentation"].tolist() == [CLEAN] * 2 + ["noise"] * 2
    assert not [*carried_gaze(table, None)]
    return [*carried_gaze(table, 2)]


def test_a_gaze_that_outlier_tokens_carry_is_warned_of_and_no_other() -> None:
    plain, flat = np.full((2, 49), 10.0), np.full((2, 49), 1 / 49)
    outliers = plain.copy()
    outliers[1, [3, 20]] = 90  # under noise alone
    on_them = flat.copy()
    on_them[:, [3, 20]] = 1.0
    [warning] = gazed(outliers, on_them)
    assert "(noise)" in warning
    assert "68% of it falls on 4.1% of the patches" in warning  # 2 of 2 + 47 / 49
    assert not gazed(outliers, flat)  # outliers that are not looked at
    assert not gazed(plain, on_them)  # a gaze on two patches that are no outliers
    beside = flat.copy()
    beside[:, [5, 30]] = 1.0
    assert not gazed(outliers, beside)  # a gaze on others
    many = plain.copy()
    many[:, :20] = 90
    assert not gazed(many, flat)  # 41 % of the gaze, on 41 % of the patches
    assert len(gazed(np.where(on_them == 1, 90.0, 10.0), on_them)) == 1


def test_outliers_and_gaze_are_those_of_the_tower(encoder: Encoder, views: torch.Tensor) -> None:
    """Lengths of open_clip's own intermediates, and a gaze of heads that sums to the gaze."""
    with torch.inference_mode():
        made = encoder(views[:3], layers=True, heads=True)
        resized = torch.nn.functional.interpolate(
            views[:3], (64, 64), mode="bilinear", antialias=True
        )
        blocks = encoder.model.visual.forward_intermediates(
            (resized - encoder.mean) / encoder.std, output_fmt="NLC"
        )["image_intermediates"]
    for layer, patches in enumerate(blocks):
        expected = patches.square().sum(dim=-1).sqrt()
        torch.testing.assert_close(made.norms[:, layer], expected, atol=1e-3, rtol=1e-3)
    assert encoder.probe.layer == len(blocks) - 1
    assert made.heads.shape == (3, 2, 4, 4)
    torch.testing.assert_close(made.heads.mean(dim=1), made.gaze)
    assert encoder(views[:1]).heads is None


def test_the_interval_of_a_direction_covers_it() -> None:
    """Displacements with a common part of a known length, 300 times."""
    covered = 0
    mean = np.array([0.8, 0, 0, 0, 0])
    large = np.random.default_rng(1).normal(size=(200_000, 5)) + mean
    truth = np.linalg.norm((large / np.linalg.norm(large, axis=1, keepdims=True)).mean(axis=0))
    values = []
    for seed in range(300):
        moves = np.random.default_rng(seed + 2).normal(size=(60, 5)) + mean
        steps = moves / np.linalg.norm(moves, axis=1, keepdims=True)
        values.append(pair_values(measures.with_others(steps, steps)))
    low, high = mean_interval(np.transpose(values), 0)
    covered = np.mean((low <= truth**2) & (truth**2 <= high))
    assert 0.91 <= covered <= 0.99


# --- nothing else matters ------------------------------------------------------------------------


def test_order_and_company_do_not_matter(pair: tuple) -> None:
    view, clean = pair
    ids = [f"{i:04d}.jpg" for i in range(60)]
    views = {CLEAN: clean, "noise": view, "blur": clean + 0.1 * view**2}
    whole = tables_of(views, ids=ids)
    order = np.random.default_rng(0).permutation(60)
    shuffled = tables_of({n: v[order] for n, v in views.items()}, ids=[ids[i] for i in order])
    for name in TABLES:
        pd.testing.assert_frame_equal(shuffled[name], whole[name], check_exact=True)
    alone = tables_of({CLEAN: clean, "blur": views["blur"]}, ids=ids)
    for name in ("directions", "undone", "neighbourhoods"):
        within = whole[name][whole[name]["augmentation"] == "blur"].reset_index(drop=True)
        left = [column for column in within if column != "p_holm"]
        pd.testing.assert_frame_equal(alone[name][left], within[left], check_exact=True)


def test_photos_without_a_direction_are_left_out(pair: tuple) -> None:
    view, clean = (rows.copy() for rows in pair)
    view[3], view[7, 2] = 0, np.nan
    made = tables_of({CLEAN: clean, "noise": view})
    kept = np.delete(np.arange(60), [3, 7])
    moves = measures.displacements(view[kept], clean[kept])
    steps, _ = measures.unit_steps(moves, measures.units(clean[kept]))
    assert made["directions"].loc[0, "direction"] == pytest.approx(measures.direction(steps))
    for name in ("directions", "undone", "neighbourhoods"):
        assert set(made[name]["n"]) == {58}


def test_too_few_photos_have_no_neighbours_and_nothing_to_undo() -> None:
    made = tables_of({CLEAN: on_sphere(4, 3), "noise": on_sphere(4, 3, 1)})
    assert len(made["undone"]) == len(made["neighbourhoods"]) == 0
    assert made["directions"].loc[0, "n"] == 4


def test_the_tree_holds_augmentations_that_have_a_direction() -> None:
    names = ["noise", "blur", "flip", "elastic"]
    directions = pd.DataFrame(
        {"augmentation": names, "severity": "paper", "p_holm": [0.01, 0.01, 0.4, 0.01],
         "share": [0.5, 0.2, 0.1, 0.0]}
    )  # fmt: skip
    rows = [("paper", "noise", "blur", 0.25, 0.125, 0.5), ("paper", "noise", "flip", 0.5, 0, 1)]
    columns = ["severity", "augmentation", "other", "cosine", "ci_low", "ci_high"]
    run = Run(
        Path(), run_info(), {}, pd.DataFrame(), directions=directions,
        direction_cosines=pd.DataFrame(rows, columns=columns),
    )  # fmt: skip
    distances, low, high = cosine_matrices(run)
    assert list(distances) == ["noise@paper", "blur@paper"]
    assert distances.to_numpy().tolist() == [[0, 0.75], [0.75, 0]]
    assert (low.iloc[0, 1], high.iloc[0, 1]) == (0.5, 0.875)
    run.directions = directions[directions["augmentation"] != "blur"]
    assert cosine_matrices(run) == []


# --- near copies ---------------------------------------------------------------------------------


def test_near_copies_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    photos = rng.normal(size=(400, 32)) + 1
    pairs, near, limit = measures.near_copies(photos)
    assert (len(pairs), near.sum()) == (0, 0)
    noise = rng.normal(size=(3, 32)) * [[0.1], [0.2], [0.9]]
    photos[[399, 20, 30]] = 3 * photos[[5, 6, 7]] + noise
    pairs, near, limit = measures.near_copies(photos)
    assert pairs.tolist() == [[5, 399], [6, 20], [7, 30]]
    assert near.nonzero()[0].tolist() == [5, 6, 7, 20, 30, 399]
    tenth, median = np.quantile(pdist(photos, "cosine"), [0.1, 0.5])
    line = np.polyfit(np.log([0.1, 0.5]), np.log([tenth, median]), 1)
    expected = np.exp(np.polyval(line, np.log(0.05 / (400 * 399 / 2))))
    assert limit == pytest.approx(min(median / 10, expected), rel=1e-4)


def test_near_copies_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = np.random.default_rng(0).normal(size=(90, 16))
    photos[60:] = photos[:30] + 0.05
    whole = measures.near_copies(photos)
    monkeypatch.setattr(measures, "BLOCK", 700)
    pairs, near, _ = measures.near_copies(photos)
    assert pairs.tolist() == whole[0].tolist()
    assert near.tolist() == whole[1].tolist()
    assert near.sum() == 60


@pytest.mark.parametrize("width", [4, 8, 64])
def test_photos_of_few_dimensions_are_no_copies_for_being_near(width: int) -> None:
    rng = np.random.default_rng(width)
    nearest = []
    for count in (30, 1000):
        photos = np.concatenate([np.ones((count, 1)), 0.4 * rng.normal(size=(count, width))], 1)
        assert not measures.near_copies(photos)[1].any()
        nearest.append(pdist(photos, "cosine").min() / np.median(pdist(photos, "cosine")))
    assert width > 4 or nearest[1] < 0.01  # a tenth of the median would have named many
    assert not measures.near_copies(np.ones((20, 3)))[1].any()
    assert [measures.near_copies(photos[:count])[2] > 0 for count in (9, 10)] == [False, True]


def test_among_photos_without_a_direction_nothing_is_counted() -> None:
    clean = np.zeros((3, 4))
    assert np.isnan(measures.percentile_shift(np.eye(4)[:3], clean)).all()


# --- a run ---------------------------------------------------------------------------------------


def run_inside(hub_folder: Path, folder: Path, *overrides: str) -> Path:
    cfg = compose_config(
        "evaluate",
        ["experiment=inside", f"model.checkpoint={hub_folder}", "trainer=cpu", "logger=none",
         "severity=[paper,2]", "aug=[noise,blur,flip]", "metric=cosine_similarity",
         "prompts.templates=['a photo of a {}.']", *overrides],
    )  # fmt: skip
    evaluate(cfg, folder)
    return folder


@pytest.mark.usefixtures("without_figures")
def test_a_run_writes_tables_and_sections_whatever_the_batch_size(
    hub_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = run_inside(hub_folder, tmp_path / "a", "data.batch_size=14", "save.gaze_heads=2")
    request.getfixturevalue("without_page")
    other = run_inside(hub_folder, tmp_path / "b", "data.batch_size=5", "save.embeddings=true")
    run = read_run(folder)
    stored = json.loads((folder / "columns.json").read_text())
    for name in (*TABLES, "layers", "outliers"):
        assert (folder / f"{name}.csv").read_bytes() == (other / f"{name}.csv").read_bytes()
        assert set(stored[f"{name}.csv"]) == set(getattr(run, name).columns)
    assert not (folder / "embeddings.safetensors").exists()
    assert (other / "embeddings.safetensors").exists()
    page = (folder / "report.html").read_text()
    for anchor in ("directions", "undone", "neighbourhoods", "named", "outliers"):
        assert f'id="{anchor}"' in page
    shift = run.summary[run.summary["measure"] == "cosine_similarity"]["mean"]
    assert set(run.named["vocabulary"]) == {"classes", "attributes"}
    layers = run.layers.dropna(subset="cka")
    assert ((layers["cka_low"] <= layers["cka"]) & (layers["cka"] <= layers["cka_high"])).all()
    with safe_open(folder / "gaze_heads.safetensors", "np") as stored:
        assert stored.get_tensor("clean").shape == (2, 2, 4, 4)
    aligned = run.neighbourhoods[run.neighbourhoods["measure"] == "alignment"]["value"]
    np.testing.assert_allclose(aligned, 2 * (1 - shift), rtol=1e-6, atol=3e-9)
    assert len(sample()) == run.info.data.photos


def write_photos(root: Path, copies: int) -> Path:
    """Twelve different photographs, each with the given number of copies under other names."""
    for number, photo in enumerate(sample()[:6]):
        image = decode(photo.read()).resize((64, 64))
        for half, box in enumerate([(0, 0, 32, 64), (32, 0, 64, 64)]):
            file = root / "a" / f"{number}{half}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.crop(box).save(file)
            for copy in range(copies):
                (root / f"b{copy}").mkdir(exist_ok=True)
                (root / f"b{copy}" / f"{half}{number}.png").write_bytes(file.read_bytes())
    return root


def test_copies_of_photos_change_no_number(hub_folder: Path, tmp_path: Path) -> None:
    """Neither intervals nor `retained` nor R²; nor where samples are kept of fewer photos."""
    folders = [tmp_path / "plain", tmp_path / "fourfold"]
    for folder, copies in zip(folders, (0, 3), strict=True):
        root = write_photos(folder / "photos", copies)
        options = ["experiment=inside", f"model.checkpoint={hub_folder}", "trainer=cpu",
                   "logger=none", "severity=paper", "aug=[noise,flip]", "data=folder",
                   f"data.root={root}", "data.batch_size=5", "save.views=2", "gallery=9",
                   "prompts=none"]  # fmt: skip
        cfg, records = compose_config("evaluate", options), Records(folder)
        records.begin({}, restart=True)
        trainer = evaluation_trainer(trainer_maker(to_dict(cfg.trainer)), folder, progress=False)
        carry_out(prepare(make_evaluation(cfg)), records, trainer, folder)
    plain, fourfold = map(read_run, folders)
    assert fourfold.info.data.photos == 12
    tables = [file.name for file in folders[0].glob("*.csv") if file.name != "skipped.csv"]
    assert {"summary.csv", "undone.csv", "layers.csv", "neighbourhoods.csv"} <= set(tables)
    for name in (*tables, "views.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    pd.testing.assert_frame_equal(plain.shift, fourfold.shift)
    assert len(fourfold.skipped) == 36
    assert fourfold.skipped.loc[0].tolist() == ["b0/00.png", "the same file as a/00.png"]
    told = "Photos that are the same file as another: 36 of 48."
    assert [told in " ".join(run.info.notes) for run in (plain, fourfold)] == [False, True]
