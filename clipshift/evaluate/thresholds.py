"""Whether a cosine tells the same photo from another: ``thresholds.csv`` and ``cosines.csv``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from clipshift.data.photos import keyed_order
from clipshift.measure.copy_detection import RATES, Separation, separate
from clipshift.measure.embeddings import has_direction
from clipshift.measure.functional import recall
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import CONFIDENCE, mean_interval, share_interval
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL

RECALL = (1, 5, 10)
"""k of recall@k."""
COMPARED_PHOTOS = 20_000
"""The number of random photos of the gallery of which every two are compared."""
INDEPENDENT = 10
"""As how many independent impostors those above a threshold must count for it to be known."""
COSINES = 60
"""Number of bins of ``cosines.csv``."""


def threshold_tables(sample: PhotoSample) -> dict[str, pd.DataFrame]:
    """The tables of copy detection in the gallery, without rows for fewer than two photos.

    Args:
        sample: What was measured.

    Returns:
        ``thresholds`` and ``cosines``, as `clipshift.results.runs.Run` describes them.
    """
    gallery, photos = sample.measured.gallery, sample.photos
    at_random = [i for i in keyed_order(photos, "sample") if i in gallery.get(CLEAN, ())]
    labels = pd.factorize(np.array([photos[i].label for i in at_random], object))[0]
    groups = np.arange(len(photos))
    if sample.groups is not None:
        groups[sample.measured.index[sample.order]] = sample.groups
    groups, count = groups[at_random], min(COMPARED_PHOTOS, len(at_random))
    tables: dict[str, list[pd.DataFrame]] = {"thresholds": [], "cosines": []}
    for severity in dict.fromkeys(v.severity for v in sample.variants.values() if count > 1):
        names = {view: v.name for view, v in sample.variants.items() if v.severity == severity}
        views = np.array([[gallery[view][i] for i in at_random] for view in (*names, CLEAN)])
        tensors = torch.from_numpy(views)
        hits = np.array([recall(view, tensors[-1], RECALL).numpy() for view in tensors[:-1]])
        usable = np.all([has_direction(view[:count]) for view in views], axis=0)
        alike = usable & (labels[:count] >= 0)
        alike &= np.bincount(labels[:count][alike], minlength=labels.max() + 2)[labels[:count]] > 1
        in_order = np.argsort(labels[:count], kind="stable")
        kinds = {"all": np.flatnonzero(usable), "class": in_order[alike[in_order]]}
        for impostors, chosen in kinds.items():
            classes = labels[chosen] if impostors == "class" else None
            if len(chosen) < 2 or (classes is not None and classes[0] == classes[-1]):
                continue
            rows = [slice(row, row + 1) for row in range(len(names))] + [slice(len(names))]
            found = [
                separate(views[row][:, chosen], views[-1, chosen], classes, groups[chosen])
                for row in rows
            ]
            values = np.stack([each.values for each in found], axis=1)
            ends = np.clip(mean_interval(values, sample.seed, groups[chosen]), 0, 1)
            for place, name in enumerate([*names.values(), ALL]):
                keys = {"augmentation": name, "severity": severity}
                listed = list(_separation_rows(found[place], ends[:, place], groups[chosen]))
                if impostors == "all":
                    listed[2:2] = _recall_rows(hits[rows[place]], groups)
                    tables["cosines"].append(pd.DataFrame(keys | _distributions(found[place])))
                table = pd.DataFrame(listed, columns=list(DEFINITIONS["thresholds"])[3:])
                table = table.assign(impostors=impostors, **keys)
                tables["thresholds"].append(table[list(DEFINITIONS["thresholds"])])
    return {name: pd.concat(t, ignore_index=True) for name, t in tables.items() if t}


def _separation_rows(
    separation: Separation, ends: np.ndarray, groups: np.ndarray
) -> Iterator[tuple[Any, ...]]:
    """AUROC, µAP, thresholds and what they find: measure, fpr, value, interval, n and reason."""
    photos, pairs = len(groups), int(separation.impostors.sum())
    for place, measure in enumerate(("auroc", "micro_ap")):
        yield measure, np.nan, separation.statistics[place], *ends[:, place], photos, None
    reach = student.ppf((1 + CONFIDENCE) / 2, max(len(np.unique(groups)) - 1, 1))
    numbers = zip(RATES, separation.thresholds, separation.errors, strict=True)
    for rate, threshold, error in numbers:
        independent = min((rate / error) ** 2 if error else 0, rate * pairs)
        if independent < INDEPENDENT or rate <= reach * error:
            reason = (
                f"of {pairs:,} pairs of different photos the nearest {rate * pairs:,.0f} count as "
                f"{independent:.0f} independent ones; {INDEPENDENT} are required"
            )
            yield "threshold", rate, np.nan, np.nan, np.nan, photos, reason
            yield "found", rate, np.nan, np.nan, np.nan, photos, reason
            continue
        low, high = (separation.quantile(rate + sign * reach * error) for sign in (1, -1))
        yield "threshold", rate, threshold, min(low, threshold), high, photos, None
        yield "found", rate, *_share(separation.genuine > threshold, groups), None


def _recall_rows(hits: np.ndarray, groups: np.ndarray) -> list[tuple[Any, ...]]:
    """Recall@k of K augmentations' views, from hits of shape (K, len(RECALL), N)."""
    return [
        (f"recall{k}", np.nan, *_share(hits[:, place], groups), None)
        for place, k in enumerate(RECALL)
    ]


def _share(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float, float, int]:
    """The mean over views, (K, N), with its interval over photos and their number."""
    known = ~np.isnan(hits)
    values, of_values = hits[known].astype(float), np.tile(groups, (len(hits), 1))[known]
    mean, photos = float(values.mean()), int(known.any(axis=0).sum())
    if np.ptp(values) == 0:  # views that agree say no more than one of each photo
        values, of_values = values[:photos], of_values[:photos]
    return mean, *share_interval(values, of_values), photos


def _distributions(separation: Separation) -> dict[str, np.ndarray]:
    """Shares of genuine scores and impostors by cosine: columns of ``cosines.csv``."""
    at = separation.cells[np.maximum(np.arange(len(separation.impostors)) - 1, 0) // 2]
    low = min(at[separation.impostors > 0].min(), separation.genuine.min())
    edges = np.linspace(low, max(1, separation.genuine.max()), COSINES + 1)
    own, _ = np.histogram(separation.genuine, edges)
    others, _ = np.histogram(at, edges, weights=separation.impostors)
    shares = {"own": own / own.sum(), "others": others / others.sum()}
    return {"cosine": edges[:-1], "cosine_high": edges[1:]} | shares
