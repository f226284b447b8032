"""Where photos come from: an image folder, a CSV of captions, the sample."""

import csv
import os
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from clipshift.data.photos import Photo, check_ids, photo_id
from clipshift.data.wordnet import class_name, imagenet_names
from clipshift.errors import UserError

# Photographs that come inside the scikit-image wheel (public domain or CC0).
SAMPLE = {
    "astronaut.png": ("astronaut", "an astronaut in an orange space suit in front of a flag"),
    "brick.png": ("brick wall", "a wall of red bricks seen from the front"),
    "camera.png": ("photographer", "a man with a camera on a tripod, in black and white"),
    "chelsea.png": ("cat", "the face of a ginger tabby cat"),
    "coffee.png": ("coffee", "a cup of coffee on a red saucer on a wooden table"),
    "coins.png": ("coins", "ancient coins laid out in rows, in black and white"),
    "grass.png": ("grass", "a lawn of grass seen from above, in black and white"),
    "gravel.png": ("gravel", "gravel seen from above, in black and white"),
    "hubble_deep_field.jpg": ("galaxies", "galaxies in deep space, seen by a telescope"),
    "ihc.png": ("tissue", "stained tissue under a microscope"),
    "moon.png": ("moon", "craters on the surface of the moon, in black and white"),
    "motorcycle_left.png": ("motorcycle", "a motorcycle parked in a garage"),
    "retina.jpg": ("retina", "a photograph of the retina of an eye"),
    "rocket.jpg": ("rocket", "a rocket on its launch pad at night"),
}


def sample() -> list[Photo]:
    """The photographs that come with scikit-image, with our labels and captions for them."""
    import skimage.data

    root = Path(skimage.data.__file__).parent
    return [
        Photo(id=name, file=root / name, label=label, captions=(caption,))
        for name, (label, caption) in SAMPLE.items()
    ]


def candidate_classes(choice: str) -> list[str]:
    """The names of classes to choose among, by the option ``zero_shot.classes``.

    Args:
        choice: ``imagenet`` for open_clip's names of ImageNet's 1,000 classes, or a text file with
            a name on each line.

    Raises:
        UserError: If there is no such file, it is not UTF-8, or it has fewer than two names.
    """
    if choice == "imagenet":
        return [names[0] for names in imagenet_names()]
    try:
        lines = Path(choice).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"zero_shot.classes={choice} cannot be read ({error}): it must be imagenet, or a text "
            "file with a class name on each line"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if len(names) < 2:
        raise UserError(f"zero_shot.classes={choice} needs two class names or more, one on a line")
    return names


def folder(root: str) -> list[Photo]:
    """Every image below a folder, sorted by path; the name of its sub-folder is its label.

    Args:
        root: The folder. A file counts as an image by its name's ending.

    Returns:
        The photos. One directly below ``root`` has no label; a WordNet id becomes a name, see
        `clipshift.data.wordnet.class_name`.

    Raises:
        UserError: If there is no such folder, no image in it, or two images with one id.
    """
    top = existing(root, "folder", "data.root")
    endings = set(Image.registered_extensions())
    files = [f for f in top.rglob("*") if f.suffix.lower() in endings and f.is_file()]
    if not files:
        raise UserError(f"no images in folder {root}: set data.root to a folder that has some")
    photos = [_in_folder(file, top) for file in files]
    check_ids(photos)
    return sorted(photos, key=lambda photo: photo.id.split("/"))


def _in_folder(file: Path, top: Path) -> Photo:
    path = os.fsencode(file.relative_to(top).as_posix())
    name = photo_id(path.decode(errors="replace"))  # tables are UTF-8
    label = PurePosixPath(name).parent.name
    return Photo(name, file, label=class_name(label) if label else None)


def captions(csv_file: str, root: str | None = None) -> list[Photo]:
    """The images that a CSV file names, in its order, each with all its captions.

    Args:
        csv_file: A file with the columns ``image`` (a path relative to ``root``) and ``caption``,
            a row a caption. A photo may be spelled in several ways, see
            `clipshift.data.photos.photo_id`.
        root: The folder of the images; by default the CSV file's own, or ``images`` beside it if
            the first image lies there.

    Returns:
        The photos, each once.

    Raises:
        UserError: If there is no such file, it is no CSV in UTF-8, it lacks a column or rows, or
            it names different files that would have one id.
    """
    table = existing(csv_file, "file", "data.csv_file")
    texts: dict[str, list[str]] = {}
    spellings: dict[str, set[str]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"image", "caption"} - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{csv_file} has no column {sorted(missing)}: it needs image,caption"
                )
            for row in reader:
                if not row["image"] or row["caption"] is None or "\0" in row["image"]:
                    raise UserError(
                        f"{csv_file}, line {reader.line_num}: a row needs an image and a caption"
                    )
                name = photo_id(row["image"])
                texts.setdefault(name, []).append(row["caption"])
                spellings.setdefault(name, set()).add(row["image"])
    except UnicodeDecodeError:
        raise UserError(f"{csv_file} is not UTF-8 text: save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{csv_file} cannot be read as CSV: {error}") from None
    if not texts:
        raise UserError(f"{csv_file} has no rows: it needs one a caption, image,caption")
    top = existing(root, "folder", "data.root") if root else table.parent
    if not root and (top / "images").is_dir():
        first = next(iter(texts))
        if not _file_of(first, spellings[first], top).exists():
            top = top / "images"
    return [
        Photo(name, _file_of(name, spellings[name], top), captions=tuple(lines))
        for name, lines in texts.items()
    ]


def _file_of(name: str, spellings: set[str], top: Path) -> Path:
    decomposed = unicodedata.normalize("NFD", name)
    if spellings == {name} == {decomposed}:
        return top / name
    written = [file for spelling in sorted(spellings) if (file := top / spelling).exists()]
    for other in written[1:]:
        if not other.samefile(written[0]):
            raise UserError(f"{written[0]} and {other} would have one id, {name}: rename one")
    if written:
        return written[0]
    # the file system may spell the name in another way than the CSV file does
    return top / decomposed if (top / decomposed).exists() else top / name


def existing(path: Any, kind: str, option: str) -> Path:
    """The path, if there is a file or a folder there; otherwise a `UserError` naming the option.

    A name that is a number, as of the folder 2024, comes from the command line as one.
    """
    found = Path(str(path)).expanduser()
    if not (found.is_dir() if kind == "folder" else found.is_file()):
        raise UserError(f"no {kind} {path}: set {option} to an existing {kind}")
    return found
