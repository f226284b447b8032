"""Forks that have all packages: what was imported once is there for every command of the tests.

It is kept out of garbage collection, which would otherwise copy all its memory into every fork: two
seconds each.

A fork lacks the threads that libraries started when they were imported. At exit C++ would join
them, and abort: onnxruntime does, which kornia 0.8.0 imports. A command therefore ends before,
after all that Python does at exit (`finish`).
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import urllib.request
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

if __package__:
    from support.asking import kill_all, read_line
else:  # as a script
    from asking import kill_all, read_line

IMPORTED = [
    "wandb.sdk.launch",  # its classes search all modules for their source: seconds after the others
    "clipshift.cli.evaluate", "clipshift.cli.train", "clipshift.cli.report", "clipshift.comparison",
    "open_clip", "pytorch_lightning", "kornia.augmentation", "torchmetrics.functional.image",
    "clipshift.measure.per_photo", "skimage", "scipy.stats", "pyarrow.parquet", "altair",
    "vl_convert",
]  # fmt: skip
PR_SET_PDEATHSIG = 1
"""Of ``prctl``: the signal that a process receives when its parent has died."""


class HubHere(urllib.request.HTTPSHandler):
    """Redirects requests for the hub to ``$HF_ENDPOINT``."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        here = os.environ["HF_ENDPOINT"]
        return urllib.request.urlopen(req.full_url.replace("https://huggingface.co", here))


def become(words: list[str], folder: str, files: dict[int, int], env: dict[str, str]) -> None:
    """Run a command in this process.

    Args:
        words: ``clipshift …`` or ``python …``.
        folder: Where.
        files: Its open files, by the numbers that they have for it: 0 to 2 are the standard ones.
        env: All its environment variables.
    """
    import huggingface_hub.constants
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only
    from wandb.sdk.data_types._private import MEDIA_TMP

    from clipshift.cli import command

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    importlib.reload(huggingface_hub.constants)  # it read the variables when it was imported
    rank_zero_only.rank = _get_rank() or 0  # so did this
    sys.path[:0] = map(os.path.abspath, filter(None, env.get("PYTHONPATH", "").split(":")))
    for number, file in files.items():
        os.dup2(file, number)
        os.close(file)
    # that of the import is removed by whichever command ends first
    MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")
    atexit.register(shutil.rmtree, MEDIA_TMP.name, ignore_errors=True)
    words = words[1:] if words[0] == "python" else ["-m", *words]
    while words[0].startswith("-") and words[0] not in ("-c", "-m"):  # such as -u
        del words[0]
    option = words.pop(0) if words[0] in ("-c", "-m") else None
    code, *arguments = words
    sys.argv[:] = ["-c" if option == "-c" else code, *arguments]
    command.ORIGINAL_ARGV[:] = sys.argv
    if option == "-c":
        exec(code, {"__name__": "__main__"})
    elif option == "-m":
        runpy.run_module(code, run_name="__main__")
    else:
        runpy.run_path(code, run_name="__main__")


def finish(ending: dict[str, BaseException]) -> None:
    """End this process with Python's exit code, without C++'s exit: the last call of ``atexit``.

    Args:
        ending: The ``error`` that ends it, if any.
    """
    error = ending.get("error")
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    code = error.code if isinstance(error, SystemExit) else error and 1
    os._exit(code if isinstance(code, int) else int(code is not None))


class Server:
    """Forks this process for whoever asks at its socket; ends with the process that started it."""

    def __init__(self, ending: dict[str, BaseException]) -> None:
        self.ending = ending
        self.listener = socket.socket(fileno=int(sys.argv[1]))
        self.links: dict[int, socket.socket] = {}
        """Who asked for a process, by its number."""
        self.woken, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waking)

    def serve(self) -> None:
        """Answer until standard input is closed."""
        while True:
            watched = [sys.stdin, self.listener, self.woken, *self.links.values()]
            for ready in select.select(watched, [], [])[0]:
                if ready is sys.stdin:
                    return
                if ready is self.listener:
                    self.start(self.listener.accept()[0])
                elif ready == self.woken:
                    os.read(self.woken, 4096)
                else:
                    self.give_up(ready)
            self.collect()

    def start(self, link: socket.socket) -> None:
        """Fork for one who asks."""
        _, given, *_ = socket.recv_fds(link, 1, 250)
        words, folder, numbers, env = json.loads(read_line(link))
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self.listener, link, *self.links.values()):
                one.close()
            high = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in given]
            for file in given:
                os.close(file)
            try:
                become(words, folder, dict(zip(numbers, high, strict=True)), env)
                sys.exit()
            except BaseException as error:
                self.ending["error"] = error
                raise
        for file in given:
            os.close(file)
        link.sendall(b"%d\n" % child)
        self.links[child] = link

    def collect(self) -> None:
        """Send the exit codes of processes that have ended."""
        with suppress(ChildProcessError):
            while (of := os.waitpid(-1, os.WNOHANG))[0]:
                if link := self.links.pop(of[0], None):
                    with link, suppress(OSError):
                        link.sendall(b"%d\n" % os.waitstatus_to_exitcode(of[1]))

    def give_up(self, link: socket.socket) -> None:
        """Kill the process of one who has gone, with all that it started."""
        for child in [child for child, other in self.links.items() if other is link]:
            kill_all(child)
            self.links.pop(child).close()


if __name__ == "__main__":
    ending: dict[str, BaseException] = {}
    atexit.register(finish, ending)  # registered first, it is called last
    os.setsid()
    sys.path[sys.path.index(str(Path(__file__).parent))] = str(Path(__file__).parents[1])
    gc.disable()  # nothing imported is garbage
    for name in IMPORTED:
        importlib.import_module(name)
    from support.configurations import keep_parsed_files

    keep_parsed_files()
    if "HF_ENDPOINT" in os.environ:
        urllib.request.install_opener(urllib.request.build_opener(HubHere))
    sys.executable = sys.argv[2]
    gc.freeze()
    gc.enable()
    Server(ending).serve()
