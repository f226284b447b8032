"""Photos in WebDataset shards: tar files that hold ``KEY.jpg`` beside ``KEY.cls``."""

import json
import tarfile
from pathlib import Path

from clipshift.data.photos import Photo, check_ids, photo_id
from clipshift.data.sources import existing
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError


def class_names(root: str | Path) -> list[str]:
    """The English names of the classes, in class order: ``names`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file, or it is damaged.
    """
    return [class_name(name) for name in _classes(root, "names")]


def class_wnids(root: str | Path) -> list[str]:
    """The WordNet ids of the classes, in class order: ``wnids`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file.
    """
    return _classes(root, "wnids")


def shards(root: str | Path, pattern: str = "*.tar") -> list[Photo]:
    """Index the photos of a folder's shards, without decoding one.

    Args:
        root: A folder with tar files and ``classes.json``.
        pattern: Which tar files, as a glob.

    Returns:
        The photos in the order of the shards' names, then of their place in the shard. The id is
        ``SHARD/KEY``, the label the class name that ``KEY.cls`` points to (``None`` without it).

    Raises:
        UserError: If there is no such folder, no shard matches, ``classes.json`` is missing, a
            shard is no tar file, a ``.cls`` names no class, or two photos have one id.
    """
    top = existing(root, "folder", "data.root")
    files = [] if Path(pattern).is_absolute() else sorted(top.glob(pattern))
    if not files:
        raise UserError(
            f"no shards {pattern} in folder {root}: set data.root to a folder with some"
        )
    names = class_names(top)
    photos = [photo for file in files for photo in _index(file, names)]
    check_ids(photos)
    return photos


def _classes(root: str | Path, column: str) -> list[str]:
    file = existing(root, "folder", "data.root") / "classes.json"
    if not file.is_file():
        raise UserError(f"no {file}: the folder of the shards must have one that names the classes")
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))[column]
        if not all(isinstance(one, str) for one in listed):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file} is damaged: it must hold {column}, a list of texts, as JSON"
        ) from None
    return listed


def _index(file: Path, names: list[str]) -> list[Photo]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                key, _, kind = member.name.rpartition(".")
                if kind == "jpg":
                    images[key] = member
                elif kind == "cls":
                    content = tar.extractfile(member)
                    assert content is not None
                    text = content.read().decode().strip()
                    if not text.isdecimal() or int(text) >= len(names):
                        raise UserError(
                            f"{file}: {member.name} says {text!r}, which is not an index of one of "
                            f"the {len(names)} classes in classes.json"
                        )
                    labels[key] = names[int(text)]
    except tarfile.TarError as error:
        raise UserError(f"{file} is not a tar file: {str(error).splitlines()[0]}") from None
    return [
        Photo(
            photo_id(f"{file.stem}/{key}"), file, member.offset_data, member.size, labels.get(key)
        )
        for key, member in images.items()
    ]
