"""How far work is: a bar where someone is looking, and a line every so often in a log file."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TypeVar

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

    def __init__(
        self, doing: str, total: int | None = None, unit: str = "", before: int = 0
    ) -> None:
        console = Console(stderr=True)
        columns = (progress.TextColumn(doing), progress.BarColumn(), "{task.fields[text]}")
        clock = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
        seen = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))
        silent = SILENT.get()
        disable = bool(silent or not seen)
        super().__init__(*columns, *clock, console=console, transient=True, disable=disable)
        self.unit, self.before, self.ended = unit, before, threading.Event()
        self.add_task(doing, total=total, text="")
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
        task = self.tasks[0]
        while not self.ended.wait(LOG_SECONDS):
            text = ", ".join(filter(None, [task.fields["text"], f"{task.elapsed:.0f} s"]))
            print(f"{task.description}: {text}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End it, without a trace in a terminal."""
        self.ended.set()
        if not self.disable:
            super().stop()


def tracked(items: Sequence[Item], doing: str, unit: str = "") -> Iterator[Item]:
    """The items, with a `Progress` that counts them."""
    with Progress(doing, len(items), unit) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.show(done)  # type: ignore[attr-defined]
