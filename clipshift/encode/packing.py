"""Packed weights: oneDNN's memory layout, computed once instead of in every forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from clipshift.encode.hooks import replaced_forward


@contextmanager
def packed_weights(tower: nn.Module) -> Iterator[None]:
    """Speed up linear layers in bfloat16 on a CPU, but for gradients, inside a ``with`` block.

    Their weights must not change meanwhile. Float32 is left to MKL, because oneDNN's results differ
    from those of MKL in the last digit.
    """
    forwards = {}
    for layer in filter(_can_be_packed, tower.modules()):
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        forwards[layer] = partial(_multiply, layer, weight)
    with replaced_forward(forwards):
        yield


def _can_be_packed(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)  # not patched
        and layer.weight.dtype == torch.bfloat16
        and layer.weight.device.type == "cpu"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _multiply(layer: nn.Linear, weight: Tensor, inputs: Tensor) -> Tensor:
    if inputs.requires_grad:
        return nn.Linear.forward(layer, inputs)
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, layer.bias, "none", [], "")
