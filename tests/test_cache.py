"""The cache on disk: within its limit, and nothing in it can run, mislead or stop a run."""

import hashlib
import os
import pickle
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load, save
from support.evaluation import measure
from torch import Tensor

from clipshift.data.cache import Cache
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.encode.feature_cache import FeatureCache

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


# --- entries with a valid checksum that are not ours ---------------------------------------------

Tensors = dict[str, Tensor]
POISONS: dict[str, Callable[[Tensors], Tensors]] = {
    "of another shape": lambda entry: {name: t[..., :1].contiguous() for name, t in entry.items()},
    "of another type": lambda entry: {name: t.double() for name, t in entry.items()},
    "not a number": lambda entry: {
        n: torch.full_like(t, torch.nan) if t.is_floating_point() else t for n, t in entry.items()
    },
    "under another name": lambda entry: {f"{name} ": tensor for name, tensor in entry.items()},
    "with more beside": lambda entry: entry | {"layer000": torch.zeros(2, 3)},
    "without a tensor": lambda entry: {},
    "of which one tensor is gone": lambda entry: dict(list(entry.items())[1:]),
}


def measured_table(encoder: Encoder, cache: Cache) -> pd.DataFrame:
    features = FeatureCache(cache, "small")
    return measure(encoder, sample()[:3], ["flip"], cache=cache, features=features)[0]


@pytest.fixture(scope="module")
def filled(
    encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, pd.DataFrame]:
    """A cache with three photos' views and features, and the numbers of the run that filled it."""
    cache = Cache(str(tmp_path_factory.mktemp("cache")), gigabytes=1)
    table = measured_table(encoder, cache)
    assert len(list(cache.folder.glob("*/*"))) == 6
    return cache, table


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("every", [True, False])
def test_poisoned_entries_count_as_missing(
    encoder: Encoder, filled: tuple[Cache, pd.DataFrame], poison: str, every: bool
) -> None:
    cache, expected = filled
    entries = {file: file.read_bytes() for file in sorted(cache.folder.glob("*/*"))}
    for file in list(entries)[:: 1 if every else 2]:
        content = save(POISONS[poison](load(entries[file][32:])))
        file.write_bytes(hashlib.sha256(content).digest() + content)
    pd.testing.assert_frame_equal(measured_table(encoder, cache), expected, check_exact=True)
    for file, content in entries.items():
        file.write_bytes(content)


def test_no_entry_is_read_without_end(stored: tuple[Cache, Path]) -> None:
    cache, file = stored
    os.truncate(file, 2**31)
    assert cache.get("a") is None
    file.unlink()
    os.mkfifo(file)
    assert cache.get("a") is None
    file.unlink()
    file.symlink_to("/dev/zero")
    assert cache.get("a") is None
    cache.set("a", PIXELS)  # in the link's place, not where it points to
    assert cache.get("a")["pixels"].equal(PIXELS["pixels"])
    assert not file.is_symlink()


def forked(function: Callable[[], None]) -> int:
    """A process that runs a function, by its number."""
    process = os.fork()
    if not process:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_processes_may_write_the_same_entries_at_once(tmp_path: Path) -> None:
    def write() -> None:
        cache = Cache(str(tmp_path), 0.001)  # half of it: each removes what the others write
        for turn in range(100):
            key = turn % 40
            found = cache.get(str(key))
            assert found is None or found["x"].eq(key).all()
            cache.set(str(key), {"x": torch.full((50_000,), key, dtype=torch.uint8)})
        assert not cache.has_warned

    writers = [forked(write) for _ in range(3)]
    assert [ended(writer) for writer in writers] == [0, 0, 0]
    assert any(Cache(str(tmp_path), 1).get(str(key)) is not None for key in range(40))


def test_an_entry_that_another_process_evicts_half_way_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evicted(partial: str, file: Path) -> None:
        os.unlink(partial)
        rename(partial, file)

    rename = os.replace
    cache = Cache(str(tmp_path), 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", evicted)
        cache.set("a", PIXELS)
    assert not cache.has_warned
    assert cache.get("a") is None
    cache.set("a", PIXELS)
    assert cache.get("a") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_two_users_may_share_a_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)  # as /tmp: everyone writes, and removes what is theirs
    for parent in tmp_path.parents:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    Cache(str(tmp_path), 1).set("a", PIXELS)

    def of_another_user() -> None:
        os.setuid(65534)
        cache = Cache(str(tmp_path), 0.00001)
        cache.get("a")
        for key in ("a", "b", "c"):
            cache.set(key, PIXELS)
        cache.shrink()

    assert ended(forked(of_another_user)) == 0
    cache = Cache(str(tmp_path), 1)
    assert cache.get("a")["pixels"].equal(PIXELS["pixels"])
