"""The parts of the shift and zero-shot margins: closed forms, and what a run writes."""

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from clipshift.augment.variants import Variant
from clipshift.encode.texts import ZeroShot
from clipshift.evaluate.decisions import decision_tables
from clipshift.measure.embeddings import difference_span
from clipshift.measure.zero_shot import predicted_flips, zero_shot_flip
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL


def tables_of(
    clean: np.ndarray, view: np.ndarray, zero_shot: ZeroShot | None = None
) -> dict[str, pd.DataFrame]:
    augmentation: Any = None
    photos: Any = [SimpleNamespace(id=f"{n:05d}") for n in range(len(clean))]
    embeddings = {CLEAN: clean.astype(np.float32), "blur": view.astype(np.float32)}
    measured = Measured(index=np.arange(len(clean)), embeddings=embeddings)
    variants = {"blur": Variant("blur", "paper", augmentation, 1.0)}
    return decision_tables(PhotoSample(measured, photos, variants, 0), zero_shot)


def parts_of(clean: np.ndarray, view: np.ndarray, *args: Any) -> pd.DataFrame:
    return tables_of(clean, view, *args)["geometry"].set_index("part")


def on_circle(angles: np.ndarray, height: float, width: int = 3) -> np.ndarray:
    """Unit vectors around the first axis, at a height along it."""
    rows = np.zeros((len(angles), width))
    rows[:, 0] = height
    rows[:, 1:3] = np.sqrt(1 - height**2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return rows


ANGLES = 2 * np.pi * np.arange(100) / 100
"""Around a circle, whose mean is its centre."""


def test_a_move_along_the_mean_is_contraction() -> None:
    """From one parallel to another: the mean displacement is along the axis, the rest radial."""
    low, high = np.sin([0.5, 0.8])
    parts = parts_of(on_circle(ANGLES, low), on_circle(ANGLES, high))
    squared = (high - low) ** 2
    expected = squared / (squared + (np.cos(0.5) - np.cos(0.8)) ** 2)
    assert parts["share"]["contraction"] == pytest.approx(expected, abs=1e-3)
    assert parts["share"]["common"] == pytest.approx(0, abs=1e-3)
    assert parts["share"]["own"] == pytest.approx(1 - expected, abs=1e-3)
    # the distance 2 (1 − cos) is 2 (1 − cos 0.3), and the mean of the clean cosines is sin² 0.5
    random = (1 - np.cos(0.3)) / 2 * (100 * low**2 - 1) / 99
    assert parts["reference"]["contraction"] == pytest.approx(random, rel=1e-4)


def test_the_same_displacement_across_the_mean_is_common() -> None:
    """From 0.6 along one axis to 0.6 along another, across all photos' own."""
    clean = on_circle(ANGLES, 0.6, width=4)
    view = clean[:, [3, 1, 2, 0]]
    parts = parts_of(clean, view)
    # 100 photos leave open where the mean is that "across" is taken from
    np.testing.assert_allclose(parts["share"], [0.5, 0.5, 0], atol=0.01)
    turned = parts_of(clean, clean * [1, -1, -1, 1])  # each to the other side of the circle
    np.testing.assert_allclose(turned["share"], [0, 0, 1], atol=1e-3)


def test_displacements_at_random_are_as_the_reference() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(3000, 32)) + 4 * np.eye(32)[0]
    clean /= np.linalg.norm(clean, axis=1, keepdims=True)
    steps = rng.normal(size=clean.shape)
    steps -= (steps * clean).sum(axis=1, keepdims=True) * clean
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    classes = torch.from_numpy(np.linalg.qr(rng.normal(size=(32, 9)))[0])
    zero_shot = ZeroShot(classes, torch.zeros(3000))
    parts = parts_of(clean, np.cos(0.5) * clean + np.sin(0.5) * steps, zero_shot)
    assert parts["reference"]["class_span"] == 8 / 32  # differences of nine vectors
    np.testing.assert_allclose(parts["share"], parts["reference"], atol=0.01)
    assert (parts["ci_low"] <= parts["reference"]).all()
    assert (parts["reference"] <= parts["ci_high"]).all()


def test_shares_add_up_and_lie_within_their_intervals() -> None:
    rng = np.random.default_rng(1)
    for photos in (2, 3, 12):
        clean, noise = rng.normal(size=(2, photos, 8))
        table = tables_of(clean + 2, clean + 2 + 0.1 * noise)["geometry"]
        assert table["share"].sum() == pytest.approx(1, abs=1e-12)
        assert ((table["ci_low"] <= table["share"]) & (table["share"] <= table["ci_high"])).all()
    assert tables_of(clean[:1], clean[1:2])["geometry"].empty
    assert tables_of(clean, clean)["geometry"].empty


def test_span_of_class_differences() -> None:
    """What all classes share, and what none has, can change no decision."""
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    classes = (3 * axes[0] + rng.normal(size=(40, 4)) @ axes[1:5]).astype(np.float32)
    span = difference_span(classes.astype(float))
    assert span.shape == (16, 4)
    np.testing.assert_allclose(span @ span.T, axes[1:5].T @ axes[1:5], atol=1e-5)
    zero_shot = ZeroShot(torch.from_numpy(classes.T), torch.zeros(100))
    clean = on_circle(ANGLES, 0.6, width=16)
    for first, share in ((1, 1), (8, 0)):  # the circle within the span, and outside
        around = axes[[0, first, first + 1, *(set(range(1, 16)) - {first, first + 1})]]
        parts = parts_of(clean @ around, (clean * [1, -1, -1, *[1] * 13]) @ around, zero_shot)
        assert parts["share"]["class_span"] == pytest.approx(share, abs=1e-5)
        assert parts["reference"]["class_span"] == 4 / 16


def test_margins_of_known_embeddings() -> None:
    """Two classes along two axes: the margin is cos − sin of the angle to the first."""
    before, after = np.array([0.1, 0.2, 0.3, 1.4]), np.array([0.3, 0.9, 0.7, 1.2])
    clean, view = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in (before, after))
    classes = {
        name: torch.eye(2)[:, order] for name, order in (("a {}", [0, 1]), ("the {}", [1, 0]))
    }
    zero_shot = ZeroShot(torch.eye(2), torch.zeros(4), ("x", "y"), classes)
    table = tables_of(clean, view, zero_shot)["margins"].set_index(["prompt", "measure"])
    margin = np.abs(np.cos(before) - np.sin(before))
    moved = (np.cos(after) - np.sin(after)) * [1, 1, 1, -1]
    change = moved - margin
    pairs = [margin[i] + change[j] < 0 for i, j in permutations(range(4), 2)]
    for prompt in (ALL, "a {}", "the {}"):
        values = table.loc[prompt, "value"]
        assert values["clean_margin"] == pytest.approx(margin.mean(), rel=1e-6)
        assert values["margin_shift"] == pytest.approx(moved.mean() / margin.mean() - 1, rel=1e-6)
        assert values["flips"] == (moved < 0).mean() == 0.25
        assert values["predicted_flips"] == pytest.approx(np.mean(pairs))
    assert (table.loc[ALL, "prompt_std"].dropna() == 0).all()
    assert table.loc["a {}", "prompt_std"].isna().all()


def test_predicted_flips_of_normal_margins() -> None:
    """As many as theory says where changes do not depend on margins, of which it knows nothing."""
    rng = np.random.default_rng(3)
    margin, change = rng.normal(2, 1, 20_000), rng.normal(-1, 1.5, 20_000)
    theory = stats.norm.cdf(-1 / np.hypot(1, 1.5))
    assert predicted_flips(margin, change).mean() == pytest.approx(theory, abs=0.01)
    assert (margin + change < 0).mean() == pytest.approx(theory, abs=0.01)
    shrunk = predicted_flips(margin, -0.9 * margin)
    assert shrunk.mean() == pytest.approx(stats.norm.cdf(-0.2 / np.hypot(1, 0.9)), abs=0.01)


def test_flips_and_auroc_are_those_of_other_code() -> None:
    random = np.random.default_rng(4)
    clean, noise = random.normal(size=(2, 60, 12))
    classes = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(12, 7))), dim=0)
    classes[:, 3] = classes[:, 2]  # of one name
    zero_shot = ZeroShot(classes, torch.zeros(60))
    table = tables_of(clean, clean + noise, zero_shot)["margins"].set_index("measure")
    flips = zero_shot_flip(
        *(torch.from_numpy(of).float() for of in (clean + noise, clean)), classes
    )
    assert table["value"]["flips"] == pytest.approx(float(flips.double().mean()), abs=1e-12)
    assert table["n"].eq(60).all()
    stays = flips.numpy() < 0.5
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    ordered = np.sort(clean / lengths @ np.delete(classes.numpy(), 3, axis=1), axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    u, _ = stats.mannwhitneyu(margins[stays], margins[~stays])
    assert table["value"]["auroc"] == pytest.approx(u / stays.sum() / (~stays).sum(), abs=1e-6)


def test_a_single_photo_has_no_parts_and_no_margins() -> None:
    classes = ZeroShot(torch.eye(3), torch.zeros(1))
    for table in tables_of(np.ones((1, 3)), np.array([[1.0, 0, 0]]), classes).values():
        assert table.empty


def test_a_move_by_rounding_alone_has_no_parts() -> None:
    clean = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    assert tables_of(clean, np.nextafter(clean, np.float32(2)))["geometry"].empty
