"""Photos in WebDataset shards: tar files that hold ``KEY.jpg`` (or ``.png``, …) and ``KEY.cls``."""

import contextlib
import errno
import fnmatch
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from pydantic import TypeAdapter

from clipshift.data.download import RemoteFile, fetch, is_http, is_url, read_part, read_url
from clipshift.data.files import existing, open_file, path_in, read_json, read_text, typed
from clipshift.data.listing import Listing
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_labels
from clipshift.errors import UserError, printable

CLASSES = "classes.json"
LABEL, CAPTION = ".cls", ".txt"
LABEL_BYTES = 32
"""The longest ``KEY.cls``."""
CAPTION_BYTES = 2**16
"""The longest ``KEY.txt``."""
TEXT_BYTES = 2**20
"""The longest ``classnames.txt``."""
END_SEARCHED = 2**20
"""So many bytes after the last member must be zeros, at least 512: a tar file's end."""
STREAMED_BYTES = 2**22
"""How much of a shard that is streamed is asked for at once while it is listed."""


@dataclass(frozen=True)
class Streamed(Photo):
    """A photo in a shard that stays where it is.

    Args:
        url: The shard's address.
        version: What changes when the shard does.
    """

    url: str = ""
    version: str = ""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            FileNotFoundError: If it cannot be had after five tries: it may be there again later.
        """
        try:
            return read_part(self.url, self.offset, self.length())
        except UserError as error:
            raise FileNotFoundError(errno.ENOENT, str(error), self.url) from None

    def excerpt(self) -> None:
        """None: each would be a request of its own."""
        return

    def digest(self) -> bytes:
        """SHA-256 of what the photo's bytes depend on: they are not asked for."""
        return hashlib.sha256(repr((self.url, self.version, self.offset)).encode()).digest()


@dataclass(frozen=True)
class Member:
    """What a shard says of one of its members.

    Attributes:
        name: With its ending.
        offset: Where its content begins, in bytes.
        size: How many bytes its content has.
        folder: Whether it is a folder.
        plain: Whether it is a regular file.
        text: The content of a ``KEY.cls`` or ``KEY.txt`` that is short enough.
    """

    name: str
    offset: int
    size: int
    folder: bool
    plain: bool
    text: str | None


MEMBERS: TypeAdapter[Any] = TypeAdapter(list[Member])


@dataclass(frozen=True)
class Shard:
    """A shard, and what is in it.

    Attributes:
        name: Its path below the root, without its ending.
        members: What is in it.
        file: Where it lies.
        url: Its address, if it stays there.
        version: What changes when what is at the address does.
    """

    name: str
    members: Sequence[Member]
    file: Path
    url: str = ""
    version: str = ""

    def photo(self, member: Member, label: str | None, captions: tuple[str, ...]) -> Photo:
        """The photo that a member is."""
        name = photo_id(f"{self.name}/{member.name.rpartition('.')[0]}")
        facts = (name, self.file, member.offset, member.size, label, captions)
        if self.url:
            return Streamed(*facts, url=self.url, version=self.version)
        return Photo(*facts)


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
    stream: bool = False,
) -> list[Photo]:
    """Index the photos of a folder's shards, without decoding one.

    The layout is found by the files that are there. ``SPLIT/nshards.txt`` makes it CLIP_benchmark's
    (`clip_benchmark.webdataset_builder`): shards ``SPLIT/0.tar``, ``SPLIT/1.tar``, …, and the names
    of the classes in ``classnames.txt``. Without it, all tar files that match the pattern are read,
    and the names come from ``classes.json`` or ``classnames.txt``.

    Args:
        root: The folder; or its address in CLIP_benchmark's layout. A page of a data set on the
            Hugging Face hub (``…/tree/main``) is one.
        pattern: Which tar files, as a glob; in CLIP_benchmark's layout, of their names.
        split: The folder of CLIP_benchmark's layout.
        download: Where shards that come over http(s) are kept, see
            `clipshift.data.download.fetch`; by default ``downloads`` in ``$CLIPSHIFT_CACHE`` or
            ``~/.cache/clipshift``. Of shards that are streamed, what is in them is kept there.
        stream: Whether shards of an address stay there: each photo is asked for when it is
            measured. Addresses that are not http(s) are streamed in any case, by `fsspec`.

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
            f"no {place}/{split}/nshards.txt: of an address, shards are read in the layout of "
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
        name, url = path_in(top, (top / path).with_suffix("")), f"{place}/{path}"
        if place.url and (stream or not is_http(url)):
            shard = _streamed_shard(name, url, top)
        else:
            shard = _shard(name, fetch(url, top) if place.url else top / path)
        _list(shard, names, listing)
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
    with open_file(file) as stream:
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


def _list(shard: Shard, classes: list[str], listing: Listing) -> None:
    labels: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for member in shard.members:
        key = member.name.rpartition(".")[0]
        if member.name.endswith(LABEL):
            labels.setdefault(key, _label(shard, member, classes))
        elif member.text is not None:
            lines = (printable(line.strip()) for line in member.text.splitlines() if line.strip())
            captions.setdefault(key, tuple(lines))
    taken: dict[str, str] = {}
    for member in shard.members:
        key = member.name.rpartition(".")[0]
        if member.folder or member.name.endswith(LABEL) or member.text is not None:
            continue
        path = f"{shard.name}/{member.name}"
        if not member.plain:
            listing.leave_out(path, shard.file, "a link or special file in its shard")
        elif listing.takes(path, shard.file):
            first = taken.setdefault(key, member.name)
            if first is not member.name:
                reason = f"{printable(first)} before it has the same key"
                listing.leave_out(path, shard.file, reason)
                continue
            photo = shard.photo(member, labels.get(key), captions.get(key, ()))
            listing.photos.append(photo)


def _shard(name: str, file: Path) -> Shard:
    try:
        if not file.is_file():
            raise UserError(f"{file} is not a regular file: the pattern must name tar files")
        with file.open("rb") as stream:
            return Shard(name, _members(stream, file), file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}") from None


def _streamed_shard(name: str, url: str, folder: Path) -> Shard:
    """A shard that stays where it is: what is in it is found once, and kept in a folder."""
    remote = RemoteFile(url)
    key = hashlib.sha256("\0".join([url, remote.version, str(remote.size)]).encode()).hexdigest()
    kept = folder / f"{key[:24]}-{Path(url).stem}.json"

    def shard(members: Sequence[Member]) -> Shard:
        return Shard(name, members, Path(url), url, remote.version)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            with contextlib.suppress(OSError, ValueError):
                return shard(typed(MEMBERS, read_text(kept)))
            members = _members(io.BufferedReader(remote, STREAMED_BYTES), url)
            partial = Path(f"{kept}.part")
            partial.write_text(json.dumps([asdict(one) for one in members]))
            partial.replace(kept)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", "download") from None
    return shard(members)


def _members(stream: BinaryIO, file: Path | str) -> list[Member]:
    """All members of a tar file, in full: tarfile itself takes any damage for the end."""
    members = []
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as tar:
            for member in tar:
                # tarfile would go back, and on in circles
                if member.size < 0 or tar.offset < member.offset_data:
                    raise tarfile.ReadError("a member has a negative size")
                members.append(_member(member, stream))
            stream.seek(tar.offset)
            rest = stream.read(END_SEARCHED)
    except (OSError, UserError):
        raise
    except Exception as error:  # tarfile raises all kinds on damaged files
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise UserError(f"{file} is not a tar file, or compressed: {reason}") from None
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise UserError(
            f"{file} was cut or damaged: after {len(members)} members it lacks the end of a tar "
            "file; make it or download it again, or leave it out by the pattern"
        )
    return members


def _member(member: tarfile.TarInfo, stream: BinaryIO) -> Member:
    plain = member.isreg() and member.sparse is None
    longest = {LABEL: LABEL_BYTES, CAPTION: CAPTION_BYTES}.get(member.name[-4:], -1)
    text = None
    if plain and member.size <= longest:
        stream.seek(member.offset_data)
        text = stream.read(member.size).decode(errors="replace")
    return Member(member.name, member.offset_data, member.size, member.isdir(), plain, text)


def _label(shard: Shard, member: Member, classes: list[str]) -> str:
    what = f"{shard.url or shard.file}: {printable(member.name)}"
    if member.text is None:
        raise UserError(f"{what} must be a short file with the index of a class")
    text = member.text.strip()
    if not classes:
        raise UserError(
            f"{what} has the index of a class, but no {CLASSES} or classnames.txt names the classes"
        )
    if not text.isdecimal() or int(text) >= len(classes):
        raise UserError(
            f"{what} says {text!r}, which is not an index of one of the {len(classes)} classes"
        )
    return classes[int(text)]
