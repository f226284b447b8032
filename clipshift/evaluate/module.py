"""The evaluation of one batch after another, as a Lightning module."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from clipshift.augment import MovingAugmentation, Variant, augment
from clipshift.augment.keyed import Draws
from clipshift.data import GONE, Batch
from clipshift.encode import Encoder, FeatureCache, Features, ZeroShot
from clipshift.errors import UserError
from clipshift.measure import COLUMNS, AugmentationDistance, LayerShift, PhotoMeasure
from clipshift.measure.functional import (
    MoveBack,
    luma,
    pixel_mean,
    text_shift,
)
from clipshift.measure.zero_shot import nearest_classes, zero_shot_flip, zero_shot_hit
from clipshift.results import CLEAN, Measured, Records

MANY_GONE = 32
"""After so many photos in a row that are gone, a run ends."""
NEAREST_CLASSES = 3
"""How many classes nearest to a view are kept."""
SUMS_SHARE = 0.05
"""How much of the time may go into writing the layers' sums."""


@dataclass
class Keep:
    """What to keep beside the measures.

    Attributes:
        embeddings: Whether to keep all embeddings.
        gallery: Indices of the photos whose embeddings are kept until the end in any case, to see
            which views still find their own photo among them.
        views: The views of so many first photos.
        gaze: The gazes of so many first photos, and the classes nearest to them.
    """

    embeddings: bool = False
    gallery: Collection[int] = frozenset()
    views: int = 0
    gaze: int = 0


class ShiftEvaluation(pl.LightningModule):
    """Measures the shift of every photo under every variant of the augmentations.

    What it measured of a batch goes to the records at once.

    Args:
        encoder: The encoder.
        variants: Augmentations at severities, by view name.
        measures: Measures by name. Those of the gaze are left out where the encoder has none.
        records: Where what is measured goes.
        keep: What to keep beside the measures.
        zero_shot: The classifier and the photos' classes, where they have some.
        texts: For each photo the mean embedding of its captions, shape (N, D), where they have
            some; NaN for a photo without.
        features: Clean views' features that are known already.
        layers: Whether to measure the shift of every layer.
    """

    def __init__(
        self,
        encoder: Encoder,
        variants: Mapping[str, Variant],
        measures: Mapping[str, PhotoMeasure],
        records: Records,
        keep: Keep,
        *,
        zero_shot: ZeroShot | None = None,
        texts: Tensor | None = None,
        features: FeatureCache | None = None,
        layers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.variants = dict(variants)
        chosen = {
            name: measure
            for name, measure in measures.items()
            if encoder.probe is not None or measure.facts.space not in ("gaze", "aligned gaze")
        }
        self.measures: Any = nn.ModuleDict(chosen)
        self.columns = {name: measure.facts for name, measure in chosen.items()} | COLUMNS
        self.distance = AugmentationDistance(list(variants))
        self.layers: Any = nn.ModuleList(
            LayerShift(len(self.variants), width)
            for width in (encoder.layer_widths if layers else ())
        )
        self.records, self.keep = records, keep
        self.zero_shot, self.texts, self.features = zero_shot, texts, features
        self.in_step = False
        self.gone = 0
        self.summed: list[int] = []
        self.sums_written, self.sums_cost = 0.0, 0.0
        self.seconds: dict[str, float] = {}

    def on_test_epoch_start(self) -> None:
        # A spawned process starts with a copy of the states, and they would be summed over ranks.
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self.summed = []
        self.sums_written, self.sums_cost = time.monotonic(), 0.0

    def test_step(self, batch: Batch) -> None:
        if not len(batch.index) and not batch.skipped:
            return
        self._look_for_vanished(batch)
        self.in_step = True
        measured = self.measure_batch(batch) if len(batch.index) else Measured()
        measured.skipped = batch.skipped
        self.records.add(measured)
        self.summed += measured.index.tolist()
        self.in_step = False
        since = time.monotonic() - self.sums_written
        if self.layers and self.sums_cost < SUMS_SHARE * since:
            self.write_sums()

    def _look_for_vanished(self, batch: Batch) -> None:
        gone = [skipped for skipped in batch.skipped if skipped.reason == GONE]
        self.gone = 0 if len(batch.index) else self.gone + len(gone)
        if self.gone >= MANY_GONE:
            raise UserError(f"the last {self.gone} photos are gone: was their folder moved?")

    def measure_batch(self, batch: Batch) -> Measured:
        """Measure the photos of a batch, and keep what is to be kept of them."""
        measured = Measured(index=batch.index.cpu().numpy())
        measured.digests = np.frombuffer(b"".join(batch.digests), np.uint8).reshape(-1, 32)
        self.seconds = measured.seconds
        with self._stage("augment"):
            clean = batch.clean
            views = {CLEAN: clean} | {
                name: augment(v.augmentation, clean, batch.draws[v.name], v.strength)
                for name, v in self.variants.items()
            }
        with self._stage("encode"):
            by_view = self._encode(views, batch.digests)
        with self._stage("measure"):
            values = self._measure(batch, views, by_view)
            embeddings = torch.stack([by_view[name].embedding for name in self.variants])
            first, second = np.triu_indices(len(embeddings), 1)
            distances = self.distance(embeddings)[:, first, second]
            clean_tokens = by_view[CLEAN].layers or []
            cosines = []
            for index, layer in enumerate(self.layers):
                tokens = [by_view[name].layers[index] for name in self.variants]  # type: ignore[index]
                cosines.append(layer(torch.stack(tokens), clean_tokens[index]))
            measured.values = {key: value.double().cpu().numpy() for key, value in values.items()}
            measured.distances = distances.float().cpu().numpy()
        if cosines:
            measured.layers = torch.stack(cosines).movedim(-1, 0).cpu().numpy()
        self._keep(measured, views, by_view)
        return measured

    def _encode(self, views: dict[str, Tensor], digests: list[bytes]) -> dict[str, Features]:
        layers = len(self.layers) > 0
        known = self.features.get(digests, self.device) if self.features is not None else None
        wanted = {name: view for name, view in views.items() if known is None or name != CLEAN}
        made = self.encoder.encode_views(torch.cat(list(wanted.values())), layers)
        features = dict(zip(wanted, made.split(len(digests)), strict=True))
        if known is not None:
            return {CLEAN: known} | features
        if self.features is not None:
            self.features.set(digests, features[CLEAN])
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
            for name, measure in self.measures.items():
                space = measure.facts.space
                inputs: list[Any] = [
                    _space(space, views[view], features[view]) for view in (variant, CLEAN)
                ]
                if space == "aligned gaze":
                    size = batch.pixels.shape[-1]
                    inputs += [_move_back(self.variants[variant], batch.draws), size]
                values[variant, name] = measure(*inputs)
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
        self, measured: Measured, views: dict[str, Tensor], features: dict[str, Features]
    ) -> None:
        photos = measured.index.tolist()

        def chosen(values: Tensor, wanted: list[int]) -> dict[int, np.ndarray]:
            return {photo: values[photos.index(photo)].cpu().numpy() for photo in wanted}

        gallery = [photo for photo in photos if photo in self.keep.gallery]
        shown = [photo for photo in photos if photo < self.keep.views]
        gazed = [photo for photo in photos if photo < self.keep.gaze]
        for name, view in views.items():
            made = features[name]
            if self.keep.embeddings or name == CLEAN:
                measured.embeddings[name] = made.embedding.float().cpu().numpy()
            if gallery:
                measured.gallery[name] = chosen(made.embedding, gallery)
            if shown:
                measured.views[name] = chosen(view, shown)
            if gazed and made.gaze is not None:
                measured.gazes[name] = chosen(made.gaze, gazed)
            if gazed and self.zero_shot is not None:
                classifier = self.zero_shot.classifier.to(self.device)
                nearest = nearest_classes(made.embedding, classifier, NEAREST_CLASSES)
                measured.nearest[name] = chosen(torch.stack(nearest, dim=-1), gazed)

    def on_test_epoch_end(self) -> None:
        if self.layers:
            self.write_sums()

    def write_sums(self) -> None:
        """Bring the layers' sums to the disk, over all that this process has measured."""
        start = time.monotonic()
        sums = {
            f"{layer} {name}": value
            for layer, metric in enumerate(self.layers)
            for name, value in metric.metric_state.items()
        }
        self.records.add_sums(sums, self.summed, self.global_rank)
        self.sums_written = time.monotonic()
        self.sums_cost = self.sums_written - start

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


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
