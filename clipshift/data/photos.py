"""Photos: where their bytes are, what they show, and how to decode them."""

import errno
import hashlib
import io
import os
import posixpath
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipshift.errors import printable

EXCERPT = 64
"""Number of bytes from a photo's middle that are compared to find copies."""
POSTSCRIPT = "EPS"
"""Pillow's format that is a program, which Ghostscript would run: it is never opened."""


class UnreadablePhotoError(Exception):
    """A photo's bytes cannot be turned into pixels; the message says why."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One input image: a range of bytes in a file, with its id, label and captions.

    There may be a million photos, so each is small: 280 bytes with two texts of 50.

    Args:
        id: Path relative to the data root, or ``SHARD/KEY`` in a shard, in the spelling of
            `photo_id`. It names the photo in every table and keys its random numbers.
        file: The path of the file that holds the encoded image.
        offset: Start of the encoded image in the file, in bytes.
        size: Number of bytes; ``None`` means to the end of the file.
        label: The class that the photo shows.
        captions: Sentences that describe it.
        left_out: Why this file of the source is not measured; ``None`` for a photo.
    """

    id: str
    file: str | Path
    offset: int = 0
    size: int | None = None
    label: str | None = None
    captions: tuple[str, ...] = ()
    left_out: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", str(self.file))  # a Path is twice as large

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            OSError: If it cannot be read, is not a regular file (a pipe would never end), or its
                shard has become shorter.
        """
        with self._open() as stream:
            stream.seek(self.offset)
            encoded = stream.read() if self.size is None else stream.read(self.size)
        if self.size is not None and len(encoded) < self.size:
            raise OSError(errno.EIO, "its shard has become shorter", self.file)
        return encoded

    def excerpt(self) -> tuple[int, bytes] | None:
        """Length and some bytes from the middle, to tell most photos apart without reading them.

        Returns:
            Equal for copies, and rarely for other photos; None where it would require downloading
            the photo.

        Raises:
            OSError: See `read`.
        """
        with self._open() as stream:
            size = self.size
            if size is None:
                size = os.fstat(stream.fileno()).st_size - self.offset
            stream.seek(self.offset + size // 2)
            return size, stream.read(min(EXCERPT, size - size // 2))

    def _open(self) -> BinaryIO:
        if not stat.S_ISREG(os.stat(self.file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", self.file)
        return open(self.file, "rb")

    def digest(self) -> bytes | None:
        """SHA-256 of the encoded image; None if its file is missing."""
        return hashlib.sha256(self.read()).digest() if os.path.isfile(self.file) else None

    def length(self) -> int:
        """Number of bytes of the encoded image; unlike `read`, this does not open the file."""
        return os.stat(self.file).st_size - self.offset if self.size is None else self.size


@dataclass(frozen=True)
class WholePhoto(Photo):
    """A photo that is not a range of bytes in a file: it can only be read as a whole."""

    def length(self) -> int:
        """Number of bytes of the encoded image."""
        return len(self.read())

    def excerpt(self) -> tuple[int, bytes] | None:
        """The length and the SHA-256 of the encoded image."""
        encoded = self.read()
        return len(encoded), hashlib.sha256(encoded).digest()


def photo_id(path: str) -> str:
    r"""The id of a photo, equal for every spelling of its path.

    Args:
        path: Relative, with slashes; bytes that are not UTF-8 as by ``surrogateescape``.

    Returns:
        The path without ``.``, ``..`` and repeated slashes, in Unicode's composed form (NFC),
        because some file systems return names decomposed. Bytes that are not UTF-8 and control
        characters are escaped (`printable`), so that tables can hold the id, and different names
        have different ids.

    >>> photo_id("./cats//x/../cafe\N{COMBINING ACUTE ACCENT}.jpg")
    'cats/café.jpg'
    >>> print(photo_id("caf\udce9\n.jpg"))
    caf\xe9\n.jpg
    """
    return unicodedata.normalize("NFC", printable(posixpath.normpath(path)))


def measurable(photos: Sequence[Photo]) -> list[Photo]:
    """The photos of a list that are not left out."""
    return [photo for photo in photos if photo.left_out is None]


def keyed_order(photos: Sequence[Photo], key: str) -> list[int]:
    """The indices of photos in a random order that depends only on a key and on their ids.

    It is the order of the BLAKE2b hashes of key and id, so that the first N are the same random
    photos however photos are listed. Entries that are left out come last.

    Args:
        photos: The photos.
        key: Another key gives an order that is independent of this one.
    """

    def position(index: int) -> tuple[bool, bytes]:
        photo = photos[index]
        return photo.left_out is not None, hashlib.blake2b(f"{key}\0{photo.id}".encode()).digest()

    return sorted(range(len(photos)), key=position)


def decode(encoded: bytes, upright: bool = True) -> Image.Image:
    """Decode an image to 8-bit RGB pixels.

    Args:
        encoded: A file in any format that Pillow reads itself, which excludes PostScript.
        upright: Whether to apply its EXIF orientation.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadablePhotoError: If the bytes are not a complete image.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
            image.load()
            return as_rgb(image, upright)
    except UnreadablePhotoError:
        raise
    except UnidentifiedImageError:
        raise UnreadablePhotoError("not an image") from None
    except Exception as error:  # Pillow's decoders raise various exceptions for damaged files
        reason = printable(str(error).partition("\n")[0])
        raise UnreadablePhotoError(reason or type(error).__name__) from None


def decoded(photo: Photo) -> Image.Image:
    """A photo's pixels, see `Photo.read` and `decode`."""
    return decode(photo.read())


@cache
def _formats() -> list[str]:
    Image.init()
    return [kind for kind in Image.ID if kind != POSTSCRIPT]


def as_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """Convert an image to 8-bit RGB pixels.

    16-bit greyscale is scaled to 8 bits (Pillow would clip it), CMYK and palettes are converted,
    and transparency is dropped, as open_clip drops it.

    Args:
        image: An image in any mode of Pillow.
        upright: Whether to apply its EXIF orientation.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadablePhotoError: If its pixels are floating-point numbers.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.int64)
        return Image.fromarray((levels.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadablePhotoError(
            "floating-point pixels have no agreed range; save it as 8 or 16 bits"
        )
    return image.convert("RGB")
