"""What the jobs of a sweep share: the model, its texts' embeddings, and clean views' features."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clipshift.data import Cache
from clipshift.encode.encoder import Encoder, Features, load_encoder
from clipshift.encode.weights import check_finite


@lru_cache(maxsize=2)
def shared_encoder(
    architecture: str, pretrained: str | None, checkpoint: str | None, precision: str
) -> Encoder:
    """`load_encoder`, once for all jobs of a process.

    Raises:
        UserError: If it cannot be loaded, or has weights that are no numbers.
    """
    encoder = load_encoder(architecture, pretrained, checkpoint, precision)
    check_finite(encoder.model, checkpoint or pretrained or architecture)
    return encoder


@lru_cache(maxsize=2)
def shared_classifier(
    encoder: Encoder, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Tensor:
    """`Encoder.zero_shot_classifier`, once for all jobs of a process."""
    return encoder.zero_shot_classifier(list(classes), list(templates))


@lru_cache(maxsize=2)
def shared_texts(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    """`Encoder.encode_texts`, once for all jobs of a process."""
    return encoder.encode_texts(list(texts))


@dataclass
class SharedFeatures:
    """The clean views' features in the cache, by photo.

    Attributes:
        cache: The cache.
        key: What they depend on beside the photo: weights, precision, device, resizing, layers.
    """

    cache: Cache
    key: str

    def get(self, digests: list[bytes], device: torch.device) -> Features | None:
        """The features of some photos; None unless all of them are there."""
        rows = []
        for digest in digests:
            stored = self.cache.get(f"{self.key} {digest.hex()}")
            if stored is None:
                return None
            rows.append(stored)
        stacked = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        layers = [stacked[name] for name in sorted(stacked) if name.startswith("layer")]
        return Features(stacked["embedding"], stacked.get("gaze"), layers or None)

    def set(self, digests: list[bytes], features: Features) -> None:
        """Store the features of some photos."""
        for row, digest in enumerate(digests):
            tensors = {"embedding": features.embedding[row]}
            if features.gaze is not None:
                tensors["gaze"] = features.gaze[row]
            for place, layer in enumerate(features.layers or ()):
                tensors[f"layer{place:03d}"] = layer[row]
            self.cache.set(f"{self.key} {digest.hex()}", tensors)
