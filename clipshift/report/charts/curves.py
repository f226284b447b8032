"""Charts of curves: over severities, and over layers."""

import altair as alt
import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.charts import marks
from clipshift.report.charts.look import color_of, dash_of
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

DOSE_HEIGHT = 400


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


def draw_dose(dose: pd.DataFrame, thresholds: pd.DataFrame, title: str) -> Chart:
    """The shift against the distortion, a line with its band for each augmentation.

    A rule is at the level of the thresholds, and a point where a line first reaches it.

    Args:
        dose: ``dose.csv`` of a run, and lines of further names.
        thresholds: ``dose_thresholds.csv``.
        title: The name of the distortion.
    """
    table = marks.with_words(dose, "mean")
    last = table.groupby("augmentation", sort=False).tail(1).index
    level = thresholds["level"].iloc[0]
    top = float(max(table["ci_high"].max(), 1.05 * level))
    gap = 15 / DOSE_HEIGHT * top
    table.loc[last, "label_y"] = marks.spread(table.loc[last, "mean"].to_numpy(), gap, 0, top)
    names = table.loc[last, "augmentation"]
    table.loc[last, "reached"] = names.map(thresholds.set_index("augmentation")["distortion"])
    table.loc[last, "level"] = level
    over = marks.pointed_at("augmentation")
    dim = alt.condition(over, alt.value(1), alt.value(0.15))
    faint = alt.condition(over, alt.value(0.25), alt.value(0.06))
    room = alt.Scale(range=[0, alt.expr(f"width - {marks.LABEL}")])
    x = alt.X("distortion:Q", title=title, scale=room, axis=alt.Axis(grid=False))
    scale, name = alt.Scale(domain=[0, top], nice=False), shift_name(COSINE)
    y, label_y, at_level, low = (
        alt.Y(f"{column}:Q", title=name, scale=scale)
        for column in ("mean", "label_y", "level", "ci_low")
    )
    line = alt.Chart().encode(color_of(table), x, opacity=dim)
    tips = marks.tooltip("augmentation", distortion=(title, ".2f"), interval=name)
    rule = alt.Chart().encode(alt.Y("mean(level):Q", title=name, scale=scale))
    nearby, left = alt.value("fifth percentile of distances between photos"), alt.value(6)
    return marks.layered(
        table,
        line.mark_area().encode(low, y2="ci_high:Q", opacity=faint),
        rule.mark_rule(strokeDash=[4, 4]),
        rule.mark_text(align="left", dy=-8).encode(x=left, text=nearby),
        line.mark_line(strokeWidth=2).encode(y, dash_of(table), tooltip=tips).add_params(over),
        line.mark_point(**marks.SOLID).encode(alt.X("reached:Q"), at_level),
        line.mark_text(align="left", dx=6).encode(label_y, text="augmentation:N"),
        by_severity=False,
        height=DOSE_HEIGHT,
        description=f"{name} against {title}, a line for each augmentation, with 95 % bands.",
    )


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
    return marks.named_lines(table, "layer", title, domain, about, 340)


def _over_severities(rows: pd.DataFrame, title: str, about: str, height: int) -> Chart:
    """Means with intervals as lines over severities, from 0 or less; cosines as shifts."""
    rows = as_shift(rows)
    values = rows[["mean", "ci_low", "ci_high"]].to_numpy(float)
    low, high = min(0.0, np.nanmin(values)), np.nanmax(values)
    margin = 0.04 * ((high - low) or 1)
    domain = [float(low - (margin if low < 0 else 0)), float(high + margin)]
    table = rows.assign(severity=rows["severity"].astype(int))
    return marks.named_lines(table, "severity", title, domain, about, height)
