"""Augmentations that move pixels."""

import math
from functools import lru_cache

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from kornia.geometry.transform import (
    get_affine_matrix2d,
    get_perspective_transform,
    hflip,
    remap,
    warp_affine,
    warp_perspective,
)
from torch import Tensor
from torch.nn.functional import grid_sample

from clipshift.augment.keyed import VIEW_SIZE, Draws, must_be_waited_for, uniform
from clipshift.checks import checked, interval, number

INVERSION_STEPS = 30
"""Steps, at most, of the iteration that inverts an elastic displacement."""
SETTLED, FOUND = 1e-3, 0.1
"""Pixels by which a step moves every pixel of a settled photo, and one that is found, at most."""


class Flip:
    """Horizontal flip: always at strength 1; below, of that share of the photos."""

    strongest = 1.0
    moves_pixels = True

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"turn": uniform(rng, (0.0, 1.0))}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return torch.where(draws["turn"][..., None, None] < strength, hflip(images), images)

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return self.apply(images, draws, strength)


class ShiftScaleRotate:
    """Shift, scale and rotation about the centre; bilinear, with zeros outside the photo.

    Strength multiplies shift and angle, and is the power of the scale.

    Args:
        shift: Interval of the shift along each axis, as a fraction of the side.
        scale: Interval of the scale factor of each axis.
        rotation: Interval of the angle, in degrees.
    """

    strongest = math.inf
    moves_pixels = True

    def __init__(
        self,
        shift: tuple[float, float],
        scale: tuple[float, float],
        rotation: tuple[float, float],
    ) -> None:
        self.shift = checked("shift", shift, interval(-1, 1))
        self.scale = checked("scale", scale, interval(0.01, 100))
        self.rotation = checked("rotation", rotation, interval(-360, 360))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {
            "shift": uniform(rng, self.shift, 2),
            "scale": uniform(rng, self.scale, 2),
            "rotation": uniform(rng, self.rotation)[0],
        }

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        matrix = self._matrix(images, draws, strength)
        return warp_affine(images, matrix[:, :2], (height, width), padding_mode="zeros")

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        matrix = self._matrix(images, draws, strength)
        return sample_at(images, transformed_positions(images, matrix))

    def _matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        height, width = images.shape[-2:]
        sides = images.new_tensor([width, height])
        return get_affine_matrix2d(
            strength * draws["shift"] * sides,
            ((sides - 1) / 2).expand_as(draws["shift"]),
            draws["scale"] ** strength,
            strength * draws["rotation"],
        )


class Elastic:
    """A smooth random displacement; bilinear, with zeros outside the photo.

    Standard normal noise for every pixel and axis is smoothed by a Gaussian (beyond the border
    there is no noise) and multiplied by ``alpha`` (Simard et al., "Best practices for
    convolutional neural networks", 2003).

    Args:
        alpha: Factor on the smoothed noise, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels.
    """

    strongest = math.inf
    moves_pixels = True

    def __init__(self, alpha: float, sigma: float) -> None:
        self.alpha = checked("alpha", alpha, number(0))
        self.sigma = checked("sigma", sigma, number(0, VIEW_SIZE))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        noise = torch.from_numpy(rng.standard_normal((2, size, size), dtype=np.float32))
        smooth = gaussian_smoothing(size, float(self.sigma))
        return {"displacement": self.alpha * (smooth @ noise @ smooth.T)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
        x = columns + strength * draws["displacement"][:, 0]
        y = rows[:, None] + strength * draws["displacement"][:, 1]
        return remap(images, x, y, mode="bilinear", padding_mode="zeros", align_corners=True)

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        # The view shows pixel q where q = p + d(p). Where d does not fold the photo, p ← q − d(p)
        # converges to that p; pixels that it does not find count as not shown. A photo that has
        # settled stays as it is, however long the others of its batch go on.
        displacement = strength * draws["displacement"]
        start = pixel_positions(images)
        found = start.expand(len(images), -1, -1, -1)
        step = torch.full_like(found[..., :1], torch.inf)
        for _ in range(INVERSION_STEPS):
            unsettled = step.amax((1, 2, 3), keepdim=True) > SETTLED
            if not must_be_waited_for(images) and not unsettled.any():
                break
            moved = start - sample_at(displacement, found, "border").movedim(1, -1)
            length = torch.linalg.vector_norm(moved - found, dim=-1, keepdim=True)
            found, step = moved.where(unsettled, found), length.where(unsettled, step)
        lost = step >= FOUND
        return sample_at(images, found.masked_fill(lost, -2.0))


@lru_cache
def gaussian_smoothing(size: int, sigma: float) -> Tensor:
    """Gaussian smoothing of a line of ``size`` pixels as a matrix, zeros beyond both ends.

    At a sigma of a quarter of the view two products with this matrix are 60 times faster than the
    convolution they stand for.

    Args:
        size: Number of pixels.
        sigma: Standard deviation in pixels; the kernel is cut at three of them.

    Returns:
        float32, shape (size, size); a row sums to at most 1.
    """
    radius = math.ceil(3 * sigma)
    kernel = get_gaussian_kernel1d(2 * radius + 1, sigma)[0]
    offset = torch.arange(size) - torch.arange(size)[:, None]
    return kernel[(offset + radius).clamp(0, 2 * radius)] * (offset.abs() <= radius)


class Perspective:
    """Each corner moves inward, and the inner quadrilateral is stretched over the view; bilinear.

    Args:
        scale: Interval of s; a corner moves by ``|N(0, s)|`` of the side along each axis, and by
            0.45 at the most, so that the four stay apart.
    """

    strongest = math.inf
    moves_pixels = True

    def __init__(self, scale: tuple[float, float]) -> None:
        self.scale = checked("scale", scale, interval(0, 0.45))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        scale = uniform(rng, self.scale)
        inward = torch.from_numpy(np.abs(rng.standard_normal((4, 2)))).float()
        return {"scale": scale, "inward": scale * inward}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        matrix = self._matrix(images, draws, strength)
        return warp_perspective(images, matrix, (height, width), padding_mode="zeros")

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        matrix = self._matrix(images, draws, strength)
        return sample_at(images, transformed_positions(images, matrix))

    def _matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        height, width = images.shape[-2:]
        far = images.new_tensor([width - 1, height - 1])
        return stretch(strength * draws["inward"], far)


def corners_moved(inward: Tensor) -> Tensor:
    """Corners (x, y) of the unit square after moves inward along both axes, by 0.45 at the most.

    Args:
        inward: Moves of the corners, clockwise from the top left, shape (..., 4, 2).

    Returns:
        Shape (..., 4, 2).
    """
    corners = inward.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    return corners + inward.clamp(max=0.45) * (1 - 2 * corners)


def stretch(inward: Tensor, far: Tensor) -> Tensor:
    """Homographies that stretch the quadrilateral of moved corners over the whole view.

    Args:
        inward: Moves of the corners, as shares of the sides, shape (B, 4, 2).
        far: Position (x, y) of the view's bottom right corner, in pixels.

    Returns:
        Shape (B, 3, 3).
    """
    whole = corners_moved(torch.zeros_like(inward))
    return get_perspective_transform(corners_moved(inward) * far, whole * far)


def pixel_positions(images: Tensor) -> Tensor:
    """The position (x, y) of every pixel of images, in pixels, shape (H, W, 2)."""
    rows, columns = (torch.arange(n, device=images.device).float() for n in images.shape[-2:])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def transformed_positions(images: Tensor, matrix: Tensor) -> Tensor:
    """Where homographies take the pixels of images: (B, 3, 3) → (B, H, W, 2).

    Not as a matrix product, whose rounding might depend on the batch.
    """
    x, y = pixel_positions(images).unbind(dim=-1)
    rows = matrix[..., None, None].unbind(dim=1)
    x, y, scale = (row[:, 0] * x + row[:, 1] * y + row[:, 2] for row in rows)
    return torch.stack([x / scale, y / scale], dim=-1)


def sample_at(images: Tensor, positions: Tensor, beyond: str = "zeros") -> Tensor:
    """Images read bilinearly at positions (x, y) in pixels, shape (B, H, W, 2).

    Args:
        images: Shape (B, C, H, W).
        positions: Where each pixel of the result is read.
        beyond: What lies outside the images: ``zeros``, or the nearest pixel of the ``border``.
    """
    height, width = images.shape[-2:]
    last = images.new_tensor([width - 1, height - 1])
    return grid_sample(images, 2 * positions / last - 1, padding_mode=beyond, align_corners=True)
