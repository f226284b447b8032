r"""The geometry of the shift over many photos: its direction, and whether it is reversible.

Functions over embeddings as ``embeddings.safetensors`` holds them: float arrays of shape (N, D), a
row per photo, with views and clean views in the same order. All use unit embeddings u = e / ‖e‖ in
float64, so that the squared length of a displacement d = u′ − u is twice the shift, 2 (1 − cos).
Leave out rows without a direction (zero, or not finite) before you call them.
"""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh, orthogonal_procrustes, svd, svdvals
from scipy.optimize import lsq_linear

from clipshift.measure.functional import TIE

MOVED = 1e-6
"""A shorter displacement counts as none: float32 embeddings are accurate to about 1e-7."""
FLIPS = 2000
"""Number of draws of the displacements' signs for the null distribution."""
NEIGHBOURS = 10
"""k of the k nearest neighbours."""
RANKS = (1, 5, 10)
"""The k of recall@k."""
FOLDS = 5
"""Number of folds of the cross-validation that tests whether a shift is reversible."""
RIDGES = np.append(10.0 ** np.arange(-6, 6.5, 0.5), np.inf)
"""The penalties λ to choose from, as multiples of the views' mean variance of a dimension, summed
over photos; with λ = ∞ the map is the one that is shrunk towards."""
QUANTILE_PHOTOS = 1000
"""Number of photos from whose pairs the quantiles of distances are estimated."""
NAMED_PAIRS = 3
"""Number of pairs of near copies that are named."""
BLOCK = 2**24
"""Number of cosines in memory at once: all N² would be too many."""
DRAWN = 2**22
"""Number of signs that are drawn at once."""


def has_direction(embeddings: np.ndarray) -> np.ndarray:
    """Whether embeddings are finite and not zero: (N, D) → (N,), boolean."""
    return np.asarray(np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1))


def units(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings divided by their length, float64, (N, D)."""
    embeddings = np.asarray(embeddings, float)
    # Dividing by the largest value first keeps the squares from overflow and underflow.
    embeddings = embeddings / np.abs(embeddings).max(axis=1, keepdims=True)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def ball_radius(embeddings: np.ndarray) -> np.ndarray:
    r"""Radius of the smallest ball that holds the unit embeddings of each photo's K draws.

    .. math::
        r = \max_k \|u_k - c\|, \quad c = \arg\min_{x \in \mathrm{conv}(u_1, …, u_K)} \|x\|

    The centre of the smallest ball around points of the unit sphere is the point of their convex
    hull nearest to the origin: for weights λ that sum to 1, the dual of the ball's problem is to
    minimise :math:`\|\sum_k λ_k u_k\|` (Elzinga and Hearn, "The minimum covering sphere problem",
    1972). Non-negative least squares finds it exactly (Stark and Parker, "Bounded-variable least
    squares", 1995).

    Args:
        embeddings: Shape (N, K, D).

    Returns:
        float64, shape (N,), in [0, 1]; NaN where a draw has no direction.

    Example:
        >>> ball_radius(np.array([[[1.0, 0.0], [0.0, 2.0]]])).round(6)
        array([0.707107])
    """
    radii = np.full(len(embeddings), np.nan)
    for place, rows in enumerate(embeddings):
        if has_direction(rows).all():
            points = np.unique(units(rows), axis=0)
            extended = np.column_stack([points, np.ones(len(points))])
            target = np.append(np.zeros(rows.shape[1]), 1.0)
            # scipy's nnls is wrong at times before 1.16, which Python 3.10 does not have
            bounds, options = (0, np.inf), {"method": "bvls", "tol": 1e-15, "max_iter": 1000}
            weights = lsq_linear(extended.T, target, bounds, **options).x
            centre = weights / weights.sum() @ points
            radii[place] = np.linalg.norm(points - centre, axis=1).max()
    return radii


def displacements(view: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Displacement of each photo, :math:`d_i = u'_i - u_i`, of length :math:`\sqrt{2 (1 - \cos)}`.

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

    The mean of h is the mean of :math:`x_i \cdot y_j` over all pairs of different photos: an
    unbiased estimate of the product of the two mean vectors. The product of the sample's means is
    biased upwards, because it includes the product of each photo's two vectors.

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
    with_itself = np.einsum("ij,ij->i", first, second)
    with_all = first @ second.sum(axis=0) + second @ first.sum(axis=0)
    return (with_all / 2 - with_itself) / (len(first) - 1)


def perpendicular(vectors: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Remove from vectors their part along the mean clean embedding.

    Args:
        vectors: Shape (N, D).
        clean: Clean unit embeddings, shape (M, D). Where their mean is 0, nothing is removed.
    """
    centre = clean.mean(axis=0)
    return vectors - np.outer(vectors @ centre, centre) / max(centre @ centre, MOVED**2)


def remove_contraction(moves: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Remove from displacements the part that any move on the sphere has if photos lie in a cone.

    .. math::
        s_i = P (d_i - a u_i), \quad a = \bar d \cdot m / \|m\|^2, \quad
        P = 1 - m m^T / \|m\|^2

    with the mean m of the clean unit embeddings u. Views that are moved by an angle θ in random
    directions are :math:`u \cos\theta` on average. Their mean displacement :math:`\bar d` is thus
    :math:`-(1 - \cos\theta) m`, which is not 0 in a cone, where m is not 0. The mean of s is
    :math:`P \bar d`, which is 0 on average for such views. Subtracting :math:`a u_i` does not
    change it, because :math:`P m = 0`; it makes s the influence values of :math:`P \bar d`, whose
    variance includes that of m, estimated from the same photos. Source: Hampel, "The influence
    curve and its role in robust estimation", 1974; the projection is our choice. The part along m
    is what `contraction` measures.

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
        The steps, float64, shape (M, D), and the photos that they belong to, boolean, shape (N,):
        those that are moved by at least `MOVED`. m is the mean of their clean embeddings.
    """
    moved = np.linalg.norm(moves, axis=1) >= MOVED
    moves, clean = moves[moved], clean[moved]
    if len(moves):
        length = np.linalg.norm(perpendicular(moves, clean), axis=1, keepdims=True)
        moves = remove_contraction(moves / length.clip(min=MOVED), clean)
    return moves, moved


def direction(steps: np.ndarray) -> float:
    r"""Length of the mean step: 1 where every photo moves in the same direction.

    .. math::
        \sqrt{\max(0, r)}, \quad
        r = \frac{1}{N (N - 1)} \sum_{i \neq j} s_i \cdot s_j

    r is the mean cosine between the displacements of two photos, perpendicular to the mean clean
    embedding. Where photos move at random it is 0 on average for any N; the length of the sample's
    mean would be about :math:`1 / \sqrt N`. Source: the mean resultant length of Mardia and Jupp,
    "Directional statistics", 2000, section 9.2; debiasing its square over pairs is our choice, so
    that runs of different size can be compared.

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
    r"""How much nearer views are to the other clean photos than their own clean views are.

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
        At most 1; positive: nearer; 0: equally far, as where view and clean photo could be
        exchanged; negative: farther. NaN where the clean photos are all the same.

    Example:
        >>> clean = units(np.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> contraction(displacements(np.ones((2, 2)) * [1, 0], clean), clean).__round__(3)
        0.707
    """
    spread = 1 - with_others(clean, clean).mean()
    return float(with_others(moves, clean).mean() / spread) if spread > TIE else np.nan


def flipped_directions(steps: np.ndarray, seed: int) -> np.ndarray:
    """Null distribution of `direction`: each photo moves either way with equal probability.

    The signs of the steps are drawn at random. Everything else about them stays, such as lying in
    few dimensions. The opposite of a displacement does not end on the sphere, so its sign cannot be
    flipped; that of a step can, because the contraction is removed from it. Source: the
    randomisation test of Fisher, "The design of experiments", 1935, section 21; with random draws,
    Phipson and Smyth, "Permutation p-values should never be zero", 2010.

    Args:
        steps: From `unit_steps`, shape (N, D), N ≥ 2.
        seed: Seed of the signs, which are the same for every run with the same number of photos.

    Returns:
        `FLIPS` values in [0, 1].

    Example:
        >>> bool(flipped_directions(np.eye(3)[np.arange(60) % 3], 0).max() < 0.5)
        True
    """
    photos = len(steps)
    if photos < 2:
        return np.full(FLIPS, np.nan)
    with_itself = np.square(steps).sum()
    rng = np.random.default_rng(seed)
    batch = max(1, DRAWN // photos)
    squares = np.empty(FLIPS)
    for start in range(0, FLIPS, batch):
        signs = 2.0 * rng.integers(2, size=(min(batch, FLIPS - start), photos)) - 1
        squares[start : start + batch] = np.square(signs @ steps).sum(axis=1)
    return np.sqrt(np.clip((squares - with_itself) / (photos * (photos - 1)), 0, 1))


def common_share(moves: np.ndarray, clean: np.ndarray) -> float:
    r"""Share of the shift's energy in the mean displacement, without the contraction.

    .. math::
        \frac{1}{N (N - 1)} \sum_{i \neq j} s_i \cdot s_j \Big/ \frac{1}{N} \sum_i \|d_i\|^2

    The numerator estimates the squared length of the mean of `remove_contraction` without bias; the
    denominator is twice the mean shift. Subtracting that mean would reduce the mean square by this
    share.

    Args:
        moves: Displacements d, shape (N, D), N ≥ 2.
        clean: Clean unit embeddings of the same photos, shape (N, D).

    Returns:
        In [0, 1]; a negative estimate counts as 0. NaN where no photo is moved.

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


def along_mean(moves: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""How far displacements go along the mean clean embedding m: influence values of the mean.

    .. math::
        t_i = (d_i \cdot m + u_i \cdot P \bar d) / \|m\|

    The mean of t is :math:`\bar d \cdot m / \|m\|`: positive where views are nearer to m than clean
    ones, :math:`-(1 - \cos\theta) \|m\|` where they move by θ at random. The second term has no
    mean; it makes the variance of t include that of m, as in `remove_contraction`. With the s from
    there, the mean square of displacements has three orthogonal parts:

    .. math::
        \frac{1}{N} \sum_i \|d_i\|^2 = \bar t^2 + \|\bar s\|^2 +
        \frac{1}{N} \sum_i \|d_i - \bar d\|^2

    Args:
        moves: Displacements d, shape (N, D).
        clean: Clean unit embeddings u of the same photos, shape (N, D).

    Returns:
        t, float64, shape (N,).

    Example:
        >>> clean = np.array([[0.6, 0.8], [0.6, -0.8]])
        >>> along_mean(np.array([[-0.6, 0.2], [-0.4, 0.2]]), clean).round(3)
        array([-0.333, -0.667])
    """
    centre, mean = clean.mean(axis=0), moves.mean(axis=0, keepdims=True)
    along = moves @ centre + clean @ perpendicular(mean, clean)[0]
    return np.asarray(along / max(np.linalg.norm(centre), MOVED))


def difference_span(vectors: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the span of the differences between float32 vectors: (C, D) → (D, r).

    Singular values count as 0 that are not above the largest times the greater of C and D times
    float32's precision, as in `numpy.linalg.matrix_rank`.

    Example:
        >>> difference_span(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 3.0]])).round(3)
        array([[0.],
               [1.]])
    """
    _, lengths, axes = svd(vectors - vectors.mean(axis=0), full_matrices=False)
    least = lengths[0] * max(vectors.shape) * np.finfo(np.float32).eps
    return np.asarray(axes[lengths > least].T)


def direction_cosine(first: np.ndarray, second: np.ndarray) -> float:
    r"""Cosine of the mean displacements of two augmentations: do they move photos the same way?

    .. math::
        U(s, s') \big/ \sqrt{U(s, s) \, U(s', s')}, \quad
        U(x, y) = \frac{1}{N (N - 1)} \sum_{i \neq j} x_i \cdot y_j

    The contraction is removed, because any two moves on the sphere share it. Only pairs of
    different photos count: both displacements of a photo start at the same clean embedding, which
    would make any two augmentations look alike. Source: the correction for attenuation of Spearman,
    "The proof and measurement of association between two things", 1904.

    Args:
        first: s of one augmentation, from `remove_contraction`, shape (N, D), N ≥ 2.
        second: s′ of another, of the same photos.

    Returns:
        In [−1, 1]; NaN where one has no mean displacement, U(s, s) not being above 0.

    Example:
        >>> direction_cosine(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 3.0], [0.0, 1.0]]))
        0.0
    """
    squares = [with_others(moves, moves).mean() for moves in (first, second)]
    if not min(squares) > 0:
        return np.nan
    product = with_others(first, second).mean()
    return float(np.clip(product / np.sqrt(squares[0] * squares[1]), -1, 1))


def undoing_errors(
    view: np.ndarray, clean: np.ndarray, folds: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    r"""Remaining shift of each photo after undoing it with maps that were fitted to other photos.

    The maps are fitted to the photos of all other folds, with means :math:`m'` of the views' unit
    embeddings and :math:`m` of the clean ones:

    - ``none``: :math:`\hat u = u'`;
    - ``mean``: :math:`\hat u = u' - (m' - m)`, the mean displacement subtracted;
    - ``orthogonal``: :math:`\hat u = m + Q (u' - m')` with the orthogonal Q (Procrustes);
    - ``ridge``: :math:`\hat u = m + W (u' - m')` with any W.

    Both minimise, Q among the orthogonal maps and with T = 1,

    .. math::
        \sum_i \| (u_i - m) - W (u'_i - m') \|^2 + \lambda \| W - T \|^2

    so that directions without information from the photos are left unchanged (T = 1) or replaced
    by the mean clean embedding (T = 0). λ, out of `RIDGES`, and for W also T, are those with the
    smallest generalised cross-validation error of W over the fold's training photos. Where all
    information is lost, ``ridge`` is thus the mean clean embedding, with an R² of about 0. Sources:
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966; Hoerl and
    Kennard, "Ridge regression", 1970; Golub, Heath and Wahba, "Generalized cross-validation as a
    method for choosing a good ridge parameter", 1979.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D).
        folds: The fold of each photo, integers, shape (N,).

    Returns:
        :math:`\|u_i - \hat u_i\|^2` by method, and :math:`\|u_i - m\|^2`, each float64, (N,).

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
        estimates = {"none": x_test + centre_after - centre, "mean": x_test}
        estimates |= {name: x_test @ matrix for name, matrix in _undoing_maps(x, y).items()}
        for name, estimate in estimates.items():
            errors[name][test] = np.square(y_test - estimate).sum(axis=1)
        spread[test] = np.square(y_test).sum(axis=1)
    return errors, spread


def _undoing_maps(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Fit the orthogonal and the ridge map of centred rows x to y, for multiplication x @ map."""
    photos, width = x.shape
    xx, xy = x.T @ x, x.T @ y
    identity = np.eye(width)
    scale = np.trace(xx) / width
    if scale <= np.finfo(float).eps:  # the views are all the same
        return {"orthogonal": identity, "ridge": identity}
    values, vectors = eigh(xx)
    values = values.clip(min=0)

    def ridge_map(towards: np.ndarray) -> tuple[float, float, np.ndarray]:
        """The map with the smallest error of those shrunk towards one: error, penalty, map."""
        # For each λ, the residual of z = y − xT after the ridge regression V = W − T of z on x:
        # ‖z − xV‖² = ‖z‖² − 2 ⟨x'z, V⟩ + ⟨V, x'x V⟩, with V = (x'x + λ)⁻¹ x'z
        target = vectors.T @ (xy - xx @ towards)
        energy, strengths = np.square(y - x @ towards).sum(), np.square(target).sum(axis=1)
        gains = 1 / (values + scale * RIDGES[:, None])
        residual = energy - (strengths * gains * (2 - values * gains)).sum(axis=1)
        freedom = 1 - (1 + (values * gains).sum(axis=1)) / photos
        errors = residual.clip(min=0) / freedom**2
        best = errors.argmin()
        fitted = towards + vectors @ (gains[best, :, None] * target)
        return float(errors[best]), float(scale * RIDGES[best]), fitted

    to_identity, to_zero = ridge_map(identity), ridge_map(np.zeros_like(xx))
    _, _, ridge = min(to_identity, to_zero, key=lambda fit: fit[0])
    orthogonal = identity
    penalty = to_identity[1]
    if np.isfinite(penalty):
        left_vectors, _, right_vectors = svd(xy + penalty * identity)
        orthogonal = left_vectors @ right_vectors
    return {"orthogonal": orthogonal, "ridge": ridge}


def _row_blocks(width: int, rows: int | None = None) -> Iterator[slice]:
    """Cut a matrix of cosines, square by default, into blocks of rows of at most `BLOCK`."""
    step, last = max(1, BLOCK // width), width if rows is None else rows
    return (slice(start, min(start + step, last)) for start in range(0, last, step))


def _neighbour_blocks(
    embeddings: np.ndarray, k: int, gallery: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Find each photo's k nearest others, block by block.

    Args:
        embeddings: Shape (N, D), N > k.
        k: Number of neighbours.
        gallery: Embeddings of the same photos to find them among, (N, D); None: among themselves.

    Yields:
        The rows of a block, and their weights, (rows, N): 1 for a neighbour; photos that tie for
        the last places share them, so that the weights of a row sum to k.
    """
    directions = units(embeddings)
    others = directions if gallery is None else units(gallery)
    photos = len(directions)
    for rows in _row_blocks(photos):
        cosines = directions[rows] @ others.T
        cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        last = np.partition(cosines, photos - k, axis=1)[:, photos - k, None]
        weights = (cosines > last + TIE).astype(float)
        tied = np.abs(cosines - last) <= TIE
        places_left = k - weights.sum(axis=1, keepdims=True)
        weights += tied * (places_left / tied.sum(axis=1, keepdims=True))
        yield rows, weights


def neighbours_kept(
    view: np.ndarray, clean: np.ndarray, k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    r"""Share of a photo's k nearest clean photos whose views are also nearest to its view.

    .. math::
        \frac{1}{k} |N_k(u'_i) \cap N_k(u_i)|

    with the neighbours by cosine of a view among the views, and of a clean view among the clean
    ones. By chance it is k / (N − 1). Neighbours that tie (within 1e-9) for the last places share
    them. Source: the mutual k-nearest-neighbour metric of Huh et al., "The platonic representation
    hypothesis", 2024 (arXiv:2405.07987), appendix A.

    Args:
        view: Embeddings of the views, shape (N, D), N > k.
        clean: Embeddings of their clean views, shape (N, D).
        k: Number of neighbours.

    Returns:
        The shares, in [0, 1], and the number of views that have each view among their k nearest
        (see `hubness`), each float64, shape (N,).

    Example:
        >>> clean = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbours_kept(clean[[0, 2, 1, 3]], clean, k=1)
        (array([0., 0., 0., 0.]), array([1., 1., 1., 1.]))
    """
    shares, occurrence = np.empty(len(view)), np.zeros(len(view))
    blocks = zip(_neighbour_blocks(view, k), _neighbour_blocks(clean, k), strict=True)
    for (rows, view_weights), (_, clean_weights) in blocks:
        shares[rows] = np.einsum("ij,ij->i", view_weights, clean_weights) / k
        occurrence += view_weights.sum(axis=0)
    return shares, occurrence


def neighbour_hit(view: np.ndarray, clean: np.ndarray, classes: np.ndarray, k: int) -> np.ndarray:
    """Whether a view's k nearest clean photos, its own left out, vote for its class.

    Each neighbour has one vote; photos that tie (within 1e-9) for the last places share them. The
    class with the most votes wins. Where m classes have the most votes, one of them is drawn: each
    wins with probability 1 / m. Source: Cover and Hart, "Nearest neighbor pattern classification",
    1967; of embeddings, Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination", 2018 (arXiv 1805.01978), section 3.4, who weigh votes by the cosine.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, the gallery, shape (N, D).
        classes: The class of each photo, integers, shape (N,); −1 where it has none, and no vote.
        k: Number of neighbours.

    Returns:
        1 for a hit, 0 for a miss, 1 / m where m classes tie. NaN where a photo has no class or is
        the only one of its class, or where an embedding has no direction; and everywhere if fewer
        than k others vote, or all are of one class. float64, shape (N,).

    Example:
        >>> clean = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbour_hit(clean[[0, 2, 2, 3]], clean, np.array([0, 0, 1, 1]), k=1)
        array([1., 0., 1., 1.])
    """
    hits = np.full(len(view), np.nan)
    voters = np.flatnonzero((classes >= 0) & has_direction(clean))
    names, own, sizes = np.unique(classes[voters], return_inverse=True, return_counts=True)
    if len(voters) <= k or len(names) < 2:
        return hits
    view, clean = view[voters], clean[voters]
    has_hit = has_direction(view) & (sizes[own] > 1)
    for rows, weights in _neighbour_blocks(np.where(has_hit[:, None], view, clean), k, clean):
        row, neighbour = weights.nonzero()
        cells = row * len(names) + own[neighbour]
        votes = np.bincount(cells, weights[row, neighbour], len(weights) * len(names))
        votes = votes.reshape(-1, len(names))
        wins = votes > votes.max(axis=1, keepdims=True) - TIE
        hits[voters[rows]] = wins[np.arange(len(wins)), own[rows]] / wins.sum(axis=1)
    hits[voters[~has_hit]] = np.nan
    return hits


def _others_nearer(
    queries: np.ndarray,
    candidates: np.ndarray,
    wanted: np.ndarray,
    owners: np.ndarray,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """How many candidates of other photos are nearer to a query than its own, and how many tie.

    Args:
        queries: Embeddings, shape (Q, D).
        candidates: Embeddings, shape (C, D).
        wanted: The photo of each query, integers, shape (Q,).
        owners: The photo of each candidate, integers, shape (C,).
        own: The cosine to compare with, shape (Q,); None for the best of a photo's own candidates.

    Returns:
        Both, shape (2, Q); NaN where the query has no direction, or nothing to compare with.
    """
    counts = np.full((2, len(queries)), np.nan)
    usable, places = has_direction(candidates), np.flatnonzero(has_direction(queries))
    candidates, owners = units(candidates[usable]), owners[usable]
    for block in _row_blocks(max(len(candidates), 1), len(places)):
        rows = places[block]
        cosines = units(queries[rows]) @ candidates.T
        same = owners == wanted[rows, None]
        best = np.where(same, cosines, -np.inf).max(axis=1, initial=-np.inf)
        best = best if own is None else own[rows]
        ahead = np.where(same, -np.inf, cosines - np.nan_to_num(best, neginf=0)[:, None])
        both = (ahead > TIE).sum(axis=1), (np.abs(ahead) <= TIE).sum(axis=1)
        counts[:, rows] = np.where(np.isfinite(best), both, np.nan)
    return counts


def percentile_shift(view: np.ndarray, clean: np.ndarray) -> np.ndarray:
    r"""Share of the other photos that are nearer to a photo's clean view than its own view is.

    .. math::
        \frac{1}{N - 1} \sum_{j \neq i} \Big([u_i \cdot u_j > u_i \cdot u'_i] +
        \tfrac{1}{2} [u_i \cdot u_j = u_i \cdot u'_i]\Big)

    Cosines within 1e-9 are equal. No increasing function of a model's cosines changes it, so that
    models with other scales and cones can be compared; and unlike `retained` it does not fall with
    N. It is the probability that Mann and Whitney, "On a test of whether one of two random
    variables is stochastically larger than the other", 1947, estimate, photo by photo.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D).

    Returns:
        float64, shape (N,), in [0, 1]: 0.5 for a model that cannot tell photos apart. NaN where
        view or clean view has no direction.

    Example:
        >>> clean = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> percentile_shift(np.array([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]]), clean)
        array([0.5, 0. , 0. ])
    """
    with np.errstate(invalid="ignore"):  # of embeddings without a direction
        own = np.einsum("ij,ij->i", units(view), units(clean))
    photos = np.arange(len(clean))
    nearer, tied = _others_nearer(clean, clean, photos, photos, own)
    return (nearer + tied / 2) / max(has_direction(clean).sum() - 1, 1)


def recall_hits(
    queries: np.ndarray, candidates: np.ndarray, wanted: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Whether a candidate that belongs to a query's photo is among the k of the highest cosine.

    If b candidates of other photos have a higher cosine than the best of its own and t tie with it
    (within 1e-9), one of its own is among the first k with probability (k − b) / (t + 1), clipped
    to [0, 1]. Without ties, the mean is the recall@k of CLIP_benchmark, `zeroshot_retrieval`, for
    texts and images alike: a hit is any of a photo's captions.

    Args:
        queries: Embeddings, shape (Q, D).
        candidates: Embeddings, shape (C, D).
        wanted: The photo of each query, integers, shape (Q,).
        owners: The photo of each candidate, integers, shape (C,).

    Returns:
        float64, of each k of `RANKS`, shape (3, Q), in [0, 1]; NaN where the query or all that it
        wants have no direction.

    Example:
        >>> queries = np.array([[0.9, 0.0, 0.3], [0.9, 0.5, 0.3]])
        >>> recall_hits(queries, np.eye(3), np.array([0, 1]), np.array([0, 1, 1]))[:2]
        array([[1., 0.],
               [1., 1.]])
    """
    nearer, tied = _others_nearer(queries, candidates, wanted, owners)
    return ((np.array(RANKS)[:, None] - nearer) / (tied + 1)).clip(0, 1)


def orthogonal_cosines(first: np.ndarray, second: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    r"""Cosines of two models' embeddings of photos after the best orthogonal map between them.

    .. math::
        \cos(Q u_i, v_i), \quad Q = \arg\min_{Q^T Q = 1} \sum_{j \in F} \| Q u_j - v_j \|^2

    of the unit embeddings u and v, the narrower padded by zeros. Q is fitted to the photos F and
    judged on the others. Source: Schönemann, "A generalized solution of the orthogonal Procrustes
    problem", 1966.

    Args:
        first: Embeddings by one model, shape (N, D).
        second: By another, shape (N, E).
        fitted: Whether a photo is in F, boolean, shape (N,). With fewer photos in F than
            dimensions, Q is not determined, and cosines are too low.

    Returns:
        float64, shape (N,), in [−1, 1]; NaN for the photos in F.

    Example:
        >>> photos = np.eye(3)[[0, 1, 2, 0, 1]]
        >>> orthogonal_cosines(photos, photos[:, [1, 2, 0]], np.arange(5) < 3)
        array([nan, nan, nan,  1.,  1.])
    """
    width = max(first.shape[1], second.shape[1])
    u, v = (np.pad(units(rows), ((0, 0), (0, width - rows.shape[1]))) for rows in (first, second))
    rotation, _ = orthogonal_procrustes(u[fitted], v[fitted])
    cosines = np.einsum("ij,ij->i", u @ rotation, v)
    return np.where(fitted, np.nan, cosines.clip(-1, 1))


def distance_quantile(embeddings: np.ndarray, share: float) -> tuple[float, np.ndarray]:
    r"""A quantile of the distances 1 − cos between different photos, and each photo's influence.

    .. math::
        q_p + \frac{1}{N} \sum_i w_i \, h_i, \quad h_i = \frac{2 (p - F_i(q_p))}{f(q_p)}

    is, to first order, the quantile of photos of weights :math:`w_i`, with the share :math:`F_i` of
    photo i's distances that are at most :math:`q_p`, and the density f of all distances. Source:
    Serfling, "Approximation theorems of mathematical statistics", 1980, section 5.7 (quantiles of
    U-statistics). 1 / f is the slope of the quantiles from p / 2 to 3 p / 2.

    Args:
        embeddings: Shape (N, D), N ≥ 3, each with a direction.
        share: p, below ½.

    Returns:
        :math:`q_p`, and h, float64, shape (N,); their sum is 0 up to ties.

    Example:
        >>> photos = np.random.default_rng(0).normal(size=(200, 2))
        >>> value, influence = distance_quantile(photos, 0.25)
        >>> bool(abs(value - (1 - np.cos(np.pi / 4))) < 0.02), bool(abs(influence.mean()) < 0.01)
        (True, True)
    """
    directions = units(embeddings)
    distances = 1 - directions @ directions.T
    pairs = distances[np.triu_indices(len(distances), 1)]
    low, value, high = np.quantile(pairs, [share / 2, share, 3 * share / 2])
    np.fill_diagonal(distances, np.inf)
    nearer = (distances <= value).sum(axis=1) / (len(distances) - 1)
    return float(value), 2 * (share - nearer) * (high - low) / share


def near_copies(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Find pairs of photos that are so near to each other that they may be one photograph.

    Their distance 1 − cosine is less than a tenth of the median distance. It is also less than that
    of any pair would be, with a probability of 95 %, if the distances of P pairs followed the power
    law through their quantiles towards 0:

    .. math::
        \min\Big(\frac{q_{0.5}}{10}, \; q_{0.1} \Big(\frac{0.05}{0.1 P}\Big)^{1 / \beta}\Big), \quad
        \beta = \frac{\ln 5}{\ln (q_{0.5} / q_{0.1})}

    The first limit is about how far photos move when they are slightly compressed, resized or
    cropped. The second avoids false alarms for embeddings of few dimensions, where many photos are
    always near. Both are our choice.

    Args:
        embeddings: Shape (N, D), in random order: the quantiles are those of the first 1,000.

    Returns:
        The nearest `NAMED_PAIRS` pairs, shape (pairs, 2); whether each photo is in any pair, shape
        (N,); and the distance below which photos are near, 0 for fewer than 10 photos.

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
    for rows in _row_blocks(photos):
        distances = 1 - directions[rows] @ directions[rows.start :].T
        i, j = np.nonzero(np.triu(distances < limit, 1))
        first_photo, second_photo = rows.start + i, rows.start + j
        near[first_photo] = near[second_photo] = True
        near_pairs = np.stack([distances[i, j], first_photo, second_photo], axis=1)
        pairs = np.concatenate([pairs, near_pairs])
        pairs = pairs[np.lexsort(pairs.T[::-1])][:NAMED_PAIRS]
    return pairs[:, 1:].astype(int), near, float(limit)


def hubness(occurrence: np.ndarray) -> float:
    """Skewness of the k-occurrence: high where a few photos are neighbours of many others.

    Source: Radovanović, Nanopoulos and Ivanović, "Hubs in space: popular nearest neighbors in
    high-dimensional data", 2010, eq. 1.

    Args:
        occurrence: Number of photos that have each photo among their k nearest, shape (N,), from
            `neighbours_kept`.

    Returns:
        0 where the occurrences are symmetric about their mean k, and where all are equal; positive
        with hubs.

    Example:
        >>> hubness(np.array([0.0, 0.0, 0.0, 4.0])).__round__(3)
        1.155
    """
    if np.ptp(occurrence) <= TIE:
        return 0.0
    deviation = occurrence - occurrence.mean()
    return float((deviation**3).mean() / (deviation**2).mean() ** 1.5)


def effective_rank(embeddings: np.ndarray) -> float:
    r"""Effective number of dimensions of unit embeddings.

    .. math::
        \exp\Big(-\sum_k p_k \ln p_k\Big), \quad p_k = \sigma_k \Big/ \sum_l \sigma_l

    of the singular values σ of the N × D unit embeddings, their mean included. Source: Roy and
    Vetterli, "The effective rank: a measure of effective dimensionality", 2007; of embeddings,
    Garrido et al., "RankMe", 2023 (arXiv:2210.02885).

    Args:
        embeddings: Shape (N, D).

    Returns:
        In [1, min(N, D)]; 1 where all embeddings have the same direction. It grows with N unless N
        is far above D: compare it only at the same N.

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
    r"""Mean nearness of each photo to all others; the logarithm of its mean is the uniformity.

    .. math::
        g_i = \frac{1}{N - 1} \sum_{j \neq i} e^{-2 \|u_i - u_j\|^2}

    Uniformity is :math:`\ln \frac{1}{N} \sum_i g_i`, in [−8, 0]: lower where the embeddings spread
    more evenly over the sphere, 0 where all are equal. Source: Wang and Isola (see `alignment`),
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
    sums = np.empty(photos)
    for rows in _row_blocks(photos):
        sums[rows] = np.exp(4 * (directions[rows] @ directions.T - 1)).sum(axis=1)
    return ((sums - 1) / (photos - 1)).clip(0, 1)
