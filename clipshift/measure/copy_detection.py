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
        cells: Cosines between which impostors are counted, ascending, shape (C,).
        impostors: Number of impostors at each cell (odd places) and right before it (even places),
            shape (2 C + 1,).
    """

    statistics: np.ndarray
    values: np.ndarray
    genuine: np.ndarray
    thresholds: np.ndarray
    errors: np.ndarray
    cells: np.ndarray
    impostors: np.ndarray

    def quantile(self, rate: float) -> float:
        """The least cell that a share of the impostors of at most a rate is above."""
        above = self.impostors.sum() - self.impostors.cumsum()
        return float(self.cells[np.argmax(above <= rate * self.impostors.sum()) // 2])


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
    Groups take the place of photos where they are given; the last sum is then over pairs of photos
    of different groups.

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
    cells = np.unique(np.concatenate([genuine.ravel(), EDGES]))
    place = np.searchsorted(cells, genuine)
    code_of_bin = _codes(cells, EDGES) + 1
    code_of_bin[_bins(genuine)] = -1

    def tiles() -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]]:
        for sides, cosines, weights in _tiles(views, clean, classes, unit_of):
            scores = _scores(cosines)
            codes = code_of_bin.take(_bins(scores))
            near = np.flatnonzero(codes < 0)  # in a bin of genuine scores
            codes.flat[near] = _codes(cells, scores.take(near))
            yield sides, scores, codes, weights

    impostors = np.zeros(2 * len(cells) + 1, np.int64)
    partners, pairs = np.zeros(photos), np.zeros(2)
    for sides, _, codes, weights in tiles():
        np.add.at(impostors, codes, 1)
        pairs += np.count_nonzero(weights), np.count_nonzero(weights == 1)
        for axis, side in enumerate(sides):
            partners[side] += weights.sum(axis=1 - axis)
    impostors[:3] = 0  # those of no pair
    statistics, of_genuine, of_impostors = _curve(np.bincount(place.flat), impostors)
    above, total = impostors.sum() - impostors.cumsum(), impostors.sum()
    allowed = (np.array(RATES) * total * (1 + 1e-12)).astype(int)
    limits = np.array([np.argmax(above <= most) for most in allowed])
    bases = cells[(limits - 1) // 2]
    sums, squares = np.zeros((photos, 2 + len(limits))), np.zeros((len(limits), 2))
    beyond = np.zeros((len(limits), 2**LOW_BITS + 1), np.int64)
    for sides, scores, codes, weights in tiles():
        highest = np.flatnonzero(codes >= limits[0])
        reached = codes.take(highest)
        over = np.array(
            [
                np.bincount(highest[reached >= limit] % weights.size, minlength=weights.size)
                for limit in limits
            ]
        ).reshape(-1, *weights.shape)
        squares[:, 0] += np.square(over).sum(axis=(1, 2))
        squares[:, 1] += np.square(over[:, weights == 1]).sum(axis=1)
        added = of_impostors.take(codes, axis=0).sum(axis=0)
        added = np.concatenate([added, np.moveaxis(over, 0, -1)], axis=-1) * weights[..., None]
        for axis, side in enumerate(sides):
            sums[side] += added.sum(axis=1 - axis)
        for limit, base, counts in zip(limits, bases, beyond, strict=True):
            np.add.at(counts, scores.take(highest[reached == limit]) - base, 1)
    shares = (above + impostors)[limits] / total
    size = 2 * count * partners
    sums -= np.outer(size, [*(impostors @ of_impostors / total), *shares])
    values = of_genuine[place].mean(axis=0) + photos * sums[:, :2]
    by_unit = np.zeros((unit_of.max() + 1, len(limits)))
    np.add.at(by_unit, unit_of, sums[:, 2:])
    every = np.square(by_unit).sum(axis=0) * len(by_unit) / max(len(by_unit) - 1, 1)
    squares -= np.outer(np.square(2 * count * shares), pairs)
    after = beyond.sum(axis=1, keepdims=True) - beyond.cumsum(axis=1)
    low = np.argmax(after <= (allowed - above[limits])[:, None], axis=1)
    return Separation(
        statistics,
        values + statistics - values.mean(axis=0),
        genuine / SCALE,
        (bases + low) / SCALE,
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


def _curve(genuine: np.ndarray, impostors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC and micro average precision, and what each score adds to them.

    Args:
        genuine: The number of genuine scores at the first of C cells.
        impostors: The number of impostors at each cell and before it, as in `Separation`.

    Returns:
        The two, shape (2,); what a genuine score at each cell adds, up to a constant, (C, 2); and
        what an impostor at each place adds, in shares of a photo, (2 C + 1, 2).
    """
    genuine = np.pad(genuine, (0, len(impostors) // 2 - len(genuine)))
    count, total = genuine.sum(), impostors.sum()
    below = np.append(0, genuine.cumsum())
    found = count - below[:-1]
    tail = impostors[::-1].cumsum()[::-1]
    at_least, beaten = tail[1::2], (tail[1::2] + tail[2::2]) / 2 / total
    ranked = np.maximum(found + at_least, 1)  # 0 above all scores
    slope = genuine / count / ranked**2
    code = np.arange(len(impostors))
    behind = (below[code // 2] + below[(code + 1) // 2]) / 2 / count
    lost = np.append(0, np.cumsum(slope * found))[(code + 1) // 2]
    precision = found / ranked
    return (
        np.array([1 - genuine @ beaten / count, genuine @ precision / count]),
        np.stack([1 - beaten, precision + count * np.cumsum(slope * at_least)], axis=1),
        np.stack([-behind / total, -lost], axis=1),
    )


def _scores(cosines: np.ndarray) -> np.ndarray:
    return np.rint(cosines * SCALE).astype(np.int32)


def _bins(scores: np.ndarray) -> np.ndarray:
    return (scores >> LOW_BITS) - (EDGES[0] >> LOW_BITS)


def _codes(cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Places of scores among cells: 2 u + 1 at the u-th, 2 u right before it."""
    left, right = (np.searchsorted(cells, scores, side) for side in ("left", "right"))
    return (left + right).astype(np.int32)
