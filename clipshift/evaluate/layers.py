"""Tables of a run's layers: shift, CKA, and outlier tokens with the gaze on them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipshift.evaluate.estimates import ends_of
from clipshift.measure.functional import cka_left_out, cka_null
from clipshift.measure.metrics import LayerShift
from clipshift.results.intervals import mean_interval, ratio_values
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample


def layer_table(sample: PhotoSample, sums: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row per variant and layer: cosines, the shift's growth from layer to layer, and CKA.

    The intervals are `clipshift.results.intervals.mean_interval`, that of the amplification with
    the spreads of the clean photos as they are, that of CKA of `cka_intervals`. Empty where the
    sums are of other photos, as after an interruption they may be.
    """
    measured, variants = sample.measured, sample.variants
    summed = set(sums["photos"].tolist()) if sums else set()
    if measured.layers is None or summed != set(measured.index.tolist()):
        return pd.DataFrame()
    both = measured.layers[sample.order]
    ends = np.clip(sample.mean_interval(both), -1, 1)
    cosines = both[..., 0]
    count, depth, width = cosines.shape
    by_layer: dict[str, dict[str, Tensor]] = {}
    for key, value in sums.items():
        layer, _, name = key.partition(" ")
        by_layer.setdefault(layer, {})[name] = value
    shifts = [LayerShift.from_sums(by_layer[str(layer)]).compute() for layer in range(depth)]
    growth = amplification_values(cosines, np.array([float(of["spread"]) for of in shifts]))
    with np.errstate(invalid="ignore"):
        amplification = np.nansum(growth, axis=0) / np.isfinite(growth).sum(axis=0)
    # torchmetrics squeezes the values of a single variant.
    names = ("cosine", "patch_cosine", "cka", "cka_biased")
    means = {name: np.array([of[name].reshape(-1).tolist() for of in shifts]) for name in names}
    cka, null = means["cka"], cka_null(count)
    tokens = {view: _tokens(sample, view) for view in (CLEAN, *variants)}
    widths = [sums[f"{layer} xx"].shape[0] - 2 for layer in range(depth)]
    groups = sample.groups_of(measured.tokens.get(CLEAN, ()))
    numbers = {
        **means,
        "amplification": amplification,
        "cka_p": 1 / (1 + (np.maximum(cka, 0) / null) ** 2),
        **ends_of("ci", ends[..., 0]),
        **ends_of("patch", ends[..., 1]),
        **ends_of("amplification", np.maximum(sample.mean_interval(growth), 0)),
        **ends_of("cka", cka_intervals(tokens, widths, cka, count, sample.seed, groups)),
    }
    cells = {
        "augmentation": [variant.name for variant in variants.values()] * depth,
        "severity": [variant.severity for variant in variants.values()] * depth,
        "layer": np.repeat(np.arange(1, depth + 1), width),
        "cka_null": null,
        **{name: values.ravel() for name, values in numbers.items()},
    }
    return pd.DataFrame(cells)


def _tokens(sample: PhotoSample, view: str) -> np.ndarray:
    """The mean patch tokens of the photos of which they were kept, in the order of ids."""
    kept = sample.measured.tokens.get(view, {})
    chosen = sample.by_id(kept)
    return np.array([kept[index] for index in chosen])


def cka_intervals(
    tokens: Mapping[str, np.ndarray],
    widths: Sequence[int],
    cka: np.ndarray,
    count: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""The 95 % intervals of debiased CKA over photos, by the jackknife.

    .. math::
        \psi_i = n z - (n - 1) z_{(i)}, \quad z = \operatorname{artanh} \mathrm{CKA}

    with :math:`z_{(i)}` of all n photos but one (`cka_left_out`). The distances from the mean of
    these pseudo-values to the ends of its `clipshift.results.intervals.mean_interval` are taken
    from the z of CKA, and :math:`\tanh` of both are the ends. Pseudo-values vary as the ratio
    does, to more than first order; z, which stretches the scale near 1, makes its distribution
    less skewed. Sources: Tukey, "Bias and confidence in not quite large samples", 1958; Efron and
    Stein, "The jackknife estimate of variance", 1981; z: Fisher, "On the probable error of a
    coefficient of correlation", 1921.

    Args:
        tokens: Mean patch tokens of n photos, those of all layers one behind the other, by view,
            ``clean`` first, each shape (n, sum of widths).
        widths: Of the layers.
        cka: Of all N photos, shape (layers, variants).
        count: N. Where n is less, the variation over n photos is taken for that over all.
        seed: Of the resampling.
        groups: Of the n photos, see `mean_interval`.

    Returns:
        The ends, each shape (layers, variants); NaN for n < 5, or where CKA, or that of all photos
        but one, is NaN.
    """
    clean, *views = tokens.values()
    if len(clean) < 5:
        return np.full_like(cka, np.nan), np.full_like(cka, np.nan)
    values = np.full((len(clean), *cka.shape), np.nan)
    starts = np.cumsum([0, *widths])
    for layer, (start, stop) in enumerate(pairwise(starts)):
        x = torch.from_numpy(clean[:, start:stop])
        for k, view in enumerate(views):
            if np.isfinite(cka[layer, k]):
                left_out = cka_left_out(x, torch.from_numpy(view[:, start:stop])).numpy()
                values[:, layer, k] = -(len(clean) - 1) * fisher_z(left_out)
    values[:, np.isnan(values).any(axis=0)] = np.nan
    low, high = (
        np.tanh(fisher_z(cka) + (end - values.mean(axis=0)) * np.sqrt(len(clean) / count))
        for end in mean_interval(values, seed, groups)
    )
    return np.minimum(low, cka), np.maximum(high, cka)


def fisher_z(cka: np.ndarray) -> np.ndarray:
    """The inverse of tanh, finite at 1, where two representations differ by rounding alone."""
    return np.asarray(np.arctanh(np.clip(cka, -1 + 1e-12, 1 - 1e-12)))


CARRIED = 0.25
"""Outlier tokens carry the gaze where they have so much more of it than their number would have."""


def outlier_table(sample: PhotoSample) -> pd.DataFrame:
    """Outlier tokens after each layer, and the gaze on them: a row per view, severity and layer.

    The clean views, which have no severity, have their rows at every one. Empty where there are no
    tokens.
    """
    if sample.measured.outliers is None:
        return pd.DataFrame()
    values = sample.measured.outliers[sample.order]
    ends = np.clip(sample.mean_interval(values), 0, [np.inf, 1, 1])
    count = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = np.nansum(values, axis=0) / count
    measured, depth = [CLEAN, *sample.variants], values.shape[2]
    rows = [measured.index(view) for view, _, _ in sample.views]
    numbers = {
        "tokens": means[..., 0],
        "share": means[..., 1],
        "gaze_share": means[..., 2],
        "n": count[..., 0],
        **ends_of("ci", ends[..., 0]),
        **ends_of("gaze", ends[..., 2]),
    }
    cells = {
        "augmentation": [name for _, name, _ in sample.views for _ in range(depth)],
        "severity": [severity for _, _, severity in sample.views for _ in range(depth)],
        "layer": np.tile(np.arange(1, depth + 1), len(rows)),
        **{name: of_views[rows].ravel() for name, of_views in numbers.items()},
    }
    return pd.DataFrame(cells)


def carried_gaze(outliers: pd.DataFrame, layer: int | None) -> Iterator[str]:
    """A warning where outlier tokens carry the gaze; empty where they do not.

    Args:
        outliers: From `outlier_table`.
        layer: After how many layers the gaze looks at the tokens; None or 0 where there is none.
    """
    seen = outliers[outliers["layer"] == layer]
    carried = seen[seen["gaze_share"] - seen["share"] >= CARRIED]
    if len(carried):
        most = carried.loc[carried["gaze_share"].idxmax()]
        where = ", ".join(dict.fromkeys(carried["augmentation"]))
        yield (
            f"Outlier tokens carry the gaze ({where}): up to {most['gaze_share']:.0%} of it falls "
            f"on {most['share']:.1%} of the patches. Such tokens hold little of their own patch, "
            "so that measures of gaze say little of where on the photo the model looks."
        )


def amplification_values(cosines: np.ndarray, spread: np.ndarray) -> np.ndarray:
    r"""Growth of the shift from layer to layer, as a mean over photos (`ratio_values`).

    .. math::
        A_l = \frac{M_l}{S_l} \Big/ \frac{M_{l - 1}}{S_{l - 1}}

    with the mean shift M of the class tokens, 1 − cosine, and its spread S, the same mean between
    different clean photos: the relative shift of a layer over that of the layer before.

    Args:
        cosines: Class tokens' cosines, shape (N, layers, variants); NaN where there are none.
        spread: S of each layer, shape (layers,).

    Returns:
        Shape (N, layers, variants), NaN in the first layer.

    Example:
        >>> cosines = np.array([[[0.9], [0.6]], [[0.7], [0.6]]])
        >>> amplification_values(cosines, np.array([0.5, 1.0])).mean(axis=0).round(6).tolist()
        [[nan], [1.0]]
    """
    shift = 1 - cosines
    values = np.full_like(shift, np.nan)
    for layer in range(1, shift.shape[1]):
        for k in range(shift.shape[2]):
            complete = np.isfinite(shift[:, layer - 1 : layer + 1, k]).all(axis=1)
            before, after = shift[complete, layer - 1, k], shift[complete, layer, k]
            if complete.any():
                ratio = ratio_values(after, before)
                values[complete, layer, k] = ratio * spread[layer - 1] / spread[layer]
    return values
