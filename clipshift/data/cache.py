"""The cache: what jobs on the same photos share, kept on disk between them."""

import hashlib
import json
from pathlib import Path

import diskcache
from safetensors.torch import load, save
from torch import Tensor

from clipshift.versions import CODE_SHA256, package_versions


class Cache:
    """Tensors by key on disk, within a size limit; several processes may share one.

    A key holds everything that the tensors depend on, and clipshift's source and the versions of
    its packages belong to every key, so that nothing in the cache is ever out of date. Where the
    limit is passed, what was stored first goes first.

    Args:
        folder: Where it lies; made if missing.
        gigabytes: The size limit.
    """

    def __init__(self, folder: str, gigabytes: float) -> None:
        limit = int(gigabytes * 1e9)
        made_with = json.dumps(package_versions(), sort_keys=True) + CODE_SHA256
        self.made_with = hashlib.sha256(made_with.encode()).hexdigest()
        self.disk = diskcache.Cache(str(Path(folder).expanduser()), size_limit=limit)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the CPU; None where there are none."""
        stored = self.disk.get(f"{self.made_with} {key}")
        return None if stored is None else load(stored)

    def set(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors under a key."""
        self.disk.set(
            f"{self.made_with} {key}",
            save({name: t.cpu().contiguous() for name, t in tensors.items()}),
        )
