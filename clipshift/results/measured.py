"""What an evaluation measured, before it is made into tables."""

from dataclasses import dataclass, field

import numpy as np

from clipshift.data import Skipped

CLEAN = "clean"
"""Name of the clean view beside those of the augmentations."""


@dataclass
class Measured:
    """What one process measured, photos in the order they came.

    Attributes:
        index: Places of the photos in the list of photos.
        values: By (variant, measure), a number a photo.
        digests: SHA-256 of each encoded photo.
        skipped: Photos that could not be read.
        embeddings: By view, one float32 row per photo: of the clean views always, of the
            variants' where asked for.
        distances: For each photo the distances 1 − cos between every two variants' views, in the
            order of numpy's ``triu_indices``, float32.
        layers: For each photo the class tokens' cosines, (layers, variants); where measured.
        gallery: Embeddings by view, of the gallery's photos, whatever else is kept.
        views: Pixels by view, of the first photos.
        gazes: Gaze by view, of the first photos.
        seconds: Wall time by stage; of several processes, the longest.
    """

    index: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    embeddings: dict[str, list[np.ndarray]] = field(default_factory=dict)
    distances: list[np.ndarray] = field(default_factory=list)
    layers: list[np.ndarray] = field(default_factory=list)
    gallery: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    views: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    gazes: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def merge(self, other: "Measured") -> None:
        """Add what another process measured."""
        self.index += other.index
        self.digests += other.digests
        self.skipped += other.skipped
        self.distances += other.distances
        self.layers += other.layers
        for key, numbers in other.values.items():
            self.values.setdefault(key, []).extend(numbers)
        for name, rows in other.embeddings.items():
            self.embeddings.setdefault(name, []).extend(rows)
        for kept, more in (
            (self.gallery, other.gallery),
            (self.views, other.views),
            (self.gazes, other.gazes),
        ):
            for name, by_photo in more.items():
                kept.setdefault(name, {}).update(by_photo)
        for stage, spent in other.seconds.items():
            self.seconds[stage] = max(spent, self.seconds.get(stage, 0.0))
