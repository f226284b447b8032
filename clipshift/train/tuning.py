"""The choices of the group ``tune``: each makes a part of a frozen image tower trainable."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from clipshift.encode.layers import tower_blocks
from clipshift.errors import UserError

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


def full(tower: nn.Module) -> nn.Module:
    """The whole tower."""
    return tower.requires_grad_(True)


def last_blocks(tower: nn.Module, blocks: int) -> nn.Module:
    """The last blocks of a tower, and whatever follows them.

    Args:
        tower: The image tower.
        blocks: How many.

    Raises:
        UserError: If the tower has fewer, or none that we know of.
    """
    all_blocks = tower_blocks(tower)
    if blocks > len(all_blocks):
        raise UserError(f"tune.blocks={blocks}: this image tower has {len(all_blocks)}")
    last = {id(p) for block in all_blocks[-blocks:] for p in block.parameters()}
    frozen = _until(tower, all_blocks) - last
    for parameter in tower.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    return tower


def parameter_groups(tower: nn.Module, lr: float, block_decay: float) -> list[dict[str, Any]]:
    r"""What is trained, each block at a learning rate of its own: discriminative fine-tuning.

    Block b, from 0, is trained at :math:`\eta d^b`. What precedes the first block is trained as the
    first, and what follows the last as if it were one more.

    Source: Howard and Ruder, "Universal language model fine-tuning for text classification", 2018,
    arXiv:1801.06146, section 3.2, where it is the last layers that change most.

    Args:
        tower: The image tower.
        lr: The rate η of the first block.
        block_decay: The factor d from each block to the next.

    Raises:
        UserError: If the tower has no blocks that we know of, unless d is 1.
    """
    ends = [set[int](), {id(p) for p in tower.parameters()}]
    if block_decay != 1:
        blocks = tower_blocks(tower)
        if not blocks:
            raise UserError("optimization.block_decay: the blocks of this image tower are unknown")
        ends[1:1] = [_until(tower, blocks[: end + 1]) for end in range(len(blocks))]
    trained = [p for p in tower.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in end - start], "lr": lr * block_decay**block}
        for block, (start, end) in enumerate(pairwise(ends))
    ]
    return [group for group in groups if group["params"]]


def _until(tower: nn.Module, blocks: Sequence[nn.Module]) -> set[int]:
    """The ids of the parameters of blocks, and of whatever precedes the last of them."""
    of_blocks = {id(p) for block in blocks for p in block.parameters()}
    # open_clip registers the projection before the blocks, and uses it after them
    ordered = [id(p) for name, p in tower.named_parameters() if name != "proj"]
    end = max(index for index, parameter in enumerate(ordered) if parameter in of_blocks)
    return set(ordered[: end + 1])


def layernorm(tower: nn.Module) -> nn.Module:
    """Scales and shifts of all norms."""
    for module in tower.modules():
        if isinstance(module, NORMS):
            module.requires_grad_(True)
    return tower


class LowRank(nn.Module):
    r"""A weight with a low-rank change that is trained in its place.

    .. math:: W = W_0 + \frac{\alpha}{r} B A

    Source: Hu et al., "LoRA: Low-rank adaptation of large language models", 2022,
    arXiv:2106.09685, section 4.1. A starts as in the authors' code, and B at zero.

    Args:
        weight: :math:`W_0`, shape (out, in).
        rank: The rank r of the change.
        alpha: Its scale α.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.a = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.scale * self.b @ self.a


def lora(tower: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Low-rank changes of all linear and attention layers in the blocks, see `LowRank`.

    Args:
        tower: The image tower.
        rank: The rank of each change.
        alpha: Its scale.

    Returns:
        The tower; `plain_weights` merges the changes.

    Raises:
        UserError: If the tower has no such layers.
    """
    weights = [
        (module, name)
        for block in tower_blocks(tower)
        for module in block.modules()
        for name, kind in (("weight", nn.Linear), ("in_proj_weight", nn.MultiheadAttention))
        if isinstance(module, kind)
    ]
    if not weights:
        raise UserError("tune=lora: this image tower has no linear layers in its blocks")
    for module, name in weights:
        register_parametrization(module, name, LowRank(getattr(module, name), rank, alpha))
    return tower


@torch.no_grad()
def plain_weights(tower: nn.Module) -> dict[str, Tensor]:
    """A copy of a tower's weights on the CPU, under the names that they had before training."""
    weights = {n: v for n, v in tower.state_dict().items() if ".parametrizations." not in n}
    for name, module in tower.named_modules():
        if is_parametrized(module):
            changed: Any = module.parametrizations
            weights |= {f"{name}.{weight}": getattr(module, weight) for weight in changed}
    return {name: value.cpu().clone() for name, value in weights.items()}
