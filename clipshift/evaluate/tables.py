"""From what was measured to the tables and facts of a run."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipshift.augment import Stored, Variant
from clipshift.augment.matching import UNDISTORTED, Calibration
from clipshift.data import Photo, keyed_order
from clipshift.evaluate.calibration import mirrored_photos
from clipshift.evaluate.elasticity import elasticities
from clipshift.measure import CleanSpread, Facts, LayerShift, retained_facts
from clipshift.measure.embeddings import has_direction, near_copies
from clipshift.measure.functional import cka_left_out, cka_null, retained
from clipshift.results import (
    CLASSES,
    CLEAN,
    DESIGN_EFFECT,
    PHOTOS,
    SHIFT,
    SHOWN_PHOTOS,
    UNMATCHED,
    Matching,
    Measured,
    Records,
    Run,
    RunInfo,
    Shift,
    ShiftFile,
    by_photo,
    correlate,
    corruption_errors,
    data_fingerprint,
    design_effect,
    distance_tables,
    intraclass_correlation,
    label_groups,
    labels_of,
    mean_interval,
    order_of_photos,
    rank_augmentations,
    ranking_agreement,
    ratio_values,
    shift_and_error,
    shift_table,
    shown_photos,
    skipped_table,
    summarize,
    write_shift,
    write_whole,
)
from clipshift.severities import MATCHED, PAPER

AUTO = "auto"
"""To resample photos or classes, see `resampling`."""
FEW_CLASSES = 5
"""Of fewer classes nothing can be said beyond these: Student's t of 3 degrees of freedom alone
makes an interval 1.6 times as wide."""


def make_run(
    folder: Path,
    measured: Measured,
    records: Records,
    photos: Sequence[Photo],
    variants: Mapping[str, Variant],
    columns: Mapping[str, Facts],
    seed: int,
    facts: Mapping[str, Any],
    inside: Callable[[np.ndarray | None], Mapping[str, pd.DataFrame]] | None = None,
    calibration: Calibration | None = None,
    resample: str = AUTO,
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
        inside: Makes, where asked for, `clipshift.evaluate.inside.inside_tables` of the groups of
            photos that are resampled whole.
        calibration: Of severity ``matched``, where that is among the run's.
        resample: What is resampled, see `resampling`.
    """
    order = order_of_photos(measured, photos)
    metric = clean_spread(records.parts("embeddings"))
    spread = math.nan if metric is None else metric.compute().item()
    found_again = retained_photos(measured)
    gallery = len(measured.gallery.get(CLEAN, ()))
    columns = {**columns, "retained": retained_facts(gallery)}

    def complete(part: Measured) -> None:
        add_relative_shift(part, metric)
        add_retained(part, found_again)

    parts = records.sorted_values(measured.index[order], complete)
    tables = (shift_table(part, photos, variants) for part in parts)
    write_whole(folder / SHIFT, lambda path: write_shift(path, tables, columns))
    shift = ShiftFile(folder / SHIFT)
    cosine = "cosine_similarity" in shift
    correlation = label_correlation(shift) if cosine else None
    groups, resampled = resampling(list(labels_of(shift)), correlation, resample)
    matching, elasticity = UNMATCHED, {}
    if calibration:
        elasticity = elasticities(measured, variants, UNDISTORTED[calibration.distortion])
        relative = calibration.relative_distortions()
        matching = Matching(
            {name: elasticity.get(name, 1.0) * of for name, of in relative.items()},
            mirrored_photos(variants.values(), list(shift.photos), seed),
        )
    summary = summarize(shift, columns, seed, matching, groups)
    stored = {v.name for v in variants.values() if isinstance(v.augmentation, Stored)}
    errors = corruption_errors(summary, sorted(stored))
    shown = shown_photos(shift, SHOWN_PHOTOS)
    several = len(order) > 1 and len(shift.variants.unique("augmentation")) > 1
    both = cosine and several and {PAPER, MATCHED} <= set(shift.variants.unique("severity"))
    made: dict[str, Any] = {
        "data": {
            "fingerprint": data_fingerprint(
                (photos[index].id, digest.tobytes())
                for index, digest in zip(measured.index, measured.digests, strict=True)
            ),
            "photos": len(measured.index),
            "skipped": len(measured.skipped),
            **facts["data"],
            "shown_sha256": {
                photos[index].id: digest.tobytes().hex()
                for index, digest in zip(measured.index, measured.digests, strict=True)
                if photos[index].id in shown
            },
        },
        "spread": None if math.isnan(spread) else spread,
        "collapsed": math.isnan(spread) and bool((measured.digests != measured.digests[:1]).any()),
        "strengths": {name: variant.strength for name, variant in variants.items()},
        "gallery": gallery,
        "distortion": realised_distortion(summary),
        "intraclass_correlation": correlation,
        "resampled": resampled,
    }
    if measured.stored is not None:
        made["data"]["stored_fingerprint"] = data_fingerprint(
            (photos[index].id, digest.tobytes())
            for index, digest in zip(measured.index, measured.stored, strict=True)
        )
    if both:
        found = ranking_agreement(shift, (PAPER, MATCHED), seed, matching, groups)
        values = [None if math.isnan(value) else value for value in found]
        made["paper_and_matched"] = dict(zip(("tau", "ci_low", "ci_high"), values, strict=True))
    if calibration:
        made["matching"] = {
            "distortion": calibration.distortion,
            "target": calibration.target,
            "photos": len(calibration.photos),
            "elasticity": elasticity,
        }
    ranking = rank_augmentations(shift, seed, matching, groups) if cosine else pd.DataFrame()
    if calibration and len(ranking):
        ranking = with_distortion(ranking, summary, calibration.distortion)
    outliers = outlier_table(measured, photos, variants, seed, groups)
    made["notes"] = [
        *facts["notes"],
        *carried_gaze(outliers, facts["model"]["gaze_layer"]),
        *repeated_photos(measured.digests),
        *near_photos(records, photos),
    ]
    if len(errors):
        made["corruption_error"] = shift_and_error(errors, shift, seed)
    inside_tables = inside(groups) if inside else {}  # adds to facts["seconds"]
    return Run(
        folder,
        RunInfo.model_validate({**facts, **made}),
        dict(columns),
        shift,
        summary,
        *distance_tables(measured, photos, list(variants), seed, groups),
        ranking,
        correlate(shift, columns) if cosine else pd.DataFrame(),
        layer_table(measured, records.sums(), photos, variants, seed, groups),
        outliers,
        errors,
        skipped=skipped_table(measured, photos),
        **inside_tables,
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


def resampling(
    labels: Sequence[str | None], correlation: float | None, asked: str
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """What intervals take as drawn at random: photos, or the classes that they are of.

    Classes where that is asked for, or where it is left to us and intervals over photos would be
    noticeably too narrow: by a `design_effect` of more than `DESIGN_EFFECT`, of at least
    `FEW_CLASSES` classes.

    Args:
        labels: Of the photos, in the order of ids.
        correlation: Their `intraclass_correlation`, where it is known.
        asked: ``auto``, ``photos`` or ``classes``.

    Returns:
        The group of each photo, None where photos are resampled; and what ``run.json`` says of it:
        the ``unit``, how many of them there are, how many photos are ``alone``, having no class,
        and the ``design_effect``.
    """
    classes = len({label for label in labels if isinstance(label, str)})
    effect = None if correlation is None else design_effect(correlation, labels)
    alike = effect is not None and effect > DESIGN_EFFECT and classes >= FEW_CLASSES
    if asked == CLASSES or (asked == AUTO and alike):
        groups = label_groups(labels)
        alone = len(np.unique(groups)) - classes
        facts = {"unit": CLASSES, "units": classes, "alone": alone}
    else:
        groups, facts = None, {"unit": PHOTOS, "units": len(labels), "alone": 0}
    return groups, {**facts, "design_effect": effect}


def repeated_photos(digests: np.ndarray) -> list[str]:
    """A warning of copies that could only be seen once they were measured; empty without any."""
    if not (copies := len(digests) - len(np.unique(digests, axis=0))):
        return []
    return [
        f"Photos with the same bytes as another: {copies} of {len(digests)}. They come from shards "
        "that are streamed, where copies are not looked for beforehand, and count as photos of "
        "their own: intervals are too narrow, retained is too low, and R² too high. With "
        "data.stream=false they are left out."
    ]


COMPARED_PHOTOS = 20_000
"""The number of random photos that are compared, every two of them, to find near copies."""


def near_photos(records: Records, photos: Sequence[Photo]) -> list[str]:
    """A warning of photos that may be near copies of each other, a few of them by name."""
    order = keyed_order(photos, "sample")[:COMPARED_PHOTOS]
    compared = set(order)
    clean: dict[int, np.ndarray] = {}
    for part in records.parts("embeddings"):
        rows = part.embeddings[CLEAN]
        known = zip(part.index.tolist(), rows, has_direction(rows), strict=True)
        clean |= {index: row.copy() for index, row, use in known if use and index in compared}
    listed = [index for index in order if index in clean]
    pairs, near, limit = near_copies(np.array([clean[index] for index in listed]))
    if not near.any():
        return []
    names = "; ".join(
        " and ".join(sorted(photos[listed[one]].id for one in pair)) for pair in pairs
    )
    return [
        f"Photos that may be near copies of another: {near.sum()} of the {len(listed)} that were "
        f"compared, as {names} (1 − cosine of their clean embeddings: below {limit:.2g}). Each "
        "counts as a photo of its own: leave out those that are one photograph."
    ]


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
    groups: np.ndarray | None = None,
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
    low, high = np.clip(mean_interval(both, seed, groups), -1, 1)
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
    growth_low, growth_high = np.maximum(mean_interval(growth, seed, groups), 0)
    null = cka_null(len(cosines))
    # torchmetrics squeezes the values of a single variant.
    names = ("cosine", "patch_cosine", "cka", "cka_biased")
    cosine, patch_cosine, cka, biased = np.array(
        [[of[name].reshape(-1).tolist() for of in made] for name in names]
    )
    tokens = {view: _tokens(measured, photos, view) for view in (CLEAN, *variants)}
    widths = [sums[f"{layer} xx"].shape[0] - 2 for layer in range(len(made))]
    if groups is not None:
        order = order_of_photos(measured, photos)
        groups = groups[np.isin(measured.index[order], list(measured.tokens.get(CLEAN, ())))]
    cka_low, cka_high = cka_intervals(tokens, widths, cka, len(cosines), seed, groups)
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
    groups: np.ndarray | None = None,
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


def outlier_table(
    measured: Measured,
    photos: Sequence[Photo],
    variants: Mapping[str, Variant],
    seed: int,
    groups: np.ndarray | None = None,
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
    low, high = np.clip(mean_interval(values, seed, groups), 0, [np.inf, 1, 1])
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
