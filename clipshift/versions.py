"""What the numbers were made with: versions of packages, and clipshift's own source."""

import hashlib
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


def _code_sha256() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


CODE_SHA256 = _code_sha256()
"""SHA-256 over clipshift's own source, as it was when it was loaded."""
