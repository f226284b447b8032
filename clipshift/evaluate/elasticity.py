"""How fast the shift grows with the distortion, around the matched strength."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from clipshift.augment.geometric import Flip
from clipshift.augment.keyed import Draws, augment
from clipshift.augment.matching import Distortion
from clipshift.augment.variants import Variant
from clipshift.encode.encoder import Encoder
from clipshift.measure.functional import cosine_similarity
from clipshift.results.measured import CLEAN, Measured
from clipshift.severities import MATCHED

ELASTICITY_PHOTOS = 32
"""The number of random photos whose shift is measured at a weaker strength as well."""
WEAKER = 0.8
"""That strength, as a share of the matched one."""


def around_match(
    encoder: Encoder,
    distortion: Distortion,
    variants: Mapping[str, Variant],
    clean: Tensor,
    embeddings: Mapping[str, Tensor],
    draws: Mapping[str, Draws],
) -> Tensor:
    """Shift and distortion at matched severity, and at a weaker strength.

    Args:
        encoder: The encoder.
        distortion: What strengths were matched by.
        variants: The run's K variants, by view name.
        clean: Clean views of B photos.
        embeddings: Of these, and of the photos' views under the variants, by view name.
        draws: The photos' draws, by augmentation.

    Returns:
        Shift, distortion, shift at the weaker strength, distortion at it: float64, shape
        (K, B, 4), NaN at other severities.
    """
    matched = {name: v for name, v in variants.items() if v.severity == MATCHED}
    views = [
        augment(v.augmentation, clean, draws[v.name], WEAKER * v.strength) for v in matched.values()
    ]
    encoded = encoder.encode_views(torch.cat(views)).embedding
    weaker = dict(zip(matched, encoded.split(len(clean)), strict=True))
    shape = len(variants), len(clean), 4
    values = torch.full(shape, torch.nan, dtype=torch.double, device=clean.device)
    for place, (name, v) in enumerate(variants.items()):
        pairs = [(embeddings[name], 1.0), (weaker[name], WEAKER)] if name in matched else []
        for column, (embedding, factor) in enumerate(pairs):
            distorted = distortion(v.augmentation, clean, draws[v.name], factor * v.strength)
            values[place, :, 2 * column] = 1 - cosine_similarity(embedding, embeddings[CLEAN])
            values[place, :, 2 * column + 1] = distorted
    return values


def elasticities(
    measured: Measured, variants: Mapping[str, Variant], undistorted: float
) -> dict[str, float]:
    r"""By how many per cent the mean shift grows where the mean distortion grows by one.

    .. math::
        \eta = \ln \frac{m'}{m} \Big/ \ln \frac{\bar x' - x_0}{\bar x - x_0}

    with the mean shift m and distortion :math:`\bar x` at the matched strength, and those at the
    weaker one.

    Args:
        measured: What was measured, with `around_match`.
        variants: The run's variants, by view name.
        undistorted: :math:`x_0`, the distortion of a clean view.

    Returns:
        By augmentation. 1 for flip, whose strength is a share of the photos, so that both are
        proportional to it; and where the logarithms do not exist, as of shifts of 0.
    """
    growths = {}
    for name, by_photo in measured.weaker.items():
        variant = variants[name]
        if variant.severity != MATCHED:
            continue
        rows = np.array([by_photo[index] for index in sorted(by_photo)])
        differences = rows[np.isfinite(rows).all(axis=1)] - [0, undistorted] * 2
        shift, distortion, weaker_shift, weaker_distortion = differences.sum(axis=0)
        with np.errstate(all="ignore"):
            growth = np.log(weaker_shift / shift) / np.log(weaker_distortion / distortion)
        proportional = isinstance(variant.augmentation, Flip) or not np.isfinite(growth)
        growths[variant.name] = 1.0 if proportional else float(growth)
    return growths
