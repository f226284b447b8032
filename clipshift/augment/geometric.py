"""Augmentations that move pixels."""

import math
from functools import lru_cache

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from kornia.geometry import transform
from torch import Tensor
from torch.nn.functional import grid_sample

from clipshift.augment.keyed import VIEW_SIZE, Draws, MovingAugmentation, on_accelerator, uniform
from clipshift.augment.parameters import Parametrised, Range, parameter
from clipshift.checks import interval, number

MAX_INVERSION_STEPS = 30
"""Most steps of the iteration that inverts an elastic displacement."""
CONVERGED = 1e-3
"""The iteration stops for a photo once no pixel moves farther than this in a step, in pixels."""
INVERTED = 0.1
"""A pixel counts as inverted if its last step was shorter than this, in pixels."""


class Flip(MovingAugmentation):
    """Horizontal flip: of all photos at strength 1, of that share of them below."""

    strongest = 1.0

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"turn": uniform(rng)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        is_turned = draws["turn"][..., None, None] < strength
        return torch.where(is_turned, transform.hflip(images), images)

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return self.apply(images, draws, strength)


class Homography(MovingAugmentation):
    """Base of augmentations that map the pixels of a photo by a 3 × 3 matrix."""

    def matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        """Homographies from positions in a photo to those in its view, shape (B, 3, 3)."""
        raise NotImplementedError

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        matrix = self.matrix(images, draws, strength)
        return transform.warp_perspective(images, matrix, (height, width), padding_mode="zeros")

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        matrix = self.matrix(images, draws, strength)
        return sample_at(images, transformed_positions(images, matrix))


class ShiftScaleRotate(Parametrised, Homography):
    """Shift, scale and rotation about the centre; bilinear, with zeros outside the photo.

    Strength multiplies shift and angle, and is the power of the scale.

    Args:
        shift: Interval of the shift along each axis, as a fraction of the side.
        scale: Interval of the scale factor of each axis.
        rotation: Interval of the angle, in degrees.
    """

    shift: Range = parameter(interval(-1, 1))
    scale: Range = parameter(interval(0.01, 100))
    rotation: Range = parameter(interval(-360, 360))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {
            "shift": uniform(rng, self.shift, 2),
            "scale": uniform(rng, self.scale, 2),
            "rotation": uniform(rng, self.rotation)[0],
        }

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        matrix = self.matrix(images, draws, strength)
        return transform.warp_affine(images, matrix[:, :2], (height, width), padding_mode="zeros")

    def matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        height, width = images.shape[-2:]
        sides = images.new_tensor([width, height])
        return transform.get_affine_matrix2d(
            strength * draws["shift"] * sides,
            ((sides - 1) / 2).expand_as(draws["shift"]),
            draws["scale"] ** strength,
            strength * draws["rotation"],
        )


class Elastic(Parametrised, MovingAugmentation):
    """A smooth random displacement; bilinear, with zeros outside the photo.

    Standard normal noise for every pixel and axis is smoothed by a Gaussian (beyond the border
    there is no noise) and multiplied by ``alpha`` (Simard et al., "Best practices for
    convolutional neural networks", 2003).

    Args:
        alpha: Factor on the smoothed noise, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels.
    """

    alpha: float = parameter(number(0))
    sigma: float = parameter(number(0, VIEW_SIZE))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        noise = torch.from_numpy(rng.standard_normal((2, size, size), dtype=np.float32))
        smoothing = smoothing_matrix(size, float(self.sigma))
        return {"displacement": self.alpha * (smoothing @ noise @ smoothing.T)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
        x = columns + strength * draws["displacement"][:, 0]
        y = rows[:, None] + strength * draws["displacement"][:, 1]
        return transform.remap(
            images, x, y, mode="bilinear", padding_mode="zeros", align_corners=True
        )

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        # Pixel p of the view shows pixel q = p + d(p) of the photo. Where d does not fold the
        # photo, the iteration p ← q − d(p) converges to that p; where it does not converge, the
        # pixel counts as not shown. A photo that has converged stays as it is, however long the
        # others of its batch go on: its result must not depend on them.
        displacement = strength * draws["displacement"]
        start = pixel_positions(images)
        positions = start.expand(len(images), -1, -1, -1)
        step = torch.full_like(positions[..., :1], torch.inf)
        for _ in range(MAX_INVERSION_STEPS):
            unfinished = step.amax((1, 2, 3), keepdim=True) > CONVERGED
            if not on_accelerator(images) and not unfinished.any():
                break
            moved = start - sample_at(displacement, positions, "border").movedim(1, -1)
            length = torch.linalg.vector_norm(moved - positions, dim=-1, keepdim=True)
            positions, step = moved.where(unfinished, positions), length.where(unfinished, step)
        outside_view = -2.0
        return sample_at(images, positions.masked_fill(step >= INVERTED, outside_view))


@lru_cache
def smoothing_matrix(size: int, sigma: float) -> Tensor:
    """Gaussian smoothing of a line of ``size`` pixels as a matrix, with zeros beyond both ends.

    At a sigma of a quarter of the view, two products with this matrix are 60 times faster than the
    convolution that they replace.

    Args:
        size: Number of pixels.
        sigma: Standard deviation in pixels; the kernel is cut at three standard deviations.

    Returns:
        float32, shape (size, size); a row sums to at most 1.
    """
    radius = math.ceil(3 * sigma)
    kernel = get_gaussian_kernel1d(2 * radius + 1, sigma)[0]
    offset = torch.arange(size) - torch.arange(size)[:, None]
    return kernel[(offset + radius).clamp(0, 2 * radius)] * (offset.abs() <= radius)


class Perspective(Parametrised, Homography):
    """Each corner moves inward, and the inner quadrilateral is stretched over the view; bilinear.

    Args:
        scale: Interval of s; a corner moves by ``|N(0, s)|`` of the side along each axis, at most
            by 0.45, so that the four corners stay apart.
    """

    scale: Range = parameter(interval(0, 0.45))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = super().sample(rng, size)
        inward = torch.from_numpy(np.abs(rng.standard_normal((4, 2)))).float()
        return draws | {"inward": draws["scale"] * inward}

    def matrix(self, images: Tensor, draws: Draws, strength: float) -> Tensor:
        height, width = images.shape[-2:]
        last = images.new_tensor([width - 1, height - 1])
        return stretching_homography(strength * draws["inward"], last)


def moved_corners(inward: Tensor) -> Tensor:
    """Corners (x, y) of the unit square, moved inward along both axes by at most 0.45.

    Args:
        inward: Moves of the corners, clockwise from the top left, shape (..., 4, 2).

    Returns:
        Shape (..., 4, 2).
    """
    corners = inward.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    return corners + inward.clamp(max=0.45) * (1 - 2 * corners)


def stretching_homography(inward: Tensor, last: Tensor) -> Tensor:
    """Homographies that stretch the quadrilateral of moved corners over the whole view.

    Args:
        inward: Moves of the corners, as fractions of the sides, shape (B, 4, 2).
        last: Position (x, y) of the view's bottom right corner, in pixels.

    Returns:
        Shape (B, 3, 3).
    """
    unmoved = moved_corners(torch.zeros_like(inward))
    return transform.get_perspective_transform(moved_corners(inward) * last, unmoved * last)


def pixel_positions(images: Tensor) -> Tensor:
    """The position (x, y) of every pixel of an image, in pixels, shape (H, W, 2)."""
    rows, columns = (torch.arange(n, device=images.device).float() for n in images.shape[-2:])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def transformed_positions(images: Tensor, matrix: Tensor) -> Tensor:
    """Positions to which homographies map the pixels of images: (B, 3, 3) → (B, H, W, 2).

    Not computed as a matrix product, whose rounding might depend on the batch.
    """
    x, y = pixel_positions(images).unbind(dim=-1)
    rows = matrix[..., None, None].unbind(dim=1)
    x, y, scale = (row[:, 0] * x + row[:, 1] * y + row[:, 2] for row in rows)
    return torch.stack([x / scale, y / scale], dim=-1)


def sample_at(images: Tensor, positions: Tensor, beyond: str = "zeros") -> Tensor:
    """Sample images bilinearly.

    Args:
        images: Shape (B, C, H, W).
        positions: Where each pixel of the result is sampled, (x, y) in pixels, shape (B, H, W, 2).
        beyond: Values outside the images: ``zeros``, or the nearest pixel of the ``border``.

    Returns:
        Shape (B, C, H, W).
    """
    height, width = images.shape[-2:]
    last = images.new_tensor([width - 1, height - 1])
    return grid_sample(images, 2 * positions / last - 1, padding_mode=beyond, align_corners=True)
