"""One command after the other in one process, each with streams, folder and variables of its own.

What a process does once, such as starting the engine that draws charts, takes as long as a small
run. Commands that show nothing of a process of their own share it here: see `Terminal.run`.
"""

import json
import logging
import os
import runpy
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from clipshift.cli import command, interruption


@contextmanager
def own_state(folder: str, said: str, env: dict[str, str]) -> Iterator[None]:
    """Give a command what a process of its own would have, and take it back."""
    handlers = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    loggers = {name: logging.getLogger(name) for name in [None, *logging.root.manager.loggerDict]}
    logged = {n: (one.handlers[:], one.level, one.disabled) for n, one in loggers.items()}
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(said, name), os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    try:
        with warnings.catch_warnings():  # also, each is shown again
            yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, (at, level, disabled) in logged.items():
            loggers[name].handlers[:], loggers[name].disabled = at, disabled
            loggers[name].setLevel(level)


def exit_code(script: str, words: list[str]) -> int:
    """Run a script to its end."""
    sys.argv[:] = [script, *words]
    command.ORIGINAL_ARGV[:] = sys.argv
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(place: str) -> None:
    """Answer each question at a socket: a command, by its exit code."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        while True:
            link, _ = listener.accept()
            with link, link.makefile() as asked:
                script, words, folder, said, env = json.loads(asked.readline())
                with own_state(folder, said, env):
                    code = exit_code(script, words)
                link.sendall(b"%d\n" % code)


if __name__ == "__main__":
    main(sys.argv[1])
