"""Photos that a Python caller has: files, images, arrays, tensors, a data set."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clipshift.data.huggingface import rows_of
from clipshift.data.photos import Photo, UnreadablePhotoError, as_rgb, photo_id
from clipshift.data.sources import folder, sample
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError


@dataclass(frozen=True)
class HeldPhoto(Photo):
    """A photo that a Python caller holds, and no file.

    Args:
        get: Gives it, as `as_image` takes it.
    """

    file: Path = Path()
    get: Callable[[], Any] = field(kw_only=True)

    def read(self) -> bytes:
        """The image as a PPM file, which loses nothing."""
        encoded = io.BytesIO()
        as_rgb(as_image(self.get())).save(encoded, "PPM")
        return encoded.getvalue()

    def excerpt(self) -> tuple[int, bytes]:
        """The length and the SHA-256 of the image: there is no part of it to be read alone."""
        encoded = self.read()
        return len(encoded), hashlib.sha256(encoded).digest()


@dataclass(frozen=True)
class Item:
    """How to get an item of a list or data set; worker processes can be told so."""

    items: Any
    index: int

    def __call__(self) -> Any:
        item = self.items[self.index]
        return item[0] if isinstance(item, tuple | list) else item


def as_image(picture: Any) -> Image.Image:
    """A picture as Pillow has it.

    Args:
        picture: A Pillow image; pixels as an array (H, W, 3) or (H, W) of uint8; or a tensor
            (3, H, W) of uint8, or of floats in [0, 1], which are rounded to 8 bits.

    Raises:
        UnreadablePhotoError: If it is none of these.
    """
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise UnreadablePhotoError(
                f"a tensor has shape {tuple(picture.shape)}: (3, H, W) is needed"
            )
        if picture.is_floating_point():
            low, high = (bound.item() for bound in picture.detach().aminmax())
            if not (low >= 0 and high <= 1):
                raise UnreadablePhotoError(
                    f"a tensor reaches from {low:.4g} to {high:.4g}: it must be in [0, 1], and not "
                    "yet normalised by a mean and std"
                )
            picture = (picture.detach() * 255).round().byte()
        picture = picture.permute(1, 2, 0).cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise UnreadablePhotoError(
            "photos are Pillow images, arrays or tensors, paths, or a folder, not "
            f"{type(picture).__name__}"
        )
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or picture.shape[2:] not in ((), (3,))
    ):
        raise UnreadablePhotoError(
            f"an array of {picture.dtype} has shape {picture.shape}: uint8 and (H, W, 3) are needed"
        )
    return Image.fromarray(picture)


def photos_of(source: Any, labels: Sequence[str | None] | None = None) -> list[Photo]:
    """The photos that a Python caller has.

    Photos that are files, or Pillow images opened from files, are named by their paths below the
    folder that they have in common, so that they are the same as those of that folder; all others
    by their position.

    Args:
        source: None for the photographs that come with scikit-image; a folder; a list of paths,
            Pillow images, arrays or tensors (see `as_image`); one array (N, H, W, 3) or tensor
            (N, 3, H, W); a ``datasets.Dataset`` of Hugging Face; or a data set with a length, whose
            items are such images, or tuples that begin with one.
        labels: The class of each photo of a list or data set. By default that of its sub-folder,
            or what the data set says by ``targets`` and ``classes``, as torchvision's do.

    Raises:
        UserError: If there are no photos, one is there twice, or what is given is none of these.
    """
    rows = type(source).__module__.partition(".")[0] == "datasets"
    if source is None or isinstance(source, str | os.PathLike) or rows:
        if labels is not None:
            raise UserError("labels are for a list of photos: folders and data sets have their own")
        if rows:
            return rows_of(source)
        return sample() if source is None else folder(os.fspath(source))
    try:
        count = len(source)
    except TypeError:
        raise UserError(f"{type(source).__name__} is no list of photos: it has no length") from None
    if not count:
        raise UserError("the list of photos is empty")
    if labels is not None and len(labels) != count:
        raise UserError(f"{len(labels)} labels for {count} photos: give one for each")
    files = [_file(item) for item in source] if isinstance(source, list | tuple) else [None]
    named = all(files)
    names = _below_common_folder(files) if named else [str(index) for index in range(count)]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{repeated[0]} is {names.count(repeated[0])} times among the photos")
    if labels is None:
        folders = [PurePosixPath(name).parent.name for name in names]
        labels = [class_name(name) if name else None for name in folders]
        if not named:
            labels = _targets(source) or labels
    return [
        Photo(name, Path(item), label=label)
        if isinstance(item, str | os.PathLike)
        else HeldPhoto(name, label=label, get=Item(source, index))
        for index, (name, label, item) in enumerate(
            zip(names, labels, source if named else repeat(None), strict=False)
        )
    ]


def _file(item: Any) -> str | None:
    """The file that an item is, or was opened from."""
    if isinstance(item, str | os.PathLike):
        return os.path.abspath(item)
    return os.path.abspath(name) if (name := getattr(item, "filename", None)) else None


def _below_common_folder(files: Sequence[str | None]) -> list[str]:
    paths = [Path(str(file)) for file in files]
    common = os.path.commonpath([path.parent for path in paths])
    return [photo_id(path.relative_to(common).as_posix()) for path in paths]


def _targets(source: Any) -> list[str | None] | None:
    """The classes of a torchvision data set's photos; None where it does not tell."""
    targets, classes = (getattr(source, name, None) for name in ("targets", "classes"))
    if targets is None or classes is None or len(targets) != len(source):
        return None
    return [class_name(classes[int(target)]) for target in targets]
