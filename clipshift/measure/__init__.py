"""Measures of the shift: torchmetrics metrics, and the same as functions in `functional`."""

from clipshift.measure.facts import COLUMNS, Facts
from clipshift.measure.metrics import (
    RMSE,
    SSIM,
    AttentionSimilarity,
    AttentionSimilarityAligned,
    AugmentationDistance,
    CleanSpread,
    CosineSimilarity,
    DetailPreservation,
    EdgePreservation,
    GazeDivergence,
    GazeDivergenceAligned,
    GazeEntropyChange,
    L2Distance,
    LayerShift,
    OutlierTokens,
    PatchSimilarity,
    PatchSimilarityUint8,
    PhotoMeasure,
)
from clipshift.measure.per_photo import MetricPerPhoto, as_measure

__all__ = [
    "COLUMNS",
    "RMSE",
    "SSIM",
    "AttentionSimilarity",
    "AttentionSimilarityAligned",
    "AugmentationDistance",
    "CleanSpread",
    "CosineSimilarity",
    "DetailPreservation",
    "EdgePreservation",
    "Facts",
    "GazeDivergence",
    "GazeDivergenceAligned",
    "GazeEntropyChange",
    "L2Distance",
    "LayerShift",
    "MetricPerPhoto",
    "OutlierTokens",
    "PatchSimilarity",
    "PatchSimilarityUint8",
    "PhotoMeasure",
    "as_measure",
]
