"""Files over http(s): brought to this machine once, and whole."""

import contextlib
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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


def is_url(root: object) -> bool:
    """Whether a root is an address and not a path."""
    return str(root).startswith(("http://", "https://"))


def read_url(url: str, limit: int) -> bytes | None:
    """What an address holds, up to so many bytes; None if there is nothing (404).

    Raises:
        UserError: If it cannot be had after five tries.
    """

    def read() -> bytes | None:
        try:
            with _open(url) as response:
                return response.read(limit)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    return _patiently(url, read)


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
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code < 500 and error.code not in PASSING:
                break
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise UserError(f"{printable(url)} cannot be had: {one_line(reason)}", "root")
