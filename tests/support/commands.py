"""Commands of clipshift, as a user types them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from support.terminal import ROOT, Started, Terminal

FEW = "metric=cosine_similarity", "prompts=none"
"""Measures that take little time, where a test is not of what is measured."""


@cache
def shared_terminal() -> Terminal:
    """Return the terminal that all tests of this process share, and if several run, of all."""
    return Terminal(folder=os.environ.get("CLIPSHIFT_TERMINAL"))


def run_evaluate(
    *overrides: str, env: dict[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``python evaluate.py``."""
    return run_script("evaluate.py", *overrides, env=env, fresh=fresh)


def run_script(
    script: str,
    *arguments: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout, such as ``evaluate.py``.

    Args:
        script: The file.
        arguments: What follows it on the command line.
        cwd: The folder in which it is run.
        env: Additional variables.
        fresh: In a new Python, for variables that are read when it starts or imports packages.
    """
    command = [str(ROOT / script), *arguments]
    folder = cwd or Path.cwd()
    variables = os.environ | (env or {})
    if not fresh:
        return shared_terminal().run(["python", *command], folder, variables)
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=variables,
    )


def run_code(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ``python -c CODE``, where the packages are already imported."""
    return shared_terminal().run(["python", "-c", code, *arguments], cwd, dict(os.environ))


@contextmanager
def started(script: str, *arguments: str) -> Iterator[Started]:
    """Run a script, or ``-c CODE``; at the end kill what it left, and all that it started."""
    file = script if script == "-c" else str(ROOT / script)
    process = shared_terminal().start(["python", file, *arguments], Path.cwd(), dict(os.environ))
    try:
        yield process
    finally:
        process.kill()
