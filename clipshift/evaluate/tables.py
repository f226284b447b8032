"""Make the tables and facts of a run from what was measured."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipshift.augment.corruptions import Corruption
from clipshift.augment.matching import Calibration
from clipshift.augment.stored import Stored
from clipshift.data.photos import Photo, keyed_order
from clipshift.evaluate.calibration import matching_settings, mirrored_photos
from clipshift.evaluate.elasticity import elasticities
from clipshift.evaluate.layers import carried_gaze, layer_table, outlier_table
from clipshift.evaluate.thresholds import threshold_tables
from clipshift.measure.embeddings import (
    QUANTILE_PHOTOS,
    distance_quantile,
    has_direction,
    near_copies,
    neighbour_hit,
    percentile_shift,
)
from clipshift.measure.facts import NEIGHBOUR_VOTES, Facts, retained_facts
from clipshift.measure.functional import retained
from clipshift.measure.metrics import CleanSpread
from clipshift.measure.whitening import whitened_shift
from clipshift.results.columns import ShiftFile, write_shift
from clipshift.results.confidence import confidence_table
from clipshift.results.corruptions import corruption_errors, shift_and_error
from clipshift.results.dose import dose_curves
from clipshift.results.draws import FirstDraws, draw_table
from clipshift.results.files import data_fingerprint, write_whole
from clipshift.results.info import RunInfo
from clipshift.results.intervals import AUTO, intraclass_correlation, resampling
from clipshift.results.kept import SHOWN_PHOTOS
from clipshift.results.matching import UNMATCHED, Matching
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.ranking import correlate, rank_augmentations, ranking_agreement, shown_photos
from clipshift.results.records import Records
from clipshift.results.runs import SHIFT, Run
from clipshift.results.table import (
    PhotoSample,
    Shift,
    by_photo,
    distance_tables,
    labels_of,
    shift_table,
    skipped_table,
    summarize,
)
from clipshift.severities import MATCHED, PAPER


def make_run(
    folder: Path,
    sample: PhotoSample,
    records: Records,
    columns: Mapping[str, Facts],
    facts: Mapping[str, Any],
    more_tables: Callable[[PhotoSample], Mapping[str, pd.DataFrame]] | None = None,
    calibration: Calibration | None = None,
    resample: str = AUTO,
) -> Run:
    """Make the tables of a run, and the facts that follow from what was measured.

    Writes ``shift.parquet`` first: all other tables are made of its columns, one at a time.

    Args:
        folder: The run's folder.
        sample: What was measured, but for the values, which are not all held at once. Its groups
            are not read: they follow from ``resample``.
        records: Where the values are, and the layers' sums.
        columns: What the measured columns mean.
        facts: What else is known of the run; ``data`` and others are added.
        more_tables: Makes those of embeddings and texts, by their names in `Run`, of the sample
            with the groups of photos that are resampled whole.
        calibration: Of severity ``matched``, where that is among the run's.
        resample: What is resampled, see `clipshift.results.intervals.resampling`.
    """
    measured, photos, variants, seed = sample.measured, sample.photos, sample.variants, sample.seed
    metric = clean_spread(records.parts("embeddings"))
    spread = math.nan if metric is None else metric.compute().item()
    of_gallery = gallery_values(measured, photos)
    gallery = len(measured.gallery.get(CLEAN, ()))
    columns = {**columns, "retained": retained_facts(gallery)}

    def complete(part: Measured) -> None:
        add_relative_shift(part, metric)
        add_of_gallery(part, of_gallery)

    parts = records.sorted_values(measured.index[sample.order], complete)
    tables = (shift_table(part, photos, variants) for part in parts)
    write_whole(folder / SHIFT, lambda path: write_shift(path, tables, columns))
    shift = ShiftFile(folder / SHIFT)
    cosine = "cosine_similarity" in shift
    correlation = label_correlation(shift) if cosine else None
    groups, resampled = resampling(list(labels_of(shift)), correlation, resample)
    sample = replace(sample, groups=groups)
    matching, elasticity = UNMATCHED, {}
    if calibration:
        elasticity = elasticities(measured, variants, calibration.undistorted)
        relative = calibration.relative_distortions()
        matching = Matching(
            {name: elasticity.get(name, 1.0) * of for name, of in relative.items()},
            # over several draws it is left to chance how many are mirrored
            mirrored_photos(
                variants.values() if shift.draws == 1 else (), list(shift.photos), seed
            ),
        )
    summary = summarize(shift, columns, seed, matching, groups)
    kinds = Stored | Corruption
    corruptions = {v.name for v in variants.values() if isinstance(v.augmentation, kinds)}
    errors = corruption_errors(summary, sorted(corruptions))
    several = len(measured.index) > 1 and len(shift.variants.unique("augmentation")) > 1
    both = cosine and several and {PAPER, MATCHED} <= set(shift.variants.unique("severity"))
    derived: dict[str, Any] = {
        "data": facts["data"] | data_facts(measured, photos, shown_photos(shift, SHOWN_PHOTOS)),
        "spread": None if math.isnan(spread) else spread,
        "collapsed": math.isnan(spread) and bool((measured.digests != measured.digests[:1]).any()),
        "strengths": {name: variant.strength for name, variant in variants.items()},
        "gallery": gallery,
        "distortion": realised_distortion(summary),
        "intraclass_correlation": correlation,
        "resampled": resampled,
    }
    if both:
        agreement = ranking_agreement(shift, (PAPER, MATCHED), seed, matching, groups)
        values = [None if math.isnan(value) else value for value in agreement]
        names = ("tau", "ci_low", "ci_high")
        derived["paper_and_matched"] = dict(zip(names, values, strict=True))
    if calibration:
        derived["matching"] = matching_settings(calibration) | {"elasticity": elasticity}
    ranking = rank_augmentations(shift, seed, matching, groups) if cosine else pd.DataFrame()
    if calibration and len(ranking):
        ranking = with_distortion(ranking, summary, calibration.distortion)
    dosed_by = calibration.distortion if calibration and calibration.distortion in shift else "ssim"
    dose, dose_thresholds = dose_tables(shift, sample, records, columns, dosed_by)
    outliers = outlier_table(sample)
    derived["notes"] = [
        *facts["notes"],
        *carried_gaze(outliers, facts["model"]["gaze_layer"]),
        *alone_in_class(of_gallery, photos),
        *repeated_photos(measured.digests),
        *near_photos(records, photos),
    ]
    if len(errors):
        derived["corruption_error"] = shift_and_error(errors, shift, seed)
    more = threshold_tables(sample)
    more |= more_tables(sample) if more_tables else {}  # adds to facts["seconds"]
    return Run(
        folder,
        RunInfo.model_validate({**facts, **derived}),
        dict(columns),
        shift,
        summary,
        *distance_tables(sample),
        ranking,
        correlate(shift, columns) if cosine else pd.DataFrame(),
        layer_table(sample, records.sums()),
        outliers,
        errors,
        confidence=confidence_table(FirstDraws(shift.path), seed, groups),
        draws=draw_table(shift, columns, seed, matching, groups),
        skipped=skipped_table(measured, photos),
        dose=dose,
        dose_thresholds=dose_thresholds,
        **more,
    )


def data_facts(
    measured: Measured, photos: Sequence[Photo], shown: Collection[str]
) -> dict[str, Any]:
    """What ``run.json`` says of the photos: how many, and the SHA-256 of their files.

    Args:
        measured: What was measured.
        photos: The run's photos.
        shown: Ids of the photos whose own SHA-256 are kept, to show their pictures later.
    """
    ids = [photos[index].id for index in measured.index]
    digests = list(zip(ids, map(bytes, measured.digests), strict=True))
    facts = {
        "fingerprint": data_fingerprint(digests),
        "photos": len(ids),
        "skipped": len(measured.skipped),
        "shown_sha256": {photo: digest.hex() for photo, digest in digests if photo in shown},
    }
    if measured.stored is None:
        return facts
    stored = zip(ids, map(bytes, measured.stored), strict=True)
    return facts | {"stored_fingerprint": data_fingerprint(stored)}


def with_distortion(ranking: pd.DataFrame, summary: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A ranking with the mean ``distortion`` of the photos and its 95 % interval.

    Args:
        ranking: From `clipshift.results.ranking.rank_augmentations`.
        summary: From `clipshift.results.table.summarize`.
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
    distortions: dict[str, dict[str, dict[str, float]]] = {}
    for row in summary[summary["measure"].isin(["rmse", "ssim"])].itertuples():
        by_severity = distortions.setdefault(row.augmentation, {})
        by_severity.setdefault(row.severity, {})[row.measure] = row.mean
    return distortions


def label_correlation(shift: Shift) -> float | None:
    """How alike the mean shifts of photos of one label are; None where that cannot be said."""
    means = by_photo(shift, "cosine_similarity").mean(axis=1).to_numpy()
    correlation = intraclass_correlation(means, list(labels_of(shift)))
    return None if math.isnan(correlation) else correlation


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


NEAR = 0.05
"""The quantile of the distances between different clean photos that a shift is compared with."""
COMPARED_PHOTOS = 20_000
"""The number of random photos that are compared, every two of them, to find near copies."""


def near_photos(records: Records, photos: Sequence[Photo]) -> list[str]:
    """A warning of photos that may be near copies of each other, a few of them by name."""
    listed, clean = sampled_embeddings(records, photos, COMPARED_PHOTOS)
    pairs, near, limit = near_copies(clean)
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


def sampled_embeddings(
    records: Records, photos: Sequence[Photo], count: int
) -> tuple[list[int], np.ndarray]:
    """Random photos in random order, by their indices, and their clean embeddings, (N, D).

    Those that were not measured, or have no direction, are left out.
    """
    order = keyed_order(photos, "sample")[:count]
    chosen = set(order)
    clean: dict[int, np.ndarray] = {}
    for part in records.parts("embeddings"):
        rows = part.embeddings[CLEAN]
        candidates = zip(part.index.tolist(), rows, has_direction(rows), strict=True)
        clean |= {index: row.copy() for index, row, use in candidates if use and index in chosen}
    listed = [index for index in order if index in clean]
    return listed, np.array([clean[index] for index in listed])


def dose_tables(
    shift: Shift, sample: PhotoSample, records: Records, columns: Mapping[str, Facts], measure: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The shift against the distortion, see `clipshift.results.dose.dose_curves`.

    Args:
        shift: The file of the run's values.
        sample: What was measured.
        records: Where the clean embeddings are.
        columns: What the measured columns mean.
        measure: The measure of distortion.

    Returns:
        Empty where it, or the shift, was not measured, or no augmentation has two severities.
    """
    unchanged = columns[measure].unchanged if measure in shift else None
    listed, clean = sampled_embeddings(records, sample.photos, QUANTILE_PHOTOS)
    if unchanged is None or "cosine_similarity" not in shift or len(listed) < 3:
        return pd.DataFrame(), pd.DataFrame()
    level, changes = distance_quantile(clean, NEAR)
    influence = pd.Series(changes * len(sample.order) / len(listed), listed)
    influence = influence.reindex(sample.measured.index[sample.order], fill_value=0).to_numpy()
    seed, groups = sample.seed, sample.groups
    return dose_curves(shift, measure, unchanged, level, influence, seed, groups)


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


OfGallery = dict[tuple[str, str], dict[int, float]]
"""Values of the gallery's photos alone: by variant and measure, and by the photo's index."""


def gallery_values(measured: Measured, photos: Sequence[Photo]) -> OfGallery:
    """How far views move among the gallery, which find their own photo, and what neighbours vote.

    Empty for a gallery of fewer than two photos; without those of `NEIGHBOUR_VOTES` that no photo
    has a value of.
    """
    indices = sorted(measured.gallery.get(CLEAN, ()))
    if len(indices) < 2:
        return {}
    views = {name: np.stack([of[i] for i in indices]) for name, of in measured.gallery.items()}
    clean = views.pop(CLEAN)
    classes = pd.factorize(np.array([photos[index].label for index in indices], object))[0]
    values = shifts_in_gallery(views, clean, [photos[index] for index in indices])
    values |= {
        (name, "retained"): retained(torch.from_numpy(view), torch.from_numpy(clean)).numpy()
        for name, view in views.items()
    }
    for column, k in NEIGHBOUR_VOTES.items():
        hits = neighbour_hit(clean, clean, classes, k)
        if np.isfinite(hits).any():
            for name, view in views.items():
                values[name, f"{column}_clean"] = hits
                values[name, column] = neighbour_hit(view, clean, classes, k)
    return {key: dict(zip(indices, of.tolist(), strict=True)) for key, of in values.items()}


def shifts_in_gallery(
    views: Mapping[str, np.ndarray], clean: np.ndarray, photos: Sequence[Photo]
) -> dict[tuple[str, str], np.ndarray]:
    """``percentile_shift`` and ``whitened_shift`` of every view of the gallery's photos.

    Args:
        views: Embeddings by variant, shape (N, D).
        clean: Those of the clean views.
        photos: The gallery's photos, in the same order.
    """
    places = np.argsort(keyed_order(photos, "folds"))
    whitened = whitened_shift(list(views.values()), clean, places)
    values = {(name, "percentile_shift"): percentile_shift(of, clean) for name, of in views.items()}
    return values | {(n, "whitened_shift"): of for n, of in zip(views, whitened, strict=True)}


def alone_in_class(values: OfGallery, photos: Sequence[Photo]) -> list[str]:
    """A note of labelled photos without a nearest-neighbour accuracy; empty without any."""
    hits = next((of for (_, column), of in values.items() if column == "neighbour_top1_clean"), {})
    alone = [math.isnan(hit) for index, hit in hits.items() if photos[index].label is not None]
    if not any(alone):
        return []
    return [
        f"Photos whose class has no other photo in the gallery: {sum(alone)} of {len(alone)}. "
        "They have no nearest-neighbour accuracy."
    ]


def add_of_gallery(measured: Measured, values: OfGallery) -> None:
    """Add the values of the gallery's photos; NaN for the others."""
    for key, photos in values.items():
        rows = [photos.get(index, math.nan) for index in measured.index.tolist()]
        measured.values[key] = np.array(rows)
