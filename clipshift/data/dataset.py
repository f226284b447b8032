"""From photos to batches of clean views, with the random draws of every augmentation."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import pil_to_tensor

from clipshift.augment.chain import Chain, edited_key
from clipshift.augment.keyed import VIEW_SIZE, Augmentation, Draws, augment, draw, unit_range
from clipshift.augment.stored import Stored
from clipshift.augment.variants import Variant
from clipshift.data.cache import Cache
from clipshift.data.photos import Photo, UnreadablePhotoError, decode
from clipshift.errors import UserError, one_line
from clipshift.severities import draw_name

GONE = "the file is gone since the run began"
"""Why a photo is skipped whose file existed when the photos were listed."""


@dataclass
class View:
    """A photo's clean view and the draws for its augmented views.

    Attributes:
        index: The photo's index in the list of photos.
        pixels: The clean view, uint8, shape (3, S, S).
        draws: Parameters by augmentation, of further draws by `draw_name`.
        digest: SHA-256 of the encoded photo.
    """

    index: int
    pixels: Tensor
    draws: dict[str, Draws]
    digest: bytes

    @property
    def clean(self) -> Tensor:
        """The clean view in [0, 1], float32, shape (3, S, S)."""
        return unit_range(self.pixels)


@dataclass
class Skipped:
    """An entry of the list of photos that was left out or could not be read, and why."""

    index: int
    reason: str


@dataclass
class Batch:
    """A batch of the data loader: B photos that could be read, and those that could not.

    A worker sends it to the main process as bytes through a pipe: torch would put each tensor into
    shared memory, which is scarce in containers, and keep a file open for it.

    Attributes:
        index: Indices of the photos in the list, int64, shape (B,).
        pixels: Clean views, uint8, shape (B, 3, S, S).
        draws: Parameters by augmentation, each tensor with a first dimension B.
        digests: SHA-256 of each encoded photo.
        skipped: The photos that could not be read.
    """

    index: Tensor
    pixels: Tensor
    draws: dict[str, Draws]
    digests: list[bytes]
    skipped: list[Skipped]

    @property
    def clean(self) -> Tensor:
        """The clean views in [0, 1], float32, shape (B, 3, S, S)."""
        return unit_range(self.pixels)

    def under(self, variants: Mapping[str, Variant]) -> dict[str, Tensor]:
        """The views under some variants, by view name, as `clean`."""
        clean = self.clean
        return {
            name: augment(v.augmentation, clean, self.draws[v.name], v.strength)
            for name, v in variants.items()
        }

    def to(self, device: torch.device) -> "Batch":
        """The batch with its pixels and draws on a device."""
        inputs = {"pixels": self.pixels, "draws": self.draws}
        moved = apply_to_collection(inputs, Tensor, Tensor.to, device, non_blocking=True)
        return replace(self, **moved)

    def __getstate__(self) -> dict[str, Any]:
        tensors = {"index": self.index, "pixels": self.pixels, "draws": self.draws}
        return vars(self) | apply_to_collection(tensors, Tensor, Tensor.numpy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: state[name] for name in ("index", "pixels", "draws")}
        vars(self).update(state | apply_to_collection(arrays, np.ndarray, torch.from_numpy))


NATIVE = "native"
"""The value of ``data.resize`` that stands for the model's preprocessing."""
Resize = str | Mapping[str, Any]
"""How photos become views: ``squash``, ``crop``, or the `native_resize` of a model."""


def native_resize(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a model's preprocessing that defines its native views.

    Args:
        preprocessing: open_clip's ``preprocess_cfg`` of the model.

    Raises:
        UserError: If the views would not be square, or it does not say how photos are resized.
    """
    size = preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"the model's input is {height} × {width} pixels, and views must be square: set squash "
            "or crop",
            "resize",
        )
    if "resize_mode" not in preprocessing:
        raise UserError(
            "the model's own views of photos cannot be made square, or are not known: set squash "
            "or crop",
            "resize",
        )
    kept = ("interpolation", "resize_mode", "fill_color", "resize_size", "backend")
    return {"size": height} | {name: preprocessing[name] for name in kept if name in preprocessing}


def view_size(resize: Resize) -> int:
    """Side of the views, in pixels."""
    return VIEW_SIZE if isinstance(resize, str) else resize["size"]


def pixels_of(image: Image.Image, resize: Resize) -> Tensor:
    """Resize an image to the view size with 8 bits per channel, as `clean_view` describes."""
    if not isinstance(resize, str):
        if "backend" in resize:
            return _transformers_pixels(image, **resize)
        view = _native_transform(**resize)(image)
        return torch.from_numpy(np.array(view)).permute(2, 0, 1)
    box = None
    if resize == "crop":
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
    view = image.resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def _transformers_pixels(
    image: Image.Image,
    size: int,
    interpolation: str,
    resize_mode: str,
    resize_size: int,
    backend: str,
) -> Tensor:
    """What an image processor of transformers resizes and crops, uint8, shape (3, S, S).

    Its backend resizes the image (``pil``), or in a tensor pixels of 8 bits (``torchvision``) or
    floats (``float``), which are then rounded. Half a pixel before a centred crop is cut off.
    """
    view: Any = image if backend == "pil" else pil_to_tensor(image)
    if backend == "float":
        view = view.float()
    sides = [image.height, image.width]
    sides = [int(resize_size * side / min(sides)) for side in sides]
    if resize_mode == "squash":
        sides = [resize_size, resize_size]
    view = functional.resize(view, sides, InterpolationMode(interpolation), antialias=True)
    top, left = ((side - size) // 2 for side in sides)
    view = functional.crop(view, top, left, size, size)
    return view.round().clamp(0, 255).byte() if isinstance(view, Tensor) else pil_to_tensor(view)


@lru_cache(maxsize=2)
def _native_transform(size: int, resize_size: int | None = None, **resize: Any) -> Compose:
    """open_clip's transform without the steps that an encoder does: scaling and normalisation.

    With ``resize_size``, photos are resized to that, and their centre of ``size`` is cropped.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=resize_size or size, **resize)
    steps = image_transform_v2(config, is_train=False).transforms
    others = [step for step in steps if not isinstance(step, ToTensor | Normalize | CenterCrop)]
    return Compose([*others, CenterCrop(size)])


def as_picture(pixels: Tensor) -> Image.Image:
    """Pixels in [0, 1], shape (3, H, W), as a picture of 8 bits."""
    return Image.fromarray((255 * pixels).round().to(torch.uint8).permute(1, 2, 0).numpy())


def clean_view(image: Image.Image, resize: Resize) -> Tensor:
    """Resize an image to the view size.

    Args:
        image: An RGB image.
        resize: ``squash`` ignores the aspect ratio; ``crop`` resizes the shortest side to the view
            size and keeps the centre; both bilinearly, with antialiasing. A `native_resize` is
            open_clip's transform of a model: its size, interpolation and crop.

    Returns:
        float32 in [0, 1], shape (3, S, S), where S is 224 or the model's input size.
    """
    return unit_range(pixels_of(image, resize))


def resizing(size: tuple[int, int], resize: Resize) -> np.ndarray:
    """The map of positions in an image to those in its view, float64, shape (3, 3).

    Positions are those of pixels: (0, 0) is the centre of the view's first pixel, and the top left
    corner of the image.

    Args:
        size: Width and height of the image, in pixels.
        resize: See `clean_view`.
    """
    sides, mode, resized = np.array(size), resize, VIEW_SIZE
    if not isinstance(resize, str):
        mode, resized = resize["resize_mode"], resize.get("resize_size") or resize["size"]
    scale = resized / {"squash": sides, "longest": sides.max()}.get(str(mode), sides.min())
    moves = np.diag([*np.broadcast_to(scale, 2), 1.0])
    moves[:2, 2] = (view_size(resize) - scale * sides - 1) / 2
    return moves


def draw_view(
    augmentation: Augmentation,
    key: tuple[int, str, str],
    resize: Resize,
    image: Callable[[], Image.Image],
    strengths: Sequence[float] = (1.0,),
) -> Draws:
    """Draw the parameters of a view; where the file is edited, they hold the finished views.

    Args:
        augmentation: The augmentation.
        key: The run's seed, the photo's id and the augmentation's name.
        resize: See `clean_view`.
        image: Decodes the photo.
        strengths: Those at which views of the edited file are needed.

    Raises:
        UnreadablePhotoError: If the photo cannot be decoded, or cannot be edited.
    """
    draws = draw(augmentation, *key, view_size(resize))
    if not (isinstance(augmentation, Chain) and augmentation.edits):
        return draws
    photo, edited = image(), {}
    shown = np.linalg.inv(resizing(photo.size, resize))
    for strength in strengths:
        try:
            picture, moves = augmentation.edit(photo, draws, strength)
        except (OSError, ValueError) as error:  # as of what a format cannot hold
            raise UnreadablePhotoError(f"{key[2]} fails on it: {one_line(str(error))}") from None
        edited[edited_key("pixels", strength)] = pixels_of(picture, resize)
        moves = resizing(picture.size, resize) @ moves @ shown
        edited[edited_key("moves", strength)] = torch.from_numpy(moves).float()
    return draws | edited


@dataclass(eq=False, repr=False)
class ViewDataset(Dataset[View | Skipped]):
    """Clean views of photos, with the draws of every augmentation.

    Args:
        photos: The photos.
        augmentations: Augmentations by name.
        seed: The run's seed.
        resize: See `clean_view`.
        cache: Cache of decoded and resized photos.
        strengths: Strengths of the views, by augmentation: 1 of those that are not listed. They
            matter for those that act on the file.
        draws: How often each augmentation is drawn for a photo.
        edit: What happens to a photo, (its id, its pixels), before all else.
    """

    photos: Sequence[Photo]
    augmentations: Mapping[str, Augmentation]
    seed: int
    resize: Resize
    cache: Cache | None = None
    strengths: Mapping[str, Sequence[float]] = field(default_factory=dict)
    draws: int = 1
    edit: Callable[[str, Image.Image], Image.Image] | None = None

    @property
    def size(self) -> int:
        """Side of the views, in pixels."""
        return view_size(self.resize)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> View | Skipped:
        photo = self.photos[index]
        if photo.left_out is not None:
            return Skipped(index, photo.left_out)
        try:
            encoded = photo.read()
            digest = hashlib.sha256(encoded).digest()
            image = cache(partial(self._decoded, photo.id, encoded))
            pixels = self._pixels(image, digest)
            draws = {
                draw_name(name, number): self._draw(photo, name, number, image)
                for number in range(1, self.draws + 1)
                for name in self.augmentations
            }
        except (FileNotFoundError, NotADirectoryError):
            return Skipped(index, GONE)
        except OSError as error:
            return Skipped(index, error.strerror or str(error))
        except UnreadablePhotoError as error:
            return Skipped(index, str(error))
        return View(index, pixels, draws, digest)

    def _decoded(self, name: str, encoded: bytes) -> Image.Image:
        image = decode(encoded)
        return self.edit(name, image) if self.edit else image

    def _draw(
        self, photo: Photo, name: str, number: int, image: Callable[[], Image.Image]
    ) -> Draws:
        augmentation = self.augmentations[name]
        if not isinstance(augmentation, Stored):
            strengths = self.strengths.get(name, [1.0])
            key = self.seed, photo.id, draw_name(name, number)
            return draw_view(augmentation, key, self.resize, image, strengths)
        views, digests = [], []
        for level, file in zip(augmentation.levels, augmentation.files(photo.id), strict=True):
            try:
                encoded = Photo(photo.id, file).read()
                views.append(pixels_of(decode(encoded), self.resize))
                digests.append(np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8))
            except (OSError, UnreadablePhotoError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UnreadablePhotoError(f"its {name} at severity {level}: {reason}") from None
        return {"pixels": torch.stack(views), "digests": torch.from_numpy(np.stack(digests))}

    def _pixels(self, image: Callable[[], Image.Image], digest: bytes) -> Tensor:
        if self.cache is None:
            return pixels_of(image(), self.resize)
        key = f"view {self.resize} {digest.hex()}"
        stored = (self.cache.get(key) or {}).get("pixels")
        shape = (3, self.size, self.size)
        if stored is not None and stored.dtype == torch.uint8 and stored.shape == shape:
            return stored
        pixels = pixels_of(image(), self.resize)
        self.cache.set(key, {"pixels": pixels})
        return pixels


def collate(items: list[View | Skipped]) -> Batch:
    """Stack what `ViewDataset` yields into a `Batch`."""
    views = [item for item in items if isinstance(item, View)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    if not views:
        no_pixels = torch.empty(0, 3, VIEW_SIZE, VIEW_SIZE, dtype=torch.uint8)
        return Batch(torch.empty(0, dtype=torch.long), no_pixels, {}, [], skipped)
    return Batch(
        index=torch.tensor([view.index for view in views]),
        pixels=torch.stack([view.pixels for view in views]),
        draws={  # not torch's default_collate, which stacks into shared memory
            name: {key: torch.stack([view.draws[name][key] for view in views]) for key in draws}
            for name, draws in views[0].draws.items()
        },
        digests=[view.digest for view in views],
        skipped=skipped,
    )
