"""Fixtures: small encoders in the hub's own format, and views of real photographs."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.utils import get_class
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file
from terminal import ROOT, Terminal
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from wandb.proto import wandb_internal_pb2

from clipshift.augment import Augmentation, Variant, draw, make_variants
from clipshift.cli.build import make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.trainer import make_trainer
from clipshift.data import Cache, Photo, ViewDataset, clean_view, decode, sample
from clipshift.encode import Encoder, caption_embeddings, load_encoder
from clipshift.evaluate import Keep, ShiftEvaluation
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.tables import add_retained, retained_photos
from clipshift.measure import (
    COLUMNS,
    SSIM,
    AttentionSimilarity,
    AttentionSimilarityAligned,
    CosineSimilarity,
    DetailPreservation,
    EdgePreservation,
    GazeDivergenceAligned,
    L2Distance,
    PatchSimilarity,
    PhotoMeasure,
)
from clipshift.results import Measured, Records, shift_table

CACHE = tempfile.TemporaryDirectory(prefix="clipshift-cache-")  # is gone when the tests end
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
MEASURED = COLUMNS | {
    name: get_class(node["_target_"]).facts
    for file in (ROOT / "conf/metric").glob("*.yaml")
    for name, node in yaml.safe_load(file.read_text()).items()
    if name != "defaults"
}
"""What every column means that clipshift can measure."""
MEASURES = {
    "cosine_similarity": CosineSimilarity,
    "l2_distance": L2Distance,
    "attention_similarity": AttentionSimilarity,
    "attention_similarity_aligned": AttentionSimilarityAligned,
    "gaze_divergence_aligned": GazeDivergenceAligned,
    "patch_similarity": PatchSimilarity,
    "edge_preservation": EdgePreservation,
    "detail_preservation": DetailPreservation,
    "ssim": SSIM,
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}


def run_evaluate(
    *overrides: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python evaluate.py`` as a user runs it."""
    return run_script("evaluate.py", *overrides, env=env)


@cache
def terminal() -> Terminal:
    return Terminal()


def run_script(
    script: str, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python evaluate.py`` or another script of the project's, as a user runs it.

    With variables of its own it has a new Python: packages read some when they are imported.
    """
    command = [str(ROOT / script), *arguments]
    if env is None:
        return terminal().run(["python", *command], cwd or Path.cwd(), dict(os.environ))
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False,
        cwd=cwd, env=os.environ | env,
    )  # fmt: skip


def configured(choice: str) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations of a choice of ``aug``, and their ladders."""
    return make_augmentations(plain(compose_config("evaluate", [f"aug={choice}"]).aug))


AUGMENTATIONS, LADDERS = configured("paper")
EXTENDED, EXTENDED_LADDERS = configured("extended")


def draws_of(name: str, count: int, seed: int = 0, size: int = 224) -> dict[str, torch.Tensor]:
    augmentation = EXTENDED[name]
    return default_collate([draw(augmentation, seed, f"{i}.jpg", name, size) for i in range(count)])


def run_module(
    encoder: Encoder,
    variants: dict[str, Variant],
    measures: dict[str, PhotoMeasure],
    dataset: ViewDataset,
    batch_size: int,
    num_workers: int = 0,
    keep: Keep | None = None,
    layers: bool = False,
    **inputs: Any,
) -> tuple[Records, ShiftEvaluation]:
    """Measure in this process: what was measured, and the module."""
    records = Records(Path(tempfile.mkdtemp()))
    records.begin({}, anew=True)
    module = ShiftEvaluation(
        encoder, variants, measures, records, keep or Keep(), layers=layers, **inputs
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = ViewData(dataset, batch_size, num_workers, records, layers)
    trainer.test(module, data, verbose=False)
    return records, module


def measure(
    encoder: Encoder,
    photos: list[Photo],
    augmentations: list[str],
    batch_size: int = 64,
    num_workers: int = 0,
    seed: int = 0,
    severities: Sequence[str] = ("paper",),
    cache: Cache | None = None,
    gallery: Collection[int] = (),
    captions: bool = False,
    **inputs: Any,
) -> tuple[pd.DataFrame, ShiftEvaluation, Measured]:
    """The table of some photos under some augmentations, the module, and what was measured."""
    chosen = {name: AUGMENTATIONS[name] for name in augmentations}
    variants = make_variants(chosen, LADDERS, severities, {})
    records, module = run_module(
        encoder, variants, {name: kind() for name, kind in MEASURES.items()},
        ViewDataset(photos, chosen, seed, "squash", cache), batch_size, num_workers,
        Keep(gallery=gallery),
        texts=caption_embeddings(encoder, photos) if captions else None, **inputs,
    )  # fmt: skip
    measured = records.read()
    add_retained(measured, retained_photos(measured))
    return shift_table(measured, photos, variants), module, measured


def wandb_records(content: bytes) -> list[wandb_internal_pb2.Record]:
    """Read a ``.wandb`` file: 7 bytes of head, then a log in LevelDB's format."""
    records, place, parts = [], 7, b""
    while place + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
        left = 32768 - place % 32768
        place += left if left < 7 else 0
    return records


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
        "save.embeddings=true", "save.views=2", "save.gaze=4", "layers=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, of each module its own: it holds the thread's event loop."""
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
