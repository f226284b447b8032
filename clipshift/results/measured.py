"""What an evaluation measured, photo by photo, before tables are made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from clipshift.data.dataset import Skipped

CLEAN = "clean"
"""Name of the clean view beside those of the augmentations."""

ROWS = ("digests", "stored", "distances", "layers", "outliers", "components")
"""What is kept in one array, with a row for each photo."""
Kept = dict[str, dict[int, np.ndarray]]
"""Arrays of chosen photos, by view and by the photo's index."""


@dataclass
class Measured:
    """What was measured of some photos: of a batch, or of a whole run.

    Attributes:
        index: Indices of the photos in the run's list, int64, shape (N,).
        values: By (variant, measure), float64, shape (N,).
        digests: SHA-256 of each encoded photo, uint8, shape (N, 32).
        stored: SHA-256 over each photo's stored corruptions, uint8, shape (N, 32); None where there
            are none.
        distances: The distances 1 − cos between every two variants' views of each photo, in the
            order of numpy's ``triu_indices``, float32, shape (N, pairs).
        layers: Cosines of class token and mean patch token, float64, shape (N, layers, variants,
            2); None where they were not measured.
        outliers: Number of outlier tokens, their share of all, and of the gaze (NaN where that is
            not known), of the clean view and all variants, float64, shape (N, 1 + variants,
            layers, 3); None where there are no tokens or they were not measured.
        components: How much each component carries of a displacement, float32, shape (N, variants,
            components), see `clipshift.evaluate.dissect.component_products`; None where the
            embedding is not a sum of components or they were not measured.
        embeddings: By view, float32, shape (N, D): of the clean views always, of the variants'
            where asked for.
        gallery: Embeddings of the gallery's photos, whatever else is kept.
        views: Pixels of the first photos.
        gazes: Gazes of the first photos.
        heads: Gazes of the first photos, head by head.
        tokens: Mean patch tokens of chosen photos, those of all layers one behind the other.
        nearest: Of the first photos the indices and cosines of the nearest classes, the nearest
            first, each (K, 2); where there are classes.
        floor: Of the first photos by how much the cosine with the clean view is another in float32,
            by variant; of runs in half precision.
        weaker: Of some photos the shift and distortion at matched severity and below, by variant,
            see `clipshift.evaluate.elasticity`.
        patched: Of some photos the shift with single components of another view, by variant, see
            `clipshift.encode.patching.patched_shift`.
        locations: Of the first photos how much what heads gather of each token carries of a
            displacement, summed over heads and layers, by variant, float32, shape (tokens,), see
            `clipshift.evaluate.dissect.location_products`.
        faithfulness: Of some photos how the embedding follows what maps of a view name, by view,
            see `clipshift.evaluate.faithfulness.deletion_curves`.
        gathered: Of some photos the shift of `ComponentProbe.gathered` of
            `clipshift.encode.components`, by variant, float32, shape (layers, width).
        skipped: Photos that could not be read.
        seconds: Wall time by stage.
    """

    index: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    values: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    digests: np.ndarray = field(default_factory=lambda: np.empty((0, 32), np.uint8))
    stored: np.ndarray | None = None
    distances: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    layers: np.ndarray | None = None
    outliers: np.ndarray | None = None
    components: np.ndarray | None = None
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    gallery: Kept = field(default_factory=dict)
    views: Kept = field(default_factory=dict)
    gazes: Kept = field(default_factory=dict)
    heads: Kept = field(default_factory=dict)
    tokens: Kept = field(default_factory=dict)
    nearest: Kept = field(default_factory=dict)
    floor: Kept = field(default_factory=dict)
    weaker: Kept = field(default_factory=dict)
    patched: Kept = field(default_factory=dict)
    locations: Kept = field(default_factory=dict)
    faithfulness: Kept = field(default_factory=dict)
    gathered: Kept = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def photos(self) -> set[int]:
        """Indices of all photos that were measured or skipped."""
        return {*self.index.tolist(), *(skipped.index for skipped in self.skipped)}


KEPT = tuple(one.name for one in fields(Measured) if one.type is Kept)
"""What is kept of chosen photos."""


def join(parts: Sequence[Measured]) -> Measured:
    """What was measured in several parts, photos in the order of the run's list."""
    parts = sorted(parts, key=lambda part: min(part.photos, default=0))
    filled = [part for part in parts if len(part.index)]
    whole = Measured(skipped=[skipped for part in parts for skipped in part.skipped])
    for part in parts:
        for stage, spent in part.seconds.items():
            whole.seconds[stage] = whole.seconds.get(stage, 0.0) + spent
        for kind in KEPT:
            for view, by_photo in getattr(part, kind).items():
                getattr(whole, kind).setdefault(view, {}).update(by_photo)
    if not filled:
        return whole
    index = np.concatenate([part.index for part in filled])
    order = np.argsort(index)

    def rows(arrays: Sequence[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(arrays)
        return whole[order] if len(whole) else whole  # of what was not read there are none

    whole.index = index[order]
    for name in ROWS:
        if getattr(filled[0], name) is not None:
            setattr(whole, name, rows([getattr(part, name) for part in filled]))
    whole.values = {key: rows([part.values[key] for part in filled]) for key in filled[0].values}
    whole.embeddings = {
        view: rows([part.embeddings[view] for part in filled]) for view in filled[0].embeddings
    }
    return whole
