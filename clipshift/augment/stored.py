"""Stored corruptions: views that are read from files, such as those of ImageNet-C."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from clipshift.augment.keyed import Augmentation, Draws, unit_range
from clipshift.checks import Check, checked
from clipshift.errors import UserError

LEVELS: Check = (
    "one or more of 1 to 5, as by severity=[1,2,3,4,5]",
    lambda v: bool(v) and all(type(level) is int and 1 <= level <= 5 for level in v),
)


class Stored(Augmentation):
    """A corruption whose views are image files: ``ROOT/CORRUPTION/LEVEL/CLASS/NAME``.

    The strength is the level, from 1 to 5, so that severity k is the k-th folder. Nothing is drawn.
    Corruptions that move pixels (elastic_transform, zoom_blur) cannot move them back, so aligned
    measures of gaze equal the unaligned ones.

    Args:
        root: The folder of all corruptions.
        corruption: The corruption's name.
        levels: The levels that are measured: a photo's views at these levels are read with it.
    """

    strongest = 5.0

    def __init__(self, root: str, corruption: str, levels: int | Sequence[int]) -> None:
        wanted = [levels] if isinstance(levels, int | str) else list(levels)
        self.levels = checked("levels", wanted, LEVELS)
        self.folder = Path(str(root)).expanduser() / corruption
        for level in self.levels:
            if not (self.folder / str(level)).is_dir():
                raise UserError(f"no folder {self.folder / str(level)}", "corruption")

    def files(self, photo: str) -> list[Path]:
        """The image files of a photo's views, one for each level.

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
        """The stored views, which ``draws["pixels"]`` holds, uint8, (B, levels, 3, H, W).

        ``draws["digests"]`` holds the SHA-256 of the files that they were read from.
        """
        return unit_range(draws["pixels"][:, self.levels.index(int(strength))])
