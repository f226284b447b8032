"""Fine-tune an open_clip model so that augmentations move its embeddings less."""

import copy
import re
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from clipshift.augment import Augmentation, augment
from clipshift.command import compose_config
from clipshift.comparison import compare_runs
from clipshift.config import MEASURED, plain, validate
from clipshift.data import Batch, Photo, Skipped, View, ViewDataset, collate
from clipshift.encode import Encoder, load_encoder, model_config
from clipshift.encode.weights import check_finite
from clipshift.errors import UserError
from clipshift.evaluation import (
    ZeroShot,
    caption_embeddings,
    evaluate,
    load_photos,
    make_augmentations,
    make_zero_shot,
)
from clipshift.jobs import started_logger
from clipshift.measure.functional import cosine_similarity
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.report.figures import draw_interpolation, save_figures
from clipshift.report.tracking import track_checkpoint
from clipshift.results import data_fingerprint, write_csv, write_json
from clipshift.train.export import PROVENANCE, export_model
from clipshift.train.interpolation import choose_alpha, interpolated
from clipshift.train.objectives import Objective
from clipshift.train.resuming import BEST, LAST, last_checkpoint, load_training
from clipshift.train.tuning import plain_weights
from clipshift.train.views import EpochSampler, RobustViews
from clipshift.trainer import make_trainer
from clipshift.versions import CODE_SHA256, package_versions

STATES = {"state_dict", "current_model_state"}
"""Where a checkpoint has weights: those to keep and, beside a moving average, those in training."""

TrainBatch = list[Tensor]
"""Clean views, augmented views, and indices of the photos."""


class ShiftValidation(pl.LightningModule):
    """What a choice of weights is judged by, on validation photos at the paper's severities.

    Logs ``shift``, the mean of 1 − cosine over photos and augmentations; and, with classes,
    ``clean_top1`` and ``top1``, zero-shot accuracies of clean and augmented views.

    Args:
        student: The model.
        augmentations: By name.
        zero_shot: The base's classifier and the validation photos' classes.
    """

    def __init__(
        self,
        student: Encoder,
        augmentations: Mapping[str, Augmentation],
        zero_shot: ZeroShot | None,
    ) -> None:
        super().__init__()
        self.student = student
        self.augmentations = dict(augmentations)
        self.zero_shot = zero_shot
        means = {"shift": MeanMetric(nan_strategy="disable")}  # NaN where training has diverged
        if zero_shot:
            means |= {name: MeanMetric(nan_strategy="ignore") for name in ("clean_top1", "top1")}
        self.means: Any = nn.ModuleDict(means)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Judge one batch, in float32 whatever the training's precision."""
        if len(batch.index):
            with torch.autocast(self.device.type, enabled=False):
                self._judge(batch)

    def _judge(self, batch: Batch) -> None:
        clean = self.student(batch.clean).embedding
        views = [
            self.student(augment(augmentation, batch.clean, batch.draws[name])).embedding
            for name, augmentation in self.augmentations.items()
        ]
        for view in views:
            self._add("shift", 1 - cosine_similarity(view, clean))
        if self.zero_shot is not None:
            target = self.zero_shot.targets.to(self.device)[batch.index]
            classifier = self.zero_shot.classifier.to(self.device)
            self._add("clean_top1", zero_shot_hit(clean, classifier, target, 1))
            for view in views:
                self._add("top1", zero_shot_hit(view, classifier, target, 1))

    def _add(self, name: str, values: Tensor) -> None:
        self.means[name].update(values)
        self.log(f"val/{name}", self.means[name], batch_size=1)


class Finetuning(ShiftValidation):
    """A student that learns to see through augmentations, beside its frozen base.

    Only the image tower is trained; its norms keep the base's running statistics.

    Args:
        base: The base model.
        tune: Makes what is to be trained of the image tower trainable, see
            `clipshift.train.tuning`.
        objective: The loss on augmented views.
        anchor: The loss on clean views, or None.
        texts: The base's text classifier, and which text belongs to each training photo.
        augmentations: Those of the validation.
        zero_shot: The base's classifier and the validation photos' classes.
        anchor_weight: Of ``anchor``.
        lr: Peak learning rate, reached after a tenth of the steps, from a 25th of it and then to
            zero along cosines.
        weight_decay: Of all that is trained.
    """

    def __init__(
        self,
        base: Encoder,
        tune: Callable[[nn.Module], nn.Module],
        objective: Objective,
        anchor: Objective | None,
        texts: ZeroShot | None,
        augmentations: Mapping[str, Augmentation],
        zero_shot: ZeroShot | None,
        *,
        anchor_weight: float,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__(copy.deepcopy(base), augmentations, zero_shot)
        self.base = base
        self.student.model.visual = tune(self.student.model.visual)
        self.objective, self.anchor, self.texts = objective, anchor, texts
        self.anchor_weight, self.lr, self.weight_decay = anchor_weight, lr, weight_decay

    def on_train_start(self) -> None:
        if self.texts is not None:
            scaled = self.base.model.logit_scale.exp() * self.texts.classifier.to(self.device)
            self.texts = ZeroShot(scaled, self.texts.targets.to(self.device))

    def on_train_epoch_start(self) -> None:
        self.eval()  # no dropout, and batch norms as the base has them

    def training_step(self, batch: TrainBatch, _: int) -> Tensor:
        """The loss of one batch, over all devices."""
        clean, views, index = batch
        with torch.no_grad():
            target = self._gathered(self.base.embed(clean))
        texts = self._texts(self._gathered(index))
        made = self._gathered(self.student.embed(views))
        held = None if self.anchor is None else self._gathered(self.student.embed(clean))
        # Where training is in half precision: embeddings are float32, and losses of them as well.
        with torch.autocast(self.device.type, enabled=False):
            loss = self.objective(made, target, *texts)
            if self.anchor is not None and held is not None:
                loss = loss + self.anchor_weight * self.anchor(held, target, *texts)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def trained_weights(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen: the base has it."""
        trained = self.trained_weights()
        for state in STATES & checkpoint.keys():
            checkpoint[state] = {n: v for n, v in checkpoint[state].items() if n in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what is frozen from the base."""
        for state in STATES & checkpoint.keys():
            checkpoint[state] = self.state_dict() | checkpoint[state]

    def _gathered(self, own: Tensor) -> Tensor:
        """A batch's tensor from all devices, with gradients where it has them."""
        if self.trainer.world_size == 1:
            return own
        together: Any = self.all_gather(own, sync_grads=own.requires_grad)
        return together.flatten(0, 1)

    def _texts(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.texts is None:
            return torch.empty(0), torch.full_like(index, -1)
        return self.texts.classifier, self.texts.targets[index]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on what is tuned, and its schedule, step by step."""
        tuned = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.1,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def text_targets(
    encoder: Encoder, photos: list[Photo], classes: list[str], templates: list[str]
) -> ZeroShot | None:
    """The texts that photos are trained towards: class prompts or, without labels, captions.

    A photo's captions count as one text, their mean. None where there are no texts.
    """
    by_class = make_zero_shot(encoder, photos, classes, templates)
    if by_class is not None:
        return by_class
    captions = caption_embeddings(encoder, photos)
    if captions is None:
        return None
    known = captions.isfinite().all(dim=1)
    targets = torch.where(known, torch.arange(len(photos)), -1)
    return ZeroShot(normalize(captions.nan_to_num(), dim=1).T, targets)


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
    last = last_checkpoint(folder, plain(cfg))
    evaluations = compose_evaluations(cfg, folder)
    pl.seed_everything(cfg.seed, verbose=False)
    base = load_encoder(cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint)
    check_finite(base.model, cfg.model.checkpoint or cfg.model.architecture)
    module, views, held = make_training(cfg, base)
    for checkpoint in (folder / LAST, folder / BEST):
        if last is not None and checkpoint.exists():
            load_training(checkpoint, "meta", module.trained_weights())
    trained, judged = views.photos.photos, held.dataset.photos  # type: ignore[attr-defined]
    notes = overlap_notes(evaluations, trained, judged)
    with started_logger(cfg, "finetune", [cfg.model.name]) as logger:
        trainer = make_trainer(
            plain(cfg.trainer),
            logger=logger or False,
            callbacks=make_callbacks(cfg, folder),
            default_root_dir=str(folder),
        )
        batch_size, rest = divmod(cfg.data.batch_size, trainer.world_size)
        if rest:
            raise UserError(
                f"data.batch_size={cfg.data.batch_size} cannot be shared by "
                f"{trainer.world_size} devices"
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
        trainer.fit(module, batches, held, ckpt_path=last)
        start = plain_weights(base.model.visual)
        end = best_weights(module, folder)
        validation = ShiftValidation(base, module.augmentations, module.zero_shot)
        curve = interpolation_curve(validation, start, end, cfg, held)
        alpha = choose_alpha(curve, cfg.tolerance)
        if trainer.is_global_zero:
            write_csv(folder / "interpolation.csv", curve)
            drawn = draw_interpolation(curve, alpha, cfg.tolerance)
            save_figures({"interpolation": drawn}, folder / "figures")
            base.model.visual.load_state_dict(interpolated(start, end, alpha))
            export_finetuned(base, cfg, alpha, trained, folder / "model")
            track_checkpoint(logger, folder / "model")
            print(curve.round(4).to_string(index=False))
            print(f"alpha {alpha:g}: {folder / 'model'}")
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    if trainer.is_global_zero and evaluations:
        compare_with_base(evaluations, cfg.seed, folder, notes)


def make_training(
    cfg: DictConfig, base: Encoder
) -> tuple[Finetuning, RobustViews, DataLoader[View | Skipped]]:
    """The module in training, the views that it is trained on, and the batches that judge it.

    Raises:
        UserError: If photos cannot be had, or lack the texts that the objective needs.
    """
    augmentations, ladders = make_augmentations(plain(cfg.train_aug))
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
    try:
        photos, classes = load_photos(cfg.data[part])
    except UserError as error:
        options = "|".join(cfg.data[part])  # and nothing of a path that has "data." in it
        named = re.sub(rf"(?<![\w./-])data\.(?=({options})\b)", f"data.{part}.", str(error))
        raise UserError(named) from None
    return [photo for photo in photos if photo.left_out is None], classes


def make_callbacks(cfg: DictConfig, folder: Path) -> list[Callback]:
    """Checkpoints, and where configured a moving average of the weights and early stopping."""
    checkpoint: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[Callback] = [
        ModelCheckpoint(filename=Path(BEST).stem, monitor="val/shift", **checkpoint),
        ModelCheckpoint(filename=Path(LAST).stem, save_on_train_epoch_end=True, **checkpoint),
    ]
    if cfg.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg.ema))
    if cfg.patience is not None:
        callbacks.append(EarlyStopping("val/shift", patience=cfg.patience))
    return callbacks


def best_weights(module: Finetuning, folder: Path) -> dict[str, Tensor]:
    """The image tower's weights of the epoch with the smallest shift of the validation photos.

    Of the last one where training ended before it was ever judged.

    Raises:
        UserError: If the checkpoint is damaged.
    """
    file = folder / (BEST if (folder / BEST).exists() else LAST)
    weights = load_training(file, "cpu", module.trained_weights())["state_dict"]
    module.load_state_dict(weights, strict=False)
    return plain_weights(module.student.model.visual)


def interpolation_curve(
    validation: ShiftValidation,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    cfg: DictConfig,
    photos: DataLoader,
) -> pd.DataFrame:
    """What the weights on the line from ``start`` to ``end`` are worth: a row an ``alpha``."""
    trainer = make_trainer(
        plain(cfg.trainer) | {"enable_progress_bar": False},
        logger=False,
        enable_checkpointing=False,
    )
    rows = []
    for alpha in cfg.alphas:
        validation.student.model.visual.load_state_dict(interpolated(start, end, alpha))
        made = trainer.validate(validation, photos, verbose=False)[0]
        rows.append({"alpha": alpha} | {k.removeprefix("val/"): v for k, v in made.items()})
    return pd.DataFrame(rows)


def export_finetuned(
    encoder: Encoder, cfg: DictConfig, alpha: float, photos: Sequence[Photo], folder: Path
) -> None:
    """Write a model fine-tuned on photos as open_clip's hub folder, with its provenance."""
    kept = ("mean", "std", "interpolation", "resize_mode")
    model_cfg = model_config(cfg.model.architecture, cfg.model.checkpoint)
    weights = encoder.model.state_dict()
    export_model(weights, model_cfg, {name: encoder.preprocessing[name] for name in kept}, folder)
    facts = {
        "base": {"architecture": cfg.model.architecture, "pretrained": cfg.model.pretrained,
                 "checkpoint": cfg.model.checkpoint, "weights_sha256": encoder.weights_sha256},
        "alpha": alpha,
        "trained_on": list(cfg.train_aug),
        "photos": {"count": len(photos), "ids": data_fingerprint((p.id, b"") for p in photos)},
        "versions": package_versions(),
        "code_sha256": CODE_SHA256,
        "config": plain(cfg),
    }  # fmt: skip
    write_json(folder / PROVENANCE, facts)


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
    curve = {"interpolation": folder / "figures" / "interpolation.png"}
    report = compare_runs([str(run) for run in evaluations], seed, folder, curve, notes)
    if sys.stdout.isatty():
        webbrowser.open(report.resolve().as_uri())
