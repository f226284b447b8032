"""Photos in WebDataset shards: tar files that hold ``KEY.jpg`` (or ``.png``, …) and ``KEY.cls``."""

import tarfile
from pathlib import Path
from typing import BinaryIO

from clipshift.data.files import existing, path_in, read_json
from clipshift.data.listing import Listing
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError, printable

LABEL_BYTES = 32
"""The longest ``KEY.cls``."""
END_SEARCHED = 2**20
"""So many bytes after the last member must be zeros, at least 512: a tar file's end."""


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
        The photos in the order of the shards' names, then of their position in the shard, and then
        what is left out (`Photo.left_out`). The id is ``SHARD/KEY``, SHARD being the shard's path
        below ``root`` without its ending; the label is the class name that ``KEY.cls`` points to
        (``None`` without it). Of several photos with one key, the first is taken.

    Raises:
        UserError: If there is no such folder, no shard matches or has a photo, ``classes.json`` is
            missing or damaged, a shard is no tar file or has lost its end, a ``.cls`` names no
            class, or two photos have one id.
    """
    top = existing(root, "folder", "root")
    files = [] if Path(pattern).is_absolute() else sorted(top.glob(pattern))
    if not files:
        raise UserError(
            f"no shards {pattern} in folder {root}", "pattern" if any(top.iterdir()) else "root"
        )
    names = class_names(top)
    listing = Listing(top)
    for file in files:
        _index(file, path_in(top, file.with_suffix("")), names, listing)
    listed = listing.listed()
    if not listing.photos:
        raise UserError(
            f"no photos in the shards {pattern} of folder {root}{listing.summary()}", "pattern"
        )
    return listed


def _classes(root: str | Path, column: str) -> list[str]:
    file = existing(root, "folder", "root") / "classes.json"
    try:
        listed = read_json(file)[column]
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise TypeError
    except FileNotFoundError:
        raise UserError(
            f"no {file}: the folder of the shards must have one that names the classes"
        ) from None
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{file} is damaged: it must hold {column}, a list of texts, as JSON"
        ) from None
    return [printable(one) for one in listed]


def _index(file: Path, name: str, classes: list[str], listing: Listing) -> None:
    members = _members(file)
    labels: dict[str, str] = {}
    with file.open("rb") as stream:
        for member in members:
            key, _, ending = member.name.rpartition(".")
            if ending == "cls":
                labels.setdefault(key, _label(file, stream, member, classes))
    taken: dict[str, str] = {}
    for member in members:
        key, _, ending = member.name.rpartition(".")
        if member.isdir() or ending == "cls":
            continue
        path = f"{name}/{member.name}"
        if not _is_plain(member):
            listing.leave_out(path, file, "a link or special file in its shard")
        elif listing.takes(path, file):
            first = taken.setdefault(key, member.name)
            if first is not member.name:
                listing.leave_out(path, file, f"{printable(first)} before it has the same key")
                continue
            listing.photos.append(
                Photo(
                    photo_id(f"{name}/{key}"),
                    file,
                    member.offset_data,
                    member.size,
                    labels.get(key),
                )
            )


def _members(file: Path) -> list[tarfile.TarInfo]:
    """All members of a tar file, in full: tarfile itself takes any damage for the end."""
    members = []
    try:
        if not file.is_file():
            raise UserError(f"{file} is not a regular file: the pattern must name tar files")
        with tarfile.open(file, "r:", encoding="utf-8") as tar:
            for member in tar:
                # tarfile would go back, and on in circles
                if member.size < 0 or tar.offset < member.offset_data:
                    raise tarfile.ReadError("a member has a negative size")
                members.append(member)
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            rest = tar.fileobj.read(END_SEARCHED)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}") from None
    except Exception as error:  # tarfile raises all kinds on damaged files
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise UserError(f"{file} is not a tar file, or compressed: {reason}") from None
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise UserError(
            f"{file} was cut or damaged: after {len(members)} members it lacks the end of a tar "
            "file; make it or download it again, or leave it out by the pattern"
        )
    return members


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and member.sparse is None


def _label(file: Path, stream: BinaryIO, member: tarfile.TarInfo, classes: list[str]) -> str:
    what = f"{file}: {printable(member.name)}"
    if not _is_plain(member) or member.size > LABEL_BYTES:
        raise UserError(f"{what} must be a short file with the index of a class")
    stream.seek(member.offset_data)
    text = stream.read(member.size).decode(errors="replace").strip()
    if not text.isdecimal() or int(text) >= len(classes):
        raise UserError(
            f"{what} says {text!r}, which is not an index of one of the {len(classes)} classes in "
            "classes.json"
        )
    return classes[int(text)]
