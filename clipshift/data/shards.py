"""Photos in WebDataset shards: tar files that hold ``KEY.jpg`` (or ``.png``, …) and ``KEY.cls``."""

import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from pydantic import TypeAdapter

from clipshift.data.download import RemoteFile, fetch, is_http, is_url, read_part, read_url
from clipshift.data.files import existing, path_in, read_json, read_text, typed
from clipshift.data.listing import Listing
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_labels
from clipshift.errors import UserError, printable

CLASSES = "classes.json"
LABEL, CAPTION = ".cls", ".txt"
LABEL_BYTES = 32
"""Largest ``KEY.cls``."""
CAPTION_BYTES = 2**16
"""Largest ``KEY.txt``."""
TEXT_BYTES = 2**20
"""Largest ``classnames.txt``."""
END_BYTES = 2**20
"""The bytes after the last member, up to this many, must be at least 512 zeros: the tar's end."""
STREAM_BYTES = 2**22
"""Number of bytes that are requested at once while a streamed shard is listed."""


@dataclass(frozen=True)
class StreamedPhoto(Photo):
    """A photo in a shard that is not downloaded.

    Args:
        url: The shard's address.
        version: Changes when the shard does.
    """

    url: str = ""
    version: str = ""

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            FileNotFoundError: If it cannot be read after five tries; later it may be available.
        """
        try:
            return read_part(self.url, self.offset, self.length())
        except UserError as error:
            raise FileNotFoundError(errno.ENOENT, str(error), self.url) from None

    def excerpt(self) -> None:
        """None, because every excerpt would be a request."""

    def digest(self) -> bytes:
        """SHA-256 of the shard's version and the photo's place in it, without a request."""
        return hashlib.sha256(repr((self.url, self.version, self.offset)).encode()).digest()


@dataclass(frozen=True)
class Member:
    """An entry of a tar file.

    Attributes:
        name: Its name, with the extension.
        offset: Start of its content, in bytes.
        size: Size of its content, in bytes.
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


MEMBERS: TypeAdapter[list[Member]] = TypeAdapter(list[Member])
NAMES: TypeAdapter[list[str]] = TypeAdapter(list[str])


@dataclass(frozen=True)
class Shard:
    """A shard and its members.

    Attributes:
        name: Its path below the root, without the extension.
        members: Its members.
        file: Its file.
        url: Its address, if it is streamed.
        version: Changes when the file at the address does.
    """

    name: str
    members: list[Member]
    file: Path
    url: str = ""
    version: str = ""

    def photo(self, member: Member, label: str | None, captions: tuple[str, ...]) -> Photo:
        """The photo of a member."""
        name = photo_id(f"{self.name}/{member.name.rpartition('.')[0]}")
        facts = (name, self.file, member.offset, member.size, label, captions)
        if self.url:
            return StreamedPhoto(*facts, url=self.url, version=self.version)
        return Photo(*facts)


def class_names(root: str | Path) -> list[str]:
    """The English names of the classes, in class order: ``names`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file, or it is damaged.
    """
    return class_labels(_read_classes(root, "names"))


def class_wnids(root: str | Path) -> list[str]:
    """The WordNet ids of the classes, in class order: ``wnids`` in ``root/classes.json``.

    Raises:
        UserError: If there is no such folder or file.
    """
    return _read_classes(root, "wnids")


def shards(
    root: str | Path,
    pattern: str = "*.tar",
    split: str = "test",
    download: str | None = None,
    stream: bool = False,
) -> list[Photo]:
    """Index the photos of a folder's shards without decoding them.

    The files in the folder decide about the layout. ``SPLIT/nshards.txt`` makes it CLIP_benchmark's
    (`clip_benchmark.webdataset_builder`): shards ``SPLIT/0.tar``, ``SPLIT/1.tar``, …, and the names
    of the classes in ``classnames.txt``. Without it, all tar files that match the pattern are read,
    and the names come from ``classes.json`` or ``classnames.txt``.

    Args:
        root: The folder; or its address in CLIP_benchmark's layout, such as the page of a data set
            on the Hugging Face hub (``…/tree/main``).
        pattern: Glob of the tar files; in CLIP_benchmark's layout, of their names.
        split: The folder of CLIP_benchmark's layout.
        download: Folder for shards that are downloaded over http(s), see
            `clipshift.data.download.fetch`; by default ``downloads`` in ``$CLIPSHIFT_CACHE`` or
            ``~/.cache/clipshift``. The list of members of streamed shards is also stored there.
        stream: Whether not to download the shards of an address: each photo is requested when it is
            measured. Addresses that are not http(s) are always streamed, by `fsspec`.

    Returns:
        The photos in the order of the shards, then of their position in the shard, and then what is
        left out (`Photo.left_out`). The id is ``SHARD/KEY``, where SHARD is the shard's path below
        ``root`` without the extension; the label is the class name that ``KEY.cls`` points to
        (``None`` without it), and each line of ``KEY.txt`` is a caption. If several photos have the
        same key, the first counts.

    Raises:
        UserError: If there is no such folder or address, no shard matches or has a photo, the names
            of the classes are missing or damaged, a shard is not a tar file or is truncated, a
            ``.cls`` names no class, or two photos have the same id.
    """
    source = _ShardFolder(root)
    downloads = download or os.environ.get("CLIPSHIFT_CACHE", "~/.cache/clipshift") + "/downloads"
    top = Path(downloads).expanduser() if source.is_remote else existing(root, "folder", "root")
    count = source.text(f"{split}/nshards.txt")
    if count is not None:
        if not count.strip().isdecimal():
            raise UserError(f"{source}/{split}/nshards.txt must hold the number of shards", "root")
        numbers = range(int(count))
        paths = [f"{split}/{n}.tar" for n in numbers if fnmatch.fnmatch(f"{n}.tar", pattern)]
    elif source.is_remote:
        raise UserError(
            f"no {source}/{split}/nshards.txt: shards at an address must have the layout of "
            "CLIP_benchmark; check the address and data.split",
            "root",
        )
    else:
        files = [] if Path(pattern).is_absolute() else sorted(top.glob(pattern))
        paths = [file.relative_to(top).as_posix() for file in files]
    if not paths:
        has_files = source.is_remote or any(top.iterdir())
        raise UserError(f"no shards {pattern} in folder {root}", "pattern" if has_files else "root")
    names = source.class_names()
    listing = Listing(top)
    for path in paths:
        name, url = path_in(top, (top / path).with_suffix("")), f"{source}/{path}"
        if source.is_remote and (stream or not is_http(url)):
            shard = _streamed_shard(name, url, top)
        else:
            shard = _local_shard(name, fetch(url, top) if source.is_remote else top / path)
        _list_photos(shard, names, listing)
    listed = listing.listed()
    if not listing.photos:
        raise UserError(
            f"no photos in the shards {pattern} of folder {root}{listing.summary()}", "pattern"
        )
    return listed


def shard_templates(root: str | Path) -> list[str] | None:
    """The prompts of CLIP_benchmark's shards, with ``{}`` for the class; None if they have none.

    Args:
        root: The folder or address, see `shards`.

    Raises:
        UserError: If ``zeroshot_classification_templates.txt`` is damaged.
    """
    text = _ShardFolder(root).text("zeroshot_classification_templates.txt")
    lines = (line.strip().replace("{c}", "{}") for line in (text or "").splitlines())
    return [line for line in lines if line] or None


class _ShardFolder:
    """A folder of shards, on this machine or at an address."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        self.is_remote = is_url(root)
        if self.root.startswith("https://huggingface.co/datasets/"):  # from its page to its files
            self.root = self.root.replace("/tree/", "/resolve/", 1)

    def __str__(self) -> str:
        return self.root

    def text(self, name: str) -> str | None:
        """Read a short text file; None if it does not exist.

        Raises:
            UserError: If it cannot be read.
        """
        file = Path(self.root).expanduser() / name
        try:
            if not self.is_remote:
                text = read_text(file, TEXT_BYTES) if os.path.lexists(file) else None
            elif (content := read_url(f"{self}/{name}", TEXT_BYTES + 1)) is None:
                text = None
            elif len(content) > TEXT_BYTES:
                raise ValueError(f"it is larger than {TEXT_BYTES >> 10} KiB")
            else:
                text = content.decode()
            return text and text.removeprefix("\ufeff")  # a byte order mark
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self}/{name} is damaged: {reason}", "root") from None

    def class_names(self) -> list[str]:
        """The names of the classes; empty if no file defines them."""
        if not self.is_remote and os.path.lexists(Path(self.root).expanduser() / CLASSES):
            return class_names(self.root)
        text = self.text("classnames.txt") or ""
        return class_labels([printable(n.strip()) for n in text.splitlines() if n.strip()])


def _read_classes(root: str | Path, column: str) -> list[str]:
    file = existing(root, "folder", "root") / CLASSES
    try:
        names = NAMES.validate_python(read_json(file)[column], strict=True)
        return [printable(name) for name in names]
    except FileNotFoundError:
        raise UserError(
            f"no {file}: the folder of the shards must have this file, which names the classes"
        ) from None
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{file} is damaged: it must hold {column}, a list of texts, as JSON"
        ) from None


def _list_photos(shard: Shard, classes: list[str], listing: Listing) -> None:
    """Add the photos of a shard to a listing."""
    labels: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for member in shard.members:
        key = member.name.rpartition(".")[0]
        if member.name.endswith(LABEL):
            labels.setdefault(key, _read_label(shard, member, classes))
        elif member.text is not None:
            lines = (printable(line.strip()) for line in member.text.splitlines() if line.strip())
            captions.setdefault(key, tuple(lines))
    first_names: dict[str, str] = {}
    for member in shard.members:
        key = member.name.rpartition(".")[0]
        if member.folder or member.name.endswith(LABEL) or member.text is not None:
            continue
        path = f"{shard.name}/{member.name}"
        if not member.plain:
            listing.leave_out(path, shard.file, "a link or special file in its shard")
        elif listing.takes(path, shard.file):
            first = first_names.setdefault(key, member.name)
            if first is member.name:
                photo = shard.photo(member, labels.get(key), captions.get(key, ()))
                listing.photos.append(photo)
            else:
                reason = f"{printable(first)} before it has the same key"
                listing.leave_out(path, shard.file, reason)


def _local_shard(name: str, file: Path) -> Shard:
    try:
        if not file.is_file():
            raise UserError(f"{file} is not a regular file: the pattern must name tar files")
        with file.open("rb") as stream:
            return Shard(name, _read_members(stream, file), file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}") from None


def _streamed_shard(name: str, url: str, folder: Path) -> Shard:
    """A shard at an address, whose list of members is stored in a folder."""
    remote = RemoteFile(url)
    key = hashlib.sha256("\0".join([url, remote.version, str(remote.size)]).encode()).hexdigest()
    stored = folder / f"{key[:24]}-{Path(url).stem}.json"
    shard = partial(Shard, name, file=Path(url), url=url, version=remote.version)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{stored}.lock"):
            with contextlib.suppress(OSError, ValueError):
                return shard(typed(MEMBERS, read_text(stored)))
            members = _read_members(io.BufferedReader(remote, STREAM_BYTES), url)
            unfinished = Path(f"{stored}.part")
            unfinished.write_bytes(MEMBERS.dump_json(members))
            unfinished.replace(stored)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", "download") from None
    return shard(members)


def _read_members(stream: BinaryIO, file: Path | str) -> list[Member]:
    """List the members of a tar file, and check its end: tarfile takes any damage for the end."""
    members = []
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as tar:
            for member in tar:
                # tarfile would go backwards and loop forever
                if member.size < 0 or tar.offset < member.offset_data:
                    raise tarfile.ReadError("a member has a negative size")
                members.append(_read_member(member, stream))
            stream.seek(tar.offset)
            end = stream.read(END_BYTES)
    except (OSError, UserError):
        raise
    except Exception as error:  # tarfile raises various exceptions for damaged files
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise UserError(f"{file} is not a tar file, or compressed: {reason}") from None
    if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise UserError(
            f"cannot read {file}: it is truncated or damaged after {len(members)} members. Create "
            "or download it again, or exclude it by the pattern"
        )
    return members


def _read_member(member: tarfile.TarInfo, stream: BinaryIO) -> Member:
    plain = member.isreg() and member.sparse is None
    limit = {LABEL: LABEL_BYTES, CAPTION: CAPTION_BYTES}.get(member.name[-4:], -1)
    text = None
    if plain and member.size <= limit:
        stream.seek(member.offset_data)
        text = stream.read(member.size).decode(errors="replace")
    return Member(member.name, member.offset_data, member.size, member.isdir(), plain, text)


def _read_label(shard: Shard, member: Member, classes: list[str]) -> str:
    """The class that a ``KEY.cls`` points to."""
    name = f"{shard.url or shard.file}: {printable(member.name)}"
    if member.text is None:
        raise UserError(f"{name} must be a short file with the index of a class")
    index = member.text.strip()
    if not classes:
        raise UserError(
            f"{name} has the index of a class, but no {CLASSES} or classnames.txt names the classes"
        )
    if not index.isdecimal() or int(index) >= len(classes):
        raise UserError(f"{name}: {index!r} is not an index of one of the {len(classes)} classes")
    return classes[int(index)]
