"""Fixtures: small encoders in the hub's own format, and views of real photographs."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.utils import get_class
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from clipshift.augment import Augmentation
from clipshift.command import compose_config
from clipshift.config import plain
from clipshift.data import clean_view, decode, sample
from clipshift.encode import Encoder, load_encoder
from clipshift.evaluation import make_augmentations
from clipshift.measure import COLUMNS
from clipshift.trainer import make_trainer

os.environ["CLIPSHIFT_CACHE"] = tempfile.mkdtemp(prefix="clipshift-cache-")

# The same examples every time; deadlines are for fast machines.
settings.register_profile(
    "clipshift",
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clipshift")

ROOT = Path(__file__).resolve().parent.parent
MEASURED = COLUMNS | {
    name: get_class(node["_target_"]).facts
    for file in (ROOT / "conf/metric").glob("*.yaml")
    for name, node in yaml.safe_load(file.read_text()).items()
    if name != "defaults"
}
"""What every column means that clipshift can measure."""
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}


def run_evaluate(
    *overrides: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python evaluate.py`` as a user runs it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *overrides],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | (env or {}),
    )  # fmt: skip


def configured(choice: str) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations of a choice of ``aug``, and their ladders."""
    return make_augmentations(plain(compose_config("evaluate", [f"aug={choice}"]).aug))


def first_loss(module: pl.LightningModule, batch: Any) -> float:
    """The loss that a training logs for its first step, on one batch."""
    trainer = make_trainer(
        {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "max_steps": 1},
        logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None), DataLoader([]))  # type: ignore[arg-type]
    return trainer.callback_metrics["train/loss"].item()


def write_hub_folder(folder: Path, vision: dict, seed: int = 0) -> Path:
    """A model with random weights, as the hub keeps it: config and safetensors in one folder."""
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    for parameter in model.visual.parameters():
        if parameter.ndim == 1:  # norms and biases start at 1 and 0: make them matter
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_folder(tmp_path_factory.mktemp("hub") / "small-vit", VIT)


@pytest.fixture(scope="session")
def encoder(hub_folder: Path) -> Encoder:
    return load_encoder(f"local-dir:{hub_folder}")


@pytest.fixture(scope="session")
def views() -> Tensor:
    """Clean views of eight photographs, (8, 3, 224, 224)."""
    return torch.stack([clean_view(decode(photo.read()), "squash") for photo in sample()[:8]])


@pytest.fixture(scope="session")
def finished(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder, and what it said: five photographs, all that can be saved."""
    folder = tmp_path_factory.mktemp("run")
    done = run_evaluate(
        f"model.checkpoint={hub_folder}", f"hydra.run.dir={folder}", "trainer=cpu", "data.limit=5",
        "save.embeddings=true", "save.views=2", "save.gaze=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def photos_root() -> Path:
    root = Path(os.environ.get("CLIPSHIFT_PHOTOS", ROOT.parent / "shared" / "photos"))
    if not root.is_dir():
        pytest.skip(f"the shared photographs are not at {root}")
    return root
