"""The augmentations that ``conf/aug`` describes, and what is drawn for them."""

from functools import cache

import torch
from torch.utils.data import default_collate

from clipshift.augment.keyed import Augmentation, draw
from clipshift.cli.build import make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain

PAPER = (
    "noise", "blur", "color_jitter", "shift_scale_rotate", "flip", "elastic", "perspective",
    "brightness_contrast", "coarse_dropout",
)  # fmt: skip
"""The names of ``aug=paper``, for parametrized tests: nothing is composed to collect them."""
EXTENDED = (*PAPER, "jpeg", "pixelate", "motion_blur", "rotation", "grayscale")
"""The names of ``aug=extended``."""


@cache
def choice_of_aug(choice: str) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """Return the augmentations of ``aug=choice``, and their strengths at severities 1 to 5."""
    return make_augmentations(plain(compose_config("evaluate", [f"aug={choice}"]).aug))


def augmentation_named(name: str) -> Augmentation:
    """Return one of ``aug=extended``, the same object in every test."""
    return choice_of_aug("extended")[0][name]


def augmentations_named(*names: str) -> dict[str, Augmentation]:
    """Return some of ``aug=extended`` by their names."""
    return {name: augmentation_named(name) for name in names}


def ladders() -> dict[str, list[float]]:
    """Return the strengths at severities 1 to 5 of ``aug=extended``."""
    return choice_of_aug("extended")[1]


def draws_of(name: str, count: int, seed: int = 0, size: int = 224) -> dict[str, torch.Tensor]:
    """Return what an augmentation draws for ``count`` photos, as one batch."""
    augmentation = augmentation_named(name)
    return default_collate([draw(augmentation, seed, f"{i}.jpg", name, size) for i in range(count)])
