"""Heads named by texts: what heads write as vectors, and the texts that span it."""

from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

from clipshift.encode.encoder import Encoder
from clipshift.encode.modules import as_encoder


@torch.inference_mode()
def vectors_of(encoder: Encoder, views: Tensor) -> tuple[Tensor, Tensor]:
    """What was written, and the vectors that all heads contribute, (B, layers · heads, D)."""
    probe = encoder.components
    assert probe is not None
    written = encoder.encode_views(views, components=True).components
    assert written is not None
    gathered = probe.gathered(written).unflatten(2, (probe.heads, -1))
    places = [(layer, head) for layer in range(len(probe.layers)) for head in range(probe.heads)]
    vectors = [gathered[:, layer, head] @ probe.head_map(layer, head) for layer, head in places]
    return written, torch.stack(vectors, dim=1)


@pytest.mark.parametrize(("pool", "classes"), [(None, 0), ("token", 24), ("map", 0)])
def test_vectors_of_heads_have_the_products_of_contributions(
    pool: str | None, classes: int, encoder: Encoder, views: Tensor
) -> None:
    """Of open_clip's tower, of timm's with a linear layer after it, and of an attention pool."""
    if pool:
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2}
        model = VisionTransformer(**sizes, num_heads=4, num_classes=classes, global_pool=pool)
        unchanged = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32}
        encoder = as_encoder(model.eval(), unchanged, trained=False)
    probe = encoder.components
    assert probe is not None
    written, vectors = vectors_of(encoder, views[:3])
    along = torch.randn(3, vectors.shape[2], dtype=torch.float64)
    columns = probe.contributions(written, along)[:, 1:].unflatten(1, (-1, probe.heads + 1))
    products = (vectors * along[:, None]).sum(dim=2)
    torch.testing.assert_close(products, columns[..., :-1].flatten(1))
