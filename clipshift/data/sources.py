"""Sources of photos: an image folder, a CSV file of captions, and the sample."""

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TextIO

from clipshift.data.classes import names_of_classes
from clipshift.data.files import existing, path_in
from clipshift.data.listing import HIDDEN, NOT_REGULAR, Listing, image_endings, is_hidden, missing
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError, printable

OUTSIDE = "not below the folder of the images (data.root), so that its id would depend on the disk"
MAX_LINE = 2**20
"""Number of characters that a line of a text file must stay below."""


def sample() -> list[Photo]:
    """The photographs of scikit-image, with captions; five of them show a class of ImageNet.

    They are public domain or CC0. ``sample.csv`` has their captions, and open_clip's name of the
    class that one shows.
    """
    import skimage.data

    captions_file = Path(__file__).with_name("sample.csv")
    return captions(str(captions_file), str(Path(skimage.data.__file__).parent))


def folder(root: str, classnames: str | None = None) -> list[Photo]:
    """All images below a folder, sorted by path; the name of the sub-folder is the label.

    Links to folders are followed. A folder that can be reached in several ways is read once.

    Args:
        root: The folder; or a single image; or a text file with the path of an image on each line,
            below the folder of the text file. The extension of a file's name tells whether it is an
            image.
        classnames: A file with the names of the classes, see
            `clipshift.data.classes.names_of_classes`.

    Returns:
        The photos, and then what is left out (`Photo.left_out`): hidden files and folders, folders
        that cannot be read, images that Pillow cannot open here, and the number of other files. A
        photo directly below ``root`` has no label; a WordNet id becomes a name, see
        `clipshift.data.wordnet.class_name`.

    Raises:
        UserError: If there is no such folder or file, no image in it, two images with the same id,
            or ``classnames`` does not name the classes.
    """
    top, files = _find_files(root)
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


def _find_files(root: str) -> tuple[Path, Iterable[tuple[Path, str | None]]]:
    """The folder that ids are relative to, and every file with the reason if it is left out."""
    file = existing(root, "folder or file", "root")
    if file.is_dir():
        return file, _walk(file)
    if file.suffix.lower() in image_endings():
        return file.parent, [(file, None)]
    return file.parent, _read_list(file)


def _read_list(file: Path) -> Iterator[tuple[Path, str | None]]:
    """The files that a text file names, each once, with the reason if one is left out."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            lines = dict.fromkeys(line.strip() for line in _lines(stream))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(
            f"{file} is neither an image nor a list of images ({error}): a list has one path per "
            "line, in UTF-8",
            "root",
        ) from None
    names = {photo_id(relative_path(line, file.parent)) for line in lines if line}
    for name in sorted(names):
        if os.path.isabs(name) or name.startswith("../"):
            raise UserError(
                f"{file} names {name}, which is not below its folder, so that its id would depend "
                "on the disk: move the list to a folder that contains all of its photos",
                "root",
            )
        photo = _find_file(name, {name}, file.parent)
        yield photo, missing(photo)


def relative_path(path: str, top: Path) -> str:
    """An absolute path below a folder as relative to it; any other path unchanged."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path, os.path.abspath(top))
    return path if relative.startswith("..") else relative


def _walk(top: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, and each folder and special file that is left out, with why."""
    folders: list[Path] = [top]
    links: list[Path] = []
    visited: dict[tuple[int, int], Path] = {}
    parents = {_identity(parent) for parent in top.resolve().parents}
    while folders or links:
        # Links last, so that a folder is read at its own path and not at that of a link to it.
        current = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(current)
            if identity in parents:
                yield current, "a link to a folder that contains this one"
                continue
            if identity in visited:
                same = photo_id(path_in(top, visited[identity]))
                yield current, f"the same folder as {same}, where it is read"
                continue
            with os.scandir(current) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
            visited[identity] = current
            for entry in entries:
                file = current / entry.name
                is_link = entry.is_symlink()  # os.path, because entries raise for a link to itself
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
            below it) and at least one of ``caption`` and ``label``; one row per caption. A path
            may have several spellings, see `clipshift.data.photos.photo_id`.
        root: The folder of the images; by default that of the CSV file, or ``images`` beside it if
            it contains the first image.

    Returns:
        The photos, each once, and then those that are missing or elsewhere (`Photo.left_out`).

    Raises:
        UserError: If there is no such file, it is not a CSV file in UTF-8, it lacks a column or
            rows, it names different files that would have the same id, a photo has two labels, or
            all of its photos are missing.
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
            required = ["image", *(name for name in ("caption", "label") if name in columns)]
            if "image" not in columns or len(required) < 2:
                raise UserError(
                    f"{csv_file} must have the columns image and caption, or image and label"
                )
            for row in reader:
                has_path = row["image"] and "\0" not in row["image"]
                if not has_path or None in (row[column] for column in required):
                    raise UserError(
                        f"{csv_file}, line {reader.line_num}: a row must have an "
                        f"{' and a '.join(required)}"
                    )
                image = relative_path(row["image"], top)
                name = photo_id(image)
                photo_texts = texts.setdefault(name, [])
                if "caption" in required:
                    photo_texts.append(row["caption"])
                if "label" in required and labels.setdefault(name, row["label"]) != row["label"]:
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
        raise UserError(f"{csv_file} has no rows: add one per caption, or one per photo")
    if not root and (top / "images").is_dir():
        first = next(iter(texts))
        if not os.path.exists(_find_file(first, spellings[first], top)):
            top = top / "images"
    listing = Listing(top)
    for name, lines in texts.items():
        file = _find_file(name, spellings[name], top)
        if reason := missing(file):
            listing.leave_out(name, file, reason)
        elif os.path.isabs(name):
            listing.leave_out(name, file, OUTSIDE)
        else:
            label = class_name(printable(labels[name])) if labels.get(name) else None
            listing.photos.append(Photo(name, file, label=label, captions=tuple(lines)))
    if not listing.photos:
        raise UserError(
            f"none of the {len(texts)} photos of {csv_file} is in {top}: set their folder"
            f"{listing.summary()}",
            "root",
        )
    return listing.listed()


def _lines(stream: TextIO) -> Iterator[str]:
    """The lines of a text, whose length is limited so that none can fill the memory."""
    while line := stream.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error(f"a line has more than {MAX_LINE - 1} characters")
        yield line


def _find_file(name: str, spellings: set[str], top: Path) -> Path:
    """The file of an id, by the spellings of its path in a list, or in Unicode's other form."""
    decomposed = unicodedata.normalize("NFD", name)
    if spellings == {name} == {decomposed}:
        return _path(top, name)
    files = [f for spelling in sorted(spellings) if os.path.exists(f := _path(top, spelling))]
    for other in files[1:]:
        if not other.samefile(files[0]):
            both = " and ".join(printable(str(file)) for file in (files[0], other))
            raise UserError(f"{both} would have the same id, {name}: rename one")
    if files:
        return files[0]
    # the file system may spell the name differently from the list
    file = _path(top, decomposed)
    return file if os.path.exists(file) else _path(top, name)


def _path(top: Path, name: str) -> Path:
    """A file by its name in UTF-8, whatever the encoding of file names in this process."""
    return top / os.fsdecode(name.encode())
