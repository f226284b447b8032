"""Features of clean views, cached on disk for other runs of the same model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipshift.data.cache import Cache
from clipshift.encode.encoder import Features


@dataclass
class FeatureCache:
    """The features of clean views in the cache, by photo.

    Attributes:
        cache: The cache.
        key: Everything else that they depend on: weights, precision, device, resizing, layers.
    """

    cache: Cache
    key: str

    def get(self, digests: list[bytes], device: torch.device) -> Features | None:
        """The features of photos, as of `tensors`."""
        stacked = self.tensors(digests, device)
        if stacked is None:
            return None
        layers = [stacked[name] for name in sorted(stacked) if name.startswith("layer")]
        return Features(
            stacked["embedding"], stacked.get("gaze"), layers or None, stacked.get("norms")
        )

    def tensors(self, digests: list[bytes], device: torch.device) -> dict[str, Tensor] | None:
        """What is stored of photos; None unless all are cached, finite, and have equal shapes."""
        rows: list[dict[str, Tensor]] = []
        for digest in digests:
            stored = self.cache.get(f"{self.key} {digest.hex()}")
            if stored is None or "embedding" not in stored:
                return None
            rows.append(stored)
            if kinds_of(stored) != kinds_of(rows[0]) or not stored["embedding"].isfinite().all():
                return None
        return {
            name: torch.stack([row[name] for row in rows]).to(device, non_blocking=True)
            for name in rows[0]
        }

    def set(self, digests: list[bytes], tensors: Mapping[str, Tensor]) -> None:
        """Store the features of photos, in the form of `by_name`."""
        for row, digest in enumerate(digests):
            stored = {name: rows[row] for name, rows in tensors.items()}
            self.cache.set(f"{self.key} {digest.hex()}", stored)

    @staticmethod
    def by_name(features: Features) -> dict[str, Tensor]:
        """The tensors of features that are stored, by name."""
        names = ("embedding", "gaze", "norms")
        tensors = {name: getattr(features, name) for name in names}
        layers = {f"layer{i:03d}": layer for i, layer in enumerate(features.layers or ())}
        return {name: t for name, t in (tensors | layers).items() if t is not None}

    @classmethod
    def alike(cls, one: Features, other: Features) -> bool:
        """Whether two batches of features have the same names, types and shapes."""
        return kinds_of(cls.by_name(one)) == kinds_of(cls.by_name(other))


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """The types and shapes of tensors."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
