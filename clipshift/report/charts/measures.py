"""Charts of measures: all means, one measure over photos, correlations and errors."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, OPPOSITE, color_of
from clipshift.report.charts.vega import Chart
from clipshift.report.words import capitalised
from clipshift.results.change import augmentations_by_shift, normalized_change, shown_measures
from clipshift.results.table import Shift, by_photo


def draw_heatmap(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> Chart:
    """Measure × augmentation: means as numbers, darker the farther from no change.

    A column's darkest colour is its largest change, or `clipshift.results.change.LEAST_CHANGE`
    where all are smaller. Blank: an interval that includes no change, or a measure that has no
    value for it.

    Args:
        summary: Means with intervals.
        columns: What the measures are.
    """
    names = shown_measures(summary, columns)
    parts = []
    for _, rows in summary.groupby("severity", sort=False):
        changes = normalized_change(rows, columns).round(4)
        for name in names:
            means = rows[rows["measure"] == name]
            words = {"measure": columns[name].short, "label": columns[name].label}
            strength = changes.loc[means["augmentation"], name].to_numpy()
            parts.append(means.assign(strength=strength, **words))
    table = marks.with_words(pd.concat(parts, ignore_index=True), "mean")
    table["text"] = table["mean"].map("{:.2f}".format)
    return marks.heat_map(
        table,
        {
            "measure": [columns[name].short for name in names],
            "augmentation": augmentations_by_shift(summary),
        },
        alt.value(ACCENT),
        marks.tooltip("augmentation", label="measure", interval="mean, 95 %"),
        description="Every measure under every augmentation; blank where it may be no change.",
    )


def draw_correlations(correlations: pd.DataFrame, columns: Mapping[str, Facts]) -> Chart:
    """Correlations with the shift over photos: Spearman's ρ, blank where its interval includes 0.

    Args:
        correlations: From `clipshift.results.ranking.correlate`.
        columns: What the run's measured columns are.
    """
    words = {facts.correlate: facts.correlate_label for facts in columns.values()}
    rows = marks.with_words(correlations.dropna(subset=["rho"]), "rho", "+.2f")
    significant = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    rho = rows["rho"].where(significant, 0).round(4)
    table = rows.assign(
        rho=rho,
        strength=rho.abs(),
        text=rows["rho"].map("{:+.2f}".format).where(significant, ""),
        other=rows["with"].map(words),
    )
    p = ("p after Holm’s correction", ".2g")
    return marks.heat_map(
        table,
        {
            "other": [words[name] for name in correlations["with"].unique()],
            "augmentation": list(table["augmentation"].unique()),
        },
        alt.condition("datum.rho > 0", alt.value(ACCENT), alt.value(OPPOSITE)),
        marks.tooltip("augmentation", other="with", interval="Spearman’s ρ, 95 %", p_holm=p),
        description="Spearman's rank correlation of the shift with other measures over photos; "
        "blue: both large together, amber: the opposite, blank: may be none.",
    )


def draw_distribution(shift: Shift, measure: str, facts: Facts) -> Chart:
    """How a measure spreads over photos, by augmentation: 90 % and 50 % of them, and the median.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file.
        measure: Which.
        facts: The measure's.
    """
    table = by_photo(shift, measure).quantile([0.05, 0.25, 0.5, 0.75, 0.95]).T
    table = table.set_axis(["p5", "p25", "median", "p75", "p95"], axis=1).reset_index()
    below = {f"p{share}": (f"{share} % of photos below", ".3f") for share in (5, 25, 75, 95)}
    tips = marks.tooltip("augmentation", median=("median", ".3f"), **below)
    title = f"{facts.label}, photo by photo"
    row = alt.Chart().encode(y=marks.augmentations_by("median"), color=color_of(table))
    most, half = (
        {"x": alt.X(f"{low}:Q", title=title), "x2": f"{high}:Q"}
        for low, high in (("p5", "p95"), ("p25", "p75"))
    )
    median = {"x": marks.values_from_zero("median", title), "tooltip": tips}
    return marks.layered(
        table,
        row.mark_rule(strokeWidth=1.5).encode(**most),
        row.mark_bar(height=11, opacity=0.55, cornerRadius=2).encode(**half, tooltip=tips),
        row.mark_tick(thickness=2.5, height=17).encode(**median),
        height=25 * table["augmentation"].nunique(),
        description=f"{capitalised(facts.label)} over photos: median, middle half, and middle 90 %"
        " of them, by augmentation.",
    )


def draw_corruption_error(errors: pd.DataFrame) -> Chart:
    """The error under each stored corruption and severity over the shift, with 95 % intervals.

    Args:
        errors: From `clipshift.results.corruptions.corruption_errors`, with shifts.
    """
    table = marks.with_words(errors.dropna(subset=["error", "shift"]), "error")
    x = alt.X("shift:Q", title="shift (1 − cosine)", scale=alt.Scale(zero=True))
    y = alt.Y("error:Q", title="top-1 error", scale=alt.Scale(domain=[0, 1]))
    rule, solid = {"strokeWidth": 2, "opacity": 0.3}, marks.SOLID | {"size": 70}
    interval, point = marks.interval_and_point(y, rule, solid, x=x, color=color_of(table))
    tips = marks.tooltip(
        augmentation="corruption", severity="severity", interval="error", shift=("shift", ".3f")
    )
    return marks.layered(
        table,
        interval,
        point.encode(tooltip=tips),
        alt.Chart().mark_text(align="left", dx=7).encode(x, y, text="severity:N"),
        by_severity=False,
        height=360,
        description="Top-1 error over the shift, a point for each stored corruption and severity.",
    )
