"""A photo: where its bytes lie, what it shows, and how the bytes become pixels."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class UnreadablePhotoError(Exception):
    """A photo's bytes cannot be turned into pixels; the message says why."""


@dataclass(frozen=True)
class Photo:
    """One input image: a range of bytes in a file, with its id and what is known of it.

    Args:
        id: Path relative to the data root, or ``SHARD/KEY`` in a shard. Names the photo in every
            table and keys its random numbers.
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
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise UnreadablePhotoError("not an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePhotoError(str(error)) from None
    return as_rgb(upright)


def as_rgb(image: Image.Image) -> Image.Image:
    """Bring an image to 8-bit RGB pixels.

    16-bit greyscale is scaled to 8 bits (Pillow alone would clip it), CMYK and palettes are
    converted, and transparency is dropped, as open_clip drops it.

    Args:
        image: An image in any mode of Pillow.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadablePhotoError: If its pixels are floating-point numbers.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.int64)
        return Image.fromarray((levels.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadablePhotoError(
            "floating-point pixels have no agreed range; save it as 8 or 16 bits"
        )
    return image.convert("RGB")
