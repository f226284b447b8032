"""Whether a cosine tells the same photo from another: ``thresholds.csv`` and ``cosines.csv``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit

from clipshift.data.photos import keyed_order
from clipshift.evaluate.gallery import COMPARED_PHOTOS
from clipshift.measure.copy_detection import RATES, Separation, separate
from clipshift.measure.embeddings import has_direction
from clipshift.measure.functional import recall
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import CONFIDENCE, share_interval, unit_interval
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL

RECALL = (1, 5, 10)
"""k of recall@k."""
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
    indices = [i for i in keyed_order(photos, "sample") if i in gallery.get(CLEAN, ())]
    labels = pd.factorize(np.array([photos[i].label for i in indices], object))[0]
    in_order = np.argsort(labels[:COMPARED_PHOTOS], kind="stable")
    groups = np.arange(len(photos))
    if sample.groups is not None:
        groups[sample.measured.index[sample.order]] = sample.groups
    groups = groups[indices]
    thresholds, cosines = [], []
    for severity in dict.fromkeys(v.severity for v in sample.variants.values() if indices[1:]):
        names = {view: v.name for view, v in sample.variants.items() if v.severity == severity}
        every = np.array([[gallery[view][i] for i in indices] for view in (*names, CLEAN)])
        tensors = torch.from_numpy(every)
        hits = np.array([recall(view, tensors[-1], RECALL).numpy() for view in tensors[:-1]])
        usable = in_order[np.all([has_direction(view[in_order]) for view in every], axis=0)]
        of_class = np.bincount(labels[usable] + 1, minlength=2)
        alike = usable[(labels[usable] >= 0) & (of_class[labels[usable] + 1] > 1)]
        several = (of_class[1:] > 1).sum() > 1
        for impostors, chosen in {"all": usable, "class": alike[: len(alike) * several]}.items():
            if len(chosen) < 2:
                continue
            classes = labels[chosen] if impostors == "class" else None
            rows = [*(slice(row, row + 1) for row in range(len(names))), slice(len(names))]
            results = [
                separate(every[row][:, chosen], every[-1, chosen], classes, groups[chosen])
                for row in rows
            ]
            values = np.stack([result.values for result in results], axis=1)
            ends = np.stack(unit_interval(values, sample.seed, groups[chosen]))
            for place, (row, name) in enumerate(zip(rows, [*names.values(), ALL], strict=True)):
                listed = [*_separation_rows(results[place], ends[:, place], groups[chosen])]
                if impostors == "all":
                    recalls = zip(RECALL, hits[row].swapaxes(0, 1), strict=True)
                    listed += [(f"recall{k}", None, *_share(hit, groups)) for k, hit in recalls]
                    bins = _distributions(results[place])
                    cosines.append(bins.assign(augmentation=name, severity=severity))
                thresholds += [(name, severity, impostors, *cells) for cells in listed]
    tables = {"thresholds": pd.DataFrame(thresholds, columns=[*DEFINITIONS["thresholds"]])}
    if cosines:
        tables["cosines"] = pd.concat(cosines)
    return tables


def _separation_rows(
    separation: Separation, ends: np.ndarray, groups: np.ndarray
) -> Iterator[tuple[Any, ...]]:
    """AUROC, µAP, thresholds and what they find: measure, fpr, value, interval, n and reason."""
    photos, pairs = len(groups), int(separation.impostors.sum())
    for place, measure in enumerate(("auroc", "micro_ap")):
        yield measure, None, separation.statistics[place], *ends[:, place], photos, None
    reach = stdtrit(max(len(np.unique(groups)) - 1, 1), (1 + CONFIDENCE) / 2)
    for rate, threshold, error in zip(RATES, separation.thresholds, separation.errors, strict=True):
        independent = min((rate / error) ** 2 if error else 0, rate * pairs)
        if independent < INDEPENDENT or rate <= reach * error:
            reason = (
                f"of {pairs:,} pairs of different photos the nearest {rate * pairs:,.0f} count as "
                f"{independent:.0f} independent ones; {INDEPENDENT} are required"
            )
            for measure in ("threshold", "found"):
                yield measure, rate, None, None, None, photos, reason
            continue
        low, high = (separation.quantile(rate + sign * reach * error) for sign in (1, -1))
        yield "threshold", rate, threshold, min(low, threshold), high, photos, None
        yield "found", rate, *_share(separation.genuine > threshold, groups)


def _share(hits: np.ndarray, groups: np.ndarray) -> tuple[Any, ...]:
    """The mean over views, (K, N): value, interval, n and reason."""
    known = ~np.isnan(hits)
    values, of_values = hits[known].astype(float), np.tile(groups, (len(hits), 1))[known]
    mean, photos = values.mean(), known.any(axis=0).sum()
    if np.ptp(values) == 0:  # views that agree say no more than one of each photo
        values, of_values = values[:photos], of_values[:photos]
    return mean, *share_interval(values, of_values), photos, None


def _distributions(separation: Separation) -> pd.DataFrame:
    """Shares of genuine scores and of impostors by cosine."""
    low = min(separation.cells[separation.impostors > 0].min(), separation.genuine.min())
    edges = np.linspace(low, max(1, separation.genuine.max()), COSINES + 1)
    own, _ = np.histogram(separation.genuine, edges)
    others, _ = np.histogram(separation.cells, edges, weights=separation.impostors)
    shares = {"own": own / own.sum(), "others": others / others.sum()}
    return pd.DataFrame({"cosine": edges[:-1], "cosine_high": edges[1:]} | shares)
