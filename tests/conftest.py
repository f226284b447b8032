"""Fixtures: a small encoder, views of real photographs, a finished run, a browser."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from support.commands import run_evaluate
from support.models import VIT, write_hub_folder
from support.terminal import ROOT

if TYPE_CHECKING:  # takes seconds: the process that hands out the tests needs none of it
    from torch import Tensor

    from clipshift.encode.encoder import Encoder

CACHE = tempfile.TemporaryDirectory(prefix="clipshift-cache-")  # is deleted when the tests end
os.environ["CLIPSHIFT_CACHE"] = CACHE.name

# The same examples every time; deadlines are for fast machines.
settings.register_profile(
    "clipshift",
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clipshift")

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_folder(tmp_path_factory.mktemp("hub") / "small-vit", VIT)


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
def finished(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder and its output: five photographs, with everything saved."""
    folder = tmp_path_factory.mktemp("run")
    done = run_evaluate(
        f"model.checkpoint={hub_folder}",
        f"hydra.run.dir={folder}",
        "trainer=cpu",
        "data.limit=5",
        "save.embeddings=true",
        "save.views=2",
        "save.gaze=4",
        "layers=true",
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, one per module: it holds the thread's event loop."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def photos_root() -> Path:
    root = Path(os.environ.get("CLIPSHIFT_PHOTOS", ROOT.parent / "shared" / "photos"))
    if not root.is_dir():
        pytest.skip(f"the shared photographs are not at {root}")
    return root
