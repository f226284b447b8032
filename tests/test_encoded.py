"""Encoded or destroyed: constructed encoders, scikit-learn, and scipy."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor

import clipshift
from clipshift.api import Result
from clipshift.augment.keyed import Draws
from clipshift.evaluate.encoded import r_squared, with_squares
from clipshift.measure import probing
from clipshift.measure.embeddings import RIDGES
from clipshift.measure.metrics import CosineSimilarity
from clipshift.report.sections.encoded import encoded_section

PHOTOS = 60


class Marked:
    """Writes the angle that it draws, 0.5 to 1, into all of a photo's blue."""

    strongest, moves_pixels, stage = np.inf, False, "view"

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        angle = torch.tensor([rng.uniform(0.5, 1)], dtype=torch.float32)
        return {"angle": angle, "seed": torch.tensor([7]), "field": torch.zeros(3, 9)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        blue = (strength * draws["angle"])[..., None, None].expand_as(images[:, :1])
        return torch.cat([images[:, :2], blue], dim=1)


def photo_code(views: Tensor) -> Tensor:
    """A unit vector that only the photo's red and green decide."""
    means = torch.nn.functional.adaptive_avg_pool2d(views[:, :2], 2).flatten(1) - 0.5
    return torch.nn.functional.normalize(means, dim=1)


def encodes_angle(views: Tensor) -> Tensor:
    blue = views[:, 2].mean(dim=(1, 2))[:, None] / 2
    return torch.cat([blue, (1 - blue.square()).sqrt() * photo_code(views)], dim=1)


def ignores_angle(views: Tensor) -> Tensor:
    return photo_code(views)


def constant(views: Tensor) -> Tensor:
    return torch.ones(len(views), 4)


def photographs() -> list[Tensor]:
    rng = np.random.default_rng(0)
    colours = torch.from_numpy(rng.uniform(0.1, 0.9, (PHOTOS, 2, 2, 2))).float()
    dark = torch.zeros(PHOTOS, 1, 2, 2)
    squares = torch.cat([colours, dark], dim=1)
    return list(squares.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3))


def encoded_by(encoder: Any, folder: Path, **options: Any) -> tuple[pd.DataFrame, Result]:
    options = {"dissect": True, "progress": False, "measures": [CosineSimilarity()]} | options
    result = clipshift.measure_shift(
        photographs(), encoder, {"marked": Marked()}, folder=folder, **options
    )
    table = result.encoded.set_index(["augmentation", "measure"])
    return table, result


@pytest.mark.parametrize(
    ("encoder", "quadrant"),
    [
        (encodes_angle, "Encoded and retained"),
        (ignores_angle, "Not encoded, but retained"),
        (constant, "The photo is lost"),
    ],
)
def test_constructed_encoders(encoder: Any, quadrant: str, tmp_path: Path) -> None:
    table, result = encoded_by(encoder, tmp_path)
    value = table["value"]
    retained = result.summary.set_index("measure").loc["retained", "mean"]
    assert (table["n"] == PHOTOS).all()
    np.testing.assert_allclose(table["null"].filter(like="auroc"), 0.5, atol=0.1)
    if encoder is encodes_angle:
        assert value["marked", "draw:angle"] > 0.999
        assert value["marked", "auroc"] == value["all", "read_off"] == 1
        assert table.loc[("marked", "auroc"), "ci_low"] < 1  # Wilson's
        assert table.loc[("marked", "predicted_by_draws"), "ci_low"] > 0  # but not the photo's part
        assert retained > 0.9
        again, _ = encoded_by(encoder, tmp_path / "again", batch_size=7)
        pd.testing.assert_frame_equal(again, table, check_exact=True)
    else:
        assert value["marked", "auroc"] == value["all", "read_off"] == 0.5
        assert ("marked", "draw:seed") not in value
        assert retained == pytest.approx(1 if encoder is ignores_angle else 1 / PHOTOS)
        assert not value.filter(like="draw:").gt(0.05).any()
    assert f"{quadrant}: `marked`." in encoded_section(result.run).finding
    assert not value.index.get_level_values("measure").str.contains("seed|field").any()


def ridges_by_hand(x: np.ndarray, y: np.ndarray, folds: np.ndarray, together: bool) -> np.ndarray:
    """scikit-learn's ridge regression, with the penalty of the least error by explicit matrices."""
    predicted = np.empty(y.shape)
    for fold in np.unique(folds):
        test = folds == fold
        rows, targets = x[~test], y[~test]
        centred = rows - rows.mean(axis=0)
        count, scale = len(rows), np.square(centred).sum() / rows.shape[1]
        models, errors = [], []
        for penalty in RIDGES[:-1] * scale:
            models.append(Ridge(penalty, solver="svd", tol=0).fit(rows, targets).predict)
            gram = centred.T @ centred + penalty * np.eye(rows.shape[1])
            hat = centred @ np.linalg.solve(gram, centred.T) + 1 / count
            freedom = max(count - probing.CAUTION * np.trace(hat), 0)
            residual = np.square(targets - hat @ targets).sum(axis=0)
            errors.append(residual / freedom**2 if freedom else np.full(y.shape[1], np.inf))
        models.append(lambda new, targets=targets: np.tile(targets.mean(axis=0), (len(new), 1)))
        unfitted = np.square(targets - targets.mean(axis=0)).sum(axis=0)
        errors.append(unfitted / (count - probing.CAUTION) ** 2)
        scores = np.array(errors)
        for column in range(y.shape[1]):
            best = (scores.sum(axis=1) if together else scores[:, column]).argmin()
            predicted[test, column] = models[best](x[test])[:, column]
    return predicted


@pytest.mark.parametrize(("width", "together"), [(4, False), (90, False), (12, True)])
def test_ridge_is_scikit_learns(width: int, together: bool) -> None:
    rng = np.random.default_rng(width)
    x, folds = rng.normal(size=(50, width)), rng.permutation(50) % 5
    y = x[:, :3] @ rng.normal(size=(3, 3)) + [0, 1, 30] * rng.normal(size=(50, 3)) + 5
    predicted, means = probing.ridge_predictions(x, y[None], folds, together)
    expected = ridges_by_hand(x, y, folds, together)
    np.testing.assert_allclose(predicted[0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(means[0, folds == 2], [y[folds != 2].mean(axis=0)] * 10)
    errors, spread = ((y - of) ** 2 for of in (expected, means[0]))
    each = 1 - (errors.sum() / spread.sum() if together else errors.sum(0) / spread.sum(0))
    results = r_squared(x, y, folds, 0, together)
    np.testing.assert_allclose([values.mean() for values, _ in results], np.ravel(each), atol=1e-6)
    assert all(null < 0.2 for _, null in results)


def test_probe_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    views = rng.normal(size=(3, 40, 6)) + 1.5 * np.eye(6)[:3, None]
    folds, order = rng.permutation(40) % 5, np.tile(np.arange(3)[:, None], 40)
    orders = np.stack([order, rng.permuted(order, axis=0)])
    hits, areas = probing.probe_values(views, orders, folds)
    for place, kinds in enumerate(orders):
        rows, of_views = views.reshape(120, 6), np.tile(folds, 3)
        scores = ridges_by_hand(rows, np.eye(3)[kinds.ravel()], of_views, together=True)
        named = scores.argmax(axis=1) == kinds.ravel()
        decided = np.ptp(scores, axis=1) > 1e-6  # elsewhere kinds tie
        for kind in range(3):
            of = kinds.ravel() == kind
            expected = np.where(decided, named, 1 / 3)[of]
            assert hits[place, kind].mean() == pytest.approx(expected.mean())
        for kind in (1, 2):
            ahead, areas_of_folds = scores[:, kind] - scores[:, 0], []
            for fold in range(5):
                pair = (of_views == fold) & np.isin(kinds.ravel(), [0, kind])
                is_view = kinds.ravel()[pair] == kind
                areas_of_folds.append(roc_auc_score(is_view, ahead[pair].round(9)))
            assert areas[place, kind].mean() == pytest.approx(np.mean(areas_of_folds))
    assert hits[0].mean() > 0.6
    assert abs(hits[1].mean() - 1 / 3) < 0.1


def test_squares_make_an_even_response_predictable() -> None:
    angle = np.random.default_rng(2).uniform(-30, 30, (80, 1))
    features, response = with_squares(angle), np.hstack([angle**2, angle])
    np.testing.assert_allclose(features.std(axis=0), 1)
    [(values, null)] = r_squared(features, response, np.arange(80) % 5, 0, together=True)
    assert null < 0.2
    assert values.mean() > 0.9999
    assert abs(with_squares(np.array([[-1.0], [1.0]]))[:, 1]).max() < 1e-6  # a constant square
