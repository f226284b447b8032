"""Files and names that users give, looked at before they are relied on."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from clipshift.errors import UserError, printable

JSON_BYTES = 2**26
"""The largest JSON file that is read."""


def existing(path: Any, kind: str, option: str) -> Path:
    """The path, if there is a ``folder``, ``file``, or either; else a `UserError` of the option.

    A name that is a number, as of the folder 2024, comes from the command line as one.
    """
    said = printable(str(path))
    if said != str(path):
        raise UserError(
            f"{said} has characters that no table can hold: rename it or, if they are letters, set "
            "PYTHONUTF8=1",
            option,
        )
    try:
        found = Path(str(path)).expanduser()
        kinds = {"folder": found.is_dir, "file": found.is_file}
        there = kinds.get(kind, found.exists)()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{kind} {path} cannot be read ({reason})", option) from None
    if not there:
        raise UserError(f"no {kind} {path}", option)
    return found


def path_in(top: Path, file: Path) -> str:
    """A file's path below a folder, with slashes; bytes that are not UTF-8 by ``surrogateescape``.

    It is the same whatever the encoding of file names in this process, which is ASCII under
    ``LC_ALL=C PYTHONUTF8=0``.
    """
    return os.fsencode(file.relative_to(top).as_posix()).decode("utf-8", "surrogateescape")


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file, larger than 64 MiB, no JSON in UTF-8, or nested too
            deeply.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > JSON_BYTES:
        raise ValueError(f"it is larger than {JSON_BYTES >> 20} MiB")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
