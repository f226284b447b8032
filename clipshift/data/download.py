"""Files at an address: downloaded once, or read in parts."""

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

Answer = TypeVar("Answer")
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; doubled before each further one."""
TIMEOUT = 60
CHUNK = 2**20
RETRIED_CODES = (408, 425, 429)
"""HTTP status codes below 500 after which a request is tried again."""
VERSION_KEYS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime")
"""Facts of `fsspec`'s file systems by which a changed file is recognised."""


def is_url(root: object) -> bool:
    """Whether a root is an address and not a path; chained addresses of `fsspec` are not."""
    return re.match(r"\w+://", str(root)) is not None


def is_http(root: object) -> bool:
    """Whether an address is one of http(s), which `fetch` can download."""
    return str(root).startswith(("http://", "https://"))


def read_url(url: str, limit: int) -> bytes | None:
    """Read the file at an address, at most ``limit`` bytes; None if there is no file (404).

    Raises:
        UserError: If it cannot be read after five tries.
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

    return _retry(url, read)


class RemoteFile(io.RawIOBase):
    """The file at an address of `fsspec` (``https://``, ``s3://``, …), read in parts, with retries.

    Args:
        url: The address.

    Attributes:
        size: Number of bytes.
        version: Changes when the file does, such as its ``ETag``; empty if the server sends none.

    Raises:
        UserError: If it cannot be read after five tries; so do its methods.
    """

    def __init__(self, url: str) -> None:
        self.url, self.position = url, 0
        facts = _retry(url, lambda: _facts(url))
        self.size = int(facts["size"])
        self.version = next((str(facts[name]) for name in VERSION_KEYS if facts.get(name)), "")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.size - self.position))
        buffer[:size] = read_part(self.url, self.position, size)
        self.position += size
        return size


def read_part(url: str, start: int, size: int) -> bytes:
    """Read ``size`` bytes of the file at an address of `fsspec`, from byte ``start`` on.

    Raises:
        UserError: If they cannot be read after five tries.
    """

    def read() -> bytes:
        files, path = fsspec.core.url_to_fs(url)
        content = files.cat_file(path, start=start, end=start + size) if size else b""
        if len(content) != size:
            raise ConnectionError(f"received {len(content)} bytes instead of {size}")
        return content

    return _retry(url, read)


def _facts(url: str) -> dict[str, Any]:
    files, path = fsspec.core.url_to_fs(url)
    try:
        facts = files.info(path)
    except FileNotFoundError:
        # fsspec's http raises this for any failure: opening it raises the actual one
        with _open(url) if is_http(url) else files.open(path):
            facts = {}
    if facts.get("size") is None:
        raise ConnectionError("the server does not send its length")
    return facts


def fetch(url: str, folder: Path) -> Path:
    """Download the file at an address, unless it has been downloaded already.

    It is written while it arrives, so that memory use does not grow with its size. After a broken
    connection the download is resumed. A file that has changed (its ``ETag``, ``Last-Modified`` or
    length) is downloaded again.

    Args:
        url: The address.
        folder: The folder of the downloads; created if missing. Several processes may share it.

    Raises:
        UserError: If it cannot be downloaded after five tries, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}", "download") from None
    return _retry(url, lambda: _fetch(url, folder))


def _fetch(url: str, folder: Path) -> Path:
    with contextlib.ExitStack() as stack:
        response = stack.enter_context(_open(url))
        length = response.headers.get("Content-Length")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        key = hashlib.sha256("\0".join([url, version or "", length or ""]).encode()).hexdigest()
        file = folder / f"{key[:24]}-{Path(url.partition('?')[0]).name}"
        if file.is_file():
            return file
        stack.enter_context(FileLock(f"{file}.lock"))
        partial = Path(f"{file}.part")
        if file.is_file():  # another process was quicker
            return file
        received = partial.stat().st_size if version and length and partial.is_file() else 0
        if received:
            response.close()
            response = stack.enter_context(_open(url, f"bytes={received}-"))
        is_resumed = response.status == http.client.PARTIAL_CONTENT
        with partial.open("ab" if is_resumed else "wb") as stream:
            shutil.copyfileobj(response, stream, CHUNK)
            size = stream.tell()
        if length is not None and size != int(length):
            raise ConnectionError(f"received {size} of {length} bytes")
        os.replace(partial, file)
    return file


def _open(url: str, byte_range: str | None = None) -> http.client.HTTPResponse:
    headers = {"User-Agent": "clipshift"} | ({"Range": byte_range} if byte_range else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _retry(url: str, call: Callable[[], Answer]) -> Answer:
    """Call a function that reads an address, several times unless an error is permanent."""
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return call()
        except Exception as error:  # the libraries of file systems raise various exceptions
            code = getattr(error, "code", None) or getattr(error, "status", None)
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(code, int):
                reason = f"{code} {getattr(error, 'reason', None) or error}"
                if code < 500 and code not in RETRIED_CODES:
                    break
            elif isinstance(error, FileNotFoundError | ImportError | ValueError):
                break
    raise UserError(f"cannot read {printable(url)}: {one_line(reason)}", "root")
