"""The shift by component (``dissect=true``): which heads and MLPs carry it, and cause it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from clipshift.encode.components import ComponentProbe
from clipshift.encode.encoder import Features
from clipshift.encode.patching import Site
from clipshift.evaluate.estimates import interval_rows
from clipshift.measure.embeddings import MOVED
from clipshift.results.intervals import ratio_values
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL


def component_products(probe: ComponentProbe, view: Features, clean: Features) -> Tensor:
    r"""How much each component of an embedding carries of its displacement.

    .. math::
        d = u' - u, \quad u = e / \|e\|, \quad
        d \cdot d_i = \frac{d \cdot c_i'}{\|e'\|} - \frac{d \cdot c_i}{\|e\|}

    with the contributions :math:`c_i` of `ComponentProbe.contributions`, so that the products' sum
    is :math:`\|d\|^2`. Products over this sum are the shares of the shift, negative where a
    component moves the embedding back.

    Args:
        probe: The encoder's.
        view: Features of B views, with ``components``.
        clean: Those of their clean views.

    Returns:
        Float64, shape (B, components), in the order of `ComponentProbe.contributions`.
    """
    return _products(probe.contributions, ["components"], view, clean)


def location_products(probe: ComponentProbe, view: Features, clean: Features) -> Tensor:
    """The products of heads, as `component_products`, split by the token that they gathered.

    Of both views it is the token at the same place, also where the augmentation moves pixels: the
    product is where in the picture what the head gathers has changed.

    Args:
        probe: The encoder's.
        view: Features of B views, with ``components`` and ``by_token``.
        clean: Those of their clean views.

    Returns:
        Float64, shape (B, layers, heads, tokens): class token and registers, then patches. The sum
        over tokens is the head's product.
    """
    return _products(probe.contributions_by_token, ["components", "by_token"], view, clean)


def _products(
    contribute: Callable[..., Tensor], names: Sequence[str], view: Features, clean: Features
) -> Tensor:
    """What parts add to unit embeddings along their displacement, view less clean.

    Args:
        contribute: Makes contributions of the features of these names, and of the displacement.
        names: Their names.
        view: Features of B views.
        clean: Those of their clean views.
    """
    embeddings = [of.embedding.double() for of in (view, clean)]
    lengths = [embedding.norm(dim=1, keepdim=True) for embedding in embeddings]
    along = embeddings[0] / lengths[0] - embeddings[1] / lengths[1]
    after, before = (
        contribute(*(getattr(of, name) for name in names), along) for of in (view, clean)
    )
    by_view = (len(along), *[1] * (after.ndim - 1))
    return after / lengths[0].view(by_view) - before / lengths[1].view(by_view)


def component_table(sample: PhotoSample, heads: int) -> pd.DataFrame:
    """Shares of the shift: a row per variant and component; empty where they were not measured.

    See `share_table`.

    Args:
        sample: What was measured.
        heads: The number of heads of a layer.
    """
    if sample.measured.components is None:
        return pd.DataFrame()
    products = sample.measured.components[sample.order].astype(float)  # (N, V, components)
    by_layer = products[..., 1:].reshape(*products.shape[:2], -1, heads + 1)
    attention = by_layer[..., :heads].sum(axis=-1, keepdims=True)
    by_layer = np.concatenate([attention, by_layer[..., heads:], by_layer[..., :heads]], axis=-1)
    depth = by_layer.shape[2]
    kinds = ["attention", "mlp", *["head"] * heads]
    cells = {
        "layer": [np.nan, *np.repeat(np.arange(1, depth + 1), heads + 2)],
        "component": ["constant", *kinds * depth],
        "head": [np.nan, *[np.nan, np.nan, *range(1, heads + 1)] * depth],
    }
    parts = np.concatenate([products[..., :1], by_layer.reshape(*products.shape[:2], -1)], axis=2)
    return share_table(sample, parts, products.sum(axis=2), cells)


def location_table(sample: PhotoSample) -> pd.DataFrame:
    """Shares of the shift by what heads gathered: a row per variant and patch, see `share_table`.

    There are rows for the class token and for all registers, where there are some. Empty where
    they were not measured.

    Args:
        sample: What was measured, with the gaze, which has the patches' rows and columns.
    """
    located, gazes = sample.measured.locations, sample.measured.gazes.get(CLEAN)
    if not located or not gazes or sample.measured.components is None:
        return pd.DataFrame()
    photos = sample.by_id(next(iter(located.values())))
    rows, columns = next(iter(gazes.values())).shape
    products = np.array([[located[v][n] for v in sample.variants] for n in photos], float)
    others = products.shape[2] - rows * columns
    tokens = ["class", "registers"][:others]
    registers = products[..., 1:others].sum(axis=2, keepdims=True)
    prefix = [products[..., :1], registers][: len(tokens)]
    order = np.searchsorted(sample.measured.index, photos)
    whole = sample.measured.components[order].sum(axis=2, dtype=float)
    row, column = np.divmod(np.arange(rows * columns), columns)
    none = [np.nan] * len(tokens)
    cells = {
        "token": [*tokens, *["patch"] * len(row)],
        "row": [*none, *(row + 1)],
        "column": [*none, *(column + 1)],
    }
    parts = np.concatenate([*prefix, products[..., others:]], axis=2)
    return share_table(sample, parts, whole, cells, photos)


def share_table(
    sample: PhotoSample,
    products: np.ndarray,
    squared: np.ndarray,
    cells: Mapping[str, Sequence[Any]],
    photos: Collection[int] | None = None,
) -> pd.DataFrame:
    """Shares of the shift with intervals: rows of every variant, and of ``all`` of a severity.

    A share is a ratio of means over photos, of its products by ‖d‖², so that photos count by how
    far they move. Its interval is that of `clipshift.results.intervals.ratio_values`. Rows of
    ``all`` are means over the augmentations of a severity that move photos by more than `MOVED`.
    Photos whose embedding has no direction are left out.

    Args:
        sample: What was measured.
        products: d · dᵢ of K parts, shape (N, variants, K).
        squared: ‖d‖², shape (N, variants); NaN without a direction.
        cells: What each part is: K cells of some columns.
        photos: The indices of the N photos; None: all.
    """
    values: dict[tuple[str, str], np.ndarray] = {}
    for place, variant in enumerate(sample.variants.values()):
        usable, shares = np.isfinite(squared[:, place]), np.full(products[:, place].shape, np.nan)
        parts, whole = products[usable, place].T, squared[usable, place]
        if usable.any() and whole.mean() > MOVED**2:
            shares[usable] = np.stack([ratio_values(part, whole) for part in parts], axis=1)
        values[variant.severity, variant.name] = shares
    for severity in dict.fromkeys(severity for severity, _ in values):
        of = [shares for key, shares in values.items() if key[0] == severity]
        values[severity, ALL] = np.mean([s for s in of if np.isfinite(s).any()] or of, axis=0)
    tables = []
    for (severity, name), shares in values.items():
        rows = interval_rows(sample, shares, photos, part=range(products.shape[2]))
        tables.append(rows.assign(augmentation=name, severity=severity, **cells))
    return pd.concat(tables, ignore_index=True).rename(columns={"mean": "share"})


def patching_table(sample: PhotoSample, sites: Sequence[Site]) -> pd.DataFrame:
    """What single components undo and do: a row per variant and site; empty if not measured.

    Args:
        sample: What was measured.
        sites: What was patched.
    """
    tables = []
    for name, variant in sample.variants.items():
        kept = sample.measured.patched.get(name, {})
        photos = sample.by_id(kept)
        rows = np.array([kept[index] for index in photos])
        if not len(rows):
            return pd.DataFrame()
        ratios = np.stack([ratio_values(part, rows[:, 0]) for part in rows[:, 1:].T], axis=1)
        ratios[:, : len(sites)] = 1 - ratios[:, : len(sites)]
        if rows[:, 0].mean() <= MOVED**2 / 2:
            ratios[:] = np.nan
        low, high = sample.mean_interval(ratios, photos)
        low[len(sites) :] = low[len(sites) :].clip(0)
        high[: len(sites)] = high[: len(sites)].clip(max=1)
        ends = {"": ratios.mean(axis=0), "_low": low, "_high": high}
        halves = {end: values.reshape(2, -1) for end, values in ends.items()}
        cells = {
            "augmentation": variant.name,
            "severity": variant.severity,
            "layer": [site.layer + 1 for site in sites],
            "component": [site.component for site in sites],
            "head": [site.head + 1 if site.head >= 0 else np.nan for site in sites],
            **{f"undone{end}": values[0] for end, values in halves.items()},
            **{f"alone{end}": values[1] for end, values in halves.items()},
            "n": np.isfinite(ratios).all(axis=1).sum(),
        }
        tables.append(pd.DataFrame(cells))
    return pd.concat(tables, ignore_index=True)
