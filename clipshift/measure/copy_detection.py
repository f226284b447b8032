r"""Copy detection: how well cosines tell the views of a photo from other photos.

The cosine of a view and its own clean photo is a *genuine* score, that of a view and another clean
photo an *impostor*. Scores are whole multiples of 2⁻³⁰, so that those that differ by less than
about 1e-9 tie. They are made twice, tile by tile, and never held at once.

Impostors share photos and are not independent. How they vary is therefore said by photo: the scores
of a photo are those of its views with other photos, and of other photos' views with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipshift.measure.embeddings import units

RATES = (1e-2, 1e-3, 1e-4)
"""False-positive rates that thresholds are set for."""
SCALE = 2**30
"""Scores are whole multiples of 1 / SCALE."""
NO_PAIR = -2.0
"""In place of a cosine where there is no pair."""
LOW_BITS = 16
"""The number of low bits of a score that do not tell its bin: bins are 6e-5 wide."""
EDGES = np.arange(NO_PAIR * SCALE, SCALE + 1, 2**LOW_BITS).astype(np.int32)
"""The least score of each bin."""
TILE = 256
"""Photos on each side of a tile."""
MANY_GROUPS = 2000
"""With more groups, pairs of them are not counted, and errors are too large."""


@dataclass(frozen=True)
class Separation:
    """How well the scores of N photos' views under K augmentations separate.

    Attributes:
        statistics: Area under the ROC curve and micro average precision, shape (2,).
        values: What each photo adds to the two as means over photos, shape (N, 2).
        genuine: Cosines of views and their own photos, shape (K, N).
        thresholds: For each of `RATES`, the least cosine that a share of the impostors of at most
            the rate is above, shape (3,).
        errors: The standard error of that share, shape (3,).
        cells: Cosines where the cells begin that impostors are counted in, ascending, shape (C,).
        impostors: Their number in each cell, shape (C,).
    """

    statistics: np.ndarray
    values: np.ndarray
    genuine: np.ndarray
    thresholds: np.ndarray
    errors: np.ndarray
    cells: np.ndarray
    impostors: np.ndarray

    def quantile(self, rate: float) -> float:
        """The least end of a cell that a share of the impostors of at most a rate is above."""
        above = self.impostors.sum() - self.impostors.cumsum()
        return float(np.append(self.cells, 1)[np.argmax(above <= rate * above[0]) + 1])


def separate(
    views: np.ndarray,
    clean: np.ndarray,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Separation:
    r"""Compare the views of photos with all clean photos.

    The AUROC is the probability that a genuine score is above an impostor; ties count half. Micro
    average precision ranks all pairs of a view and a clean photo together:

    .. math::
        \frac{1}{|G|} \sum_{g \in G} \frac{|G_{\ge g}|}{|G_{\ge g}| + |I_{\ge g}|}

    over the genuine scores G and the impostors I. Source: Douze et al., "The 2021 image similarity
    dataset and challenge" (arXiv 2106.09672), section 4. What photos add to the two are Hájek's
    projections, of the latter to first order.

    The variance of a share of the M impostors is that over pairs of photos, which are dependent
    where they have a photo in common. It is not less than that of independent pairs. With the
    deviation :math:`D_{ij}` from the share, summed over the scores of two photos:

    .. math::
        \frac{1}{M^2} \Big(\frac{N}{N - 1} \sum_i \Big(\sum_j D_{ij}\Big)^2 - \sum_{i<j}
        D_{ij}^2\Big)

    Source: Aronow, Samii and Assenova, "Cluster-robust variance estimation for dyadic data", 2015.
    Groups take the place of photos where they are given.

    Args:
        views: Embeddings of N photos under K augmentations, with directions, shape (K, N, D).
        clean: Embeddings of their clean views, shape (N, D).
        classes: Ascending integers, shape (N,): only photos of one class are impostors of each
            other. None: all are.
        groups: The group of each photo, integers, shape (N,): photos of one are not independent.

    Example:
        >>> clean = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
        >>> separate(np.array([clean + 0.1, -clean]), clean).statistics.round(3)
        array([0.472, 0.6  ])
    """
    count, photos = views.shape[:2]
    unit_of = np.arange(photos) if groups is None else np.unique(groups, return_inverse=True)[1]
    genuine = _scores(np.array([np.einsum("nd,nd->n", units(v), units(clean)) for v in views]))
    cells = np.unique(np.concatenate([EDGES, genuine.ravel(), genuine.ravel() + 1]))
    place = np.searchsorted(cells, genuine)
    cell_of_bin = np.searchsorted(cells, EDGES)
    cell_of_bin[_bins(genuine)] = -1  # a bin of several cells

    def tiles() -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]]:
        for sides, cosines, weights in _tiles(views, clean, classes, unit_of):
            scores = _scores(cosines)
            cell = cell_of_bin.take(_bins(scores))
            several = np.flatnonzero(cell < 0)
            cell.flat[several] = np.searchsorted(cells, scores.take(several), "right") - 1
            yield sides, scores, cell, weights

    impostors = np.zeros(len(cells), np.int64)
    for _, _, cell, _ in tiles():
        np.add.at(impostors, cell, 1)
    impostors[0] = 0  # of no pair
    above, total = impostors.sum() - impostors.cumsum(), impostors.sum()
    statistics, of_genuine, of_impostors = _curve(
        np.bincount(place.flat, minlength=len(cells)), impostors, above
    )
    allowed = (np.array(RATES) * total * (1 + 1e-12)).astype(int)
    limits = np.array([np.argmax(above <= most) for most in allowed])
    shares = (above + impostors)[limits] / total
    sums, squares, pairs = np.zeros((photos, 6)), np.zeros((len(RATES), 2)), np.zeros(2)
    in_cell = np.zeros((len(RATES), 2**LOW_BITS), np.int64)
    sizes = np.bincount(unit_of)
    grouped = classes is None and len(sizes) < min(photos, MANY_GROUPS)
    apart = np.zeros((len(RATES), *(2 * sizes.shape if grouped else (0, 0))))
    for sides, scores, cell, weights in tiles():
        highest = np.flatnonzero(cell >= limits[0])
        over = np.zeros((len(RATES), weights.size))
        for rate, limit in enumerate(limits):
            reached = highest[cell.take(highest) >= limit]
            over[rate] = np.bincount(reached % weights.size, minlength=weights.size)
            if grouped:
                places = np.divmod(reached % weights.size, weights.shape[1])
                pair = [unit_of[side][at] for side, at in zip(sides, places, strict=True)]
                np.add.at(apart[rate], tuple(pair), 1)
            at = scores.take(reached[cell.take(reached) == limit])
            np.add.at(in_cell[rate], at - cells[limit], 1)
        counted = np.array([weights > 0, weights == 1]).reshape(2, -1)
        pairs += counted.sum(axis=1)
        squares += np.square(over) @ counted.T
        added = of_impostors.take(cell, axis=0).sum(axis=0)
        over = over.T.reshape(*weights.shape, -1)
        added = np.dstack([added, over, np.ones(weights.shape)]) * weights[..., None]
        for axis, side in enumerate(sides):
            sums[side] += added.sum(axis=1 - axis)
    means = np.array([*(impostors @ of_impostors / total), *shares])
    deviations = sums[:, :-1] - 2 * count * np.outer(sums[:, -1], means)
    values = of_genuine[place].mean(axis=0) + photos * deviations[:, :2]
    by_unit = np.zeros((unit_of.max() + 1, len(RATES)))
    np.add.at(by_unit, unit_of, deviations[:, 2:])
    by_unit -= by_unit.mean(axis=0)  # not 0 where pairs within a group differ from others
    every = np.square(by_unit).sum(axis=0) * len(by_unit) / max(len(by_unit) - 1, 1)
    squares -= np.outer(np.square(2 * count * shares), pairs)
    if grouped:
        pairs_of = np.outer(sizes, sizes) * (1 - np.eye(len(sizes)))
        apart = (apart + apart.swapaxes(1, 2)) * (pairs_of > 0)
        apart -= np.multiply.outer(apart.sum(axis=(1, 2)) / pairs_of.sum(), pairs_of)
        squares[:, 1] = np.square(apart).sum(axis=(1, 2)) / 2
    after = in_cell.sum(axis=1, keepdims=True) - in_cell.cumsum(axis=1)
    low = np.argmax(after <= (allowed - above[limits])[:, None], axis=1)
    return Separation(
        statistics,
        values + statistics - values.mean(axis=0),
        genuine / SCALE,
        (cells[limits] + low) / SCALE,
        np.sqrt(np.maximum(every - squares[:, 1], squares[:, 0])) / total,
        cells / SCALE,
        impostors,
    )


def _tiles(
    views: np.ndarray, clean: np.ndarray, classes: np.ndarray | None, units_of: np.ndarray
) -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """Make the cosines of every two different photos i < j, tile by tile.

    Yields:
        The tile's i and j; the cosines of i's views with j and of j's views with i, shape (2 K, I,
        J); and how much each pair counts for each of its photos: 0 where there is no pair, a half
        where its photos are of one group.
    """
    photos = np.arange(len(clean))
    for start in range(0, len(clean), TILE):
        rows = slice(start, start + TILE)
        row_clean, row_views = units(clean[rows]), [units(view[rows]) for view in views]
        for other in range(start, len(clean), TILE):
            columns = slice(other, other + TILE)
            weights = (photos[rows, None] < photos[columns]).astype(float)
            if classes is not None:
                if classes[other] > classes[rows][-1]:
                    break
                weights *= classes[rows, None] == classes[columns]
            weights[units_of[rows, None] == units_of[columns]] /= 2
            column_clean = units(clean[columns])
            cosines = [view @ column_clean.T for view in row_views]
            cosines += [row_clean @ units(view[columns]).T for view in views]
            tile = np.array(cosines) if weights.all() else np.where(weights, cosines, NO_PAIR)
            yield (rows, columns), tile, weights


def _curve(
    genuine: np.ndarray, impostors: np.ndarray, above: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC and micro average precision, and what each score adds to them.

    Args:
        genuine: The number of genuine scores in each of C cells.
        impostors: The number of impostors.
        above: The number of impostors above each cell.

    Returns:
        The two, shape (2,); what a genuine score in each cell adds, up to a constant, (C, 2); and
        what an impostor adds, in shares of a photo, (C, 2).
    """
    count, total = genuine.sum(), impostors.sum()
    up_to = genuine.cumsum()
    found, at_least = count - up_to + genuine, above + impostors
    ranked = np.maximum(found + at_least, 1)  # 0 above all scores
    ahead, precision = 1 - (above + impostors / 2) / total, found / ranked
    slope = genuine / count / ranked**2
    gain, loss = count * np.cumsum(slope * at_least), np.cumsum(slope * found)
    return (
        np.array([genuine @ ahead, genuine @ precision]) / count,
        np.stack([ahead, precision + gain], axis=1),
        -np.stack([(up_to - genuine / 2) / count / total, loss], axis=1),
    )


def _scores(cosines: np.ndarray) -> np.ndarray:
    return np.rint(cosines * SCALE).astype(np.int32)


def _bins(scores: np.ndarray) -> np.ndarray:
    return (scores >> LOW_BITS) - (EDGES[0] >> LOW_BITS)
