"""A terminal for tests: each command runs in its own process, as a user's does.

Importing Python's packages takes seconds. One process therefore imports them once, and is forked
for every command. For a command, this is the same as a new process. What was imported is kept out
of garbage collection, which would otherwise copy all its memory into every fork: two seconds each.
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
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPResponse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = [
    "clipshift.cli.evaluate", "clipshift.cli.train", "clipshift.comparison", "altair",
    "kornia.augmentation", "torchmetrics.functional.image", "vl_convert",
]  # fmt: skip
SECONDS = 600
"""Seconds after which a command counts as hanging."""


class Terminal:
    """Runs commands one after another.

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

    def run(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``clipshift …`` or ``python FILE …``.

        Args:
            words: The command.
            cwd: The folder in which it is run.
            env: All its environment variables; by default those of the terminal.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as said:
            print(json.dumps([list(words), str(cwd), said, env]), file=self.process.stdin)
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], SECONDS)[0]:
                self.close()
                raise TimeoutError(f"{words} did not end within {SECONDS} s")
            code = int(self.process.stdout.readline())
            files = [Path(said, name) for name in ("stdout", "stderr")]
            return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))

    def close(self) -> None:
        """Kill the terminal and its command."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class HubHere(urllib.request.HTTPSHandler):
    """Redirects requests for the hub to ``$HF_ENDPOINT``."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        here = os.environ["HF_ENDPOINT"]
        return urllib.request.urlopen(req.full_url.replace("https://huggingface.co", here))


def become(words: list[str], folder: str, said: str, env: dict[str, str] | None) -> None:
    """Run a command in this process."""
    os.chdir(folder)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(said, name), os.O_WRONLY | os.O_CREAT), descriptor)
    from wandb.sdk.data_types._private import MEDIA_TMP

    from clipshift.cli import command

    os.makedirs(
        MEDIA_TMP.name, exist_ok=True
    )  # created by the import, removed by the previous command
    sys.argv[:] = words[1:] if words[0] == "python" else words
    command.ORIGINAL_ARGV[:] = sys.argv
    if words[0] == "python":
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
        child = os.fork()
        if not child:
            become(*json.loads(line))
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
