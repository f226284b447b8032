"""The command ``clipshift train``: from a checked configuration to fine-tuned weights."""

import re
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

from clipshift.augment.keyed import Augmentation
from clipshift.cli.build import load_photos, make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain, validate
from clipshift.cli.evaluate import evaluate
from clipshift.cli.interruption import ignore_signals, interrupted
from clipshift.cli.jobs import started_logger
from clipshift.cli.trainer import choose_precision, fit, make_trainer
from clipshift.comparison import compare_runs
from clipshift.comparison.outcome import OUTCOME, outcome_cells
from clipshift.data.dataset import Skipped, View, ViewDataset, collate
from clipshift.data.photos import Photo, measurable
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import make_zero_shot
from clipshift.errors import UserError, from_here
from clipshift.evaluate.evaluation import resize_for
from clipshift.integrations.tracking import track_checkpoint
from clipshift.options import is_source
from clipshift.pipeline import is_first_process, templates_for
from clipshift.results.files import data_fingerprint, write_csv
from clipshift.results.runs import read_run
from clipshift.train import finetuning
from clipshift.train.export import export_finetuned, write_card
from clipshift.train.interpolation import choose_alpha, interpolated
from clipshift.train.objectives import Objective
from clipshift.train.resuming import StateCheckpoint, last_checkpoint, resume_position
from clipshift.train.tuning import plain_weights
from clipshift.train.views import EpochSampler, RobustViews, Source

CONTROL = "control_training"
"""The folder of the control's training, within that of the training which it is a control of."""


def finetune(cfg: DictConfig, folder: Path) -> None:
    """Fine-tune, interpolate with the base, export, and compare with the base.

    Resumes where ``folder`` has a checkpoint of the same options. Writes ``interpolation.csv`` (the
    curve over α), its figure, and ``model/``: a folder in the hub's format that
    ``model.checkpoint=`` loads, with ``provenance.json`` inside. With ``cfg.control``, trains a
    second time on clean views alone, and writes the same to ``control_training/``. If
    ``cfg.evaluation`` says on what, writes the runs ``base/``, ``control/`` and ``robust/``, and
    the paired comparison of every two of them, of which ``outcome.csv`` is the short form.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where all that goes.

    Raises:
        UserError: If an option is out of range, photos or model cannot be read, the objective needs
            texts that the photos lack, or the folder holds a training with other options.
    """
    validate(cfg, "finetune")
    if "_target_" in cfg.model or cfg.model.get("kind", "open_clip") != "open_clip":
        raise UserError(f"model={cfg.model.name}: only open_clip models can be fine-tuned")
    # before the training, so that a mistake in the comparison's options shows at once
    evaluations = compose_evaluations(cfg, folder)
    choose_precision(cfg.trainer)
    trained, judged = train(cfg, folder)
    if cfg.control:
        train(cfg, folder / CONTROL, control=True)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    if evaluations and is_first_process():
        notes = comparison_notes(evaluations, trained, judged)
        compare_with_base(evaluations, cfg.seed, folder, notes)


def train(
    cfg: DictConfig, folder: Path, control: bool = False
) -> tuple[Sequence[Photo], Sequence[Photo]]:
    """Fine-tune, interpolate with the base, and export: see `finetune`.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where checkpoints, curve and model go.
        control: Whether to train on clean views alone.

    Returns:
        The photos that were trained on, and those that the weights were judged by.
    """
    augmentations, ladders = make_augmentations(plain(cfg.train_aug), "train_aug")
    last = last_checkpoint(folder, plain(cfg))
    pl.seed_everything(cfg.seed, verbose=False)
    base = load_encoder(cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint)
    module, views, held = make_training(cfg, base, augmentations, ladders, control)
    position = resume_position(last, module.trained_weights())
    trained, judged = [photo for photo, _ in views.items], held.dataset.photos  # type: ignore[attr-defined]
    tags = [cfg.model.name, *(["control"] if control else [])]
    with started_logger(cfg, "finetune", tags) as logger:
        keep = StateCheckpoint(folder, cfg.seed, interrupted, monitor="val/shift")
        callbacks = finetuning.make_callbacks(keep, cfg.ema, cfg.patience)
        trainer = make_trainer(plain(cfg.trainer), folder, logger, callbacks)
        batches = training_batches(cfg, views, trainer.world_size, position)
        fit(trainer, keep, module, batches, held, last)
        start = plain_weights(base.model.visual)
        end = finetuning.best_weights(module, folder)
        validation = finetuning.ShiftValidation(base, module.augmentations, module.zero_shot)
        quiet = plain(cfg.trainer) | {"enable_progress_bar": False}
        judge = make_trainer(quiet, folder, enable_checkpointing=False)
        alphas = list(cfg.alphas)
        curve = finetuning.interpolation_curve(validation, start, end, alphas, judge, held)
        alpha = choose_alpha(curve, cfg.tolerance)
        if trainer.is_global_zero:
            base.model.visual.load_state_dict(interpolated(start, end, alpha))
            write_csv(folder / "interpolation.csv", curve)
            trained_on = [] if control else list(cfg.train_aug)
            ids = data_fingerprint((photo.id, b"") for photo in trained)
            facts = {"alpha": alpha, "trained_on": trained_on}
            facts |= {"precision": cfg.trainer.precision}
            facts |= {"photos": {"count": len(trained), "ids": ids}, "config": plain(cfg)}
            export_finetuned(base, plain(cfg.model), facts, folder / "model")
            print(curve.round(4).to_string(index=False))
            print(from_here(f"alpha {alpha:g}: {folder / 'model'}"))
            track_checkpoint(logger, folder / "model")
    return trained, judged


def training_batches(
    cfg: DictConfig, views: RobustViews, devices: int, position: tuple[int, int] = (0, 0)
) -> DataLoader:
    """One device's batches of an epoch.

    Args:
        cfg: The composed ``conf/train.yaml``.
        views: What is trained on.
        devices: How many devices share a batch.
        position: The epoch in which the training resumes, and the number of its completed batches.

    Raises:
        UserError: If the photos are fewer than a batch, or a batch cannot be shared by the devices.
    """
    epoch, done = position
    batch_size, rest = divmod(cfg.data.batch_size, devices)
    if rest:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} cannot be shared by {devices} devices"
        )
    photos, weights = zip(*((len(one.photos), one.weight) for one in views.sources), strict=True)
    length, seen = cfg.data.photos or len(views), done * cfg.data.batch_size
    sampler = EpochSampler(photos, length, cfg.seed, epoch, seen, weights)
    batches = _loader(cfg, views, batch_size, sampler=sampler, drop_last=True)
    if not len(batches):
        raise UserError(
            f"{length} training photos are fewer than data.batch_size={cfg.data.batch_size}"
        )
    return batches


def make_training(
    cfg: DictConfig,
    base: Encoder,
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
    control: bool = False,
) -> tuple[finetuning.Finetuning, RobustViews, DataLoader[View | Skipped]]:
    """The module in training, the views that it is trained on, and the batches that judge it.

    Args:
        cfg: The composed ``conf/train.yaml``.
        base: The base model.
        augmentations: By name.
        ladders: Strengths of severity 1 to 5, by augmentation.
        control: Whether it is trained on clean views alone.

    Raises:
        UserError: If photos cannot be read, or lack the texts that the objective needs.
    """
    sources, classes = training_sources(cfg.data.train, base)
    photos = [photo for source in sources for photo in source.photos]
    held, held_classes = _photos_of(cfg.data.val, "data.val")
    templates = templates_for(plain(cfg.prompts), classes)
    objective: Objective = instantiate(cfg.objective.loss)
    texts = (
        finetuning.text_targets(base, photos, classes, templates) if objective.needs_texts else None
    )
    if objective.needs_texts and texts is None:
        raise UserError(
            "this objective needs photos with labels or captions: see data.train, or choose "
            "objective=consistency"
        )
    judged_by = make_zero_shot(base, held, held_classes, templates)
    if judged_by is not None and not (judged_by.targets >= 0).any():
        judged_by = None
    tune = instantiate(cfg.tune)
    anchor = instantiate(cfg.objective.anchor) if cfg.objective.anchor else None
    options = plain(cfg.optimization) | {"anchor_weight": cfg.objective.anchor_weight}
    module = finetuning.Finetuning(
        base, tune, objective, anchor, texts, augmentations, judged_by, **options
    )
    if cfg.gradient_checkpointing:
        module.student.model.visual.set_grad_checkpointing()
    severities = [str(severity) for severity in cfg.severities]
    shown = {} if control else augmentations
    views = RobustViews(sources, shown, ladders, severities, cfg.seed, cfg.views)
    judging = ViewDataset(held, augmentations, cfg.seed, resize_for(base, cfg.data.val.resize))
    if all(isinstance(judging[index], Skipped) for index in range(len(held))):
        raise UserError(f"data.val: none of the {len(held)} photos can be read")
    return module, views, _loader(cfg, judging, cfg.data.batch_size, collate_fn=collate)


def _loader(cfg: DictConfig, views: Dataset, batch_size: int, **options: Any) -> DataLoader:
    options |= {"num_workers": cfg.data.num_workers or 0, "worker_init_fn": ignore_signals}
    return DataLoader(views, batch_size, **options)


def training_sources(data: DictConfig, base: Encoder) -> tuple[list[Source], list[str]]:
    """The sources of ``data.train``, and the classes of all of them.

    It is one, or has several by name, whose other options they share unless they have their own.

    Args:
        data: The options.
        base: The base model, which may determine how photos are resized.

    Raises:
        UserError: If photos cannot be read.
    """
    named = {name: one for name, one in plain(data).items() if is_source(one)}
    shared = {name: value for name, value in plain(data).items() if name not in named}
    sources, classes = [], dict[str, None]()
    for name, options in (named or {"": {}}).items():
        option, options = f"data.train.{name}".rstrip("."), shared | options
        photos, of_source = _photos_of(OmegaConf.create(options), option)
        if name:  # two sources may have photos of the same id
            photos = [replace(photo, id=f"{name}/{photo.id}") for photo in photos]
        vary, _ = make_augmentations(options.get("vary") or {}, f"{option}.vary")
        resize, weight = resize_for(base, options["resize"]), options["weight"] or 1.0
        sources.append(Source(photos, resize, vary, weight))
        classes |= dict.fromkeys(of_source)
    return sources, list(classes)


def _photos_of(data: DictConfig, option: str) -> tuple[list[Photo], list[str]]:
    photos, classes = load_photos(data, option)
    return measurable(photos), classes


def compose_evaluations(cfg: DictConfig, folder: Path) -> dict[Path, DictConfig]:
    """Compose and check the evaluations of base, control and robust model, by their run folder.

    Raises:
        UserError: If an option is wrong, or the photos cannot be listed.
    """
    if not cfg.evaluation:
        return {}
    evaluations = {}
    # null, where an override refers to it, becomes the text None
    overrides = [re.sub("=None$", "=null", override) for override in cfg.evaluation]
    models = {"control": folder / CONTROL} if cfg.control else {}
    models["robust"] = folder
    for name in ("base", *models):
        run = compose_config("evaluate", ["logger=none", *overrides])
        run.model = cfg.model
        if name in models:
            run.model.name = f"{cfg.model.name}_{name}"
            run.model.checkpoint = str(models[name] / "model")
        if "project" in run.logger:  # W&B, where both would be named by the training's options
            run.logger.name = run.model.name
        try:  # before the training, and not after it
            validate(run, "evaluate")
            load_photos(run.data)
            make_augmentations(plain(run.aug))
        except UserError as error:
            raise UserError(f"evaluation: {error}") from None
        evaluations[folder / name] = run
    return evaluations


def comparison_notes(
    evaluations: Mapping[Path, DictConfig], trained: Sequence[Photo], judged: Sequence[Photo]
) -> list[str]:
    """What the control is for, and which photos of the comparison are not new to the model.

    Args:
        evaluations: From `compose_evaluations`.
        trained: The training photos.
        judged: The validation photos.
    """
    names = [evaluation.model.name for evaluation in evaluations.values()]
    notes = []
    if len(names) > 2:
        notes.append(
            f"{names[1]} had the same training on clean views alone: what the augmentations "
            f"did is its difference to {names[2]}."
        )
    for evaluation in list(evaluations.values())[:1]:  # all are of the same photos
        measured = _in_files(load_photos(evaluation.data)[0])
        for photos, fate in ((trained, "were trained on"), (judged, "chose the weights")):
            if common := measured & _in_files(photos):
                notes.append(
                    f"{len(common)} of these {len(measured)} photos {fate}: "
                    "on others the model may gain less."
                )
    return notes


def _in_files(photos: Sequence[Photo]) -> set[tuple[Path, int]]:
    # not by ids: these are others where data.root is another folder above the same files
    return {(Path(photo.file).resolve(), photo.offset) for photo in measurable(photos)}


def compare_with_base(
    evaluations: Mapping[Path, DictConfig], seed: int, folder: Path, notes: Sequence[str]
) -> None:
    """Evaluate the models, compare every two, and show the page where someone is looking.

    The differences go into the cards of the fine-tuned models as well, and ``outcome.csv`` into
    that of the robust one.
    """
    for run_folder, evaluation in evaluations.items():
        evaluate(evaluation, run_folder)
    report = compare_runs([str(run) for run in evaluations], seed, folder, notes, fetch=True)
    table, outcome = (
        pd.read_csv(folder / name, dtype={"severity": str}) for name in ("comparison.csv", OUTCOME)
    )
    base, *tuned = (read_run(run) for run in evaluations)
    for run in tuned:
        if checkpoint := run.info.model.checkpoint:
            rows = outcome_cells(outcome) if run.trained_on else []
            write_card(Path(checkpoint), base, run, table, rows)
    if sys.stdout.isatty():
        webbrowser.open(report.resolve().as_uri())
