"""The evaluation: photos through augmentations and encoder into measures, as a Lightning module."""

import hashlib
import json
import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
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
from torchmetrics import Metric

from clipshift.augment import MATCHED, PAPER, Augmentation, Variant, augment, make_variants
from clipshift.augment.matching import Calibration
from clipshift.calibration import calibration_for, save_calibration
from clipshift.comparison import finished_job
from clipshift.data import (
    Batch,
    Cache,
    Photo,
    ViewData,
    ViewDataset,
    captions,
    collate,
    folder,
    sample,
    shards,
)
from clipshift.encode import Encoder, Features, load_encoder
from clipshift.errors import UserError
from clipshift.measure import AugmentationDistance, CleanSpread, LayerShift, PhotoMeasure
from clipshift.measure.functional import luma, pixel_mean, retained, text_shift
from clipshift.measure.zero_shot import zero_shot_flip, zero_shot_hit
from clipshift.report import figures, page, terminal, tracking
from clipshift.results import (
    CLEAN,
    Measured,
    Tables,
    correlate,
    data_fingerprint,
    extreme_photos,
    package_versions,
    rank_augmentations,
    ranking_agreement,
    shift_table,
    skipped_table,
    summarize,
    write_provenance,
    write_tables,
    write_tensors,
)

SHOWN_PHOTOS = 3
MOVED_PHOTOS = 20


@dataclass
class Keep:
    """What to keep beside the measures: all embeddings, and the first photos' views and gazes.

    The embeddings of the first ``gallery`` photos are kept until the end, to see which views still
    find their own photo among them.
    """

    embeddings: bool = False
    gallery: int = 0
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


@dataclass
class SharedFeatures:
    """The clean views' features in the cache, by photo.

    Attributes:
        cache: The cache.
        key: What they depend on beside the photo: weights, precision, device, resizing, layers.
    """

    cache: Cache
    key: str

    def get(self, digests: list[bytes], device: torch.device) -> Features | None:
        """The features of some photos; None unless all of them are there."""
        rows = []
        for digest in digests:
            stored = self.cache.get(f"{self.key} {digest.hex()}")
            if stored is None:
                return None
            rows.append(stored)
        stacked = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        layers = [stacked[name] for name in sorted(stacked) if name.startswith("layer")]
        return Features(stacked["embedding"], stacked.get("gaze"), layers or None)

    def set(self, digests: list[bytes], features: Features) -> None:
        """Store the features of some photos."""
        for row, digest in enumerate(digests):
            tensors = {"embedding": features.embedding[row]}
            if features.gaze is not None:
                tensors["gaze"] = features.gaze[row]
            for place, layer in enumerate(features.layers or ()):
                tensors[f"layer{place:03d}"] = layer[row]
            self.cache.set(f"{self.key} {digest.hex()}", tensors)


class ShiftEvaluation(pl.LightningModule):
    """Measures the shift of every photo under every variant of the augmentations.

    Args:
        encoder: The encoder.
        variants: Augmentations at severities, by view name.
        measures: Measures by name. Those of the gaze are left out where the encoder has none.
        keep: What to keep beside the measures.
        layers: Whether to measure the shift of every layer.
    """

    def __init__(
        self,
        encoder: Encoder,
        variants: Mapping[str, Variant],
        measures: Mapping[str, PhotoMeasure],
        keep: Keep,
        layers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.variants = dict(variants)
        self.measure_names = [
            name
            for name, measure in measures.items()
            if encoder.probe is not None or measure.space != "gaze"
        ]
        self.metrics: Any = nn.ModuleDict(
            {
                variant: nn.ModuleDict(
                    {name: measures[name].clone() for name in self.measure_names}
                )
                for variant in variants
            }
        )
        self.distance = AugmentationDistance(list(variants))
        width, layer_widths = encoder.widths()
        self.spread = CleanSpread(width)
        self.layers: Any = nn.ModuleList(
            LayerShift(len(self.variants), width) for width in layer_widths if layers
        )
        self.keep = keep
        self.zero_shot: ZeroShot | None = None
        self.texts: Tensor | None = None
        self.shared: SharedFeatures | None = None
        self.measured = Measured()

    def on_test_epoch_start(self) -> None:
        self.measured = Measured()
        # A spawned process starts with a copy of the states, and they would be summed over ranks.
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()

    def test_step(self, batch: Batch) -> None:
        measured = self.measured
        measured.skipped += batch.skipped
        count = len(batch.index)
        if not count:
            return
        with self._stage("augment"):
            views = {CLEAN: batch.clean} | {
                name: augment(v.augmentation, batch.clean, batch.draws[v.name], v.strength)
                for name, v in self.variants.items()
            }
        with self._stage("encode"):
            by_view = self._encode(views, batch.digests)
        with self._stage("measure"):
            values = self._measure(batch.index, views, by_view)
            clean = by_view[CLEAN].layers or []
            for place, layer in enumerate(self.layers):
                tokens = [by_view[name].layers[place] for name in self.variants]  # type: ignore[index]
                layer.update(torch.stack(tokens), clean[place])
        # All at once and at the end, so that an interruption leaves whole photos.
        numbers = {key: value.tolist() for key, value in values.items()}
        self._keep(batch.index.tolist(), views, by_view)
        measured.index += batch.index.tolist()
        measured.digests += batch.digests
        for key, rows in numbers.items():
            measured.values.setdefault(key, []).extend(rows)

    def _encode(self, views: dict[str, Tensor], digests: list[bytes]) -> dict[str, Features]:
        layers = len(self.layers) > 0
        known = self.shared.get(digests, self.device) if self.shared is not None else None
        wanted = {name: view for name, view in views.items() if known is None or name != CLEAN}
        made = self.encoder(torch.cat(list(wanted.values())), layers)
        features = dict(zip(wanted, made.split(len(digests)), strict=True))
        if known is not None:
            return {CLEAN: known} | features
        if self.shared is not None:
            self.shared.set(digests, features[CLEAN])
        return features

    def _measure(
        self, index: Tensor, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[tuple[str, str], Tensor]:
        values: dict[tuple[str, str], Tensor] = {}
        clean = features[CLEAN].embedding
        hits = {
            name: self._zero_shot_hits(index, made.embedding) for name, made in features.items()
        }
        gray = luma(views[CLEAN])
        brightness = pixel_mean(gray)
        contrast = pixel_mean((gray - brightness[:, None, None]).square()).sqrt()
        for variant in self.variants:
            for name in self.measure_names:
                metric = self.metrics[variant][name]
                values[variant, name] = metric(
                    _space(metric.space, views[variant], features[variant]),
                    _space(metric.space, views[CLEAN], features[CLEAN]),
                )
            embedding = features[variant].embedding
            for name, hit in hits[variant].items():
                values[variant, f"{name}_clean"] = hits[CLEAN][name]
                values[variant, name] = hit
            if self.zero_shot is not None:
                values[variant, "zero_shot_flip"] = zero_shot_flip(
                    embedding, clean, self.zero_shot.classifier.to(self.device)
                )
            if self.texts is not None:
                text = self.texts[index].to(self.device)
                values[variant, "text_shift"] = text_shift(embedding, clean, text)
            values[variant, "brightness"] = brightness
            values[variant, "contrast"] = contrast
        self.distance.update(torch.stack([features[name].embedding for name in self.variants]))
        self.spread.update(clean)
        return values

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
                if photo < self.keep.gallery:
                    kept = self.measured.gallery.setdefault(name, {})
                    kept[photo] = made.embedding[row].cpu().numpy().copy()
                if photo < self.keep.views:
                    kept = self.measured.views.setdefault(name, {})
                    kept[photo] = views[name][row].cpu().numpy().copy()
                if made.gaze is not None and photo < self.keep.gaze:
                    kept = self.measured.gazes.setdefault(name, {})
                    kept[photo] = made.gaze[row].cpu().numpy().copy()

    def on_test_epoch_end(self) -> None:
        for variant, metrics in self.metrics.items():
            for name, metric in metrics.items():
                self.log(f"{variant}/{name}", metric)
        for metric in (self.distance, self.spread, *self.layers):
            metric.compute()
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
        shared_classifier(encoder, tuple(names), tuple(templates)),
        torch.tensor([-1 if p.label is None else place[p.label] for p in photos]),
    )


def make_augmentations(
    aug: dict[str, Any],
) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations of an ``aug`` configuration, and their strengths at severity 1 to 5."""
    ladders = {name: node.pop("ladder") for name, node in aug.items()}
    return {name: instantiate(node) for name, node in aug.items()}, ladders


def caption_embeddings(encoder: Encoder, photos: list[Photo]) -> Tensor | None:
    """For each photo the mean of its captions' unit embeddings, (N, D); NaN where it has none.

    None where no photo has captions.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    texts = [text for photo in photos for text in photo.captions]
    if not texts:
        return None
    embeddings = shared_texts(encoder, tuple(texts))
    parts = embeddings.split([len(photo.captions) for photo in photos])
    return torch.stack([rows.mean(dim=0) for rows in parts])


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
    try:
        photos, classes = load_photos(cfg.data)
        encoder = shared_encoder(
            cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint, cfg.precision
        )
    except UserError:
        if in_sweep():
            with started_logger(cfg):  # so that the failed job is tracked with the others
                raise
        raise
    key = job_key(cfg, encoder, photos) if in_sweep() else None
    if key and not cfg.rerun and (finished := finished_job(sweep_folders(cfg), key)):
        take_over(finished, run_folder)
        return
    cache = instantiate(cfg.cache) if cfg.cache else None
    augmentations, ladders = make_augmentations(plain(cfg.aug))
    severities = [str(severity) for severity in listed(cfg.severity)]
    calibration = None
    if MATCHED in severities:
        calibration = calibration_for(cfg, photos, augmentations)
        photos = [photo for photo in photos if photo.id not in set(calibration.photos)]
        save_calibration(run_folder, calibration)
    strengths = {n: m.strength for n, m in calibration.matches.items()} if calibration else {}
    module = ShiftEvaluation(
        encoder,
        make_variants(augmentations, ladders, severities, strengths),
        {name: instantiate(node) for name, node in plain(cfg.metric).items()},
        Keep(
            embeddings=cfg.save.embeddings,
            gallery=cfg.gallery,
            views=max(cfg.save.views, SHOWN_PHOTOS),
            gaze=max(cfg.save.gaze, SHOWN_PHOTOS),
        ),
        cfg.layers,
    )
    notes = calibration_notes(calibration) if calibration else []
    try:
        module.zero_shot = make_zero_shot(encoder, photos, classes, list(cfg.prompts.templates))
        module.texts = caption_embeddings(encoder, photos)
    except UserError as error:
        notes.append(f"Measures with text are left out: {error}.")
    dataset = ViewDataset(photos, augmentations, cfg.seed, cfg.data.resize, cache)
    data = ViewData(dataset, cfg.data.batch_size, cfg.data.num_workers)
    loaded = time.perf_counter()
    with started_logger(cfg) as logger:
        trainer = make_trainer(cfg, run_folder, logger)
        if cache is not None:
            module.shared = SharedFeatures(cache, features_key(cfg, encoder, trainer))
        complete = False
        tables = None
        try:
            trainer.test(module, data, verbose=False)
            complete = True
        finally:
            if trainer.is_global_zero and (module.measured.index or module.measured.skipped):
                seconds = {"load": loaded - start, "photos": time.perf_counter() - loaded}
                tables = write_results(cfg, run_folder, module, photos, seconds, complete, key)
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
            show_results(cfg, run_folder, module, dataset, tables, logger, notes)


@lru_cache(maxsize=2)
def shared_encoder(
    architecture: str, pretrained: str | None, checkpoint: str | None, precision: str
) -> Encoder:
    """`load_encoder`, once for all jobs of a process."""
    return load_encoder(architecture, pretrained, checkpoint, precision)


@lru_cache(maxsize=2)
def shared_classifier(
    encoder: Encoder, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Tensor:
    """`Encoder.zero_shot_classifier`, once for all jobs of a process."""
    return encoder.zero_shot_classifier(list(classes), list(templates))


@lru_cache(maxsize=2)
def shared_texts(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    """`Encoder.encode_texts`, once for all jobs of a process."""
    return encoder.encode_texts(list(texts))


def features_key(cfg: DictConfig, encoder: Encoder, trainer: pl.Trainer) -> str:
    """What a clean view's features depend on beside the photo."""
    device = device_name(trainer.strategy.root_device)
    parts = (encoder.weights_sha256, cfg.precision, device, torch.__version__, cfg.data.resize,
             cfg.layers)  # fmt: skip
    return f"features {' '.join(map(str, parts))}"


def in_sweep() -> bool:
    """Whether this job is one of a sweep's."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_folders(cfg: DictConfig) -> list[Path]:
    """Where finished jobs may lie: in this sweep's own folder, and in those of all others."""
    return [Path(HydraConfig.get().sweep.dir), Path(cfg.sweeps)]


def job_key(cfg: DictConfig, encoder: Encoder, photos: list[Photo]) -> str:
    """SHA-256 over all that a job's results depend on: options, weights, photos and code.

    Options that change no number (logger, cache, workers) are left out.
    """
    options = {
        name: value
        for name, value in plain(cfg).items()
        if name not in ("logger", "cache", "sweeps", "rerun", "compare")
    }
    options["data"] = {k: v for k, v in options["data"].items() if k != "num_workers"}
    facts = {
        "options": options,
        "weights": encoder.weights_sha256,
        "data": data_fingerprint(
            (photo.id, hashlib.sha256(photo.read()).digest())
            for photo in photos
            if photo.file.is_file()
        ),
        "code": code_sha256(),
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def code_sha256() -> str:
    """SHA-256 over clipshift's own source."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def take_over(done: Path, run_folder: Path) -> None:
    """Let a finished job's results be this job's."""
    if done.resolve() != run_folder.resolve():
        ignored = shutil.ignore_patterns("wandb", ".hydra", "error.txt")
        shutil.copytree(done, run_folder, ignore=ignored, dirs_exist_ok=True)
    print(f"already measured, so taken from {done} (rerun=true measures it again)")


def calibration_notes(calibration: Calibration) -> list[str]:
    """What a reader must know of matched severities: how they were matched, and which were not."""
    notes = [
        f"Matched severities: every augmentation at the strength where the mean "
        f"{calibration.distortion} of {len(calibration.photos)} calibration photos, which are not "
        f"measured, is {calibration.target:g}."
    ]
    missed = [
        f"{name} ({match.realised:.3g})"
        for name, match in calibration.matches.items()
        if not match.reached
    ]
    if missed:
        notes.append(f"Not reachable, so at the nearest strength: {', '.join(missed)}.")
    return notes


def listed(value: Any) -> list[Any]:
    """A configured list as it is, and a single value as a list of one."""
    return list(value) if OmegaConf.is_list(value) else [value]


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
        otherwise = " ".join((cfg.model.name, *cfg.aug))
        options["name"] = options["name"] or tracking.run_name(job.overrides.task, otherwise)
        options["tags"] = [*options["tags"], cfg.model.name, cfg.data.source]
        if job.mode == RunMode.MULTIRUN:
            group = tracking.sweep_group(Path(job.sweep.dir), cfg.sweeps)
            options["group"] = options["group"] or group
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
    key: str | None,
) -> Tables:
    """Make tables of what was measured, and write them, the kept tensors, and ``run.json``."""
    measured = module.measured
    for metric in (module.distance, module.spread, *module.layers):
        metric.sync_on_compute = complete
    add_relative_shift(measured, module.spread.compute().item())
    add_retained(measured)
    shift = shift_table(measured, photos, module.variants)
    names = module.distance.names
    mean = module.distance.compute()
    # torchmetrics squeezes the matrix of a single augmentation.
    distances, distances_half = (
        pd.DataFrame(
            matrix.reshape(len(names), -1).cpu().numpy(),
            index=pd.Index(names, name="augmentation"),
            columns=names,
        )
        for matrix in (mean, module.distance.half_width)
    )
    encoder = module.encoder
    facts = {
        "complete": complete,
        "job": key,
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
            "fingerprint": data_fingerprint(
                (photos[index].id, digest)
                for index, digest in zip(measured.index, measured.digests, strict=True)
            ),
            "photos": len(measured.index),
            "skipped": len(measured.skipped),
        },
        "strengths": {name: variant.strength for name, variant in module.variants.items()},
        "gallery": len(measured.gallery.get(CLEAN, ())),
        "seed": cfg.seed,
        "precision": cfg.precision,
        "device": device_name(module.device),
        "seconds": {name: round(value, 3) for name, value in (seconds | measured.seconds).items()},
        "versions": package_versions(),
        "config": plain(cfg),
    }
    cosine = "cosine_similarity" in shift
    both = cosine and len(measured.index) > 1 and {PAPER, MATCHED} <= set(shift["severity"])
    tables = Tables(
        shift,
        summarize(shift, cfg.seed),
        distances,
        distances_half,
        rank_augmentations(shift, cfg.seed) if cosine else pd.DataFrame(),
        correlate(shift) if cosine else pd.DataFrame(),
        layer_table(module),
        skipped_table(measured, photos),
        ranking_agreement(shift, (PAPER, MATCHED), cfg.seed) if both else None,
        facts,
    )
    names = [
        "summary",
        "distances",
        "distances_half",
        "ranking",
        "correlations",
        "layers",
        "skipped",
    ]
    made = {name: getattr(tables, name) for name in names}
    write_tables(run_folder, shift, {n: t for n, t in made.items() if len(t) or n == "skipped"})
    write_tensors(run_folder, measured, photos, cfg.save.views, cfg.save.gaze)
    if tables.agreement:
        tau = dict(zip(("tau", "ci_low", "ci_high"), tables.agreement, strict=True))
        facts["paper_and_matched"] = tau
    write_provenance(run_folder, facts)
    return tables


def add_relative_shift(measured: Measured, spread: float) -> None:
    """Divide every shift by the distance between different clean photos."""
    for variant, measure in list(measured.values):
        if measure == "cosine_similarity":
            cosines = np.array(measured.values[variant, measure])
            measured.values[variant, "relative_shift"] = ((1 - cosines) / spread).tolist()


def add_retained(measured: Measured) -> None:
    """See which views find their own photo in the gallery; NaN for photos beyond it."""
    photos = sorted(measured.gallery.get(CLEAN, ()))
    if len(photos) < 2:
        return
    stacked = {
        name: torch.from_numpy(np.stack([kept[photo] for photo in photos]))
        for name, kept in measured.gallery.items()
    }
    for name in (name for name in stacked if name != CLEAN):
        found = dict(zip(photos, retained(stacked[name], stacked[CLEAN]).tolist(), strict=True))
        measured.values[name, "retained"] = [found.get(i, float("nan")) for i in measured.index]


def layer_table(module: ShiftEvaluation) -> pd.DataFrame:
    """A row per variant and layer: class-token cosine with its 95 % interval, and linear CKA."""
    rows = []
    for layer, metric in enumerate(module.layers, start=1):
        shifts = {name: values.tolist() for name, values in metric.compute().items()}
        for variant, mean, error, cka in zip(
            module.variants.values(),
            shifts["cosine"],
            shifts["cosine_error"],
            shifts["cka"],
            strict=True,
        ):
            low, high = mean - 1.96 * error, mean + 1.96 * error
            rows.append((variant.name, variant.severity, layer, mean, low, high, cka))
    columns = ["augmentation", "severity", "layer", "cosine", "ci_low", "ci_high", "cka"]
    return pd.DataFrame(rows, columns=columns)


def device_name(device: torch.device) -> str:
    """What the encoder ran on, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def show_results(
    cfg: DictConfig,
    run_folder: Path,
    module: ShiftEvaluation,
    dataset: ViewDataset,
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
    if data["photos"] > 1 and math.isnan(module.spread.compute()):
        notes.append(
            "This model is collapsed: it gives all photos the same embedding, so that a shift of 0 "
            "means nothing."
        )
    if not model["gaze"] and "attention_similarity" in cfg.metric:
        notes.append(
            f"Gaze is not available for {model['architecture']}: measures of it are left out."
        )
    if data["skipped"]:
        notes.append(f"{data['skipped']} photos could not be read: see skipped.csv.")
    source = f"{title}; seed {cfg.seed}, {cfg.precision}"
    drawn = figures.draw_figures(tables, galleries(module, dataset), source)
    if len(tables.ranking):
        for moved in moved_photos(tables.shift, dataset, module.variants):
            drawn[f"moved_{moved.side}"] = figures.draw_moved(moved)
            figures.sign(drawn[f"moved_{moved.side}"], source)
    files = figures.save_figures(drawn, run_folder / "figures")
    weights = model["checkpoint"] or model["pretrained"] or "random weights"
    facts = {
        "model": f"{model['name']}: {model['architecture']}, {weights}",
        "weights (SHA-256)": model["weights_sha256"],
        "photos": f"{data['photos']} measured, {data['skipped']} skipped",
        "gallery of retained": f"{tables.facts['gallery']} photos",
        "data (SHA-256)": data["fingerprint"],
        "strengths": ", ".join(f"{k} {v:.4g}" for k, v in tables.facts["strengths"].items()),
        "seed": cfg.seed,
        "precision, device": f"{cfg.precision}, {tables.facts['device']}",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in tables.facts["seconds"].items()),
        "packages": ", ".join(f"{k} {v}" for k, v in tables.facts["versions"].items()),
    }
    clean = page.clean_accuracy(tables.summary)
    severities = tables.summary["severity"].unique()
    at = {
        severity: tables.summary[tables.summary["severity"] == severity] for severity in severities
    }
    ranked = {
        severity: page.ranked_table(summary, figures.SHORT, intervals=True)
        for severity, summary in at.items()
    }
    report = page.write_report(run_folder, title, facts, notes, ranked, clean, files)
    places = [f"zero-shot on the clean views: {clean}"] if clean else []
    places.append(f"report: {report}")
    if isinstance(logger, WandbLogger):
        tracking.track_results(logger, tables, files, run_folder)
        places.append(tracking.run_place(logger))
    terminal.print_summary(title, at, notes, places)


def galleries(module: ShiftEvaluation, dataset: ViewDataset) -> dict[str, figures.Gallery]:
    """The first photos under the variants of each severity."""
    ids = [photo.id for photo in dataset.photos]
    names: dict[str, dict[str, str]] = {}
    for name, variant in module.variants.items():
        names.setdefault(variant.severity, {})[name] = variant.name
    return {
        severity: figures.gallery_of(module.measured, ids, SHOWN_PHOTOS, own)
        for severity, own in names.items()
    }


def moved_photos(
    shift: pd.DataFrame, dataset: ViewDataset, variants: Mapping[str, Variant]
) -> Iterator[figures.Moved]:
    """The photos that moved most and least. Their views are made once more: they are keyed."""
    index = {photo.id: place for place, photo in enumerate(dataset.photos)}
    by_key = {(variant.name, variant.severity): variant for variant in variants.values()}
    cosines = shift.set_index(["photo", "augmentation", "severity"])["cosine_similarity"]
    for side, chosen in extreme_photos(shift, MOVED_PHOTOS).items():
        moved = figures.Moved(side, [], [], [])
        for key in chosen:
            batch = collate([dataset[index[key[0]]]])
            if not len(batch.index):
                continue  # it has gone since it was measured
            variant = by_key[key[1:]]
            draws = batch.draws[variant.name]
            view = augment(variant.augmentation, batch.clean, draws, variant.strength)
            moved.titles.append(f"{key[0][-22:]}\n{' '.join(key[1:])}\ncos {cosines[key]:.3f}")
            moved.clean.append(batch.clean[0].numpy())
            moved.views.append(view[0].numpy())
        if moved.titles:
            yield moved
