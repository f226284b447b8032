"""Other libraries' transforms as augmentations, under keyed randomness."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipshift.augment.keyed import VIEW_SIZE, Augmentation, Draws, MovingAugmentation
from clipshift.errors import UserError, failures_of

TRIALS = 4
"""Number of seeds that a transform is tried with before it is used."""


class KeyedTransform(MovingAugmentation):
    """A transform of one image, whose random numbers follow from a seed of the photo.

    The seed is drawn from the photo's keyed generator. Before every call, the global generators of
    Python, numpy and torch are seeded with it, and albumentations' generator too; the global ones
    are restored afterwards. The transform receives one photo at a time, on the CPU. So neither
    batch, workers, device nor other augmentations change the view that it makes of a photo.

    A transform has no strength. Whether it moves pixels is not known, so the aligned measures of
    gaze have no value for its views: `move_back` marks every pixel as not shown.

    Args:
        transform: The transform; `as_augmentation` says what it receives and may return.
    """

    strongest = 1.0

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.name = getattr(transform, "__name__", type(transform).__name__)
        libraries = {
            base.__module__.partition(".")[0]
            for step in steps_of(transform)
            for base in type(step).__mro__
        }
        self.call = next((CALLS[name] for name in CALLS if name in libraries), _call_plain)

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"seed": torch.from_numpy(rng.integers(2**63, size=1))}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        if strength != 1:
            raise UserError(f"{self.name} has no strength: it supports only severity=paper")
        views = []
        for photo, seed in zip(images.cpu(), draws["seed"].flatten().tolist(), strict=True):
            with seeded(seed):
                output = self.call(self.transform, photo.clone(), seed)
            views.append(self._as_view(output, photo))
        return torch.stack(views).to(images)

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return torch.zeros_like(images)

    def _as_view(self, output: Any, photo: Tensor) -> Tensor:
        """Check the output of the transform, and turn it into a view, float32, shape (3, H, W)."""
        if isinstance(output, np.ndarray) and output.ndim == 3:
            output = torch.from_numpy(np.ascontiguousarray(output.transpose(2, 0, 1)))
        if not isinstance(output, Tensor):
            raise UserError(f"{self.name} returns {type(output).__name__}: it must return an image")
        if output.shape == (1, *photo.shape):
            output = output[0]
        if output.shape != photo.shape:
            raise UserError(
                f"{self.name} returns an image of shape {tuple(output.shape)}: a transform must "
                f"return the size and channels that it receives, {tuple(photo.shape)}"
            )
        if output.dtype == torch.uint8:
            return output.float() / 255
        if not output.is_floating_point():
            raise UserError(
                f"{self.name} returns {output.dtype}: it must return floats in [0, 1] or uint8"
            )
        return output.float()


def as_augmentation(part: Any) -> Augmentation:
    """Turn an augmentation, or any transform of one image, into an augmentation.

    =================================  ==========================================================
    part                               input that it receives
    =================================  ==========================================================
    has ``sample`` and ``apply``       it is an augmentation already, and is returned as it is
    albumentations, at least 2.0       ``image=`` uint8, shape (224, 224, 3)
    kornia                             float32 in [0, 1], shape (1, 3, 224, 224)
    torchvision (v2, or v1 on          float32 in [0, 1], shape (3, 224, 224)
    tensors), or any other callable
    =================================  ==========================================================

    A sequence that contains a transform of albumentations, or else of kornia, receives the input of
    that library. A transform returns floats in [0, 1], which are clamped, or uint8, in the shape
    that it receives. It must draw from the global generators of Python, numpy and torch, or be one
    of albumentations, and keep nothing from one photo to the next: it is tried on an image, twice
    with each of a few seeds.

    Args:
        part: The augmentation or transform.

    Raises:
        UserError: If it is neither, fails on an image, returns another size, normalises by a mean
            and standard deviation, or makes two different views with the same seed.

    Example:
        >>> from torchvision.transforms.v2 import RandomInvert
        >>> invert = as_augmentation(RandomInvert(p=1.0))
        >>> invert.apply(torch.full((1, 3, 224, 224), 0.25), {"seed": torch.tensor([[0]])}).mean()
        tensor(0.7500)
    """
    if all(callable(getattr(part, half, None)) for half in ("sample", "apply")):
        return part
    if not callable(part):
        raise UserError(
            f"{type(part).__name__} is not an augmentation: it must have sample and apply, or be a "
            "transform of one image"
        )
    keyed = KeyedTransform(part)
    if any(type(step).__name__ == "Normalize" for step in steps_of(part)):
        raise UserError(f"{keyed.name} normalises: remove Normalize, the model does it itself")
    image = torch.rand(1, 3, VIEW_SIZE, VIEW_SIZE, generator=torch.Generator().manual_seed(0))
    with failures_of(keyed.name):
        first, second = (
            torch.cat([keyed.apply(image, {"seed": torch.tensor([i])}) for i in range(TRIALS)])
            for _ in range(2)
        )
    if not torch.equal(first, second):
        raise UserError(
            f"{keyed.name} makes two different views with the same seed: it must draw only from "
            "the global generators of Python, numpy or torch, and keep nothing from one photo to "
            "the next"
        )
    return keyed


def steps_of(transform: Any) -> Iterator[Any]:
    """A transform and all transforms that it consists of."""
    yield transform
    parts = getattr(transform, "transforms", None)
    if parts is None and isinstance(transform, nn.Module):
        parts = transform.children()
    for part in parts or ():
        yield from steps_of(part)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch's CPU, and restore them afterwards.

    Args:
        seed: From 0 to 2⁶³ − 1.
    """
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of GPUs, which are not restored
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed([seed % 2**32, seed // 2**32])
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _call_plain(transform: Callable[..., Any], photo: Tensor, seed: int) -> Any:
    return transform(photo)


def _call_kornia(transform: Callable[..., Any], photo: Tensor, seed: int) -> Any:
    return transform(photo[None])


def _call_albumentations(transform: Any, photo: Tensor, seed: int) -> Any:
    transform.set_random_seed(seed)
    pixels = (photo * 255).round().to(torch.uint8).permute(1, 2, 0)
    return transform(image=pixels.contiguous().numpy())["image"]


CALLS: dict[str, Callable[[Any, Tensor, int], Any]] = {
    "albumentations": _call_albumentations,
    "kornia": _call_kornia,
}
"""How to call the transforms of a library; the first library that a sequence uses decides."""
