"""A photo: where its bytes lie, what it shows, and how the bytes become pixels."""

import hashlib
import io
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipshift.errors import UserError


class UnreadablePhotoError(Exception):
    """A photo's bytes cannot be turned into pixels; the message says why."""


@dataclass(frozen=True)
class Photo:
    """One input image: a range of bytes in a file, with its id and what is known of it.

    Args:
        id: Path relative to the data root, or ``SHARD/KEY`` in a shard, as `photo_id` spells it.
            Names the photo in every table and keys its random numbers.
        file: The file that holds the encoded image.
        offset: Where in the file it begins, in bytes.
        size: How many bytes it has; ``None`` means to the end of the file.
        label: The class it shows.
        captions: Sentences that describe it.
    """

    id: str
    file: Path
    offset: int = 0
    size: int | None = None
    label: str | None = None
    captions: tuple[str, ...] = ()

    def read(self) -> bytes:
        """The encoded image."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read() if self.size is None else stream.read(self.size)

    def length(self) -> int:
        """How many bytes the encoded image has; unlike `read`, this does not open the file."""
        return self.file.stat().st_size - self.offset if self.size is None else self.size


def photo_id(path: str) -> str:
    """The id of a photo, the same for every spelling of its path.

    Args:
        path: Relative, with slashes.

    Returns:
        The path without ``.``, ``..`` and doubled slashes, in Unicode's composed form (NFC): some
        file systems give names back decomposed.

    >>> photo_id("./cats//x/../cafe\N{COMBINING ACUTE ACCENT}.jpg")
    'cats/café.jpg'
    """
    return unicodedata.normalize("NFC", posixpath.normpath(path))


def check_ids(photos: Sequence[Photo]) -> None:
    """Make sure that every photo has an id of its own.

    Raises:
        UserError: If two have the same.
    """
    first: dict[str, Photo] = {}
    for photo in photos:
        other = first.setdefault(photo.id, photo)
        if other is not photo:
            raise UserError(
                f"two photos have the id {photo.id}, in {other.file} and in {photo.file}: rename "
                "or remove one of them"
            )


def keyed_order(photos: Sequence[Photo], key: str) -> list[int]:
    """The indices of photos in a random order that depends on a key and on their ids alone.

    It is that of BLAKE2b hashes of key and id, so that the first N are the same random photos
    whatever the order in which photos are listed.

    Args:
        photos: The photos.
        key: Another key gives an order that is independent of this one.
    """

    def position(index: int) -> bytes:
        return hashlib.blake2b(f"{key}\0{photos[index].id}".encode()).digest()

    return sorted(range(len(photos)), key=position)


def decode(encoded: bytes) -> Image.Image:
    """Turn an encoded image into 8-bit RGB pixels, upright as its EXIF orientation says.

    Args:
        encoded: A file in any format that Pillow reads.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadablePhotoError: If the bytes are not a whole image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            return as_rgb(image)
    except UnreadablePhotoError:
        raise
    except UnidentifiedImageError:
        raise UnreadablePhotoError("not an image") from None
    except Exception as error:  # Pillow's decoders raise all kinds on damaged files
        reason = str(error).partition("\n")[0]
        raise UnreadablePhotoError(reason or type(error).__name__) from None


def as_rgb(image: Image.Image) -> Image.Image:
    """Bring an image to 8-bit RGB pixels, upright as its EXIF orientation says.

    16-bit greyscale is scaled to 8 bits (Pillow alone would clip it), CMYK and palettes are
    converted, and transparency is dropped, as open_clip drops it.

    Args:
        image: An image in any mode of Pillow.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadablePhotoError: If its pixels are floating-point numbers.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.int64)
        return Image.fromarray((levels.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadablePhotoError(
            "floating-point pixels have no agreed range; save it as 8 or 16 bits"
        )
    return image.convert("RGB")
