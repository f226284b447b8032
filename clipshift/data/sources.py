"""Where photos come from: an image folder, a CSV of captions, the sample."""

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TextIO

from clipshift.data.classes import names_of_classes
from clipshift.data.files import existing, path_in
from clipshift.data.listing import (
    HIDDEN,
    IMAGE_ENDINGS,
    NO_FILE,
    NOT_REGULAR,
    Listing,
    is_hidden,
    opened_endings,
)
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError, printable

# Photographs that come inside the scikit-image wheel (public domain or CC0): the class of ImageNet
# that it shows, if any, by open_clip's name, and a caption.
SAMPLE: dict[str, tuple[str | None, str]] = {
    "astronaut.png": (None, "an astronaut in an orange space suit in front of a flag"),
    "brick.png": (None, "a wall of red bricks seen from the front"),
    "camera.png": ("tripod", "a man with a camera on a tripod, in black and white"),
    "chelsea.png": ("tabby cat", "the face of a ginger tabby cat"),
    "coffee.png": ("espresso", "a cup of coffee on a red saucer on a wooden table"),
    "coins.png": (None, "ancient coins laid out in rows, in black and white"),
    "grass.png": (None, "a lawn of grass seen from above, in black and white"),
    "gravel.png": (None, "gravel seen from above, in black and white"),
    "hubble_deep_field.jpg": (None, "galaxies in deep space, seen by a telescope"),
    "ihc.png": (None, "stained tissue under a microscope"),
    "moon.png": (None, "craters on the surface of the moon, in black and white"),
    "motorcycle_left.png": ("moped", "a motorcycle parked in a garage"),
    "retina.jpg": (None, "a photograph of the retina of an eye"),
    "rocket.jpg": ("missile", "a rocket on its launch pad at night"),
}


OUTSIDE = "not below the folder of the images (data.root), so that its id would depend on the disk"
LINE = 2**20
"""So many characters no line of a CSV file may have."""


def sample() -> list[Photo]:
    """The photographs that come with scikit-image, with captions; five show a class of ImageNet."""
    import skimage.data

    root = Path(skimage.data.__file__).parent
    return [
        Photo(id=name, file=root / name, label=label, captions=(caption,))
        for name, (label, caption) in SAMPLE.items()
    ]


def folder(root: str, classnames: str | None = None) -> list[Photo]:
    """Every image below a folder, sorted by path; the name of its sub-folder is its label.

    Links to folders are followed. A folder that can be reached in several ways is read once.

    Args:
        root: The folder; or a single image; or a text file with the path of an image on each line,
            below its own folder. A file counts as an image by its name's ending.
        classnames: A file with the names of the classes, see
            `clipshift.data.classes.names_of_classes`.

    Returns:
        The photos, and then what is left out (`Photo.left_out`): hidden files and folders, folders
        that cannot be read, images that Pillow cannot open here, and a count of the other files. A
        photo directly below ``root`` has no label; a WordNet id becomes a name, see
        `clipshift.data.wordnet.class_name`.

    Raises:
        UserError: If there is no such folder or file, no image in it, two images with one id, or
            ``classnames`` does not name the classes.
    """
    top, files = _files(root)
    listing = Listing(top)
    for file, reason in files:
        path = path_in(top, file)
        if reason is not None:
            listing.leave_out(path, file, reason)
        elif listing.takes(path, file):
            name = photo_id(path)
            label = PurePosixPath(name).parent.name
            listing.photos.append(Photo(name, file, label=label or None))
    listing.photos.sort(key=lambda photo: photo.id.split("/"))
    labels = {photo.label for photo in listing.photos if photo.label}
    names = names_of_classes(classnames, labels) if classnames else {}
    listing.photos = [
        replace(p, label=names.get(p.label) or class_name(p.label)) if p.label else p
        for p in listing.photos
    ]
    listed = listing.listed()
    if not listing.photos:
        kind = "folder" if os.path.isdir(os.path.expanduser(str(root))) else "file"
        raise UserError(f"no images in {kind} {root}{listing.summary()}", "root")
    return listed


def _files(root: str) -> tuple[Path, Iterable[tuple[Path, str | None]]]:
    """The folder that ids are relative to, and every file of a source, as `_below` gives them."""
    file = existing(root, "folder or file", "root")
    if file.is_dir():
        return file, _below(file)
    if file.suffix.lower() in opened_endings() | IMAGE_ENDINGS:
        return file.parent, [(file, None)]
    return file.parent, _listed_in(file)


def _listed_in(file: Path) -> Iterator[tuple[Path, str | None]]:
    """The files that a text file names, each once, and why one of them is left out."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            lines = dict.fromkeys(line.strip() for line in _lines(stream))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(
            f"{file} is no image by its name and no list of images either ({error}): a list has a "
            "path on each line, in UTF-8",
            "root",
        ) from None
    names = {photo_id(below(line, file.parent)) for line in lines if line}
    for name in sorted(names):
        if os.path.isabs(name) or name.startswith("../"):
            raise UserError(
                f"{file} names {name}, which is not below its folder, so that its id would depend "
                "on where it lies: move the list to a folder around all of its photos",
                "root",
            )
        photo = _file_of(name, {name}, file.parent)
        if os.path.isfile(photo):
            yield photo, None
        else:
            yield photo, NOT_REGULAR if os.path.exists(photo) else NO_FILE


def below(path: str, top: Path) -> str:
    """A path relative to a folder, where it is an absolute one below it; otherwise as it is."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path, os.path.abspath(top))
    return path if relative.startswith("..") else relative


def _below(top: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder; and each folder and special file that is left out, and why."""
    folders: list[Path] = [top]
    links: list[Path] = []
    read: dict[tuple[int, int], Path] = {}
    around = {_identity(parent) for parent in top.resolve().parents}
    while folders or links:
        # Links last, so that a folder is read where it lies and not where a link leads to it.
        current = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(current)
            if identity in around:
                yield current, "a link to a folder around this one"
                continue
            if identity in read:
                same = photo_id(path_in(top, read[identity]))
                yield current, f"the same folder as {same}, where it is read"
                continue
            with os.scandir(current) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            read[identity] = current
            for entry in found:
                file = current / entry.name
                is_link = entry.is_symlink()  # os.path, because entries raise on a link to itself
                if os.path.isdir(file) if is_link else entry.is_dir():
                    if is_hidden(entry.name):
                        yield file, HIDDEN
                    else:
                        (links if is_link else folders).append(file)
                elif os.path.isfile(file) if is_link else entry.is_file():
                    yield file, None
                else:
                    yield file, NOT_REGULAR if os.path.exists(file) else "a link to no file"
        except OSError as error:
            yield current, error.strerror


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def captions(csv_file: str, root: str | None = None) -> list[Photo]:
    """The images that a CSV file names, in its order, each with its label and all its captions.

    Args:
        csv_file: A file with the column ``image`` (a path relative to ``root``, or an absolute one
            below it) and at least one of ``caption`` and ``label``; one row per caption. A photo
            may be spelled in several ways, see `clipshift.data.photos.photo_id`.
        root: The folder of the images; by default the CSV file's own, or ``images`` beside it if
            the first image lies there.

    Returns:
        The photos, each once, and then those that are not there or elsewhere (`Photo.left_out`).

    Raises:
        UserError: If there is no such file, it is no CSV in UTF-8, it lacks a column or rows, it
            names different files that would have one id, it gives a photo two labels, or none of
            its photos is there.
    """
    table = existing(csv_file, "file", "csv_file")
    top = existing(root, "folder", "root") if root else table.parent
    texts: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    spellings: dict[str, set[str]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(_lines(stream))
            columns = set(reader.fieldnames or ())
            wanted = ["image", *(name for name in ("caption", "label") if name in columns)]
            if "image" not in columns or len(wanted) < 2:
                raise UserError(
                    f"{csv_file} needs the columns image and caption, or image and label"
                )
            for row in reader:
                named = row["image"] and "\0" not in row["image"]
                if not named or None in (row[column] for column in wanted):
                    raise UserError(
                        f"{csv_file}, line {reader.line_num}: a row needs an "
                        f"{' and a '.join(wanted)}"
                    )
                image = below(row["image"], top)
                name = photo_id(image)
                captions_of = texts.setdefault(name, [])
                if "caption" in wanted:
                    captions_of.append(row["caption"])
                if "label" in wanted and labels.setdefault(name, row["label"]) != row["label"]:
                    raise UserError(
                        f"{csv_file}, line {reader.line_num}: {name} has two labels, "
                        f"{printable(labels[name])} and {printable(row['label'])}"
                    )
                spellings.setdefault(name, set()).add(image)
    except UnicodeDecodeError:
        raise UserError(f"{csv_file} is not UTF-8 text: save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{csv_file} cannot be read as CSV: {error}") from None
    except OSError as error:
        raise UserError(f"{csv_file} cannot be read: {error.strerror}") from None
    if not texts:
        raise UserError(f"{csv_file} has no rows: it needs one per caption, or one per photo")
    if not root and (top / "images").is_dir():
        first = next(iter(texts))
        if not os.path.exists(_file_of(first, spellings[first], top)):
            top = top / "images"
    listing = Listing(top)
    for name, lines in texts.items():
        file = _file_of(name, spellings[name], top)
        if not os.path.isfile(file):
            listing.leave_out(name, file, NOT_REGULAR if os.path.exists(file) else NO_FILE)
        elif os.path.isabs(name):
            listing.leave_out(name, file, OUTSIDE)
        else:
            label = class_name(printable(labels[name])) if labels.get(name) else None
            listing.photos.append(Photo(name, file, label=label, captions=tuple(lines)))
    if not listing.photos:
        raise UserError(
            f"none of the {len(texts)} photos of {csv_file} is in {top}: give their folder"
            f"{listing.summary()}",
            "root",
        )
    return listing.listed()


def _lines(stream: TextIO) -> Iterator[str]:
    """The lines of a text, none of which may fill the memory."""
    while line := stream.readline(LINE):
        if len(line) == LINE:
            raise csv.Error(f"a line has more than {LINE - 1} characters")
        yield line


def _file_of(name: str, spellings: set[str], top: Path) -> Path:
    decomposed = unicodedata.normalize("NFD", name)
    if spellings == {name} == {decomposed}:
        return _path(top, name)
    written = [f for spelling in sorted(spellings) if os.path.exists(f := _path(top, spelling))]
    for other in written[1:]:
        if not other.samefile(written[0]):
            both = " and ".join(printable(str(file)) for file in (written[0], other))
            raise UserError(f"{both} would have one id, {name}: rename one")
    if written:
        return written[0]
    # the file system may spell the name in another way than the CSV file does
    file = _path(top, decomposed)
    return file if os.path.exists(file) else _path(top, name)


def _path(top: Path, name: str) -> Path:
    """A file by its name in UTF-8, whatever the encoding of file names in this process."""
    return top / os.fsdecode(name.encode())
