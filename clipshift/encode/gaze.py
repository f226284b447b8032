"""Gaze: where the image tower looks, read from the forward pass that makes the embedding.

A tower computes its attention without handing the weights out. But they follow from what goes into
its last attention layer, so a hook keeps that input, and the one query that makes the embedding is
compared with all keys once more: a per cent of the tower's work, and no second pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import Attention, AttentionPoolLatent
from torch import Tensor, nn
from torch.nn.functional import linear

Heads = tuple[Tensor, Tensor]
"""A query (B, heads, 1, d) and all keys (B, heads, tokens, d) of an attention layer."""


class GazeProbe:
    """Reads an image tower's gaze after each of its forward passes.

    Args:
        layer: The attention layer whose single query makes the embedding.
        project: Turns the layer and its inputs into the query and the keys.
        grid: Rows and columns of patches; they are the last keys.
    """

    def __init__(
        self, layer: nn.Module, project: Callable[..., Heads], grid: tuple[int, int]
    ) -> None:
        self.layer = layer
        self.project = project
        self.grid = grid
        self._inputs: tuple[Any, ...] = ()
        layer.register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inputs = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)

    def read(self) -> Tensor:
        """The gaze of the last forward pass.

        Returns:
            Attention weights over patches, averaged over heads, as softmax gave them (class and
            other extra tokens had their share, so the sum is at most 1); float32, shape (B, h, w).
        """
        query, keys = self.project(self.layer, *self._inputs)
        self._inputs = ()
        # No matrix product: with one row, its rounding depends on the view's place in the batch.
        logits = (query.float() * keys.float()).sum(dim=-1) * query.shape[-1] ** -0.5
        weights = logits.softmax(dim=-1).mean(dim=1)
        rows, columns = self.grid
        return weights[:, -rows * columns :].unflatten(-1, self.grid)


def gaze_probe(tower: nn.Module) -> GazeProbe | None:
    """The probe that fits an open_clip image tower, or None where there is no gaze to read.

    ====================================  =====================================================
    tower                                 query
    ====================================  =====================================================
    open_clip ViT, ``pool_type='tok'``    class token, last block
    open_clip ViT with attentional pool   first pooling query (CoCa)
    timm ViT, ``global_pool='token'``     class token, last block
    timm ViT with attention pool          pooling query (SigLIP)
    open_clip ResNet                      mean token of the attention pool
    all else (ConvNeXt, FastViT, …)       none
    ====================================  =====================================================

    Args:
        tower: ``model.visual`` of an open_clip model.
    """
    if isinstance(tower, VisionTransformer) and tower.pool_type == "tok":
        if tower.attn_pool is not None:
            return GazeProbe(tower.attn_pool.attn, multihead_heads, tower.grid_size)
        block = tower.transformer.resblocks[-1]
        if isinstance(block, ResidualAttentionBlock):
            return GazeProbe(block.attn, multihead_heads, tower.grid_size)
    if isinstance(tower, TimmModel):
        trunk = tower.trunk
        pool = getattr(trunk, "attn_pool", None)
        if isinstance(pool, AttentionPoolLatent) and pool.latent_len == 1:
            return GazeProbe(pool, latent_heads, trunk.patch_embed.grid_size)
        blocks = getattr(trunk, "blocks", None)
        layer = getattr(blocks[-1], "attn", None) if blocks is not None else None
        if isinstance(layer, Attention) and getattr(trunk, "global_pool", "") == "token":
            return GazeProbe(layer, timm_heads, trunk.patch_embed.grid_size)
    if isinstance(tower, ModifiedResNet):
        # spatial grid + 1 for the mean token
        side = round((tower.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        return GazeProbe(tower.attnpool, resnet_heads, (side, side))
    return None


def split(tokens: Tensor, heads: int) -> Tensor:
    """Split the last dimension into heads: (B, tokens, heads·d) → (B, heads, tokens, d)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def first_two_thirds(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The query's and the key's part of a bias that the query, key and value share."""
    return (None, None) if bias is None else bias.chunk(3)[:2]  # type: ignore[return-value]


def multihead_heads(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, *_: Any) -> Heads:
    """The first query and all keys of `nn.MultiheadAttention`."""
    if not layer.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    if layer.in_proj_weight is not None:
        query_weight, key_weight = layer.in_proj_weight.chunk(3)[:2]
    else:
        query_weight, key_weight = layer.q_proj_weight, layer.k_proj_weight
    query_bias, key_bias = first_two_thirds(layer.in_proj_bias)
    return (
        split(linear(query[:, :1], query_weight, query_bias), layer.num_heads),
        split(linear(key, key_weight, key_bias), layer.num_heads),
    )


def timm_heads(layer: Attention, tokens: Tensor, *_: Any) -> Heads:
    """The first query and all keys of timm's self-attention."""
    query_weight, key_weight = layer.qkv.weight.chunk(3)[:2]
    query_bias, key_bias = first_two_thirds(layer.qkv.bias)
    return (
        layer.q_norm(split(linear(tokens[:, :1], query_weight, query_bias), layer.num_heads)),
        layer.k_norm(split(linear(tokens, key_weight, key_bias), layer.num_heads)),
    )


def latent_heads(layer: AttentionPoolLatent, tokens: Tensor, *_: Any) -> Heads:
    """The pooling query and all keys of timm's attention pool."""
    if layer.pos_embed is not None:
        tokens = tokens + layer.pos_embed.to(tokens.dtype)
    key_weight = layer.kv.weight.chunk(2)[0]
    key_bias = layer.kv.bias.chunk(2)[0] if layer.kv.bias is not None else None
    latent = layer.latent.expand(len(tokens), -1, -1)
    return (
        layer.q_norm(split(layer.q(latent), layer.num_heads)),
        layer.k_norm(split(linear(tokens, key_weight, key_bias), layer.num_heads)),
    )


def resnet_heads(layer: AttentionPool2d, features: Tensor, *_: Any) -> Heads:
    """The mean token's query and all keys of a CLIP ResNet's attention pool."""
    patches = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
    tokens = tokens + layer.positional_embedding.to(tokens.dtype)
    return (
        split(layer.q_proj(tokens[:, :1]), layer.num_heads),
        split(layer.k_proj(tokens), layer.num_heads),
    )
