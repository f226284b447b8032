"""Listing a source: its photos, and every other file with the reason why it is left out."""

import os
from collections import Counter
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from clipshift.data.photos import POSTSCRIPT, Photo, photo_id
from clipshift.errors import UserError, printable

HIDDEN = "hidden, like the files that programs create for themselves: rename it to measure it"
NOT_REGULAR = "not a regular file"
SYSTEM_FOLDERS = {"@eaDir", "__MACOSX"}
"""Folders of thumbnails and attributes that Synology's disks and macOS's archives contain."""

UNOPENED = (
    "ai arw avif avifs cr2 cr3 dng emf eps exr hdr heic heics heif heifs hif j2k jp2 jpf jpm "
    "jpx jxl jxr nef orf pef ps psb raf raw rw2 srw svg svgz tif tiff wdp webp wmf xcf"
)
"""File name extensions of images that Pillow cannot open, or not on every machine."""


class Listing:
    """Gathers a source's photos, and what is left out of them.

    Args:
        top: The source's folder.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.photos: list[Photo] = []
        self.left_out: list[Photo] = []
        self.others: Counter[str] = Counter()

    def leave_out(self, path: str, file: Path, reason: str) -> None:
        """List an entry that is not measured.

        Args:
            path: Its path in the source, with slashes.
            file: The file, or the file that contains it.
            reason: Why it is not measured.
        """
        self.left_out.append(Photo(photo_id(path), file, left_out=reason))

    def takes(self, path: str, file: Path) -> bool:
        """Whether a file's name is that of a photo; if not, the file is left out or counted."""
        ending = PurePosixPath(path).suffix.lower()
        if ending not in image_endings():
            self.others[ending] += 1
        elif any(map(is_hidden, path.split("/"))):
            self.leave_out(path, file, HIDDEN)
        elif ending not in opened_endings():
            self.leave_out(
                path, file, f"{ending} files cannot be opened here: save it as JPEG or PNG"
            )
        else:
            return True
        return False

    def listed(self) -> list[Photo]:
        """The photos in their order, and then what is left out, by id.

        Other files than images are counted, in one entry per file name extension.

        Raises:
            UserError: If two photos have the same id.
        """
        check_ids(self.photos)
        for ending, count in self.others.items():
            reason = f"not images: {count} other file{'s' if count > 1 else ''}"
            self.leave_out(f"*{ending}", self.top, reason)
        self.left_out.sort(key=lambda photo: photo.id)
        return self.photos + self.left_out

    def summary(self) -> str:
        """A short description of what is left out, for an error; empty if nothing is."""
        if not self.left_out:
            return ""
        first = self.left_out[0]
        more = f" and {len(self.left_out) - 1} more" if len(self.left_out) > 1 else ""
        return f" (left out: {first.id}, {first.left_out}{more})"


def check_ids(photos: list[Photo]) -> None:
    """Check that photos have different ids.

    Raises:
        UserError: If two have the same.
    """
    by_id: dict[str, Photo] = {}
    for photo in photos:
        other = by_id.setdefault(photo.id, photo)
        if other is not photo:
            files = (printable(str(file)) for file in (other.file, photo.file))
            raise UserError(
                f"two photos have the id {photo.id}, in {' and in '.join(files)}: rename or remove "
                "one of them"
            )


def missing(file: Path) -> str | None:
    """Why a path is not that of a file; None where it is."""
    if os.path.isfile(file):
        return None
    return NOT_REGULAR if os.path.exists(file) else "no such file"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a program creates for itself."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


@cache
def opened_endings() -> frozenset[str]:
    """File name extensions of images that Pillow opens here, in lower case, with the dot."""
    formats = {*Image.registered_extensions().values()} & {*Image.OPEN, "MPO"} - {POSTSCRIPT}
    return frozenset(e for e, kind in Image.registered_extensions().items() if kind in formats)


def image_endings() -> frozenset[str]:
    """File name extensions of images, whether or not Pillow opens them here."""
    return opened_endings() | {f".{extension}" for extension in UNOPENED.split()}
