"""Standard output and error that may fail: a full disk, or ``| head -1``.

What a run has measured lies in files, and it goes on writing them.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Output(io.FileIO):
    """A stream of this process that drops what cannot be written.

    Attributes:
        error: Why something was dropped; None where nothing was.
    """

    error: OSError | None = None

    def write(self, content: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(content)
        except OSError as error:
            self.error = error
            return len(content)


@contextmanager
def lenient_output() -> Iterator[None]:
    """Let standard output and error never end a command.

    At its end, exits with code 1 and one line if some of the output could not be written, unless
    its reader has left. Characters that a terminal does not know are shown as ``?``.
    """
    made = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):  # a notebook's, or ours
            continue
        stream.flush()
        raw = made[name] = Output(stream.fileno(), "w", closefd=False)
        unbuffered = stream.write_through  # as PYTHONUNBUFFERED asks for
        below: Any = raw if unbuffered else io.BufferedWriter(raw)  # type: ignore[type-var]
        text = io.TextIOWrapper(
            below, stream.encoding, "replace", None, stream.line_buffering, unbuffered
        )
        setattr(sys, name, text)
    yield
    if "stdout" in made:
        sys.stdout.flush()
        lost = made["stdout"].error
        if lost is not None and lost.errno != errno.EPIPE:
            print(f"error: standard output: {os.strerror(lost.errno or 0)}", file=sys.stderr)
            sys.exit(1)
