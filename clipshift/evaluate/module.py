"""The evaluation of one batch after another, as a Lightning module."""

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
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
from clipshift.encode import ENCODE_BATCH, Encoder, FeatureCache, Features, ZeroShot
from clipshift.errors import UserError
from clipshift.evaluate.floor import FLOOR_PHOTOS, rounding
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
NEAREST = 3
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
        reference: The same model in float32, where the encoder's precision is lower.
        layers: Whether to measure the shift of every layer.
    """

    classifier: Tensor

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
        reference: Encoder | None = None,
        layers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.reference = encoder, reference
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
        self.register_buffer("classifier", zero_shot.classifier if zero_shot else None, False)
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
        measured = Measured(skipped=batch.skipped)
        if len(batch.index):
            self.seconds = measured.seconds
            self._measure_batch(batch, measured)
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

    def _measure_batch(self, batch: Batch, measured: Measured) -> None:
        with self._stage("augment"):
            clean = batch.clean
            views = {CLEAN: clean} | {
                name: augment(v.augmentation, clean, batch.draws[v.name], v.strength)
                for name, v in self.variants.items()
            }
        with self._stage("encode"):
            by_view = self._encode(views, batch.digests)
        floor = self._floor(batch, views, by_view)
        with self._stage("measure"):
            values = self._measure(batch, views, by_view)
            embeddings = torch.stack([made.embedding for made in by_view.values()])
            distances = self.distance(embeddings[1:])
            arrays = on_host(
                {
                    "values": torch.stack([value.double() for value in values.values()]),
                    "embeddings": embeddings,
                    "distances": torch.cat(
                        [row[:, k + 1 :] for k, row in enumerate(distances.unbind(dim=1))], dim=1
                    ),
                    **floor,
                    **self._layer_cosines(by_view),
                    **self._seen(batch, views, by_view),
                }
            )
        measured.index = batch.index.numpy()
        measured.digests = np.frombuffer(b"".join(batch.digests), np.uint8).reshape(-1, 32)
        measured.stored = stored_digests(batch.draws.values())
        measured.values = dict(zip(values, arrays["values"], strict=True))
        measured.distances = arrays["distances"].astype(np.float32)
        measured.layers = arrays.get("layers")
        self._keep(measured, batch, arrays)

    def _encode(self, views: dict[str, Tensor], digests: list[bytes]) -> dict[str, Features]:
        layers = len(self.layers) > 0
        known = self.features.get(digests, self.device) if self.features is not None else None
        wanted = {name: view for name, view in views.items() if known is None or name != CLEAN}
        if len(digests) % ENCODE_BATCH:
            every = self.encoder.encode_views(torch.cat(list(wanted.values())), layers)
            made = every.split(len(digests))
        else:  # passes are full anyhow, and copying all views takes a while
            made = [self.encoder.encode_views(view, layers) for view in wanted.values()]
        features = dict(zip(wanted, made, strict=True))
        if known is not None:
            return {CLEAN: known} | features
        if self.features is not None:
            self.features.set(digests, features[CLEAN])
        return features

    def _measure(
        self, batch: Batch, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[tuple[str, str], Tensor]:
        values: dict[tuple[str, str], Tensor] = {}
        clean = features[CLEAN].embedding
        hits = {
            name: self._zero_shot_hits(batch, made.embedding) for name, made in features.items()
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
                flip = zero_shot_flip(embedding, clean, self.classifier)
                values[variant, "zero_shot_flip"] = flip
            if self.texts is not None:
                text = self.texts[batch.index].to(self.device, non_blocking=True)
                values[variant, "text_shift"] = text_shift(embedding, clean, text)
            values[variant, "brightness"] = brightness
            values[variant, "contrast"] = contrast
        return values

    def _zero_shot_hits(self, batch: Batch, embedding: Tensor) -> dict[str, Tensor]:
        if self.zero_shot is None:
            return {}
        target = self.zero_shot.targets[batch.index].to(self.device, non_blocking=True)
        return {
            f"zero_shot_top{k}": zero_shot_hit(embedding, self.classifier, target, k)
            for k in self.zero_shot.top
        }

    def _floor(
        self, batch: Batch, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[str, Tensor]:
        """What the encoder's precision changes of the run's first photos' cosines."""
        rows = _rows(batch, FLOOR_PHOTOS)
        if self.reference is None or not rows:
            return {}
        with self._stage("floor"):
            chosen = torch.stack([view[row] for view in views.values() for row in rows])
            exact = self.reference.encode_views(chosen).embedding
            ours = torch.stack([f.embedding[row] for f in features.values() for row in rows])
            shapes = (len(views), len(rows))
            return {"floor": rounding(*(made.unflatten(0, shapes) for made in (ours, exact)))}

    def _layer_cosines(self, features: dict[str, Features]) -> dict[str, Tensor]:
        """The class tokens' cosines by photo, layer and variant."""
        clean = features[CLEAN].layers or []
        cosines = []
        for index, layer in enumerate(self.layers):
            tokens = [features[name].layers[index] for name in self.variants]  # type: ignore[index]
            cosines.append(layer(torch.stack(tokens), clean[index]))
        return {"layers": torch.stack(cosines).movedim(-1, 0)} if cosines else {}

    def _seen(
        self, batch: Batch, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[str, Tensor]:
        """Of photos to keep: views, gazes, and the classes nearest to them."""
        seen = {}
        if rows := _rows(batch, self.keep.views):
            shown = [torch.stack([view[row] for row in rows]) for view in views.values()]
            seen["views"] = torch.stack(shown)
        if _rows(batch, self.keep.gaze):
            gazes = [made.gaze for made in features.values() if made.gaze is not None]
            if gazes:
                seen["gazes"] = torch.stack(gazes)
            if self.zero_shot is not None:
                seen["nearest"] = torch.stack(
                    [
                        torch.stack(nearest_classes(f.embedding, self.classifier, NEAREST), dim=-1)
                        for f in features.values()
                    ]
                )
        return seen

    def _keep(self, measured: Measured, batch: Batch, arrays: dict[str, np.ndarray]) -> None:
        photos = measured.index.tolist()
        gallery = [row for row, photo in enumerate(photos) if photo in self.keep.gallery]
        gazed = _rows(batch, self.keep.gaze)

        def chosen(values: np.ndarray, rows: list[int]) -> dict[int, np.ndarray]:
            return {photos[row]: value for row, value in zip(rows, values, strict=True)}

        for place, name in enumerate([CLEAN, *self.variants]):
            embeddings = arrays["embeddings"][place]
            if self.keep.embeddings or name == CLEAN:
                measured.embeddings[name] = embeddings
            if gallery:
                measured.gallery[name] = chosen(embeddings[gallery], gallery)
            if "views" in arrays:
                rows = _rows(batch, self.keep.views)
                measured.views[name] = chosen(arrays["views"][place], rows)
            if "gazes" in arrays:
                measured.gazes[name] = chosen(arrays["gazes"][place][gazed], gazed)
            if "nearest" in arrays:
                measured.nearest[name] = chosen(arrays["nearest"][place][gazed], gazed)
            if "floor" in arrays and name != CLEAN:
                rows = _rows(batch, FLOOR_PHOTOS)
                measured.floor[name] = chosen(arrays["floor"][place - 1], rows)

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


def stored_digests(draws: Iterable[Draws]) -> np.ndarray | None:
    """SHA-256 over the digests of each photo's stored corruptions; None where there are none.

    Args:
        draws: Of every augmentation, for B photos.

    Returns:
        uint8, shape (B, 32).
    """
    found = [drawn["digests"].flatten(1).cpu() for drawn in draws if "digests" in drawn]
    if not found:
        return None
    rows = torch.cat(found, dim=1).numpy()
    whole = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)
    return np.frombuffer(whole, np.uint8).reshape(-1, 32)


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors of one device as arrays, moved as one block: so a GPU is waited for once."""
    flat = [tensor.flatten().view(torch.uint8) for tensor in tensors.values()]
    parts = torch.cat(flat).cpu().split([len(part) for part in flat])
    return {
        name: part.clone().view(tensor.dtype).view(tensor.shape).numpy()
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def _rows(batch: Batch, count: int) -> list[int]:
    """The rows of a batch that are among the first photos of the run."""
    return [row for row, photo in enumerate(batch.index.tolist()) if photo < count]


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
