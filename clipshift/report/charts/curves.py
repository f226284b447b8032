"""Charts of curves: over severities, and over layers."""

import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.charts.marks import named_lines
from clipshift.report.charts.vega import Chart
from clipshift.report.shift import COSINE, as_shift, shift_name
from clipshift.report.words import capitalised
from clipshift.severities import LADDER

LAYERS = {
    "cosine": ("mean cosine of class tokens", ("ci_low", "ci_high")),
    "patch_cosine": ("cosine of mean patch tokens", ("patch_low", "patch_high")),
    "cka": ("CKA of mean patch tokens", ("cka_low", "cka_high")),
    "tokens": ("outlier tokens", ("ci_low", "ci_high")),
}
"""What is drawn layer by layer: its name, and the columns of its interval."""


def draw_severity(summary: pd.DataFrame, measure: str, facts: Facts) -> Chart:
    """A measure's mean against numbered severities, one line per augmentation, with intervals.

    Args:
        summary: From `clipshift.results.table.summarize`.
        measure: Which; the shift 1 − cosine for ``cosine_similarity``.
        facts: The measure's.
    """
    rows = summary[(summary["measure"] == measure) & summary["severity"].isin(LADDER)]
    title = shift_name(COSINE) if measure == COSINE else capitalised(facts.label)
    about = f"{title} against severity, one line per augmentation, with 95 % intervals."
    return _over_severities(rows, title, about, 380)


def draw_curves(rows: pd.DataFrame) -> Chart:
    """Mean shift against severity over a sweep's jobs, a line for each set of other options.

    Args:
        rows: The cosine's rows of a sweep's ``comparison.csv`` at numbered severities, with a
            job's other ``options`` in words.
    """
    pairs = zip(rows["augmentation"], rows["options"], strict=True)
    lines = [f"{name} ({options})" if options else name for name, options in pairs]
    about = "Mean shift of a sweep's jobs against severity, with 95 % intervals."
    height = max(340, 16 * len(set(lines)))
    return _over_severities(rows.assign(line=lines), shift_name(COSINE), about, height)


def draw_layers(layers: pd.DataFrame, column: str) -> Chart:
    """A number after each layer, with its interval where it has one.

    Args:
        layers: ``layers.csv`` or ``outliers.csv`` of a run.
        column: One of `LAYERS`.
    """
    title, ends = LAYERS[column]
    table = layers.dropna(subset=[column])[["augmentation", "severity", "layer", column, *ends]]
    table = table.set_axis([*table.columns[:3], "mean", "ci_low", "ci_high"], axis=1)
    values = table[["mean", "ci_low", "ci_high"]].to_numpy(float)
    low, high = (0, np.nanmax(values)) if column == "tokens" else (np.nanmin(values), 1)
    margin = 0.05 * ((high - low) or 1)
    domain = [float(low - margin), float(high + margin)]
    about = f"{capitalised(title)} of views, after each layer, by augmentation."
    return named_lines(table, "layer", title, domain, about, 340)


def _over_severities(rows: pd.DataFrame, title: str, about: str, height: int) -> Chart:
    """Means with intervals as lines over severities, from 0 or less; cosines as shifts."""
    rows = as_shift(rows)
    values = rows[["mean", "ci_low", "ci_high"]].to_numpy(float)
    low, high = min(0.0, np.nanmin(values)), np.nanmax(values)
    margin = 0.04 * ((high - low) or 1)
    domain = [float(low - (margin if low < 0 else 0)), float(high + margin)]
    table = rows.assign(severity=rows["severity"].astype(int))
    return named_lines(table, "severity", title, domain, about, height)
