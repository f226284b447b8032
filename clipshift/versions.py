"""Provenance of results: versions of packages, clipshift's source, the machine, the command."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "kornia",
    "torchmetrics",
    "pytorch-lightning",
    "numpy",
    "pillow",
    "scipy",
)


@cache
def package_versions() -> dict[str, str]:
    """Versions of clipshift and of the packages that its numbers depend on."""
    return {name: version(name) for name in ("clipshift", *PACKAGES)}


def environment() -> dict[str, str]:
    """Python, operating system and processor."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
    }


def provenance() -> dict[str, Any]:
    """Command, commit, machine, packages and source of a result."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": git_commit(),
        **environment(),
        "versions": package_versions(),
        "code_sha256": CODE_SHA256,
    }


def git_commit() -> str | None:
    """The commit of the checkout that clipshift runs from, with ``+changes`` where files differ.

    None if it does not run from its own checkout, or git is missing.
    """
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def source_sha256(modules: Iterable[str]) -> str:
    """SHA-256 over the names and source files of imported modules."""
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        file = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + b"\0" + (Path(file).read_bytes() if file else b""))
    return digest.hexdigest()


def _processor() -> str:
    try:  # platform.processor() is empty on most Linux systems
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _code_sha256() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted([*package.rglob("*.py"), *package.glob("measure/*.yaml")]):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


CODE_SHA256 = _code_sha256()
"""SHA-256 over clipshift's source when it was loaded."""
