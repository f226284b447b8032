"""The features of clean views, kept on the disk for other runs of the same model."""

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
        """The features of some photos; None unless all of them are there."""
        rows: list[dict[str, Tensor]] = []
        for digest in digests:
            stored = self.cache.get(f"{self.key} {digest.hex()}")
            if stored is None:
                return None
            rows.append(stored)
        stacked = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        layers = [stacked[name] for name in sorted(stacked) if name.startswith("layer")]
        return Features(
            stacked["embedding"], stacked.get("gaze"), layers or None, stacked.get("norms")
        )

    def set(self, digests: list[bytes], features: Features) -> None:
        """Store the features of some photos."""
        for row, digest in enumerate(digests):
            tensors = {"embedding": features.embedding[row]}
            for name in ("gaze", "norms"):
                if (of := getattr(features, name)) is not None:
                    tensors[name] = of[row]
            for index, layer in enumerate(features.layers or ()):
                tensors[f"layer{index:03d}"] = layer[row]
            self.cache.set(f"{self.key} {digest.hex()}", tensors)
