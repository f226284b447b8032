"""The evaluation: photos through augmentations and encoder into measures, as a Lightning module."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger
from torch import Tensor, nn

from clipshift.augment import Augmentation, augment
from clipshift.data import Batch, Photo, ViewData, ViewDataset, captions, folder, sample, shards
from clipshift.encode import Encoder, Features, load_encoder
from clipshift.errors import UserError
from clipshift.measure import AugmentationDistance, PhotoMeasure
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.report import figures, page, terminal, tracking
from clipshift.results import (
    CLEAN,
    Measured,
    data_fingerprint,
    package_versions,
    shift_table,
    skipped_table,
    summarize,
    write_provenance,
    write_tables,
    write_tensors,
)

GALLERY_PHOTOS = 3


@dataclass
class Keep:
    """What to keep beside the measures: all embeddings, and the first photos' views and gazes."""

    embeddings: bool = False
    views: int = 0
    gaze: int = 0


@dataclass
class ZeroShot:
    """A zero-shot classifier and what it should say.

    Attributes:
        classifier: A unit vector a class, float32, shape (D, C).
        targets: The class of each photo in the list, −1 for none, int64, shape (N,).
    """

    classifier: Tensor
    targets: Tensor

    @property
    def top(self) -> tuple[int, ...]:
        """The k of the accuracies: of five classes or fewer, top-5 would say nothing."""
        return (1, 5) if self.classifier.shape[1] > 5 else (1,)


class ShiftEvaluation(pl.LightningModule):
    """Measures the shift of every photo under every augmentation.

    Args:
        encoder: The encoder.
        augmentations: Augmentations by name.
        measures: Measures by name. Those of the gaze are left out where the encoder has none.
        keep: What to keep beside the measures.
        zero_shot: The classifier, if the photos have labels.
    """

    def __init__(
        self,
        encoder: Encoder,
        augmentations: Mapping[str, Augmentation],
        measures: Mapping[str, PhotoMeasure],
        keep: Keep,
        zero_shot: ZeroShot | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.augmentations = dict(augmentations)
        self.measure_names = [
            name
            for name, measure in measures.items()
            if encoder.probe is not None or measure.space != "gaze"
        ]
        self.metrics: Any = nn.ModuleDict(
            {
                augmentation: nn.ModuleDict(
                    {name: measures[name].clone() for name in self.measure_names}
                )
                for augmentation in augmentations
            }
        )
        self.distance = AugmentationDistance(list(augmentations))
        self.keep = keep
        self.zero_shot = zero_shot
        self.measured = Measured()

    def on_test_epoch_start(self) -> None:
        self.measured = Measured()
        # A spawned process starts with a copy of the states, and they would be summed over ranks.
        for metric in self.modules():
            if isinstance(metric, (PhotoMeasure, AugmentationDistance)):
                metric.reset()

    def test_step(self, batch: Batch) -> None:
        measured = self.measured
        measured.skipped += batch.skipped
        count = len(batch.index)
        if not count:
            return
        with self._stage("augment"):
            views = {CLEAN: batch.clean} | {
                name: augment(augmentation, batch.clean, batch.draws[name])
                for name, augmentation in self.augmentations.items()
            }
        with self._stage("encode"):
            features = self.encoder(torch.cat(list(views.values())))
            gazes = features.gaze.split(count) if features.gaze is not None else [None] * len(views)
            by_view = {
                name: Features(embedding, gaze)
                for name, embedding, gaze in zip(
                    views, features.embedding.split(count), gazes, strict=True
                )
            }
        with self._stage("measure"):
            values: dict[tuple[str, str], Tensor] = {}
            hits = {
                name: self._zero_shot_hits(batch.index, made.embedding)
                for name, made in by_view.items()
            }
            for augmentation in self.augmentations:
                for name in self.measure_names:
                    metric = self.metrics[augmentation][name]
                    values[augmentation, name] = metric(
                        _space(metric.space, views[augmentation], by_view[augmentation]),
                        _space(metric.space, views[CLEAN], by_view[CLEAN]),
                    )
                for name, hit in hits[augmentation].items():
                    values[augmentation, f"{name}_clean"] = hits[CLEAN][name]
                    values[augmentation, name] = hit
            self.distance.update(torch.stack([by_view[name].embedding for name in self.metrics]))
        # All at once and at the end, so that an interruption leaves whole photos.
        numbers = {key: value.tolist() for key, value in values.items()}
        self._keep(batch.index.tolist(), views, by_view)
        measured.index += batch.index.tolist()
        measured.digests += batch.digests
        for key, rows in numbers.items():
            measured.values.setdefault(key, []).extend(rows)

    def _zero_shot_hits(self, index: Tensor, embedding: Tensor) -> dict[str, Tensor]:
        if self.zero_shot is None:
            return {}
        target = self.zero_shot.targets[index].to(self.device)
        classifier = self.zero_shot.classifier.to(self.device)
        return {
            f"zero_shot_top{k}": zero_shot_hit(embedding, classifier, target, k)
            for k in self.zero_shot.top
        }

    def _keep(
        self, index: list[int], views: dict[str, Tensor], features: dict[str, Features]
    ) -> None:
        for name in views:
            made = features[name]
            if self.keep.embeddings:
                rows = list(made.embedding.cpu().numpy())
                self.measured.embeddings.setdefault(name, []).extend(rows)
            for row, photo in enumerate(index):
                if photo < self.keep.views:
                    kept = self.measured.views.setdefault(name, {})
                    kept[photo] = views[name][row].cpu().numpy().copy()
                if made.gaze is not None and photo < self.keep.gaze:
                    kept = self.measured.gazes.setdefault(name, {})
                    kept[photo] = made.gaze[row].cpu().numpy().copy()

    def on_test_epoch_end(self) -> None:
        for augmentation, metrics in self.metrics.items():
            for name, metric in metrics.items():
                self.log(f"{augmentation}/{name}", metric)
        self.distance.compute()
        if dist.is_available() and dist.is_initialized():
            parts: list[Measured] = [Measured()] * dist.get_world_size()
            dist.all_gather_object(parts, self.measured)
            self.measured = Measured()
            for part in parts:
                self.measured.merge(part)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.measured.seconds[name] = self.measured.seconds.get(name, 0.0) + spent


def _space(space: str, views: Tensor, features: Features) -> Tensor:
    chosen = {"pixels": views, "embedding": features.embedding, "gaze": features.gaze}[space]
    assert chosen is not None
    return chosen


def load_photos(data: DictConfig) -> tuple[list[Photo], list[str]]:
    """The photos of a ``data`` configuration, and the classes of all photos that it names.

    Raises:
        UserError: If there are none.
    """
    if data.source == "sample":
        photos = sample()
    elif data.source == "folder":
        photos = folder(data.root)
    elif data.source == "shards":
        photos = shards(data.root, data.pattern)
    else:
        photos = captions(data.csv_file, data.root)
    classes = sorted({photo.label for photo in photos if photo.label is not None})
    return photos[: data.limit], classes


def make_zero_shot(
    encoder: Encoder, photos: list[Photo], classes: list[str], templates: list[str]
) -> ZeroShot | None:
    """The zero-shot classifier of labelled photos; None where there is nothing to tell apart.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    if len(classes) < 2 or not templates:
        return None
    place = {label: index for index, label in enumerate(classes)}
    names = [label.replace("_", " ") for label in classes]
    return ZeroShot(
        encoder.zero_shot_classifier(names, templates),
        torch.tensor([-1 if p.label is None else place[p.label] for p in photos]),
    )


@dataclass
class Tables:
    """A run's tables and facts, as written to its folder."""

    shift: pd.DataFrame
    summary: pd.DataFrame
    distances: pd.DataFrame
    skipped: pd.DataFrame
    facts: dict[str, Any]


def evaluate(cfg: DictConfig, run_folder: Path) -> None:
    """Measure the shift as configured and write everything that a run writes.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml``.
        run_folder: Where results go.

    Raises:
        UserError: If the photos or the model cannot be had, or no photo can be read. What was
            measured before an interruption is written all the same.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for noise in (".*does not have many workers", ".*LeafSpec", "The ``compute`` method of metric"):
        warnings.filterwarnings("ignore", message=noise)
    start = time.perf_counter()
    photos, classes = load_photos(cfg.data)
    encoder = load_encoder(
        cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint, cfg.precision
    )
    augmentations = {name: instantiate(node) for name, node in plain(cfg.aug).items()}
    module = ShiftEvaluation(
        encoder,
        augmentations,
        {name: instantiate(node) for name, node in plain(cfg.metric).items()},
        Keep(
            embeddings=cfg.save.embeddings,
            views=max(cfg.save.views, GALLERY_PHOTOS),
            gaze=max(cfg.save.gaze, GALLERY_PHOTOS),
        ),
    )
    notes = []
    try:
        module.zero_shot = make_zero_shot(encoder, photos, classes, list(cfg.prompts.templates))
    except UserError as error:
        notes.append(f"Zero-shot accuracy is left out: {error}.")
    dataset = ViewDataset(photos, augmentations, cfg.seed, cfg.data.resize)
    data = ViewData(dataset, cfg.data.batch_size, cfg.data.num_workers)
    loaded = time.perf_counter()
    with started_logger(cfg) as logger:
        trainer = make_trainer(cfg, run_folder, logger)
        complete = False
        tables = None
        try:
            trainer.test(module, data, verbose=False)
            complete = True
        finally:
            if trainer.is_global_zero and (module.measured.index or module.measured.skipped):
                seconds = {"load": loaded - start, "photos": time.perf_counter() - loaded}
                tables = write_results(cfg, run_folder, module, photos, seconds, complete)
                if not complete:
                    done = f"{len(module.measured.index)} of {len(photos)}"
                    print(f"stopped early: {done} photos are in {run_folder}", file=sys.stderr)
        if tables is not None:
            if tables.shift.empty:
                raise UserError(
                    f"none of the {len(photos)} photos could be read "
                    f"(the first: {tables.skipped['reason'].iloc[0]}); "
                    f"all are listed in {run_folder / 'skipped.csv'}"
                )
            show_results(cfg, run_folder, module, photos, tables, logger, notes)


def plain(node: DictConfig) -> dict[str, Any]:
    """A configuration as resolved dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


@contextmanager
def started_logger(cfg: DictConfig) -> Iterator[Logger | None]:
    """The configured logger on the first rank, closed at the end whatever happens."""
    options = plain(cfg.logger)
    if not options or int(os.environ.get("LOCAL_RANK", 0)):
        yield None
        return
    if "group" in options:
        job = HydraConfig.get()
        options["name"] = options["name"] or "-".join((cfg.model.name, *cfg.aug))[:100]
        if job.mode == RunMode.MULTIRUN:
            options["group"] = options["group"] or job.sweep.dir
    logger = instantiate(options)
    logger.log_hyperparams(plain(cfg))
    failed = True
    try:
        yield logger
        failed = False
    finally:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))
        else:
            logger.finalize("failed" if failed else "success")


def make_trainer(cfg: DictConfig, run_folder: Path, logger: Logger | None) -> pl.Trainer:
    """The configured trainer.

    Raises:
        UserError: If Lightning refuses it, as where there is no GPU.
    """
    try:
        return instantiate(
            plain(cfg.trainer),
            logger=logger or False,
            callbacks=[terminal.PhotoProgressBar()],
            default_root_dir=str(run_folder),
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"trainer: {str(cause).strip().splitlines()[0]}") from error


def write_results(
    cfg: DictConfig,
    run_folder: Path,
    module: ShiftEvaluation,
    photos: list[Photo],
    seconds: dict[str, float],
    complete: bool,
) -> Tables:
    """Make tables of what was measured, and write them, the kept tensors, and ``run.json``."""
    measured = module.measured
    shift = shift_table(measured, photos)
    module.distance.sync_on_compute = complete
    names = module.distance.names
    # torchmetrics squeezes the matrix of a single augmentation.
    matrix = module.distance.compute().reshape(len(names), -1).cpu().numpy()
    distances = pd.DataFrame(matrix, index=names, columns=names)
    encoder = module.encoder
    facts = {
        "complete": complete,
        "model": {
            "name": cfg.model.name,
            "architecture": cfg.model.architecture,
            "pretrained": cfg.model.pretrained,
            "checkpoint": cfg.model.checkpoint,
            "trained": encoder.trained,
            "weights_sha256": encoder.weights_sha256,
            "gaze": encoder.probe is not None,
        },
        "data": {
            "fingerprint": data_fingerprint(measured, photos),
            "photos": len(measured.index),
            "skipped": len(measured.skipped),
        },
        "seed": cfg.seed,
        "precision": cfg.precision,
        "device": device_name(module.device),
        "seconds": {name: round(value, 3) for name, value in (seconds | measured.seconds).items()},
        "versions": package_versions(),
        "config": plain(cfg),
    }
    tables = Tables(
        shift, summarize(shift, cfg.seed), distances, skipped_table(measured, photos), facts
    )
    write_tables(run_folder, tables.shift, tables.summary, tables.distances, tables.skipped)
    write_tensors(run_folder, measured, photos, cfg.save.views, cfg.save.gaze)
    write_provenance(run_folder, facts)
    return tables


def device_name(device: torch.device) -> str:
    """What the encoder ran on, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def show_results(
    cfg: DictConfig,
    run_folder: Path,
    module: ShiftEvaluation,
    photos: list[Photo],
    tables: Tables,
    logger: Logger | None,
    notes: list[str],
) -> None:
    """Draw the figures, write the report, track it, and say the last words in the terminal."""
    model, data = tables.facts["model"], tables.facts["data"]
    status = "" if model["trained"] else " (UNTRAINED, random weights)"
    title = f"Embedding shift of {model['name']}{status} on {data['photos']} photos"
    if not model["trained"]:
        notes.append(
            "This model is untrained: its weights are random, and its numbers say nothing about "
            "CLIP."
        )
    if not model["gaze"] and "attention_similarity" in cfg.metric:
        notes.append(
            f"Gaze is not available for {model['architecture']}: attention similarity is left out."
        )
    if data["skipped"]:
        notes.append(f"{data['skipped']} photos could not be read: see skipped.csv.")
    gallery = figures.gallery_of(module.measured, [photo.id for photo in photos], GALLERY_PHOTOS)
    source = f"{title}; seed {cfg.seed}, {cfg.precision}"
    drawn = figures.draw_figures(tables.shift, tables.summary, tables.distances, gallery, source)
    files = figures.save_figures(drawn, run_folder / "figures")
    rows = page.ranked_table(tables.summary, figures.SHORT)
    paper = {name: short for name, short in figures.SHORT.items() if short in figures.PAPER}
    weights = model["checkpoint"] or model["pretrained"] or "random weights"
    facts = {
        "model": f"{model['name']}: {model['architecture']}, {weights}",
        "weights (SHA-256)": model["weights_sha256"],
        "photos": f"{data['photos']} measured, {data['skipped']} skipped",
        "data (SHA-256)": data["fingerprint"],
        "seed": cfg.seed,
        "precision, device": f"{cfg.precision}, {tables.facts['device']}",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in tables.facts["seconds"].items()),
        "packages": ", ".join(f"{k} {v}" for k, v in tables.facts["versions"].items()),
    }
    clean = page.clean_accuracy(tables.summary)
    report = page.write_report(run_folder, title, facts, notes, rows, clean, files)
    places = [f"zero-shot on the clean views: {clean}"] if clean else []
    places.append(f"report: {report}")
    if isinstance(logger, WandbLogger):
        tracking.track_results(logger, tables.shift, tables.summary, tables.distances, files)
        places.append(tracking.run_place(logger))
    terminal.print_summary(title, page.ranked_table(tables.summary, paper), notes, places)
