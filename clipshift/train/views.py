"""Training data: photos with augmented views, in an order that the seed decides."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from clipshift.augment.keyed import Augmentation, augment, keyed_generator
from clipshift.augment.transforms import KeyedTransform
from clipshift.augment.variants import make_variants
from clipshift.data.dataset import Resize, Skipped, ViewDataset, as_picture, clean_view, draw_view
from clipshift.data.photos import Photo
from clipshift.errors import UserError
from clipshift.severities import draw_name

STREAM_BITS = 40
"""Of a generator's 64-bit key, those for the turn; those above are for the source."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Photos to train on.

    Attributes:
        photos: The photos.
        resize: How they become views, see `ViewDataset`.
        vary: Augmentations that make more of them, by name, see `varied`.
        weight: Its share of what is trained on, relative to other sources.
    """

    photos: Sequence[Photo]
    resize: Resize
    vary: Mapping[str, Augmentation] = field(default_factory=dict)
    weight: float = 1.0


def varied(
    augmentations: Mapping[str, Augmentation],
    seed: int,
    resize: Resize,
    photo: str,
    image: Image.Image,
) -> Image.Image:
    """Another photo in the place of a photo, at the size of a view.

    Each augmentation is made of what the one before it has left, at a strength from U[0, 1], so
    that none of them is always seen; a transform, which has no strength, as it is. A teacher that
    sees what its student sees needs such variety: Beyer et al., "Knowledge distillation: a good
    teacher is patient and consistent", 2022, arXiv:2106.05237.

    Args:
        augmentations: By name, which keys their draws.
        seed: The training's seed.
        resize: How images become views.
        photo: The photo's id, and the epoch.
        image: The photo.
    """
    for name, augmentation in augmentations.items():
        key = f"varied by {name}"
        strength = keyed_generator(seed, photo, f"strength of {key}").random()
        if isinstance(augmentation, KeyedTransform):
            strength = augmentation.strongest
        draws = draw_view(augmentation, (seed, photo, key), resize, image.copy, [strength])
        clean = clean_view(image, resize)[None]
        [view] = augment(augmentation, clean, default_collate([draws]), strength)
        image = as_picture(view)
    return image


class RobustViews(Dataset[tuple[Tensor, Tensor, int]]):
    """Photos with augmented views: other augmentations and severities every time.

    Without augmentations the view is the clean one: for a control.

    An item is a clean view, float32 in [0, 1], (3, H, W), V augmented ones, (V, 3, H, W), and the
    photo's index. The next photo takes the place of one that cannot be read.

    Args:
        sources: The photos, whose indices go on from one source to the next.
        augmentations: Augmentations by name.
        ladders: Strengths of severity 1 to 5, by augmentation.
        severities: Severities to draw from.
        seed: Decides, with photo id and how often the photo was seen, what is drawn.
        count: How many augmented views a photo has, V.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        augmentations: Mapping[str, Augmentation],
        ladders: Mapping[str, Sequence[float]],
        severities: Sequence[str],
        seed: int,
        count: int = 1,
    ) -> None:
        self.sources, self.seed, self.count = sources, seed, count
        self.variants = list(make_variants(augmentations, ladders, severities, {}).values())
        views = [self._views(source) for source in sources]
        of_sources = zip(sources, views, strict=True)
        self.items = [(photo, of) for source, of in of_sources for photo in source.photos]

    def _views(self, source: Source) -> ViewDataset:
        edit = partial(varied, source.vary, self.seed, source.resize) if source.vary else None
        return ViewDataset([], {}, self.seed, source.resize, edit=edit)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        turn, start = position
        for index in chain(range(start, len(self)), range(start)):
            photo, views = self.items[index]
            key = f"epoch {turn} of {photo.id}"
            chosen = {}
            for number in range(1, self.count + 1) if self.variants else ():
                choice = keyed_generator(self.seed, key, draw_name("choice", number))
                variant = self.variants[int(choice.integers(len(self.variants)))]
                chosen[draw_name(variant.name, number)] = variant
            dataset = replace(
                views,
                photos=[replace(photo, id=key)],
                augmentations={name: variant.augmentation for name, variant in chosen.items()},
                strengths={name: [variant.strength] for name, variant in chosen.items()},
            )
            item = dataset[0]
            if not isinstance(item, Skipped):
                break
            log.warning("%s cannot be read: %s", photo.id, item.reason)
        else:
            raise UserError("none of the photos can be read")
        clean = item.clean[None]
        augmented = [
            augment(one.augmentation, clean, default_collate([item.draws[name]]), one.strength)
            for name, one in chosen.items()
        ]
        return clean[0], torch.cat(augmented or [clean]), index


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
        return iter(self._permutation(self.length, self.epoch)[self.start :].tolist())

    def _permutation(self, length: int, turn: int, stream: int = 0) -> np.ndarray:
        key = [self.seed, int(turn) + (stream << STREAM_BITS)]
        return np.random.Generator(np.random.Philox(key=key)).permutation(length)


class EpochSampler(Shuffled):
    """This device's share of every epoch's photos, as (turn, index).

    The turn counts how often a photo was seen before: all photos of a source have their turn, in an
    order that the seed decides, before one has its next. A source has the same number of photos in
    every epoch, in places that the seed decides. Devices take photos in turn, so that their batches
    together are those of a single device.

    Args:
        photos: How many photos each source has.
        length: How many photos an epoch has.
        seed, epoch, start: See `Shuffled`; ``start`` counts the photos of all devices.
        weights: The sources' shares of an epoch, in any unit; by default alike.
    """

    def __init__(
        self,
        photos: Sequence[int],
        length: int,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(length, seed, epoch, start)
        ends = np.cumsum(weights or [1.0] * len(photos))
        shares = np.diff(np.rint(length * ends / ends[-1]).astype(int), prepend=0)
        self.sources = list(zip(photos, shares.tolist(), strict=True))

    def __len__(self) -> int:
        return self.length // _devices()[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, devices = _devices()
        end = self.length - self.length % devices
        return iter(self._order()[self.start : end][rank::devices])

    def _order(self) -> list[tuple[int, int]]:
        of_sources, first = [], 0
        for source, (photos, share) in enumerate(self.sources):
            turns, places = np.divmod(self.epoch * share + np.arange(share), photos)
            orders = {turn: self._permutation(photos, turn, source) for turn in np.unique(turns)}
            seen = zip(turns.tolist(), places.tolist(), strict=True)
            of_sources.append(iter([(turn, first + int(orders[turn][at])) for turn, at in seen]))
            first += photos
        labels = np.repeat(np.arange(len(of_sources)), [share for _, share in self.sources])
        if len(of_sources) > 1:
            labels = labels[self._permutation(self.length, self.epoch, len(of_sources))]
        return [next(of_sources[source]) for source in labels]


def _devices() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
