"""The cache: what jobs on the same photos share, kept on disk between them."""

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
"""The largest entry that is read."""
DIGEST_BYTES = hashlib.sha256().digest_size


class Cache:
    """Tensors by key in files, within a size limit; several processes may share one.

    A key holds everything that the tensors depend on, and clipshift's source and the versions of
    its packages belong to every key, so that nothing in the cache is ever out of date. A file is
    the SHA-256 of its content, then the content as safetensors, which holds numbers and no code:
    one that was damaged counts as missing. Who reads an entry checks that its tensors are of the
    kind that it stores. What cannot be written is not kept. Where the limit is passed, what was
    stored first goes first.

    Args:
        folder: Where it lies; made if missing.
        gigabytes: The size limit.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(self, folder: str, gigabytes: float) -> None:
        made_with = json.dumps(package_versions(), sort_keys=True) + CODE_SHA256
        self.made_with = hashlib.sha256(made_with.encode()).hexdigest()
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = int(gigabytes * 1e9)
        self.unchecked = 0  # bytes written since the size was last looked at
        self.refused = False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the CPU; None where there are none."""
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
        except (SafetensorError, KeyError, ValueError, RuntimeError):  # as of types torch has not
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
                    os.replace(partial.name, file)
                except OSError:
                    os.unlink(partial.name)
                    raise
        except OSError as error:
            if not self.refused:
                log.warning("the cache in %s keeps nothing more: %s", self.folder, error.strerror)
            self.refused = True
            return
        self.unchecked += len(content)
        if self.unchecked > self.limit / 20:
            self.shrink()

    def shrink(self) -> None:
        """Remove what was stored first until the rest is within the limit."""
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
            with contextlib.suppress(OSError):  # it may be another user's, or gone
                file.unlink()
                total -= size

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(f"{self.made_with} {key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}{ENDING}"
