"""The precision error of half precision: how much rounding alone changes the shift."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from clipshift.augment.variants import Variant
from clipshift.measure.functional import cosine_similarity
from clipshift.results.measured import Measured

FLOOR_PHOTOS = 32
"""So many first photos of a run in half precision are encoded in float32 as well."""


def rounding(embeddings: Tensor, exact: Tensor) -> Tensor:
    r"""By how much the cosine of view and clean view changes with the precision, :math:`|\Delta|`.

    Args:
        embeddings: Of B clean views, and then of their K augmented views, shape (K + 1, B, D).
        exact: The same from the same model in float32.

    Returns:
        float64, shape (K, B).
    """
    cosines = (cosine_similarity(vectors[1:], vectors[:1]) for vectors in (embeddings, exact))
    return (next(cosines) - next(cosines)).abs()


def precision_floor(
    measured: Measured, variants: Mapping[str, Variant]
) -> dict[str, dict[str, dict[str, float]]]:
    r"""The mean and the 95th percentile of :math:`|\Delta|` over photos, and their number.

    Returns:
        By augmentation and severity; empty for a run in float32.
    """
    floor: dict[str, dict[str, dict[str, float]]] = {}
    for name, by_photo in measured.floor.items():
        changes = np.array([change for change in by_photo.values() if np.isfinite(change)])
        if len(changes):
            mean, p95 = float(changes.mean()), float(np.quantile(changes, 0.95))
            by_severity = floor.setdefault(variants[name].name, {})
            by_severity[variants[name].severity] = {
                "photos": len(changes),
                "mean": mean,
                "p95": p95,
            }
    return floor
