"""The measures as functions of B views and their clean views, with one number per photo.

The formulas are those of the protocol (docs/protocol.md), after "Embedding Shift Dissection on
CLIP" (arXiv 2503.23495). Each mean over pixels is taken along rows first: torch splits a reduction
to a single number among threads, and its rounding would then depend on the batch.

An embedding without a direction (zero, or not finite) has no cosine: its measures are NaN.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from clipshift.augment.keyed import VIEW_SIZE

PATCH_GRID = 4
DETAIL_GRID = 8
SSIM_WINDOW: list[float] = get_gaussian_kernel1d(11, 1.5)[0].tolist()
"""Weights of SSIM's Gaussian window along rows, and along columns."""
FLAT = 1e-6
"""A cell whose standard deviation is below this, on the 0–255 scale, has no detail to preserve."""
TIE = 1e-9
"""Cosines that differ by less than this count as equal."""
ROUNDING = 1e-12
"""A difference that is smaller than this share of its largest value counts as rounding error."""
OUTLIER = 3.0
"""Patch tokens longer than this multiple of the median are outliers: halfway, by ratio, between an
ordinary token and the outliers of Darcet et al., which are about ten times as long."""
GALLERY_COSINES = 2**24
"""Number of cosines of views and a gallery in memory at once."""
SHOWN = 0.999
"""A view shows a pixel of the photo where a map of ones, moved back, is above this."""

MoveBack = Callable[[Tensor], Tensor]
"""Moves maps of views, (B, C, S, S), back to where their pixels came from, with zeros where a
view does not show the photo: `clipshift.augment.MovingAugmentation.move_back` with its draws."""

CHUNK_SIZE = 4
"""Number of images whose maps fit into a processor's cache."""


class PreparedChunks(list[Any]):
    """Clean views, prepared once for all views that are compared with them, chunk by chunk."""


def chunked(prepare: Callable[[Tensor], Any] = lambda images: images) -> Any:
    """Decorate a comparison of prepared images so that it prepares and compares images in chunks.

    On a CPU the maps of a few images stay in the processor's cache, whereas those of a batch do
    not: chunks are three to four times faster. The decorated measure accepts, in place of clean
    views, the result of its ``prepare`` of them.

    Args:
        prepare: Processes each image on its own, before the comparison.
    """

    def chunks(images: Tensor) -> Sequence[Tensor]:
        return images.split(CHUNK_SIZE) if images.device.type == "cpu" else [images]

    def prepare_chunks(clean: Tensor) -> PreparedChunks:
        return PreparedChunks(map(prepare, chunks(clean)))

    def decorate(compare: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
        @wraps(compare)
        def measure(view: Tensor, clean: Tensor | PreparedChunks) -> Tensor:
            prepared = clean if isinstance(clean, PreparedChunks) else prepare_chunks(clean)
            pairs = zip(chunks(view), prepared, strict=True)
            return torch.cat([compare(prepare(chunk), before) for chunk, before in pairs])

        measure.prepare = prepare_chunks  # type: ignore[attr-defined]
        return measure

    return decorate


def cosine_similarity(view: Tensor, clean: Tensor) -> Tensor:
    r"""Cosine of the angle between two embeddings, :math:`e \cdot e' / (\|e\| \|e'\|)`.

    Args:
        view: Embeddings of the views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).

    Returns:
        float64, shape (B,), in [−1, 1]; exactly 1 where the two are equal, NaN where one of them
        has no direction. In float32 a shift of 1e-4 would have three digits.

    Example:
        >>> cosine_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.6000], dtype=torch.float64)
    """
    cosine = torch.cosine_similarity(view.double(), clean.double(), dim=-1).clamp(-1, 1)
    same = (view == clean).all(dim=-1)
    return cosine.masked_fill(same, 1).where(has_direction(view) & has_direction(clean), torch.nan)


def l2_distance(view: Tensor, clean: Tensor) -> Tensor:
    r"""Euclidean distance between two embeddings before normalisation, :math:`\|e - e'\|_2`.

    Args:
        view: Embeddings of the views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).

    Returns:
        Shape (B,), in [0, ∞).

    Example:
        >>> l2_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([5.])
    """
    return torch.linalg.vector_norm(view - clean, dim=-1)


def _scaled_gaze(gaze: Tensor) -> Tensor:
    return _scaled(_smooth_map(gaze))


@chunked(_scaled_gaze)
def attention_similarity(view: Tensor, clean: Tensor) -> Tensor:
    r"""Similarity of two gazes, :math:`1 / (1 + \mathrm{MSE})` of the scaled maps.

    Each is resized bilinearly to 224 × 224 and min–max scaled to [0, 1]; a uniform gaze scales to 0
    everywhere.

    Args:
        view: Gazes on the views, shape (B, h, w).
        clean: Gazes on their clean views, shape (B, h, w).

    Returns:
        Shape (B,), in (0, 1].

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> attention_similarity(gaze, 2 * gaze)
        tensor([1.])
    """
    return 1 / (1 + pixel_mean((view - clean) ** 2))


def attention_similarity_aligned(
    view: Tensor, clean: Tensor, move_back: MoveBack | None, size: int = VIEW_SIZE
) -> Tensor:
    r"""`attention_similarity` of the same content: the view's gaze is moved back first.

    Both gazes are resized bilinearly to the view size. The view's is then moved back like its
    pixels. Pixels of the photo that the view does not show are left out of the min–max scaling of
    both gazes, and of the mean.

    Args:
        view: Gazes on the views, shape (B, h, w).
        clean: Gazes on their clean views, shape (B, h, w).
        move_back: Moves the views' pixels back; None where they did not move, and the result is
            that of `attention_similarity`.
        size: Side of the views, in pixels.

    Returns:
        Shape (B,), in (0, 1]; NaN where a view does not show the photo at all.

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> attention_similarity_aligned(gaze.flip(-1), gaze, move_back=lambda maps: maps.flip(-1))
        tensor([1.])
    """
    if move_back is None:
        return attention_similarity(view, clean)
    moved, shown = _moved_back(_smooth_map(view, size), move_back)
    return _scaled_similarity(moved, _smooth_map(clean, size), shown)


@chunked()
def patch_similarity(view: Tensor, clean: Tensor) -> Tensor:
    r"""Mean over a 4×4 grid of cells of :math:`1 / (1 + \mathrm{MSE})`, pixels in [0, 1].

    Args:
        view: Views in [0, 1], shape (B, 3, H, W), sides divisible by 4.
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in (0, 1].

    Example:
        >>> patch_similarity(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
        tensor([0.5000])
    """
    error = grid_cells(((view - clean) ** 2).mean(dim=1), PATCH_GRID)
    return pixel_mean(1 / (1 + pixel_mean(error)))


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


@chunked(_to_uint8)
def patch_similarity_uint8(view: Tensor, clean: Tensor) -> Tensor:
    r"""Patch similarity as the authors' script computes it, only for comparison with their table.

    Their difference of 8-bit pixels and its square wrap around modulo 256, so that the mean square
    is at most 255, or 255/255² of full scale: every value lies above 0.996.

    Args:
        view: Views in [0, 1], shape (B, 3, H, W), sides divisible by 4.
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in [0.996, 1].

    Example:
        >>> patch_similarity_uint8(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
        tensor([1.0000])
    """
    difference = view - clean
    square = (difference * difference).float()
    return pixel_mean(1 / (1 + pixel_mean(grid_cells(square.mean(dim=1), PATCH_GRID)) / 255**2))


def _edge_map(images: Tensor) -> Tensor:
    down, right = torch.gradient(luma(images), dim=(-2, -1))
    edges = (right.abs() + down.abs()) / 2
    peak = edges.amax((-2, -1), keepdim=True)
    return edges / peak.where(peak > 0, 1)


@chunked(_edge_map)
def edge_preservation(view: Tensor, clean: Tensor) -> Tensor:
    r"""Similarity of edges, 1 − mean absolute difference of edge maps.

    An edge map is :math:`(|\partial_x| + |\partial_y|) / 2` of the luma by central differences
    (one-sided at the border), divided by its maximum; without any edge it is 0.

    Args:
        view: Views in [0, 1], shape (B, 3, H, W).
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in [0, 1].

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 3, 4, 4)
        >>> edge_preservation(ramp, ramp.mT)
        tensor([1.])
    """
    return 1 - pixel_mean((view - clean).abs())


def _detail(images: Tensor) -> Tensor:
    return pixel_std(grid_cells(255 * luma(images.double()), DETAIL_GRID)).flatten(1)


@chunked(_detail)
def detail_preservation(view: Tensor, clean: Tensor) -> Tensor:
    r"""Mean over an 8×8 grid of cells of :math:`\exp(-|\ln(\sigma' / \sigma)|)` of the luma.

    Cells that are flat in the clean view (σ < 1e-6 on the 0–255 scale) are left out.

    Args:
        view: Views in [0, 1], shape (B, 3, H, W), sides divisible by 8.
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in [0, 1]; NaN where every cell is left out.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> clean = torch.rand(1, 3, 16, 16)
        >>> detail_preservation(clean / 2, clean)
        tensor([0.5000])
    """
    kept = clean >= FLAT
    ratio = torch.exp(-(view / clean.where(kept, 1)).log().abs())
    return (ratio.where(kept, 0).sum(dim=-1) / kept.sum(dim=-1)).float()


@chunked()
def rmse(view: Tensor, clean: Tensor) -> Tensor:
    r"""Root mean square error of pixels, a measure of realised distortion.

    Args:
        view: Views in [0, 1], shape (B, 3, H, W).
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in [0, 1].

    Example:
        >>> rmse(torch.full((1, 3, 4, 4), 0.75), torch.full((1, 3, 4, 4), 0.25))
        tensor([0.5000])
    """
    return pixel_mean(((view - clean) ** 2).mean(dim=1)).sqrt()


def _window_means(maps: Tensor) -> Tensor:
    """Means in the windows of SSIM, as sums of shifted maps: faster than a convolution."""
    reach = len(SSIM_WINDOW) // 2
    maps = pad(maps, [reach] * 4, "reflect")
    for dim in (-2, -1):
        size = maps.shape[dim] - 2 * reach
        shifted = [maps.narrow(dim, start, size) for start in range(len(SSIM_WINDOW))]
        maps = shifted[0] * SSIM_WINDOW[0]
        for shifted_maps, weight in zip(shifted[1:], SSIM_WINDOW[1:], strict=True):
            maps.add_(shifted_maps, alpha=weight)
    return maps


def _pixel_moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their means in the windows of SSIM, and those of their squares."""
    mean, square = _window_means(torch.cat([images, images.square()], dim=1)).chunk(2, dim=1)
    return images, mean, square


@chunked(_pixel_moments)
def ssim(view: Tensor, clean: Tensor) -> Tensor:
    r"""Structural similarity with torchmetrics' defaults, data range 1: a realised distortion.

    .. math::
        \frac{(2\mu\mu' + c_1)(2\sigma_{\mu\mu'} + c_2)}
             {(\mu^2 + \mu'^2 + c_1)(\sigma^2 + \sigma'^2 + c_2)}

    of every pixel's Gaussian window (σ = 1.5, 11 pixels wide, reflected at the border), with
    :math:`c_1 = 0.01^2` and :math:`c_2 = 0.03^2`, averaged over pixels and channels. The float32
    variances are differences of nearly equal numbers: exact to about 2e-5.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004.

    Args:
        view: Views in [0, 1], shape (B, 3, H, W).
        clean: Their clean views, same shape.

    Returns:
        Shape (B,), in [−1, 1].

    Example:
        >>> clean = torch.rand(1, 3, 32, 32)
        >>> ssim(clean, clean)
        tensor([1.])
    """
    (pixels, mean, square), (pixels_clean, mean_clean, square_clean) = view, clean
    product = mean * mean_clean
    squares = mean.square() + mean_clean.square()
    covariance = _window_means(pixels * pixels_clean).sub_(product)
    variances = (square + square_clean).sub_(squares).clamp_(min=0)
    c1, c2 = 0.01**2, 0.03**2
    above = product.mul_(2).add_(c1).mul_(covariance.mul_(2).add_(c2))
    below = squares.add_(c1).mul_(variances.add_(c2))
    return pixel_mean(above.div_(below)).mean(dim=-1)


def augmentation_distance(embeddings: Tensor) -> Tensor:
    r"""Mean distance between the views of two augmentations, :math:`1 - \cos(e'_i, e'_j)`.

    Args:
        embeddings: Of N photos under K augmentations, shape (K, N, D).

    Returns:
        float64, symmetric, zero on the diagonal, in [0, 2], shape (K, K).

    Example:
        >>> e = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
        >>> augmentation_distance(e).numpy().round(3)
        array([[0.   , 1.   , 0.293],
               [1.   , 0.   , 0.293],
               [0.293, 0.293, 0.   ]])
    """
    return pairwise_distances(embeddings).nanmean(dim=0)


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """`augmentation_distance` of every photo, float64: (K, N, D) → (N, K, K)."""
    directions = unit(embeddings).transpose(0, 1)
    distance = 1 - directions @ directions.mT
    distance = ((distance + distance.mT) / 2).clamp(min=0)
    distance.diagonal(dim1=-2, dim2=-1).zero_()
    return distance


def augmentation_linkage(distance: np.ndarray) -> np.ndarray:
    """Ward linkage of augmentations, the tree behind the dendrogram.

    Args:
        distance: From `augmentation_distance`, shape (K, K), K ≥ 2.

    Returns:
        scipy's linkage matrix, shape (K − 1, 4).
    """
    return linkage(squareform(distance, checks=False), method="ward")


def relative_shift(view: Tensor, clean: Tensor) -> Tensor:
    r"""The shift as a share of the distance between different photos.

    .. math::
        (1 - \cos(e_i, e'_i)) \Big/ \frac{1}{N(N-1)} \sum_{j \neq k} (1 - \cos(e_j, e_k))

    1 means as far as another photo. All embeddings in a narrow cone have cosines near 1
    (Ethayarajh, 2019, arXiv:1909.00512); dividing by their spread makes models comparable.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, shape (N, D), N ≥ 2.

    Returns:
        float64, shape (N,), in [0, ∞); NaN where all clean embeddings have the same direction.
        Those without a direction are left out of the mean.

    Example:
        >>> clean = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> relative_shift(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), clean)
        tensor([1., 0.], dtype=torch.float64)
    """
    directions = unit(clean[has_direction(clean)])
    spread = spread_of(directions.sum(dim=0), len(directions))
    return (1 - cosine_similarity(view, clean)) / spread


def spread_of(direction: Tensor, count: Tensor | int) -> Tensor:
    r"""Mean of :math:`1 - \cos` over pairs of different photos, from the sum of their directions.

    The squared length of the sum holds all cosines: :math:`\|\sum u\|^2 = N + \sum_{j \neq k}`.

    Args:
        direction: Sum of N unit vectors, float64, shape (D,).
        count: N.

    Returns:
        float64 scalar in [0, 2]; NaN for fewer than two photos, or below 1e-9, which is rounding.
    """
    pairs = torch.as_tensor(count * (count - 1), dtype=torch.float64, device=direction.device)
    spread = 1 - (direction.square().sum() - count) / pairs
    return spread.where((spread > 1e-9) & (pairs > 0), torch.nan)


def retained(view: Tensor, clean: Tensor) -> Tensor:
    """Whether a view's nearest photo in a gallery of clean views is its own (recall@1).

    Photos that are equally near share the first place, so that a model that cannot tell photos
    apart scores 1 / N, as by chance.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, the gallery, shape (N, D).

    Returns:
        1 where the photo itself has the highest cosine, 0 where another has, 1/m where m share it,
        NaN where the photo's view or clean view has no direction; float32, shape (N,).

    Example:
        >>> clean = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> retained(torch.tensor([[0.9, 0.1], [0.7, 0.1]]), clean)
        tensor([1., 0.])
    """
    return recall(view, clean, (1,))[0]


def recall(view: Tensor, clean: Tensor, among: Sequence[int]) -> Tensor:
    """Whether a view's own photo is among its k nearest in a gallery of clean views (recall@k).

    Photos that are equally near share their places, as in `retained`, which is recall@1. Cosines
    are made `GALLERY_COSINES` at a time.

    Args:
        view: Embeddings of the views, shape (N, D).
        clean: Embeddings of their clean views, the gallery, shape (N, D).
        among: K numbers of nearest photos k.

    Returns:
        (k − b) / m, cut off at 0 and 1, where b photos have a higher cosine and m, the photo itself
        among them, share the photo's; NaN where the photo's view or clean view has no direction;
        float32, shape (K, N).

    Example:
        >>> clean = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> recall(torch.tensor([[0.9, 0.1], [0.7, 0.1], [0.5, 0.2]]), clean, (1, 2))
        tensor([[1., 0., 0.],
                [1., 0., 1.]])
    """
    gallery, hits = unit(clean), []
    rows = max(1, GALLERY_COSINES // max(1, len(clean)))
    for start in range(0, max(1, len(view)), rows):
        cosines = unit(view[start : start + rows]) @ gallery.T
        own_cosine = cosines.diagonal(start)[:, None]
        nearer = (cosines >= own_cosine + TIE).sum(dim=1, dtype=torch.int32)
        tied = (cosines > own_cosine - TIE).sum(dim=1, dtype=torch.int32) - nearer
        shares = torch.stack([(k - nearer) / tied for k in among]).clamp(0, 1)
        hits.append(shares.masked_fill(own_cosine[:, 0].isnan(), torch.nan).float())
    return torch.cat(hits, dim=1)


def gaze_divergence(view: Tensor, clean: Tensor) -> Tensor:
    r"""Jensen–Shannon divergence of two gazes as distributions over patches, in bits.

    .. math::
        H\big(\tfrac{p + q}{2}\big) - \tfrac{1}{2}\big(H(p) + H(q)\big)

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991, eq. 3.9.

    Args:
        view: Gazes on the views, shape (B, h, w), not resized.
        clean: Gazes on their clean views, shape (B, h, w).

    Returns:
        Shape (B,), in [0, 1].

    Example:
        >>> gaze_divergence(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.5]]]))
        tensor([1.])
    """
    p, q = _distribution(view), _distribution(clean)
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return divergence.clamp(0, 1).float()


def gaze_divergence_aligned(
    view: Tensor, clean: Tensor, move_back: MoveBack | None, size: int = VIEW_SIZE
) -> Tensor:
    r"""`gaze_divergence` of the same content: the view's gaze is moved back first.

    Both gazes are resized to the view size, constant over each patch (a pixel belongs to the patch
    that its centre lies in). The view's is moved back like its pixels. Pixels of the photo that the
    view does not show are set to 0 in both, and both are averaged over each patch again.

    Attention weighs patches by their content, however far a view stretches it. So values are moved
    like those of pixels, without preserving the total, and the remaining gaze is divided by its
    sum.

    Args:
        view: Gazes on the views, shape (B, h, w), not resized.
        clean: Gazes on their clean views, shape (B, h, w).
        move_back: Moves the views' pixels back; None where they did not move, and the result is
            that of `gaze_divergence`.
        size: Side of the views, in pixels.

    Returns:
        Shape (B,), in [0, 1]; NaN where a view does not show the photo at all.

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> gaze_divergence_aligned(gaze.flip(-1), gaze, move_back=lambda maps: maps.flip(-1))
        tensor([0.])
    """
    if move_back is None:
        return gaze_divergence(view, clean)
    after, before = (_constant_patches(gaze, size) for gaze in (view, clean))
    moved, shown = _moved_back(after, move_back)
    grid = view.shape[-2:]
    q, p = (_patch_means((maps * shown).double(), grid) for maps in (moved, before))
    return gaze_divergence(q, p)


def gaze_moved_back(view: Tensor, move_back: MoveBack, size: int = VIEW_SIZE) -> Tensor:
    """Move gazes on views back to the photo's pixels, as `gaze_divergence_aligned` does.

    Args:
        view: Shape (B, h, w), not resized.
        move_back: Moves the views' pixels back.
        size: Side of the views, in pixels.

    Returns:
        Means over the patches of the clean view, shape (B, h, w), float64; 0 where the view does
        not show the photo's pixels.

    Example:
        >>> gaze = torch.tensor([[[0.25, 0.75]]])
        >>> gaze_moved_back(gaze, move_back=lambda maps: maps.flip(-1))
        tensor([[[0.7500, 0.2500]]], dtype=torch.float64)
    """
    moved, shown = _moved_back(_constant_patches(view, size), move_back)
    return _patch_means((moved * shown).double(), view.shape[-2:])


def gaze_entropy_change(view: Tensor, clean: Tensor) -> Tensor:
    """Entropy of the gaze after minus before, in bits: the gaze scatters (> 0) or focuses (< 0).

    Args:
        view: Gazes on the views, shape (B, h, w), not resized.
        clean: Gazes on their clean views, shape (B, h, w).

    Returns:
        Shape (B,), between ± log₂(h·w).

    Example:
        >>> gaze_entropy_change(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]]))
        tensor([1.])
    """
    return (_entropy(_distribution(view)) - _entropy(_distribution(clean))).float()


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment of two representations of the same N photos, debiased.

    .. math::
        \mathrm{HSIC}_1(x, y) \Big/ \sqrt{\mathrm{HSIC}_1(x, x) \, \mathrm{HSIC}_1(y, y)}

    of the unbiased estimator of HSIC (Song et al., "Feature selection via dependence
    maximization", 2012). For linear kernels and after subtracting column means it is, up to a
    factor that cancels,

    .. math::
        \|Y^T X\|_F^2
        + \frac{\sum_i \|x_i\|^2 \sum_i \|y_i\|^2}{(N - 1)(N - 2)}
        - \frac{N}{N - 2} \sum_i \|x_i\|^2 \|y_i\|^2

    For independent representations it is 0 on average, whereas `linear_cka_biased` approaches 1 as
    they grow wider than N (Murphy et al., 2024, arXiv:2405.01012). Source of CKA: Kornblith et al.,
    "Similarity of neural network representations revisited", 2019 (arXiv:1905.00414); with this
    estimator: Nguyen et al., 2021 (arXiv:2010.15327), eq. 3.

    Args:
        x: Shape (N, p).
        y: Shape (N, q).

    Returns:
        float64 scalar in [−1, 1]; NaN where a representation is the same for all photos, or N < 4.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 3.0]])
        >>> round(float(linear_cka(3 * x + 1, x)), 6)
        1.0
    """
    x, y = _centred(x), _centred(y)
    a, b = x.square().sum(dim=1), y.square().sum(dim=1)
    return debiased_cka_of(x.T @ x, y.T @ y, y.T @ x, a @ a, b @ b, a @ b, len(x))


def linear_cka_biased(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment, as it was first defined.

    .. math::
        \|Y_c^T X_c\|_F^2 \Big/ \big(\|X_c^T X_c\|_F \, \|Y_c^T Y_c\|_F\big)

    after subtracting column means. It grows with the width of the representations and falls with N:
    compare it only at the same width and N. Source: Kornblith et al., "Similarity of neural
    network representations revisited", 2019 (arXiv:1905.00414), eq. 4 and 5.

    Args:
        x: Shape (N, p).
        y: Shape (N, q).

    Returns:
        float64 scalar in [0, 1]; NaN where a representation is the same for all photos.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> round(float(linear_cka_biased(3 * x + 1, x)), 6)
        1.0
    """
    x, y = _centred(x), _centred(y)
    return biased_cka_of(x.T @ x, y.T @ y, y.T @ x)


def biased_cka_of(xx: Tensor, yy: Tensor, yx: Tensor) -> Tensor:
    """`linear_cka_biased` from centred sums of products, (…, p, p), (…, q, q) and (…, q, p)."""
    norms = torch.linalg.matrix_norm(xx) * torch.linalg.matrix_norm(yy)
    return torch.linalg.matrix_norm(yx).square() / norms


def debiased_cka_of(
    xx: Tensor, yy: Tensor, yx: Tensor, aa: Tensor, bb: Tensor, ab: Tensor, count: Tensor | int
) -> Tensor:
    r"""`linear_cka` from centred sums of products, and of products of squared lengths.

    Args:
        xx: Shape (…, p, p).
        yy: Shape (…, q, q).
        yx: Shape (…, q, p).
        aa: :math:`\sum_i \|x_i\|^4`, shape (…).
        bb: :math:`\sum_i \|y_i\|^4`, shape (…).
        ab: :math:`\sum_i \|x_i\|^2 \|y_i\|^2`, shape (…).
        count: N.
    """
    n = torch.as_tensor(count, dtype=torch.float64, device=xx.device)

    def hsic(products: Tensor, trace: Tensor, other: Tensor, lengths: Tensor) -> Tensor:
        unbiased = torch.linalg.matrix_norm(products).square() - n / (n - 2) * lengths
        return unbiased + trace * other / ((n - 1) * (n - 2))

    x, y = (m.diagonal(dim1=-2, dim2=-1).sum(dim=-1) for m in (xx, yy))
    norms = (hsic(xx, x, x, aa) * hsic(yy, y, y, bb)).sqrt()
    return (hsic(yx, x, y, ab) / norms).where(n >= 4, torch.nan)


def cka_null(count: int) -> float:
    r"""Standard deviation of `linear_cka` where the photos of one representation are shuffled.

    .. math::
        \sqrt{\frac{2}{N (N - 3)}}

    over all permutations of the photos, exactly and for any representations; the mean is 0.
    It follows from the rows of the estimator's U-centred matrices, which sum to 0. Source: Székely
    and Rizzo, "The distance correlation t-test of independence in high dimension", 2013, whose
    statistic applies the same formula to other matrices.

    Args:
        count: N.

    Returns:
        NaN for N < 4.

    Example:
        >>> cka_null(4), round(cka_null(400), 5)
        (0.7071067811865476, 0.00355)
    """
    return math.sqrt(2 / (count * (count - 3))) if count > 3 else math.nan


def cka_left_out(x: Tensor, y: Tensor) -> Tensor:
    r"""`linear_cka` without each photo in turn, for its jackknife.

    With the matrices K and L of the products :math:`x_i \cdot x_j` and :math:`y_i \cdot y_j`, their
    diagonals set to 0, the unbiased estimator of HSIC over n photos is

    .. math::
        \frac{1}{n (n - 3)} \Big( \sum_{ij} K_{ij} L_{ij}
        + \frac{\sum_{ij} K_{ij} \sum_{ij} L_{ij}}{(n - 1)(n - 2)}
        - \frac{2}{n - 2} \sum_i k_i l_i \Big), \quad k_i = \sum_j K_{ij}, \; l_i = \sum_j L_{ij}

    and each sum without photo i follows from row sums, so that all N take O(N²) operations. Source
    of the estimator: Song et al., "Feature selection via dependence maximization", 2012, eq. 4.

    Args:
        x: Shape (N, p), N ≥ 5.
        y: Shape (N, q).

    Returns:
        float64, shape (N,): `linear_cka` without the i-th rows; NaN where the other rows of a
        representation are all the same.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 3.0], [2.0, 1.0]])
        >>> cka_left_out(3 * x + 1, x)
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    n = len(x) - 1

    def hsic(k: Tensor, g: Tensor) -> Tensor:
        rows, k_rows, g_rows = (k * g).sum(dim=1), k.sum(dim=1), g.sum(dim=1)
        products = rows.sum() - 2 * rows
        totals = (k_rows.sum() - 2 * k_rows) * (g_rows.sum() - 2 * g_rows)
        shared = k_rows @ g_rows - k_rows * g_rows - k @ g_rows - g @ k_rows + rows
        return products + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * shared

    k, g = ((rows @ rows.T).fill_diagonal_(0) for rows in (_centred(x), _centred(y)))
    first, second = (
        norm.where(norm > ROUNDING * norm.max(), torch.nan) for norm in (hsic(k, k), hsic(g, g))
    )
    return hsic(k, g) / (first * second).sqrt()


def outlier_tokens(norms: Tensor) -> Tensor:
    """Find the patch tokens of a view that are outliers: longer than `OUTLIER` times the median.

    Large ViTs turn tokens of uninformative patches into outliers, about ten times as long as the
    others, and store information about the whole image in them ("registers"). Source: Darcet et
    al., "Vision transformers need registers", 2024 (arXiv:2309.16588), section 2.1, who set the
    cut-off by eye for each model; the multiple of the median, which needs neither eye nor unit, is
    our choice.

    Args:
        norms: Lengths of the patch tokens after a block, shape (…, P).

    Returns:
        Boolean, shape (…, P); the median of an even number is the lower one.

    Example:
        >>> outlier_tokens(torch.tensor([1.0, 1.1, 0.9, 2.9, 10.0]))
        tensor([False, False, False, False,  True])
    """
    return norms > OUTLIER * norms.median(dim=-1, keepdim=True).values


def gaze_on(tokens: Tensor, gaze: Tensor) -> Tensor:
    """Share of a gaze that falls on some of the patches.

    Args:
        tokens: Whether each patch counts, boolean, shape (…, P).
        gaze: At least 0, broadcast to the same shape.

    Returns:
        In [0, 1], shape (…); NaN where the gaze is 0 everywhere, or NaN.

    Example:
        >>> gaze_on(torch.tensor([True, False, False]), torch.tensor([0.3, 0.1, 0.2]))
        tensor(0.5000)
    """
    return (gaze * tokens).sum(dim=-1) / gaze.sum(dim=-1)


def text_shift(view: Tensor, clean: Tensor, text: Tensor) -> Tensor:
    r"""Change of the image–text cosine, :math:`\cos(e', t) - \cos(e, t)`.

    Args:
        view: Embeddings of the views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).
        text: For each photo the mean of its captions' unit embeddings, shape (B, D), so that the
            cosine is the mean over its captions. NaN where a photo has none.

    Returns:
        float32, shape (B,), in [−2, 2]; negative where the view fits its captions less. NaN where
        an embedding has no direction.

    Example:
        >>> text = torch.tensor([[1.0, 0.0]])
        >>> text_shift(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 4.0]]), text)
        tensor([-0.6000])
    """
    return ((unit(view) - unit(clean)) * text.double()).sum(dim=-1).float()


def has_direction(embeddings: Tensor) -> Tensor:
    """Whether embeddings are finite and not zero: (…, D) → (…), boolean."""
    return embeddings.isfinite().all(dim=-1) & embeddings.any(dim=-1)


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings divided by their length, float64, (…, D); NaN where they have no direction."""
    normalized = normalize(embeddings.double(), dim=-1)
    return normalized.where(has_direction(embeddings)[..., None], torch.nan)


def luma(images: Tensor) -> Tensor:
    """Luma of RGB images, weights 0.299, 0.587, 0.114 (ITU-R BT.601): (B, 3, H, W) → (B, H, W).

    kornia's differs in the last bit, which would change published numbers.
    """
    red, green, blue = images.unbind(dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def grid_cells(maps: Tensor, grid: int) -> Tensor:
    """Cut maps into a grid of cells: (B, H, W) → (B, grid, grid, H / grid, W / grid).

    Raises:
        ValueError: If a side is not divisible by ``grid``.
    """
    height, width = maps.shape[-2:]
    if height % grid or width % grid:
        raise ValueError(f"sides {height}×{width} cannot be cut into {grid}×{grid} equal cells")
    return maps.unflatten(-1, (grid, -1)).unflatten(-3, (grid, -1)).transpose(-3, -2)


def pixel_mean(maps: Tensor) -> Tensor:
    """Mean over the last two dimensions, along rows first (see the module's docstring)."""
    return maps.mean(dim=-1).mean(dim=-1)


def pixel_std(maps: Tensor) -> Tensor:
    """Standard deviation over the last two dimensions, by `pixel_mean`: faster than torch's."""
    return pixel_mean((maps - pixel_mean(maps)[..., None, None]).square()).sqrt()


def _distribution(gaze: Tensor) -> Tensor:
    flat = gaze.flatten(1).double()
    return flat / flat.sum(dim=1, keepdim=True)


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(dim=-1) / math.log(2)


def _smooth_map(gaze: Tensor, size: int = VIEW_SIZE) -> Tensor:
    return interpolate(gaze[:, None], (size, size), mode="bilinear")[:, 0]


def _moved_back(maps: Tensor, move_back: MoveBack) -> tuple[Tensor, Tensor]:
    """Maps moved back, (B, S, S), and which of the photo's pixels the views show, boolean."""
    moved, ones = move_back(torch.stack([maps, torch.ones_like(maps)], dim=1)).unbind(dim=1)
    return moved, ones > SHOWN


def _patch_of_pixels(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Index of the patch that each pixel's centre lies in, along one side, int64, (size,)."""
    return (2 * torch.arange(size, device=device) + 1) * count // (2 * size)


def _constant_patches(gaze: Tensor, size: int) -> Tensor:
    """Resize gazes to the view size, constant over each patch: (B, h, w) → (B, S, S)."""
    rows, columns = (_patch_of_pixels(count, size, gaze.device) for count in gaze.shape[-2:])
    return gaze[:, rows[:, None], columns]


def _patch_means(maps: Tensor, grid: torch.Size) -> Tensor:
    """Means over patches: (B, S, S) → (B, h, w)."""
    for dim in (-1, -2):
        sides = _patch_of_pixels(grid[dim], maps.shape[dim]).bincount().tolist()
        maps = torch.stack([part.mean(dim=dim) for part in maps.split(sides, dim)], dim=dim)
    return maps


def _scaled_similarity(view: Tensor, clean: Tensor, shown: Tensor) -> Tensor:
    """1 / (1 + MSE) of maps, each min–max scaled, over the pixels that are shown."""
    error = (_scaled(view, shown) - _scaled(clean, shown)) ** 2
    return 1 / (1 + pixel_mean(error * shown) / pixel_mean(shown.float()))


def _scaled(maps: Tensor, shown: Tensor | None = None) -> Tensor:
    """Scale maps to [0, 1] over the pixels that are shown; over all pixels without ``shown``."""
    low, high = (
        bound(maps if shown is None else maps.where(shown, hidden), (-2, -1), keepdim=True)
        for bound, hidden in ((torch.amin, torch.inf), (torch.amax, -torch.inf))
    )
    return (maps - low) / (high - low).where(high > low, 1)


def _centred(x: Tensor) -> Tensor:
    # Subtracting the first row first turns columns that do not vary into exact zeros.
    x = x.double() - x[0].double()
    return x - x.mean(dim=0)
