"""A terminal for tests: each command runs in its own process, as a user's does.

Importing Python's packages takes seconds. One process therefore imports them once, and is forked
for every command, each in a session of its own. For a command, this is the same as a new process.
What was imported is kept out of garbage collection, which would otherwise copy all its memory into
every fork: two seconds each.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = [
    "clipshift.cli.evaluate", "clipshift.cli.train", "clipshift.cli.report", "clipshift.comparison",
    "wandb", "open_clip", "pytorch_lightning", "kornia.augmentation",
    "torchmetrics.functional.image",
    "clipshift.measure.per_photo", "skimage", "scipy.stats", "pyarrow.parquet", "altair",
    "vl_convert",
]  # fmt: skip
SECONDS = 600
"""Seconds after which a command counts as hanging."""


class Started:
    """A command under way, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, terminal: "Terminal", words: Sequence[str], said: Path, pid: int) -> None:
        self.terminal, self.words, self.said, self.pid = terminal, words, said, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.terminal.ask("poll", self.pid)
        return self.returncode

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """Wait until it ends; return its standard output and error."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.words} did not end within {timeout} s")
            time.sleep(0.01)
        return self.output("stdout"), self.output("stderr")

    def output(self, name: str) -> str:
        """Return what it has written so far to ``stdout`` or ``stderr``."""
        return (self.said / name).read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with all processes that it started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.communicate()


class Terminal:
    """Runs commands.

    Args:
        env: Additional variables, which packages may read when they are imported.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}) | {"PYTHONPATH": str(ROOT)},
        )
        self.said = tempfile.TemporaryDirectory(prefix="clipshift-said-")
        self.started: list[Started] = []

    def ask(self, *question: Any) -> int | None:
        """Send the other process a question, and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            self.close()
            raise TimeoutError(f"no answer within {SECONDS} s: {question}")
        return json.loads(self.process.stdout.readline())

    def start(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> Started:
        """Start ``clipshift …``, ``python FILE …`` or ``python -c CODE …`` in a new session.

        Args:
            words: The command.
            cwd: The folder in which it is run.
            env: All its environment variables; by default those of the terminal.
        """
        said = Path(tempfile.mkdtemp(dir=self.said.name))
        for name in ("stdout", "stderr"):
            (said / name).touch()
        pid = self.ask("start", list(words), str(cwd), str(said), env)
        assert pid
        self.started.append(Started(self, words, said, pid))
        return self.started[-1]

    def run(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Start a command, and wait until it ends."""
        started = self.start(words, cwd, env)
        started.returncode = self.ask("wait", started.pid)
        return subprocess.CompletedProcess(words, started.returncode, *started.communicate())

    def close(self) -> None:
        """Kill the terminal and its commands."""
        for one in self.started:
            if one.returncode is None:
                os.killpg(one.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class HubHere(urllib.request.HTTPSHandler):
    """Redirects requests for the hub to ``$HF_ENDPOINT``."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        here = os.environ["HF_ENDPOINT"]
        return urllib.request.urlopen(req.full_url.replace("https://huggingface.co", here))


def become(words: list[str], folder: str, said: str, env: dict[str, str] | None) -> None:
    """Run a command in this process."""
    import huggingface_hub.constants
    from wandb.sdk.data_types._private import MEDIA_TMP

    from clipshift.cli import command

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    os.chdir(folder)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
        importlib.reload(huggingface_hub.constants)  # it read the variables when it was imported
        sys.path[:0] = map(os.path.abspath, filter(None, env.get("PYTHONPATH", "").split(":")))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(said, name), os.O_WRONLY), descriptor)
    os.makedirs(
        MEDIA_TMP.name, exist_ok=True
    )  # created by the import, removed by the previous command
    code = words[2] if words[:2] == ["python", "-c"] else None
    sys.argv[:] = words if words[0] != "python" else [words[1], *words[2 if code is None else 3 :]]
    command.ORIGINAL_ARGV[:] = sys.argv
    if code is not None:
        exec(code, {"__name__": "__main__"})
    elif words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__")


if __name__ == "__main__":
    os.setsid()
    sys.path.remove(str(Path(__file__).parent))
    for name in IMPORTED:
        importlib.import_module(name)
    if "HF_ENDPOINT" in os.environ:
        urllib.request.install_opener(urllib.request.build_opener(HubHere))
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        kind, *about = json.loads(line)
        if kind == "start":
            child = os.fork()
            if not child:
                become(*about)
                sys.exit()
            answer: int | None = child
        else:
            ended, status = os.waitpid(about[0], os.WNOHANG if kind == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), flush=True)
