"""Encoded or destroyed (``dissect=true``): what was drawn, and what embeddings still say of it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from clipshift.augment.keyed import draw
from clipshift.augment.stored import Stored
from clipshift.augment.variants import Variant
from clipshift.data.photos import Photo, keyed_order
from clipshift.evaluate.estimates import Row, estimate_table
from clipshift.measure.embeddings import FOLDS, MOVED, displacements, has_direction, units
from clipshift.measure.probing import probe_values, ridge_predictions
from clipshift.results.intervals import ratio_values
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL

LEAST_PHOTOS = 50
"""Of fewer photos there are no probes: intervals of R² of 30 cover 87 %, of 10 72 %."""
PROBED_PHOTOS = 1000
"""The most photos of the gallery that probes are fitted to and tested on."""
NUMBERS = 16
"""Drawn tensors with more numbers than this, as fields of noise, are left out."""
SHUFFLES = 5
"""How often kinds of views, or draws, are shuffled for the null."""


def encoded_table(sample: PhotoSample, size: int) -> pd.DataFrame:
    """How shifts follow from draws, and what embeddings tell of augmentations and draws.

    Measured on the gallery's photos whose embeddings all have a direction, at most `PROBED_PHOTOS`;
    empty for fewer than `LEAST_PHOTOS`. All is cross-validated over photos, in `FOLDS` folds;
    ``null`` is the mean of the same with kinds of views shuffled within photos, or draws among
    photos. Intervals are over photos, with the probes as they were fitted: they are of what these
    come to on new photos (Bayle et al., "Cross-validation confidence intervals for test error",
    2020).

    Args:
        sample: What was measured, the gallery's embeddings among it.
        size: Side of the views, in pixels.
    """
    names, gallery = (CLEAN, *sample.variants), sample.measured.gallery
    at_random = [n for n in keyed_order(sample.photos, "sample") if n in gallery.get(CLEAN, ())]
    views = {n: np.array([gallery[n][k] for k in at_random[:PROBED_PHOTOS]]) for n in names}
    usable = np.all([has_direction(of) for of in views.values()], axis=0)
    index = np.array(at_random[:PROBED_PHOTOS])[usable]
    if len(index) < LEAST_PHOTOS or not sample.variants:
        return pd.DataFrame()
    sample = replace(sample, measured=Measured(index=index), groups=sample.groups_of(index))
    views = {name: of[usable][sample.order] for name, of in views.items()}
    folds = np.argsort(keyed_order(sample.listed, "folds")) % FOLDS
    rows = [*_told_apart(views, sample, folds), *_explained(views, sample, folds, size)]
    return estimate_table("encoded", rows, sample)


def _row(name: str, severity: str, measure: str, values: np.ndarray, null: float) -> Row:
    """A row of what each photo adds to its mean, (N,)."""
    cells = name, severity, measure, values.mean(), null, len(values)
    every = np.ones(len(values), bool)
    if measure in ("read_off", "auroc"):
        return Row(cells, every, values, (0, 1), "unit")
    learnt = np.ptp(values) != 0
    return Row(cells, every, values, (-np.inf, 1), "mean" if learnt else "")


def _told_apart(
    views: Mapping[str, np.ndarray], sample: PhotoSample, folds: np.ndarray
) -> Iterator[Row]:
    """Rows of ``read_off`` and ``auroc``: the kind of a view, told from its embedding alone."""
    for severity in dict.fromkeys(variant.severity for variant in sample.variants.values()):
        names = {view: v.name for view, v in sample.variants.items() if v.severity == severity}
        every = np.stack([units(views[name]) for name in (CLEAN, *names)])
        order = np.tile(np.arange(len(every))[:, None], len(folds))
        rng = np.random.default_rng([sample.seed, len(every)])
        orders = np.stack([order, *(rng.permuted(order, axis=0) for _ in range(SHUFFLES))])
        hits, areas = probe_values(every, orders, folds)
        yield _row(ALL, severity, "read_off", hits[0].mean(axis=0), hits[1:].mean())
        for kind, name in enumerate([CLEAN, *names.values()]):
            yield _row(name, severity, "read_off", hits[0, kind], hits[1:, kind].mean())
            if kind:
                yield _row(name, severity, "auroc", areas[0, kind], areas[1:, kind].mean())


def _explained(
    views: Mapping[str, np.ndarray], sample: PhotoSample, folds: np.ndarray, size: int
) -> Iterator[Row]:
    """Rows of ``predicted_by_draws`` and ``draw:…``: R² over photos."""
    by_name = {variant.name: variant for variant in sample.variants.values()}
    draws = {name: drawn_numbers(variant, sample, size) for name, variant in by_name.items()}
    for view, variant in sample.variants.items():
        table = draws[variant.name]
        if len(table.columns):
            drawn, moves = table.to_numpy(), displacements(views[view], views[CLEAN])
            results = [
                *r_squared(with_squares(drawn), moves, folds, sample.seed, together=True),
                *r_squared(units(views[view]), drawn, folds, sample.seed),
            ]
            measures = ["predicted_by_draws", *(f"draw:{number}" for number in table)]
            for measure, result in zip(measures, results, strict=True):
                yield _row(variant.name, variant.severity, measure, *result)


def drawn_numbers(variant: Variant, sample: PhotoSample, size: int) -> pd.DataFrame:
    """The numbers that were drawn for each photo, one column each, photos in the order of ids.

    Left out are tensors of more than `NUMBERS`, seeds, which only lead to numbers, and what is the
    same for all photos. The numbers of a vector are counted from 1.

    Args:
        variant: Whose draws; stored corruptions have none.
        sample: The photos.
        size: Side of the views, in pixels.
    """

    def drawn(photo: Photo) -> dict[str, float]:
        tensors = draw(variant.augmentation, sample.seed, photo.id, variant.name, size)
        return {
            f"{name} {place}" if tensor.numel() > 1 else name: number
            for name, tensor in tensors.items()
            if tensor.numel() <= NUMBERS and not name.endswith("seed")
            for place, number in enumerate(tensor.flatten().tolist(), start=1)
        }

    photos = sample.listed
    if isinstance(variant.augmentation, Stored) or not drawn(photos[0]):
        return pd.DataFrame(index=range(len(photos)))
    table = pd.DataFrame([drawn(photo) for photo in photos], dtype=float)
    return table.loc[:, np.isfinite(table).all() & (table.nunique() > 1)]


def with_squares(drawn: np.ndarray) -> np.ndarray:
    """Standardised numbers and their squares, standardised as well: (N, P) → (N, 2 P)."""

    def standardised(columns: np.ndarray) -> np.ndarray:
        centred = columns - columns.mean(axis=0)
        return np.asarray(centred / centred.std(axis=0).clip(min=MOVED))

    numbers = standardised(drawn)
    return np.hstack([numbers, standardised(np.square(numbers))])


def r_squared(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int, together: bool = False
) -> list[tuple[np.ndarray, float]]:
    """The R² of each column of y from x on photos not fitted to: what photos add to it, and null.

    Args:
        x: Shape (N, D).
        y: Shape (N, T).
        folds: The fold of each photo, integers, shape (N,).
        seed: Of the shuffling.
        together: Whether there is one R², of all columns of y.

    Returns:
        By column, values of photos whose mean is R², (N,), NaN where y does not vary; and the mean
        R² where y is shuffled among photos.
    """
    rng = np.random.default_rng([seed, len(y)])
    targets = np.stack([y, *(rng.permutation(y) for _ in range(SHUFFLES))])
    squares = [np.square(targets - of) for of in ridge_predictions(x, targets, folds, together)]
    errors, spread = [of.sum(axis=2, keepdims=True) if together else of for of in squares]
    with np.errstate(invalid="ignore", divide="ignore"):
        null = 1 - errors[1:].sum(axis=1) / spread[1:].sum(axis=1)
    pairs = zip(errors[0].T, spread[0].T, null.mean(axis=0), strict=True)
    return [(1 - ratio_values(error, of), shuffled) for error, of, shuffled in pairs]
