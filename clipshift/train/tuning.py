"""What of an image tower is trained: each function here turns a frozen tower into a trainable one.

They are the choices of the group ``tune``.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

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
    found = tower_blocks(tower)
    if blocks > len(found):
        raise UserError(f"tune.blocks={blocks}: this image tower has {len(found)}")
    last = {id(p) for block in found[-blocks:] for p in block.parameters()}
    within = {id(p) for block in found for p in block.parameters()}
    ordered = list(tower.named_parameters())
    final = max(place for place, (_, p) in enumerate(ordered) if id(p) in within)
    for place, (name, parameter) in enumerate(ordered):
        follows = place > final or name == "proj"  # open_clip's, registered before the blocks
        parameter.requires_grad_(follows or id(parameter) in last)
    return tower


def layernorm(tower: nn.Module) -> nn.Module:
    """Scales and shifts of all norms."""
    for module in tower.modules():
        if isinstance(module, NORMS):
            module.requires_grad_(True)
    return tower


def lora(tower: nn.Module, rank: int, alpha: float) -> nn.Module:
    r"""Low-rank changes of all linear and attention layers in the blocks, by the package peft.

    .. math:: W = W_0 + \frac{\alpha}{r} B A

    Source: Hu et al., "LoRA: Low-rank adaptation of large language models", 2022,
    arXiv:2106.09685, section 4.1.

    Args:
        tower: The image tower.
        rank: The rank r of each change.
        alpha: Its scale α.

    Returns:
        The tower, wrapped by peft; `plain_weights` merges the changes.

    Raises:
        UserError: If peft is missing, or the tower has no such layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError:
        raise UserError("tune=lora needs peft: pip install 'clipshift[train]'") from None

    inside = {id(module) for block in tower_blocks(tower) for module in block.modules()}
    attention = [n for n, m in tower.named_modules() if isinstance(m, nn.MultiheadAttention)]
    layers = [
        name
        for name, module in tower.named_modules()
        if id(module) in inside
        and isinstance(module, (nn.Linear, nn.MultiheadAttention))
        and name.rpartition(".")[0] not in attention  # adapted with the attention that owns it
    ]
    if not layers:
        raise UserError("tune=lora: this image tower has no linear layers in its blocks")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]
    return get_peft_model(tower, config)  # type: ignore[arg-type]


@torch.no_grad()
def restore_frozen(tower: nn.Module, base: nn.Module) -> None:
    """Give a tower's frozen weights the values that they have in the base.

    peft adds its changes to an attention layer's weights, and takes them off, in every pass, which
    leaves rounding behind.

    Args:
        tower: The tower in training.
        base: The tower that it started as.
    """
    values = base.state_dict()
    for name, parameter in tower.named_parameters():
        if not parameter.requires_grad:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            parameter.copy_(values[plain])


@torch.no_grad()
def plain_weights(tower: nn.Module) -> dict[str, Tensor]:
    """A copy of a tower's weights on the CPU, under the names that they had before training."""
    merged: Any = copy.deepcopy(tower)
    if hasattr(merged, "merge_and_unload"):
        merged = merged.merge_and_unload()
    return {name: value.cpu().clone() for name, value in merged.state_dict().items()}
