"""Measures of the shift: torchmetrics metrics, and the same as functions in `functional`."""

from clipshift.measure.metrics import (
    RMSE,
    SSIM,
    AttentionSimilarity,
    AugmentationDistance,
    CleanSpread,
    CosineSimilarity,
    DetailPreservation,
    EdgePreservation,
    GazeDivergence,
    GazeEntropyChange,
    L2Distance,
    LayerShift,
    PatchSimilarity,
    PatchSimilarityUint8,
    PhotoMeasure,
)

__all__ = [
    "RMSE",
    "SSIM",
    "AttentionSimilarity",
    "AugmentationDistance",
    "CleanSpread",
    "CosineSimilarity",
    "DetailPreservation",
    "EdgePreservation",
    "GazeDivergence",
    "GazeEntropyChange",
    "L2Distance",
    "LayerShift",
    "PatchSimilarity",
    "PatchSimilarityUint8",
    "PhotoMeasure",
]
