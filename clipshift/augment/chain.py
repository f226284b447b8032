"""Chains: several augmentations one after the other, on the file's pixels and then on the view."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from kornia.geometry import transform
from PIL import Image
from torch import Tensor

from clipshift.augment.geometric import sample_at, transformed_positions
from clipshift.augment.keyed import Draws, MovingAugmentation, unit_range
from clipshift.augment.transforms import as_augmentation
from clipshift.errors import UserError

NOT_SHOWN = np.array([[1, 0, 1e6], [0, 1, 1e6], [0, 0, 1]])
"""A map of every pixel to far outside the view, where it is not known how pixels move."""


class Chain(MovingAugmentation):
    """Augmentations in a row: each receives what the one before it returns, clamped to [0, 1].

    All draw from the generator of the chain, one after the other, so that a chain of one draws what
    its part would draw under the chain's name. The strength is that of every part.

    Parts on the file (`FileAugmentation`) come first. They are applied where the file is read, at
    every strength that is needed (`edit`); ``draws`` holds the finished views, and `apply` goes on
    from them. Pixels move back through the parts in reverse, and through the resizing.

    Args:
        parts: Augmentations, or transforms as for `as_augmentation`.

    Raises:
        UserError: If there are none, one that acts on the view precedes one that acts on the file,
            or one moves pixels but has no ``move_back``.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        nested = [
            part.parts if isinstance(part, Chain) else [as_augmentation(part)] for part in parts
        ]
        self.parts: list[Any] = [part for several in nested for part in several]
        if not self.parts:
            raise UserError("a chain requires at least one augmentation", "parts")
        on_file = [getattr(part, "stage", "view") == "file" for part in self.parts]
        self.edits = sum(on_file)
        if on_file != sorted(on_file, reverse=True):
            raise UserError("put parts that act on the file before those on the view", "parts")
        for part in self.parts[self.edits :]:
            if part.moves_pixels and not isinstance(part, MovingAugmentation):
                name = type(part).__name__
                raise UserError(f"{name} moves pixels but has no move_back: write it", "parts")
        self.strongest = max(part.strongest for part in self.parts)
        self.moves_pixels = any(part.moves_pixels for part in self.parts)

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {
            f"{index} {key}": value
            for index, part in enumerate(self.parts)
            for key, value in part.sample(rng, size).items()
        }

    def edit(
        self, image: Image.Image, draws: Draws, strength: float
    ) -> tuple[Image.Image, np.ndarray]:
        """Apply the parts that act on the file.

        Args:
            image: The decoded photo, RGB.
            draws: From `sample`, without a batch dimension.
            strength: Their strength.

        Returns:
            The edited image; and the map of positions in the photo to those in the edited image,
            float64, shape (3, 3). Positions are in pixels, (0, 0) is the top left corner.

        Raises:
            UserError: If a part does not return an image.
        """
        moves = np.eye(3)
        for part, drawn in self._with_draws(draws, slice(self.edits)):
            edited = part.apply(image, drawn, strength)
            if not isinstance(edited, Image.Image):
                raise UserError(f"{type(part).__name__} must return an image of Pillow")
            if part.moves_pixels:
                is_known = hasattr(part, "matrix")
                sizes = image.size, edited.size
                moves = (part.matrix(*sizes, drawn, strength) if is_known else NOT_SHOWN) @ moves
            image = edited.convert("RGB")
        return image, moves

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        if self.edits:
            images = unit_range(draws[edited_key("pixels", strength)])
        for part, drawn in self._with_draws(draws, slice(self.edits, None)):
            images = part.apply(images.clamp(0, 1), drawn, strength)
        return images

    def move(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """Move maps of clean views, shape (B, C, H, W), as `apply` moves the pixels of photos."""
        if self.edits:
            matrix = draws[edited_key("moves", strength)]
            height, width = images.shape[-2:]
            images = transform.warp_perspective(images, matrix, (height, width))
        for part, drawn in self._with_draws(draws, slice(self.edits, None)):
            images = part.apply(images, drawn, strength) if part.moves_pixels else images
        return images

    def move_back(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        for part, drawn in reversed([*self._with_draws(draws, slice(self.edits, None))]):
            images = part.move_back(images, drawn, strength) if part.moves_pixels else images
        if not self.edits:
            return images
        matrix = draws[edited_key("moves", strength)]
        return sample_at(images, transformed_positions(images, matrix))

    def _with_draws(self, draws: Draws, chosen: slice) -> Iterator[tuple[Any, Draws]]:
        for index, part in list(enumerate(self.parts))[chosen]:
            start = f"{index} "
            mine = {k.removeprefix(start): v for k, v in draws.items() if k.startswith(start)}
            yield part, mine


def edited_key(kind: str, strength: float) -> str:
    """The name, among the draws, of the views of edited files at a strength.

    Args:
        kind: ``pixels``, the view, uint8, shape (3, S, S); or ``moves``, the map of positions in
            the clean view to those in it, float32, shape (3, 3).
        strength: The strength.
    """
    return f"{kind} at {float(strength)!r}"
