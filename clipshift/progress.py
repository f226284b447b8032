"""How far work is: a bar where someone is looking, and a line every so often in a log file."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import ClassVar, TypeVar

from rich import progress
from rich.console import Console

Item = TypeVar("Item")
SILENT: ContextVar[bool] = ContextVar("silent", default=False)
"""Whether nothing is shown."""
LOG_SECONDS = 30
"""How often a log file gets a line."""


@contextmanager
def silenced(silent: bool) -> Iterator[None]:
    """Show nothing inside a ``with`` block, if so wished."""
    token = SILENT.set(silent)
    try:
        yield
    finally:
        SILENT.reset(token)


class Progress(progress.Progress):
    """How far a piece of work is, on standard error, from now until `stop`.

    Args:
        doing: What is done.
        total: Of how many steps; None where that is not known.
        unit: What a step is, in the plural.
        before: How many of them were done before.
    """

    current: ClassVar["Progress | None"] = None

    def __init__(
        self, doing: str, total: int | None = None, unit: str = "", before: int = 0
    ) -> None:
        console = Console(stderr=True)
        columns = ("{task.description}", progress.BarColumn(), "{task.fields[text]}")
        clock = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
        seen = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))
        silent = SILENT.get()
        disable = bool(silent or not seen)
        super().__init__(*columns, *clock, console=console, transient=True, disable=disable)
        self.unit, self.before, self.ended = unit, before, threading.Event()
        self.add_task(doing, total=total, text="")
        Progress.current = self
        self.start()
        if not seen and not silent:
            threading.Thread(target=self._log, daemon=True).start()

    def show(self, done: int, note: str = "") -> None:
        """Show how many steps are done, and a note."""
        task = self.tasks[0]
        speed = (done - self.before) / (task.elapsed or 1e-9)
        speeds = f", {speed:.2g} {self.unit}/s" if self.unit else ""
        self.update(task.id, completed=done, text=f"{done:,} of {task.total:,}{speeds}{note}")

    def _log(self) -> None:
        while not self.ended.wait(LOG_SECONDS):
            task = self.tasks[-1]
            text = ", ".join(filter(None, [task.fields["text"], f"{task.elapsed:.0f} s"]))
            print(f"{task.description}: {text}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End it, without a trace in a terminal."""
        self.ended.set()
        Progress.current = None
        if not self.disable:
            super().stop()


def tracked(items: Sequence[Item], doing: str, unit: str = "") -> Iterator[Item]:
    """The items, with a `Progress` that counts them."""
    with Progress(doing, len(items), unit) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.show(done)  # type: ignore[attr-defined]


def counted(items: Sequence[Item], doing: str, total: int, before: int) -> Iterator[Item]:
    """The items, with a line that counts them below the `Progress` that is shown, if any is.

    Args:
        items: A part of a longer piece of work.
        doing: What is done.
        total: How many items that work has.
        before: How many of them were done before.
    """
    if (shown := Progress.current) is None:
        yield from items
        return
    line = shown.add_task(doing, total=total, completed=before, text="")
    for done, item in enumerate(items, before + 1):
        yield item
        shown.update(line, completed=done, text=f"{done:,} of {total:,}")
    shown.remove_task(line)
