"""Reading files whose names and contents come from users: everything is checked first."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from clipshift.errors import UserError, printable

JSON_BYTES = 2**26
"""Largest JSON file that is read."""
Shape = TypeVar("Shape")


def existing(path: Any, kind: str, option: str) -> Path:
    """The path that an option names, after checking that it exists.

    Args:
        path: The path. A name that is a number, such as that of a folder 2024, may be an integer.
        kind: What it must be: ``folder``, ``file`` or ``folder or file``.
        option: The option, for the error.

    Raises:
        UserError: If it does not exist, is of another kind, or has unprintable characters.
    """
    name = printable(str(path))
    if name != str(path):
        raise UserError(
            f"{name} has characters that tables cannot hold: rename it or, if they are letters, "
            "set PYTHONUTF8=1",
            option,
        )
    try:
        file = Path(name).expanduser()
        exists = {"folder": file.is_dir, "file": file.is_file}.get(kind, file.exists)()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{kind} {path} cannot be read ({reason})", option) from None
    if not exists:
        raise UserError(f"no {kind} {path}", option)
    return file


def path_in(top: Path, file: Path) -> str:
    """A file's path below a folder, with slashes; bytes that are not UTF-8 as ``surrogateescape``.

    It does not depend on the encoding of file names in this process, which is ASCII under
    ``LC_ALL=C PYTHONUTF8=0``.
    """
    return os.fsencode(file.relative_to(top).as_posix()).decode("utf-8", "surrogateescape")


def open_file(file: Path) -> BinaryIO:
    """Open a regular file for reading, but not a device or pipe, which may never end.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is not a regular file.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{file.name} is not a regular file")
    return open(descriptor, "rb")


def read_text(file: Path, limit: int = JSON_BYTES) -> str:
    """Read the text of a regular file in UTF-8.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file, is larger than ``limit`` bytes, or is not UTF-8.
    """
    with open_file(file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{file.name} is larger than {limit >> 10} KiB")
    return content.decode()


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file, larger than 64 MiB, not JSON in UTF-8, or nested
            too deeply.
    """
    try:
        return json.loads(read_text(file))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def typed(shape: "TypeAdapter[Shape]", text: str) -> Shape:
    """Parse JSON as values of given types.

    Args:
        shape: The types, with the keys that are allowed.
        text: The JSON.

    Raises:
        ValueError: If it is not JSON or has another shape: one line that says where it differs.
    """
    try:
        return shape.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
