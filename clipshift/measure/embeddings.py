r"""What augmentations do to the embeddings of many photos: where to, whether it can be undone.

Functions over embeddings as ``embeddings.safetensors`` holds them: float arrays of shape (N, D), a
row per photo, those of the views and of their clean views in the same order. All work on unit
embeddings u = e / ‖e‖ in float64, so that the squared length of a displacement d = u′ − u is twice
the shift, 2 (1 − cos). Rows without a direction (zero, or not finite) must be left out before.
"""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh, svd, svdvals
from scipy.stats import skew

from clipshift.measure.functional import TIE

MOVED = 1e-6
"""A displacement that is shorter is none: float32 embeddings are known to about 1e-7."""
FLIPS = 2000
"""How often the signs of displacements are drawn for their null."""
NEIGHBOURS = 10
"""k of the nearest neighbours."""
FOLDS = 5
"""Into how many parts photos are cut to see whether a shift can be undone."""
RIDGES = np.append(10.0 ** np.arange(-6, 6.5, 0.5), np.inf)
"""The penalties λ to choose from, as multiples of the views' mean variance of a dimension, summed
over photos; ∞ is what is shrunk towards."""
QUANTILE_PHOTOS = 1000
"""The number of photos from whose pairs the quantiles of distances are taken."""
NAMED_PAIRS = 3
"""How many pairs of near copies are named."""
BLOCK = 2**24
"""How many cosines are held at once: of N² there are too many."""
DRAWN = 2**22
"""How many signs are drawn at once."""


def directed(embeddings: np.ndarray) -> np.ndarray:
    """Whether embeddings have a direction, being finite and not zero: (N, D) → (N,), boolean."""
    known: np.ndarray = np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1)
    return known


def units(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings divided by their length, float64, (N, D)."""
    embeddings = np.asarray(embeddings, float)
    # Divided by the largest first: squares of very large or small numbers have no float.
    embeddings = embeddings / np.abs(embeddings).max(axis=1, keepdims=True)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def displacements(view: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Where each photo is moved: :math:`d_i = u'_i - u_i`, of length :math:`\sqrt{2 (1 - \cos)}`.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D).

    Returns:
        float64, shape (N, D), of length in [0, 2].

    Example:
        >>> displacements(np.array([[0.0, 2.0]]), np.array([[3.0, 0.0]]))
        array([[-1.,  1.]])
    """
    return units(view) - units(clean)


def with_others(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    r"""Mean product of each photo's vectors with those of all other photos.

    .. math::
        h_i = \frac{1}{2 (N - 1)} \sum_{j \neq i} (x_i \cdot y_j + y_i \cdot x_j)

    The mean of h is that of :math:`x_i \cdot y_j` over all pairs of different photos: an unbiased
    estimate of the product of the two mean vectors, where the product of the sample's means is too
    large by what each photo has in common with itself.

    Args:
        first: x, shape (N, D), N ≥ 2.
        second: y, shape (N, D).

    Returns:
        float64, shape (N,).

    Example:
        >>> x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> with_others(x, x)
        array([0.5, 0.5, 0. ])
    """
    own = np.einsum("ij,ij->i", first, second)
    together = first @ second.sum(axis=0) + second @ first.sum(axis=0)
    return (together / 2 - own) / (len(first) - 1)


def perpendicular(vectors: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Vectors without their part along the mean clean embedding.

    Args:
        vectors: Shape (N, D).
        clean: Clean unit embeddings, shape (M, D). Where their mean is 0, nothing is taken off.
    """
    centre = clean.mean(axis=0)
    return vectors - np.outer(vectors @ centre, centre) / max(centre @ centre, MOVED**2)


def remove_contraction(moves: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Displacements without the part that any move on the sphere has where photos lie in a cone.

    .. math::
        s_i = P (d_i - a u_i), \quad a = \bar d \cdot m / \|m\|^2, \quad
        P = 1 - m m^T / \|m\|^2

    with the mean m of the clean unit embeddings u. Views that are moved by an angle θ in random
    directions are :math:`u \cos\theta` on average. Their mean displacement :math:`\bar d` is thus
    :math:`-(1 - \cos\theta) m`, which is not 0 in a cone, where m is not 0. The mean of s is
    :math:`P \bar d`, which is 0 on average for such views. Subtracting :math:`a u_i` does not
    change it, because :math:`P m = 0`; with it s are the influence values of :math:`P \bar d`, so
    that what they say of its variance includes that of m, estimated from the same photos.
    Source: Hampel, "The influence curve and its role in robust estimation", 1974; the projection is
    our choice. The part along m is what `contraction` measures.

    Args:
        moves: Displacements, or multiples of them, shape (N, D).
        clean: Clean unit embeddings of the same photos, shape (N, D).

    Returns:
        s, float64, shape (N, D).

    Example:
        >>> clean = np.array([[0.6, 0.8], [0.6, -0.8]])
        >>> remove_contraction(np.array([[-1.0, 0.5], [1.0, 0.5]]), clean)
        array([[0. , 0.5],
               [0. , 0.5]])
    """
    centre = clean.mean(axis=0)
    along = moves.mean(axis=0) @ centre / max(centre @ centre, MOVED**2)
    return perpendicular(moves - along * clean, clean)


def unit_steps(moves: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`remove_contraction` of displacements divided by their length perpendicular to the mean m.

    Args:
        moves: Displacements, shape (N, D).
        clean: Clean unit embeddings of the same photos, shape (N, D).

    Returns:
        The steps, float64, shape (M, D), and of which photos they are, boolean, shape (N,): not of
        those that are moved by less than `MOVED`. m is the mean of the others.
    """
    moved = np.linalg.norm(moves, axis=1) >= MOVED
    moves, clean = moves[moved], clean[moved]
    if len(moves):
        length = np.linalg.norm(perpendicular(moves, clean), axis=1, keepdims=True)
        moves = remove_contraction(moves / length.clip(min=MOVED), clean)
    return moves, moved


def direction(steps: np.ndarray) -> float:
    r"""Length of the mean step: 1 where every photo is moved the same way.

    .. math::
        \sqrt{\max(0, r)}, \quad
        r = \frac{1}{N (N - 1)} \sum_{i \neq j} s_i \cdot s_j

    r is the mean cosine between the displacements of two photos, perpendicular to the mean clean
    embedding. Where photos move at random it is 0 on average, whatever N; the length of the
    sample's mean would be about :math:`1 / \sqrt N`. Source: the mean resultant length of Mardia
    and Jupp, "Directional statistics", 2000, section 9.2; that its square is debiased over pairs is
    our choice, so that runs of different size can be compared.

    Args:
        steps: s, from `unit_steps`, shape (N, D).

    Returns:
        In [0, 1]; NaN for fewer than two steps.

    Example:
        >>> direction(np.array([[1.0, 0.0], [1.0, 0.0]]))
        1.0
        >>> direction(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
        0.0
    """
    if len(steps) < 2:
        return np.nan
    return float(np.sqrt(np.clip(with_others(steps, steps).mean(), 0, 1)))


def contraction(moves: np.ndarray, clean: np.ndarray) -> float:
    r"""How much nearer views come to the other clean photos.

    .. math::
        \frac{1}{N (N - 1)} \sum_{i \neq j} d_i \cdot u_j \Big/
        \frac{1}{N (N - 1)} \sum_{i \neq j} (1 - u_i \cdot u_j)

    The mean change of the cosine between a view and the other clean photos, divided by the mean
    distance 1 − cos between clean photos, as the relative shift R is. It is the part of the
    displacements along the mean clean embedding, which `remove_contraction` subtracts. Where views
    move at random on the sphere it is :math:`-R c`, with the mean cosine c between clean photos.

    Args:
        moves: Displacements d, shape (N, D), N ≥ 2.
        clean: Clean unit embeddings u of the same photos, shape (N, D).

    Returns:
        At most 1; positive: nearer; 0: as far as before, as where view and clean photo could be
        exchanged; negative: farther. NaN where the clean photos are all the same.

    Example:
        >>> clean = units(np.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> contraction(displacements(np.ones((2, 2)) * [1, 0], clean), clean).__round__(3)
        0.707
    """
    spread = 1 - with_others(clean, clean).mean()
    return float(with_others(moves, clean).mean() / spread) if spread > TIE else np.nan


def flipped_directions(steps: np.ndarray, seed: int) -> np.ndarray:
    """What `direction` would be if each photo were moved either way with equal chance.

    The signs of the steps are drawn at random, which leaves everything else of them as it is: that
    they lie in few dimensions, say. The opposite of a displacement does not lead to the sphere, and
    its sign is not free: that of a step is, since the contraction is removed from it. Source: the
    randomisation test of Fisher, "The design of experiments", 1935, section 21; with random draws,
    Phipson and Smyth, "Permutation p-values should never be zero", 2010.

    Args:
        steps: From `unit_steps`, shape (N, D), N ≥ 2.
        seed: Of the signs, which are the same for every run of as many photos.

    Returns:
        `FLIPS` values in [0, 1].

    Example:
        >>> bool(flipped_directions(np.eye(3)[np.arange(60) % 3], 0).max() < 0.5)
        True
    """
    photos = len(steps)
    if photos < 2:
        return np.full(FLIPS, np.nan)
    own = np.square(steps).sum()
    rng = np.random.default_rng(seed)
    batch = max(1, DRAWN // photos)
    squares = np.empty(FLIPS)
    for start in range(0, FLIPS, batch):
        signs = 2.0 * rng.integers(2, size=(min(batch, FLIPS - start), photos)) - 1
        squares[start : start + batch] = np.square(signs @ steps).sum(axis=1)
    return np.sqrt(np.clip((squares - own) / (photos * (photos - 1)), 0, 1))


def common_share(moves: np.ndarray, clean: np.ndarray) -> float:
    r"""Share of the shift's energy that the mean displacement carries, without the contraction.

    .. math::
        \frac{1}{N (N - 1)} \sum_{i \neq j} s_i \cdot s_j \Big/ \frac{1}{N} \sum_i \|d_i\|^2

    The numerator estimates the squared length of the mean of `remove_contraction` without bias; the
    denominator is twice the mean shift. It is what subtracting that mean would take off the mean
    square.

    Args:
        moves: Displacements d, shape (N, D), N ≥ 2.
        clean: Clean unit embeddings of the same photos, shape (N, D).

    Returns:
        In [0, 1], where a negative estimate counts as 0; NaN where no photo is moved.

    Example:
        >>> moves = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> clean = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> common_share(moves, clean).__round__(3)
        0.333
    """
    energy = np.square(moves).sum(axis=1).mean()
    if len(moves) < 2 or not energy:
        return np.nan
    steps = remove_contraction(moves, clean)
    return float(np.clip(with_others(steps, steps).mean() / energy, 0, 1))


def direction_cosine(first: np.ndarray, second: np.ndarray) -> float:
    r"""Whether two augmentations push photos the same way: cosine of their mean displacements.

    .. math::
        U(s, s') \big/ \sqrt{U(s, s) \, U(s', s')}, \quad
        U(x, y) = \frac{1}{N (N - 1)} \sum_{i \neq j} x_i \cdot y_j

    Without the contraction, which is common to any two moves on the sphere. Of different photos
    alone: both displacements of one photo start at its own clean embedding, and that would make any
    two augmentations look alike. Source: the correction for attenuation of Spearman, "The proof and
    measurement of association between two things", 1904.

    Args:
        first: s of one augmentation, from `remove_contraction`, shape (N, D), N ≥ 2.
        second: s′ of another, of the same photos.

    Returns:
        In [−1, 1]; NaN where one has no mean displacement, U(s, s) not being above 0.

    Example:
        >>> direction_cosine(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 3.0], [0.0, 1.0]]))
        0.0
    """
    own = [with_others(moves, moves).mean() for moves in (first, second)]
    if not min(own) > 0:
        return np.nan
    both = with_others(first, second).mean()
    return float(np.clip(both / np.sqrt(own[0] * own[1]), -1, 1))


def undoing_errors(
    view: np.ndarray, clean: np.ndarray, folds: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    r"""What is left of the shift after undoing it, photo by photo, with maps made of other photos.

    From the photos of all other folds, with means :math:`m'` of the views' unit embeddings and
    :math:`m` of the clean ones:

    - ``none``: :math:`\hat u = u'`;
    - ``mean``: :math:`\hat u = u' - (m' - m)`, the mean displacement subtracted;
    - ``orthogonal``: :math:`\hat u = m + Q (u' - m')` with the orthogonal Q (Procrustes);
    - ``ridge``: :math:`\hat u = m + W (u' - m')` with any W.

    Both minimise, Q among the orthogonal maps and with T = 1,

    .. math::
        \sum_i \| (u_i - m) - W (u'_i - m') \|^2 + \lambda \| W - T \|^2

    so that what the photos say nothing about is left as it is (T = 1) or given up for the mean
    clean embedding (T = 0). λ of `RIDGES` and, for W, T of these two are those with the least
    generalised cross-validation error of W over the fold's training photos. So where everything is
    lost ``ridge`` is the mean clean embedding, with an R² of about 0. Sources: Schönemann, "A
    generalized solution of the orthogonal Procrustes problem", 1966; Hoerl and Kennard, "Ridge
    regression", 1970; Golub, Heath and Wahba, "Generalized cross-validation as a method for
    choosing a good ridge parameter", 1979.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D).
        folds: The fold of each photo, integers, shape (N,).

    Returns:
        By method :math:`\|u_i - \hat u_i\|^2`, and :math:`\|u_i - m\|^2`, each float64, (N,).

    Example:
        >>> photos = np.random.default_rng(0).normal(size=(50, 3))
        >>> turned = photos[:, [1, 2, 0]]
        >>> errors, spread = undoing_errors(turned, photos, np.arange(50) % 5)
        >>> [round(float(errors[name].sum()), 3) for name in ("none", "orthogonal", "ridge")]
        [93.402, 0.0, 0.0]
    """
    after, before = units(view), units(clean)
    names = ("none", "mean", "orthogonal", "ridge")
    errors = {name: np.empty(len(after)) for name in names}
    spread = np.empty(len(after))
    for fold in np.unique(folds):
        test = folds == fold
        centre_after, centre = after[~test].mean(axis=0), before[~test].mean(axis=0)
        x, y = after[~test] - centre_after, before[~test] - centre
        x_test, y_test = after[test] - centre_after, before[test] - centre
        maps = _maps(x, y)
        made = {"none": x_test + centre_after - centre, "mean": x_test}
        made |= {name: x_test @ matrix for name, matrix in maps.items()}
        for name, estimate in made.items():
            errors[name][test] = np.square(y_test - estimate).sum(axis=1)
        spread[test] = np.square(y_test).sum(axis=1)
    return errors, spread


def _maps(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The orthogonal and the ridge map of centred rows x to y, to be multiplied from the right."""
    photos, width = x.shape
    xx, xy = x.T @ x, x.T @ y
    identity = np.eye(width)
    scale = np.trace(xx) / width
    if scale <= np.finfo(float).eps:  # the views are all the same
        return {"orthogonal": identity, "ridge": identity}
    values, vectors = eigh(xx)
    values = values.clip(min=0)

    def ridge_map(towards: np.ndarray) -> tuple[float, float, np.ndarray]:
        """The least error of the maps that shrink towards one, its penalty, and its map."""
        # By λ, what is left of z = y − xT by the ridge regression V = W − T of z on x:
        # ‖z − xV‖² = ‖z‖² − 2 ⟨x'z, V⟩ + ⟨V, x'x V⟩, with V = (x'x + λ)⁻¹ x'z
        target = vectors.T @ (xy - xx @ towards)
        energy, strengths = np.square(y - x @ towards).sum(), np.square(target).sum(axis=1)
        gains = 1 / (values + scale * RIDGES[:, None])
        left = energy - (strengths * gains * (2 - values * gains)).sum(axis=1)
        freedom = 1 - (1 + (values * gains).sum(axis=1)) / photos
        errors = left.clip(min=0) / freedom**2
        best = errors.argmin()
        found = towards + vectors @ (gains[best, :, None] * target)
        return float(errors[best]), float(scale * RIDGES[best]), found

    kept = ridge_map(identity)
    _, _, ridge = min(kept, ridge_map(np.zeros_like(xx)), key=lambda found: found[0])
    orthogonal = identity
    if np.isfinite(kept[1]):
        left_vectors, _, right_vectors = svd(xy + kept[1] * identity)
        orthogonal = left_vectors @ right_vectors
    return {"orthogonal": orthogonal, "ridge": ridge}


def _neighbour_blocks(embeddings: np.ndarray, k: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Each photo's k nearest others, some rows at a time.

    Yields:
        The rows, and their weights, (rows, N): 1 for a neighbour; those that tie for the last
        places share them, so that the weights of a photo sum to k.
    """
    directions = units(embeddings)
    photos = len(directions)
    step = max(1, BLOCK // photos)
    for start in range(0, photos, step):
        rows = slice(start, min(start + step, photos))
        cosines = directions[rows] @ directions.T
        cosines[np.arange(rows.stop - start), np.arange(start, rows.stop)] = -np.inf
        last = np.partition(cosines, photos - k, axis=1)[:, photos - k, None]
        weights = (cosines > last + TIE).astype(float)
        tied = np.abs(cosines - last) <= TIE
        left = k - weights.sum(axis=1, keepdims=True)
        weights += tied * (left / tied.sum(axis=1, keepdims=True))
        yield rows, weights


def neighbours_kept(
    view: np.ndarray, clean: np.ndarray, k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    r"""Share of a photo's k nearest clean photos whose views are also nearest to its view.

    .. math::
        \frac{1}{k} |N_k(u'_i) \cap N_k(u_i)|

    with the neighbours by cosine, of a view among the views, of a clean view among the clean ones.
    By chance it is k / (N − 1). Neighbours that tie (within 1e-9) for the last places share them.
    Source: the mutual k-nearest-neighbour metric of Huh et al., "The platonic representation
    hypothesis", 2024 (arXiv:2405.07987), appendix A.

    Args:
        view: Embeddings of the views, shape (N, D), N > k.
        clean: Embeddings of their clean views, shape (N, D).
        k: How many neighbours.

    Returns:
        The shares, in [0, 1], and how many views have each view among their k nearest (`hubness`),
        each float64, shape (N,).

    Example:
        >>> clean = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbours_kept(clean[[0, 2, 1, 3]], clean, k=1)
        (array([0., 0., 0., 0.]), array([1., 1., 1., 1.]))
    """
    shares, occurrence = np.empty(len(view)), np.zeros(len(view))
    blocks = zip(_neighbour_blocks(view, k), _neighbour_blocks(clean, k), strict=True)
    for (rows, of_view), (_, of_clean) in blocks:
        shares[rows] = np.einsum("ij,ij->i", of_view, of_clean) / k
        occurrence += of_view.sum(axis=0)
    return shares, occurrence


def near_copies(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Pairs of photos that are so near to each other that they may be one photograph.

    Their distance 1 − cosine is less than a tenth of the median distance, and less than any pair's
    would be, with a chance of 95 %, if the distances of P pairs went on towards 0 as the power law
    through their quantiles goes:

    .. math::
        \min\Big(\frac{q_{0.5}}{10}, \; q_{0.1} \Big(\frac{0.05}{0.1 P}\Big)^{1 / \beta}\Big), \quad
        \beta = \frac{\ln 5}{\ln (q_{0.5} / q_{0.1})}

    The first is about how far photos move when they are compressed, resized or cut a little; the
    second keeps embeddings of few dimensions, among which many photos are always near, from being
    called copies. Both are our choice.

    Args:
        embeddings: Shape (N, D), in random order: the quantiles are those of the first 1,000.

    Returns:
        The pairs, the nearest `NAMED_PAIRS` of them, shape (pairs, 2); whether each photo is in any
        pair, shape (N,); and the distance below which they are near, 0 for fewer than 10 photos.

    Example:
        >>> photos = np.random.default_rng(0).normal(size=(30, 16))
        >>> photos[7] = 2 * photos[3] + 0.1
        >>> near_copies(photos)[0]
        array([[3, 7]])
    """
    photos = len(embeddings)
    near, pairs = np.zeros(photos, bool), np.empty((0, 3))
    if photos < 10:
        return np.empty((0, 2), int), near, 0.0
    directions = units(embeddings).astype(np.float32)
    first = directions[:QUANTILE_PHOTOS]
    upper = np.triu_indices(len(first), 1)
    tenth, median = np.quantile(1 - (first @ first.T)[upper], [0.1, 0.5])
    if not 0 < tenth < median:
        return np.empty((0, 2), int), near, 0.0
    power = np.log(median / tenth) / np.log(5)
    limit = min(median / 10, tenth * (1 / (photos * (photos - 1))) ** power)
    step = max(1, BLOCK // photos)
    for start in range(0, photos, step):
        distances = 1 - directions[start : start + step] @ directions[start:].T
        one, other = np.nonzero(np.triu(distances < limit, 1))
        near[start + one] = near[start + other] = True
        found = np.stack([distances[one, other], start + one, start + other], axis=1)
        pairs = np.concatenate([pairs, found])
        pairs = pairs[np.lexsort(pairs.T[::-1])][:NAMED_PAIRS]
    return pairs[:, 1:].astype(int), near, float(limit)


def hubness(occurrence: np.ndarray) -> float:
    """Skewness of the k-occurrence: how much a few photos are everyone's neighbours.

    Source: Radovanović, Nanopoulos and Ivanović, "Hubs in space: popular nearest neighbors in
    high-dimensional data", 2010, eq. 1.

    Args:
        occurrence: How many have a photo among their k nearest, from `neighbours_kept`, shape (N,).

    Returns:
        0 where the occurrences are spread evenly about their mean k, and where all are equal;
        positive with hubs.

    Example:
        >>> hubness(np.array([0.0, 0.0, 0.0, 4.0])).__round__(3)
        1.155
    """
    if np.ptp(occurrence) <= TIE:
        return 0.0
    return float(skew(occurrence))


def effective_rank(embeddings: np.ndarray) -> float:
    r"""How many dimensions unit embeddings use.

    .. math::
        \exp\Big(-\sum_k p_k \ln p_k\Big), \quad p_k = \sigma_k \Big/ \sum_l \sigma_l

    of the singular values σ of the N × D unit embeddings, their mean included. Source: Roy and
    Vetterli, "The effective rank: a measure of effective dimensionality", 2007; of embeddings,
    Garrido et al., "RankMe", 2023 (arXiv:2210.02885).

    Args:
        embeddings: Shape (N, D).

    Returns:
        In [1, min(N, D)]; 1 where all embeddings point the same way. It grows with N while N is not
        far above D: compare it at the same N alone.

    Example:
        >>> effective_rank(np.eye(4)).__round__(6), effective_rank(np.ones((5, 3))).__round__(6)
        (4.0, 1.0)
    """
    values = svdvals(units(embeddings))
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def alignment(view: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Squared distance of view and clean view on the unit sphere, :math:`\|u'_i - u_i\|^2`.

    Twice the shift 1 − cosine. Its mean is the alignment of Wang and Isola, "Understanding
    contrastive representation learning through alignment and uniformity on the hypersphere", 2020
    (arXiv:2005.10242), with α = 2.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D).

    Returns:
        float64, shape (N,), in [0, 4].

    Example:
        >>> alignment(np.array([[0.0, 2.0]]), np.array([[3.0, 0.0]]))
        array([2.])
    """
    return np.square(displacements(view, clean)).sum(axis=1)


def closeness(embeddings: np.ndarray) -> np.ndarray:
    r"""How near each photo is to all others: the logarithm of the mean is the uniformity.

    .. math::
        g_i = \frac{1}{N - 1} \sum_{j \neq i} e^{-2 \|u_i - u_j\|^2}

    Uniformity is :math:`\ln \frac{1}{N} \sum_i g_i`, in [−8, 0]: lower where the embeddings spread
    more evenly over the sphere, 0 where all are the same. Source: Wang and Isola (see `alignment`),
    with t = 2.

    Args:
        embeddings: Shape (N, D), N ≥ 2.

    Returns:
        float64, shape (N,), in (0, 1].

    Example:
        >>> float(np.log(closeness(np.array([[1.0, 0.0], [-2.0, 0.0]])).mean())).__round__(6)
        -8.0
    """
    directions = units(embeddings)
    photos = len(directions)
    step = max(1, BLOCK // photos)
    sums = np.empty(photos)
    for start in range(0, photos, step):
        rows = slice(start, start + step)
        near = np.exp(4 * (directions[rows] @ directions.T - 1))
        sums[rows] = near.sum(axis=1)
    return ((sums - 1) / (photos - 1)).clip(0, 1)
