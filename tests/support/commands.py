"""Commands of clipshift, as a user types them."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from support.terminal import ROOT, Terminal


@cache
def shared_terminal() -> Terminal:
    """Return the terminal that all tests of this process share."""
    return Terminal()


def run_evaluate(
    *overrides: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python evaluate.py``."""
    return run_script("evaluate.py", *overrides, env=env)


def run_script(
    script: str, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout, such as ``evaluate.py``.

    With ``env`` it runs in a new Python: packages read some variables when they are imported.
    """
    command = [str(ROOT / script), *arguments]
    folder = cwd or Path.cwd()
    if env is None:
        return shared_terminal().run(["python", *command], folder, dict(os.environ))
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=os.environ | env,
    )
