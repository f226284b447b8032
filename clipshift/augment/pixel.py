"""Augmentations that change the values of pixels and leave them in their place."""

import math
from collections.abc import Callable

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor
from torch.nn.functional import pad

from clipshift.augment.keyed import Draws, uniform


class Noise:
    """Additive Gaussian noise, independent for every pixel and channel.

    Args:
        std: Interval of the standard deviation, in units of the full pixel range.
    """

    def __init__(self, std: tuple[float, float]) -> None:
        self.std = std

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        std = uniform(rng, self.std)
        field = rng.standard_normal((3, size, size), dtype=np.float32)
        return {"std": std, "field": torch.from_numpy(field)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        return images + draws["std"][..., None, None] * draws["field"]


class Blur:
    """Gaussian blur.

    Args:
        kernel: The kernel's side is one of these odd numbers of pixels, all equally likely.
        sigma: Interval of the Gaussian's standard deviation, in pixels.
    """

    def __init__(self, kernel: tuple[int, ...], sigma: tuple[float, float]) -> None:
        self.kernel = kernel
        self.sigma = sigma

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        side = self.kernel[int(rng.integers(len(self.kernel)))]
        sigma = uniform(rng, self.sigma)
        weights = get_gaussian_kernel1d(side, sigma[None])[0]
        # Kernels of one batch must have one length; the zeros around a shorter one change nothing.
        margin = (max(self.kernel) - side) // 2
        return {"sigma": sigma, "side": torch.tensor([side]), "weights": pad(weights, [margin] * 2)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        return filter2d_separable(images, draws["weights"], draws["weights"], "reflect")


class ColorJitter:
    """Brightness, contrast, saturation and hue, each changed by a random factor in random order.

    Args:
        brightness: Interval of the factor on all values.
        contrast: Interval of the factor on the distance to the mean luma.
        saturation: Interval of the factor on the distance to the pixel's luma.
        hue: Interval of the shift of hue, in turns of the colour circle.
    """

    def __init__(
        self,
        brightness: tuple[float, float],
        contrast: tuple[float, float],
        saturation: tuple[float, float],
        hue: tuple[float, float],
    ) -> None:
        self.intervals = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        }

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = {name: uniform(rng, interval)[0] for name, interval in self.intervals.items()}
        return draws | {"order": torch.from_numpy(rng.permutation(4))}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        steps: tuple[tuple[Callable[[Tensor, Tensor], Tensor], Tensor], ...] = (
            (adjust_brightness_accumulative, draws["brightness"]),
            (adjust_contrast, draws["contrast"]),
            (adjust_saturation_with_gray_subtraction, draws["saturation"]),
            (adjust_hue, draws["hue"] * 2 * math.pi),
        )
        views = images.clone()
        for turn in draws["order"].T:
            for step, (adjust, factor) in enumerate(steps):
                rows = turn == step
                if rows.any():
                    views[rows] = adjust(views[rows], factor[rows])
        return views


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to an image's mean luma, clamped to [0, 1].

    kornia's ``adjust_contrast_with_mean_subtraction``, whose mean of a batch of one depends on the
    number of threads: here every mean is over one row of pixels, then over rows.

    Args:
        images: RGB in [0, 1], shape (B, 3, H, W).
        factor: The factor, shape (B,).

    Returns:
        The images, shape (B, 3, H, W).
    """
    mean = rgb_to_grayscale(images).mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp(0.0, 1.0)


class BrightnessContrast:
    """A linear change of all values, ``x * (1 + contrast) + brightness``.

    Args:
        brightness: Interval of what is added, in units of the full pixel range.
        contrast: Interval of what is added to the factor 1.
    """

    def __init__(self, brightness: tuple[float, float], contrast: tuple[float, float]) -> None:
        self.brightness = brightness
        self.contrast = contrast

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {
            "contrast": uniform(rng, self.contrast),
            "brightness": uniform(rng, self.brightness),
        }

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        contrast, brightness = (draws[name][..., None, None] for name in ("contrast", "brightness"))
        return images * (1 + contrast) + brightness


class CoarseDropout:
    """Square holes filled with uniform random pixels.

    Args:
        holes: Least and greatest number of holes, all numbers between equally likely.
        side: Side of a hole, in pixels.
    """

    def __init__(self, holes: tuple[int, int], side: int) -> None:
        self.holes = holes
        self.side = side

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        low, high = self.holes
        count = rng.integers(low, high + 1)
        corners = rng.integers(size - self.side + 1, size=(high, 2))
        mask = np.zeros((1, size, size), dtype=bool)
        for top, left in corners[:count]:
            mask[:, top : top + self.side, left : left + self.side] = True
        fill = rng.random((3, size, size), dtype=np.float32)
        return {
            "count": torch.tensor([count]),
            "mask": torch.from_numpy(mask),
            "fill": torch.from_numpy(fill),
        }

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        return torch.where(draws["mask"], draws["fill"], images)
