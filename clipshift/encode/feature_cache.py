"""The features of clean views, kept on the disk for other runs of the same model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipshift.data import Cache
from clipshift.encode.encoder import Features


@dataclass
class FeatureCache:
    """The clean views' features in the cache, by photo.

    Attributes:
        cache: The cache.
        key: What they depend on beside the photo: weights, precision, device, resizing, layers.
    """

    cache: Cache
    key: str

    def get(self, digests: list[bytes], device: torch.device) -> Features | None:
        """The features of some photos; None unless all of them are there, alike and finite."""
        rows: list[dict[str, Tensor]] = []
        for digest in digests:
            stored = self.cache.get(f"{self.key} {digest.hex()}")
            if stored is None or "embedding" not in stored:
                return None
            if kinds_of(stored) != kinds_of(rows[0] if rows else stored):
                return None
            if not stored["embedding"].isfinite().all():
                return None
            rows.append(stored)
        stacked = {
            name: torch.stack([row[name] for row in rows]).to(device, non_blocking=True)
            for name in rows[0]
        }
        layers = [stacked[name] for name in sorted(stacked) if name.startswith("layer")]
        return Features(
            stacked["embedding"], stacked.get("gaze"), layers or None, stacked.get("norms")
        )

    def set(self, digests: list[bytes], tensors: Mapping[str, Tensor]) -> None:
        """Store the features of some photos, as `by_name` has them."""
        for row, digest in enumerate(digests):
            stored = {name: rows[row] for name, rows in tensors.items()}
            self.cache.set(f"{self.key} {digest.hex()}", stored)

    @staticmethod
    def by_name(features: Features) -> dict[str, Tensor]:
        """What is stored of features, by name."""
        tensors = {"embedding": features.embedding}
        for name in ("gaze", "norms"):
            if (known := getattr(features, name)) is not None:
                tensors[name] = known
        layers = enumerate(features.layers or ())
        return tensors | {f"layer{index:03d}": layer for index, layer in layers}

    @classmethod
    def alike(cls, one: Features, other: Features) -> bool:
        """Whether the features of as many photos have the same names, types and shapes."""
        return kinds_of(cls.by_name(one)) == kinds_of(cls.by_name(other))


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """The types and shapes of tensors."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
