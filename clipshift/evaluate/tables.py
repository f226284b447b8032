"""Make the tables and facts of a run from what was measured."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.augment.corruptions import Corruption
from clipshift.augment.matching import Calibration
from clipshift.augment.stored import Stored
from clipshift.augment.variants import Variant
from clipshift.data.photos import Photo
from clipshift.evaluate import gallery
from clipshift.evaluate.calibration import matching_settings, mirrored_photos
from clipshift.evaluate.elasticity import elasticities
from clipshift.evaluate.layers import carried_gaze, layer_table, outlier_table
from clipshift.evaluate.thresholds import threshold_tables
from clipshift.measure.embeddings import QUANTILE_PHOTOS, distance_quantile
from clipshift.measure.facts import Facts, retained_facts
from clipshift.results.columns import DEFINITIONS, ShiftFile, write_shift
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
            with the groups of photos that are resampled whole. They get their columns' order here.
        calibration: Of severity ``matched``, where that is among the run's.
        resample: What is resampled, see `clipshift.results.intervals.resampling`.
    """
    measured, photos, variants, seed = sample.measured, sample.photos, sample.variants, sample.seed
    metric = gallery.clean_spread(records.parts("embeddings"))
    spread = math.nan if metric is None else metric.compute().item()
    of_gallery = gallery.gallery_values(measured, photos)
    in_gallery = len(measured.gallery.get(CLEAN, ()))
    columns = {**columns, "retained": retained_facts(in_gallery)}

    def complete(part: Measured) -> None:
        gallery.add_relative_shift(part, metric)
        gallery.add_of_gallery(part, of_gallery)

    parts = records.sorted_values(measured.index[sample.order], complete)
    rows = (shift_table(part, photos, variants) for part in parts)
    write_whole(folder / SHIFT, lambda path: write_shift(path, rows, columns))
    shift = ShiftFile(folder / SHIFT)
    cosine = "cosine_similarity" in shift
    correlation = label_correlation(shift) if cosine else None
    groups, resampled = resampling(list(labels_of(shift)), correlation, resample)
    sample = replace(sample, groups=groups)
    matching = UNMATCHED
    if calibration:
        elasticity = elasticities(measured, variants, calibration.undistorted)
        matching = matching_of(calibration, elasticity, variants, shift, seed)
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
        "gallery": in_gallery,
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
    tables = {"layers": layer_table(sample, records.sums()), "outliers": outlier_table(sample)}
    tables |= threshold_tables(sample)
    tables |= more_tables(sample) if more_tables else {}  # adds to facts["seconds"]
    tables = {name: of.reindex(columns=list(DEFINITIONS[name])) for name, of in tables.items()}
    derived["notes"] = [
        *facts["notes"],
        *carried_gaze(tables["outliers"], facts["model"]["gaze_layer"]),
        *gallery.alone_in_class(of_gallery, photos),
        *gallery.repeated_photos(measured.digests),
        *gallery.near_photos(records, photos),
    ]
    if len(errors):
        derived["corruption_error"] = shift_and_error(errors, shift, seed)
    return Run(
        folder,
        RunInfo.model_validate({**facts, **derived}),
        dict(columns),
        shift,
        summary,
        *distance_tables(sample),
        ranking,
        correlate(shift, columns) if cosine else pd.DataFrame(),
        corruption_error=errors,
        confidence=confidence_table(FirstDraws(shift.path), seed, groups),
        draws=draw_table(shift, columns, seed, matching, groups),
        skipped=skipped_table(measured, photos),
        dose=dose,
        dose_thresholds=dose_thresholds,
        **tables,
    )


def matching_of(
    calibration: Calibration,
    elasticity: Mapping[str, float],
    variants: Mapping[str, Variant],
    shift: ShiftFile,
    seed: int,
) -> Matching:
    """What intervals of the shift at severity ``matched`` hold as well.

    Args:
        calibration: Of that severity.
        elasticity: Of the shift, by augmentation.
        variants: Augmentations at severities, by view name.
        shift: The file of the run's values.
        seed: The run's seed.
    """
    relative = calibration.relative_distortions()
    # over several draws it is left to chance how many are mirrored
    counted = variants.values() if shift.draws == 1 else ()
    return Matching(
        {name: elasticity.get(name, 1.0) * of for name, of in relative.items()},
        mirrored_photos(counted, list(shift.photos), seed),
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


NEAR = 0.05
"""The quantile of the distances between different clean photos that a shift is compared with."""


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
    listed, clean = gallery.sampled_embeddings(records, sample.photos, QUANTILE_PHOTOS)
    if unchanged is None or "cosine_similarity" not in shift or len(listed) < 3:
        return pd.DataFrame(), pd.DataFrame()
    level, changes = distance_quantile(clean, NEAR)
    influence = pd.Series(changes * len(sample.order) / len(listed), listed)
    influence = influence.reindex(sample.measured.index[sample.order], fill_value=0).to_numpy()
    seed, groups = sample.seed, sample.groups
    return dose_curves(shift, measure, unchanged, level, influence, seed, groups)
