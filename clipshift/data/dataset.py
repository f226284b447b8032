"""From photos to batches: clean views, and the random draws of every augmentation."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from clipshift.augment import Augmentation, draw
from clipshift.augment.keyed import Draws
from clipshift.data.cache import Cache
from clipshift.data.photos import Photo, UnreadablePhotoError, decode

VIEW_SIZE = 224
"""Side of every view in pixels, whatever the model's own input (protocol)."""


GONE = "the file is gone since the run began"
"""Why a photo is skipped that was there when the photos were listed."""


@dataclass
class View:
    """A photo's clean view and what was drawn for its augmented ones.

    Attributes:
        index: The photo's place in the list of photos.
        pixels: The clean view in [0, 1], float32, shape (3, 224, 224).
        draws: Parameters by augmentation.
        digest: SHA-256 of the encoded photo.
    """

    index: int
    pixels: Tensor
    draws: dict[str, Draws]
    digest: bytes


@dataclass
class Skipped:
    """A photo that could not be read, or what was left out of the source, and why."""

    index: int
    reason: str


@dataclass
class Batch:
    """What the loader yields: B photos that could be read, and those that could not.

    Attributes:
        index: Places of the photos in the list, int64, shape (B,).
        clean: Clean views in [0, 1], float32, shape (B, 3, 224, 224).
        draws: Parameters by augmentation, each tensor with a first dimension B.
        digests: SHA-256 of each encoded photo.
        skipped: The photos that could not be read.
    """

    index: Tensor
    clean: Tensor
    draws: dict[str, Draws]
    digests: list[bytes]
    skipped: list[Skipped]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        draws = {
            name: {key: value.to(device, non_blocking=True) for key, value in drawn.items()}
            for name, drawn in self.draws.items()
        }
        clean = self.clean.to(device, non_blocking=True)
        return Batch(self.index, clean, draws, self.digests, self.skipped)


def pixels_of(image: Image.Image, resize: str) -> Tensor:
    """Bring an image to the view size, 8 bits a channel: see `clean_view`."""
    box = None
    if resize == "crop":
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
    view = image.resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def clean_view(image: Image.Image, resize: str) -> Tensor:
    """Bring an image to the view size (bilinear with antialiasing).

    Args:
        image: An RGB image.
        resize: ``squash`` ignores the aspect ratio; ``crop`` brings the shortest side to the view
            size and keeps the centre.

    Returns:
        float32 in [0, 1], shape (3, 224, 224).
    """
    return pixels_of(image, resize).float() / 255


class ViewDataset(Dataset[View | Skipped]):
    """Clean views of photos, with the draws of every augmentation.

    Args:
        photos: The photos.
        augmentations: Augmentations by name.
        seed: The run's seed.
        resize: ``squash`` or ``crop``, see `clean_view`.
        cache: Where decoded and resized photos are kept.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        augmentations: Mapping[str, Augmentation],
        seed: int,
        resize: str,
        cache: Cache | None = None,
    ) -> None:
        self.photos = photos
        self.augmentations = augmentations
        self.seed = seed
        self.resize = resize
        self.cache = cache

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> View | Skipped:
        photo = self.photos[index]
        if photo.left_out is not None:
            return Skipped(index, photo.left_out)
        try:
            encoded = photo.read()
            digest = hashlib.sha256(encoded).digest()
            pixels = self._pixels(encoded, digest)
        except (FileNotFoundError, NotADirectoryError):
            return Skipped(index, GONE)
        except OSError as error:
            return Skipped(index, error.strerror or str(error))
        except UnreadablePhotoError as error:
            return Skipped(index, str(error))
        draws = {
            name: draw(augmentation, self.seed, photo.id, name, VIEW_SIZE)
            for name, augmentation in self.augmentations.items()
        }
        return View(index, pixels.float() / 255, draws, digest)

    def _pixels(self, encoded: bytes, digest: bytes) -> Tensor:
        if self.cache is None:
            return pixels_of(decode(encoded), self.resize)
        key = f"view {self.resize} {digest.hex()}"
        if (stored := self.cache.get(key)) is not None:
            return stored["pixels"]
        pixels = pixels_of(decode(encoded), self.resize)
        self.cache.set(key, {"pixels": pixels})
        return pixels


def collate(items: list[View | Skipped]) -> Batch:
    """Stack what `ViewDataset` yields into a `Batch`."""
    views = [item for item in items if isinstance(item, View)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    if not views:
        nothing = torch.empty(0, 3, VIEW_SIZE, VIEW_SIZE)
        return Batch(torch.empty(0, dtype=torch.long), nothing, {}, [], skipped)
    return Batch(
        index=torch.tensor([view.index for view in views]),
        clean=torch.stack([view.pixels for view in views]),
        draws=default_collate([view.draws for view in views]),
        digests=[view.digest for view in views],
        skipped=skipped,
    )


class UnrepeatedSampler(Sampler[int]):
    """Every ``world_size``-th photo, so that the ranks share the photos and none is seen twice.

    torch's `DistributedSampler` repeats photos until every rank has as many, and so counts some
    twice.

    Args:
        count: Number of photos.
        rank: This process's number.
        world_size: Number of processes.
    """

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        self.indices = range(rank, count, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class ViewData(LightningDataModule):
    """Batches of views, each rank its share of the photos.

    Args:
        dataset: The views.
        batch_size: Photos a batch.
        num_workers: Processes that read, decode and draw; 0 does it in this one.
    """

    def __init__(self, dataset: ViewDataset, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers

    def test_dataloader(self) -> DataLoader[View | Skipped]:
        """All photos once, over all ranks."""
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=UnrepeatedSampler(len(self.dataset), rank, world_size),
            num_workers=self.num_workers,
            collate_fn=collate,
        )
