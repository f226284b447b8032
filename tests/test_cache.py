"""The cache on disk: within its limit, and nothing in it can run, mislead or stop a run."""

import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipshift.data import Cache

PIXELS = {"pixels": torch.arange(3 * 64 * 64, dtype=torch.int32).view(3, 64, 64)}


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Cache, Path]:
    """A cache with one entry, and its file."""
    cache = Cache(str(tmp_path), gigabytes=1)
    cache.set("a", PIXELS)
    [file] = tmp_path.glob("*/*")
    return cache, file


def test_what_was_stored_comes_back_for_its_key_alone(stored: tuple[Cache, Path]) -> None:
    cache, _ = stored
    assert cache.get("a")["pixels"].equal(PIXELS["pixels"])
    assert cache.get("b") is None


def test_what_was_stored_first_goes_first(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), gigabytes=0.002)
    for key in range(40):
        cache.set(str(key), {"pixels": torch.full((3, 224, 224), key, dtype=torch.uint8)})
    cache.shrink()
    assert sum(file.stat().st_size for file in tmp_path.glob("*/*")) <= 2e6
    assert cache.get("0") is None
    assert cache.get("39")["pixels"].eq(39).all()


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed", "followed"])
def test_a_damaged_entry_counts_as_missing_and_is_made_anew(
    stored: tuple[Cache, Path], damage: str
) -> None:
    cache, file = stored
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    file.write_bytes(
        {"cut": content[:-7], "emptied": b"", "followed": content + b"\0",
         "changed": content[:middle] + flipped + content[middle + 1 :]}[damage]
    )  # fmt: skip
    assert cache.get("a") is None
    cache.set("a", PIXELS)
    assert cache.get("a")["pixels"].equal(PIXELS["pixels"])


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_a_pickle_in_the_cache_is_not_run(stored: tuple[Cache, Path], tmp_path: Path) -> None:
    cache, file = stored
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists()  # so the bomb is real
    (tmp_path / "ran").unlink()
    file.write_bytes(bomb)
    assert cache.get("a") is None
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_on_a_full_disk_nothing_is_kept_and_nothing_fails(full_disk: Path) -> None:
    cache = Cache(str(full_disk), gigabytes=1)
    for key in ("a", "b", "c"):
        cache.set(key, PIXELS)
    assert [cache.get(key) is None for key in ("a", "b", "c")] == [False, True, True]
    assert len(list(full_disk.glob("*/*"))) == 1  # and no half of another
