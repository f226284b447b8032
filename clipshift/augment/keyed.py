"""Keyed randomness: what is drawn for a view depends on (seed, photo, augmentation) alone.

Every augmentation is split in two. `sample` draws a photo's parameters on the CPU from a generator
keyed by `draw`; `apply` is a deterministic function of images and parameters that runs batched on
any device. So neither batch size, batch order, workers, devices nor the other augmentations of a
run can change a view.
"""

import hashlib
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Draws = dict[str, Tensor]

VIEW_SIZE = 224
"""Side of every view in pixels, whatever the model's own input (protocol)."""


class Augmentation(Protocol):
    """A disturbance of photos, in two halves: random draws, and what they do to images.

    Attributes:
        strongest: The strength beyond which nothing changes any more.
        moves_pixels: Whether it moves pixels to other places, and only that: then it should be a
            `MovingAugmentation`.
    """

    strongest: ClassVar[float]
    moves_pixels: ClassVar[bool]

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw the parameters of one view.

        Args:
            rng: Where the random numbers come from.
            size: Side of the square view, in pixels.

        Returns:
            Parameters by name, without a batch dimension.
        """
        ...

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """Disturb a batch of images.

        Args:
            images: Clean views in [0, 1], float32, shape (B, 3, H, W).
            draws: What `sample` drew for each of them, stacked along a first dimension B.
            strength: Scales the disturbance and leaves its draws as they are: 0 changes nothing
                (JPEG's best quality apart), 1 is what was drawn.

        Returns:
            The views, shape (B, 3, H, W), not yet clamped.
        """
        ...


@runtime_checkable
class MovingAugmentation(Augmentation, Protocol):
    """An augmentation that moves pixels, and can move them back."""

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """Move the pixels of views back to where `apply` took them from.

        Args:
            images: Maps of the views (pixels, or any other channels), float32, shape (B, C, H, W).
            draws: What `sample` drew for each view, stacked along a first dimension B.
            strength: The strength at which the views were made.

        Returns:
            Shape (B, C, H, W), read bilinearly; 0 at pixels of the photo that the view does not
            show.
        """
        ...


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
    """The random numbers of a photo under a name.

    The random stream is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
    under a 128-bit BLAKE2b key of the three arguments: two photos share a stream with a
    probability of 2⁻¹²⁸, where a 32-bit seed would repeat after some tens of thousands.

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
        strength: Scales the disturbance; 1 is what was drawn.

    Returns:
        Views in [0, 1], float32, shape (B, 3, H, W).
    """
    return augmentation.apply(images, draws, strength).clamp(0.0, 1.0)


def must_be_waited_for(images: Tensor) -> bool:
    """Whether a number that depends on images is not there yet, as on a GPU, which runs behind."""
    return images.device.type != "cpu"


def unit_range(pixels: Tensor) -> Tensor:
    """8-bit pixels as float32 in [0, 1], the same to the bit on every device."""
    # a GPU divides by a Python number through its reciprocal, which rounds once more
    return pixels.float() / torch.full((), 255.0, device=pixels.device)


def uniform(rng: np.random.Generator, interval: tuple[float, float], count: int = 1) -> Tensor:
    """``count`` numbers from U[low, high], float32; a wider interval scales the same draws."""
    low, high = interval
    return torch.from_numpy(low + (high - low) * rng.random(count)).float()


def dithered(number: Tensor, offset: Tensor) -> Tensor:
    """Round to whole numbers so that the mean over offsets from U[0, 1) is the number itself.

    A whole number stays as it is. So a scaled count grows step by step over photos, and not for all
    at the same strength.
    """
    return torch.floor(number + offset)
