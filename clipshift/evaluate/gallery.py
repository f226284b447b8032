"""What a photo has only among others: its relative shift, its place in the gallery, its copies."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from clipshift.data.photos import Photo, keyed_order
from clipshift.measure.embeddings import (
    has_direction,
    near_copies,
    neighbour_hit,
    percentile_shift,
)
from clipshift.measure.facts import NEIGHBOUR_VOTES
from clipshift.measure.functional import retained
from clipshift.measure.metrics import CleanSpread
from clipshift.measure.whitening import whitened_shift
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.records import Records

COMPARED_PHOTOS = 20_000
"""The number of random photos of which every two are compared."""


OfGallery = dict[tuple[str, str], dict[int, float]]
"""Values of the gallery's photos alone: by variant and measure, and by the photo's index."""


def clean_spread(parts: Iterable[Measured]) -> CleanSpread | None:
    """The distances between different clean photos, from their embeddings; None without photos."""
    metric = None
    for part in parts:
        clean = torch.from_numpy(part.embeddings[CLEAN])
        if metric is None:
            metric = CleanSpread(clean.shape[1], sync_on_compute=False)
        metric.update(clean)
    return metric


def add_relative_shift(measured: Measured, spread: CleanSpread | None) -> None:
    """Divide every shift by the mean distance between different clean photos.

    Leaves ``distance_to_others`` beside it, each photo's share in that mean. NaN where the encoder
    makes no difference between photos.

    Args:
        measured: What was measured of some photos, with their clean embeddings.
        spread: From `clean_spread` of all photos.
    """
    if spread is None:
        return
    others = spread.distance_to_others(torch.from_numpy(measured.embeddings[CLEAN])).numpy()
    unit = spread.compute().item()
    for variant, measure in list(measured.values):
        if measure == "cosine_similarity":
            shift = 1 - measured.values[variant, measure]
            relative = np.where(np.isnan(others), np.nan, shift / unit)
            measured.values[variant, "relative_shift"] = relative
            measured.values[variant, "distance_to_others"] = others


def gallery_values(measured: Measured, photos: Sequence[Photo]) -> OfGallery:
    """How far views move among the gallery, which find their own photo, and what neighbours vote.

    Empty for a gallery of fewer than two photos; without those of `NEIGHBOUR_VOTES` that no photo
    has a value of.
    """
    indices = sorted(measured.gallery.get(CLEAN, ()))
    if len(indices) < 2:
        return {}
    views = {name: np.stack([of[i] for i in indices]) for name, of in measured.gallery.items()}
    clean = views.pop(CLEAN)
    classes = pd.factorize(np.array([photos[index].label for index in indices], object))[0]
    values = shifts_in_gallery(views, clean, [photos[index] for index in indices])
    values |= {
        (name, "retained"): retained(torch.from_numpy(view), torch.from_numpy(clean)).numpy()
        for name, view in views.items()
    }
    for column, k in NEIGHBOUR_VOTES.items():
        hits = neighbour_hit(clean, clean, classes, k)
        if np.isfinite(hits).any():
            for name, view in views.items():
                values[name, f"{column}_clean"] = hits
                values[name, column] = neighbour_hit(view, clean, classes, k)
    return {key: dict(zip(indices, of.tolist(), strict=True)) for key, of in values.items()}


def shifts_in_gallery(
    views: Mapping[str, np.ndarray], clean: np.ndarray, photos: Sequence[Photo]
) -> dict[tuple[str, str], np.ndarray]:
    """``percentile_shift`` and ``whitened_shift`` of every view of the gallery's photos.

    Args:
        views: Embeddings by variant, shape (N, D).
        clean: Those of the clean views.
        photos: The gallery's photos, in the same order.
    """
    places = np.argsort(keyed_order(photos, "folds"))
    whitened = whitened_shift(list(views.values()), clean, places)
    values = {(name, "percentile_shift"): percentile_shift(of, clean) for name, of in views.items()}
    return values | {(n, "whitened_shift"): of for n, of in zip(views, whitened, strict=True)}


def alone_in_class(values: OfGallery, photos: Sequence[Photo]) -> Iterator[str]:
    """A note of labelled photos without a nearest-neighbour accuracy; empty without any."""
    hits = next((of for (_, column), of in values.items() if column == "neighbour_top1_clean"), {})
    alone = [math.isnan(hit) for index, hit in hits.items() if photos[index].label is not None]
    if any(alone):
        yield (
            f"Photos whose class has no other photo in the gallery: {sum(alone)} of {len(alone)}. "
            "They have no nearest-neighbour accuracy."
        )


def add_of_gallery(measured: Measured, values: OfGallery) -> None:
    """Add the values of the gallery's photos; NaN for the others."""
    for key, photos in values.items():
        rows = [photos.get(index, math.nan) for index in measured.index.tolist()]
        measured.values[key] = np.array(rows)


def repeated_photos(digests: np.ndarray) -> Iterator[str]:
    """A warning of copies that could only be seen once they were measured; empty without any."""
    if copies := len(digests) - len(np.unique(digests, axis=0)):
        yield (
            f"Photos with the same bytes as another: {copies} of {len(digests)}. They come from "
            "shards that are streamed, where copies are not looked for beforehand, and count as "
            "photos of their own: intervals are too narrow, retained is too low, and R² too high. "
            "With data.stream=false they are left out."
        )


def near_photos(records: Records, photos: Sequence[Photo]) -> Iterator[str]:
    """A warning of photos that may be near copies of each other, a few of them by name."""
    listed, clean = sampled_embeddings(records, photos, COMPARED_PHOTOS)
    pairs, near, limit = near_copies(clean)
    ids = [sorted(photos[listed[one]].id for one in pair) for pair in pairs]
    if near.any():
        yield (
            f"Photos that may be near copies of another: {near.sum()} of the {len(listed)} that "
            f"were compared, as {'; '.join(map(' and '.join, ids))} (1 − cosine of their clean "
            f"embeddings: below {limit:.2g}). Each counts as a photo of its own: leave out those "
            "that are one photograph."
        )


def sampled_embeddings(
    records: Records, photos: Sequence[Photo], count: int
) -> tuple[list[int], np.ndarray]:
    """Random photos in random order, by their indices, and their clean embeddings, (N, D).

    Those that were not measured, or have no direction, are left out.
    """
    order = keyed_order(photos, "sample")[:count]
    chosen = set(order)
    clean: dict[int, np.ndarray] = {}
    for part in records.parts("embeddings"):
        rows = part.embeddings[CLEAN]
        candidates = zip(part.index.tolist(), rows, has_direction(rows), strict=True)
        clean |= {index: row.copy() for index, row, use in candidates if use and index in chosen}
    listed = [index for index in order if index in clean]
    return listed, np.array([clean[index] for index in listed])
