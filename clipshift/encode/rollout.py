r"""Attention rollout: how much of each patch attention can have brought to the class token.

.. math::
    R_l = \frac{1}{2} (A_l + I) \, R_{l-1}, \quad R_0 = I

with the attention :math:`A_l` of layer l, averaged over heads, and the identity for the residual
connection. The map is the class token's row after the last layer. Source: Abnar and Zuidema,
"Quantifying attention flow in transformers", 2020 (arXiv:2005.00928), section 3.
"""

from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from clipshift.encode.encoder import Encoder, Features
from clipshift.encode.gaze import split
from clipshift.encode.hooks import within


def rollout_layers(encoder: Encoder) -> list[nn.Module]:
    """The attention of a ViT of pre-norm blocks whose embedding is the class token; else none."""
    layers = [layer.attention for layer in encoder.components.layers] if encoder.components else []
    is_known = all(type(layer) in (nn.MultiheadAttention, Attention) for layer in layers)
    return layers if is_known and getattr(encoder.probe, "attention", None) in layers else []


def mean_attention(layer: Any, tokens: Tensor, *others: Any, **_: Any) -> Tensor:
    """Attention of all queries to all keys, averaged over heads, float32, (B, queries, keys)."""
    if isinstance(layer, nn.MultiheadAttention):
        # not by a call of the layer, whose hooks would be called again
        weights: Any = nn.MultiheadAttention.forward(layer, tokens, *others)[1]
        return weights.float()
    query, key = (split(of, layer.num_heads) for of in layer.qkv(tokens).chunk(3, dim=-1)[:2])
    logits = layer.q_norm(query) * layer.scale @ layer.k_norm(key).mT
    return logits.float().softmax(dim=-1).mean(dim=1)


def encode_with_maps(encoder: Encoder, views: Tensor) -> tuple[Features, Tensor]:
    """Encode views, and read the gaze and, where it exists, attention rollout in the same pass.

    Args:
        encoder: One with a gaze.
        views: In [0, 1], float32, shape (B, 3, H, W).

    Returns:
        Their features; and the maps over patches, at least 0, float32, shape (B, 1 or 2, h, w).
    """
    passes: list[Tensor] = []

    def follow(first: bool, layer: nn.Module, inputs: Any, named: Any) -> None:
        weights = mean_attention(layer, *inputs, **named)
        before = torch.eye(weights.shape[2], device=views.device) if first else passes.pop()
        passes.append((weights @ before + before[..., : weights.shape[1], :]) / 2)

    with within(
        layer.register_forward_pre_hook(partial(follow, place == 0), with_kwargs=True)
        for place, layer in enumerate(rollout_layers(encoder))
    ):
        features = encoder.encode_views(views)
    assert features.gaze is not None
    maps, patches = [features.gaze], features.gaze[0].numel()
    if passes:
        rollout = torch.cat([after[:, 0, -patches:] for after in passes])[: len(views)]
        maps.append(rollout.view_as(features.gaze))
    return features, torch.stack(maps, dim=1)
