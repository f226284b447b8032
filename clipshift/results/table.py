"""The tables of a run: one row per photo and variant, and means over photos with intervals."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd

from clipshift.augment.variants import Variant
from clipshift.data.photos import Photo
from clipshift.measure.facts import Facts
from clipshift.results.columns import DEFINITIONS, DRAW, KEYS, ShiftFile
from clipshift.results.intervals import (
    mean_interval,
    relative_shift_values,
    share_interval,
    studentize,
)
from clipshift.results.matching import UNMATCHED, Matching
from clipshift.results.measured import CLEAN, Measured

COLUMNS_PER_CHUNK = 27
"""The number of columns that are resampled together, three measures under nine augmentations: more
take more memory, and fewer draw the resamples more often."""
SHIFTS = {"cosine_similarity": 1.0, "relative_shift": 0.0}
"""The measures that are the shift, and their values of no change."""
Shift: TypeAlias = pd.DataFrame | ShiftFile
"""A table of `shift_table`, or the file that holds it, of which a column is read at a time."""


@dataclass(frozen=True)
class PhotoSample:
    """What was measured of a sample of photos, and how intervals resample them.

    Attributes:
        measured: What was measured.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.
        seed: Seed of the resampling.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.
    """

    measured: Measured
    photos: Sequence[Photo]
    variants: Mapping[str, Variant]
    seed: int
    groups: np.ndarray | None = None

    @cached_property
    def order(self) -> np.ndarray:
        """The rows of what was measured in the order of photo ids, in which tables have them."""
        ids = np.array([self.photos[index].id for index in self.measured.index], object)
        return np.argsort(ids, kind="stable")

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The embeddings that were kept, by view, rows in the order of ids."""
        return {view: rows[self.order] for view, rows in self.measured.embeddings.items()}

    @property
    def listed(self) -> list[Photo]:
        """The measured photos in the order of ids."""
        return [self.photos[self.measured.index[row]] for row in self.order]

    def by_id(self, photos: Iterable[int]) -> list[int]:
        """Indices of photos in the order of their ids."""
        return sorted(photos, key=lambda index: self.photos[index].id)

    @property
    def views(self) -> list[tuple[str, str, str]]:
        """Each view's name, augmentation and severity: the clean ones at every severity first."""
        views = [(view, v.name, v.severity) for view, v in self.variants.items()]
        return [*dict.fromkeys((CLEAN, CLEAN, severity) for *_, severity in views), *views]

    def groups_of(self, photos: Collection[int]) -> np.ndarray | None:
        """The groups of some photos, by their indices, in the order of ids."""
        if self.groups is None:
            return None
        return self.groups[np.isin(self.measured.index[self.order], list(photos))]

    def mean_interval(
        self, values: np.ndarray, photos: Collection[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ends of `clipshift.results.intervals.mean_interval` of photos' values.

        Args:
            values: Photos in the order of ids.
            photos: The indices of those photos; None: all.
        """
        groups = self.groups if photos is None else self.groups_of(photos)
        return mean_interval(values, self.seed, groups)


def shift_table(
    measured: Measured, photos: Sequence[Photo], variants: Mapping[str, Variant]
) -> pd.DataFrame:
    """One row per photo and variant, in an order that does not depend on how they were measured.

    Args:
        measured: What was measured; of several draws, all of one before those of the next.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.

    Returns:
        Columns ``photo, label, augmentation, severity``, with several draws ``draw``, and one per
        measure; sorted by photo id, and within a photo by draw, in the order of the run's variants.
    """
    names = list(dict.fromkeys(name for name, _ in measured.values))
    draws = max(1, len(names) // (len(variants) or 1))
    first = [variants[name] for name in names[: len(names) // draws]]
    measures = list(dict.fromkeys(measure for _, measure in measured.values))
    if not names:
        return pd.DataFrame(columns=list(KEYS))
    sample = PhotoSample(measured, photos, variants, 0)
    order, listed = sample.order, sample.listed
    columns: dict[str, np.ndarray] = {
        "photo": np.repeat([photo.id for photo in listed], len(names)),
        "label": np.repeat(np.array([photo.label for photo in listed], object), len(names)),
        "augmentation": np.tile([one.name for one in first], draws * len(listed)),
        "severity": np.tile([one.severity for one in first], draws * len(listed)),
    }
    if draws > 1:
        columns[DRAW] = np.tile(np.repeat(np.arange(1, draws + 1), len(first)), len(listed))
    for measure in measures:
        values = [np.asarray(measured.values[name, measure])[order] for name in names]
        columns[measure] = np.stack(values, axis=1).ravel()
    table = pd.DataFrame(columns)
    return table.astype({name: "str" for name in KEYS if name != "label"})


def mean_over_draws(shift: pd.DataFrame) -> pd.DataFrame:
    """A table of `shift_table` with a row per photo and variant, its mean over several draws."""
    if DRAW not in shift:
        return shift
    keys = [name for name in KEYS if name in shift]
    means = shift.drop(columns=DRAW).groupby(keys, sort=False, dropna=False).mean()
    return means.reset_index()


def by_photo(shift: Shift, measure: str) -> pd.DataFrame:
    """A measure: one row per photo in the order of ids, one column per variant, float64.

    Of several draws, a photo's mean over its draws that have a value.

    Args:
        shift: From `shift_table`, or its file. Where a photo lacks a row, it has no value.
        measure: Which.

    Returns:
        Its index holds the photos, its columns augmentation and severity.
    """
    if isinstance(shift, ShiftFile):
        return shift.by_photo(measure)
    shift, variants = mean_over_draws(shift), variants_of(shift)
    table = shift.pivot(index="photo", columns=list(variants.names), values=measure)
    return table.astype(float)[variants]


def variants_of(shift: Shift) -> pd.MultiIndex:
    """Augmentation and severity of every variant in a table of `shift_table`, or its file."""
    if isinstance(shift, ShiftFile):
        return shift.variants
    return pd.MultiIndex.from_frame(shift[["augmentation", "severity"]].drop_duplicates())


def labels_of(shift: Shift) -> pd.Series:
    """The photos' labels, by id in the order of ids."""
    if isinstance(shift, ShiftFile):
        return shift.labels
    return shift.drop_duplicates("photo").set_index("photo")["label"].sort_index()


def summarize(
    shift: Shift,
    columns: Mapping[str, Facts],
    seed: int,
    matching: Matching = UNMATCHED,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Means over photos with 95 % intervals of the measure's kind.

    Shares have `share_interval`, all others `mean_interval`, cut off at the measure's range; that
    of ``relative_shift`` lets the spread vary (`relative_shift_values`).

    Args:
        shift: From `shift_table`, or its file.
        columns: What the measured columns are. Those of which more is neither better nor worse, as
            a photo's brightness, are no measures.
        seed: Seed of the resampling.
        matching: What intervals of `SHIFTS` at severity ``matched`` hold as well.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.

    Returns:
        One row per (augmentation, severity, measure): ``mean``, ``std`` (of a photo, N − 1),
        ``ci_low``, ``ci_high`` and ``n``, the number of photos with a value.
    """
    measures = [name for name in shift if name in columns and columns[name].better]
    resampled = [name for name in measures if not columns[name].is_share]
    shape, variants = (0, 1), []
    if resampled:
        first = by_photo(shift, resampled[0])
        shape, variants = first.shape, list(first.columns)
    step = max(1, COLUMNS_PER_CHUNK // shape[1])
    ends: dict[str, np.ndarray] = {}
    for chosen in (resampled[start : start + step] for start in range(0, len(resampled), step)):
        every = [variant for _ in chosen for variant in variants]
        values = np.empty((shape[0], len(every)))
        for place, measure in enumerate(chosen):
            added = influences(shift, measure).to_numpy()
            values[:, place * shape[1] : (place + 1) * shape[1]] = added
        values = matching.stratified(values, every)
        means = studentize(values, seed, groups=groups)
        of_shifts = np.repeat([name in SHIFTS for name in chosen], len(variants))
        unchanged = np.repeat([SHIFTS.get(name, 0.0) for name in chosen], len(variants))
        moved = np.where(of_shifts, means.mean - unchanged, 0)
        low_high = matching.widened(means, moved, every, seed).interval()
        ends |= dict(zip(chosen, np.split(np.stack(low_high), len(chosen), axis=1), strict=True))
    parts = []
    for name in measures:
        values = by_photo(shift, name)
        if columns[name].is_share:
            shares = [share_interval(column.to_numpy(), groups) for _, column in values.items()]
            ends[name] = np.transpose(shares)
        low, high = np.clip(ends[name], columns[name].low, columns[name].high)
        statistics = {
            "mean": values.mean().to_numpy(),
            "std": values.std(ddof=1).to_numpy(),
            "ci_low": low,
            "ci_high": high,
            "n": values.count().to_numpy(),
        }
        variant = values.columns.to_frame(index=False)
        parts.append(variant.assign(measure=name, **statistics))
    if not parts:
        return pd.DataFrame(columns=list(DEFINITIONS["summary"]))
    return pd.concat(parts).sort_index(kind="stable", ignore_index=True)


def influences(shift: Shift, measure: str) -> pd.DataFrame:
    """What each photo adds to a mean: its value, but for a relative shift `relative_shift_values`.

    Args:
        shift: From `shift_table`, or its file.
        measure: Which.

    Returns:
        As of `by_photo`.
    """
    values = by_photo(shift, measure)
    if measure == "relative_shift":
        others = by_photo(shift, "distance_to_others")
        for variant in values:
            pair = values[variant].to_numpy(), others[variant].to_numpy()
            values[variant] = relative_shift_values(*pair)
    return values


def distance_tables(sample: PhotoSample) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean distances between the views of one photo under every two variants, and their intervals.

    Args:
        sample: What was measured, under K variants.

    Returns:
        The means and the ends of their 95 % intervals (`mean_interval`), low and high, each K × K
        with names; zero on the diagonal.
    """
    names, order = list(sample.variants), sample.order
    upper = np.triu_indices(len(names), 1)
    pairs = len(upper[0])
    values = sample.measured.distances[order] if len(order) else np.empty((0, pairs), np.float32)

    def table(ends: np.ndarray) -> pd.DataFrame:
        matrix = np.zeros((len(names), len(names)))
        matrix[upper] = ends
        return pd.DataFrame(matrix + matrix.T, pd.Index(names, name="augmentation"), names)

    means = np.nanmean(values, axis=0, dtype=float) if len(order) else np.full(pairs, np.nan)
    low, high = np.clip(sample.mean_interval(values), 0, 2)
    return table(means), table(low), table(high)


def pivot(summary: pd.DataFrame, column: str = "mean") -> pd.DataFrame:
    """One column of a summary as a matrix: one row per augmentation, one column per measure."""
    matrix = summary.pivot(index="augmentation", columns="measure", values=column)
    return matrix.loc[summary["augmentation"].unique(), summary["measure"].unique()]


def skipped_table(measured: Measured, photos: Sequence[Photo]) -> pd.DataFrame:
    """One row per photo that could not be read: ``photo``, ``reason``."""
    rows = sorted((photos[skipped.index].id, skipped.reason) for skipped in measured.skipped)
    return pd.DataFrame(rows, columns=["photo", "reason"])
