"""Photos that are passed from Python: files, images, arrays, tensors, data sets."""

import glob
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipshift.data.huggingface import rows_of
from clipshift.data.listing import missing
from clipshift.data.photos import Photo, UnreadablePhotoError, WholePhoto, as_rgb, photo_id
from clipshift.data.sources import folder, sample
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError


@dataclass(frozen=True)
class MemoryPhoto(WholePhoto):
    """A photo in memory, without a file.

    Args:
        get: Returns the photo in a form that `as_image` accepts.
    """

    file: Path = Path()
    get: Callable[[], Any] = field(kw_only=True)

    def read(self) -> bytes:
        """The image as a PPM file, which is lossless."""
        encoded = io.BytesIO()
        as_rgb(as_image(self.get())).save(encoded, "PPM")
        return encoded.getvalue()


@dataclass(frozen=True)
class Item:
    """Returns the image of an item of a list or data set; can be pickled for worker processes."""

    items: Any
    index: int

    def __call__(self) -> Any:
        item = self.items[self.index]
        return item[0] if isinstance(item, tuple | list) else item


def as_image(picture: Any) -> Image.Image:
    """Convert a picture to a Pillow image.

    Args:
        picture: A Pillow image; pixels as an array, (H, W, 3) or (H, W), or as a tensor, (3, H, W):
            uint8, or floats in [0, 1], which are rounded to 8 bits.

    Raises:
        UnreadablePhotoError: If it is none of these.
    """
    if isinstance(picture, Image.Image):
        return picture
    kind = "a tensor" if isinstance(picture, Tensor) else "an array"
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise UnreadablePhotoError(
                f"a tensor has shape {tuple(picture.shape)}: it must be (3, H, W)"
            )
        picture = picture.detach().permute(1, 2, 0).cpu()
    elif isinstance(picture, np.ndarray) and picture.dtype.kind == "f":
        picture = torch.tensor(picture)
    if isinstance(picture, Tensor):
        if picture.is_floating_point() and picture.numel():
            low, high = (bound.item() for bound in picture.aminmax())
            if not (low >= 0 and high <= 1):
                raise UnreadablePhotoError(
                    f"{kind} has values from {low:.4g} to {high:.4g}: they must be in [0, 1], "
                    "not normalised by a mean and std"
                )
            picture = (picture * 255).round().byte()
        picture = picture.numpy()
    if not isinstance(picture, np.ndarray):
        raise UnreadablePhotoError(
            "photos are Pillow images, arrays or tensors, paths, or a folder, not "
            f"{type(picture).__name__}"
        )
    is_grey_or_rgb = picture.ndim in (2, 3) and picture.shape[2:] in ((), (3,))
    if picture.dtype != np.uint8 or not is_grey_or_rgb:
        raise UnreadablePhotoError(
            f"{kind} of {picture.dtype} has shape {picture.shape}: it must be (H, W, 3), of uint8 "
            "or floats in [0, 1]"
        )
    return Image.fromarray(picture)


def photos_of(source: Any, labels: Sequence[str | None] | None = None) -> list[Photo]:
    """Turn photos that are passed from Python into a list of `Photo`.

    The ids of files, and of Pillow images opened from files, are their paths below the folder that
    they have in common, so that they equal those of that folder's photos. The ids of all others are
    their positions.

    Args:
        source: None for the photographs that come with scikit-image; a folder; a pattern of paths,
            as ``photos/*.jpg``; a list of paths, Pillow images, arrays or tensors, or one of them
            (see `as_image`); one array (N, H, W, 3) or tensor (N, 3, H, W); a ``datasets.Dataset``
            of Hugging Face; or a data set with a length, whose items are such images, or tuples
            that begin with one.
        labels: The class of each photo of a list or data set. By default the name of its
            sub-folder, or what the ``targets`` and ``classes`` of the data set define, as those of
            torchvision do.

    Raises:
        UserError: If there are no photos, a photo is listed twice, or the source is none of these.
    """
    source = _as_list(source)
    is_hf_dataset = type(source).__module__.partition(".")[0] == "datasets"
    if source is None or isinstance(source, str | os.PathLike) or is_hf_dataset:
        if labels is not None:
            raise UserError(
                "labels are only for lists of photos: folders and data sets have labels already"
            )
        if is_hf_dataset:
            return rows_of(source)
        return sample() if source is None else folder(os.fspath(source))
    try:
        count = len(source)
    except TypeError:
        raise UserError(
            f"{type(source).__name__} is not a list of photos: it has no length; pass a list"
        ) from None
    if not count:
        raise UserError("the list of photos is empty")
    if labels is not None:
        if len(labels) != count:
            raise UserError(f"{len(labels)} labels for {count} photos: pass one label per photo")
        labels = [None if label is None else str(label) for label in labels]
    files = [_file(item) for item in source] if isinstance(source, list | tuple) else [None]
    all_files = all(files)
    items = source if all_files else [None] * count
    names = [str(index) for index in range(count)]
    if all_files:
        paths = [Path(str(file)) for file in files]
        common = os.path.commonpath([path.parent for path in paths])
        names = [photo_id(path.relative_to(common).as_posix()) for path in paths]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name} is listed {times} times: list each photo once")
    if labels is None:
        folders = [PurePosixPath(name).parent.name for name in names]
        labels = [class_name(name) if name else None for name in folders]
        if not all_files:
            labels = _targets(source) or labels
    return [
        Photo(name, Path(item), label=label)
        if isinstance(item, str | os.PathLike)
        else MemoryPhoto(name, label=label, get=Item(source, index))
        for index, (name, label, item) in enumerate(zip(names, labels, items, strict=True))
    ]


def files_again(root: Any, ids: Iterable[str]) -> list[Photo]:
    """The files of an earlier `photos_of`, of which those that are missing are left out.

    Args:
        root: The folder that they have in common; None if they were not files.
        ids: Their ids.

    Raises:
        UserError: If they were not files.
    """
    if root is None:
        raise UserError(
            "they were passed in memory: pass them again, load_run(FOLDER, photos=…), or measure "
            "with save_views=N, which keeps the views of the first N"
        )
    files = {name: Path(root, name) for name in ids}
    return [Photo(name, file, left_out=missing(file)) for name, file in files.items()]


def _as_list(source: Any) -> Any:
    """The files that a pattern matches, and one image, as lists; anything else unchanged."""
    if isinstance(source, str | os.PathLike):
        path = os.path.expanduser(source)
        if os.path.exists(path) or not glob.has_magic(path):
            return source
        files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not files:
            raise UserError(f"no file matches {source}")
        return files
    last = source.shape[-1:] if isinstance(source, np.ndarray) else (3,)
    is_one = isinstance(source, np.ndarray | Tensor) and source.ndim == 3 and last == (3,)
    return [source] if is_one or isinstance(source, Image.Image) else source


def _file(item: Any) -> str | None:
    """The path that an item is, or the file that it was opened from."""
    if isinstance(item, str | os.PathLike):
        return os.path.abspath(item)
    return os.path.abspath(name) if (name := getattr(item, "filename", None)) else None


def _targets(source: Any) -> list[str | None] | None:
    """The classes of a torchvision data set's photos; None where it does not define them."""
    targets, classes = (getattr(source, name, None) for name in ("targets", "classes"))
    if targets is None or classes is None or len(targets) != len(source):
        return None
    return [class_name(classes[int(target)]) for target in targets]
