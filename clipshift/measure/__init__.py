"""Measures of the shift: torchmetrics metrics, and the same as functions in `functional`."""

from clipshift.measure.metrics import (
    RMSE,
    SSIM,
    AttentionSimilarity,
    AugmentationDistance,
    CosineSimilarity,
    DetailPreservation,
    EdgePreservation,
    L2Distance,
    PatchSimilarity,
    PatchSimilarityUint8,
    PhotoMeasure,
)

__all__ = [
    "RMSE",
    "SSIM",
    "AttentionSimilarity",
    "AugmentationDistance",
    "CosineSimilarity",
    "DetailPreservation",
    "EdgePreservation",
    "L2Distance",
    "PatchSimilarity",
    "PatchSimilarityUint8",
    "PhotoMeasure",
]
