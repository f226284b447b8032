"""How far work is: a bar where someone is looking, and a line every so often in a log file."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from types import TracebackType
from typing import TypeVar

from rich import progress
from rich.console import Console

Item = TypeVar("Item")
SILENT: ContextVar[bool] = ContextVar("silent", default=False)
"""Whether nothing is shown."""
LOG_SECONDS = 30
"""How often a log file gets a line."""


class Progress:
    """Shows how far a piece of work is, on standard error, from its beginning to `close`.

    Args:
        doing: What is done.
        total: Of how many steps; None where that is not known.
        unit: What a step is, in the plural.
    """

    def __init__(self, doing: str, total: int | None = None, unit: str = "") -> None:
        self.doing, self.total, self.unit = doing, total, unit
        self.start, self.ended = time.monotonic(), threading.Event()
        self.bar: progress.Progress | None = None
        self.text = ""
        if SILENT.get():
            return
        console = Console(stderr=True)
        if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):
            columns = (progress.TextColumn(doing), progress.BarColumn(), "{task.fields[text]}")
            clock = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
            self.bar = progress.Progress(*columns, *clock, console=console, transient=True)
            self.bar.start()
            self.bar.add_task(doing, total=total, text="")
        else:
            threading.Thread(target=self._log, daemon=True).start()

    def update(self, done: int, before: int = 0, note: str = "") -> None:
        """Show that more is done.

        Args:
            done: The steps done.
            before: How many of them were done before this began.
            note: What else to show.
        """
        spent = time.monotonic() - self.start
        speed = f", {(done - before) / spent:.2g} {self.unit}/s" if self.unit and spent else ""
        self.text = f"{done:,} of {self.total:,}{speed}{note}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, text=self.text)

    def _log(self) -> None:
        while not self.ended.wait(LOG_SECONDS):
            spent = f"{time.monotonic() - self.start:.0f} s"
            text = ", ".join(filter(None, [self.text, spent]))
            print(f"{self.doing}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End it, without a trace in a terminal."""
        self.ended.set()
        if self.bar is not None:
            self.bar.stop()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: object, trace: TracebackType | None) -> None:
        self.close()


def tracked(items: Sequence[Item], doing: str, unit: str = "") -> Iterator[Item]:
    """The items, with a `Progress` that counts them."""
    with Progress(doing, len(items), unit) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.update(done)
