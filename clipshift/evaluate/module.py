"""The Lightning module that evaluates batch after batch."""

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from clipshift.augment.keyed import Draws, MovingAugmentation
from clipshift.augment.matching import Distortion
from clipshift.augment.variants import Variant
from clipshift.data.dataset import GONE, Batch
from clipshift.encode.encoder import ENCODE_BATCH, Encoder, Features
from clipshift.encode.feature_cache import FeatureCache
from clipshift.encode.packing import packed_weights
from clipshift.encode.patching import patched_shift, patched_sites
from clipshift.encode.texts import ZeroShot
from clipshift.errors import UserError
from clipshift.evaluate.dissect import component_products, location_products
from clipshift.evaluate.elasticity import around_match
from clipshift.evaluate.faithfulness import deletion_curves
from clipshift.evaluate.floor import rounding
from clipshift.measure.embeddings import ball_radius
from clipshift.measure.facts import COLUMNS, accuracy_columns
from clipshift.measure.functional import MoveBack, luma, pixel_mean, pixel_std, text_shift
from clipshift.measure.metrics import AugmentationDistance, LayerShift, OutlierTokens, PhotoMeasure
from clipshift.measure.zero_shot import confidence, nearest_classes, zero_shot_flip, zero_shot_hit
from clipshift.progress import counted
from clipshift.results.measured import CLEAN, KEPT, Measured
from clipshift.results.records import Records
from clipshift.severities import draw_name

MANY_GONE = 32
"""After so many photos in a row that are gone, a run ends."""
NEAREST = 3
"""How many classes nearest to a view are kept."""
SUMS_SHARE = 0.05
"""How much of the time may go into writing the layers' sums."""


@dataclass
class RecordOptions:
    """What goes into the records beside the measures.

    Attributes:
        embeddings: Whether to keep all embeddings, and not only those of the clean views.
        photos: Indices of the photos of which something is kept, by its name in
            `clipshift.results.measured.Measured`. Where a run cannot have it, as ``tokens`` without
            ``layers``, there is none.
        random_maps: Those of the photos of ``faithfulness``, by index, see
            `clipshift.evaluate.faithfulness.random_maps`.
        heads_patched: The number of last layers that are patched head by head.
    """

    embeddings: bool = False
    photos: Mapping[str, Collection[int]] = field(default_factory=dict)
    random_maps: Mapping[int, Tensor] = field(default_factory=dict)
    heads_patched: int = 0


class ShiftEvaluation(pl.LightningModule):
    """Measures the shift of every photo under every variant of the augmentations.

    Without variants it only embeds the clean views. What it measured of a batch goes to the records
    at once.

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
        distortion: What strengths were matched by, where some were.
        layers: Whether to measure the shift of every layer.
        dissect: Whether to measure which components carry it.
        draws: How often each augmentation is drawn. Of further draws only values are kept, and of
            the gallery's photos their embeddings.
        redraws: What other jobs of a sweep measured of further draws.
    """

    classifier: Tensor
    doing = "Measuring photos"

    def __init__(
        self,
        encoder: Encoder,
        variants: Mapping[str, Variant],
        measures: Mapping[str, PhotoMeasure],
        records: Records,
        keep: RecordOptions,
        *,
        zero_shot: ZeroShot | None = None,
        texts: Tensor | None = None,
        features: FeatureCache | None = None,
        reference: Encoder | None = None,
        distortion: Distortion | None = None,
        layers: bool = False,
        dissect: bool = False,
        draws: int = 1,
        redraws: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.reference, self.distortion = encoder, reference, distortion
        self.variants = dict(variants)
        chosen = {
            name: measure
            for name, measure in measures.items()
            if encoder.probe is not None or measure.facts.space not in ("gaze", "aligned gaze")
        }
        self.measures: Any = nn.ModuleDict(chosen)
        self.columns = {name: measure.facts for name, measure in chosen.items()} | COLUMNS
        if zero_shot is not None:
            self.columns |= accuracy_columns(zero_shot.top, zero_shot.classifier.shape[1])
        self.distance = AugmentationDistance(list(variants))
        self.layers: Any = nn.ModuleList(
            LayerShift(len(self.variants), width)
            for width in (encoder.layer_widths if layers else ())
        )
        self.outliers = OutlierTokens(1 + len(self.variants), len(self.layers))
        self.records, self.keep = records, keep
        self.dissect = dissect and encoder.components is not None
        patchable = encoder.patchable if dissect else None
        self.sites = patched_sites(patchable, keep.heads_patched) if patchable else []
        self.patched_views = self.gazed = 0
        self.further, self.redraws = range(2, draws + 1), redraws
        self.zero_shot, self.texts, self.features = zero_shot, texts, features
        self.logit_scale = encoder.logit_scale  # read once, as a GPU would wait for it
        self.register_buffer("classifier", zero_shot.classifier if zero_shot else None, False)
        self.in_step = False
        self.gone = 0
        self.summed: list[int] = []
        self.sums_written, self.sums_cost = 0.0, 0.0
        self.seconds: dict[str, float] = {}
        self.faster = ExitStack()

    def on_test_epoch_start(self) -> None:
        # A spawned process starts with a copy of the states, and they would be summed over ranks.
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self.summed = []
        self.sums_written, self.sums_cost = time.monotonic(), 0.0
        self.faster.enter_context(packed_weights(self.encoder))

    def test_step(self, batch: Batch) -> None:
        if not len(batch.index) and not batch.skipped:
            return
        gone = [skipped for skipped in batch.skipped if skipped.reason == GONE]
        self.gone = 0 if len(batch.index) else self.gone + len(gone)
        if self.gone >= MANY_GONE:
            raise UserError(f"the last {self.gone} photos are gone: was their folder moved?")
        self.in_step = True
        measured = self.measure_batch(batch) if len(batch.index) else Measured()
        measured.skipped = batch.skipped
        self.records.add(measured)
        self.summed += measured.index.tolist()
        self.in_step = False
        since = time.monotonic() - self.sums_written
        if self.layers and self.sums_cost < SUMS_SHARE * since:
            self.write_sums()

    def measure_batch(self, batch: Batch) -> Measured:
        """Measure the photos of a batch, and keep what is to be kept of them."""
        measured = Measured(index=batch.index.cpu().numpy())
        measured.digests = np.frombuffer(b"".join(batch.digests), np.uint8).reshape(-1, 32)
        chosen = {kind: self.keep.photos.get(kind, ()) for kind in KEPT}
        photos = list(enumerate(batch.index.tolist()))
        rows = {kind: [n for n, photo in photos if photo in of] for kind, of in chosen.items()}
        self.seconds = measured.seconds
        with self._stage("augment"):
            views = {CLEAN: batch.clean} | batch.under(self.variants)
        with self._stage("encode"):
            cached = self.features.get(batch.digests, self.device) if self.features else None
            kept: dict[str, Tensor] = {}
            if rows["locations"]:
                by_view, kept["locations"] = self._encode_by_token(views, rows["locations"])
            else:
                by_view = self._encode(views, cached)
            unknown = self.features and by_view[CLEAN] is not cached
            new = FeatureCache.by_name(by_view[CLEAN]) if unknown else {}
        kept |= self._floor(rows["floor"], views, by_view)
        kept |= self._weaker(rows["weaker"], batch, views, by_view)
        kept |= self._patched(rows["patched"], views)
        kept |= self._faithfulness(rows["faithfulness"], batch, views)
        with self._stage("measure"):
            values = self._measure(batch, views, by_view, self.variants)
        further = [self._redraw(batch, by_view[CLEAN], values, n) for n in self.further]
        with self._stage("measure"):
            embeddings = torch.stack([each.embedding for each in by_view.values()])
            count = len(self.variants)
            first, second = torch.triu_indices(count, count, 1, device=embeddings.device)
            distances = self.distance(embeddings[1:])[:, first, second]
            values |= {name: of for more, _ in further for name, of in more.items()}
            numbers = [value.double() for value in values.values()]
            tensors = {
                "values": torch.stack(numbers) if numbers else torch.empty(0),
                "embeddings": embeddings,
                "distances": distances,
                **kept,
                **self._layer_shift(by_view),
                **self._components(rows["gathered"], by_view),
                **self._kept(rows, views, by_view),
                **({"further": torch.stack([of for _, of in further])} if further else {}),
                **{f"clean {name}": tensor for name, tensor in new.items()},
            }
            arrays = on_host(tensors)
        if self.features and new:
            clean_features = {name: torch.from_numpy(arrays[f"clean {name}"]) for name in new}
            self.features.set(batch.digests, clean_features)
        measured.stored = stored_digests(batch.draws.values())
        measured.values = dict(zip(values, arrays["values"], strict=True))
        measured.distances = arrays["distances"].astype(np.float32)
        for name in ("layers", "outliers", "components"):
            setattr(measured, name, arrays.get(name))
        every = list(views) if self.keep.embeddings else [CLEAN]  # which is the first
        measured.embeddings = dict(zip(every, arrays["embeddings"], strict=False))
        for kind in rows.keys() & arrays.keys():
            indices = measured.index[rows[kind]].tolist()
            for name, of_view in zip(list(views)[-len(arrays[kind]) :], arrays[kind], strict=True):
                getattr(measured, kind)[name] = dict(zip(indices, of_view, strict=True))
        if further:
            drawn = np.concatenate([arrays["embeddings"][None, 1:], arrays["further"]])
            self._add_draws(measured, drawn, rows["gallery"])
        return measured

    def _redraw(
        self, batch: Batch, features: Features, first: Iterable[tuple[str, str]], number: int
    ) -> tuple[dict[tuple[str, str], Tensor], Tensor]:
        """Measure one more draw, unless another job of the sweep has.

        Args:
            batch: B photos.
            features: Of their clean views.
            first: The names of the first draw's values.
            number: Which draw, from 2.

        Returns:
            The values, and the views' embeddings, shape (variants, B, D).
        """
        names = [(draw_name(view, number), measure) for view, measure in first]
        photos = zip(batch.index.tolist(), batch.digests, strict=True)
        keys = [f"{number} {photo} ".encode() + digest for photo, digest in photos]
        tensors = self.redraws.tensors(keys, self.device) if self.redraws else None
        if tensors is None or tensors["values"].shape[1:] != (len(names),):
            variants = {
                draw_name(name, number): replace(v, name=draw_name(v.name, number))
                for name, v in self.variants.items()
            }
            with self._stage("draws"):
                views = {CLEAN: batch.clean} | batch.under(variants)
                by_view = self._encode(views, features)
                values = self._measure(batch, views, by_view, variants)
            numbers = [values[name].double() for name in names]
            embeddings = [by_view[name].embedding for name in variants]
            tensors = {"values": torch.stack(numbers, 1), "embedding": torch.stack(embeddings, 1)}
            if self.redraws:
                self.redraws.set(keys, tensors)
        values = dict(zip(names, tensors["values"].T, strict=True))
        return values, tensors["embedding"].movedim(1, 0)

    def _add_draws(self, measured: Measured, drawn: np.ndarray, gallery: list[int]) -> None:
        """Add what all draws of a photo have, and the gallery's embeddings of further ones.

        Args:
            measured: What was measured of a batch.
            drawn: Embeddings, shape (draws, variants, B, D).
            gallery: The rows of the gallery's photos.
        """
        photos = measured.index.tolist()
        for place, name in enumerate(self.variants):
            radius = ball_radius(drawn[:, place].swapaxes(0, 1))
            for number, embeddings in enumerate(drawn[:, place], start=1):
                view = draw_name(name, number)
                measured.values[view, "draw_radius"] = radius
                if gallery and number > 1:
                    measured.gallery[view] = {photos[n]: embeddings[n] for n in gallery}

    def _encode(self, views: dict[str, Tensor], cached: Features | None) -> dict[str, Features]:
        """The features of all views, the clean ones' being known or not."""
        layers, photos = len(self.layers) > 0, len(views[CLEAN])
        wanted = {name: view for name, view in views.items() if cached is None or name != CLEAN}
        wants = layers, bool(self.keep.photos.get("heads")), self.dissect
        if photos % ENCODE_BATCH:
            every = self.encoder.encode_views(torch.cat(list(wanted.values())), *wants)
            encoded = every.split(photos)
        else:  # passes are full anyhow, and copying all views takes a while
            encoded = [self.encoder.encode_views(view, *wants) for view in wanted.values()]
        features = dict(zip(wanted, encoded, strict=True))
        if cached is None:
            return features
        if not FeatureCache.alike(cached, encoded[0]):  # the cache is of another model
            cached = self.encoder.encode_views(views[CLEAN], *wants)
        return {CLEAN: cached} | features

    def _encode_by_token(
        self, views: dict[str, Tensor], rows: list[int]
    ) -> tuple[dict[str, Features], Tensor]:
        """The features of all views, and how much each token carries of some rows' displacements.

        What heads gather of each token is large: only that of a pass of clean views and of one
        other view is there at a time.
        """
        wants = len(self.layers) > 0, bool(self.keep.photos.get("heads")), True, True
        parts: dict[str, list[Features]] = {name: [] for name in views}
        located: dict[str, list[Tensor]] = {name: [] for name in self.variants}
        probe = self.encoder.components
        assert probe is not None
        for start in range(0, len(views[CLEAN]), ENCODE_BATCH):
            for name, view in views.items():
                one = self.encoder.encode_views(view[start : start + ENCODE_BATCH], *wants)
                if name == CLEAN:
                    clean = one
                else:
                    products = location_products(probe, one, clean)
                    located[name].append(products.sum(dim=(1, 2)).float())
                parts[name].append(replace(one, by_token=None))
        features = {name: Features.joined(part) for name, part in parts.items()}
        of_rows = [take(torch.cat(products), rows) for products in located.values()]
        return features, torch.stack(of_rows)

    def _measure(
        self,
        batch: Batch,
        views: dict[str, Tensor],
        features: dict[str, Features],
        variants: Mapping[str, Variant],
    ) -> dict[tuple[str, str], Tensor]:
        values: dict[tuple[str, str], Tensor] = {}
        clean = features[CLEAN].embedding
        zero_shot = {n: self._zero_shot(batch, each.embedding) for n, each in features.items()}
        gray = luma(views[CLEAN])
        brightness, contrast = pixel_mean(gray), pixel_std(gray)
        prepared = {
            name: measure.prepare(_space(measure.facts.space, views[CLEAN], features[CLEAN]))
            for name, measure in self.measures.items()
        }
        for variant in variants:
            for name, measure in self.measures.items():
                view = _space(measure.facts.space, views[variant], features[variant])
                inputs: list[Any] = [view, prepared[name]]
                if measure.facts.space == "aligned gaze":
                    moves = _move_back(variants[variant], batch.draws)
                    inputs += [moves, batch.pixels.shape[-1]]
                values[variant, name] = measure(*inputs)
            embedding = features[variant].embedding
            for name, of_view in zero_shot[variant].items():
                values[variant, f"{name}_clean"] = zero_shot[CLEAN][name]
                values[variant, name] = of_view
            if self.zero_shot is not None:
                flip = zero_shot_flip(embedding, clean, self.classifier)
                values[variant, "zero_shot_flip"] = flip
            if self.texts is not None:
                text = self.texts[batch.index].to(self.device, non_blocking=True)
                values[variant, "text_shift"] = text_shift(embedding, clean, text)
            values[variant, "brightness"] = brightness
            values[variant, "contrast"] = contrast
        return values

    def _zero_shot(self, batch: Batch, embedding: Tensor) -> dict[str, Tensor]:
        """Hits and confidence of B views, by column."""
        if self.zero_shot is None:
            return {}
        target = self.zero_shot.targets[batch.index].to(self.device, non_blocking=True)
        return {
            f"zero_shot_top{k}": zero_shot_hit(embedding, self.classifier, target, k)
            for k in self.zero_shot.top
        } | {"confidence": confidence(embedding, self.classifier, self.logit_scale)}

    def _layer_shift(self, features: dict[str, Features]) -> dict[str, Tensor]:
        """Tokens' cosines and outliers, see `Measured.layers` and `Measured.outliers`."""
        if not len(self.layers):
            return {}
        clean = features[CLEAN].layers or []
        cosines = []
        for index, layer in enumerate(self.layers):
            tokens = [features[name].layers[index] for name in self.variants]  # type: ignore[index]
            cosines.append(layer(torch.stack(tokens), clean[index]))
        values = {"layers": torch.stack(cosines).movedim(2, 0)}
        norms = [each.norms for each in features.values() if each.norms is not None]
        if norms:
            gazes = [each.gaze.flatten(1) for each in features.values() if each.gaze is not None]
            gaze = torch.stack(gazes) if gazes else None
            values["outliers"] = self.outliers(torch.stack(norms), gaze).movedim(1, 0)
        return values

    def _components(self, rows: list[int], features: dict[str, Features]) -> dict[str, Tensor]:
        """See `Measured.components`, and, of some rows, `Measured.gathered`."""
        if not self.dissect or self.encoder.components is None:
            return {}
        probe, clean = self.encoder.components, features[CLEAN]
        products = [component_products(probe, features[name], clean) for name in self.variants]
        tensors = {"components": torch.stack(products, dim=1).float()}
        if rows:
            pairs = ((of.components, of.embedding) for of in features.values())
            before, *after = (probe.gathered(of, e) for of, e in pairs if of is not None)
            shifts = [take((of_view - before).float(), rows) for of_view in after]
            tensors["gathered"] = torch.stack(shifts)
        return tensors

    def _patched(self, rows: list[int], views: dict[str, Tensor]) -> dict[str, Tensor]:
        """What single components, or stages, undo and do in some photos, by variant."""
        probe = self.encoder.patchable
        if not rows or not self.sites or probe is None:
            return {}
        pairs = [torch.stack([views[CLEAN][n], views[v][n]]) for v in self.variants for n in rows]
        total = len(self.keep.photos["patched"]) * len(self.variants)
        with self._stage("patching"):
            shifts = [
                patched_shift(self.encoder, probe, pair, self.sites)
                for pair in counted(pairs, "Patching views", total, self.patched_views)
            ]
        self.patched_views += len(pairs)
        return {"patched": torch.stack(shifts).unflatten(0, (-1, len(rows)))}

    def _faithfulness(
        self, rows: list[int], batch: Batch, views: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """How the embedding follows what maps of some photos' views name, by view."""
        if not rows:
            return {}
        of_photos = [torch.stack([view[row] for view in views.values()]) for row in rows]
        at_random = [self.keep.random_maps[photo] for photo in batch.index[rows].tolist()]
        pairs = list(zip(of_photos, at_random, strict=True))
        progress = "Removing patches of photos", len(self.keep.random_maps), self.gazed
        with self._stage("faithfulness"):
            curves = [deletion_curves(self.encoder, *pair) for pair in counted(pairs, *progress)]
        self.gazed += len(rows)
        return {"faithfulness": torch.stack(curves, dim=1)}

    def _kept(
        self, rows: dict[str, list[int]], views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[str, Tensor]:
        """What is kept of the rows of a batch, of every view."""
        sources: dict[str, list[Tensor | None]] = {
            "gallery": [each.embedding for each in features.values()],
            "views": list(views.values()),
            "gazes": [each.gaze for each in features.values()],
            "heads": [each.heads for each in features.values()],
        }
        if rows["tokens"]:
            sources["tokens"] = [patch_tokens(each) for each in features.values()]
        if rows["nearest"] and self.zero_shot is not None:
            embeddings = [each.embedding for each in features.values()]
            nearest = [nearest_classes(of, self.classifier, NEAREST) for of in embeddings]
            sources["nearest"] = [torch.stack(of, dim=-1) for of in nearest]
        return {
            kind: torch.stack([take(of, rows[kind]) for of in values if of is not None])
            for kind, values in sources.items()
            if rows[kind] and values[0] is not None
        }

    def _floor(
        self, rows: list[int], views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[str, Tensor]:
        """What the encoder's precision changes of the run's first photos' cosines, by variant."""
        if self.reference is None or not rows:
            return {}
        with self._stage("floor"):
            chosen = torch.cat([take(view, rows) for view in views.values()])
            exact = self.reference.encode_views(chosen)
            ours = torch.stack([take(each.embedding, rows) for each in features.values()])
            return {"floor": rounding(ours, exact.embedding.view_as(ours))}

    def _weaker(
        self, rows: list[int], batch: Batch, views: dict[str, Tensor], features: dict[str, Features]
    ) -> dict[str, Tensor]:
        """Some photos' shift and distortion at matched severity and below, by variant."""
        if self.distortion is None or not rows:
            return {}
        with self._stage("elasticity"):
            embeddings = {name: take(each.embedding, rows) for name, each in features.items()}
            draws = {
                name: {key: take(value, rows) for key, value in drawn.items()}
                for name, drawn in batch.draws.items()
            }
            clean = take(views[CLEAN], rows)
            weaker = around_match(
                self.encoder, self.distortion, self.variants, clean, embeddings, draws
            )
            return {"weaker": weaker}

    def on_test_epoch_end(self) -> None:
        self.faster.close()
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
    by_augmentation = [drawn["digests"].flatten(1).cpu() for drawn in draws if "digests" in drawn]
    if not by_augmentation:
        return None
    rows = torch.cat(by_augmentation, dim=1).numpy()
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


def take(values: Tensor, rows: list[int]) -> Tensor:
    """Rows of a tensor; an index made of a list would make a GPU wait."""
    return torch.stack([values[row] for row in rows])


def patch_tokens(features: Features) -> Tensor | None:
    """The mean patch tokens of all layers one behind the other; None without layers."""
    layers = features.layers
    return torch.cat([layer[:, 1] for layer in layers], dim=1) if layers else None


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
