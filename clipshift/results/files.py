"""Write files whole or not at all, inside the folder that they belong to."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from clipshift.data.files import open_file
from clipshift.errors import UserError

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet runs as a formula."""


UNSAFE = re.compile(r"[^\w .@+=(),-]")
"""Characters that have no place in a file name, whatever the system."""
NAME_LENGTH = 150


def file_name(name: str) -> str:
    """A file's name, on every system, for what a user or a file has named.

    Args:
        name: Any text, as an augmentation's name.

    Returns:
        The text itself where it is safe. Otherwise its safe characters and, so that two names stay
        two, the beginning of its SHA-256.

    Example:
        >>> file_name("noise@matched"), file_name("../../etc/cron")
        ('noise@matched', '_.._etc_cron-51543aa5')
    """
    safe = UNSAFE.sub("_", name).lstrip(".")[:NAME_LENGTH]
    if safe == name and safe.strip():
        return safe
    return f"{safe}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def subfolder(folder: Path, name: str, *, empty: bool = False) -> Path:
    """A folder in a run's folder to write to, made where it is missing.

    Args:
        folder: The run's folder.
        name: Its name there.
        empty: Whether to remove what it holds.

    Raises:
        UserError: If a link or a file has its place: a link may lead out of the run's folder.
    """
    target = folder / name
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target} is not a folder but a link or a file: remove it")
    if empty and target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    return target


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that no half of it is ever seen.

    Not even after a power failure: its content is on the disk before it gets its name. A link in
    its place, or in that of the unfinished file, is replaced and not followed.

    Raises:
        OSError: If it cannot be written, as on a full disk; with the file's name, whatever writes.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        created = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = os.fstat(created).st_mode
        os.close(created)
        write(partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(mode & 0o777)  # safetensors lets nobody else read its files
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        code = error.errno if isinstance(error, OSError) else _system_error(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _system_error(error: SafetensorError) -> int | None:
    """The number of the system's error that safetensors tells of; None for any other."""
    number = re.search(r"(?:os error |Os { code: )(\d+)", str(error))
    return int(number[1]) if number else None


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table to nine digits, with its index where that has a name.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises
    against CSV injection: a photo may be called ``=1+1.jpg``.
    """
    index = table.index.name is not None
    texts = table.select_dtypes(["object", "string"])
    safe = texts.map(lambda cell: f"'{cell}" if str(cell).startswith(FORMULA) else cell)
    escaped = table.assign(**{str(name): safe[name] for name in safe})
    write_whole(path, lambda partial: escaped.to_csv(partial, index=index, float_format="%.9g"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file.
    """
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def data_fingerprint(digests: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over photos' ids and the SHA-256 of their encoded bytes, in the order of ids."""
    digest = hashlib.sha256()
    for photo, content in sorted(digests):
        digest.update(photo.encode() + b"\0" + content)
    return digest.hexdigest()
