"""Fine-tune an open_clip model so that augmentations move its embeddings less."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from clipshift.augment import Augmentation, augment, draw, make_variants
from clipshift.augment.keyed import keyed_generator
from clipshift.config import plain
from clipshift.data import VIEW_SIZE, Photo, Skipped, ViewDataset, collate
from clipshift.encode import Encoder, load_encoder, model_config
from clipshift.errors import UserError
from clipshift.evaluation import ZeroShot, load_photos, make_augmentations, make_zero_shot
from clipshift.measure.functional import cosine_similarity
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.objectives import Objective
from clipshift.pretraining import Shuffled
from clipshift.report.figures import draw_interpolation, save_figures
from clipshift.report.tracking import track_checkpoint
from clipshift.results import write_whole

TrainBatch = tuple[Tensor, Tensor, Tensor]
"""Clean views, augmented views, and indices of the photos."""


class RobustViews(Dataset[tuple[Tensor, Tensor, int]]):
    """Photos with one augmented view each: another augmentation and severity every epoch.

    Args:
        photos: The photos.
        augmentations: Augmentations by name.
        ladders: Strengths of severity 1 to 5, by augmentation.
        severities: Severities to draw from.
        seed: Decides, with epoch and photo id, what is drawn.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        augmentations: Mapping[str, Augmentation],
        ladders: Mapping[str, Sequence[float]],
        severities: Sequence[str],
        seed: int,
    ) -> None:
        self.photos = ViewDataset(photos, {}, seed, "squash")
        self.variants = list(make_variants(augmentations, ladders, severities, {}).values())
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = place
        item = self.photos[index]
        if isinstance(item, Skipped):
            raise UserError(f"{self.photos.photos[index].id} cannot be trained on: {item.reason}")
        key = f"epoch {epoch} of {self.photos.photos[index].id}"
        choice = keyed_generator(self.seed, key, "choice").integers(len(self.variants))
        variant = self.variants[int(choice)]
        draws = draw(variant.augmentation, self.seed, key, variant.name, VIEW_SIZE)
        clean = item.pixels[None]
        view = augment(variant.augmentation, clean, default_collate([draws]), variant.strength)
        return clean[0], view[0], index


class EpochSampler(Shuffled):
    """Every photo once an epoch, as (epoch, index), in an order of seed and epoch alone."""

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        return ((self.epoch, index) for index in super().__iter__())


def choose_tuned(visual: nn.Module, tune: Mapping[str, Any]) -> list[str]:
    """Names of the image tower's parameters that are trained.

    Args:
        visual: The image tower.
        tune: ``name``: ``full``; ``last_blocks`` with ``blocks`` (and whatever follows them); or
            ``layernorm`` (scales and shifts of all norms).
    """
    from clipshift.encode.layers import tower_blocks

    names = [name for name, _ in visual.named_parameters()]
    if tune["name"] == "full":
        return names
    if tune["name"] == "layernorm":
        norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
        owned = {n for n, module in visual.named_modules() if isinstance(module, norms)}
        return [name for name in names if name.rpartition(".")[0] in owned]
    blocks = tower_blocks(visual)
    last = {id(p) for block in blocks[-tune["blocks"] :] for p in block.parameters()}
    within = {id(p) for block in blocks for p in block.parameters()}
    ordered = list(visual.named_parameters())
    final = max(place for place, (_, p) in enumerate(ordered) if id(p) in within)
    return [name for place, (name, p) in enumerate(ordered) if id(p) in last or place > final]


class Finetuning(pl.LightningModule):
    """A student that learns to see through augmentations, beside its frozen base.

    Only the image tower is trained; its norms keep the base's running statistics.

    Args:
        base: The base model.
        objective: The loss on augmented views.
        tune: What is trained, see `choose_tuned`.
        zero_shot: The base's classifier, and the classes of the training photos.
        anchor: Weight of the same objective on the clean views.
        lr: Peak learning rate: a linear warm-up over a tenth of the steps, then a cosine to zero.
        weight_decay: Of all that is trained.
    """

    def __init__(
        self,
        base: Encoder,
        objective: Objective,
        tune: Mapping[str, Any],
        zero_shot: ZeroShot | None,
        *,
        anchor: float,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.base = base
        self.student = copy.deepcopy(base)
        self.objective = objective
        self.zero_shot = zero_shot
        self.anchor, self.lr, self.weight_decay = anchor, lr, weight_decay
        self.tuned = choose_tuned(self.student.model.visual, tune)
        for name in self.tuned:
            self.student.model.visual.get_parameter(name).requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        self.eval()  # no dropout, and batch norms as the base has them

    def training_step(self, batch: TrainBatch, _: int) -> Tensor:
        """The loss of one batch."""
        clean, views, index = batch
        with torch.no_grad():
            target = self.base.embed(clean)
        classes = self._classes(index)
        loss = self.objective(self.student.embed(views), target, *classes)
        if self.anchor:
            loss = loss + self.anchor * self.objective(self.student.embed(clean), target, *classes)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _classes(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.zero_shot is None:
            return torch.empty(0), torch.full_like(index, -1)
        scale = self.base.model.logit_scale.exp()
        classifier = scale * self.zero_shot.classifier.to(self.device)
        return classifier, self.zero_shot.targets.to(self.device)[index]

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


@torch.inference_mode()
def validate_weights(
    encoder: Encoder,
    dataset: ViewDataset,
    augmentations: Mapping[str, Augmentation],
    zero_shot: ZeroShot | None,
    batch_size: int = 32,
) -> dict[str, float]:
    """What a choice of weights is judged by: mean shift at the paper's severities, and accuracy.

    Args:
        encoder: The model.
        dataset: Validation photos, with draws for the augmentations.
        augmentations: By name.
        zero_shot: The base's classifier and the photos' classes.
        batch_size: Photos a batch.

    Returns:
        ``shift``, the mean of 1 − cosine over photos and augmentations; and, with classes,
        ``clean_top1`` and ``top1``, under the augmentations.
    """
    shifts, clean_hits, hits = [], [], []
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        batch = collate([dataset[row] for row in rows])
        clean = encoder(batch.clean).embedding
        for name, augmentation in augmentations.items():
            view = encoder(augment(augmentation, batch.clean, batch.draws[name])).embedding
            shifts.append(1 - cosine_similarity(view, clean))
            if zero_shot is not None:
                target = zero_shot.targets[batch.index]
                hits.append(zero_shot_hit(view, zero_shot.classifier, target, 1))
        if zero_shot is not None:
            target = zero_shot.targets[batch.index]
            clean_hits.append(zero_shot_hit(clean, zero_shot.classifier, target, 1))
    made = {"shift": torch.cat(shifts).mean().item()}
    if hits:
        made["clean_top1"] = torch.cat(clean_hits).nanmean().item()
        made["top1"] = torch.cat(hits).nanmean().item()
    return made


def interpolated(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict:
    r"""Weights between two models, :math:`(1 - \alpha)\,\theta_0 + \alpha\,\theta_1`.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), 2022,
    arXiv:2109.01903, eq. 1.
    """
    return {
        name: torch.lerp(value, tuned[name], alpha) if value.is_floating_point() else value
        for name, value in base.items()
    }


def choose_alpha(curve: pd.DataFrame, tolerance: float) -> float:
    """The α of the smallest shift whose clean accuracy is within ``tolerance`` of the base's.

    Args:
        curve: A row an ``alpha``, 0 first, with ``shift`` and, where there are classes,
            ``clean_top1``.
        tolerance: How much accuracy may be lost, as a fraction.
    """
    if "clean_top1" in curve:
        base = curve.loc[curve["alpha"] == 0, "clean_top1"].iloc[0]
        curve = curve[curve["clean_top1"] >= base - tolerance - 1e-9]
    return float(curve.loc[curve["shift"].idxmin(), "alpha"])


def finetune(cfg: DictConfig, folder: Path) -> None:
    """Fine-tune, interpolate with the base, and export; resumes where ``folder`` has a checkpoint.

    Writes ``interpolation.csv`` (the curve over α), its figure, and ``model/``: a folder in the
    hub's format that ``evaluate.py model.checkpoint=`` loads, with ``provenance.json`` inside.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where all that goes.

    Raises:
        UserError: If photos or model cannot be had.
    """
    pl.seed_everything(cfg.seed, verbose=False)
    base = load_encoder(cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint)
    augmentations, ladders = make_augmentations(plain(cfg.train_aug))
    photos, classes = load_photos(cfg.data.train)
    held, _ = load_photos(cfg.data.val)
    templates = list(cfg.prompts.templates)
    module = Finetuning(
        base,
        instantiate(cfg.objective),
        plain(cfg.tune),
        make_zero_shot(base, photos, classes, templates),
        **plain(cfg.optimization),
    )
    severities = [str(severity) for severity in cfg.severities]
    trainer: pl.Trainer = instantiate(
        plain(cfg.trainer),
        logger=instantiate(cfg.logger) if cfg.logger else False,
        callbacks=[
            ModelCheckpoint(
                folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
            )
        ],
        default_root_dir=folder,
        enable_model_summary=False,
    )
    last = folder / "last.ckpt"
    trainer.fit(
        module,
        DataLoader(
            RobustViews(photos, augmentations, ladders, severities, cfg.seed),
            cfg.data.batch_size,
            sampler=EpochSampler(len(photos), cfg.seed),
            num_workers=cfg.data.num_workers,
            drop_last=True,
        ),
        ckpt_path=last if last.exists() else None,
    )
    dataset = ViewDataset(held, augmentations, cfg.seed, "squash")
    zero_shot = make_zero_shot(base, held, classes, templates)
    start = base.model.visual.state_dict()
    end = {n: value.clone() for n, value in module.student.model.visual.state_dict().items()}
    judged = module.student.eval()
    rows = []
    for alpha in cfg.alphas:
        judged.model.visual.load_state_dict(interpolated(start, end, alpha))
        rows.append({"alpha": alpha} | validate_weights(judged, dataset, augmentations, zero_shot))
    curve = pd.DataFrame(rows)
    alpha = choose_alpha(curve, cfg.tolerance)
    write_whole(folder / "interpolation.csv", lambda path: curve.to_csv(path, index=False))
    save_figures({"interpolation": draw_interpolation(curve, alpha)}, folder / "figures")
    judged.model.visual.load_state_dict(interpolated(start, end, alpha))
    facts = {
        "base": {"architecture": cfg.model.architecture, "pretrained": cfg.model.pretrained,
                 "checkpoint": cfg.model.checkpoint, "weights_sha256": base.weights_sha256},
        "alpha": alpha,
        "trained_on": list(augmentations),
        "config": plain(cfg),
    }  # fmt: skip
    export_finetuned(judged, cfg.model, folder / "model", facts)
    track_checkpoint(trainer.logger, folder / "model")
    print(curve.round(4).to_string(index=False))
    print(f"alpha {alpha:g}: {folder / 'model'}")


def export_finetuned(
    encoder: Encoder, model: DictConfig, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Write a model as open_clip's hub folder, in its own precision, with its provenance."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in encoder.model.state_dict().items()}
    write_whole(folder / "open_clip_model.safetensors", lambda path: save_file(weights, str(path)))
    preprocess = encoder.model.visual.preprocess_cfg
    kept = ("mean", "std", "interpolation", "resize_mode")
    config = {
        "model_cfg": model_config(model.architecture, model.checkpoint),
        "preprocess_cfg": {name: preprocess[name] for name in kept},
    }
    for name, content in (("open_clip_config.json", config), ("provenance.json", facts)):
        text = json.dumps(content, indent=2) + "\n"
        write_whole(folder / name, lambda path, t=text: path.write_text(t))  # type: ignore[misc]
