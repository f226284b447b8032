"""What ``train.py`` does with a checked configuration: train, export, compare with the base."""

import re
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from clipshift.augment import Augmentation
from clipshift.cli.build import load_photos, make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import MEASURED, plain, validate
from clipshift.cli.evaluate import evaluate, photos_of
from clipshift.cli.jobs import started_logger
from clipshift.cli.trainer import make_trainer
from clipshift.compare import compare_runs
from clipshift.data import Photo, Skipped, View, ViewDataset, collate
from clipshift.encode import Encoder, load_encoder, make_zero_shot
from clipshift.errors import UserError
from clipshift.report.tracking import track_checkpoint
from clipshift.results import data_fingerprint, write_csv
from clipshift.train.finetuning import (
    Finetuning,
    ShiftValidation,
    best_weights,
    export_finetuned,
    interpolation_curve,
    make_callbacks,
    text_targets,
)
from clipshift.train.interpolation import choose_alpha, interpolated
from clipshift.train.objectives import Objective
from clipshift.train.resuming import BEST, LAST, last_checkpoint, load_training
from clipshift.train.tuning import plain_weights
from clipshift.train.views import EpochSampler, RobustViews


def finetune(cfg: DictConfig, folder: Path) -> None:
    """Fine-tune, interpolate with the base, export, and compare with the base.

    Resumes where ``folder`` has a checkpoint of the same options. Writes ``interpolation.csv`` (the
    curve over α), its figure, and ``model/``: a folder in the hub's format that
    ``evaluate.py model.checkpoint=`` loads, with ``provenance.json`` inside. If ``cfg.evaluation``
    says on what, writes the runs ``base/`` and ``robust/`` and their paired comparison.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where all that goes.

    Raises:
        UserError: If an option is out of range, photos or model cannot be had, the objective needs
            texts that the photos lack, or the folder holds a training with other options.
    """
    validate(cfg, {"train_aug": "aug@train_aug=[noise,blur]"})
    augmentations, ladders = make_augmentations(plain(cfg.train_aug), "train_aug")
    last = last_checkpoint(folder, plain(cfg))
    evaluations = compose_evaluations(cfg, folder)
    pl.seed_everything(cfg.seed, verbose=False)
    base = load_encoder(cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint)
    module, views, held = make_training(cfg, base, augmentations, ladders)
    for checkpoint in (folder / LAST, folder / BEST):
        if last is not None and checkpoint.exists():
            load_training(checkpoint, "meta", module.trained_weights())
    trained, judged = views.photos.photos, held.dataset.photos  # type: ignore[attr-defined]
    notes = overlap_notes(evaluations, trained, judged)
    with started_logger(cfg, "finetune", [cfg.model.name]) as logger:
        trainer = make_trainer(
            plain(cfg.trainer),
            logger=logger or False,
            callbacks=make_callbacks(folder, cfg.ema, cfg.patience),
            default_root_dir=str(folder),
        )
        batches = training_batches(cfg, views, trainer.world_size)
        trainer.fit(module, batches, held, ckpt_path=last)
        start = plain_weights(base.model.visual)
        end = best_weights(module, folder)
        validation = ShiftValidation(base, module.augmentations, module.zero_shot)
        judge = make_trainer(
            plain(cfg.trainer) | {"enable_progress_bar": False},
            logger=False,
            enable_checkpointing=False,
        )
        curve = interpolation_curve(validation, start, end, list(cfg.alphas), judge, held)
        alpha = choose_alpha(curve, cfg.tolerance)
        if trainer.is_global_zero:
            base.model.visual.load_state_dict(interpolated(start, end, alpha))
            export(cfg, base, curve, alpha, trained, folder)
            track_checkpoint(logger, folder / "model")
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    if trainer.is_global_zero and evaluations:
        compare_with_base(evaluations, cfg.seed, folder, notes)


def training_batches(cfg: DictConfig, views: RobustViews, devices: int) -> DataLoader:
    """One device's batches of an epoch.

    Raises:
        UserError: If the photos are fewer than a batch, or a batch cannot be shared by the devices.
    """
    batch_size, rest = divmod(cfg.data.batch_size, devices)
    if rest:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} cannot be shared by {devices} devices"
        )
    batches = DataLoader(
        views,
        batch_size,
        sampler=EpochSampler(len(views), cfg.seed),
        num_workers=cfg.data.num_workers,
        drop_last=True,
    )
    if not len(batches):
        raise UserError(
            f"{len(views)} training photos are fewer than data.batch_size={cfg.data.batch_size}"
        )
    return batches


def export(
    cfg: DictConfig,
    model: Encoder,
    curve: pd.DataFrame,
    alpha: float,
    trained: Sequence[Photo],
    folder: Path,
) -> None:
    """Write the chosen model with its provenance, and the curve that it was chosen from."""
    write_csv(folder / "interpolation.csv", curve)
    ids = data_fingerprint((photo.id, b"") for photo in trained)
    facts = {
        "alpha": alpha,
        "trained_on": list(cfg.train_aug),
        "photos": {"count": len(trained), "ids": ids},
        "config": plain(cfg),
    }
    export_finetuned(model, plain(cfg.model), facts, folder / "model")
    print(curve.round(4).to_string(index=False))
    print(f"alpha {alpha:g}: {folder / 'model'}")


def make_training(
    cfg: DictConfig,
    base: Encoder,
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
) -> tuple[Finetuning, RobustViews, DataLoader[View | Skipped]]:
    """The module in training, the views that it is trained on, and the batches that judge it.

    Raises:
        UserError: If photos cannot be had, or lack the texts that the objective needs.
    """
    photos, classes = _photos_of(cfg, "train")
    held, held_classes = _photos_of(cfg, "val")
    templates = list(cfg.prompts.templates)
    objective: Objective = instantiate(cfg.objective.loss)
    texts = text_targets(base, photos, classes, templates) if objective.needs_texts else None
    if objective.needs_texts and texts is None:
        raise UserError(
            "this objective needs photos with labels or captions: see data.train, or choose "
            "objective=consistency"
        )
    module = Finetuning(
        base,
        instantiate(cfg.tune),
        objective,
        instantiate(cfg.objective.anchor) if cfg.objective.anchor else None,
        texts,
        augmentations,
        make_zero_shot(base, held, held_classes, templates),
        anchor_weight=cfg.objective.anchor_weight,
        **plain(cfg.optimization),
    )
    severities = [str(severity) for severity in cfg.severities]
    views = RobustViews(photos, augmentations, ladders, severities, cfg.seed, cfg.data.train.resize)
    judging = ViewDataset(held, augmentations, cfg.seed, cfg.data.val.resize)
    if all(isinstance(judging[index], Skipped) for index in range(len(held))):
        raise UserError(f"data.val: none of the {len(held)} photos can be read")
    judged = DataLoader(
        judging,
        cfg.data.batch_size,
        num_workers=cfg.data.num_workers,
        collate_fn=collate,
    )
    return module, views, judged


def _photos_of(cfg: DictConfig, part: str) -> tuple[list[Photo], list[str]]:
    photos, classes = load_photos(cfg.data[part], f"data.{part}")
    return [photo for photo in photos if photo.left_out is None], classes


def compose_evaluations(cfg: DictConfig, folder: Path) -> dict[Path, DictConfig]:
    """The evaluations of base and robust model that follow the training, by their run folder."""
    if not cfg.evaluation:
        return {}
    made = {}
    # null, where an override refers to it, becomes the text None
    overrides = [re.sub("=None$", "=null", override) for override in cfg.evaluation]
    for name in ("base", "robust"):
        run = compose_config("evaluate", ["logger=none", *overrides])
        run.model = cfg.model
        if name == "robust":
            run.model.name = f"{cfg.model.name}_robust"
            run.model.checkpoint = str(folder / "model")
        if "project" in run.logger:  # W&B, where both would be named by the training's options
            run.logger.name = run.model.name
        try:  # says now, and not after the training, what is wrong
            validate(run, MEASURED)
            load_photos(run.data)
        except UserError as error:
            raise UserError(f"evaluation: {error}") from None
        made[folder / name] = run
    return made


def overlap_notes(
    evaluations: Mapping[Path, DictConfig], trained: Sequence[Photo], judged: Sequence[Photo]
) -> list[str]:
    """Which photos of the comparison are not new to the model, in words.

    Args:
        evaluations: From `compose_evaluations`.
        trained: The training photos.
        judged: The validation photos.
    """
    notes = []
    for evaluation in list(evaluations.values())[:1]:
        measured = _in_files(load_photos(evaluation.data)[0])
        for photos, fate in ((trained, "were trained on"), (judged, "chose the weights")):
            if known := measured & _in_files(photos):
                notes.append(
                    f"{len(known)} of these {len(measured)} photos {fate}: "
                    "on others the model may gain less."
                )
    return notes


def _in_files(photos: Sequence[Photo]) -> set[tuple[Path, int]]:
    # not by ids: these are others where data.root is another folder above the same files
    return {(photo.file.resolve(), photo.offset) for photo in photos if photo.left_out is None}


def compare_with_base(
    evaluations: Mapping[Path, DictConfig], seed: int, folder: Path, notes: Sequence[str]
) -> None:
    """Evaluate base and robust model, compare them, and show the page where someone is looking."""
    for run_folder, evaluation in evaluations.items():
        evaluate(evaluation, run_folder)
    report = compare_runs([str(run) for run in evaluations], seed, folder, notes, photos_of)
    if sys.stdout.isatty():
        webbrowser.open(report.resolve().as_uri())
