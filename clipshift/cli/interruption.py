"""Signals to stop: one way to do so, which keeps what was measured.

Ctrl-C sends SIGINT, a closed terminal SIGHUP, and clusters send SIGTERM or SIGUSR1 before they take
a node away.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
"""Of a command that was interrupted, whatever the signal."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

_received: list[int] = []
_deferring = False


def interrupted() -> bool:
    """Whether this process was told to stop."""
    return bool(_received)


def stop_on_signals() -> None:
    """Let the signals stop this process: the first in good order, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        os._exit(EXIT_CODE)
    when = " after this step or validation" if _deferring else ""
    print(f"{signal.Signals(number).name}: stopping{when} (again: at once)", file=sys.stderr)
    if not _deferring:
        raise KeyboardInterrupt


@contextmanager
def deferred_stop() -> Iterator[None]:
    """Let the first signal wait for a good moment: what runs within asks `interrupted`.

    Raises:
        KeyboardInterrupt: At the end, if there was a signal that nothing within has answered.
    """
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if interrupted():
        raise KeyboardInterrupt


def leave_to_main_process(_: int) -> None:
    """Let a process that reads photos outlive a signal to all, as Ctrl-C is: the main one stops it.

    SIGTERM is how it does so, where nothing else helps.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
