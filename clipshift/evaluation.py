"""The evaluation: photos through augmentations and encoder into measures, as a Lightning module."""

import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchmetrics import Metric

from clipshift.augment import (
    MATCHED,
    PAPER,
    Augmentation,
    MovingAugmentation,
    Variant,
    augment,
    make_variants,
)
from clipshift.augment.keyed import Draws
from clipshift.calibration import (
    calibration_for,
    calibration_notes,
    left_to_measure,
    save_calibration,
)
from clipshift.config import plain
from clipshift.data import (
    Batch,
    Photo,
    ViewData,
    ViewDataset,
    candidate_classes,
    captions,
    folder,
    imagenet_name,
    is_wordnet_id,
    keyed_order,
    sample,
    shards,
)
from clipshift.encode import Encoder, Features
from clipshift.encode.shared import (
    SharedFeatures,
    shared_classifier,
    shared_encoder,
    shared_texts,
)
from clipshift.errors import UserError
from clipshift.jobs import finished_job, in_sweep, job_key, started_logger, sweep_folders, take_over
from clipshift.measure import COLUMNS, AugmentationDistance, CleanSpread, LayerShift, PhotoMeasure
from clipshift.measure.functional import MoveBack, luma, pixel_mean, retained, text_shift
from clipshift.measure.zero_shot import zero_shot_flip, zero_shot_hit
from clipshift.report.run import SHOWN_PHOTOS, report_run
from clipshift.report.terminal import PhotoProgressBar
from clipshift.results import (
    CLEAN,
    Measured,
    Tables,
    clear_results,
    correlate,
    data_fingerprint,
    distance_tables,
    intraclass_correlation,
    mean_interval,
    order_of_photos,
    rank_augmentations,
    ranking_agreement,
    shift_table,
    skipped_table,
    summarize,
    write_json,
    write_tables,
    write_tensors,
)
from clipshift.train.export import trained_augmentations
from clipshift.trainer import make_trainer
from clipshift.versions import (
    CODE_SHA256,
    command_line,
    environment,
    git_commit,
    package_versions,
)


@dataclass
class Keep:
    """What to keep beside the measures.

    Attributes:
        embeddings: Whether to keep all embeddings.
        gallery: Indices of the photos whose embeddings are kept until the end in any case, to see
            which views still find their own photo among them.
        views: The views of so many first photos.
        gaze: The gazes of so many first photos.
    """

    embeddings: bool = False
    gallery: Collection[int] = frozenset()
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
            if encoder.probe is not None or measure.facts.space not in ("gaze", "aligned gaze")
        ]
        self.columns = {n: measures[n].facts for n in self.measure_names} | COLUMNS
        self.metrics: Any = nn.ModuleDict(
            {
                variant: nn.ModuleDict(
                    {name: measures[name].clone() for name in self.measure_names}
                )
                for variant in variants
            }
        )
        self.distance = AugmentationDistance(list(variants))
        self.layers: Any = nn.ModuleList(
            LayerShift(len(self.variants), width)
            for width in (encoder.layer_widths if layers else ())
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
            values = self._measure(batch, views, by_view)
            embeddings = torch.stack([by_view[name].embedding for name in self.variants])
            first, second = np.triu_indices(len(embeddings), 1)
            distances = self.distance(embeddings)[:, first, second]
            clean = by_view[CLEAN].layers or []
            cosines = []
            for place, layer in enumerate(self.layers):
                tokens = [by_view[name].layers[place] for name in self.variants]  # type: ignore[index]
                cosines.append(layer(torch.stack(tokens), clean[place]))
        # All at once and at the end, so that an interruption leaves whole photos.
        numbers = {key: value.tolist() for key, value in values.items()}
        self._keep(batch.index.tolist(), views, by_view)
        measured.index += batch.index.tolist()
        measured.digests += batch.digests
        measured.distances += list(distances.float().cpu().numpy())
        if cosines:
            measured.layers += list(torch.stack(cosines).movedim(-1, 0).cpu().numpy())
        for key, rows in numbers.items():
            measured.values.setdefault(key, []).extend(rows)

    def _encode(self, views: dict[str, Tensor], digests: list[bytes]) -> dict[str, Features]:
        layers = len(self.layers) > 0
        known = self.shared.get(digests, self.device) if self.shared is not None else None
        wanted = {name: view for name, view in views.items() if known is None or name != CLEAN}
        made = self.encoder.encode_views(torch.cat(list(wanted.values())), layers)
        features = dict(zip(wanted, made.split(len(digests)), strict=True))
        if known is not None:
            return {CLEAN: known} | features
        if self.shared is not None:
            self.shared.set(digests, features[CLEAN])
        return features

    def _measure(
        self, batch: Batch, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[tuple[str, str], Tensor]:
        index = batch.index
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
                space = metric.facts.space
                inputs: list[Any] = [
                    _space(space, views[view], features[view]) for view in (variant, CLEAN)
                ]
                if space == "aligned gaze":
                    inputs.append(_move_back(self.variants[variant], batch.draws))
                values[variant, name] = metric(*inputs)
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
            if self.keep.embeddings or name == CLEAN:
                # A copy: a row's view would hold the whole batch in memory.
                rows = list(made.embedding.float().cpu().numpy().copy())
                self.measured.embeddings.setdefault(name, []).extend(rows)
            for row, photo in enumerate(index):
                if photo in self.keep.gallery:
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
        for metric in self.layers:
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
    chosen = {
        "pixels": views,
        "embedding": features.embedding,
        "gaze": features.gaze,
        "aligned gaze": features.gaze,
    }[space]
    assert chosen is not None
    return chosen


def _move_back(variant: Variant, draws: dict[str, Draws]) -> MoveBack | None:
    augmentation = variant.augmentation
    if not augmentation.moves_pixels:
        return None
    if not isinstance(augmentation, MovingAugmentation):
        raise UserError(
            f"aug.{variant.name} moves pixels but has no move_back, which the aligned measures of "
            "gaze need: write it, or choose metric=paper"
        )
    return partial(augmentation.move_back, draws=draws[variant.name], strength=variant.strength)


def load_photos(data: DictConfig) -> tuple[list[Photo], list[str]]:
    """The photos of a ``data`` configuration, and the classes of all photos in its source.

    ``skip`` and ``limit`` cut the source's list; of what they leave, ``skip_sample`` and ``sample``
    cut a random order that depends on the photos' ids alone. The photos come in the list's order.

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
    if not photos:
        raise UserError(f"no photos in {data.root}")
    listed = photos[data.skip :][: data.limit]
    if not listed:
        raise UserError(f"data.skip={data.skip} leaves none of the {len(photos)} photos")
    drawn = keyed_order(listed, "sample")[data.skip_sample :][: data.sample]
    if not drawn:
        raise UserError(
            f"data.skip_sample={data.skip_sample} leaves none of the {len(listed)} photos"
        )
    return [listed[index] for index in sorted(drawn)], classes


def make_zero_shot(
    encoder: Encoder, photos: list[Photo], classes: list[str], templates: list[str]
) -> ZeroShot | None:
    """The zero-shot classifier of labelled photos; None where there is nothing to tell apart.

    Labels that read alike, but for case, underscores and spaces, are one class: the model is asked
    the same. A photo whose label is not among the classes is of the class of ImageNet that WordNet
    calls by its label, or else of none.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    names: dict[str, str] = {}
    for label in classes:
        names.setdefault(_reading(label), label.replace("_", " "))
    if len(names) < 2 or not templates:
        return None
    position = {reading: index for index, reading in enumerate(names)}
    return ZeroShot(
        shared_classifier(encoder, tuple(names.values()), tuple(templates)),
        torch.tensor([_target(photo.label, position) for photo in photos]),
    )


def _target(label: str | None, position: dict[str, int]) -> int:
    if label is None:
        return -1
    reading = _reading(label)
    return position.get(reading, position.get(_reading(imagenet_name(reading) or ""), -1))


def _reading(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()


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
    start = time.perf_counter()
    started = datetime.now().astimezone()
    if "precision" in cfg.trainer:
        raise UserError("trainer.precision is for training: choose the encoder's by precision=bf16")
    run_folder.mkdir(parents=True, exist_ok=True)
    tags = [cfg.model.name, cfg.data.source]
    try:
        photos, classes = load_photos(cfg.data)
        if cfg.zero_shot.classes:
            classes = candidate_classes(cfg.zero_shot.classes)
        encoder = shared_encoder(
            cfg.model.architecture, cfg.model.pretrained, cfg.model.checkpoint, cfg.precision
        )
        trained_on = trained_augmentations(cfg.model.checkpoint)
    except UserError:
        if in_sweep():
            with started_logger(
                cfg, "evaluate", tags
            ):  # so that the failed job is tracked with the others
                raise
        raise
    key = job_key(cfg, encoder, photos, classes) if in_sweep() else None
    if key and not cfg.rerun and (finished := finished_job(sweep_folders(cfg), key)):
        take_over(finished, run_folder)
        return
    notes = []
    try:
        cache = instantiate(cfg.cache) if cfg.cache else None
    except InstantiationException as error:
        cache = None
        notes.append(f"The cache is off: {error.__cause__} (cache.folder={cfg.cache.folder}).")
    augmentations, ladders = make_augmentations(plain(cfg.aug))
    severities = [str(severity) for severity in listed(cfg.severity)]
    calibration = None
    if MATCHED in severities:
        calibration = calibration_for(cfg, photos, augmentations)
        given, photos = len(photos), left_to_measure(photos, calibration)
        notes += calibration_notes(calibration, given - len(photos))
    strengths = {n: m.strength for n, m in calibration.matches.items()} if calibration else {}
    module = ShiftEvaluation(
        encoder,
        make_variants(augmentations, ladders, severities, strengths),
        {name: instantiate(node) for name, node in plain(cfg.metric).items()},
        Keep(
            embeddings=cfg.save.embeddings,
            gallery=frozenset(keyed_order(photos, "sample")[: cfg.gallery]),
            views=max(cfg.save.views, SHOWN_PHOTOS),
            gaze=max(cfg.save.gaze, SHOWN_PHOTOS),
        ),
        cfg.layers,
    )
    try:
        module.zero_shot = make_zero_shot(encoder, photos, classes, list(cfg.prompts.templates))
        module.texts = caption_embeddings(encoder, photos)
    except UserError as error:
        notes.append(f"Measures with text are left out: {error}.")
    targets = module.zero_shot.targets.tolist() if module.zero_shot else []
    unknown = sum(t < 0 for t, photo in zip(targets, photos, strict=False) if photo.label)
    if unknown:
        notes.append(
            f"Photos whose label is not among the classes of zero_shot.classes: {unknown} of "
            f"{len(photos)}. They have no zero-shot accuracy."
        )
    unnamed = [label for label in classes if is_wordnet_id(label)]
    if module.zero_shot and unnamed:
        prompt = cfg.prompts.templates[0].format(unnamed[0])
        notes.append(
            f"Classes that look like WordNet ids and have no known name: {len(unnamed)} of "
            f"{len(classes)}. The model was asked for “{prompt}”."
        )
    dataset = ViewDataset(photos, augmentations, cfg.seed, cfg.data.resize, cache)
    data = ViewData(dataset, cfg.data.batch_size, cfg.data.num_workers)
    loaded = time.perf_counter()
    with started_logger(cfg, "evaluate", tags) as logger:
        trainer = make_trainer(
            plain(cfg.trainer),
            logger=logger or False,
            callbacks=[PhotoProgressBar()],
            default_root_dir=str(run_folder),
            enable_checkpointing=False,
        )
        if cache is not None:
            device = device_name(trainer.strategy.root_device)
            parts = (encoder.fingerprint, device, cfg.data.resize, cfg.layers)
            module.shared = SharedFeatures(cache, f"features {' '.join(map(str, parts))}")
        complete = False
        tables = None
        try:
            trainer.test(module, data, verbose=False)
            complete = True
        finally:
            if trainer.is_global_zero and (module.measured.index or module.measured.skipped):
                clear_results(run_folder)
                if calibration:
                    save_calibration(run_folder, calibration)
                seconds = {"load": loaded - start, "photos": time.perf_counter() - loaded}
                tables = write_results(
                    cfg, run_folder, module, photos, classes, trained_on, started, seconds,
                    complete, key,
                )  # fmt: skip
                if not complete:
                    done = f"{len(module.measured.index)} of {len(photos)}"
                    print(f"stopped early: {done} photos are in {run_folder}", file=sys.stderr)
        if not trainer.is_global_zero:
            return
        if tables is None:
            raise UserError(f"none of the {len(photos)} photos was measured: see trainer.OPTION")
        if tables.shift.empty:
            raise UserError(
                f"none of the {len(photos)} photos could be read "
                f"(the first: {tables.skipped['reason'].iloc[0]}); "
                f"all are listed in {run_folder / 'skipped.csv'}"
            )
        report_run(
            cfg, run_folder, module.measured, module.variants, dataset, tables, logger, notes
        )


def listed(value: Any) -> list[Any]:
    """A configured list as it is, and a single value as a list of one."""
    return list(value) if OmegaConf.is_list(value) else [value]


def write_results(
    cfg: DictConfig,
    run_folder: Path,
    module: ShiftEvaluation,
    photos: list[Photo],
    classes: list[str],
    trained_on: list[str] | None,
    started: datetime,
    seconds: dict[str, float],
    complete: bool,
    key: str | None,
) -> Tables:
    """Make tables of what was measured, and write them, the kept tensors, and ``run.json``."""
    measured = module.measured
    for metric in module.layers:
        metric.sync_on_compute = complete
    spread = add_relative_shift(measured)
    add_retained(measured)
    shift = shift_table(measured, photos, module.variants)
    distances = distance_tables(measured, photos, list(module.variants), cfg.seed)
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
            "trained_on": trained_on,
            "weights_sha256": encoder.weights_sha256,
            "fingerprint": encoder.fingerprint,
            "preprocessing": encoder.preprocessing,
            "gaze": encoder.probe is not None,
        },
        "data": {
            "fingerprint": data_fingerprint(
                (photos[index].id, digest)
                for index, digest in zip(measured.index, measured.digests, strict=True)
            ),
            "photos": len(measured.index),
            "skipped": len(measured.skipped),
            "classes": classes,
        },
        "spread": None if math.isnan(spread) else spread,
        "collapsed": len(measured.index) > 1 and math.isnan(spread),
        "strengths": {name: variant.strength for name, variant in module.variants.items()},
        "gallery": len(measured.gallery.get(CLEAN, ())),
        "seed": cfg.seed,
        "precision": cfg.precision,
        "device": device_name(module.device),
        "seconds": {name: round(value, 3) for name, value in (seconds | measured.seconds).items()},
        "command": command_line(),
        "started": started.isoformat(timespec="seconds"),
        "commit": git_commit(),
        **environment(),
        "versions": package_versions(),
        "code_sha256": CODE_SHA256,
        "config": plain(cfg),
    }
    cosine = "cosine_similarity" in shift
    several = len(measured.index) > 1 and shift["augmentation"].nunique() > 1
    both = cosine and several and {PAPER, MATCHED} <= set(shift["severity"])
    tables = Tables(
        shift,
        summarize(shift, module.columns, cfg.seed),
        *distances,
        rank_augmentations(shift, cfg.seed) if cosine else pd.DataFrame(),
        correlate(shift) if cosine else pd.DataFrame(),
        layer_table(module, photos, cfg.seed),
        skipped_table(measured, photos),
        ranking_agreement(shift, (PAPER, MATCHED), cfg.seed) if both else None,
        facts,
        module.columns,
    )
    facts["distortion"] = realised_distortion(tables.summary)
    facts["intraclass_correlation"] = label_correlation(shift) if cosine else None
    write_tables(run_folder, tables)
    write_tensors(run_folder, measured, photos, cfg.save.views, cfg.save.gaze)
    if tables.agreement:
        found = [None if math.isnan(value) else value for value in tables.agreement]
        facts["paper_and_matched"] = dict(zip(("tau", "ci_low", "ci_high"), found, strict=True))
    write_json(run_folder / "run.json", facts)
    return tables


def realised_distortion(summary: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """What the augmentations came to: mean RMSE and SSIM, by augmentation and severity."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in summary[summary["measure"].isin(["rmse", "ssim"])].itertuples():
        by_severity = found.setdefault(row.augmentation, {})
        by_severity.setdefault(row.severity, {})[row.measure] = row.mean
    return found


def label_correlation(shift: pd.DataFrame) -> float | None:
    """How alike the mean shifts of photos of one label are; None where that cannot be said."""
    photos = shift.groupby("photo").agg({"cosine_similarity": "mean", "label": "first"})
    found = intraclass_correlation(photos["cosine_similarity"].to_numpy(), list(photos["label"]))
    return None if math.isnan(found) else found


def device_name(device: torch.device) -> str:
    """What the encoder ran on, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def add_relative_shift(measured: Measured) -> float:
    """Divide every shift by the mean distance between different clean photos.

    Leaves ``distance_to_others`` beside it, each photo's share in that mean.

    Returns:
        The mean distance; NaN where the encoder makes no difference between photos.
    """
    rows = measured.embeddings.get(CLEAN)
    if not rows:
        return math.nan
    clean = torch.from_numpy(np.stack(rows))
    metric = CleanSpread(clean.shape[1], sync_on_compute=False)
    metric.update(clean)
    spread = metric.compute().item()
    others = metric.distance_to_others(clean).numpy()
    for variant, measure in list(measured.values):
        if measure == "cosine_similarity":
            shift = 1 - np.array(measured.values[variant, measure])
            relative = np.where(np.isnan(others), np.nan, shift / spread)
            measured.values[variant, "relative_shift"] = relative.tolist()
            measured.values[variant, "distance_to_others"] = others.tolist()
    return spread


def add_retained(measured: Measured) -> None:
    """See which views find their own photo in the gallery; NaN for photos outside it."""
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


def layer_table(module: ShiftEvaluation, photos: list[Photo], seed: int) -> pd.DataFrame:
    """One row per variant and layer: mean class-token cosine with its 95 % interval, and both CKA.

    The interval is `clipshift.results.mean_interval`.
    """
    columns = [
        "augmentation", "severity", "layer", "cosine", "ci_low", "ci_high", "cka", "cka_biased",
    ]  # fmt: skip
    measured = module.measured
    if not measured.layers:
        return pd.DataFrame(columns=columns)
    cosines = np.stack([measured.layers[row] for row in order_of_photos(measured, photos)])
    low, high = np.clip(mean_interval(cosines, seed), -1, 1)
    rows = []
    for layer, metric in enumerate(module.layers):
        # torchmetrics squeezes the values of a single variant.
        made = {name: values.reshape(-1).tolist() for name, values in metric.compute().items()}
        rows += [
            (
                v.name, v.severity, layer + 1, made["cosine"][k], low[layer, k], high[layer, k],
                made["cka"][k], made["cka_biased"][k],
            )
            for k, v in enumerate(module.variants.values())
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
