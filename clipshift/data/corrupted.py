"""Photos whose corruptions are stored, as those of ImageNet-C and ImageNet-C-bar."""

import io
from dataclasses import dataclass, replace

from torchvision.transforms import CenterCrop, Compose, Resize

from clipshift.data.files import existing
from clipshift.data.photos import Photo, UnreadablePhotoError, decode
from clipshift.data.sources import folder
from clipshift.errors import UserError

MARGIN = 8 / 7
"""Shortest side before the crop, in crops: 256 for 224."""


@dataclass(frozen=True)
class Cropped(Photo):
    """A clean photograph, cut as its stored corruptions were.

    Args:
        side: Side of the stored photographs, in pixels.
    """

    side: int = 224

    def read(self) -> bytes:
        """The cut photograph, without loss, as BMP; a broken one as it is.

        Raises:
            OSError: If it cannot be read.
        """
        encoded = super().read()
        try:
            image = decode(encoded, upright=False)  # as it was when it was corrupted
        except UnreadablePhotoError:
            return encoded
        if image.size != (self.side, self.side):
            image = Compose([Resize(round(self.side * MARGIN)), CenterCrop(self.side)])(image)
        stream = io.BytesIO()
        image.save(stream, "BMP")
        return stream.getvalue()

    def length(self) -> int:
        """How many bytes the cut photograph has."""
        return len(self.read())


def imagenet_c(root: str, clean: str) -> list[Photo]:
    """The clean photographs of a set of stored corruptions, by `clipshift.augment.Stored`.

    Stored photographs lie in ``root/CORRUPTION/LEVEL/CLASS/NAME``. They were made of clean ones
    whose shortest side was brought to 256 px and whose centre of 224 × 224 was kept (Hendrycks and
    Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    2019, and their ``make_imagenet_c.py``). So are the clean ones here, but for those that have the
    stored ones' size already. All then become views in the same way.

    Args:
        root: The folder of the corruptions.
        clean: The folder of the clean photographs, ``CLASS/NAME``.

    Returns:
        The photos, with the id ``CLASS/NAME``, and then what is left out, as photographs of one of
        the two without a counterpart in the other.

    Raises:
        UserError: If there is no such folder, ``root`` holds no corruptions, or no photograph is in
            both.
    """
    top = existing(root, "folder", "root")
    levels = sorted(path for path in top.glob("*/[1-5]") if path.is_dir())
    if not levels:
        raise UserError(f"{root} has no folders CORRUPTION/1 to CORRUPTION/5", "root")
    stored = {photo.id: photo for photo in folder(str(levels[0])) if photo.left_out is None}
    try:
        listed = folder(clean)
    except UserError as error:
        raise UserError(str(error), "clean") from None
    photos = [p for p in listed if p.left_out is None and p.id in stored]
    if not photos:
        raise UserError(
            f"no photograph of {clean} has the class folder and name of one in {levels[0]}", "clean"
        )
    side = _side(stored[photos[0].id])
    cut = [Cropped(photo.id, photo.file, label=photo.label, side=side) for photo in photos]
    missing = f"no corruption of it in {levels[0].relative_to(top)}"
    unpaired = [p for p in listed if p.left_out is None and p.id not in stored]
    without = [replace(p, left_out=missing) for p in unpaired]
    known = {photo.id for photo in listed}
    alone = [
        replace(photo, left_out="no clean photograph of it")
        for photo in stored.values()
        if photo.id not in known
    ]
    left_out = [p for p in listed if p.left_out is not None] + without + alone
    return cut + sorted(left_out, key=lambda photo: photo.id)


def _side(photo: Photo) -> int:
    try:
        width, height = decode(photo.read()).size
    except (OSError, UnreadablePhotoError) as error:
        raise UserError(f"{photo.file} cannot be read: {error}", "root") from None
    if width != height:
        raise UserError(
            f"{photo.file} has {width} × {height} pixels: stored corruptions must be square", "root"
        )
    return width
