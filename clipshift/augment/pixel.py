"""Augmentations that change the values of pixels and leave every pixel in its place."""

import math
from collections.abc import Callable

import numpy as np
import torch
from kornia import enhance
from kornia.color import rgb_to_grayscale
from kornia.filters import filter2d, filter2d_separable, get_gaussian_kernel1d
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from clipshift.augment.keyed import (
    VIEW_SIZE,
    Augmentation,
    Draws,
    dithered,
    on_accelerator,
    uniform,
)
from clipshift.augment.parameters import Parametrised, Range, parameter
from clipshift.checks import Check, interval, whole

ODD: Check = (
    "a list of odd whole numbers ≥ 1",
    lambda v: (
        isinstance(v, list) and bool(v) and all(type(k) is int and k % 2 and k > 0 for k in v)
    ),
)
COUNTS: Check = (
    "a range [a, b] of whole numbers with 0 ≤ a ≤ b",
    lambda v: isinstance(v, list) and [type(n) for n in v] == [int] * 2 and 0 <= v[0] <= v[1],
)


class Noise(Parametrised, Augmentation):
    """Additive Gaussian noise, independent for every pixel and channel.

    Args:
        std: Interval of the standard deviation, in units of the full pixel range.
    """

    std: Range = parameter(interval(0))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = super().sample(rng, size)
        field = rng.standard_normal((3, size, size), dtype=np.float32)
        return draws | {"field": torch.from_numpy(field)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return images + strength * draws["std"][..., None, None] * draws["field"]


class Blur(Parametrised, Augmentation):
    """Gaussian blur. Strength scales the Gaussian and the radius at which its kernel is cut.

    Args:
        kernel: The kernel's side is one of these odd numbers of pixels, all equally likely.
        sigma: Interval of the Gaussian's standard deviation, in pixels.
    """

    kernel: tuple[int, ...] = parameter(ODD)
    sigma: Range = parameter(interval(1e-3))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        side = self.kernel[int(rng.integers(len(self.kernel)))]
        sigma, offset = uniform(rng, self.sigma), uniform(rng)
        return {"sigma": sigma, "side": torch.tensor([side]), "offset": offset}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        # Kernels of one batch must have one length; the zeros around a shorter one change nothing.
        reach = min(math.ceil(strength * (max(self.kernel) // 2)), images.shape[-1] - 1)
        weights = get_gaussian_kernel1d(2 * reach + 1, (strength * draws["sigma"]).clamp(min=1e-3))
        radius = dithered(strength * (draws["side"] // 2), draws["offset"])
        offset = torch.arange(-reach, reach + 1, device=images.device)
        weights = weights * (offset.abs() <= radius)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return filter2d_separable(images, weights, weights, "reflect")


class ColorJitter(Parametrised, Augmentation):
    """Brightness, contrast, saturation and hue, each changed by a random factor in random order.

    Strength multiplies a factor's distance from 1, down to a factor of 0, and the shift of hue, up
    to half a turn.

    Args:
        brightness: Interval of the factor on all values.
        contrast: Interval of the factor on the distance to the mean luma.
        saturation: Interval of the factor on the distance to the pixel's luma.
        hue: Interval of the shift of hue, in turns of the colour circle.
    """

    brightness: Range = parameter(interval(0))
    contrast: Range = parameter(interval(0))
    saturation: Range = parameter(interval(0))
    hue: Range = parameter(interval(-0.5, 0.5))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        draws = {name: drawn[0] for name, drawn in super().sample(rng, size).items()}
        return draws | {"order": torch.from_numpy(rng.permutation(4))}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        brightness, contrast, saturation = (
            (1 + strength * (draws[name] - 1)).clamp(min=0)
            for name in ("brightness", "contrast", "saturation")
        )
        hue = (strength * draws["hue"]).clamp(-0.5, 0.5)
        steps: tuple[tuple[Callable[[Tensor, Tensor], Tensor], Tensor], ...] = (
            (enhance.adjust_brightness_accumulative, brightness),
            (adjust_contrast, contrast),
            (enhance.adjust_saturation_with_gray_subtraction, saturation),
            (enhance.adjust_hue, hue * 2 * math.pi),
        )
        views = images.clone()
        for step_of_image in draws["order"].T:
            for step, (adjust, factor) in enumerate(steps):
                rows = step_of_image == step
                if on_accelerator(images):  # where asking for the rows would wait; the same views
                    adjusted = adjust(views, factor)
                    views = torch.where(rows[:, None, None, None], adjusted, views)
                elif rows.any():
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


class BrightnessContrast(Parametrised, Augmentation):
    """A linear change of all values, ``x * (1 + contrast) + brightness``, strength times both.

    Args:
        brightness: Interval of what is added, in units of the full pixel range.
        contrast: Interval of what is added to the factor 1.
    """

    brightness: Range = parameter(interval(-1, 1))
    contrast: Range = parameter(interval(-1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        contrast, brightness = (uniform(rng, i) for i in (self.contrast, self.brightness))
        return {"contrast": contrast, "brightness": brightness}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        contrast, brightness = (draws[name][..., None, None] for name in ("contrast", "brightness"))
        return images * (1 + strength * contrast).clamp(min=0) + strength * brightness


MAX_HOLES = 128
"""Holes whose positions are drawn for every photo, so that any strength finds enough of them."""


class CoarseDropout(Parametrised, Augmentation):
    """Square holes filled with uniform random pixels. Strength multiplies their number.

    Args:
        holes: Least and greatest number of holes, all numbers between equally likely.
        side: Side of a hole, in pixels.
    """

    holes: tuple[int, int] = parameter(COUNTS)
    side: int = parameter(whole(1, VIEW_SIZE))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        low, high = self.holes
        count = rng.integers(low, high + 1)
        positions = size - self.side + 1
        corners = rng.integers(positions, size=(high, 2))
        fill = rng.random((3, size, size), dtype=np.float32)
        spare = rng.integers(positions, size=(max(0, MAX_HOLES - high), 2))
        return {
            "count": torch.tensor([count]),
            "corners": torch.from_numpy(np.concatenate([corners, spare])),
            "fill": torch.from_numpy(fill),
            "offset": uniform(rng),
        }

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        corners = draws["corners"][..., None]  # (B, holes, 2, 1)
        count = dithered(strength * draws["count"], draws["offset"])
        position = torch.arange(images.shape[-1], device=images.device)
        inside = (position >= corners) & (position < corners + self.side)
        wanted = torch.arange(corners.shape[1], device=images.device) < count
        rows = (inside[:, :, 0] & wanted[..., None]).float()
        mask = rows.mT @ inside[:, :, 1].float() > 0  # (B, H, W)
        return torch.where(mask[:, None], draws["fill"], images)


class JPEG(Parametrised, Augmentation):
    """Compression as JPEG, by libjpeg with 4:2:0 chroma. Strength multiplies its quantisation.

    libjpeg multiplies its quantisation tables by ``50 / quality`` below quality 50 and by
    ``2 - quality / 50`` above.

    Args:
        quality: Interval of libjpeg's quality, 1 to 100.
    """

    quality: Range = parameter(interval(1, 100))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"offset": uniform(rng)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        drawn = draws["quality"]
        factor = strength * torch.where(drawn < 50, 50 / drawn, 2 - drawn / 50)
        quality = torch.where(factor > 1, 50 / factor, 100 - 50 * factor)
        quality = dithered(quality, draws["offset"]).clamp(1, 100)
        pixels = (images * 255).round().to(torch.uint8).cpu()
        views = [
            decode_jpeg(encode_jpeg(photo, int(q)), ImageReadMode.RGB)
            for photo, q in zip(pixels, quality, strict=True)
        ]
        return torch.stack(views).to(images) / 255


class Pixelate(Parametrised, Augmentation):
    """A coarser grid of square blocks, each the mean of its pixels. Strength scales the blocks.

    Args:
        block: Interval of a block's side, in pixels.
    """

    block: Range = parameter(interval(1, VIEW_SIZE))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"offset": uniform(rng)}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        size = images.shape[-1]
        blocks = dithered(size / (strength * draws["block"]).clamp(min=1), draws["offset"])
        views = [
            interpolate(interpolate(photo[None], (n, n), mode="area"), (size, size))
            for photo, n in zip(images, blocks.clamp(1, size).int().flatten().tolist(), strict=True)
        ]
        return torch.cat(views)


class MotionBlur(Parametrised, Augmentation):
    """The mean along a straight line through each pixel. Strength scales the line.

    Args:
        length: Interval of the line's length, in pixels; its direction is any.
    """

    length: Range = parameter(interval(0, VIEW_SIZE))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"angle": uniform(rng, (0.0, math.pi))}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        reach = min(math.ceil(strength * self.length[1] / 2 + 0.5), images.shape[-1] - 1)
        offset = torch.arange(-reach, reach + 1.0, device=images.device)
        angle = draws["angle"][..., None]
        along = offset * angle.cos() + offset[:, None] * angle.sin()
        across = offset[:, None] * angle.cos() - offset * angle.sin()
        half = strength * draws["length"][..., None] / 2
        # One pixel wide with soft edges: below half a pixel, only the pixel itself is left.
        weights = (1 - across.abs()).clamp(min=0) * (half + 0.5 - along.abs()).clamp(0, 1)
        weights = weights / weights.sum(dim=(1, 2), keepdim=True)
        return filter2d(images, weights, "reflect")


class Grayscale(Parametrised, Augmentation):
    """Colour fades towards luma. Strength multiplies how far, up to all the way.

    Args:
        amount: Interval of the share of luma, in [0, 1].
    """

    amount: Range = parameter(interval(0, 1))

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        amount = (strength * draws["amount"]).clamp(max=1)[..., None, None]
        return torch.lerp(images, rgb_to_grayscale(images).expand_as(images), amount)
