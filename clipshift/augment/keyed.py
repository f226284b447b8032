"""Keyed randomness: the draws of a view depend only on the seed, the photo and the augmentation.

Every augmentation is split in two. `sample` draws a photo's parameters on the CPU from a generator
keyed by `draw`; `apply` is a deterministic function of images and parameters that runs batched on
any device. So neither batch size, batch order, workers, devices nor the other augmentations of a
run can change a view.
"""

import hashlib
import math
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Draws = dict[str, Tensor]

VIEW_SIZE = 224
"""Side of every view in pixels, whatever the model's own input (protocol)."""


class Augmentation(Protocol):
    """A perturbation of photos in two halves: the random draws, and their effect on images.

    Attributes:
        strongest: The strength beyond which views no longer change.
        moves_pixels: Whether it only moves pixels to other places: then it should be a
            `MovingAugmentation`.
        stage: ``view``; that of a `FileAugmentation` is ``file``.
    """

    strongest: float = math.inf
    moves_pixels: bool = False
    stage: str = "view"

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw the parameters of one view.

        Args:
            rng: Source of the random numbers.
            size: Side of the square view, in pixels.

        Returns:
            Parameters by name, without a batch dimension.
        """

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """Perturb a batch of images.

        Args:
            images: Clean views in [0, 1], float32, shape (B, 3, H, W).
            draws: What `sample` drew for each of them, stacked along a first dimension B.
            strength: Scales the perturbation without changing its draws: 0 changes nothing (except
                that JPEG compresses at its best quality), 1 is what was drawn.

        Returns:
            The views, shape (B, 3, H, W), not yet clamped.
        """


@runtime_checkable
class MovingAugmentation(Augmentation, Protocol):
    """An augmentation that moves pixels, and can move them back."""

    moves_pixels: bool = True

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """Move the pixels of views back to where `apply` took them from.

        Args:
            images: Pixels or other maps of the views, float32, shape (B, C, H, W).
            draws: What `sample` drew for each view, stacked along a first dimension B.
            strength: The strength at which the views were made.

        Returns:
            Shape (B, C, H, W), interpolated bilinearly; 0 at pixels of the photo that the view does
            not show.
        """


class FileAugmentation(Protocol):
    """A perturbation of the file's pixels: of the decoded photo at full size, before it is resized.

    Attributes:
        strongest: The strength beyond which images no longer change.
        moves_pixels: Whether it moves pixels. Then ``matrix`` says where; without it, the aligned
            measures of gaze have no value.
        stage: ``file``.
    """

    strongest: float = math.inf
    moves_pixels: bool = False
    stage: str = "file"

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw the parameters of one photo, see `Augmentation.sample`.

        The photo's size is not known yet: lengths are drawn as shares of its sides.
        """

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        """Perturb a photo.

        Args:
            image: The photo, RGB, at full size; it must not be changed itself.
            draws: What `sample` drew for it, without a batch dimension.
            strength: See `Augmentation.apply`.

        Returns:
            An image of any size.
        """


def draw(augmentation: Augmentation, seed: int, photo: str, name: str, size: int) -> Draws:
    """Draw the parameters of the view that the augmentation called ``name`` makes of a photo.

    Args:
        augmentation: The augmentation.
        seed: The run's seed.
        photo: The photo's id.
        name: The augmentation's name.
        size: Side of the square view, in pixels.

    Returns:
        The parameters by name, without a batch dimension.
    """
    return augmentation.sample(keyed_generator(seed, photo, name), size)


def keyed_generator(seed: int, photo: str, name: str) -> np.random.Generator:
    """The random generator of a photo under a name.

    The random stream is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
    under a 128-bit BLAKE2b key of the three arguments: two photos share a stream with a
    probability of 2⁻¹²⁸, whereas a 32-bit seed would repeat after some tens of thousands.

    Args:
        seed: The run's seed.
        photo: The photo's id.
        name: The augmentation's name.
    """
    text = "\0".join((str(seed), photo, name))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def augment(
    augmentation: Augmentation, images: Tensor, draws: Draws, strength: float = 1.0
) -> Tensor:
    """The views an augmentation makes of clean images, clamped to [0, 1].

    Args:
        augmentation: The augmentation.
        images: Clean views in [0, 1], float32, shape (B, 3, H, W).
        draws: Parameters from `draw`, stacked along a first dimension B, on the images' device.
        strength: Scales the perturbation; 1 is what was drawn.

    Returns:
        Views in [0, 1], float32, shape (B, 3, H, W).
    """
    return augmentation.apply(images, draws, strength).clamp(0.0, 1.0)


def on_accelerator(images: Tensor) -> bool:
    """Whether reading a number that depends on images would wait for them, as on a GPU."""
    return images.device.type != "cpu"


def unit_range(pixels: Tensor) -> Tensor:
    """8-bit pixels as float32 in [0, 1], equal to the bit on every device."""
    # a GPU divides by a Python number through its reciprocal, which rounds once more
    return pixels.float() / torch.full((), 255.0, device=pixels.device)


def uniform(
    rng: np.random.Generator, interval: tuple[float, float] = (0.0, 1.0), count: int = 1
) -> Tensor:
    """``count`` numbers from U[low, high], float32; a wider interval scales the same draws."""
    low, high = interval
    return torch.from_numpy(low + (high - low) * rng.random(count)).float()


def dithered(number: Tensor, offset: Tensor) -> Tensor:
    """Round to whole numbers so that the mean over offsets from U[0, 1) is the number itself.

    A whole number stays as it is. A scaled count thus grows at another strength for each photo, not
    for all photos at once.
    """
    return torch.floor(number + offset)
