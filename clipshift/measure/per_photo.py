"""Any torchmetrics metric as a measure: applied to one photo after another."""

import math
import re
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.aggregation import BaseAggregator

from clipshift.errors import UserError, one_line
from clipshift.measure.facts import COLUMNS, Facts, Space
from clipshift.measure.metrics import PhotoMeasure

EXAMPLES: dict[Space, tuple[int, ...]] = {
    "pixels": (1, 3, 224, 224),
    "embedding": (1, 64),
    "gaze": (1, 14, 14),
}
"""What a metric can be taken on, with the shape of an example for one photo."""
OF = {"pixels": "pixels", "embedding": "embeddings", "gaze": "gazes"}


class MetricPerPhoto(PhotoMeasure):
    """The mean over photos of a torchmetrics metric that is computed for each photo on its own.

    Args:
        metric: The metric, whose ``update`` takes view and clean view as predictions and target,
            and whose ``compute`` gives one number.
        facts: What it means.
        flat: Whether it is given one photo's numbers in one dimension, without that of the batch.
    """

    def __init__(self, metric: Metric, facts: Facts, flat: bool = False) -> None:
        super().__init__()
        self.metric, self.facts, self.flat = metric, facts, flat

    def measure(self, view: Tensor, clean: Tensor) -> Tensor:  # type: ignore[override]
        """The B photos' own values; NaN where the metric's is not finite, as PSNR's of no change.

        Args:
            view: Embeddings, gazes or pixels of B views, as `Facts.space` says.
            clean: The same of their clean views.

        Returns:
            Shape (B,).
        """
        pairs = zip(view.split(1), clean.split(1), strict=True)
        values = torch.stack([_value(self.metric, *pair, self.flat) for pair in pairs])
        return values.where(values.isfinite(), torch.nan)


def as_measure(name: str, part: Any) -> PhotoMeasure:
    """A measure of a part of one's own: one already, or any torchmetrics metric of two inputs.

    A metric is given one photo's view and clean view, and no other: pixels in [0, 1], (1, 3, 224,
    224), if it is one of ``torchmetrics.image`` or says ``space = "pixels"``; gazes, (1, h, w), if
    it says ``space = "gaze"``; else embeddings, (1, D), or (D,) where it does not take the former.

    Its `Facts` follow from its class, but for the ends of its range, which are left open:
    torchmetrics' are ends of plots (0 for a cosine), and intervals would be cut there.

    Args:
        name: What it is called, in tables too.
        part: The measure or metric.

    Raises:
        UserError: If it is neither, fails, gives more than one number for a photo, or does not say
            whether more is better; or if the name is that of another column.

    Example:
        >>> from torchmetrics.regression import MeanSquaredError
        >>> measure = as_measure("mse", MeanSquaredError())
        >>> measure(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.zeros(2, 2))
        tensor([ 0.5000, 12.5000])
    """
    if name in COLUMNS:
        raise UserError(f"{name} is the name of another column: choose another")
    if isinstance(part, PhotoMeasure):
        return part
    kind = type(part)
    if not isinstance(part, Metric) or isinstance(part, BaseAggregator):
        raise UserError(f"{kind.__name__} is no measure: a PhotoMeasure or torchmetrics metric is")
    if part.higher_is_better is None:
        raise UserError(
            f"{kind.__name__} does not say whether more is better: derive a class from it with "
            "higher_is_better = True or False"
        )
    of_images = any(base.__module__.startswith("torchmetrics.image") for base in kind.__mro__)
    space: Space = getattr(part, "space", "pixels" if of_images else "embedding")
    if space not in EXAMPLES:
        raise UserError(f"{kind.__name__}: space={space!r} must be one of {', '.join(EXAMPLES)}")
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn if space == "embedding" else torch.rand
    views = [draw(EXAMPLES[space], generator=generator) for _ in range(3)]
    flat = False
    try:
        try:
            _value(part, views[0], views[1], flat)
        except (TypeError, ValueError, RuntimeError, IndexError):
            flat = space != "pixels"
            if not flat:
                raise
            _value(part, views[0], views[1], flat)
        same = [float(_value(part, view, view, flat)) for view in views]
    except UserError:
        raise
    except Exception as error:
        reason = one_line(str(error))[:160]
        raise UserError(f"{kind.__name__} fails: {type(error).__name__}: {reason}") from error
    words = re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", kind.__name__).lower()
    agree = max(same) - min(same) < 1e-4  # NaN or infinite: it does not
    facts = Facts(
        label=f"{words} of {OF[space]}",
        short=name,
        definition=f"{kind.__module__}.{kind.__name__} of each photo's view and clean view",
        space=space,
        better="higher" if part.higher_is_better else "lower",
        low=-math.inf,
        high=math.inf,
        unchanged=round(same[0], 3) + 0.0 if agree else None,
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
        raise UserError(f"{type(metric).__name__} gives {given} for one photo: one is needed")
    return value.detach().reshape(()).float()
