"""Tables of the geometry of the shift (``inside=true``), with intervals and null distributions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import softmax

from clipshift.augment.variants import Variant
from clipshift.data.photos import keyed_order
from clipshift.encode.texts import Vocabulary
from clipshift.evaluate.estimates import Row, ends_of, estimate_table
from clipshift.measure import embeddings as geometry
from clipshift.results.intervals import cosine_values, holm, pair_values, ratio_values
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample

NAMED = 10
"""How many texts are listed that a view gains most, and how many that it loses most."""


@dataclass(frozen=True)
class Views:
    """The embeddings of a sample of photos in all views.

    Attributes:
        embeddings: By view, ``clean`` among them; rows in the order of photo ids, shape (N, D).
        sample: The sample, whose seed is that of the nulls as well.
    """

    embeddings: Mapping[str, np.ndarray]
    sample: PhotoSample

    def usable(self, *names: str) -> np.ndarray:
        """Which photos have an embedding with a direction, under some variants and clean."""
        views = [self.embeddings[name] for name in (*names, CLEAN)]
        return np.all([geometry.has_direction(view) for view in views], axis=0)

    def pairs(self) -> Iterator[tuple[Variant, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each variant the usable photos, and their embeddings under it and clean."""
        for name, variant in self.sample.variants.items():
            usable = self.usable(name)
            yield variant, usable, self.embeddings[name][usable], self.embeddings[CLEAN][usable]


def inside_tables(
    sample: PhotoSample, vocabularies: Mapping[str, Vocabulary] | None = None
) -> dict[str, pd.DataFrame]:
    """The tables of what happens to the embeddings.

    Args:
        sample: What was measured, all embeddings among it.
        vocabularies: Texts by the name of their list, to name what views move towards.

    Returns:
        ``directions``, ``direction_cosines``, ``undone``, ``neighbourhoods`` and ``named``, as
        `clipshift.results.runs.Run` describes them.
    """
    views = Views(sample.embeddings, sample)
    folds = np.empty(len(sample.listed), int)
    folds[keyed_order(sample.listed, "folds")] = np.arange(len(folds)) % geometry.FOLDS
    rows = {
        "direction_cosines": direction_cosines(views),
        "undone": undone(views, folds),
        "neighbourhoods": neighbourhoods(views),
    }
    return {
        "directions": directions_table(views),
        **{name: estimate_table(name, of, sample) for name, of in rows.items()},
        "named": named_table(views, vocabularies or {}),
    }


def directions_table(views: Views) -> pd.DataFrame:
    """Whether every photo is moved the same way: one row per augmentation and severity.

    The interval of ``direction`` is that of its square, a mean over pairs of photos, and those of
    ``share`` and ``contraction`` are those of ratios of means (`pair_values`, `ratio_values`).
    """
    rows, columns = [], []
    for variant, usable, view, clean in views.pairs():
        moves, clean = geometry.displacements(view, clean), geometry.units(clean)
        steps, moved = geometry.unit_steps(moves, clean)
        values = np.full((3, len(usable)), np.nan)
        length = null = p = share = nearer = np.nan
        if moved.sum() > 1:
            values[0, np.flatnonzero(usable)[moved]] = pair_products(steps, steps)
            common = geometry.remove_contraction(moves, clean)
            energy = np.square(moves).sum(axis=1)
            values[1, usable] = ratio_values(pair_products(common, common), energy)
            length, share = geometry.direction(steps), geometry.common_share(moves, clean)
            nearer = geometry.contraction(moves, clean)
            if not np.isnan(nearer):
                apart = pair_values(1 - geometry.with_others(clean, clean))
                values[2, usable] = ratio_values(pair_products(moves, clean), apart)
            flipped = geometry.flipped_directions(steps, views.sample.seed)
            null = float(np.quantile(flipped, 0.95))
            p = float((1 + (flipped >= length).sum()) / (1 + geometry.FLIPS))
        columns.append(values)
        rows.append(
            (variant.name, variant.severity, length, null, p, share, nearer, int(moved.sum()))
        )
    names = ["augmentation", "severity", "direction", "null", "p", "share", "contraction", "n"]
    table = pd.DataFrame(rows, columns=names)
    interval = views.sample.mean_interval(np.transpose(columns, (2, 1, 0)))
    squares, shares, nearer = np.stack(interval, axis=1)
    return table.assign(
        p_holm=_holm_by_severity(table["p"], table["severity"]),
        **ends_of("ci", np.sqrt(squares.clip(0, 1))),
        **ends_of("share", shares.clip(0, 1)),
        **ends_of("contraction", nearer.clip(max=1)),
    )


def direction_cosines(views: Views) -> Iterator[Row]:
    """Which augmentations share a direction: one row per two augmentations of one severity.

    The interval is that of a mean over photos to first order (`pair_values`, `cosine_values`).
    """
    for pair in combinations(views.sample.variants, 2):
        first, second = (views.sample.variants[name] for name in pair)
        if first.severity != second.severity:
            continue
        usable = views.usable(*pair)
        clean, *moved = (geometry.units(views.embeddings[n][usable]) for n in (CLEAN, *pair))
        a, b = (geometry.remove_contraction(view - clean, clean) for view in moved)
        values = np.array(np.nan)
        cosine = geometry.direction_cosine(a, b) if usable.sum() > 1 else np.nan
        if not np.isnan(cosine):
            values = cosine_values(pair_products(a, b), pair_products(a, a), pair_products(b, b))
        cells = first.severity, first.name, second.name, cosine, int(usable.sum())
        yield Row(cells, usable, values, (-1, 1))


def undone(views: Views, folds: np.ndarray) -> Iterator[Row]:
    """How far a map back undoes the shift: one row per augmentation, severity and method.

    The interval is over photos, with the maps as they were made (`ratio_values`): that a map made
    of other photos would be another one is not in it.
    """
    for variant, usable, view, clean in views.pairs():
        if usable.sum() < 2 * geometry.FOLDS:
            continue
        errors, spread = geometry.undoing_errors(view, clean, folds[usable])
        for method, error in errors.items():
            values = 1 - ratio_values(error, spread)
            cells = variant.name, variant.severity, method, np.nanmean(values), int(usable.sum())
            yield Row(cells, usable, values, (-np.inf, 1))


def neighbourhoods(views: Views) -> Iterator[Row]:
    """What becomes of the neighbourhoods: one row per augmentation, severity and measure.

    ``neighbours_kept`` is a mean over photos among the neighbours at hand, ``alignment`` a mean
    over photos, ``uniformity`` and its change are logarithms of means over pairs (`pair_values`).
    The effective rank and the hubness have no interval: in a resample photos are their own
    neighbours, and use fewer dimensions.
    """
    limits = {"neighbours_kept": (0, 1), "alignment": (0, 4), "uniformity": (-8, 0)}
    of_clean: dict[bytes, tuple[float, float, np.ndarray]] = {}
    for variant, usable, view, clean in views.pairs():
        count = len(view)
        if count <= geometry.NEIGHBOURS:
            continue
        kept, occurrence = geometry.neighbours_kept(view, clean)
        if (key := usable.tobytes()) not in of_clean:
            hubs = geometry.hubness(geometry.neighbours_kept(clean, clean)[1])
            of_clean[key] = hubs, geometry.effective_rank(clean), _uniformity(clean)
        hubs, rank, even = of_clean[key]
        evenness = _uniformity(view)
        for measure, values, reference in (
            ("neighbours_kept", kept, geometry.NEIGHBOURS / (count - 1)),
            ("alignment", geometry.alignment(view, clean), 0.0),
            ("uniformity", evenness, even.mean()),
            ("uniformity_change", evenness - even, 0.0),
            ("effective_rank", geometry.effective_rank(view), rank),
            ("hubness", geometry.hubness(occurrence), hubs),
        ):
            cells = variant.name, variant.severity, measure, np.mean(values), reference, count
            within, kind = limits.get(measure, (-np.inf, np.inf)), "mean" if np.ndim(values) else ""
            yield Row(cells, usable, values, within, kind)


def named_table(views: Views, vocabularies: Mapping[str, Vocabulary]) -> pd.DataFrame:
    """What views move towards: the texts whose cosine with them rises and falls most.

    One row per augmentation, severity, vocabulary and text: the `NAMED` of the largest mean change
    and as many of the least, the former first. Beside the change of the cosine stands that of the
    text's probability, the softmax over its vocabulary, which tells a text that gains from one that
    gains as all others do. ``p`` is that of Student's t of no change; ``p_holm`` corrects it over
    all texts of the vocabulary and all augmentations of the severity.

    Args:
        views: The embeddings; p takes photos as independent.
        vocabularies: Texts by the name of their list.
    """
    tables = [_named(views, name, vocabulary) for name, vocabulary in vocabularies.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _named(views: Views, name: str, vocabulary: Vocabulary) -> pd.DataFrame:
    from scipy.stats import ttest_1samp  # takes half a second, which other runs do not need

    clean = np.stack(_compared(views.embeddings[CLEAN], vocabulary))
    tables: list[pd.DataFrame] = []
    chosen, columns = [], []
    for variant, usable, view, _ in views.pairs():
        changes = np.stack(_compared(view, vocabulary)) - clean[:, usable]
        order = np.argsort(-changes[0].mean(axis=0), kind="stable")
        ends = np.unique(np.append(np.arange(NAMED), len(order) - 1 - np.arange(NAMED)))
        texts = order[ends[(ends >= 0) & (ends < len(order))]]
        with np.errstate(invalid="ignore", divide="ignore"):
            p, softmax_p = ttest_1samp(changes, 0, axis=1).pvalue
        keys = {"augmentation": variant.name, "severity": variant.severity, "vocabulary": name}
        tests = {"text": vocabulary.texts, "p": p, "softmax_p": softmax_p}
        chosen += (len(tables) * len(p) + texts).tolist()
        tables.append(pd.DataFrame(keys | tests))
        values = np.full((len(usable), 2, len(texts)), np.nan)
        values[usable] = changes[:, :, texts].swapaxes(0, 1)
        columns.append(values)
    table, values = pd.concat(tables, ignore_index=True), np.concatenate(columns, axis=2)
    for column in ("p", "softmax_p"):
        table[f"{column}_holm"] = _holm_by_severity(table[column], table["severity"])
    table, interval = table.iloc[chosen].copy(), views.sample.mean_interval(values)
    for measure, prefix, most in ((0, "", 2), (1, "softmax_", 1)):
        ends = np.clip([end[measure] for end in interval], -most, most)
        table[f"{prefix}change"] = np.nanmean(values[:, measure], axis=0)
        table = table.assign(**ends_of(prefix.rstrip("_") or "ci", ends))
    return table.assign(n=np.isfinite(values[:, 0]).sum(axis=0))


def _holm_by_severity(p: pd.Series, severity: pd.Series) -> pd.Series:
    return p.groupby(severity).transform(lambda of: holm(of.to_numpy()))


def _compared(embeddings: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of embeddings with texts, and each text's probability: (N, D) → (N, T), twice."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = geometry.units(embeddings) @ np.asarray(vocabulary.embeddings, float).T
    return cosines, softmax(vocabulary.logit_scale * cosines, axis=1)


def pair_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Values of photos whose mean is that of first · second over pairs of different photos."""
    return pair_values(geometry.with_others(first, second))


def _uniformity(embeddings: np.ndarray) -> np.ndarray:
    """Values of photos, to first order, whose mean is the uniformity."""
    near = geometry.closeness(embeddings)
    return np.asarray(np.log(near.mean()) + pair_values(near) / near.mean() - 1)
