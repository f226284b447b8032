"""Training data: photos with one augmented view each, in an order that the seed decides."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from clipshift.augment.keyed import Augmentation, augment, keyed_generator
from clipshift.augment.variants import make_variants, strengths_of
from clipshift.data.dataset import Resize, Skipped, ViewDataset
from clipshift.data.photos import Photo
from clipshift.errors import UserError

log = logging.getLogger(__name__)


class RobustViews(Dataset[tuple[Tensor, Tensor, int]]):
    """Photos with one augmented view each: another augmentation and severity every epoch.

    Without augmentations the view is the clean one: for a control.

    An item is a clean view and an augmented one, float32 in [0, 1], (3, H, W), and the photo's
    index. The next photo takes the place of one that cannot be read.

    Args:
        photos: The photos.
        augmentations: Augmentations by name.
        ladders: Strengths of severity 1 to 5, by augmentation.
        severities: Severities to draw from.
        seed: Decides, with epoch and photo id, what is drawn.
        resize: How photos become views, see `ViewDataset`.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        augmentations: Mapping[str, Augmentation],
        ladders: Mapping[str, Sequence[float]],
        severities: Sequence[str],
        seed: int,
        resize: Resize,
    ) -> None:
        self.photos = ViewDataset(photos, {}, seed, resize)
        self.variants = list(make_variants(augmentations, ladders, severities, {}).values())
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, start = position
        for index in (*range(start, len(self)), *range(start)):
            photo, chosen = self.photos.photos[index], self.variants
            key = f"epoch {epoch} of {photo.id}"
            if chosen:
                choice = keyed_generator(self.seed, key, "choice").integers(len(chosen))
                chosen = [chosen[int(choice)]]
            dataset = replace(
                self.photos,
                photos=[replace(photo, id=key)],
                augmentations={variant.name: variant.augmentation for variant in chosen},
                strengths=strengths_of(chosen),
            )
            item = dataset[0]
            if not isinstance(item, Skipped):
                break
            log.warning("%s cannot be read: %s", photo.id, item.reason)
        else:
            raise UserError("none of the photos can be read")
        clean = view = item.clean[None]
        for variant in chosen:
            draws = default_collate([item.draws[variant.name]])
            view = augment(variant.augmentation, clean, draws, variant.strength)
        return clean[0], view[0], index


class Shuffled(Sampler[Any]):
    """Every row once, in an order that depends on the seed and the epoch alone.

    Args:
        length: How many rows there are.
        seed: Decides the order.
        epoch: The first epoch; Lightning asks for its rows before it calls `set_epoch`.
        start: How many rows of the first epoch are left out, as they were seen before a stop.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0, start: int = 0) -> None:
        self.length, self.seed, self.epoch, self.start = length, seed, epoch, start

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before every epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        order = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
        return iter(order.permutation(self.length)[self.start :].tolist())


class EpochSampler(Shuffled):
    """This device's share of every epoch's photos, as (epoch, index).

    Devices take photos in turn, so that their batches together are those of a single device.

    Args:
        length: How many photos there are.
        seed, epoch, start: See `Shuffled`; ``start`` counts the photos of all devices.
    """

    def __len__(self) -> int:
        return self.length // _devices()[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, devices = _devices()
        order = list(super().__iter__())
        shared = order[: len(order) - self.length % devices]
        return ((self.epoch, index) for index in shared[rank::devices])


def _devices() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
