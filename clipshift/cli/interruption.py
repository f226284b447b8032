"""Signals to stop: the process ends in one way, and keeps what was measured.

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
    """Only note the first signal: the code in this context checks `interrupted` and stops itself.

    Raises:
        KeyboardInterrupt: On exit, if there was a signal.
    """
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if interrupted():
        raise KeyboardInterrupt


def ignore_signals(_: int) -> None:
    """Ignore signals in a process that reads photos: Ctrl-C reaches it, but the main one ends it.

    SIGTERM still ends it, quietly, because multiprocessing itself sends that.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
