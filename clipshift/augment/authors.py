"""The augmentations that the script of arXiv 2503.23495 implements differently from clipshift.

The script uses albumentations 2.0. These classes draw what albumentations 2.0.8 draws, under keyed
randomness and at any strength; at strength 1 they produce the same views.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

from clipshift.augment import geometric
from clipshift.augment.keyed import Draws

__all__ = ["Elastic", "Perspective", "ShiftScaleRotate"]


class ShiftScaleRotate(geometric.ShiftScaleRotate):
    """albumentations' ``ShiftScaleRotate``: the shift is truncated to whole pixels, towards 0."""

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = super().sample(rng, size)
        return draws | {"shift": (draws["shift"] * size).trunc() / size}


class Elastic(geometric.Elastic):
    """albumentations' ``ElasticTransform``, whose displacement differs from ours in three ways.

    The noise is divided by its greatest absolute value. The noise of both axes is smoothed as one
    image, x above y, so that each leaks into the other. Beyond the border of that image its
    outermost values are repeated; the kernel is cut at 4 sigma.
    """

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        noise = torch.from_numpy(rng.standard_normal((2, size, size), dtype=np.float32))
        noise = noise / noise.abs().max()
        vertical, horizontal = (smoothing_matrix(n, self.sigma) for n in (2 * size, size))
        smooth = vertical @ noise.flatten(0, 1) @ horizontal.T
        return {"displacement": self.alpha * smooth.unflatten(0, (2, size))}


@lru_cache
def smoothing_matrix(size: int, sigma: float) -> Tensor:
    """Gaussian smoothing of a line of ``size`` pixels as a matrix; beyond it its ends are repeated.

    Args:
        size: Number of pixels.
        sigma: Standard deviation in pixels; the kernel is cut at four standard deviations.

    Returns:
        float32, shape (size, size); every row sums to 1.
    """
    radius = math.ceil(4 * sigma)
    kernel = get_gaussian_kernel1d(2 * radius + 1, sigma)
    source = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)
    return torch.zeros(size, size).scatter_add_(
        1, source.clamp(0, size - 1), kernel.expand(size, -1)
    )


class Perspective(geometric.Perspective):
    """albumentations' ``Perspective``, which shows less of the photo than the quadrilateral.

    Moves of corners wrap modulo 0.32 of the side. The quadrilateral is stretched over the view,
    and the view is then enlarged once more, about its top left corner: along x by the ratio of the
    view's width to that of the quadrilateral (its longer edge, truncated to whole pixels), and
    likewise along y. Strength is the exponent of that enlargement.
    """

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = super().sample(rng, size)
        inward = draws["inward"] % 0.32
        corners = geometric.moved_corners(inward) * size
        left, top, right, bottom = torch.linalg.vector_norm(corners - corners.roll(1, 0), dim=1)
        longer = torch.stack([torch.maximum(top, bottom), torch.maximum(left, right)])
        return draws | {"inward": inward, "zoom": size / longer.trunc()}

    def matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        height, width = images.shape[-2:]
        last = images.new_tensor([width, height])
        matrix = geometric.stretching_homography(strength * draws["inward"], last)
        zoom = torch.nn.functional.pad(draws["zoom"] ** strength, (0, 1), value=1.0)
        return zoom[..., None] * matrix
