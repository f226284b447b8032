"""Fine-tune an open_clip model so that augmentations shift its embeddings less."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from clipshift.augment.keyed import Augmentation, augment
from clipshift.data.dataset import Batch
from clipshift.data.photos import Photo
from clipshift.encode.encoder import Encoder
from clipshift.encode.texts import ZeroShot, caption_embeddings, make_zero_shot
from clipshift.measure.functional import cosine_similarity
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.progress import tracked
from clipshift.train.interpolation import interpolated
from clipshift.train.objectives import Objective
from clipshift.train.resuming import BEST, LAST, StateCheckpoint, load_training
from clipshift.train.tuning import plain_weights

STATES = {"state_dict", "current_model_state"}
"""Where a checkpoint has weights: those to keep and, beside a moving average, those in training."""

Augmentations = Mapping[str, Augmentation]
TrainBatch = list[Tensor]
"""Clean views, (B, 3, H, W), augmented ones, (B, V, 3, H, W), and indices of the photos."""


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
        self, student: Encoder, augmentations: Augmentations, zero_shot: ZeroShot | None
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
        pixels = batch.clean
        clean = self.student(pixels).embedding
        views = [
            self.student(augment(augmentation, pixels, batch.draws[name])).embedding
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
    """A student that becomes robust to augmentations, beside its frozen base.

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
        augmentations: Augmentations,
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
        self.eval()  # no dropout, and batch norms as the base has them

    def training_step(self, batch: TrainBatch, _: int) -> Tensor:
        """The loss of one batch, over all devices."""
        clean, views, index = batch
        with torch.no_grad():
            target = self._gathered(self.base.embed(clean))
        index, count = self._gathered(index), views.shape[1]
        texts = self._texts(index)
        of_views = target.repeat_interleave(count, 0), *self._texts(index.repeat_interleave(count))
        embeddings = self._gathered(self.student.embed(views.flatten(0, 1)))
        anchored = None if self.anchor is None else self._gathered(self.student.embed(clean))
        # Where training is in half precision: embeddings are float32, and losses of them as well.
        with torch.autocast(self.device.type, enabled=False):
            loss = self.objective(embeddings, *of_views)
            if self.anchor is not None and anchored is not None:
                loss = loss + self.anchor_weight * self.anchor(anchored, target, *texts)
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

    def _gathered(self, part: Tensor) -> Tensor:
        """A batch's tensor from all devices, with gradients where it has them."""
        if self.trainer.world_size == 1:
            return part
        whole: Any = self.all_gather(part, sync_grads=part.requires_grad)
        return whole.flatten(0, 1)

    def _texts(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.texts is None:
            return torch.empty(0), torch.full_like(index, -1)
        return self.texts.classifier, self.texts.targets[index]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on what is tuned, and its schedule, step by step."""
        tuned = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, lr=self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, self.lr, steps, pct_start=0.1, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def text_targets(
    encoder: Encoder, photos: list[Photo], classes: list[str], templates: list[str] | str
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
    captioned = captions.isfinite().all(dim=1)
    targets = torch.where(captioned, torch.arange(len(photos)), -1)
    return ZeroShot(normalize(captions.nan_to_num(), dim=1).T, targets)


def make_callbacks(
    keep: StateCheckpoint, ema: float | None, patience: int | None
) -> list[Callback]:
    """Checkpoints, and where asked for a moving average of the weights and early stopping.

    Args:
        keep: Keeps the checkpoints.
        ema: Decay of the moving average.
        patience: Epochs without a smaller shift of the validation photos, after which to stop.
    """
    callbacks: list[Callback] = [keep]
    if ema is not None:
        # Lightning's EMAWeightAveraging rounds what is frozen, the base as well, at every step.
        average = get_ema_multi_avg_fn(ema)
        callbacks.append(WeightAveraging(use_buffers=False, multi_avg_fn=average))
    if patience is not None:
        callbacks.append(EarlyStopping("val/shift", patience=patience))
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
    alphas: Sequence[float],
    trainer: pl.Trainer,
    photos: DataLoader,
) -> pd.DataFrame:
    """What the weights on the line from ``start`` to ``end`` are worth: one row per ``alpha``."""
    rows = []
    for alpha in tracked(alphas, "Choosing between base and tuned weights"):
        validation.student.model.visual.load_state_dict(interpolated(start, end, alpha))
        [scores] = trainer.validate(validation, photos, verbose=False)
        rows.append({"alpha": alpha} | {k.removeprefix("val/"): v for k, v in scores.items()})
    return pd.DataFrame(rows)
