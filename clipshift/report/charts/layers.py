"""Charts of what happens layer by layer."""

import altair as alt
import numpy as np
import pandas as pd

from clipshift.report.charts.marks import intervals_in_words, named_lines
from clipshift.report.charts.vega import Chart, with_severity
from clipshift.report.words import capitalised

LAYERS = {
    "cosine": ("mean cosine of class tokens", ("ci_low", "ci_high")),
    "patch_cosine": ("cosine of mean patch tokens", ("patch_low", "patch_high")),
    "cka": ("CKA of mean patch tokens", ("cka_low", "cka_high")),
    "tokens": ("outlier tokens", ("ci_low", "ci_high")),
}
"""What is drawn layer by layer: its name, and the columns of its interval."""


def draw_layers(layers: pd.DataFrame, column: str) -> Chart:
    """A number after each layer, with its interval where it has one.

    Args:
        layers: ``layers.csv`` or ``outliers.csv`` of a run.
        column: One of `LAYERS`.
    """
    title, ends = LAYERS[column]
    table = layers.dropna(subset=[column]).reset_index(drop=True)
    bounds = ends if table[list(ends)].notna().any(axis=None) else None
    table["told"] = intervals_in_words(table, column, *ends)
    tooltip = [
        alt.Tooltip("augmentation:N"), alt.Tooltip("layer:Q"), alt.Tooltip("told:N", title=title),
    ]  # fmt: skip
    values = table[[column, *(bounds or ())]].to_numpy(float)
    low, high = (0, np.nanmax(values)) if column == "tokens" else (np.nanmin(values), 1)
    margin = 0.05 * ((high - low) or 1)
    kept = ["augmentation", "severity", "layer", column, *(bounds or ()), "told"]
    domain = (float(low - margin), float(high + margin))
    chart = named_lines(table[kept], "layer", column, title, bounds, tooltip, domain)
    return with_severity(chart, table).properties(
        description=f"{capitalised(title)} of views, after each layer, by augmentation."
    )
