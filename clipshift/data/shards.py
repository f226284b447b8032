"""Photos in WebDataset shards: tar files that hold ``KEY.jpg`` (or ``.png``, …) and ``KEY.cls``."""

import fnmatch
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

from clipshift.data.download import fetch, is_url, read_url
from clipshift.data.files import existing, path_in, read_json
from clipshift.data.listing import Listing
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_labels
from clipshift.errors import UserError, printable

CLASSES = "classes.json"
LABEL_BYTES = 32
"""The longest ``KEY.cls``."""
CAPTION_BYTES = 2**16
"""The longest ``KEY.txt``."""
TEXT_BYTES = 2**20
"""The longest ``classnames.txt``."""
END_SEARCHED = 2**20
"""So many bytes after the last member must be zeros, at least 512: a tar file's end."""


def class_names(root: str | Path) -> list[str]:
    """The English names of the classes, in class order: ``names`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file, or it is damaged.
    """
    return class_labels(_classes(root, "names"))


def class_wnids(root: str | Path) -> list[str]:
    """The WordNet ids of the classes, in class order: ``wnids`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file.
    """
    return _classes(root, "wnids")


def shards(
    root: str | Path,
    pattern: str = "*.tar",
    split: str = "test",
    download: str | None = None,
) -> list[Photo]:
    """Index the photos of a folder's shards, without decoding one.

    The layout is found by the files that are there. ``SPLIT/nshards.txt`` makes it CLIP_benchmark's
    (`clip_benchmark.webdataset_builder`): shards ``SPLIT/0.tar``, ``SPLIT/1.tar``, …, and the names
    of the classes in ``classnames.txt``. Without it, all tar files that match the pattern are read,
    and the names come from ``classes.json`` or ``classnames.txt``.

    Args:
        root: The folder; or its address, http(s), in CLIP_benchmark's layout. A page of a data set
            on the Hugging Face hub (``…/tree/main``) is one.
        pattern: Which tar files, as a glob; in CLIP_benchmark's layout, of their names.
        split: The folder of CLIP_benchmark's layout.
        download: Where shards that come over http(s) are kept, see
            `clipshift.data.download.fetch`; by default ``downloads`` in ``$CLIPSHIFT_CACHE`` or
            ``~/.cache/clipshift``.

    Returns:
        The photos in the order of the shards, then of their position in the shard, and then what is
        left out (`Photo.left_out`). The id is ``SHARD/KEY``, SHARD being the shard's path below
        ``root`` without its ending; the label is the class name that ``KEY.cls`` points to
        (``None`` without it), and each line of ``KEY.txt`` is a caption. Of several photos with one
        key, the first is taken.

    Raises:
        UserError: If there is no such folder or address, no shard matches or has a photo, the names
            of the classes are missing or damaged, a shard is no tar file or has lost its end, a
            ``.cls`` names no class, or two photos have one id.
    """
    place = _Place(root)
    kept = download or os.environ.get("CLIPSHIFT_CACHE", "~/.cache/clipshift") + "/downloads"
    top = Path(kept).expanduser() if place.url else existing(root, "folder", "root")
    count = place.text(f"{split}/nshards.txt")
    if count is not None:
        if not count.strip().isdecimal():
            raise UserError(f"{place}/{split}/nshards.txt must hold the number of shards", "root")
        numbers = range(int(count))
        paths = [f"{split}/{n}.tar" for n in numbers if fnmatch.fnmatch(f"{n}.tar", pattern)]
    elif place.url:
        raise UserError(
            f"no {place}/{split}/nshards.txt: over http(s) shards are read in the layout of "
            "CLIP_benchmark; check the address and data.split",
            "root",
        )
    else:
        found = [] if Path(pattern).is_absolute() else sorted(top.glob(pattern))
        paths = [file.relative_to(top).as_posix() for file in found]
    if not paths:
        there = place.url or any(top.iterdir())
        raise UserError(f"no shards {pattern} in folder {root}", "pattern" if there else "root")
    names = place.names()
    listing = Listing(top)
    for path in paths:
        file = fetch(f"{place}/{path}", top) if place.url else top / path
        _index(file, path_in(top, (top / path).with_suffix("")), names, listing)
    listed = listing.listed()
    if not listing.photos:
        raise UserError(
            f"no photos in the shards {pattern} of folder {root}{listing.summary()}", "pattern"
        )
    return listed


def shard_templates(root: str | Path) -> list[str] | None:
    """The prompts of CLIP_benchmark's shards, with ``{}`` for the class; None where there are none.

    Args:
        root: The folder or address, see `shards`.

    Raises:
        UserError: If ``zeroshot_classification_templates.txt`` is damaged.
    """
    text = _Place(root).text("zeroshot_classification_templates.txt")
    lines = (line.strip().replace("{c}", "{}") for line in (text or "").splitlines())
    return [line for line in lines if line] or None


class _Place:
    """A folder of shards, on this machine or behind an address."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        self.url = is_url(root)
        if self.root.startswith("https://huggingface.co/datasets/"):  # its pages are no files
            self.root = self.root.replace("/tree/", "/resolve/", 1)

    def __str__(self) -> str:
        return self.root

    def text(self, name: str) -> str | None:
        """A short text file; None if it is not there.

        Raises:
            UserError: If it cannot be read.
        """
        file = Path(self.root).expanduser() / name
        try:
            if self.url:
                content = read_url(f"{self}/{name}", TEXT_BYTES + 1)
            else:
                content = _short(file) if os.path.lexists(file) else None
            if content is None:
                return None
            if len(content) > TEXT_BYTES:
                raise ValueError(f"it is larger than {TEXT_BYTES >> 20} MiB")
            return content.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self}/{name} is damaged: {reason}", "root") from None

    def names(self) -> list[str]:
        """The classes' names; none where the folder does not say."""
        if not self.url and os.path.lexists(Path(self.root).expanduser() / CLASSES):
            return class_names(self.root)
        text = self.text("classnames.txt") or ""
        return class_labels([printable(n.strip()) for n in text.splitlines() if n.strip()])


def _short(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError("it is not a regular file")
    with file.open("rb") as stream:
        return stream.read(TEXT_BYTES + 1)


def _classes(root: str | Path, column: str) -> list[str]:
    file = existing(root, "folder", "root") / CLASSES
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
    captions: dict[str, tuple[str, ...]] = {}
    with file.open("rb") as stream:
        for member in members:
            key, _, ending = member.name.rpartition(".")
            if ending == "cls":
                labels.setdefault(key, _label(file, stream, member, classes))
            elif _has_captions(member):
                stream.seek(member.offset_data)
                lines = stream.read(member.size).decode(errors="replace").splitlines()
                texts = (printable(line.strip()) for line in lines if line.strip())
                captions.setdefault(key, tuple(texts))
    taken: dict[str, str] = {}
    for member in members:
        key, _, ending = member.name.rpartition(".")
        if member.isdir() or ending == "cls" or _has_captions(member):
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
                    captions.get(key, ()),
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
    if not classes:
        raise UserError(
            f"{what} has the index of a class, but no {CLASSES} or classnames.txt names the classes"
        )
    if not text.isdecimal() or int(text) >= len(classes):
        raise UserError(
            f"{what} says {text!r}, which is not an index of one of the {len(classes)} classes"
        )
    return classes[int(text)]


def _has_captions(member: tarfile.TarInfo) -> bool:
    return member.name.endswith(".txt") and _is_plain(member) and member.size <= CAPTION_BYTES
