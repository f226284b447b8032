"""What the numbers were made with: versions of packages, and clipshift's own source."""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

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


def package_versions() -> dict[str, str]:
    """Versions of clipshift and of the packages that its numbers depend on."""
    return {name: version(name) for name in ("clipshift", *PACKAGES)}


@lru_cache
def code_sha256() -> str:
    """SHA-256 over clipshift's own source."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
