"""How ``clipshift train`` makes the models that come with clipshift."""

import math
from pathlib import Path
from typing import Any

import open_clip
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from tqdm import tqdm

from clipshift.cli.config import plain, validate
from clipshift.cli.interruption import interrupted
from clipshift.cli.trainer import fit, make_trainer
from clipshift.data import class_names, shards
from clipshift.data.wordnet import imagenet_names
from clipshift.encode import NAMES
from clipshift.errors import UserError
from clipshift.report.tracking import track_checkpoint
from clipshift.train import lite
from clipshift.train.export import WEIGHTS, export_model
from clipshift.train.pretraining import (
    Pixels,
    Pretraining,
    export,
    load_pixels,
    seen_in_evaluation,
    teacher_logits,
    whole_batch,
    whole_views,
)
from clipshift.train.resuming import (
    LAST,
    StateCheckpoint,
    last_checkpoint,
    load_training,
    resume_position,
)
from clipshift.train.views import Shuffled


def pretrain(cfg: DictConfig, folder: Path) -> None:
    """Train, resume where ``folder`` holds a checkpoint, and export the averaged model.

    First on the photos as they are, in ``photos/``; then, for each of ``cfg.adaptations``, from
    there on what an evaluation makes of them, in a folder of its name: the model is the mean of
    these (Wortsman et al., "Model soups", 2022, arXiv:2203.05482). A stage that has exported is not
    trained again.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where the checkpoint, the teacher's logits and the exported ``model/`` go.

    Raises:
        UserError: If an option is out of range, the shards are missing or malformed or hold less
            than a batch, or, with a teacher, its package is missing.
    """
    validate(cfg, {})
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    root = Path(cfg.data.root)
    classes = class_names(root)
    size = cfg.model_cfg.vision_cfg.image_size

    def load(pattern: str) -> Pixels:
        listed = shards(root, pattern)
        photos = [photo for photo in listed if photo.left_out is None][: cfg.data.limit]
        labels = [classes.index(photo.label) for photo in photos if photo.label is not None]
        if len(labels) < len(photos):
            raise UserError(f"{root}/{pattern}: photos without a label cannot be trained on")
        return Pixels(load_pixels(photos, size), torch.tensor(labels))

    train, val = load(cfg.data.train), load(cfg.data.val)
    if len(train) < cfg.data.batch_size:
        raise UserError(
            f"{len(train)} training photos are fewer than data.batch_size={cfg.data.batch_size}"
        )
    settings = plain(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.teacher is not None:
        train.columns["teacher"] = teacher_logits(
            settings["teacher"], train, root, folder / "teacher.safetensors", cfg.seed
        )
    if not cfg.adaptations:
        pretrain_stage(cfg, folder, train, val, classes)
        return

    def stage(options: DictConfig, name: str, start: dict[str, Tensor] | None) -> dict[str, Tensor]:
        weights = folder / name / "model" / WEIGHTS
        if not weights.exists():
            pretrain_stage(options, folder / name, train, val, classes, start)
        return load_file(weights)

    first = stage(cfg, "photos", None)
    for part in (train, val):
        part.columns["pixels"] = seen_in_evaluation(part.columns["pixels"])
    adapted = []
    for name, options in cfg.adaptations.items():
        own = cfg.copy()
        own.merge_with(options)
        adapted.append(stage(own, name, first))
    model = open_clip.CLIP(**settings["model_cfg"])
    model.load_state_dict(
        {name: torch.stack([of[name].float() for of in adapted]).mean(dim=0) for name in first}
    )
    finish(model, settings["model_cfg"], train, cfg.data.batch_size, folder)


def pretrain_stage(
    cfg: DictConfig,
    folder: Path,
    train: Pixels,
    val: Pixels,
    classes: list[str],
    start: dict[str, Tensor] | None = None,
) -> None:
    """One schedule of learning rates from its warm-up to its end, see `pretrain`.

    Args:
        cfg: Its options.
        folder: Where checkpoint and ``model/`` go.
        train: Photos to train on.
        val: Photos to validate on.
        classes: Their classes.
        start: The weights to begin with, by name; None for random ones.
    """
    settings = plain(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    module = Pretraining(
        settings["model_cfg"],
        classes,
        settings["prompts"]["templates"],
        seed=cfg.seed,
        **settings["optimization"],
    )
    if start is not None:
        module.model.load_state_dict(start)
    last = last_checkpoint(folder, settings)
    epoch, done = resume_position(last, module.state_dict())
    keep = StateCheckpoint(folder, cfg.seed, interrupted)
    trainer = make_trainer(
        settings["trainer"],
        logger=instantiate(cfg.logger) if cfg.logger else False,
        callbacks=[
            EMAWeightAveraging(decay=cfg.ema),  # used in validation and export
            keep,
            *([LearningRateMonitor()] if cfg.logger else []),
        ],
        default_root_dir=str(folder),
    )
    fit(
        trainer,
        keep,
        module,
        DataLoader(
            train,
            cfg.data.batch_size,
            sampler=Shuffled(len(train), cfg.seed, epoch, done * cfg.data.batch_size),
            drop_last=True,
            collate_fn=whole_batch,
        ),
        DataLoader(val, 250, collate_fn=whole_batch),
        last,
    )
    averaged = load_training(folder / LAST, "cpu", module.state_dict())["state_dict"]
    module.load_state_dict(averaged)
    finish(module.model, settings["model_cfg"], train, cfg.data.batch_size, folder)
    track_checkpoint(trainer.logger, folder / "model")


def finish(
    model: open_clip.CLIP, model_cfg: dict[str, Any], photos: Pixels, batch_size: int, folder: Path
) -> None:
    """Take the norms of a mean of weights anew, over whole photos, and export it to ``model/``."""
    # Batch norm's running statistics belong to the weights on the way, not to their average
    # (Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, arXiv:1803.05407, 3.3).
    batches = photos.columns["pixels"].split(batch_size)
    with torch.autocast("cpu", torch.bfloat16):
        update_bn(tqdm(map(whole_views, batches), "norms", len(batches)), model.visual)
    export(model, model_cfg, folder / "model")


def make_lite(cfg: DictConfig, folder: Path) -> None:
    """Train the text tower, fit the picture side to it, and export both as one model.

    Args:
        cfg: The composed ``conf/train.yaml``.
        folder: Where the log and the exported ``model/`` go.

    Raises:
        UserError: If an option is out of range, the CLIP's classifier is missing or malformed, or
            the package with the net's weights is missing.
    """
    validate(cfg, {})
    settings = plain(cfg)
    model_cfg = settings["model_cfg"]
    tower, net = lite.load_net()
    clip = lite.load_classifier(Path(cfg.classifier), (model_cfg["embed_dim"], net.out_features))
    names = imagenet_names()
    targets = lite.text_targets(clip, net, model_cfg["text_cfg"]["width"], cfg.clip_weight)

    pl.seed_everything(cfg.seed, verbose=False)
    model = open_clip.CLIP(**model_cfg)
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    prompts = [
        torch.stack([tokenize([t.format(name) for name in own]) for t in lite.TEMPLATES])
        for own in names
    ]
    # Few of CLIP's tokens occur. Numbered anew in their order, the end of text, where the tower
    # reads a prompt, is still the highest.
    tokens = torch.cat([own.flatten() for own in prompts]).unique()
    small = open_clip.CLIP(
        **model_cfg | {"text_cfg": model_cfg["text_cfg"] | {"vocab_size": len(tokens)}}
    )
    prompts = [torch.searchsorted(tokens, own) for own in prompts]
    nn.init.normal_(small.token_embedding.weight, std=0.2)
    module = lite.TextTraining(small, prompts, targets, seed=cfg.seed, **settings["optimization"])
    trainer = make_trainer(
        settings["trainer"],
        logger=instantiate(cfg.logger) if cfg.logger else False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
    )
    trainer.fit(module, DataLoader(range(cfg.optimization.steps), batch_size=None))  # type: ignore[arg-type]

    # A token that occurs in no prompt says nothing.
    table = torch.zeros_like(model.token_embedding.weight)
    table[tokens] = small.token_embedding.weight.detach()
    weights = small.state_dict() | {"token_embedding.weight": table}
    weights |= {f"visual.trunk.{name}": value for name, value in tower.state_dict().items()}
    weights["logit_scale"] = torch.tensor(math.log(cfg.logit_scale))
    weights = {name: value.to(lite.shipped_dtype(name, value)) for name, value in weights.items()}
    model.load_state_dict(weights)
    # To the text tower as it is kept, so that its rounding is made good.
    projection = lite.fit_projection(
        lite.class_embeddings(model.eval(), [own[0] for own in names]), net, cfg.ridge
    )
    # The length of embeddings says nothing: here it is near that of CLIP's, and 8 bits suit it.
    length = 16 * projection.weight.square().mean().sqrt()
    for name, value in projection.state_dict().items():
        name = f"visual.head.proj.{name}"
        weights[name] = (value / length).to(lite.shipped_dtype(name, value))
    export_model(weights, model_cfg, lite.PREPROCESSING, folder / "model", NAMES)
    track_checkpoint(trainer.logger, folder / "model")
