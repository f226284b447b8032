r"""The shift after whitening: in units of how clean photos vary, whatever the model's cone.

All use unit embeddings in float64, as `clipshift.measure.embeddings` does.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from clipshift.measure.embeddings import FOLDS, alignment, has_direction, units
from clipshift.measure.functional import TIE


def shrunk_covariance(rows: np.ndarray) -> np.ndarray:
    r"""The covariance of rows, shrunk towards a multiple of the identity.

    .. math::
        \Sigma = (1 - \lambda) S + \lambda \mu I, \quad \mu = \operatorname{tr} S / D, \quad
        \lambda = \min\Big(1, \frac{\frac{1}{N^2} \sum_i \| x_i x_i^T - S \|^2}{\| S - \mu I \|^2}
        \Big)

    of the centred rows x and their covariance S (divided by N), in Frobenius norms. λ estimates
    what minimises the expected squared error of Σ. Source: Ledoit and Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", 2004, lemmas 3.2 to 3.4.

    Args:
        rows: Shape (N, D).

    Returns:
        Σ, float64, shape (D, D). λ is 1 where S is a multiple of the identity already.

    Example:
        >>> shrunk_covariance(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])).round(3)
        array([[0.556, 0.   ],
               [0.   , 0.111]])
    """
    centred = rows - rows.mean(axis=0)
    photos, width = centred.shape
    covariance = centred.T @ centred / photos
    scale, squares = np.trace(covariance) / width, np.square(covariance).sum()
    apart = squares - width * scale**2
    fourth = np.square(np.square(centred).sum(axis=1)).sum()
    error = (fourth / photos - squares) / photos
    share = np.clip(error / apart, 0, 1) if apart > TIE * squares else 1.0
    return np.asarray((1 - share) * covariance + share * scale * np.eye(width))


def whitened_shift(
    views: Sequence[np.ndarray], clean: np.ndarray, places: np.ndarray
) -> np.ndarray:
    r"""1 − cosine of view and clean view after whitening by other clean photos.

    .. math::
        1 - \cos(z', z), \quad z = \Sigma^{-1/2} (u - m)

    with the mean m and `shrunk_covariance` Σ of the clean unit embeddings of all other folds, of
    `FOLDS`: those of the same photos would know each photo's clean view, but not its other views,
    and make the shift too large. 1 means as far as another photo, as for the relative shift; but
    directions in which photos differ little count as much as those in which they differ most. The
    fewer photos there are, the more is shrunk; in the limit, only the mean is removed.

    Args:
        views: Embeddings of V views of N photos, shape (N, D) each.
        clean: Embeddings of their clean views, shape (N, D).
        places: The place of each photo in a random order, which its fold follows from, integers,
            shape (N,).

    Returns:
        float64, shape (V, N), in [0, 2]. NaN where view or clean view has no direction, and where
        the other clean photos are all the same.

    Example:
        >>> clean = np.random.default_rng(0).normal(size=(40, 3))
        >>> whitened_shift([clean[:3]], clean[:3], np.arange(3))
        array([[0., 0., 0.]])
    """
    shifts = np.full((len(views), len(clean)), np.nan)
    usable, width, folds = has_direction(clean), clean.shape[1], places % FOLDS
    for fold in np.unique(folds):
        others = units(clean[usable & (folds != fold)])
        scale = others.var(axis=0).mean() if len(others) else 0.0
        if scale <= TIE:
            continue
        # TIE: of two or three photos S may be singular, and not shrunk
        root = cholesky(shrunk_covariance(others) + TIE * scale * np.eye(width), lower=True)
        chosen = np.flatnonzero(usable & (folds == fold))
        centre = others.mean(axis=0)
        for shift, view in zip(shifts, views, strict=True):
            rows = chosen[has_direction(view[chosen])]
            pair = (units(side[rows]) - centre for side in (view, clean))
            whitened = [solve_triangular(root, side.T, lower=True).T for side in pair]
            shift[rows] = alignment(*whitened) / 2
    return shifts
