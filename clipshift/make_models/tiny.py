"""Make the built-in model ``tiny``: pretrain it on photos, adapt it, and average the results."""

import contextlib
import hashlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, default_convert
from tqdm import tqdm

from clipshift.choices import NAMES
from clipshift.cli.config import plain, validate
from clipshift.cli.interruption import interrupted
from clipshift.cli.jobs import started_logger
from clipshift.cli.trainer import choose_precision, fit, make_trainer
from clipshift.data.photos import measurable
from clipshift.data.shards import class_names, class_wnids, shards
from clipshift.errors import UserError
from clipshift.integrations.tracking import track_checkpoint
from clipshift.make_models import pretraining
from clipshift.make_models.pretraining import PixelData
from clipshift.results.files import write_whole
from clipshift.train import resuming
from clipshift.train.export import WEIGHTS, export_model
from clipshift.train.views import Shuffled

Weights = dict[str, Tensor]
log = logging.getLogger(__name__)

PREPROCESSING = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear",
                 "resize_mode": "squash"}  # fmt: skip


def pretrain_tiny(cfg: Any, folder: Path) -> None:
    """Train, resume where ``folder`` holds a checkpoint, and export the averaged model.

    First on the photos as they are, in ``photos/``; then, for each of ``cfg.adaptations``, from
    there on what an evaluation makes of them, in a folder of its name: the model is the mean of
    these (Wortsman et al., "Model soups", 2022, arXiv:2203.05482). A stage that has exported is not
    trained again.

    Args:
        cfg: The composed ``conf/train.yaml``, of ``experiment=pretrain_tiny``.
        folder: Where the checkpoint, the teacher's logits and the exported ``model/`` go.

    Raises:
        UserError: If an option is out of range, the shards are missing or malformed or hold less
            than a batch, or, with a teacher, its package is missing.
    """
    validate(cfg, "train")
    choose_precision(cfg.trainer)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    settings, root = plain(cfg), Path(cfg.data.root)
    model_cfg, classes = settings["model_cfg"], class_names(root)
    train, val = (labelled_pixels(cfg, cfg.data[part], classes) for part in ("train", "val"))
    if len(train) < cfg.data.batch_size:
        raise UserError(
            f"{len(train)} training photos are fewer than data.batch_size={cfg.data.batch_size}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.teacher is not None:
        options, file = settings["teacher"], folder / "teacher.safetensors"
        train.columns["teacher"] = teacher_logits(options, train, class_wnids(root), file, cfg.seed)
    if not cfg.adaptations:
        train_stage(cfg, folder, train, val)
        return

    def stage(options: Any, name: str, start: Weights | None) -> Weights:
        weights = folder / name / "model" / WEIGHTS
        if not weights.exists():
            train_stage(options, folder / name, train, val, start)
        return load_file(weights)

    first = stage(cfg, "photos", None)
    for part in (train, val):
        part.columns["pixels"] = pretraining.seen_in_evaluation(part.columns["pixels"])
    adapted = []
    for name, changes in cfg.adaptations.items():
        options = cfg.copy()
        options.merge_with(changes)
        adapted.append(stage(options, name, first))
    model = open_clip.CLIP(**model_cfg)
    stacked = {name: torch.stack([of[name].float() for of in adapted]) for name in first}
    model.load_state_dict({name: weights.mean(dim=0) for name, weights in stacked.items()})
    settle_norms(model, train, cfg.data.batch_size)
    export_tiny(model, model_cfg, folder / "model")


def labelled_pixels(cfg: Any, pattern: str, classes: list[str]) -> PixelData:
    """The photos of some shards with their classes, in memory.

    Raises:
        UserError: If the shards cannot be read, or a photo has no label.
    """
    listed = shards(cfg.data.root, pattern)
    photos = measurable(listed)[: cfg.data.limit]
    labels = [classes.index(photo.label) for photo in photos if photo.label is not None]
    if len(labels) < len(photos):
        raise UserError(f"{cfg.data.root}/{pattern}: photos without a label cannot be trained on")
    pixels = pretraining.load_pixels(photos, cfg.model_cfg.vision_cfg.image_size)
    return PixelData(pixels=pixels, labels=torch.tensor(labels))


def train_stage(
    cfg: Any, folder: Path, train: PixelData, val: PixelData, start: Weights | None = None
) -> None:
    """One schedule of learning rates from its warm-up to its end, see `pretrain_tiny`.

    Args:
        cfg: Its options.
        folder: Where checkpoint and ``model/`` go.
        train: Photos to train on.
        val: Photos to validate on.
        start: The weights to begin with, by name; None for random ones.
    """
    settings, classes = plain(cfg), class_names(Path(cfg.data.root))
    model_cfg, templates = settings["model_cfg"], settings["prompts"]["templates"]
    options = settings["optimization"] | {"seed": cfg.seed}
    pl.seed_everything(cfg.seed, verbose=False)
    module = pretraining.Pretraining(model_cfg, classes, templates, **options)
    if start is not None:
        module.model.load_state_dict(start)
    last = resuming.last_checkpoint(folder, settings)
    epoch, done = resuming.resume_position(last, module.state_dict())
    state = resuming.StateCheckpoint(folder, cfg.seed, interrupted)
    with started_logger(cfg, "pretrain", ["tiny"]) as logger:
        average = EMAWeightAveraging(decay=cfg.ema)  # used in validation and export
        callbacks = [average, state, *([LearningRateMonitor()] if logger else [])]
        trainer = make_trainer(settings["trainer"], folder, logger, callbacks)
        sampler = Shuffled(len(train), cfg.seed, epoch, done * cfg.data.batch_size)
        loader = partial(DataLoader, collate_fn=default_convert)  # `PixelData` makes the batch
        batches = loader(train, cfg.data.batch_size, sampler=sampler, drop_last=True)
        fit(trainer, state, module, batches, loader(val, 250), last)
        averaged = resuming.load_training(folder / resuming.LAST, "cpu", module.state_dict())
        module.load_state_dict(averaged["state_dict"])
        settle_norms(module.model, train, cfg.data.batch_size)
        export_tiny(module.model, model_cfg, folder / "model")
        track_checkpoint(logger, folder / "model")


def settle_norms(model: open_clip.CLIP, photos: PixelData, batch_size: int) -> None:
    """Recompute the batch norms' running statistics of averaged weights, over whole photos.

    Those of the training belong to the weights on the way, not to their average (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima", 2018, arXiv:1803.05407, section 3.3).
    """
    batches = photos.columns["pixels"].split(batch_size)
    with torch.autocast("cpu", torch.bfloat16):
        update_bn(tqdm(map(pretraining.whole_views, batches), "norms", len(batches)), model.visual)


def export_tiny(model: nn.Module, model_cfg: dict[str, Any], folder: Path) -> None:
    """Write the model as open_clip's hub folder, in half precision."""
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    export_model(weights, model_cfg, PREPROCESSING, folder, NAMES)


def teacher_logits(
    options: dict[str, Any], data: PixelData, wnids: list[str], file: Path, seed: int
) -> Tensor:
    """The teacher's logits, (N, C): from ``file`` where it holds those of the same setting.

    Of the photos as they are; their mirror images and cuts are taken to have the same.
    """
    pixels, labels = data.columns["pixels"], data.columns["labels"]
    photos = hashlib.sha256(pixels.contiguous().numpy().data).hexdigest()
    setting = json.dumps({"teacher": options, "photos": photos, "seed": seed}, sort_keys=True)
    if file.is_file():
        # the logits of a damaged file are computed again
        with contextlib.suppress(SafetensorError), safe_open(file, "pt") as stored:
            if stored.metadata() == {"setting": setting}:
                return stored.get_tensor("logits")
    try:
        from clipshift.make_models.teacher import Teacher
    except ModuleNotFoundError as error:
        raise UserError(
            f"the teacher needs {error.name}: pip install 'clipshift[train]', or train without it "
            f"by teacher=null"
        ) from None

    training = dict(options)
    teacher = Teacher(wnids, training.pop("size"))
    teacher.adapt(pixels, labels, seed=seed, **training)
    logits = teacher.predict(pixels)
    agreement = (logits.argmax(1) == labels).float().mean()
    log.info("teacher: top-1 %.3f on the training photos", agreement)
    write_whole(file, lambda path: save_file({"logits": logits}, path, {"setting": setting}))
    return logits
