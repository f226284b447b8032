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
from contextlib import contextmanager
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

from clipshift.encode.gaze import (
    PASSING,
    Heads,
    attention_weights,
    latent_heads,
    multihead_heads,
    pools_tokens,
    timm_heads,
)


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

    def heads(self, *inputs: Any, **named: Any) -> Tensor:
        """The values that each head of the first query gathers from the tokens.

        Args:
            inputs: Of the attention layer; the last are the tokens.
            named: Likewise, by name.

        Returns:
            One head behind the other, before the projection, float64, shape (B, heads·d).
        """
        project, weight, bias, out = attention_parts(self.attention)
        attended = attention_weights(*project(self.attention, *inputs, **named))
        gathered = attended @ inputs[-1].float()
        inner = out.in_features
        values = weight[-inner:].unflatten(0, (self.attention.num_heads, -1)).double()
        each = torch.einsum("bhw,hdw->bhd", gathered.double(), values).flatten(1)
        return each if bias is None else each + bias[-inner:].double()

    @property
    def weight(self) -> Tensor:
        """Of the projection after the heads, with the layer scale, float64, (width, heads·d)."""
        return self._scaled(attention_parts(self.attention)[3].weight.double().T).T

    @property
    def bias(self) -> Tensor | float:
        """Of the same projection, float64, shape (width,); 0 where it has none."""
        bias = attention_parts(self.attention)[3].bias
        return 0.0 if bias is None else self._scaled(bias.double())

    def _scaled(self, values: Tensor) -> Tensor:
        gamma = getattr(self.scale, "gamma", None)
        return values if gamma is None else values * gamma.double()


def attention_parts(
    layer: Any,
) -> tuple[Callable[..., Heads], Tensor, Tensor | None, nn.Linear]:
    """Of an attention layer: its queries and keys; weight and bias, values last; its projection."""
    if isinstance(layer, nn.MultiheadAttention):
        return multihead_heads, layer.in_proj_weight, layer.in_proj_bias, layer.out_proj
    if isinstance(layer, AttentionPoolLatent):
        return latent_heads, layer.kv.weight, layer.kv.bias, layer.proj  # type: ignore[return-value]
    return timm_heads, layer.qkv.weight, layer.qkv.bias, layer.proj


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
    _written: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """The number of heads of a layer."""
        return self.layers[0].attention.num_heads

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read every forward pass inside a ``with`` block."""
        hooks = []
        if self.start is not None:
            hooks.append(self.start.register_forward_pre_hook(self._keep_start))
        for index, layer in enumerate(self.layers):
            keep = partial(self._keep_heads, index)
            hooks.append(layer.attention.register_forward_pre_hook(keep, with_kwargs=True))
            hooks.append(layer.mlp.register_forward_hook(partial(self._keep_mlp, index)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep_start(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._written[0, "start"] = inputs[0][:, 0].double()

    def _keep_heads(
        self, index: int, attention: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self._written[index, "heads"] = self.layers[index].heads(*inputs, **named)

    def _keep_mlp(self, index: int, mlp: nn.Module, inputs: Any, output: Tensor) -> None:
        self._written[index, "mlp"] = output[:, 0].double()

    def read(self) -> Tensor:
        """What was written in the last forward pass.

        Returns:
            What the residual stream started with (0 of an attention pool); of each layer the values
            that its heads gathered; and of each layer what its MLP added; float64, shape (B, 1 +
            2 · layers, width).
        """
        written, self._written = self._written, {}
        kinds = [
            [written[index, kind] for index in range(len(self.layers))] for kind in ("heads", "mlp")
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
        depth = len(self.layers)
        start, *rest = written.unbind(1)
        parts = list(zip(self.layers, rest[:depth], rest[depth:], strict=True))
        start = start + sum(layer.bias for layer in self.layers)
        constant, back = torch.zeros_like(along[:, 0]), along
        if isinstance(self.projection, nn.Linear):
            if self.projection.bias is not None:
                constant = along @ self.projection.bias.double()
            back = along @ self.projection.weight.double()
        elif self.projection is not None:
            back = along @ self.projection.double().T
        if self.norm is not None:
            stream = start + sum(of @ layer.weight.T + added for layer, of, added in parts)
            deviation = (stream.var(dim=1, correction=0, keepdim=True) + self.norm.eps).sqrt()
            if self.norm.bias is not None:
                constant = constant + back @ self.norm.bias.double()
            back = back * self.norm.weight.double() / deviation
            back = back - back.mean(dim=1, keepdim=True)
        columns = [constant[:, None] + (back * start).sum(dim=1, keepdim=True)]
        for layer, gathered, added in parts:
            by_head = (back @ layer.weight * gathered).unflatten(1, (self.heads, -1)).sum(dim=2)
            columns += [by_head, (back * added).sum(dim=1, keepdim=True)]
        return torch.cat(columns, dim=1)


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
