"""Runs clipshift's commands as a user does, each in a process of its own.

Python and its packages take seconds to start. So one process imports them once and is forked for
every command; what a command sees of its own process is the same.
"""

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = [
    "clipshift.cli.evaluate", "clipshift.cli.train", "clipshift.comparison", "altair",
    "kornia.augmentation", "torchmetrics.functional.image", "vl_convert", "wandb",
]  # fmt: skip
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(IMPORTED)


def run_script(
    script: str, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python evaluate.py …`` or another script of the project's, to its end.

    Args:
        script: ``evaluate.py`` or ``train.py``.
        arguments: What follows it.
        cwd: The folder it is called in.
        env: Variables beside those there are. Packages read some when they are imported, so that
            the process is a new one.
    """
    command = [sys.executable, str(ROOT / script), *arguments]
    if env is not None:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
            env=os.environ | env,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        process = WARM.Process(
            target=_run, args=(command[1:], said, cwd or Path.cwd(), dict(os.environ))
        )
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{script} {arguments} has not ended")
        assert process.exitcode is not None
        return subprocess.CompletedProcess(
            command, process.exitcode, *(file.read_text() for file in said)
        )


def _run(argv: list[str], said: list[Path], cwd: Path, env: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), line_buffering=number == 2)
        for number in (1, 2)
    )
    from clipshift.cli import command

    sys.argv[:] = command.TYPED[:] = argv
    runpy.run_path(argv[0], run_name="__main__")
