"""What of the shift can change a decision (``dissect=true``): ``geometry.csv`` and ``margins.csv``.

Both need nothing but embeddings, and so are there for every encoder.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipshift.encode.texts import ZeroShot
from clipshift.evaluate.estimates import Row, estimate_table
from clipshift.evaluate.inside import Views, pair_products
from clipshift.measure import embeddings as geometry
from clipshift.measure.confidence import auroc_values
from clipshift.measure.functional import unit
from clipshift.measure.zero_shot import changed_class, class_margin, predicted_flips
from clipshift.results.intervals import pair_values, ratio_values
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL

PARTS = ("contraction", "common", "own", "class_span")
COSINES = 2**20
"""Number of cosines with classes in memory at once."""


def decision_tables(sample: PhotoSample, zero_shot: ZeroShot | None) -> dict[str, pd.DataFrame]:
    """The tables of the parts of the shift, and of the zero-shot classifier's margins.

    Args:
        sample: What was measured, all embeddings among it.
        zero_shot: The classifier of the photos' classes; None without classes.

    Returns:
        ``geometry`` and ``margins``, as `clipshift.results.runs.Run` describes them.
    """
    views = Views(sample.embeddings, sample)
    tables = {"geometry": geometry_table(views, zero_shot)}
    if zero_shot:
        tables["margins"] = margin_table(views, {ALL: zero_shot.classifier, **zero_shot.single})
    return tables


def geometry_table(views: Views, zero_shot: ZeroShot | None) -> pd.DataFrame:
    """Parts of the mean squared displacement: one row per augmentation, severity and part.

    The intervals are those of ratios of means over photos and over pairs of them (`ratio_values`,
    `pair_values`); of ``contraction``, the squares of what its signed root has.
    """
    table = estimate_table("geometry", _parts(views, zero_shot), views.sample)
    ends = table[["ci_low", "ci_high"]].to_numpy()
    squares = np.where(ends.prod(axis=1, keepdims=True) < 0, [0, 1], 1) * np.sort(ends**2)
    low, high = np.where(table[["part"]] == "contraction", squares, ends.clip(0)).T
    low, high = np.fmin(low, table["share"]), np.fmax(high, table["share"])
    return table.assign(ci_low=low, ci_high=high)


def _parts(views: Views, zero_shot: ZeroShot | None) -> Iterator[Row]:
    classes = zero_shot.classifier.T.double().cpu().numpy() if zero_shot else None
    span = None if classes is None else geometry.difference_span(classes)
    for variant, usable, view, clean in views.pairs():
        moves, clean = geometry.displacements(view, clean), geometry.units(clean)
        energy = np.square(moves).sum(axis=1)
        if len(view) < 2 or energy.mean() <= geometry.MOVED**2:
            continue
        along, steps = geometry.along_mean(moves, clean), geometry.remove_contraction(moves, clean)
        contraction, common = (pair_products(of, of) for of in (along[:, None], steps))
        squares = [contraction, common, energy - contraction - common]
        columns = [ratio_values(of, energy) for of in squares]
        shares = [float(np.clip(of.mean(), 0, 1)) for of in columns[:2]]
        root = along / np.sqrt(energy.mean())
        columns[0] = root - root.mean() / 2 * (energy / energy.mean() - 1)
        # of displacements in random directions the mean is −(1 − cos) m
        at_random = energy.mean() / 4 * geometry.with_others(clean, clean).mean()
        references, shares = [at_random, 0, 1 - at_random], [*shares, 1 - sum(shares)]
        if span is not None:
            columns.append(ratio_values(np.square(moves @ span).sum(axis=1), energy))
            references.append(span.shape[1] / len(span))
            shares.append(columns[-1].mean())
        for part in zip(PARTS, shares, references, columns, strict=False):
            cells = variant.name, variant.severity, *part[:3], len(view)
            yield Row(cells, usable, part[3], (-1, 1))


def margin_table(views: Views, classifiers: Mapping[str, Tensor]) -> pd.DataFrame:
    """Margins and flips: one row per augmentation, severity, prompt and measure.

    Args:
        views: The embeddings.
        classifiers: By prompt, each (D, C).
    """
    rows = (row for prompt, of in classifiers.items() for row in _margins(views, prompt, of))
    table = estimate_table("margins", rows, views.sample)
    if table.empty:
        return table
    single = table["value"].where(table["prompt"] != ALL)
    spread = single.groupby([table[key] for key in ("augmentation", "severity", "measure")])
    return table.assign(prompt_std=spread.transform("std").where(table["prompt"] == ALL))


def _margins(views: Views, prompt: str, classifier: Tensor) -> Iterator[Row]:
    classes, results = classifier.double().cpu(), []
    names = [CLEAN, *views.sample.variants]
    embeddings = torch.from_numpy(np.stack([views.embeddings[name] for name in names]))
    for rows in embeddings.split(max(1, COSINES // classes.shape[1]), dim=1):
        clean, *moved = (unit(of) @ classes for of in rows)
        flips = [changed_class(of, clean).double() for of in moved]
        results.append(torch.stack([class_margin(of, clean) for of in (clean, *moved)] + flips))
    before, *of_views = torch.cat(results, dim=1).numpy()
    of_variants = zip(of_views[: len(names) - 1], of_views[len(names) - 1 :], strict=True)
    for variant, (after, flip) in zip(views.sample.variants.values(), of_variants, strict=True):
        known = ~np.isnan(before + after)
        if known.sum() < 2:
            continue
        clean, change = before[known], (after - before)[known]
        share, positive, any_number = (0, 1), (0, np.inf), (-np.inf, np.inf)
        for measure, values, limits, kind in (
            ("clean_margin", clean, positive, "mean"),
            ("margin_shift", ratio_values(change, clean), any_number, "mean"),
            ("predicted_flips", pair_values(predicted_flips(clean, change)), share, "unit"),
            ("flips", flip[known], share, "share"),
            ("auroc", auroc_values(clean, 1 - flip[known]), share, "unit"),
        ):
            cells = variant.name, variant.severity, prompt, measure, values.mean(), np.nan
            yield Row((*cells, len(clean)), known, values, limits, kind)
