"""Stored corruptions: views that lie on the disk, as those of ImageNet-C."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from clipshift.augment.keyed import Draws, unit_range
from clipshift.checks import Check, checked
from clipshift.errors import UserError

LEVELS: Check = (
    "one or more of 1 to 5, as by severity=[1,2,3,4,5]",
    lambda v: bool(v) and all(type(one) is int and 1 <= one <= 5 for one in v),
)


class Stored:
    """A corruption whose views are photographs: ``ROOT/CORRUPTION/LEVEL/CLASS/NAME``.

    The strength is the level, from 1 to 5, so that severity k is the k-th folder. Nothing is drawn.
    What moves pixels (elastic_transform, zoom_blur) cannot move them back, so that aligned measures
    of gaze are the unaligned ones.

    Args:
        root: The folder of all corruptions.
        corruption: The name of one.
        levels: Which levels are measured: a photo's views at each of them are read with it.
    """

    strongest: ClassVar[float] = 5.0
    moves_pixels: ClassVar[bool] = False

    def __init__(self, root: str, corruption: str, levels: int | Sequence[int]) -> None:
        wanted = [levels] if isinstance(levels, int | str) else list(levels)
        self.levels = checked("levels", wanted, LEVELS)
        self.folder = Path(str(root)).expanduser() / corruption
        for level in self.levels:
            if not (self.folder / str(level)).is_dir():
                raise UserError(f"no folder {self.folder / str(level)}", "corruption")

    def files(self, photo: str) -> list[Path]:
        """The photographs of a photo's views, one for each level.

        Args:
            photo: The photo's id, ``CLASS/NAME``.
        """
        return [self.folder / str(level) / photo for level in self.levels]

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        raise UserError(
            "stored corruptions belong to their photographs and are not drawn: use them with "
            "data=imagenet_c"
        )

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        """The stored views: ``draws["pixels"]`` holds them, uint8, (B, levels, 3, H, W).

        ``draws["digests"]`` holds the SHA-256 of the files that they come from.
        """
        return unit_range(draws["pixels"][:, self.levels.index(int(strength))])
