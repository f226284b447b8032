"""Gaze: where the image tower looks, read from the forward pass that computes the embedding.

For towers that pool by attention, the gaze is that attention. They do not return its weights, but
the weights follow from the inputs of the last attention layer: a hook keeps these, and the query
that produces the embedding is compared with all keys again. For towers that pool by averaging, the
gaze is the contribution of each location to the embedding, from the features before the average.
Both cost about one per cent of a forward pass.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import (
    Attention,
    AttentionPoolLatent,
    AttentionRope,
    ClassifierHead,
    NormMlpClassifierHead,
    apply_rot_embed_cat,
)
from timm.models import EfficientNet, Eva, ResNet
from timm.models import VisionTransformer as TimmTransformer
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.nn.functional import linear

from clipshift.encode.layers import tower_blocks

Heads = tuple[Tensor, Tensor]
"""A query (B, heads, 1, d) and all keys (B, heads, tokens, d) of an attention layer."""
PASSING = (nn.Identity, nn.Flatten, nn.Dropout)
"""Layers that change no number in evaluation mode."""
TIMM_ATTENTION = (Attention, AttentionRope, EvaAttention)
"""Layers of timm whose attention is the softmax of products of queries and keys alone."""


class GazeProbe(ABC):
    """Reads an image tower's gaze after each of its forward passes.

    Attributes:
        kind: ``attention`` or ``contribution``. Gazes of different kinds cannot be compared.
        layer: Number of the tower's blocks before the tokens that it reads; 0 where these are not
            the output of a block.
    """

    kind: ClassVar[str]
    layer: int = 0

    @abstractmethod
    def read(self) -> Tensor:
        """The gaze of the last forward pass, at least 0, float32, shape (B, h, w)."""


@dataclass(eq=False)
class AttentionProbe(GazeProbe):
    """The attention of the query that produces the embedding.

    Args:
        attention: The attention layer with this query.
        project: Computes the query and the keys from the attention layer and its inputs.
        grid: Rows and columns of patches, which are the last keys.
        layer: Number of the tower's blocks before this attention layer's inputs.
    """

    kind = "attention"

    attention: nn.Module
    project: Callable[..., Heads]
    grid: tuple[int, int]
    layer: int = 0

    def __post_init__(self) -> None:
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, attention: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._inputs = apply_to_collection((inputs, named), Tensor, Tensor.detach)

    def read(self) -> Tensor:
        """The gaze of the last forward pass.

        Returns:
            Attention weights over patches, averaged over heads, after the softmax over all tokens
            (including class and other extra tokens, so that the sum is at most 1); float32, shape
            (B, h, w).
        """
        return self.read_heads().mean(dim=1)

    def read_heads(self) -> Tensor:
        """The gaze of each attention head, float32, shape (B, heads, h, w)."""
        inputs, named = self._inputs
        query, keys = self.project(self.attention, *inputs, **named)
        self._inputs = ((), {})
        rows, columns = self.grid
        return attention_weights(query, keys)[..., -rows * columns :].unflatten(-1, self.grid)


@dataclass(eq=False)
class ContributionProbe(GazeProbe):
    """The share of each location in the embedding of a tower that averages over locations.

    Args:
        tower: The image tower.
        pool: Its layer that averages.
        norm: The layer norm of the averaged features; None where there is none.
        projection: The linear layer after that; None where there is none.
        grid: Rows and columns of patches, if ``pool`` is instead the last layer before the average,
            which returns tokens, of which the patches are the last.
    """

    kind = "contribution"

    tower: InitVar[nn.Module]
    pool: InitVar[nn.Module]
    norm: nn.LayerNorm | None = None
    projection: nn.Linear | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self, tower: nn.Module, pool: nn.Module) -> None:
        self._features = self._embedding = torch.empty(0)
        pool.register_forward_hook(self._keep_features)
        tower.register_forward_hook(self._keep_embedding)

    def _keep_features(self, pool: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._features = inputs[0].detach()
        if self.grid:
            patches = output.detach()[:, -math.prod(self.grid) :]
            self._features = patches.transpose(1, 2).unflatten(2, self.grid)

    def _keep_embedding(self, tower: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._embedding = output.detach()

    def read(self) -> Tensor:
        """The gaze of the last forward pass.

        Returns:
            The positive values of `contribution_shares`, divided by their sum, and 0 for others;
            NaN for views without a positive share; float32, shape (B, h, w).
        """
        shares = contribution_shares(self._features, self._embedding, self.norm, self.projection)
        self._features = self._embedding = torch.empty(0)
        positive = shares.clamp(min=0)
        return positive / positive.sum(dim=-1).sum(dim=-1)[:, None, None]


def contribution_shares(
    features: Tensor, embedding: Tensor, norm: nn.LayerNorm | None, projection: nn.Linear | None
) -> Tensor:
    r"""The exact share of each location in an embedding that is computed from their average.

    The layers after the average of the features :math:`f_i` of N locations are affine,
    :math:`e = A \frac{1}{N} \sum_i f_i + c`, so that

    .. math::
        s_i = \frac{\langle A f_i, e \rangle}{N \|e\|^2},
        \qquad \sum_i s_i = 1 - \frac{\langle c, e \rangle}{\|e\|^2}

    A layer norm divides by the standard deviation of the averaged features, which is treated as a
    constant of each view: A and c then depend on the view, and the sum stays exact.

    Source: class activation maps, Zhou et al., "Learning deep features for discriminative
    localization", 2016 (arXiv:1512.04150), eq. 2, with the embedding in place of a class.

    Args:
        features: Features before the average, shape (B, C, h, w).
        embedding: The tower's output before normalisation, shape (B, D).
        norm: The layer norm of the averaged features; None where there is none.
        projection: The linear layer after that; None where there is none.

    Returns:
        Float32, shape (B, h, w); below 0 where a location points away from the embedding.

    Example:
        >>> features = torch.tensor([[[[3.0, 0.0]], [[0.0, -1.0]]]])  # 2 channels, 1 × 2 locations
        >>> contribution_shares(features, torch.tensor([[1.5, -0.5]]), None, None)
        tensor([[[0.9000, 0.1000]]])
    """
    features, direction = features.float(), embedding.float()
    direction = direction / direction.square().sum(dim=1, keepdim=True)
    if projection is not None:
        direction = direction @ projection.weight.float()
    if norm is not None:
        variance = features.mean(dim=-1).mean(dim=-1).var(dim=1, correction=0, keepdim=True)
        direction = direction * norm.weight.float() / (variance + norm.eps).sqrt()
        direction = direction - direction.mean(dim=1, keepdim=True)
    return (features * direction[:, :, None, None]).sum(dim=1) / features[0, 0].numel()


def gaze_probe(tower: nn.Module) -> GazeProbe | None:
    """The probe for an image tower of open_clip, or None if the tower has no gaze.

    ========================================  =================================================
    tower                                     gaze
    ========================================  =================================================
    open_clip ViT, ``pool_type='tok'``        attention of the class token, last block
    open_clip ViT with attentional pool       attention of the first pooling query (CoCa)
    timm ViT, ``global_pool='token'``         attention of the class token, last block
    timm ViT with attention pool              attention of the pooling query (SigLIP)
    open_clip ResNet                          attention of the mean token of its pool
    timm model with average pool, then        contribution of each location (EfficientNet, ResNet,
    nothing but a layer norm and a linear     ConvNeXt, FastViT, RegNet, ViT, …)
    layer
    all else                                  none
    ========================================  =================================================

    Args:
        tower: ``model.visual`` of an open_clip model, or any module.
    """
    depth = len(tower_blocks(tower))
    if isinstance(tower, VisionTransformer) and tower.pool_type == "tok":
        if tower.attn_pool is not None:
            return AttentionProbe(tower.attn_pool.attn, multihead_heads, tower.grid_size, depth)
        block = tower.transformer.resblocks[-1]
        if isinstance(block, ResidualAttentionBlock):
            return AttentionProbe(block.attn, multihead_heads, tower.grid_size, depth - 1)
    if isinstance(tower, TimmModel):
        return timm_probe(tower, tower.trunk, tower.head)
    if isinstance(tower, ModifiedResNet):
        # the position embedding has one row for each patch and one for the mean token
        side = round((tower.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        return AttentionProbe(tower.attnpool, resnet_heads, (side, side))
    return None


def timm_probe(tower: nn.Module, trunk: Any, head: Iterable[nn.Module] = ()) -> GazeProbe | None:
    """The probe for a model of timm, or None if it has no gaze.

    Args:
        tower: The module that returns the embedding: the model, or one that contains it.
        trunk: The model, without a classifier.
        head: The layers of ``tower`` after it.
    """
    if pools_tokens(trunk):
        pool, grid, depth = trunk.attn_pool, trunk.patch_embed.grid_size, len(trunk.blocks)
        if isinstance(pool, AttentionPoolLatent) and pool.latent_len == 1:
            return AttentionProbe(pool, latent_heads, grid, depth)
        attention = getattr(trunk.blocks[-1], "attn", None)
        if isinstance(attention, TIMM_ATTENTION) and trunk.global_pool == "token":
            return AttentionProbe(attention, timm_heads, grid, depth - 1)
        if trunk.global_pool != "avg" or pool or is_pooling_prefix(trunk):
            return None
        return affine_probe(tower, trunk.norm, [trunk.fc_norm, trunk.head, *head], grid)
    inner = getattr(trunk, "head", None)
    if isinstance(trunk, (EfficientNet, ResNet)):
        average, after = trunk.global_pool, [trunk.get_classifier()]
    elif isinstance(inner, ClassifierHead):
        average, after = inner.global_pool, [inner.fc]
    elif isinstance(inner, NormMlpClassifierHead):
        average, after = inner.global_pool, [inner.norm, inner.pre_logits, inner.fc]
    else:
        return None
    if not isinstance(average.pool, nn.AdaptiveAvgPool2d):
        return None
    return affine_probe(tower, average, [*after, *head])


def affine_probe(
    tower: nn.Module,
    pool: nn.Module,
    layers: Iterable[nn.Module],
    grid: tuple[int, int] | None = None,
) -> ContributionProbe | None:
    """The probe of a tower whose layers after the average are affine, up to a norm; else None."""
    after: list[Any] = [layer for layer in layers if not isinstance(layer, PASSING)]
    norm = after.pop(0) if after and isinstance(after[0], nn.LayerNorm) else None
    projection = after.pop(0) if after and isinstance(after[0], nn.Linear) else None
    return None if after else ContributionProbe(tower, pool, norm, projection, grid)


def pools_tokens(trunk: nn.Module) -> bool:
    """Whether a model of timm makes its embedding of tokens as its ``global_pool`` says."""
    pooling = getattr(type(trunk), "forward_head", None)
    return pooling in (TimmTransformer.forward_head, Eva.forward_head)


def is_pooling_prefix(trunk: nn.Module) -> bool:
    """Whether class token and registers are averaged with the patches."""
    return bool(getattr(trunk, "pool_include_prefix", False) and trunk.num_prefix_tokens)


def split(tokens: Tensor, heads: int) -> Tensor:
    """Split the last dimension into heads: (B, tokens, heads·d) → (B, heads, tokens, d)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def first(tokens: Tensor) -> Tensor:
    """The first token, (B, 1, D), contiguous: otherwise torch copies the weights for each view."""
    return tokens[:, :1].contiguous()


def attention_weights(query: Tensor, keys: Tensor) -> Tensor:
    """Attention of one query to all keys: `Heads` → float32, (B, heads, tokens), with sum 1."""
    # Not a matrix product: its rounding for one row depends on the view's position in the batch.
    logits = (query.float() * keys.float()).sum(dim=-1) * query.shape[-1] ** -0.5
    return logits.softmax(dim=-1)


def parts_of(joined: Tensor | None, count: int) -> Sequence[Any]:
    """The parts of a weight or bias that joins those of query, key and value; None where it is."""
    return [None] * count if joined is None else joined.chunk(count)


def multihead_inputs(layer: nn.MultiheadAttention, *inputs: Tensor) -> list[Tensor]:
    """Queries, keys and, where they are given, values of all heads, each (B, heads, tokens, d)."""
    weights: Any = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
    weights = weights if layer.in_proj_weight is None else layer.in_proj_weight.chunk(3)
    projections = zip(inputs, weights, parts_of(layer.in_proj_bias, 3), strict=False)
    return [split(linear(*projection), layer.num_heads) for projection in projections]


def multihead_heads(
    layer: nn.MultiheadAttention, query: Tensor, key: Tensor, *_: Any, **__: Any
) -> Heads:
    """The first query and all keys of `nn.MultiheadAttention`."""
    if not layer.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    queries, keys = multihead_inputs(layer, first(query), key)
    return queries, keys


def timm_heads(layer: Any, tokens: Tensor, rope: Tensor | None = None, **_: Any) -> Heads:
    """The first query and all keys of timm's self-attention.

    ``rope`` rotates the keys of patches. The first token is none of them.
    """
    groups = getattr(layer, "num_kv_groups", 1)
    if layer.qkv is None:
        query, keys = layer.q_proj(first(tokens)), layer.k_proj(tokens)
    else:
        query_weight, key_weight, _ = layer.qkv.weight.chunk(3)
        query_bias, key_bias, _ = parts_of(layer.qkv.bias, 3)
        if getattr(layer, "q_bias", None) is not None:
            query_bias, key_bias = layer.q_bias, layer.k_bias
        query = linear(first(tokens), query_weight, query_bias)
        keys = linear(tokens, key_weight, key_bias)
    query = layer.q_norm(split(query, layer.num_heads))
    keys = layer.k_norm(split(keys, layer.num_heads // groups))
    if rope is not None:
        patches = keys[:, :, layer.num_prefix_tokens :]
        patches = apply_rot_embed_cat(patches, rope, half=layer.rotate_half).type_as(keys)
        keys = torch.cat([keys[:, :, : layer.num_prefix_tokens], patches], dim=2)
    return query, keys.repeat_interleave(groups, dim=1) if groups > 1 else keys


def latent_heads(layer: AttentionPoolLatent, tokens: Tensor, *_: Any, **__: Any) -> Heads:
    """The pooling query and all keys of timm's attention pool."""
    if layer.pos_embed is not None:
        tokens = tokens + layer.pos_embed.to(tokens.dtype)
    key_weight, key_bias = layer.kv.weight.chunk(2)[0], parts_of(layer.kv.bias, 2)[0]
    query = layer.q(layer.latent.expand(len(tokens), -1, -1))
    keys = linear(tokens, key_weight, key_bias)
    return (
        layer.q_norm(split(query, layer.num_heads)),
        layer.k_norm(split(keys, layer.num_heads)),
    )


def resnet_heads(layer: AttentionPool2d, features: Tensor, *_: Any, **__: Any) -> Heads:
    """The mean token's query and all keys of a CLIP ResNet's attention pool."""
    patches = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
    tokens = tokens + layer.positional_embedding.to(tokens.dtype)
    return (
        split(layer.q_proj(first(tokens)), layer.num_heads),
        split(layer.k_proj(tokens), layer.num_heads),
    )
