"""What an evaluation measured, before it is made into tables."""

from collections import Counter
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
        values: By (augmentation, measure), a number a photo.
        digests: SHA-256 of each encoded photo.
        skipped: Photos that could not be read.
        embeddings: By view (``clean`` or augmentation), where kept.
        views: Pixels by view, of the first photos.
        gazes: Gaze by view, of the first photos.
        seconds: Wall time by stage.
    """

    index: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    embeddings: dict[str, list[np.ndarray]] = field(default_factory=dict)
    views: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    gazes: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)

    def merge(self, other: "Measured") -> None:
        """Add what another process measured."""
        self.index += other.index
        self.digests += other.digests
        self.skipped += other.skipped
        for mine, theirs in ((self.values, other.values), (self.embeddings, other.embeddings)):
            for key, more in theirs.items():
                mine.setdefault(key, []).extend(more)  # type: ignore[attr-defined]
        for mine, theirs in ((self.views, other.views), (self.gazes, other.gazes)):
            for key, photos in theirs.items():
                mine.setdefault(key, {}).update(photos)
        self.seconds |= other.seconds
