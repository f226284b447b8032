"""Other libraries' transforms as augmentations, under keyed randomness."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from clipshift.augment.keyed import VIEW_SIZE, Augmentation, Draws
from clipshift.errors import UserError, one_line

TRIALS = 4
"""Seeds under which a transform is tried before it is used."""


class KeyedTransform:
    """A transform of one picture, whose random numbers follow from a photo's own seed.

    The seed is drawn from the photo's keyed generator. Before every call, Python's, numpy's and
    torch's global generators are seeded by it, and albumentations' own; afterwards the global ones
    are what they were. The transform sees one photo at a time, on the CPU. So neither batch,
    workers, device nor other augmentations change what it makes of a photo.

    It has no strength. Whether it moves pixels is not known, so the aligned measures of gaze have
    no value for its views: `move_back` finds no pixel of the photo again.

    Args:
        transform: What it is given, and may give back, is in `as_augmentation`.
    """

    strongest: ClassVar[float] = 1.0
    moves_pixels: ClassVar[bool] = True

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.name = getattr(transform, "__name__", type(transform).__name__)
        made_by = {
            kind.__module__.partition(".")[0]
            for step in steps_of(transform)
            for kind in type(step).__mro__
        }
        self.call = _call_plain
        if "albumentations" in made_by:
            self.call = _call_albumentations
        elif "kornia" in made_by:
            self.call = _call_kornia

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"seed": torch.from_numpy(rng.integers(2**63, size=1))}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        if strength != 1:
            raise UserError(f"{self.name} has no strength: it can be applied as it is alone")
        views = []
        for photo, seed in zip(images.cpu(), draws["seed"].flatten().tolist(), strict=True):
            with seeded(seed):
                made = self.call(self.transform, photo.clone(), seed)
            views.append(self._view(made, photo))
        return torch.stack(views).to(images)

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        return torch.zeros_like(images)

    def _view(self, made: Any, photo: Tensor) -> Tensor:
        if isinstance(made, np.ndarray) and made.ndim == 3:
            made = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
        if not isinstance(made, Tensor):
            raise UserError(f"{self.name} returns {type(made).__name__}: a picture is needed")
        if made.shape == (1, *photo.shape):
            made = made[0]
        if made.shape != photo.shape:
            raise UserError(
                f"{self.name} returns a picture of shape {tuple(made.shape)}: a transform must "
                f"return the size and channels that it is given, {tuple(photo.shape)}"
            )
        if made.dtype == torch.uint8:
            return made.float() / 255
        if not made.is_floating_point():
            raise UserError(f"{self.name} returns {made.dtype}: floats in [0, 1] or uint8 needed")
        return made.float()


def as_augmentation(part: Any) -> Augmentation:
    """An augmentation of a part of one's own: one already, or any transform of one picture.

    =================================  ==========================================================
    part                               what it is given
    =================================  ==========================================================
    has ``sample`` and ``apply``       nothing: it is an augmentation, and stays as it is
    of albumentations, at least 2.0    ``image=`` uint8, shape (224, 224, 3)
    of kornia                          float32 in [0, 1], shape (1, 3, 224, 224)
    of torchvision (v2, or v1 on       float32 in [0, 1], shape (3, 224, 224)
    tensors), or any other callable
    =================================  ==========================================================

    A sequence of transforms is given what the first of albumentations or kornia in it needs. A
    transform returns floats in [0, 1], which are clamped, or uint8, of the shape that it is given.
    It must draw from the global generators of Python, numpy and torch, or be one of albumentations,
    and keep nothing from one photo to the next: it is tried on a picture, twice with each of a few
    seeds.

    Args:
        part: The augmentation or transform.

    Raises:
        UserError: If it is neither, fails on a picture, returns another size, normalises by a mean
            and standard deviation, or makes two different views with one seed.

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
            f"{type(part).__name__} is no augmentation: it needs sample and apply, or must be a "
            "transform of one picture"
        )
    made = KeyedTransform(part)
    if any(type(step).__name__ == "Normalize" for step in steps_of(part)):
        raise UserError(f"{made.name} normalises: leave Normalize out, the model does it itself")
    picture = torch.rand(1, 3, VIEW_SIZE, VIEW_SIZE, generator=torch.Generator().manual_seed(0))
    try:
        first, second = (
            torch.cat([made.apply(picture, {"seed": torch.tensor([i])}) for i in range(TRIALS)])
            for _ in range(2)
        )
    except UserError:
        raise
    except Exception as error:
        reason = one_line(str(error)) or "no reason given"
        raise UserError(f"{made.name} fails: {type(error).__name__}: {reason}") from error
    if not torch.equal(first, second):
        raise UserError(
            f"{made.name} makes two views with one seed: it must draw from the global generators "
            "of Python, numpy or torch alone, and keep nothing from one photo to the next"
        )
    return made


def steps_of(transform: Any) -> Iterator[Any]:
    """A transform and all those that it is made of."""
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
        # torch.manual_seed would seed the generators of GPUs as well, which are not restored
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
