"""Fixtures: a small encoder, views of real photographs, a finished run, a browser."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from support.commands import run_evaluate, shared_terminal
from support.models import VIT, write_hub_folder
from support.terminal import ROOT

if TYPE_CHECKING:  # takes seconds: the process that hands out the tests needs none of it
    from torch import Tensor

    from clipshift.encode.encoder import Encoder

# Where a test uses two threads, they do not wait busily while other processes have the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
"""Whether this process runs a part of the tests: then another one has begun, and will end last."""
if not ONE_OF_SEVERAL:
    CACHE = tempfile.TemporaryDirectory(prefix="clipshift-cache-")  # is deleted at the end
    os.environ["CLIPSHIFT_CACHE"] = CACHE.name

gc.disable()  # while packages are imported: it would look for garbage in what they make

# The same examples every time; deadlines are for fast machines.
settings.register_profile(
    "clipshift",
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clipshift")


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of the tests fork their commands from one, and keep freed memory.

    The latter is what `clipshift.cli.command.keep_freed_memory` does for a command.
    """
    if not ONE_OF_SEVERAL and config.getoption("numprocesses", None):
        os.environ["CLIPSHIFT_TERMINAL"] = str(shared_terminal().folder)
        os.environ |= {"MALLOC_TRIM_THRESHOLD_": f"{1 << 40}", "MALLOC_MMAP_MAX_": "0"}


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but of what the tests make alone, and less often.

    Not in the process that hands out the tests, which imports nothing of ours.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    gc.enable()
    from support.configurations import keep_parsed_files

    keep_parsed_files()


CHROMIUM = Path("/usr/bin/chromium")


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Make a folder in the first process that requires it, for all processes of the tests."""
    top = tmp_path_factory.getbasetemp()
    if ONE_OF_SEVERAL:
        top = top.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        whole = top / f"{name} is whole"
        with FileLock(top / f"{name}.lock"):
            if not whole.exists():
                make(top / name)
                whole.touch()
        return top / name

    return made


@pytest.fixture(scope="session")
def hub_folder(shared: Shared) -> Path:
    def make(folder: Path) -> None:
        write_hub_folder(folder, VIT)

    return shared("small-vit", make)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def encoder(hub_folder: Path) -> "Encoder":
    from clipshift.encode.kinds import load_encoder

    return load_encoder(f"local-dir:{hub_folder}")


@pytest.fixture(scope="session")
def views() -> "Tensor":
    """Clean views of eight photographs, (8, 3, 224, 224)."""
    import torch

    from clipshift.data.dataset import clean_view
    from clipshift.data.photos import decode
    from clipshift.data.sources import sample

    return torch.stack([clean_view(decode(photo.read()), "squash") for photo in sample()[:8]])


@pytest.fixture(scope="session")
def finished(hub_folder: Path, shared: Shared) -> tuple[Path, str]:
    """A run's folder and its output: five photographs, with everything saved."""

    def make(folder: Path) -> None:
        done = run_evaluate(
            f"model.checkpoint={hub_folder}",
            f"hydra.run.dir={folder}/run",
            "trainer=cpu",
            "data.limit=5",
            "save.embeddings=true",
            "save.views=2",
            "save.gaze=4",
            "layers=true",
        )
        assert done.returncode == 0, done.stderr
        (folder / "stdout.txt").write_text(done.stdout, encoding="utf-8")

    folder = shared("finished", make)
    return folder / "run", (folder / "stdout.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, one per module: it holds the thread's event loop."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process end with their tables, for tests that look at no page or figure."""
    monkeypatch.setattr("clipshift.cli.evaluate.report_run", lambda *_: None)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages in this process come without files of their figures, which take half of their time."""
    for module in ("report.run", "comparison.pair_report"):
        monkeypatch.setattr(f"clipshift.{module}.save_figures", lambda *_: {})


@pytest.fixture(scope="session")
def photos_root() -> Path:
    root = Path(os.environ.get("CLIPSHIFT_PHOTOS", ROOT.parent / "shared" / "photos"))
    if not root.is_dir():
        pytest.skip(f"the shared photographs are not at {root}")
    return root
