"""Use any torchmetrics metric as a measure by computing it for each photo separately."""

import math
import re
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.aggregation import BaseAggregator

from clipshift.errors import UserError, failures_of
from clipshift.measure.facts import COLUMNS, Facts, Space
from clipshift.measure.metrics import PhotoMeasure

EXAMPLES: dict[Space, tuple[int, ...]] = {
    "pixels": (1, 3, 224, 224),
    "embedding": (1, 64),
    "gaze": (1, 14, 14),
}
"""The spaces that a metric can be computed in, with the shape of the input for one photo."""
PLURALS = {"pixels": "pixels", "embedding": "embeddings", "gaze": "gazes"}


class MetricPerPhoto(PhotoMeasure):
    """The mean over photos of a torchmetrics metric that is computed for each photo separately.

    Args:
        metric: The metric, whose ``update`` takes view and clean view as predictions and target,
            and whose ``compute`` returns one number.
        facts: Its facts.
        flat: Whether its inputs are flattened to one dimension, without that of the batch.
    """

    def __init__(self, metric: Metric, facts: Facts, flat: bool = False) -> None:
        super().__init__()
        self.metric, self.facts, self.flat = metric, facts, flat

    def measure(self, view: Tensor, clean: Tensor) -> Tensor:  # type: ignore[override]
        """The values of B photos; NaN where the metric is not finite, as PSNR of equal images.

        Args:
            view: Embeddings, gazes or pixels of B views, depending on `Facts.space`.
            clean: Those of their clean views.

        Returns:
            Shape (B,).
        """
        pairs = zip(view.split(1), clean.split(1), strict=True)
        values = torch.stack([_value(self.metric, *pair, self.flat) for pair in pairs])
        return values.where(values.isfinite(), torch.nan)


def as_measure(name: str, part: Any) -> PhotoMeasure:
    """Turn a measure, or any torchmetrics metric of two inputs, into a measure.

    A metric receives the view and the clean view of one photo at a time: pixels in [0, 1], (1, 3,
    224, 224), if it is from ``torchmetrics.image`` or has ``space = "pixels"``; gazes, (1, h, w),
    if it has ``space = "gaze"``; otherwise embeddings, (1, D), or (D,) if it does not accept those.

    Its `Facts` follow from its class, except for the bounds of its range, which are left open:
    torchmetrics' bounds are meant for plots (0 for a cosine), and intervals would be clipped there.

    Args:
        name: Its name, also in tables.
        part: The measure or metric.

    Raises:
        UserError: If it is neither, fails, returns more than one number for a photo, or does not
            define whether higher is better; or if the name is that of another column.

    Example:
        >>> from torchmetrics.regression import MeanSquaredError
        >>> measure = as_measure("mse", MeanSquaredError())
        >>> measure(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.zeros(2, 2))
        tensor([ 0.5000, 12.5000])
    """
    if name in COLUMNS:
        raise UserError(f"{name} is the name of another column: choose another name")
    if isinstance(part, PhotoMeasure):
        return part
    kind = type(part)
    if not isinstance(part, Metric) or isinstance(part, BaseAggregator):
        raise UserError(
            f"{kind.__name__} is not a measure: pass a PhotoMeasure or a torchmetrics.Metric"
        )
    if part.higher_is_better is None:
        raise UserError(
            f"{kind.__name__} does not define higher_is_better: set it to True or False in a "
            "subclass"
        )
    is_image_metric = any(base.__module__.startswith("torchmetrics.image") for base in kind.__mro__)
    space: Space = getattr(part, "space", "pixels" if is_image_metric else "embedding")
    if space not in EXAMPLES:
        raise UserError(f"{kind.__name__}: space={space!r} must be one of {', '.join(EXAMPLES)}")
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn if space == "embedding" else torch.rand
    views = [draw(EXAMPLES[space], generator=generator) for _ in range(3)]
    flat = False
    with failures_of(kind.__name__):
        try:
            _value(part, views[0], views[1], flat)
        except (TypeError, ValueError, RuntimeError, IndexError):
            flat = space != "pixels"
            if not flat:
                raise
            _value(part, views[0], views[1], flat)
        without_change = [float(_value(part, view, view, flat)) for view in views]
    words = re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", kind.__name__).lower()
    # NaN and infinite values do not agree
    agree = max(without_change) - min(without_change) < 1e-4
    facts = Facts(
        label=f"{words} of {PLURALS[space]}",
        short=name,
        definition=f"{kind.__module__}.{kind.__name__} of each photo's view and clean view",
        space=space,
        better="higher" if part.higher_is_better else "lower",
        low=-math.inf,
        high=math.inf,
        unchanged=round(without_change[0], 3) + 0.0 if agree else None,
        correlate=name,
    )
    return MetricPerPhoto(part, facts, flat)


def _value(metric: Metric, view: Tensor, clean: Tensor, flat: bool) -> Tensor:
    if flat:
        view, clean = view.flatten(), clean.flatten()
    metric.reset()
    value = metric(view, clean)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"{value.numel()} numbers" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{type(metric).__name__} returns {given} for one photo, not one number")
    return value.detach().reshape(()).float()
