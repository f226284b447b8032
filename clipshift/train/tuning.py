"""The choices of the group ``tune``: each makes a part of a frozen image tower trainable."""

import math
from collections.abc import Sequence
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


def first_blocks(tower: nn.Module, blocks: int) -> nn.Module:
    """The first blocks of a tower, and whatever precedes them: where disturbed pixels come in.

    Source: Lee et al., "Surgical fine-tuning improves adaptation to distribution shifts", 2023,
    arXiv:2210.11466, which found it best against corruptions.

    Args:
        tower: The image tower.
        blocks: How many.

    Raises:
        UserError: If the tower has fewer, or none that we know of.
    """
    trained = _until(tower, _counted(tower, blocks)[:blocks])
    for parameter in tower.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return tower


def last_blocks(tower: nn.Module, blocks: int) -> nn.Module:
    """The last blocks of a tower, and whatever follows them.

    Args:
        tower: The image tower.
        blocks: How many.

    Raises:
        UserError: If the tower has fewer, or none that we know of.
    """
    all_blocks = _counted(tower, blocks)
    last = {id(p) for block in all_blocks[-blocks:] for p in block.parameters()}
    frozen = _until(tower, all_blocks) - last
    for parameter in tower.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    return tower


def _counted(tower: nn.Module, blocks: int) -> list[nn.Module]:
    all_blocks = tower_blocks(tower)
    if blocks > len(all_blocks):
        raise UserError(f"tune.blocks={blocks}: this image tower has {len(all_blocks)}")
    return all_blocks


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
