"""The shift by component (``dissect=true``): which heads and MLPs carry it, and cause it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from clipshift.encode.components import ComponentProbe
from clipshift.encode.encoder import Features
from clipshift.encode.patching import Site
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import mean_interval, ratio_values
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
    written, lengths = [], []
    for features in (view, clean):
        assert features.components is not None
        written.append(features.components)
        lengths.append(features.embedding.double().norm(dim=1, keepdim=True))
    units = [of.embedding.double() / n for of, n in zip((view, clean), lengths, strict=True)]
    along = units[0] - units[1]
    after, before = (
        probe.contributions(of, along) / length for of, length in zip(written, lengths, strict=True)
    )
    return after - before


def component_table(sample: PhotoSample, heads: int) -> pd.DataFrame:
    """Shares of the shift: a row per variant and component; empty where they were not measured.

    A share is a ratio of means over photos, of its products by ‖d‖², so that photos count by how
    far they move. Its interval is that of `clipshift.results.intervals.ratio_values`. Rows of
    ``all`` are means over the augmentations of a severity.

    Args:
        sample: What was measured.
        heads: The number of heads of a layer.
    """
    columns = list(DEFINITIONS["components"])
    if sample.measured.components is None:
        return pd.DataFrame(columns=columns)
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
    values: dict[tuple[str, str], np.ndarray] = {}
    for place, variant in enumerate(sample.variants.values()):
        parts = [products[:, place, :1], by_layer[:, place].reshape(len(products), -1)]
        whole = products[:, place].sum(axis=1)
        ratios = [ratio_values(part, whole) for part in np.concatenate(parts, axis=1).T]
        values[variant.severity, variant.name] = np.stack(ratios, axis=1)
    for severity in dict.fromkeys(severity for severity, _ in values):
        of = [shares for key, shares in values.items() if key[0] == severity]
        values[severity, ALL] = np.mean(of, axis=0)
    tables = []
    for (severity, name), shares in values.items():
        low, high = sample.mean_interval(shares)
        numbers = {"share": shares.mean(axis=0), "ci_low": low, "ci_high": high}
        names = {"augmentation": name, "severity": severity}
        tables.append(pd.DataFrame(names | cells | numbers | {"n": len(shares)}))
    return pd.concat(tables, ignore_index=True)[columns]


def patching_table(sample: PhotoSample, sites: Sequence[Site]) -> pd.DataFrame:
    """What single components undo and do: a row per variant and site; empty if not measured.

    Args:
        sample: What was measured.
        sites: What was patched.
    """
    columns, tables = list(DEFINITIONS["patching"]), []
    for name, variant in sample.variants.items():
        kept = sample.measured.patched.get(name, {})
        rows = np.array([kept[index] for index in sorted(kept, key=lambda i: sample.photos[i].id)])
        if not len(rows):
            return pd.DataFrame(columns=columns)
        ratios = np.stack([ratio_values(part, rows[:, 0]) for part in rows[:, 1:].T], axis=1)
        ratios[:, : len(sites)] = 1 - ratios[:, : len(sites)]
        low, high = mean_interval(ratios, sample.seed)
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
            "n": len(rows),
        }
        tables.append(pd.DataFrame(cells)[columns])
    return pd.concat(tables, ignore_index=True)
