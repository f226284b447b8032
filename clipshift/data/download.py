"""Files behind an address: brought to this machine once and whole, or read in parts."""

import contextlib
import hashlib
import http.client
import io
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec.core
from filelock import FileLock

from clipshift.errors import UserError, one_line, printable

Result = TypeVar("Result")
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; twice as many before each further one."""
TIMEOUT = 60
CHUNK = 2**20
PASSING = (408, 425, 429)
"""Answers below 500 after which a server may answer otherwise."""


VERSIONS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime")
"""What file systems of `fsspec` call that by which a changed file is known."""


def is_url(root: object) -> bool:
    """Whether a root is an address and not a path; one of `fsspec`'s within another is none."""
    return re.match(r"\w+://", str(root)) is not None


def is_http(root: object) -> bool:
    """Whether an address is one of http(s), from where files can be brought by `fetch`."""
    return str(root).startswith(("http://", "https://"))


def read_url(url: str, limit: int) -> bytes | None:
    """What an address holds, up to so many bytes; None if there is nothing (404).

    Raises:
        UserError: If it cannot be had after five tries.
    """

    def read() -> bytes | None:
        try:
            with _open(url) if is_http(url) else fsspec.open(url, "rb") as stream:
                return stream.read(limit)
        except FileNotFoundError:
            return None
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    return _patiently(url, read)


class RemoteFile(io.RawIOBase):
    """What an address of `fsspec` holds (``https://``, ``s3://``, …), read in parts, with patience.

    Args:
        url: The address.

    Attributes:
        size: How many bytes there are.
        version: What changes when they change, as its ``ETag``; empty if its keeper does not say.

    Raises:
        UserError: If it cannot be had after five tries, as of all that reads it.
    """

    def __init__(self, url: str) -> None:
        self.url, self.place = url, 0
        facts = _patiently(url, lambda: _facts(url))
        self.size = int(facts["size"])
        self.version = next((str(facts[name]) for name in VERSIONS if facts.get(name)), "")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = start + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.size - self.place))
        buffer[:size] = read_part(self.url, self.place, size)
        self.place += size
        return size


def read_part(url: str, start: int, size: int) -> bytes:
    """So many bytes of what an address of `fsspec` holds.

    Raises:
        UserError: If they cannot be had after five tries.
    """

    def read() -> bytes:
        files, path = fsspec.core.url_to_fs(url)
        content = files.cat_file(path, start=start, end=start + size) if size else b""
        if len(content) != size:
            raise ConnectionError(f"{len(content)} bytes came instead of {size}")
        return content

    return _patiently(url, read)


def _facts(url: str) -> dict[str, Any]:
    files, path = fsspec.core.url_to_fs(url)
    try:
        facts = files.info(path)
    except FileNotFoundError:
        with _open(url) if is_http(url) else files.open(path):  # http's says so of any failure
            raise ConnectionError("its length is not told") from None
    if facts.get("size") is None:
        raise ConnectionError("its length is not told")
    return facts


def fetch(url: str, folder: Path) -> Path:
    """The file that an address holds, downloaded unless it is there already.

    It is written as it comes, so that memory does not grow with it. What a broken connection has
    brought is kept, and the rest is asked for. A file that has changed (its ``ETag``,
    ``Last-Modified`` or length) is another one.

    Args:
        url: The address.
        folder: Where files go; made if missing. Several processes may share it.

    Raises:
        UserError: If it cannot be had after five tries, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}", "download") from None
    return _patiently(url, lambda: _fetch(url, folder))


def _fetch(url: str, folder: Path) -> Path:
    with contextlib.ExitStack() as opened:
        response = opened.enter_context(_open(url))
        length = response.headers.get("Content-Length")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        key = hashlib.sha256("\0".join([url, version or "", length or ""]).encode()).hexdigest()
        file = folder / f"{key[:24]}-{Path(url.partition('?')[0]).name}"
        if file.is_file():
            return file
        opened.enter_context(FileLock(f"{file}.lock"))
        partial = Path(f"{file}.part")
        if file.is_file():  # another process was quicker
            return file
        have = partial.stat().st_size if version and length and partial.is_file() else 0
        if have:
            response.close()
            response = opened.enter_context(_open(url, f"bytes={have}-"))
        goes_on = response.status == http.client.PARTIAL_CONTENT
        with partial.open("ab" if goes_on else "wb") as stream:
            shutil.copyfileobj(response, stream, CHUNK)
            size = stream.tell()
        if length is not None and size != int(length):
            raise ConnectionError(f"{size} of {length} bytes came")
        os.replace(partial, file)
    return file


def _open(url: str, part: str | None = None) -> http.client.HTTPResponse:
    headers = {"User-Agent": "clipshift"} | ({"Range": part} if part else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _patiently(url: str, call: Callable[[], Result]) -> Result:
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return call()
        except Exception as error:  # the libraries of file systems raise all kinds
            code = getattr(error, "code", None) or getattr(error, "status", None)
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(code, int):
                reason = f"{code} {getattr(error, 'reason', None) or error}"
                if code < 500 and code not in PASSING:
                    break
            elif isinstance(error, FileNotFoundError | ImportError | ValueError):
                break
    raise UserError(f"{printable(url)} cannot be had: {one_line(reason)}", "root")
