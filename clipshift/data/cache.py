"""A cache on disk, shared by runs on the same photos."""

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipshift.versions import CODE_SHA256, package_versions

log = logging.getLogger(__name__)

ENDING = ".safetensors"
ENTRY_BYTES = 2**30
"""Largest entry that is read."""
DIGEST_BYTES = hashlib.sha256().digest_size


class Cache:
    """Tensors by key in files, within a size limit; several processes may share one.

    A key names everything that the tensors depend on, and clipshift's source and the versions of
    its packages belong to every key, so that entries are never out of date. A file consists of the
    SHA-256 of its content and the content in the safetensors format, which cannot hold code; a
    damaged file counts as missing. Readers of an entry check the types and shapes of its tensors.
    If an entry cannot be written, it is not cached. Above the size limit, the oldest entries are
    removed.

    Args:
        folder: The folder of the cache; created if missing.
        gigabytes: The size limit.

    Raises:
        OSError: If the folder cannot be created.
    """

    def __init__(self, folder: str, gigabytes: float) -> None:
        code = json.dumps(package_versions(), sort_keys=True) + CODE_SHA256
        self.code_sha256 = hashlib.sha256(code.encode()).hexdigest()
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = int(gigabytes * 1e9)
        self.unchecked = 0  # bytes written since the size was last checked
        self.has_warned = False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the CPU; None if the key is not cached."""
        file = self._file(key)
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > ENTRY_BYTES:
                return None
            stored = file.read_bytes()
        except OSError:
            return None
        digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        try:
            return load(content)
        except (SafetensorError, KeyError, ValueError, RuntimeError):  # or unknown dtypes
            return None

    def set(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors under a key."""
        content = save({name: t.cpu().contiguous() for name, t in tensors.items()})
        file = self._file(key)
        try:
            file.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=file.parent, suffix=ENDING, delete=False
            ) as partial:
                try:
                    partial.write(hashlib.sha256(content).digest() + content)
                    partial.close()
                    with contextlib.suppress(FileNotFoundError):  # evicted by another process
                        os.replace(partial.name, file)
                except OSError:
                    os.unlink(partial.name)
                    raise
        except OSError as error:
            if not self.has_warned:
                log.warning("cannot write the cache in %s: %s", self.folder, error.strerror)
            self.has_warned = True
            return
        self.unchecked += len(content)
        if self.unchecked > self.limit / 20:
            self.shrink()

    def shrink(self) -> None:
        """Remove the oldest entries until the rest is within the limit."""
        self.unchecked = 0
        files = []
        for file in self.folder.glob(f"??/*{ENDING}"):
            with contextlib.suppress(OSError):  # another process may have removed it
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):  # another user may own it, or have removed it
                file.unlink()
                total -= size

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(f"{self.code_sha256} {key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}{ENDING}"
