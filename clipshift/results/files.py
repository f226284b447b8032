"""Files, each written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet runs as a formula."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that no half of it is ever seen.

    Not even after a power failure: its content is on the disk before it gets its name.
    """
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table to nine digits, with its index where that has a name.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises
    against CSV injection: a photo may be called ``=1+1.jpg``.
    """
    index = table.index.name is not None
    texts = table.select_dtypes(["object", "string"])
    safe = texts.map(lambda cell: f"'{cell}" if str(cell).startswith(FORMULA) else cell)
    made = table.assign(**{str(name): safe[name] for name in safe})
    write_whole(path, lambda partial: made.to_csv(partial, index=index, float_format="%.9g"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def data_fingerprint(digests: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over photos' ids and the SHA-256 of their encoded bytes, in the order of ids."""
    digest = hashlib.sha256()
    for photo, content in sorted(digests):
        digest.update(photo.encode() + b"\0" + content)
    return digest.hexdigest()
