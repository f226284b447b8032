r"""Components: what every attention head and every MLP of a ViT contributes to its embedding.

Every token of a pre-norm ViT is the sum of what each block's attention and MLP added to it, and
attention is a sum over heads. With the final layer norm's standard deviation σ held at each view's
own value, all after it is linear, so the embedding is an exact sum of contributions, here of the
class token:

.. math::
    e = P \Big(\gamma \odot \frac{x - \bar x}{\sigma} + \beta\Big) + b, \quad
    x = x_0 + \sum_l \sum_h W^O_{lh} a_{lh} + \sum_l b^O_l + \sum_l m_l

So is an average over tokens; where each token is normed before the average, each has its own σ. Of
an attention pool (SigLIP) the components are its heads and its MLP, after which the embedding is
linear: what blocks before it write passes through the softmax of the pool, and has no exact share.

What a head gathers is a sum over the tokens it reads from, :math:`a_{lh} = \sum_t \alpha_{lht}
v_{lht}`, with the attention α of the class token or pooling query and the values v.

Source: Gandelsman, Efros and Steinhardt, "Interpreting CLIP's image representation via text-based
decomposition", 2024 (arXiv:2310.05916), sections 3.1 to 3.3, with MLPs and the layer norm kept.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from clipshift.encode.gaze import attention_weights, first, multihead_inputs
from clipshift.encode.hooks import replaced_forward, within

Key = tuple[int, str]
"""A layer, from 0, and what of it: ``attention`` or ``mlp``; or ``start`` and ``end`` of the
stream."""
See = Callable[[Key, Tensor], Tensor | None]
"""Sees what heads gather before the projection, or what an MLP adds; returns what replaces it."""
ATTENTION = ("attn", "self_attn", "self_attention", "attention")
"""What libraries call the attention of a block."""
SCALES = ("gamma", "gamma_1", "gamma_2", "lambda1")
"""What they call the factors on what attention and MLP add (layer scale)."""
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
FIRST, ALL_TOKENS = (0, 1), (0, None)
"""From which token to which: the first, which is the class token or the output of a pool; all."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An attention layer and an MLP that add to the same tokens.

    Attributes:
        attention: The attention layer.
        heads: The number of its heads.
        out: The projection after the heads.
        mlp: The last linear layer of the MLP.
        scales: Factors on the outputs of ``out`` and ``mlp``, shape (width,); None: 1.
    """

    attention: nn.Module
    heads: int
    out: nn.Linear
    mlp: nn.Linear
    scales: tuple[Tensor | None, Tensor | None]

    @property
    def weight(self) -> Tensor:
        """Of the projection after the heads, with its factor, float64, (width, heads·d)."""
        return self._scaled(self.out.weight.double().T).T

    @property
    def bias(self) -> Tensor | float:
        """Of the same projection, float64, shape (width,); 0 where it has none."""
        bias = self.out.bias
        return 0.0 if bias is None else self._scaled(bias.double())

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.scales[0] is None else values * self.scales[0].double()


def layer_of(block: nn.Module) -> Layer | None:
    """The layer in a block or an attention pool; None if it has no attention and MLP apart."""
    named = (getattr(block, name, None) for name in ATTENTION)
    attention = next((part for part in named if isinstance(part, nn.Module)), block)
    within = set(attention.modules())
    if attention is block:  # timm's pool
        within -= set(getattr(block, "mlp", block).modules())
    layers = [part for part in block.modules() if isinstance(part, nn.Linear)]
    outs, mlps = [n for n in layers if n in within], [n for n in layers if n not in within]
    counts = [vars(part).get(n) for part in within for n in ("num_heads", "num_attention_heads")]
    heads = next((count for count in counts if isinstance(count, int)), None)
    if not outs or not mlps or heads is None or not getattr(attention, "batch_first", True):
        return None
    named_parameters = block.named_parameters()
    scales = [values for name, values in named_parameters if name.split(".")[-1] in SCALES]
    of_attention, of_mlp = (*scales, None, None)[:2]
    return Layer(attention, heads, outs[-1], mlps[-1], (of_attention, of_mlp))


def gathered_values(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The values that heads gather, one head behind the other, shape (B, queries, heads·d)."""
    return scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def _attend(layer: nn.MultiheadAttention, *inputs: Tensor, **_: Any) -> tuple[Tensor, None]:
    """Self-attention up to rounding, which calls its projection as a module."""
    return layer.out_proj(gathered_values(*multihead_inputs(layer, *inputs))), None


class LastAttention(TorchFunctionMode):
    """Keeps the first query's attention and all values of the last attention that torch computed.

    Attributes:
        weights: Of the first query, shape (B, heads, tokens).
        values: Shape (B, heads, tokens, d); None before any.
    """

    weights: Tensor
    values: Tensor | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is scaled_dot_product_attention and args[0].shape[1] == args[1].shape[1]:
            self.weights, self.values = attention_weights(args[0][:, :, :1], args[1]), args[2]
        elif function in PRODUCTS and args[0].ndim == 4:  # where it is not fused, their product
            self.weights, self.values = args[0][:, :, 0], args[1]
        return function(*args, **(kwargs or {}))


@dataclass(eq=False)
class ComponentProbe:
    """Reads what the components of an image tower wrote, and says what that contributes.

    Attributes:
        layers: The layers, from input to output.
        blocks: The blocks that they are of; none where the layers are those of an attention pool.
        norm: The final layer norm; None where there is none.
        projection: What comes after it: a linear layer, a matrix (width, D), or None.
        pooled: From which token to which those are whose average makes the embedding.
        norm_first: Whether they are normed before the average.
        by_token: Whether what heads gather can be split by token.
    """

    layers: Sequence[Layer]
    blocks: Sequence[nn.Module]
    norm: nn.LayerNorm | None = None
    projection: nn.Linear | Tensor | None = None
    pooled: tuple[int, int | None] = FIRST
    norm_first: bool = False
    by_token: bool = True
    _written: dict[Key, Tensor] = field(default_factory=dict)
    _by_token: dict[int, Tensor] = field(default_factory=dict)
    _attention: "LastAttention | None" = None

    @property
    def heads(self) -> int:
        """The number of heads of a layer."""
        return self.layers[0].heads

    @property
    def weight(self) -> Tensor | None:
        """Of the projection, float64, shape (D, width); None where there is none."""
        if isinstance(self.projection, nn.Linear):
            return self.projection.weight.double()
        return None if self.projection is None else self.projection.double().T

    @contextmanager
    def watching(self, see: See, all_tokens: bool = True) -> Iterator[None]:
        """Let a function see every forward pass inside a ``with`` block.

        Args:
            see: See `See`.
            all_tokens: Whether it sees, and may replace, what heads gather for all tokens. This is
                computed by other code than torch's, up to rounding; otherwise the pass is the same.
        """

        def before(key: Key, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
            return see(key, inputs[0])

        def gather(key: Key, layer: Any, inputs: tuple[Tensor, ...]) -> None:
            query = first(inputs[0]) if self.pooled == FIRST else inputs[0]
            with self._attention or nullcontext():
                see(key, gathered_values(*multihead_inputs(layer, query, *inputs[1:])))

        def after(key: Key, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            return see(key, output[0] if isinstance(output, tuple) else output)

        hooks, replaced = [], {}
        if self.blocks:
            hooks.append(self.blocks[0].register_forward_pre_hook(partial(before, (0, "start"))))
            hooks.append(self.blocks[-1].register_forward_hook(partial(after, (0, "end"))))
        for index, layer in enumerate(self.layers):
            module: nn.Module = layer.out
            hook: Any = before
            if isinstance(layer.attention, nn.MultiheadAttention) and all_tokens:
                replaced[layer.attention] = partial(_attend, layer.attention)
            elif isinstance(layer.attention, nn.MultiheadAttention):
                module, hook = layer.attention, gather  # torch's does not call its projection
            hooks.append(module.register_forward_pre_hook(partial(hook, (index, "attention"))))
            hooks.append(layer.mlp.register_forward_hook(partial(after, (index, "mlp"))))
        with within(hooks), replaced_forward(replaced):
            yield

    @contextmanager
    def reading(self, by_token: bool = False) -> Iterator[None]:
        """Read every forward pass inside a ``with`` block.

        Args:
            by_token: Whether `read_by_token` is wanted as well.
        """
        self._attention = LastAttention() if by_token and self.by_token else None
        is_multihead = isinstance(self.layers[0].attention, nn.MultiheadAttention)  # see `gather`
        everywhere = nullcontext() if is_multihead else self._attention or nullcontext()
        with everywhere, self.watching(self._keep, all_tokens=False):
            yield
        self._attention = None

    def _keep(self, key: Key, tokens: Tensor) -> None:
        index, kind = key
        if kind == "mlp" and (scale := self.layers[index].scales[1]) is not None:
            tokens = tokens * scale
        self._written[key] = tokens[:, slice(*self.pooled)].double()
        seen = self._attention
        if kind == "attention" and seen is not None and seen.values is not None:
            by_head = seen.weights.float()[..., None] * seen.values.float()
            self._by_token[index] = by_head.transpose(1, 2).flatten(2)

    def read(self) -> Tensor:
        """What was written in the last forward pass.

        Returns:
            What the residual stream started with, and the biases of attention layers' projections;
            of each layer the values that its heads gathered; and of each layer what its MLP added;
            all averaged over the pooled tokens; float64, shape (B, 1 + 2 · layers, width).
        """
        written, self._written = self._written, {}
        layers = range(len(self.layers))
        kinds = [[written[index, kind] for index in layers] for kind in ("attention", "mlp")]
        weights = torch.ones_like(kinds[1][0][..., :1])
        if self.norm_first and self.norm is not None:
            variance = written[0, "end"].var(dim=2, correction=0, keepdim=True)
            weights = 1 / (variance + self.norm.eps).sqrt()
        start = written.get((0, "start"), torch.zeros_like(kinds[1][0])) * weights
        start = start + sum(layer.bias for layer in self.layers) * weights
        tokens = [start, *(of * weights for kind in kinds for of in kind)]
        return torch.stack([of.mean(dim=1) for of in tokens], dim=1)

    def read_by_token(self) -> Tensor | None:
        """What heads gathered of each token in the last forward pass, before their projection.

        Returns:
            Float32, shape (B, layers, tokens, heads·d): the sum over tokens is what `read` gives of
            attention. None where the embedding is an average over tokens, or attention is followed
            by a norm or gate.
        """
        by_token, self._by_token = self._by_token, {}
        return torch.stack(list(by_token.values()), dim=1) if by_token else None

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
        constant, back = self._back(written, along)
        columns = [constant[:, None] + (back * start).sum(dim=1, keepdim=True)]
        for layer, gathered, added in parts:
            by_head = (back @ layer.weight * gathered).unflatten(1, (self.heads, -1)).sum(dim=2)
            columns += [by_head, (back * added).sum(dim=1, keepdim=True)]
        return torch.cat(columns, dim=1)

    def contributions_by_token(self, written: Tensor, by_token: Tensor, along: Tensor) -> Tensor:
        """What each head contributes along a direction by each token that it reads from.

        Args:
            written: From `read`.
            by_token: From `read_by_token`.
            along: A direction for each view, float64, shape (B, D).

        Returns:
            Float64, shape (B, layers, heads, tokens); the sum over tokens is the head's of
            `contributions`.
        """
        _, back = self._back(written, along)
        products = (
            ((back @ layer.weight)[:, None] * of).unflatten(2, (self.heads, -1)).sum(dim=3)
            for layer, of in zip(self.layers, by_token.unbind(1), strict=True)
        )
        return torch.stack([of.mT for of in products], dim=1)

    def gathered(self, written: Tensor, embedding: Tensor) -> Tensor:
        """What heads gathered, over the final layer norm's deviation and the embedding's length.

        Args:
            written: From `read`, shape (B, 1 + 2 · layers, width).
            embedding: Of the same views, shape (B, D).

        Returns:
            Float64, shape (B, layers, width): each head's part of it, (B, d), by its `head_map` is
            what the head contributes to the unit embedding.
        """
        scale = self._deviation(written) * embedding.double().norm(dim=1, keepdim=True)
        return written[:, 1 : 1 + len(self.layers)] / scale[:, None]

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
        return rows if self.weight is None else rows @ self.weight.T

    def _parts(self, written: Tensor) -> tuple[Tensor, list[tuple[Layer, Tensor, Tensor]]]:
        """What is constant of a stream, and what each layer's heads gathered and its MLP added."""
        depth = len(self.layers)
        start, *rest = written.unbind(1)
        return start, list(zip(self.layers, rest[:depth], rest[depth:], strict=True))

    def _deviation(self, written: Tensor) -> Tensor:
        """The standard deviation that the final layer norm divides by after `read`, (B, 1)."""
        start, parts = self._parts(written)
        if self.norm is None or self.norm_first:
            return torch.ones_like(start[:, :1])
        stream = start + sum(of @ layer.weight.T + added for layer, of, added in parts)
        return (stream.var(dim=1, correction=0, keepdim=True) + self.norm.eps).sqrt()

    def _back(self, written: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """What biases add along a direction, (B,), and the direction in the stream, (B, width)."""
        constant, back = torch.zeros_like(along[:, 0]), along
        if self.weight is not None:
            back = along @ self.weight
        if isinstance(self.projection, nn.Linear) and self.projection.bias is not None:
            constant = along @ self.projection.bias.double()
        if self.norm is not None:
            if self.norm.bias is not None:
                constant = constant + back @ self.norm.bias.double()
            back = back * self.norm.weight.double() / self._deviation(written)
            back = back - back.mean(dim=1, keepdim=True)
        return constant, back


def forward_calls(
    modules: Iterable[nn.Module], embed: Callable[[Tensor], Tensor], view: Tensor
) -> list[tuple[Any, Any, Any]]:
    """The calls of modules in a forward pass, as they end, each with shapes of input and output."""
    calls: list[tuple[Any, Any, Any]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before, after = (getattr(of, "shape", None) for of in ((*inputs, None)[0], output))
        calls.append((module, before, after))

    with within(module.register_forward_hook(note) for module in modules):
        embed(view)
    return calls


def component_probe(
    tower: Any,
    blocks: Sequence[nn.Module],
    prefix: int,
    embed: Callable[[Tensor], Tensor],
    view: Tensor,
) -> ComponentProbe | None:
    """The probe for an image tower, or None if its embedding is not such a sum.

    Which tokens, norm and projection make the embedding is tried out on a view, whatever library
    the tower is of: the probe is the one whose contributions add up to the embedding.

    Args:
        tower: A module with all that makes the embedding.
        blocks: Its blocks, from input to output.
        prefix: The number of tokens before the patches.
        embed: Makes the embeddings of views, (B, D).
        view: Any view but a uniform one, shape (1, 3, H, W).
    """
    if not blocks:
        return None
    calls = forward_calls(tower.modules(), embed, view)
    last = max((n for n, (module, *_) in enumerate(calls) if module is blocks[-1]), default=0)
    after = calls[last + 1 :]
    pools = [module for module, *_ in after if hasattr(module, "mlp") and layer_of(module)]
    bodies = pools[:1] or blocks
    layers = [layer for body in bodies if (layer := layer_of(body))]
    if len(layers) < len(bodies):
        return None
    reader = ComponentProbe(layers, () if pools else blocks, pooled=ALL_TOKENS)
    with reader.reading(by_token=True):
        embedding = embed(view)[0].double()
    written, by_token = reader._written, reader.read_by_token()
    if len(written) < 2 * len(layers):  # attention that does not call its projection
        return None
    size = len(embedding), layers[0].out.out_features
    along = torch.randn(8, size[0], generator=torch.Generator().manual_seed(0)).to(embedding)

    def error(probe: ComponentProbe) -> float:
        if (size[1:] * 2 if probe.weight is None else probe.weight.shape) != size:
            return math.inf
        probe._written = {key: of[:, slice(*probe.pooled)] for key, of in written.items()}
        sums = probe.contributions(probe.read().expand(8, -1, -1), along).sum(dim=1)
        return float((sums - along @ embedding).norm() / (along @ embedding).norm())

    pooled = (FIRST,) if pools else (FIRST, (prefix, None), ALL_TOKENS)
    norms = [(of, len(shape) > 2) for of, shape, _ in after if isinstance(of, nn.LayerNorm)]
    norms = [(of, of_tokens) for of, of_tokens in norms if of.normalized_shape == size[1:]]
    projections = [of for of, *_ in after if isinstance(of, nn.Linear)]
    projections += [of for of in tower.parameters(recurse=False) if of.ndim == 2]
    choices = product(pooled, [(None, False), *norms], [None, *projections])
    probes = [
        replace(reader, pooled=tokens, norm=norm, projection=projection,
                norm_first=of_tokens and tokens != FIRST)
        for tokens, (norm, of_tokens), projection in choices
    ]  # fmt: skip
    tolerance = torch.finfo(layers[0].out.weight.dtype).eps ** 0.5
    probe = min(probes, key=error)
    if error(probe) > tolerance:
        return None
    if by_token is not None:  # a norm or gate may follow
        gathered = torch.stack([written[n, "attention"][:, 0] for n in range(len(layers))], dim=1)
        same = (by_token.sum(dim=2) - gathered).norm() < tolerance * gathered.norm()
    probe.by_token = by_token is not None and probe.pooled == FIRST and bool(same)
    return probe
