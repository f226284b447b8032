r"""Components: what every attention head and every MLP of a ViT contributes to its embedding.

The class token of a pre-norm ViT is the sum of what each block's attention and MLP added to it, and
attention is a sum over heads. With the final layer norm's standard deviation σ held at each view's
own value, all after it is linear, so the embedding is an exact sum of contributions:

.. math::
    e = P \Big(\gamma \odot \frac{x - \bar x}{\sigma} + \beta\Big) + b, \quad
    x = x_0 + \sum_l \sum_h W^O_{lh} a_{lh} + \sum_l b^O_l + \sum_l m_l

Of an attention pool (SigLIP) the components are its heads and its MLP, after which the embedding is
linear: what blocks before it write passes through the softmax of the pool, and has no exact share.

Source: Gandelsman, Efros and Steinhardt, "Interpreting CLIP's image representation via text-based
decomposition", 2024 (arXiv:2310.05916), sections 3.1 and 3.2, with MLPs and the layer norm kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import Attention, AttentionPoolLatent
from timm.models import VisionTransformer as TimmTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from clipshift.encode.gaze import PASSING, first, pools_tokens, split

Key = tuple[int, str]
"""A layer, from 0, and what of it: ``attention`` or ``mlp``; or ``start``, the stream's start."""
See = Callable[[Key, Tensor], Tensor | None]
"""Sees what heads gather before the projection, or what an MLP adds; returns what replaces it."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An attention layer and an MLP that add to the same token.

    Attributes:
        attention: The attention layer.
        scale: The layer scale of its output, `nn.Identity` where there is none.
        mlp: The module whose output is what the MLP adds.
    """

    attention: Any
    scale: Any
    mlp: nn.Module

    @property
    def out(self) -> nn.Linear:
        """The projection after the heads."""
        attention = self.attention
        return (
            attention.out_proj if isinstance(attention, nn.MultiheadAttention) else attention.proj
        )

    @property
    def weight(self) -> Tensor:
        """Of the projection after the heads, with the layer scale, float64, (width, heads·d)."""
        return self._scaled(self.out.weight.double().T).T

    @property
    def bias(self) -> Tensor | float:
        """Of the same projection, float64, shape (width,); 0 where it has none."""
        bias = self.out.bias
        return 0.0 if bias is None else self._scaled(bias.double())

    def _scaled(self, values: Tensor) -> Tensor:
        gamma = getattr(self.scale, "gamma", None)
        return values if gamma is None else values * gamma.double()


def gathered_values(
    layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """The values that heads gather, one head behind the other, shape (B, queries, heads·d)."""
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    parts = zip((query, key, value), layer.in_proj_weight.chunk(3), biases, strict=True)
    queries, keys, values = (split(linear(*part), layer.num_heads) for part in parts)
    return scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def _attend(layer: nn.MultiheadAttention, *inputs: Tensor, **_: Any) -> tuple[Tensor, None]:
    """Self-attention up to rounding, which calls its projection as a module."""
    return layer.out_proj(gathered_values(layer, *inputs)), None


@dataclass(eq=False)
class ComponentProbe:
    """Reads what the components of an image tower wrote, and says what that contributes.

    Attributes:
        layers: The layers, from input to output.
        start: The first block, whose input the residual stream starts with; None where the layers
            are those of an attention pool.
        norm: The final layer norm; None where there is none.
        projection: What comes after it: a linear layer, a matrix (width, D), or None.
    """

    layers: Sequence[Layer]
    start: nn.Module | None
    norm: nn.LayerNorm | None
    projection: nn.Linear | Tensor | None
    _written: dict[Key, Tensor] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """The number of heads of a layer."""
        return self.layers[0].attention.num_heads

    @contextmanager
    def watching(self, see: See, all_tokens: bool = True) -> Iterator[None]:
        """Let a function see every forward pass inside a ``with`` block.

        Args:
            see: See `See`.
            all_tokens: Whether it sees, and may replace, what heads gather for all tokens. This is
                computed by other code than torch's, up to rounding; otherwise the pass is the same.
        """

        def before(key: Key, out: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
            return see(key, inputs[0])

        def gather(key: Key, layer: Any, inputs: tuple[Tensor, ...]) -> None:
            see(key, gathered_values(layer, first(inputs[0]), *inputs[1:]))

        def after(key: Key, mlp: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            return see(key, output)

        hooks, replaced = [], []
        if self.start is not None:
            hooks.append(self.start.register_forward_pre_hook(partial(before, (0, "start"))))
        for index, layer in enumerate(self.layers):
            module: nn.Module = layer.out
            hook: Any = before
            if isinstance(layer.attention, nn.MultiheadAttention) and all_tokens:
                layer.attention.forward = partial(_attend, layer.attention)  # type: ignore[method-assign]
                replaced.append(layer.attention)
            elif isinstance(layer.attention, nn.MultiheadAttention):
                module, hook = layer.attention, gather  # torch's does not call its projection
            hooks.append(module.register_forward_pre_hook(partial(hook, (index, "attention"))))
            hooks.append(layer.mlp.register_forward_hook(partial(after, (index, "mlp"))))
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()
            for attention in replaced:
                del attention.forward

    def reading(self) -> AbstractContextManager[None]:
        """Read every forward pass inside a ``with`` block."""
        return self.watching(self._keep, all_tokens=False)

    def _keep(self, key: Key, tokens: Tensor) -> None:
        self._written[key] = tokens[:, 0].double()

    def read(self) -> Tensor:
        """What was written in the last forward pass.

        Returns:
            What the residual stream started with (0 of an attention pool); of each layer the values
            that its heads gathered; and of each layer what its MLP added; float64, shape (B, 1 +
            2 · layers, width).
        """
        written, self._written = self._written, {}
        kinds = [
            [written[index, kind] for index in range(len(self.layers))]
            for kind in ("attention", "mlp")
        ]
        start = written.get((0, "start"), torch.zeros_like(kinds[1][0]))
        return torch.stack([start, *kinds[0], *kinds[1]], dim=1)

    def contributions(self, written: Tensor, along: Tensor) -> Tensor:
        """What each component contributes to the embedding, along a direction.

        Args:
            written: From `read`, shape (B, 1 + 2 · layers, width).
            along: A direction for each view, float64, shape (B, D).

        Returns:
            Float64, shape (B, 1 + layers · (heads + 1)): what is constant (the start, biases of
            attention layers' projections, and of the final layer norm and projection), then layer
            by layer each head and the MLP. The sum is the embedding's product with the direction.
        """
        start, parts = self._parts(written)
        constant, back = torch.zeros_like(along[:, 0]), along
        if isinstance(self.projection, nn.Linear):
            if self.projection.bias is not None:
                constant = along @ self.projection.bias.double()
            back = along @ self.projection.weight.double()
        elif self.projection is not None:
            back = along @ self.projection.double().T
        if self.norm is not None:
            if self.norm.bias is not None:
                constant = constant + back @ self.norm.bias.double()
            back = back * self.norm.weight.double() / self._deviation(written)
            back = back - back.mean(dim=1, keepdim=True)
        columns = [constant[:, None] + (back * start).sum(dim=1, keepdim=True)]
        for layer, gathered, added in parts:
            by_head = (back @ layer.weight * gathered).unflatten(1, (self.heads, -1)).sum(dim=2)
            columns += [by_head, (back * added).sum(dim=1, keepdim=True)]
        return torch.cat(columns, dim=1)

    def gathered(self, written: Tensor) -> Tensor:
        """What heads gathered, divided by the standard deviation of the final layer norm.

        Args:
            written: From `read`, shape (B, 1 + 2 · layers, width).

        Returns:
            Float64, shape (B, layers, width): each head's part of it, (B, d), by its `head_map` is
            what the head contributes to the embedding.
        """
        return written[:, 1 : 1 + len(self.layers)] / self._deviation(written)[:, None]

    def head_map(self, layer: int, head: int) -> Tensor:
        """The linear map from what a head gathered to the embedding, see `gathered`.

        Args:
            layer: From 0.
            head: From 0.

        Returns:
            Float64, shape (d, D).
        """
        rows = self.layers[layer].weight.T.unflatten(0, (self.heads, -1))[head]
        if self.norm is not None:
            rows = (rows - rows.mean(dim=1, keepdim=True)) * self.norm.weight.double()
        if isinstance(self.projection, nn.Linear):
            return rows @ self.projection.weight.double().T
        return rows if self.projection is None else rows @ self.projection.double()

    def _parts(self, written: Tensor) -> tuple[Tensor, list[tuple[Layer, Tensor, Tensor]]]:
        """What is constant of a stream, and what each layer's heads gathered and its MLP added."""
        depth = len(self.layers)
        start, *rest = written.unbind(1)
        parts = list(zip(self.layers, rest[:depth], rest[depth:], strict=True))
        return start + sum(layer.bias for layer in self.layers), parts

    def _deviation(self, written: Tensor) -> Tensor:
        """The standard deviation of the final layer norm, shape (B, 1); 1 where there is none."""
        start, parts = self._parts(written)
        if self.norm is None:
            return torch.ones_like(start[:, :1])
        stream = start + sum(of @ layer.weight.T + added for layer, of, added in parts)
        return (stream.var(dim=1, correction=0, keepdim=True) + self.norm.eps).sqrt()


def component_probe(tower: nn.Module) -> ComponentProbe | None:
    """The probe for an image tower of open_clip, or None if its embedding is not such a sum.

    It is for a ViT of pre-norm blocks whose embedding is the class token after a layer norm, of
    open_clip or timm, and for the attention pool of a ViT of timm (SigLIP).

    Args:
        tower: ``model.visual`` of an open_clip model, or any module.
    """
    if isinstance(tower, TimmModel):
        return timm_components(tower.trunk, tower.head)
    if not isinstance(tower, VisionTransformer) or tower.pool_type != "tok" or tower.attn_pool:
        return None
    blocks: Any = list(tower.transformer.resblocks)
    if any(type(block) is not ResidualAttentionBlock for block in blocks):
        return None
    if not all(block.attn.batch_first for block in blocks):
        return None
    layers = [Layer(block.attn, block.ls_1, block.ls_2) for block in blocks]
    return ComponentProbe(layers, blocks[0], tower.ln_post, tower.proj)


def timm_components(trunk: Any, head: Iterable[nn.Module] = ()) -> ComponentProbe | None:
    """The probe for a model of timm, or None.

    Args:
        trunk: The model, without a classifier.
        head: The layers after it.
    """
    if not isinstance(trunk, TimmTransformer) or not pools_tokens(trunk):
        return None
    pool, following = trunk.attn_pool, [trunk.fc_norm, trunk.head, *head]
    blocks: Any = list(trunk.blocks)
    if isinstance(pool, AttentionPoolLatent) and pool.latent_len == 1 and pool.mlp is not None:
        layers, start = [Layer(pool, nn.Identity(), pool.mlp)], None
        usual = pool.pos_embed is None
    else:
        usual = pool is None and trunk.global_pool == "token" and trunk.cls_token is not None
        usual = usual and all(
            type(block) is Block
            and type(block.attn) is Attention
            and getattr(block.attn, "gate", None) is None
            and isinstance(block.attn.norm, nn.Identity)
            for block in blocks
        )
        layers = [Layer(block.attn, block.ls1, block.ls2) for block in blocks] if usual else []
        start, following = blocks[0], [trunk.norm, *following]
    after: list[Any] = [layer for layer in following if not isinstance(layer, PASSING)]
    norm = after.pop(0) if after and isinstance(after[0], nn.LayerNorm) else None
    projection = after.pop(0) if after and isinstance(after[0], nn.Linear) else None
    return ComponentProbe(layers, start, norm, projection) if usual and not after else None
