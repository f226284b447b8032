"""WiSE-FT: weights between a base model and its fine-tuned one, and which of them to take."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

ROUNDING = 1e-6
"""Of accuracies, which are means in float32."""


def interpolated(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict:
    r"""Weights between two models, :math:`(1 - \alpha)\,\theta_0 + \alpha\,\theta_1`.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), 2022,
    arXiv:2109.01903, eq. 1.
    """
    return {
        name: torch.lerp(value, tuned[name], alpha) if value.is_floating_point() else value
        for name, value in base.items()
    }


def choose_alpha(curve: pd.DataFrame, tolerance: float) -> float:
    """The α of the smallest shift whose clean accuracy is within ``tolerance`` of the base's.

    Args:
        curve: One row per ``alpha``, 0 first, with ``shift`` and, where there are classes,
            ``clean_top1``.
        tolerance: How much accuracy may be lost, as a fraction.
    """
    if "clean_top1" in curve:
        base = curve["clean_top1"].iloc[0]
        curve = curve[curve["clean_top1"] >= base - tolerance - ROUNDING]
    return float(curve.loc[curve["shift"].idxmin(), "alpha"])
