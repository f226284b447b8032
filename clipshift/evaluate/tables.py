"""From what was measured to the tables and facts of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipshift.augment import MATCHED, PAPER, Stored, Variant
from clipshift.augment.matching import UNDISTORTED, Calibration
from clipshift.data import Photo
from clipshift.evaluate.calibration import mirrored_photos
from clipshift.evaluate.elasticity import elasticities
from clipshift.measure import CleanSpread, Facts, LayerShift
from clipshift.measure.functional import cka_left_out, cka_null, retained
from clipshift.results import (
    CLEAN,
    SHIFT,
    UNMATCHED,
    Matching,
    Measured,
    Records,
    Run,
    Shift,
    ShiftFile,
    by_photo,
    correlate,
    corruption_errors,
    data_fingerprint,
    distance_tables,
    intraclass_correlation,
    labels_of,
    mean_interval,
    order_of_photos,
    rank_augmentations,
    ranking_agreement,
    ratio_values,
    shift_and_error,
    shift_table,
    skipped_table,
    summarize,
    write_shift,
    write_whole,
)


def make_run(
    folder: Path,
    measured: Measured,
    records: Records,
    photos: Sequence[Photo],
    variants: Mapping[str, Variant],
    columns: Mapping[str, Facts],
    seed: int,
    facts: Mapping[str, Any],
    inside: Mapping[str, pd.DataFrame] | None = None,
    calibration: Calibration | None = None,
) -> Run:
    """Make the tables of a run, and the facts that follow from what was measured.

    Writes ``shift.parquet`` first: all other tables are made of its columns, one at a time.

    Args:
        folder: The run's folder.
        measured: What was measured, but for the values, which are not all held at once.
        records: Where they are, and the layers' sums.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.
        columns: What the measured columns mean.
        seed: Of all resampling.
        facts: What else is known of the run; ``data`` and others are added.
        inside: From `clipshift.evaluate.inside.inside_tables`, where asked for.
        calibration: Of severity ``matched``, where that is among the run's.
    """
    order = order_of_photos(measured, photos)
    metric = clean_spread(records.parts("embeddings"))
    spread = math.nan if metric is None else metric.compute().item()
    found_again = retained_photos(measured)

    def complete(part: Measured) -> None:
        add_relative_shift(part, metric)
        add_retained(part, found_again)

    parts = records.sorted_values(measured.index[order], complete)
    tables = (shift_table(part, photos, variants) for part in parts)
    write_whole(folder / SHIFT, lambda path: write_shift(path, tables, columns))
    shift = ShiftFile(folder / SHIFT)
    matching, elasticity = UNMATCHED, {}
    if calibration:
        elasticity = elasticities(measured, variants, UNDISTORTED[calibration.distortion])
        relative = calibration.relative_distortions()
        matching = Matching(
            {name: elasticity.get(name, 1.0) * of for name, of in relative.items()},
            mirrored_photos(variants.values(), list(shift.photos), seed),
        )
    summary = summarize(shift, columns, seed, matching)
    stored = {v.name for v in variants.values() if isinstance(v.augmentation, Stored)}
    errors = corruption_errors(summary, sorted(stored))
    cosine = "cosine_similarity" in shift
    several = len(order) > 1 and len(shift.variants.unique("augmentation")) > 1
    both = cosine and several and {PAPER, MATCHED} <= set(shift.variants.unique("severity"))
    made = {
        "data": {
            "fingerprint": data_fingerprint(
                (photos[index].id, digest.tobytes())
                for index, digest in zip(measured.index, measured.digests, strict=True)
            ),
            "photos": len(measured.index),
            "skipped": len(measured.skipped),
        }
        | facts["data"],
        "spread": None if math.isnan(spread) else spread,
        "collapsed": math.isnan(spread) and bool((measured.digests != measured.digests[:1]).any()),
        "strengths": {name: variant.strength for name, variant in variants.items()},
        "gallery": len(measured.gallery.get(CLEAN, ())),
        "distortion": realised_distortion(summary),
        "intraclass_correlation": label_correlation(shift) if cosine else None,
    }
    if measured.stored is not None:
        made["data"]["stored_fingerprint"] = data_fingerprint(
            (photos[index].id, digest.tobytes())
            for index, digest in zip(measured.index, measured.stored, strict=True)
        )
    if both:
        found = ranking_agreement(shift, (PAPER, MATCHED), seed, matching)
        values = [None if math.isnan(value) else value for value in found]
        made["paper_and_matched"] = dict(zip(("tau", "ci_low", "ci_high"), values, strict=True))
    if calibration:
        made["matching"] = {
            "distortion": calibration.distortion,
            "target": calibration.target,
            "photos": len(calibration.photos),
            "elasticity": elasticity,
        }
    ranking = rank_augmentations(shift, seed, matching) if cosine else pd.DataFrame()
    if calibration and len(ranking):
        ranking = with_distortion(ranking, summary, calibration.distortion)
    outliers = outlier_table(measured, photos, variants, seed)
    made["notes"] = [*facts["notes"], *carried_gaze(outliers, facts["model"]["gaze_layer"])]
    if len(errors):
        made["corruption_error"] = shift_and_error(errors, shift, seed)
    return Run(
        folder,
        {**facts, **made},
        dict(columns),
        shift,
        summary,
        *distance_tables(measured, photos, list(variants), seed),
        ranking,
        correlate(shift, columns) if cosine else pd.DataFrame(),
        layer_table(measured, records.sums(), photos, variants, seed),
        outliers,
        errors,
        skipped=skipped_table(measured, photos),
        **(inside or {}),
    )


def with_distortion(ranking: pd.DataFrame, summary: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A ranking with the mean ``distortion`` of the photos and its 95 % interval.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        summary: From `clipshift.results.summarize`.
        measure: What strengths were matched by. Where the run did not measure it, there is none.
    """
    names = {"mean": "distortion", "ci_low": "distortion_low", "ci_high": "distortion_high"}
    key = ["augmentation", "severity"]
    rows = summary[summary["measure"] == measure].set_index(key)[list(names)]
    if rows.empty:
        return ranking
    return ranking.drop(columns=list(names.values())).join(rows.rename(columns=names), on=key)


def realised_distortion(summary: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """What the augmentations came to: mean RMSE and SSIM, by augmentation and severity."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in summary[summary["measure"].isin(["rmse", "ssim"])].itertuples():
        by_severity = found.setdefault(row.augmentation, {})
        by_severity.setdefault(row.severity, {})[row.measure] = row.mean
    return found


def label_correlation(shift: Shift) -> float | None:
    """How alike the mean shifts of photos of one label are; None where that cannot be said."""
    means = by_photo(shift, "cosine_similarity").mean(axis=1).to_numpy()
    found = intraclass_correlation(means, list(labels_of(shift)))
    return None if math.isnan(found) else found


def clean_spread(parts: Iterable[Measured]) -> CleanSpread | None:
    """The distances between different clean photos, from their embeddings; None without photos."""
    metric = None
    for part in parts:
        clean = torch.from_numpy(part.embeddings[CLEAN])
        if metric is None:
            metric = CleanSpread(clean.shape[1], sync_on_compute=False)
        metric.update(clean)
    return metric


def add_relative_shift(measured: Measured, spread: CleanSpread | None) -> None:
    """Divide every shift by the mean distance between different clean photos.

    Leaves ``distance_to_others`` beside it, each photo's share in that mean. NaN where the encoder
    makes no difference between photos.

    Args:
        measured: What was measured of some photos, with their clean embeddings.
        spread: From `clean_spread` of all photos.
    """
    if spread is None:
        return
    others = spread.distance_to_others(torch.from_numpy(measured.embeddings[CLEAN])).numpy()
    unit = spread.compute().item()
    for variant, measure in list(measured.values):
        if measure == "cosine_similarity":
            shift = 1 - measured.values[variant, measure]
            relative = np.where(np.isnan(others), np.nan, shift / unit)
            measured.values[variant, "relative_shift"] = relative
            measured.values[variant, "distance_to_others"] = others


def retained_photos(measured: Measured) -> dict[str, dict[int, float]]:
    """Which views find their own photo in the gallery: by variant and by the photo's index.

    Empty for a gallery of fewer than two photos.
    """
    photos = sorted(measured.gallery.get(CLEAN, ()))
    if len(photos) < 2:
        return {}
    stacked = {
        name: torch.from_numpy(np.stack([kept[photo] for photo in photos]))
        for name, kept in measured.gallery.items()
    }
    return {
        name: dict(zip(photos, retained(stacked[name], stacked[CLEAN]).tolist(), strict=True))
        for name in stacked
        if name != CLEAN
    }


def add_retained(measured: Measured, found: Mapping[str, Mapping[int, float]]) -> None:
    """Add what `retained_photos` found; NaN for photos outside the gallery."""
    for name, photos in found.items():
        rows = [photos.get(index, math.nan) for index in measured.index.tolist()]
        measured.values[name, "retained"] = np.array(rows)


def layer_table(
    measured: Measured,
    sums: Mapping[str, Tensor],
    photos: Sequence[Photo],
    variants: Mapping[str, Variant],
    seed: int,
) -> pd.DataFrame:
    """One row per variant and layer: cosines, the shift's growth from layer to layer, and CKA.

    The intervals are `clipshift.results.mean_interval`, that of the amplification with the spreads
    of the clean photos as they are, that of CKA of `cka_intervals`. Empty where the sums are of
    other photos, as after an interruption they may be.
    """
    columns = [
        "augmentation", "severity", "layer", "cosine", "ci_low", "ci_high",
        "patch_cosine", "patch_low", "patch_high",
        "amplification", "amplification_low", "amplification_high",
        "cka", "cka_low", "cka_high", "cka_null", "cka_p", "cka_biased",
    ]  # fmt: skip
    summed = set(sums["photos"].tolist()) if sums else set()
    if measured.layers is None or summed != set(measured.index.tolist()):
        return pd.DataFrame(columns=columns)
    both = measured.layers[order_of_photos(measured, photos)]
    low, high = np.clip(mean_interval(both, seed), -1, 1)
    cosines = both[..., 0]
    made = [
        LayerShift.from_sums(
            {
                name.partition(" ")[2]: value
                for name, value in sums.items()
                if name.startswith(f"{layer} ")
            }
        ).compute()
        for layer in range(cosines.shape[1])
    ]
    growth = amplification_values(cosines, np.array([float(of["spread"]) for of in made]))
    with np.errstate(invalid="ignore"):
        amplification = np.nansum(growth, axis=0) / np.isfinite(growth).sum(axis=0)
    growth_low, growth_high = np.maximum(mean_interval(growth, seed), 0)
    null = cka_null(len(cosines))
    # torchmetrics squeezes the values of a single variant.
    names = ("cosine", "patch_cosine", "cka", "cka_biased")
    cosine, patch_cosine, cka, biased = np.array(
        [[of[name].reshape(-1).tolist() for of in made] for name in names]
    )
    tokens = {view: _tokens(measured, photos, view) for view in (CLEAN, *variants)}
    widths = [sums[f"{layer} xx"].shape[0] - 2 for layer in range(len(made))]
    cka_low, cka_high = cka_intervals(tokens, widths, cka, len(cosines), seed)
    rows = [
        (
            v.name, v.severity, layer + 1, cosine[layer, k], low[layer, k, 0], high[layer, k, 0],
            patch_cosine[layer, k], low[layer, k, 1], high[layer, k, 1],
            amplification[layer, k], growth_low[layer, k], growth_high[layer, k],
            cka[layer, k], cka_low[layer, k], cka_high[layer, k], null,
            1 / (1 + (max(cka[layer, k], 0) / null) ** 2), biased[layer, k],
        )
        for layer in range(len(made))
        for k, v in enumerate(variants.values())
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _tokens(measured: Measured, photos: Sequence[Photo], view: str) -> np.ndarray:
    """The mean patch tokens of the photos of which they were kept, in the order of ids."""
    kept = measured.tokens.get(view, {})
    chosen = sorted(kept, key=lambda index: photos[index].id)
    return np.array([kept[index] for index in chosen])


def cka_intervals(
    tokens: Mapping[str, np.ndarray],
    widths: Sequence[int],
    cka: np.ndarray,
    count: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    r"""The 95 % intervals of debiased CKA over photos, by the jackknife.

    .. math::
        \psi_i = n z - (n - 1) z_{(i)}, \quad z = \operatorname{artanh} \mathrm{CKA}

    with :math:`z_{(i)}` of all n photos but one (`cka_left_out`). The distances from the mean of
    these pseudo-values to the ends of its `clipshift.results.mean_interval` are taken from the z of
    CKA, and :math:`\tanh` of both are the ends. Pseudo-values vary as the ratio does, to more than
    first order; z, which stretches the scale near 1, makes its distribution less skewed. Sources:
    Tukey, "Bias and confidence in not quite large samples", 1958; Efron and Stein, "The jackknife
    estimate of variance", 1981; z: Fisher, "On the probable error of a coefficient of correlation",
    1921.

    Args:
        tokens: Mean patch tokens of n photos, those of all layers one behind the other, by view,
            ``clean`` first, each shape (n, sum of widths).
        widths: Of the layers.
        cka: Of all N photos, shape (layers, variants).
        count: N. Where n is less, the variation over n photos is taken for that over all.
        seed: Of the resampling.

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
        for end in mean_interval(values, seed)
    )
    return np.minimum(low, cka), np.maximum(high, cka)


def fisher_z(cka: np.ndarray) -> np.ndarray:
    """The inverse of tanh, finite at 1, where two representations differ by rounding alone."""
    return np.asarray(np.arctanh(np.clip(cka, -1 + 1e-12, 1 - 1e-12)))


CARRIED = 0.25
"""Outlier tokens carry the gaze where they have so much more of it than their number would have."""


def outlier_table(
    measured: Measured, photos: Sequence[Photo], variants: Mapping[str, Variant], seed: int
) -> pd.DataFrame:
    """Outlier tokens after each layer, and the gaze on them: a row per view, severity and layer.

    The clean views, which have no severity, have their rows at every one. Empty where there are no
    tokens.
    """
    columns = [
        "augmentation", "severity", "layer", "tokens", "ci_low", "ci_high", "share",
        "gaze_share", "gaze_low", "gaze_high", "n",
    ]  # fmt: skip
    if measured.outliers is None:
        return pd.DataFrame(columns=columns)
    values = measured.outliers[order_of_photos(measured, photos)]
    low, high = np.clip(mean_interval(values, seed), 0, [np.inf, 1, 1])
    known = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = np.nansum(values, axis=0) / known
    severities = list(dict.fromkeys(variant.severity for variant in variants.values()))
    views = [(CLEAN, severity, 0) for severity in severities] + [
        (v.name, v.severity, k) for k, v in enumerate(variants.values(), start=1)
    ]
    rows = [
        (
            name, severity, layer + 1, means[k, layer, 0], low[k, layer, 0], high[k, layer, 0],
            means[k, layer, 1], means[k, layer, 2], low[k, layer, 2], high[k, layer, 2],
            known[k, layer, 0],
        )
        for name, severity, k in views
        for layer in range(values.shape[2])
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def carried_gaze(outliers: pd.DataFrame, layer: int | None) -> list[str]:
    """A warning where outlier tokens carry the gaze; empty where they do not.

    Args:
        outliers: From `outlier_table`.
        layer: After how many layers the gaze looks at the tokens; None or 0 where there is none.
    """
    seen = outliers[outliers["layer"] == layer]
    carried = seen[seen["gaze_share"] - seen["share"] >= CARRIED]
    if carried.empty:
        return []
    most = carried.loc[carried["gaze_share"].idxmax()]
    where = ", ".join(dict.fromkeys(carried["augmentation"]))
    return [
        f"Outlier tokens carry the gaze ({where}): up to {most['gaze_share']:.0%} of it falls on "
        f"{most['share']:.1%} of the patches. Such tokens hold little of their own patch, so that "
        "measures of gaze say little of where on the photo the model looks."
    ]


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
            known = np.isfinite(shift[:, layer - 1 : layer + 1, k]).all(axis=1)
            before, after = shift[known, layer - 1, k], shift[known, layer, k]
            if known.any():
                ratio = ratio_values(after, before)
                values[known, layer, k] = ratio * spread[layer - 1] / spread[layer]
    return values
