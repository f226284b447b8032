"""Measures of the shift: torchmetrics metrics, and the same as functions in `functional`."""

from typing import TYPE_CHECKING

from clipshift.lazy import lazy_names

if TYPE_CHECKING:
    from clipshift.measure.facts import Facts
    from clipshift.measure.metrics import (
        RMSE,
        SSIM,
        AttentionSimilarity,
        AttentionSimilarityAligned,
        CosineSimilarity,
        DetailPreservation,
        EdgePreservation,
        GazeDivergence,
        GazeDivergenceAligned,
        GazeEntropyChange,
        L2Distance,
        PatchSimilarity,
        PatchSimilarityUint8,
        PhotoMeasure,
    )
    from clipshift.measure.per_photo import MetricPerPhoto
    from clipshift.measure.perceptual import Perceptual

__all__ = [
    "RMSE",
    "SSIM",
    "AttentionSimilarity",
    "AttentionSimilarityAligned",
    "CosineSimilarity",
    "DetailPreservation",
    "EdgePreservation",
    "Facts",
    "GazeDivergence",
    "GazeDivergenceAligned",
    "GazeEntropyChange",
    "L2Distance",
    "MetricPerPhoto",
    "PatchSimilarity",
    "PatchSimilarityUint8",
    "Perceptual",
    "PhotoMeasure",
]
__getattr__ = lazy_names(__name__, __all__, "facts", "metrics", "per_photo", "perceptual")
