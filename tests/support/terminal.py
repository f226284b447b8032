"""A terminal for tests: each command runs in its own process, as a user's does.

Importing Python's packages takes seconds. One process therefore imports them once, and is forked
for every command, each in a session of its own: see `forking`. For a command, this is the same as a
new process. Also the Pythons that a command starts, as one process for each device, are forks: for
a command, ``sys.executable`` is `asking`.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.asking import ask, kill_all, read_line

ROOT = Path(__file__).resolve().parents[2]
READ_AT_IMPORT = "CLIPSHIFT_", "HF_", "HOME", "LANG", "LC_", "PYTHON", "WANDB_", "XDG_"
SECONDS = 600
"""Seconds after which a command counts as hanging."""


class Started:
    """A command under way, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, words: Sequence[str], said: Path, link: socket.socket, pid: int) -> None:
        self.words, self.said, self.link, self.pid = words, said, link, pid
        self.returncode: int | None = None

    def poll(self, seconds: float = 0) -> int | None:
        """Return the exit code; None if it has not ended within ``seconds``."""
        if self.returncode is None and select.select([self.link], [], [], seconds)[0]:
            self.returncode = int(read_line(self.link) or -signal.SIGKILL)
            self.link.close()
        return self.returncode

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """Wait until it ends; return its standard output and error."""
        if self.poll(timeout) is None:
            raise TimeoutError(f"{self.words} did not end within {timeout} s")
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
            kill_all(self.pid)
            self.communicate()


def read_at_import(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that packages read when they are imported."""
    return {name: value for name, value in env.items() if name.startswith(READ_AT_IMPORT)}


def shares_process(words: Sequence[str]) -> bool:
    """Whether a command may run in a process after others: a script, alone and without W&B."""
    if words[0] != "python" or not words[1].endswith(("evaluate.py", "train.py", "__main__.py")):
        return False
    silent = "logger=none", "report", "compare", "--help", "--cfg"
    several = "trainer=ddp", "trainer.devices", "hydra/launcher"
    first, *others = (any(word.startswith(of) for word in words) for of in (silent, several))
    return first and not any(others)


class Terminal:
    """Runs commands.

    Args:
        env: Additional variables, which packages may read when they are imported.
        folder: That of a terminal of another process, whose packages are used; None for its own.
    """

    def __init__(self, env: Mapping[str, str] | None = None, folder: str | None = None) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix="clipshift-said-")
        self.folder = Path(folder or self.temporary.name)
        self.python = self.folder / "python"
        """A Python whose packages are already imported."""
        self.env = os.environ | (env or {})
        self.resident: Started | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if folder is None:
            asking = Path(__file__).with_name("asking.py").read_text("utf-8")
            self.python.write_text(f"#!{sys.executable} -IS\n{asking}")
            self.python.chmod(0o755)
            forking = Path(__file__).with_name("forking.py")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self.folder / "socket"))
                listener.listen()
                self.process = subprocess.Popen(
                    [sys.executable, str(forking), str(listener.fileno()), str(self.python)],
                    stdin=subprocess.PIPE,
                    env=os.environ | (env or {}) | {"PYTHONPATH": str(ROOT)},
                    pass_fds=[listener.fileno()],
                )

    def start(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> Started:
        """Start ``clipshift …`` or ``python …`` in a new session.

        Args:
            words: The command.
            cwd: The folder in which it is run.
            env: All its environment variables; by default those of the terminal.
        """
        said = self.new_folder()
        place, variables = str(self.folder / "socket"), dict(self.env if env is None else env)
        with (
            open(os.devnull) as nothing,
            (said / "stdout").open("w") as stdout,
            (said / "stderr").open("w") as stderr,
        ):
            files = {n: one.fileno() for n, one in enumerate((nothing, stdout, stderr))}
            return Started(words, said, *ask(place, list(words), str(cwd), files, variables))

    def run(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Start a command, and wait until it ends.

        Scripts that log nothing to W&B, and measure in one process, share a `resident`.
        """
        if env and shares_process(words) and read_at_import(env) == read_at_import(self.env):
            return self.run_in_resident(words, cwd, env)
        started = self.start(words, cwd, env)
        said = started.communicate()
        return subprocess.CompletedProcess(words, started.returncode, *said)

    def run_in_resident(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in the process that others have run in; if that ended, in a new one."""
        if self.resident is None or self.resident.poll() is not None:
            file, self.place = Path(__file__).with_name("resident.py"), self.new_folder() / "socket"
            self.resident = self.start(["python", str(file), str(self.place)], ROOT, env)
        said = self.new_folder()
        question = [words[1], words[2:], str(cwd), str(said), dict(env)]
        with socket.socket(socket.AF_UNIX) as link:
            while link.connect_ex(str(self.place)):
                assert self.resident.poll(0.01) is None, self.resident.communicate()
            link.settimeout(SECONDS)
            link.sendall(json.dumps(question).encode() + b"\n")
            code = int(read_line(link) or self.resident.poll(SECONDS) or 1)
        texts = ((said / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(words, code, *texts)

    def new_folder(self) -> Path:
        """Make a folder for what a command writes."""
        said = Path(tempfile.mkdtemp(dir=self.temporary.name))
        for name in ("stdout", "stderr"):
            (said / name).touch()
        return said

    def close(self) -> None:
        """Kill the terminal, and with it its commands."""
        if self.process:
            self.process.kill()
            self.process.wait()
