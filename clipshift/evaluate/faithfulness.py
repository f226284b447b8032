r"""Faithfulness of the gaze: what the embedding loses without the patches that the gaze names.

Cells of patches are removed in the order of a map, the greatest first (deletion), or put back in
that order into a view without any (insertion). In place of what is removed is the blurred view: the
mean colours of all cells, interpolated bilinearly. A uniform colour would add edges, which move the
embedding by themselves, so that under noise not even occlusion would be better than random.

Source: Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box
models", 2018 (arXiv:1806.07421), section 4.3, with the cosine to the whole view's embedding in
place of the probability of a class.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize, pad
from torchmetrics.functional import spearman_corrcoef

from clipshift.augment.keyed import keyed_generator
from clipshift.encode.encoder import ENCODE_BATCH, Encoder
from clipshift.encode.rollout import encode_with_maps
from clipshift.evaluate.estimates import interval_rows
from clipshift.measure.embeddings import MOVED
from clipshift.results.intervals import ratio_values
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample

SIDE = 8
"""The greatest number of rows and columns of cells: patches of finer grids are pooled."""
STEPS = 8
"""In how many steps all cells are removed."""
ORDERS = 8
"""The number of random orders."""
CURVES = ("deletion", "insertion")
AGREEMENTS = ("agreement", "shift_agreement")


def random_maps(seed: int, photo: str) -> Tensor:
    """A photo's random maps, of which the first also orders equal cells: (ORDERS, SIDE²)."""
    rng = keyed_generator(seed, photo, "faithfulness")
    return torch.from_numpy(rng.random((ORDERS, SIDE**2)))


def deletion_curves(encoder: Encoder, views: Tensor, uniform: Tensor) -> Tensor:
    """Remove cells from a photo's views in the order of each map, and in the reverse order.

    The reverse order is insertion read backwards. *Occlusion* orders cells by what the embedding
    loses without one of them alone, 1 − cosine. What a cell's occlusion takes from the shift is by
    how much 1 − cosine of a view and the clean view falls where it is removed from both.

    Args:
        encoder: An encoder with a gaze.
        views: The clean view and others of a photo, shape (V, 3, H, W).
        uniform: From `random_maps`.

    Returns:
        Float64, shape (V, maps, 2 · STEPS + 4): cosines with the whole view's embedding after each
        step, from none, in the order and in the reverse order; and Spearman's ρ over cells of the
        map with what the embedding loses, and with what the shift does, NaN where no cell changes
        either. Of the random maps, which are last, it is the mean.
    """
    features, maps = encode_with_maps(encoder, views)
    grid: Any = [-(-patches // -(-patches // SIDE)) for patches in maps.shape[-2:]]
    cells = adaptive_avg_pool2d(maps, grid).nan_to_num().flatten(2).double()
    blurred = interpolate(adaptive_avg_pool2d(views, grid), views.shape[-2:], mode="bilinear")

    def without(removed: Tensor) -> Tensor:
        """Unit embeddings, (V, M, D), without the cells that are True, (V, M, cells)."""
        masks, embeddings = removed.flatten(0, 1).unflatten(1, (1, *grid)).float(), []
        for rows in torch.arange(len(masks), device=views.device).split(ENCODE_BATCH):
            mask, view = interpolate(masks[rows], views.shape[-2:]) > 0, rows // removed.shape[1]
            masked = torch.where(mask, blurred[view], views[view])
            embeddings.append(encoder.encode_views(masked).embedding.double())
        return normalize(torch.cat(embeddings)).unflatten(0, removed.shape[:2])

    whole = normalize(features.embedding.double())[:, None]
    single = torch.eye(cells.shape[2], device=views.device).bool()
    alone = without(single.expand(len(views), -1, -1))
    lost = 1 - (alone * whole).sum(dim=-1)
    taken = (alone * alone[:1]).sum(dim=-1) - (whole * whole[:1]).sum(dim=-1)
    at_random = uniform[:, : len(single)].to(lost).expand(len(views), -1, -1)
    cells = torch.cat([cells, lost[:, None], at_random], dim=1)
    chosen = cells.shape[1] - ORDERS
    orders = (cells + 1e-12 * at_random[:, :1]).argsort(dim=-1, descending=True)  # no ties
    orders = torch.cat([orders, orders[:, :chosen].flip(-1)], dim=1)
    counts = (torch.arange(1, STEPS + 1, device=views.device) * len(single) / STEPS).round()
    removed = orders.argsort(dim=-1)[:, :, None] < counts[:, None]
    cosines = (without(removed.flatten(1, 2)) * whole).sum(dim=-1).unflatten(1, (-1, STEPS))
    deletion, drawn, reverse = pad(cosines, (1, 0), value=1).split([chosen, ORDERS, chosen], dim=1)
    rho = torch.stack([rank_correlation(cells, other) for other in (lost, taken)], dim=2)
    change = torch.stack([lost, taken], dim=1).abs().amax(dim=2)[:, None]
    rho = rho.where(change > MOVED**2 / 2, torch.nan)  # ranks of rounding
    of_maps = torch.cat([deletion, reverse, rho[:, :chosen]], dim=2)
    of_random = torch.cat([drawn, drawn, rho[:, chosen:]], dim=2).mean(dim=1, keepdim=True)
    return torch.cat([of_maps, of_random], dim=1)


def rank_correlation(maps: Tensor, other: Tensor) -> Tensor:
    """Spearman's ρ over cells of maps, (V, K, cells), with one of each view, (V, cells): (V, K)."""
    others = other[:, None].expand_as(maps)
    flat = spearman_corrcoef(maps.flatten(0, 1).mT, others.flatten(0, 1).mT)
    return flat.view(maps.shape[:2])


def faithfulness_tables(sample: PhotoSample, kind: str | None) -> dict[str, pd.DataFrame]:
    """How faithful maps are, and their curves: rows by view and map; none if not measured.

    A score of a curve is a ratio of means over photos: by how much the area under the map's curve
    is better than under the random orders', over the same of occlusion. It is NaN where the
    interval of the latter includes 0.

    Args:
        sample: What was measured.
        kind: Of the model's gaze.
    """
    kept, variants = sample.measured.faithfulness, sample.variants
    tables: dict[str, list[pd.DataFrame]] = {"faithfulness": [], "faithfulness_curves": []}
    for view, name, severity in sample.views if kept else ():
        photos = sample.by_id(kept[view])
        rows = np.array([kept[view][index] for index in photos])
        cosines = rows[..., :-2].reshape(*rows.shape[:2], 2, -1)  # photos, maps, curves, steps
        cosines[:, :, 1] = cosines[:, :, 1, ::-1].copy()
        area = (cosines[..., 1:] + cosines[..., :-1]).mean(axis=-1) / 2
        better = (area - area[:, -1:]) * [-1, 1]
        scores = ratio_values(better, better[:, -2:-1])
        scores[..., ~(sample.mean_interval(better[:, -2], photos)[0] > 0)] = np.nan
        scores = np.concatenate([scores, rows[..., -2:]], axis=2)
        if view == CLEAN or variants[view].augmentation.moves_pixels:
            scores[..., -1] = np.nan
        names = [kind, *["rollout"] * (rows.shape[1] > 3), "occlusion", "random"]
        measures = [*CURVES, *AGREEMENTS]
        summary = interval_rows(sample, scores, photos, map=names, measure=measures)
        areas = np.pad(area.mean(axis=0), [(0, 0), (0, 2)], constant_values=np.nan).ravel()
        steps = [step / STEPS for step in range(STEPS + 1)]
        points = interval_rows(sample, cosines, photos, map=names, curve=CURVES, share=steps)
        bounded, ends = summary["measure"].isin(AGREEMENTS), ["ci_low", "ci_high"]
        summary.loc[bounded, ends] = summary.loc[bounded, ends].clip(-1, 1)
        points[ends] = points[ends].clip(-1, 1)
        for table, part in zip(tables, (summary.assign(auc=areas), points), strict=True):
            tables[table].append(part.assign(augmentation=name, severity=severity))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items() if parts}
