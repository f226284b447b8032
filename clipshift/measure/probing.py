"""Linear probes: what can be predicted of photos that nothing was fitted to, in float64."""

import numpy as np
from scipy.linalg import eigh

from clipshift.measure.confidence import auroc_values
from clipshift.measure.embeddings import MOVED, RIDGES
from clipshift.measure.functional import TIE

CAUTION = 1.4
"""How much more a fitted degree of freedom counts in generalised cross-validation: without it, the
penalty of some small samples is far too small, and R² far below 0."""


def ridge_predictions(
    x: np.ndarray, targets: np.ndarray, folds: np.ndarray, together: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    r"""Predict each fold's rows by ridge regressions that were fitted to all other folds.

    .. math::
        \hat y = \bar y + (x - \bar x) W, \quad
        W = \arg\min_W \sum_i \| (y_i - \bar y) - (x_i - \bar x) W \|^2 + \lambda \| W \|^2

    with the means of the rows that are fitted to. λ, out of `RIDGES` as multiples of the mean
    variance of a dimension of x, summed over rows, has the smallest generalised cross-validation
    error over these rows, each degree of freedom counted `CAUTION` times; with λ = ∞, where nothing
    is learnt, :math:`\hat y` is :math:`\bar y`. Directions in which x varies by less than `MOVED`
    are left out. Sources: Hoerl and Kennard, "Ridge regression", 1970; Golub, Heath and Wahba,
    "Generalized cross-validation as a method for choosing a good ridge parameter", 1979; Kim and
    Gu, "Smoothing spline Gaussian regression: more scalable computation via efficient
    approximation", 2004, for the 1.4.

    Args:
        x: Shape (N, D).
        targets: One y or several, shape (S, N, T).
        folds: The fold of each row, integers, shape (N,).
        together: Whether all columns of a y have one λ; by default each has its own.

    Returns:
        :math:`\hat y` and :math:`\bar y` of each row, each float64, shape (S, N, T).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 2))
        >>> y = 3 * x[None, :, :1] + 1
        >>> predicted, _ = ridge_predictions(x, y, np.arange(50) % 5)
        >>> bool(abs(predicted - y).max() < 1e-4)
        True
    """
    predicted, means = np.empty((2, *targets.shape))
    for fold in np.unique(folds):
        test = folds == fold
        centre, mean = x[~test].mean(axis=0), targets[:, ~test].mean(axis=1, keepdims=True)
        rows, y = x[~test] - centre, targets[:, ~test] - mean
        values, axes = _principal_axes(rows)
        along = axes.T @ (rows.T @ y)  # (S, rank, T)
        # lost: how much of y along each left singular vector is not fitted, (λ, rank)
        penalties = RIDGES * max(np.square(rows).sum() / rows.shape[1], MOVED**2)
        lost = 1 / (1 + values / penalties[:, None])
        explained = np.square(along) / values[:, None]
        beside = np.square(y).sum(axis=1) - explained.sum(axis=1)
        residual = beside.clip(min=0)[:, None] + np.square(lost) @ explained
        freedom = len(rows) - CAUTION * (1 + len(values) - lost.sum(axis=1))
        with np.errstate(divide="ignore"):
            errors = residual / np.square(freedom.clip(min=0))[:, None]
        errors = errors.sum(axis=2, keepdims=True) if together else errors
        gains = 1 - lost[errors.argmin(axis=1)].swapaxes(1, 2)
        means[:, test] = mean
        predicted[:, test] = mean + (x[test] - centre) @ axes @ (gains * along / values[:, None])
    return predicted, means


def _principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values of centred rows and their right singular vectors, (D, rank)."""
    wide = rows.shape[1] > len(rows)
    values, vectors = eigh(rows @ rows.T if wide else rows.T @ rows)
    kept = values > len(rows) * MOVED**2
    values, vectors = values[kept], vectors[:, kept]
    return values, rows.T @ vectors / np.sqrt(values) if wide else vectors


def probe_values(
    views: np.ndarray, orders: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tell the kinds of views apart by a ridge classifier of other photos' views.

    A view is of the kind whose indicator, 1 for views of the kind and 0 for others, is predicted to
    be largest (`ridge_predictions`). Kinds that tie within 1e-9 share the hit. The area under the
    ROC curve is that of the difference of two predictions, over the photos of one fold.

    Args:
        views: Embeddings of K views of N photos, shape (K, N, D).
        orders: Which kind each view counts as, a permutation of 0 to K − 1 for each photo, several
            times, shape (S, K, N). Those that are drawn at random give the null.
        folds: The fold of each photo, integers, shape (N,).

    Returns:
        Hits, in [0, 1]; and what each photo adds to the area of a kind against kind 0, NaN for kind
        0. Each float64, by kind, shape (S, K, N).

    Example:
        >>> photos = np.random.default_rng(0).normal(size=(20, 2))
        >>> views = np.stack([np.pad(photos, ((0, 0), (0, 1)), constant_values=k) for k in (0, 1)])
        >>> order = np.repeat([[[0], [1]]], 20, axis=2)
        >>> hits, areas = probe_values(views, order, np.arange(20) % 5)
        >>> float(hits.mean()), float(areas[0, 1].mean())
        (1.0, 1.0)
    """
    shape = kinds, photos = views.shape[:2]
    indicators = np.eye(kinds)[orders].reshape(len(orders), kinds * photos, kinds)
    of_views = np.tile(folds, kinds)
    rows = views.reshape(kinds * photos, -1)
    predicted, _ = ridge_predictions(rows, indicators, of_views, together=True)
    in_place = predicted.reshape(-1, *shape, kinds)  # (S, view, photo, prediction)
    scores = np.take_along_axis(in_place, np.argsort(orders, axis=1)[..., None], axis=1)
    first = scores >= scores.max(axis=-1, keepdims=True) - TIE
    hits = np.einsum("skpk->skp", first / first.sum(axis=-1, keepdims=True))
    areas = np.full(scores.shape[:3], np.nan)
    is_view = np.array([[1.0], [0.0]])
    for place, kind, fold in np.ndindex(len(orders), kinds - 1, folds.max() + 1):
        of = np.flatnonzero(folds == fold)
        pair = scores[place, [kind + 1, 0]][:, of]  # the views and the clean ones
        ahead = pair[..., kind + 1] - pair[..., 0]
        values = auroc_values(ahead.ravel(), np.broadcast_to(is_view, ahead.shape).ravel())
        areas[place, kind + 1, of] = values.reshape(ahead.shape).mean(axis=0)
    return hits, areas
