"""What augmentations do inside the space of embeddings, as tables with intervals and nulls."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import ttest_1samp

from clipshift.augment.variants import Variant
from clipshift.data.photos import Photo, keyed_order
from clipshift.encode.texts import Vocabulary
from clipshift.measure.embeddings import (
    FLIPS,
    FOLDS,
    NEIGHBOURS,
    alignment,
    closeness,
    common_share,
    contraction,
    direction,
    direction_cosine,
    displacements,
    effective_rank,
    flipped_directions,
    has_direction,
    hubness,
    neighbours_kept,
    remove_contraction,
    undoing_errors,
    unit_steps,
    units,
    with_others,
)
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import (
    cosine_values,
    holm,
    mean_interval,
    pair_values,
    ratio_values,
)
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import order_of_photos

NAMED = 10
"""How many texts are listed that a view gains most, and how many that it loses most."""

Embeddings = Mapping[str, np.ndarray]
"""By view, ``clean`` among them; rows in the order of photo ids, shape (N, D)."""


def inside_tables(
    measured: Measured,
    photos: Sequence[Photo],
    variants: Mapping[str, Variant],
    seed: int,
    vocabularies: Mapping[str, Vocabulary] | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, pd.DataFrame]:
    """The tables of what happens to the embeddings.

    Args:
        measured: What was measured, all embeddings among it.
        photos: The run's photos.
        variants: Augmentations at severities, by view name.
        seed: Of all resampling and of the nulls.
        vocabularies: Texts by the name of their list, to name what views move towards.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.

    Returns:
        ``directions``, ``direction_cosines``, ``undone``, ``neighbourhoods`` and ``named``, as
        `clipshift.results.runs.Run` describes them.
    """
    order = order_of_photos(measured, photos)
    embeddings = {view: rows[order] for view, rows in measured.embeddings.items()}
    listed = [photos[int(measured.index[row])] for row in order]
    folds = np.empty(len(listed), int)
    folds[keyed_order(listed, "folds")] = np.arange(len(listed)) % FOLDS
    return {
        "directions": directions_table(embeddings, variants, seed, groups),
        "direction_cosines": direction_cosines_table(embeddings, variants, seed, groups),
        "undone": undone_table(embeddings, variants, folds, seed, groups),
        "neighbourhoods": neighbourhoods_table(embeddings, variants, seed, groups),
        "named": named_table(embeddings, variants, vocabularies or {}, seed, groups),
    }


def directions_table(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Whether every photo is moved the same way: one row per augmentation and severity.

    The interval of ``direction`` is that of its square, a mean over pairs of photos, and those of
    ``share`` and ``contraction`` are those of ratios of means (`pair_values`, `ratio_values`).
    """
    rows, columns = [], []
    for name, variant in variants.items():
        usable, moves, clean = _displacements(embeddings, name)
        steps, moved = unit_steps(moves, clean)
        values = np.full((3, len(usable)), np.nan)
        length = null = p = share = nearer = np.nan
        if moved.sum() > 1:
            values[0, np.flatnonzero(usable)[moved]] = pair_values(with_others(steps, steps))
            common = remove_contraction(moves, clean)
            energy = np.square(moves).sum(axis=1)
            values[1, usable] = ratio_values(pair_values(with_others(common, common)), energy)
            length, share = direction(steps), common_share(moves, clean)
            nearer = contraction(moves, clean)
            if not np.isnan(nearer):
                apart = pair_values(1 - with_others(clean, clean))
                values[2, usable] = ratio_values(pair_values(with_others(moves, clean)), apart)
            flipped = flipped_directions(steps, seed)
            null = float(np.quantile(flipped, 0.95))
            p = float((1 + (flipped >= length).sum()) / (1 + FLIPS))
        columns.append(values)
        rows.append(
            (variant.name, variant.severity, length, null, p, share, nearer, int(moved.sum()))
        )
    names = ["augmentation", "severity", "direction", "null", "p", "share", "contraction", "n"]
    table = pd.DataFrame(rows, columns=names)
    low, high = mean_interval(np.transpose(columns, (2, 0, 1)), seed, groups)
    table = table.assign(
        ci_low=np.sqrt(low[:, 0].clip(0, 1)),
        ci_high=np.sqrt(high[:, 0].clip(0, 1)),
        p_holm=table.groupby("severity")["p"].transform(lambda p: holm(p.to_numpy())),
        share_low=low[:, 1].clip(0, 1),
        share_high=high[:, 1].clip(0, 1),
        contraction_low=low[:, 2],
        contraction_high=high[:, 2].clip(max=1),
    )
    return table[list(DEFINITIONS["directions"])]


def direction_cosines_table(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Which augmentations share a direction: one row per two augmentations of one severity.

    The interval is that of a mean over photos to first order (`pair_values`, `cosine_values`).
    """
    rows, columns = [], []
    for severity in dict.fromkeys(variant.severity for variant in variants.values()):
        views = [name for name, variant in variants.items() if variant.severity == severity]
        for pair in combinations(views, 2):
            usable = np.all([_usable(embeddings, name) for name in pair], axis=0)
            clean = units(embeddings[CLEAN][usable])
            first, second = (
                remove_contraction(units(embeddings[name][usable]) - clean, clean) for name in pair
            )
            values = np.full(len(usable), np.nan)
            cosine = direction_cosine(first, second) if usable.sum() > 1 else np.nan
            if not np.isnan(cosine):
                pairs = ((first, second), (first, first), (second, second))
                products = [pair_values(with_others(*of)) for of in pairs]
                values[usable] = cosine_values(*products)
            columns.append(values)
            names = [variants[name].name for name in pair]
            rows.append((severity, *names, cosine, int(usable.sum())))
    return _with_interval("direction_cosines", rows, columns, (-1, 1), seed, groups)


def undone_table(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    folds: np.ndarray,
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """How far a map back undoes the shift: one row per augmentation, severity and method.

    The interval is over photos, with the maps as they were made (`ratio_values`): that a map made
    of other photos would be another one is not in it.
    """
    rows, columns = [], []
    for name, variant in variants.items():
        usable = _usable(embeddings, name)
        if usable.sum() < 2 * FOLDS:
            continue
        errors, spread = undoing_errors(
            embeddings[name][usable], embeddings[CLEAN][usable], folds[usable]
        )
        for method, error in errors.items():
            values = np.full(len(usable), np.nan)
            values[usable] = 1 - ratio_values(error, spread)
            columns.append(values)
            rows.append(
                (variant.name, variant.severity, method, np.nanmean(values), int(usable.sum()))
            )
    return _with_interval("undone", rows, columns, (-np.inf, 1), seed, groups)


def neighbourhoods_table(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """What becomes of the neighbourhoods: one row per augmentation, severity and measure.

    ``neighbours_kept`` is a mean over photos among the neighbours at hand, ``alignment`` a mean
    over photos, ``uniformity`` and its change are logarithms of means over pairs (`pair_values`).
    The effective rank and the hubness have no interval: in a resample photos are their own
    neighbours, and use fewer dimensions.
    """
    rows, columns = [], []
    of_clean: dict[bytes, tuple[float, float, np.ndarray]] = {}
    for name, variant in variants.items():
        usable = _usable(embeddings, name)
        count = int(usable.sum())
        if count <= NEIGHBOURS:
            continue
        view, clean = embeddings[name][usable], embeddings[CLEAN][usable]
        kept, occurrence = neighbours_kept(view, clean)
        key = usable.tobytes()
        if key not in of_clean:
            in_clean = neighbours_kept(clean, clean)[1]
            of_clean[key] = hubness(in_clean), effective_rank(clean), _uniformity(clean)
        hubs, rank, even = of_clean[key]
        evenness = _uniformity(view)
        for measure, values, reference in (
            ("neighbours_kept", kept, NEIGHBOURS / (count - 1)),
            ("alignment", alignment(view, clean), 0.0),
            ("uniformity", evenness, even.mean()),
            ("uniformity_change", evenness - even, 0.0),
            ("effective_rank", effective_rank(view), rank),
            ("hubness", hubness(occurrence), hubs),
        ):
            column = np.full(len(usable), np.nan)
            if isinstance(values, np.ndarray):
                column[usable] = values
            columns.append(column)
            rows.append(
                (variant.name, variant.severity, measure, np.mean(values), reference, count)
            )
    table = _with_interval("neighbourhoods", rows, columns, (-np.inf, np.inf), seed, groups)
    least = table["measure"].map({"neighbours_kept": 0, "alignment": 0, "uniformity": -8})
    most = table["measure"].map({"neighbours_kept": 1, "alignment": 4, "uniformity": 0})
    table["ci_low"] = np.fmax(table["ci_low"], least)
    table["ci_high"] = np.fmin(table["ci_high"], most)
    pointwise = table["measure"].isin(["effective_rank", "hubness"])
    table.loc[pointwise, ["ci_low", "ci_high"]] = np.nan
    return table


def named_table(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    vocabularies: Mapping[str, Vocabulary],
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """What views move towards: the texts whose cosine with them rises and falls most.

    One row per augmentation, severity, vocabulary and text: the `NAMED` of the largest mean change
    and as many of the least, the former first. Beside the change of the cosine stands that of the
    text's probability, the softmax over its vocabulary, which tells a text that gains from one that
    gains as all others do. ``p`` is that of Student's t of no change; ``p_holm`` corrects it over
    all texts of the vocabulary and all augmentations of the severity.

    Args:
        embeddings: Of all views.
        variants: Augmentations at severities, by view name.
        vocabularies: Texts by the name of their list.
        seed: Of the resampling.
        groups: See `inside_tables`; p takes photos as independent.
    """
    tables = [
        _named(embeddings, variants, name, vocabulary, seed, groups)
        for name, vocabulary in vocabularies.items()
    ]
    empty = pd.DataFrame(columns=list(DEFINITIONS["named"]))
    return pd.concat(tables, ignore_index=True) if tables else empty


def _named(
    embeddings: Embeddings,
    variants: Mapping[str, Variant],
    name: str,
    vocabulary: Vocabulary,
    seed: int,
    groups: np.ndarray | None,
) -> pd.DataFrame:
    clean = _compared(embeddings[CLEAN], vocabulary)
    chosen, columns, listed, p = [], [], [], []
    for view, variant in variants.items():
        usable = _usable(embeddings, view)
        changes = np.stack(_compared(embeddings[view][usable], vocabulary))
        changes -= np.stack(clean)[:, usable]
        order = np.argsort(-changes[0].mean(axis=0), kind="stable")
        ends = np.unique(np.append(np.arange(NAMED), len(order) - 1 - np.arange(NAMED)))
        texts = order[ends[(ends >= 0) & (ends < len(order))]]
        with np.errstate(invalid="ignore", divide="ignore"):
            p.append(ttest_1samp(changes, 0, axis=1).pvalue)
        values = np.full((len(usable), 2, len(texts)), np.nan)
        values[usable] = changes[:, :, texts].swapaxes(0, 1)
        chosen.append(texts)
        columns.append(values)
        listed += [(variant.name, variant.severity, name, vocabulary.texts[k]) for k in texts]
    severities = np.array([variant.severity for variant in variants.values()])
    tests = np.array(p)
    corrected = np.full_like(tests, np.nan)
    for severity in dict.fromkeys(severities):
        of = severities == severity
        for measure in range(2):
            corrected[of, measure] = holm(tests[of, measure].ravel()).reshape(-1, tests.shape[2])
    values = np.concatenate(columns, axis=2)
    interval = mean_interval(values, seed, groups)
    table = pd.DataFrame(listed, columns=["augmentation", "severity", "vocabulary", "text"])
    for measure, prefix, most in ((0, "", 2), (1, "softmax_", 1)):
        low, high = np.clip([end[measure] for end in interval], -most, most)
        table[f"{prefix}change"] = np.nanmean(values[:, measure], axis=0)
        table[f"{prefix or 'ci_'}low"] = low
        table[f"{prefix or 'ci_'}high"] = high
        for column, of in (("p", tests), ("p_holm", corrected)):
            table[f"{prefix}{column}"] = np.concatenate(
                [of[row, measure, texts] for row, texts in enumerate(chosen)]
            )
    table["n"] = np.isfinite(values[:, 0]).sum(axis=0)
    return table


def _compared(embeddings: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of embeddings with texts, and each text's probability: (N, D) → (N, T), twice."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = units(embeddings) @ np.asarray(vocabulary.embeddings, float).T
    return cosines, softmax(vocabulary.logit_scale * cosines, axis=1)


def _with_interval(
    name: str,
    rows: Sequence[tuple[Any, ...]],
    columns: Sequence[np.ndarray],
    limits: tuple[float, float],
    seed: int,
    groups: np.ndarray | None,
) -> pd.DataFrame:
    """A table with ``ci_low`` and ``ci_high`` of each row's mean over photos.

    Args:
        name: The table's name.
        rows: Its other columns' values, in their order.
        columns: What each photo adds to a row's mean, shape (N,) each.
        limits: Where intervals are cut off.
        seed: Of the resampling.
        groups: See `inside_tables`.
    """
    names = list(DEFINITIONS[name])
    table = pd.DataFrame(rows, columns=[n for n in names if n not in ("ci_low", "ci_high")])
    low = high = np.empty(0)
    if rows:
        low, high = np.clip(mean_interval(np.transpose(columns), seed, groups), *limits)
    return table.assign(ci_low=low, ci_high=high)[names]


def _usable(embeddings: Embeddings, name: str) -> np.ndarray:
    """Which photos have an embedding with a direction, under a variant and clean."""
    usable: np.ndarray = has_direction(embeddings[name]) & has_direction(embeddings[CLEAN])
    return usable


def _displacements(embeddings: Embeddings, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which photos are usable, their displacements, and their clean unit embeddings."""
    usable = _usable(embeddings, name)
    view, clean = embeddings[name][usable], embeddings[CLEAN][usable]
    return usable, displacements(view, clean), units(clean)


def _uniformity(embeddings: np.ndarray) -> np.ndarray:
    """Values of photos, to first order, whose mean is the uniformity."""
    near = closeness(embeddings)
    return np.asarray(np.log(near.mean()) + pair_values(near) / near.mean() - 1)
