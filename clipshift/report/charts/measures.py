"""Charts of measures: means of all, against severity, over photos, and what goes with them."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from clipshift.measure import Facts
from clipshift.report.charts.marks import (
    STRONGEST,
    domain_of,
    heat_map,
    intervals_in_words,
    named_lines,
)
from clipshift.report.charts.vega import ACCENT, OPPOSITE, Chart, color_of, with_severity
from clipshift.report.words import capitalised
from clipshift.results import (
    Shift,
    augmentations_by_shift,
    by_photo,
    normalized_change,
    shown_measures,
)
from clipshift.severities import LADDER


def draw_severity(summary: pd.DataFrame, measure: str, facts: Facts) -> Chart:
    """A measure's mean against numbered severities, one line per augmentation, with intervals.

    Args:
        summary: From `clipshift.results.summarize`.
        measure: Which; the shift 1 − cosine for ``cosine_similarity``.
        facts: The measure's.
    """
    rows = summary[(summary["measure"] == measure) & summary["severity"].isin(LADDER)]
    means, low, high = rows["mean"], rows["ci_low"], rows["ci_high"]
    title = capitalised(facts.label)
    if measure == "cosine_similarity":
        means, low, high, title = 1 - means, 1 - high, 1 - low, "1 − cosine"
    table = pd.DataFrame(
        {"severity": rows["severity"].astype(int), "augmentation": rows["augmentation"],
         "mean": means, "ci_low": low, "ci_high": high}
    ).reset_index(drop=True)  # fmt: skip
    table["told"] = intervals_in_words(table, "mean", "ci_low", "ci_high")
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("severity:Q"),
        alt.Tooltip("told:N", title=title),
    ]
    domain = domain_of(table, ["mean", "ci_low", "ci_high"])
    chart = named_lines(
        table, "severity", "mean", title, ("ci_low", "ci_high"), tooltip, domain, 380
    )
    return chart.properties(
        description=f"{title} against severity, one line per augmentation, with 95 % intervals."
    )


def draw_distribution(shift: Shift, measure: str, facts: Facts) -> Chart:
    """How a measure spreads over photos, by augmentation: 90 % and 50 % of them, and the median.

    Args:
        shift: From `clipshift.results.shift_table`, or its file.
        measure: Which.
        facts: The measure's.
    """
    table = by_photo(shift, measure).quantile([0.05, 0.25, 0.5, 0.75, 0.95]).T
    table.columns = pd.Index(["p5", "p25", "median", "p75", "p95"])
    table = table.reset_index()
    names = sorted(table["augmentation"].unique())
    order = alt.EncodingSortField("median", op="max", order="descending")
    y = alt.Y("augmentation:N", sort=order, title=None)
    color, title = color_of(names), f"{facts.label}, photo by photo"
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("median:Q", format=".3f"),
        *(alt.Tooltip(f"p{k}:Q", title=f"{k} % of photos below", format=".3f")
          for k in (5, 25, 75, 95)),
    ]  # fmt: skip
    chart = alt.layer(
        alt.Chart().mark_rule(strokeWidth=1.5).encode(
            x=alt.X("p5:Q", title=title), x2="p95:Q", y=y, color=color
        ),
        alt.Chart().mark_bar(height=11, opacity=0.55, cornerRadius=2).encode(
            x=alt.X("p25:Q", title=title), x2="p75:Q", y=y, color=color, tooltip=tooltip
        ),
        alt.Chart().mark_tick(thickness=2.5, height=17).encode(
            x=alt.X("median:Q", title=title, scale=alt.Scale(zero=True),
                    axis=alt.Axis(tickCount=6)), y=y, color=color,
            tooltip=tooltip,
        ),
        data=table,
    )  # fmt: skip
    return with_severity(chart, table).properties(
        width="container",
        height=25 * len(names),
        description=f"{capitalised(facts.label)} over photos: median, middle half, and middle 90 %"
        " of them, by augmentation.",
    )


def draw_heatmap(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> Chart:
    """Measure × augmentation: means as numbers, darker the farther from no change.

    A column's darkest colour is its largest change, or `clipshift.results.LEAST_CHANGE` where all
    are smaller. Blank: an interval that includes no change, or a measure without a value for it.

    Args:
        summary: Means with intervals.
        columns: What the measures are.
    """
    names = shown_measures(summary, columns)
    parts = []
    for severity, rows in summary.groupby("severity", sort=False):
        changes = normalized_change(rows, columns)
        for name in names:
            own = rows[rows["measure"] == name].set_index("augmentation")
            parts.append(
                pd.DataFrame(
                    {"severity": severity, "measure": columns[name].short,
                     "label": columns[name].label, "harm": changes[name].round(4),
                     "mean": own["mean"].map("{:.2f}".format),
                     "told": intervals_in_words(own, "mean", "ci_low", "ci_high")}
                ).reset_index(names="augmentation")
            )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("label:N", title="measure"),
        alt.Tooltip("told:N", title="mean, 95 %"),
    ]
    chart = heat_map(
        table,
        alt.X("measure:N", sort=[columns[m].short for m in names], title=None),
        alt.Y("augmentation:N", sort=augmentations_by_shift(summary), title=None),
        alt.FillOpacity(
            "harm:Q", scale=alt.Scale(domain=[0, 1], range=[0, STRONGEST]), legend=None
        ),
        alt.value(ACCENT),
        "mean",
        tooltip,
    )
    return with_severity(chart, table).properties(
        description="Every measure under every augmentation; blank where it may be no change."
    )


def draw_correlations(correlations: pd.DataFrame, columns: Mapping[str, Facts]) -> Chart:
    """What goes with the shift over photos: Spearman's ρ, blank where its interval includes 0.

    Args:
        correlations: From `clipshift.results.correlate`.
        columns: What the run's measured columns are.
    """
    words = {facts.correlate: facts.correlate_label for facts in columns.values()}
    known = correlations.dropna(subset=["rho"])
    told = (known["ci_low"] > 0) | (known["ci_high"] < 0)
    table = pd.DataFrame(
        {
            "severity": known["severity"],
            "augmentation": known["augmentation"],
            "with": known["with"].map(words),
            "rho": known["rho"].where(told, 0).round(4),
            "text": [f"{rho:+.2f}" if clear else "" for rho, clear in
                     zip(known["rho"], told, strict=True)],
            "told": intervals_in_words(known, "rho", "ci_low", "ci_high", "+.2f"),
            "p": known["p_holm"],
        }
    )  # fmt: skip
    strength = alt.FillOpacity(
        "strength:Q", scale=alt.Scale(domain=[0, 1], range=[0, STRONGEST]), legend=None
    )
    chart = heat_map(
        table,
        alt.X("with:N", sort=[words[w] for w in correlations["with"].unique()], title=None),
        alt.Y("augmentation:N", sort=list(table["augmentation"].unique()), title=None),
        strength,
        alt.condition("datum.rho > 0", alt.value(ACCENT), alt.value(OPPOSITE)),
        "text",
        [
            alt.Tooltip("augmentation:N"),
            alt.Tooltip("with:N"),
            alt.Tooltip("told:N", title="Spearman’s ρ, 95 %"),
            alt.Tooltip("p:Q", title="p after Holm’s correction", format=".2g"),
        ],
    ).transform_calculate(strength="abs(datum.rho)")
    return with_severity(chart, table).properties(
        description="Spearman's rank correlation of the shift with other measures over photos; "
        "blue: both large together, amber: the opposite, blank: may be none."
    )
