"""Photos whose corruptions are stored as files, such as ImageNet-C and ImageNet-C-bar."""

import io
from dataclasses import dataclass, replace

from torchvision.transforms import CenterCrop, Compose, Resize

from clipshift.data.files import existing
from clipshift.data.photos import Photo, UnreadablePhotoError, decode, measurable
from clipshift.data.sources import folder
from clipshift.errors import UserError

MARGIN = 8 / 7
"""Shortest side before the crop, in crops: 256 for 224."""


@dataclass(frozen=True)
class Cropped(Photo):
    """A clean photograph, resized and cropped like its stored corruptions.

    Args:
        side: Side of the stored photographs, in pixels.
    """

    side: int = 224

    def read(self) -> bytes:
        """The cropped photograph as a BMP file, which is lossless; a damaged one unchanged.

        Raises:
            OSError: If it cannot be read.
        """
        encoded = super().read()
        try:
            image = decode(encoded, upright=False)  # the corruptions ignored EXIF orientations
        except UnreadablePhotoError:
            return encoded
        if image.size != (self.side, self.side):
            image = Compose([Resize(round(self.side * MARGIN)), CenterCrop(self.side)])(image)
        stream = io.BytesIO()
        image.save(stream, "BMP")
        return stream.getvalue()

    def length(self) -> int:
        """Number of bytes of the cropped photograph."""
        return len(self.read())


def imagenet_c(root: str, clean: str) -> list[Photo]:
    """The clean photographs of a set of stored corruptions; see `clipshift.augment.Stored`.

    Stored photographs are in ``root/CORRUPTION/LEVEL/CLASS/NAME``. They were made from clean ones
    whose shortest side was resized to 256 px and which were cropped to the central 224 × 224
    (Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
    perturbations", 2019, and their ``make_imagenet_c.py``). The clean ones are resized and cropped
    in the same way, unless they already have the size of the stored ones.

    Args:
        root: The folder of the corruptions.
        clean: The folder of the clean photographs, ``CLASS/NAME``.

    Returns:
        The photos, with the id ``CLASS/NAME``, and then what is left out, such as photographs of
        one folder that are missing from the other.

    Raises:
        UserError: If there is no such folder, ``root`` holds no corruptions, or the two folders
            have no photograph in common.
    """
    top = existing(root, "folder", "root")
    levels = sorted(path for path in top.glob("*/[1-5]") if path.is_dir())
    if not levels:
        raise UserError(f"{root} has no folders CORRUPTION/1 to CORRUPTION/5", "root")
    stored = {photo.id: photo for photo in measurable(folder(str(levels[0])))}
    try:
        listed = folder(clean)
    except UserError as error:
        raise UserError(str(error), "clean") from None
    photos = [photo for photo in measurable(listed) if photo.id in stored]
    if not photos:
        raise UserError(
            f"no photograph of {clean} has the class folder and name of one in {levels[0]}", "clean"
        )
    side = _side(stored[photos[0].id])
    cropped = [Cropped(photo.id, photo.file, label=photo.label, side=side) for photo in photos]
    # one level stands for all: what another lacks is skipped when its view is made
    reason = f"no corruption of it in {levels[0].relative_to(top)}"
    unmeasured = [
        replace(photo, left_out=photo.left_out or reason)
        for photo in listed
        if photo.left_out is not None or photo.id not in stored
    ]
    for name in stored.keys() - {photo.id for photo in listed}:
        unmeasured.append(replace(stored[name], left_out="no clean photograph of it"))
    return cropped + sorted(unmeasured, key=lambda photo: photo.id)


def _side(photo: Photo) -> int:
    try:
        width, height = decode(photo.read()).size
    except (OSError, UnreadablePhotoError) as error:
        raise UserError(f"cannot read {photo.file}: {error}", "root") from None
    if width != height:
        raise UserError(
            f"{photo.file} has {width} × {height} pixels: stored corruptions must be square", "root"
        )
    return width
