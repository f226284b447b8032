"""The figures of a report as Altair charts: one specification for page, SVG, PNG and notebook.

Each function takes plain tables of a run and returns a chart. Where a table has several severities,
the chart has a parameter ``severity`` that chooses one of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram

from clipshift.measure import Facts
from clipshift.measure.functional import augmentation_linkage
from clipshift.report.vega import (
    ACCENT,
    MUTED,
    OPPOSITE,
    Chart,
    color_of,
    dash_of,
    scale_of,
    shape_of,
    with_severity,
)
from clipshift.report.words import capitalised, ranks_in_words, with_interval
from clipshift.results import Shift, by_photo, pivot
from clipshift.severities import LADDER, MATCHED, PAPER, split_view_name

FAINT = 0.05
"""A heat map's strongest colour stands for at least this share of a measure's range, or of 1."""
STRONGEST = 0.6
"""Opacity of a heat map's strongest colour: text stays readable on it, on white and on black."""
MANY_LINES = 6
"""With more lines than this, their intervals are thin."""
LABEL = 160
"""Room for an augmentation's name beside a line's end, in pixels."""
CELL = 58
"""Width of a heat map's cell in pixels."""


def draw_pictures(pictures: Mapping[str, str], columns: int = 5) -> Chart:
    """Pictures side by side, each below its name.

    Args:
        pictures: Data URLs by name.
        columns: How many stand in a row.
    """
    table = pd.DataFrame({"name": list(pictures), "picture": list(pictures.values())})
    return (
        alt.Chart(table, width=160, height=160)
        .mark_image(width=160, height=160, align="left", baseline="top")
        .encode(url="picture:N", x=alt.value(0), y=alt.value(0))
        .facet(
            facet=alt.Facet("name:N", sort=list(pictures), title=None), columns=columns, spacing=8
        )
    )


def _numbers(table: pd.DataFrame, mean: str, low: str, high: str, digits: str = ".3f") -> list[str]:
    """Means with intervals in words, for hovering."""
    return [
        with_interval(value, least, most, digits)
        for value, least, most in table[[mean, low, high]].to_numpy(float)
    ]


def draw_ranking(ranking: pd.DataFrame, summary: pd.DataFrame) -> Chart:
    """Augmentations by their mean shift, the largest first, with 95 % intervals and ranks.

    The axis is the relative shift where it was measured, and otherwise 1 − cosine.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        summary: From `clipshift.results.summarize`.
    """
    table = ranking.assign(
        cosine=_numbers(ranking, "shift", "ci_low", "ci_high"),
        ranks=[ranks_in_words(row.rank_low, row.rank_high) for row in ranking.itertuples()],
    )
    title = "mean of 1 − cosine similarity"
    relative = summary[summary["measure"] == "relative_shift"]
    if len(relative) and relative["mean"].notna().all():
        title = "relative shift (1: another photo)"
        keys = ["augmentation", "severity"]
        own = table.drop(columns=["ci_low", "ci_high"])
        table = own.merge(relative[[*keys, "mean", "ci_low", "ci_high"]], on=keys)
    else:
        table = table.rename(columns={"shift": "mean"})
    table = table.assign(
        told=_numbers(table, "mean", "ci_low", "ci_high"),
        place="rank " + table["ranks"],
    )
    names = sorted(table["augmentation"].unique())
    order = alt.EncodingSortField("mean", op="max", order="descending")
    y = alt.Y("augmentation:N", sort=order, title=None)
    scale = alt.Scale(zero=True, range=[0, alt.expr("width - 62")])
    x = alt.X("mean:Q", title=title, axis=alt.Axis(tickCount=6), scale=scale)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("told:N", title=title.split(" (")[0]),
        alt.Tooltip("cosine:N", title="1 − cosine"),
        alt.Tooltip("ranks:N", title="rank, 95 %"),
        alt.Tooltip("n:Q", title="photos"),
    ]
    chart = alt.layer(
        alt.Chart()
        .mark_rule(strokeWidth=5, opacity=0.45)
        .encode(x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=color_of(names)),
        alt.Chart()
        .mark_point(size=90, filled=True, opacity=1)
        .encode(x=x, y=y, color=color_of(names), shape=shape_of(names), tooltip=tooltip),
        alt.Chart()
        .mark_text(align="left", dx=9)
        .encode(x=alt.X("ci_high:Q", title=title), y=y, text="place:N"),
        data=table[
            ["severity", "augmentation", "mean", "ci_low", "ci_high", "told", "cosine", "ranks",
             "place", "n"]
        ],
    )  # fmt: skip
    return with_severity(chart, table).properties(
        width="container",
        height=27 * len(names),
        description="Augmentations by their mean shift, with 95 % intervals and ranks.",
    )


def draw_agreement(ranking: pd.DataFrame) -> Chart:
    """The rankings at the paper's and at matched severities, joined by lines.

    Args:
        ranking: From `clipshift.results.rank_augmentations`, with both severities.
    """
    table = ranking[ranking["severity"].isin([PAPER, MATCHED])].assign(
        ranks=[ranks_in_words(row.rank_low, row.rank_high) for row in ranking.itertuples()]
    )
    names = sorted(table["augmentation"].unique())
    x = alt.X(
        "severity:N",
        sort=[PAPER, MATCHED],
        title=None,
        scale=alt.Scale(padding=0, range=[alt.expr("190"), alt.expr("width - 190")]),
        axis=alt.Axis(orient="top", labelAngle=0, labelFontWeight="bold"),
    )
    y = alt.Y("rank:Q", axis=None, scale=alt.Scale(reverse=True, domain=[0.5, len(names) + 0.5]))
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("severity:N"),
        alt.Tooltip("ranks:N", title="rank, 95 %"),
        alt.Tooltip("shift:Q", title="1 − cosine", format=".3f"),
    ]

    def side(severity: str, align: Literal["left", "right"], dx: int) -> alt.Chart:
        text = "datum.ranks + '  ' + datum.augmentation"
        text = text if severity == MATCHED else "datum.augmentation + '  ' + datum.ranks"
        return (
            alt.Chart()
            .mark_text(align=align, dx=dx, fontSize=12)
            .transform_filter(f"datum.severity == '{severity}'")
            .transform_calculate(text=text)
            .encode(x=x, y=y, text="text:N")
        )

    color, shape, dash = color_of(names), shape_of(names), dash_of(names)
    columns = ["severity", "augmentation", "rank", "ranks", "shift"]
    return alt.layer(
        alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash),
        alt.Chart()
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip),
        side(PAPER, "right", -10),
        side(MATCHED, "left", 10),
        data=table[columns],
    ).properties(
        width="container",
        height=27 * len(names),
        description="Ranks of the augmentations at the paper's strengths and at equal distortion.",
    )


def _spread(positions: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions moved apart to at least a gap, in their order, upwards from low where they can."""
    order = np.argsort(positions, kind="stable")
    moved = positions[order].astype(float)
    for _ in range(200):
        short = gap - np.diff(moved)
        push = np.where(short > 1e-9, short / 2, 0)
        moved[:-1] -= push
        moved[1:] += push
    room = high - low - gap * (len(moved) - 1)
    for index in range(len(moved)):
        least = low + gap * index if room > 0 else low
        moved[index] = max(moved[index], least, moved[index - 1] + gap if index else least)
    for index in range(len(moved))[::-1]:
        after = moved[index + 1] - gap if index + 1 < len(moved) else high
        moved[index] = min(moved[index], after)
    result = np.empty_like(moved)
    result[order] = moved
    return result


def _lines(
    table: pd.DataFrame, across: str, y: str, title: str, bounds: tuple[str, str] | None,
    tooltip: list[alt.Tooltip], domain: tuple[float, float], height: int = 340,
) -> Any:  # fmt: skip
    """One line for each augmentation with its name at its end; hovering dims the others.

    Args:
        table: One row per line and point on the x axis: ``augmentation``, and, where an
            augmentation has several lines, ``line``, what each is called.
        across: Column of the x axis, of whole numbers.
        y: Column of the y axis.
        title: Of the y axis.
        bounds: Columns of the interval's ends; None where there is none.
        tooltip: What hovering shows.
        domain: Of the y axis.
        height: In pixels.
    """
    names = sorted(table["augmentation"].unique())
    table = table.assign(line=table.get("line", table["augmentation"]), label_y=np.nan)
    ends = table[(table[across] == table[across].max()) & table[y].notna()]
    gap = 15 / height * (domain[1] - domain[0])
    apart = across != "severity" and "severity" in table
    for _, part in ends.groupby("severity" if apart else lambda _: 0, sort=False):
        table.loc[part.index, "label_y"] = _spread(part[y].to_numpy(float), gap, *domain)
    over = alt.selection_point(name="over", fields=["line"], on="pointerover", clear="pointerout")
    dim = alt.condition(over, alt.value(1), alt.value(0.15))
    scale = alt.Scale(domain=list(domain), nice=False)
    steps = sorted(table[across].unique().tolist())
    x = alt.X(
        f"{across}:Q",
        title=across,
        axis=alt.Axis(values=steps, format="d", grid=False),
        scale=alt.Scale(range=[0, alt.expr(f"width - {LABEL}")], zero=False),
    )
    color, shape = color_of(names), shape_of(names)
    of_y, of_label = (alt.Y(f"{column}:Q", title=title, scale=scale) for column in (y, "label_y"))
    base = alt.Chart().encode(x=x, color=color, detail="line:N")
    labels = alt.Chart().transform_filter("isValid(datum.label_y)").encode(x=x, y=of_label)
    layers = [
        base.mark_line(strokeWidth=2).encode(y=of_y, strokeDash=dash_of(names), opacity=dim),
        base.mark_point(filled=True, size=55, opacity=1)
        .encode(y=of_y, shape=shape, opacity=dim, tooltip=tooltip)
        .add_params(over),
        labels.mark_point(filled=True, size=40, xOffset=16).encode(
            color=color, shape=shape, opacity=dim
        ),
        labels.mark_text(align="left", dx=24).encode(text="line:N", opacity=dim),
    ]
    if bounds:
        thin = table["line"].nunique() > MANY_LINES
        interval = base.mark_rule(strokeWidth=1.5 if thin else 5).encode(
            y=alt.Y(f"{bounds[0]}:Q", title=title, scale=scale),
            y2=f"{bounds[1]}:Q",
            opacity=alt.condition(over, alt.value(0.35), alt.value(0.08)),
        )
        layers.insert(0, interval)
    return alt.layer(*layers, data=table).properties(width="container", height=height)


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
    table["told"] = _numbers(table, "mean", "ci_low", "ci_high")
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("severity:Q"),
        alt.Tooltip("told:N", title=title),
    ]
    domain = _domain(table, ["mean", "ci_low", "ci_high"])
    chart = _lines(table, "severity", "mean", title, ("ci_low", "ci_high"), tooltip, domain, 380)
    return chart.properties(
        description=f"{title} against severity, one line per augmentation, with 95 % intervals."
    )


def _domain(table: pd.DataFrame, columns: Sequence[str]) -> tuple[float, float]:
    """From 0 or the least value to the greatest, with a margin."""
    values = table[list(columns)].to_numpy(float)
    low, high = min(0.0, np.nanmin(values)), np.nanmax(values)
    margin = 0.04 * ((high - low) or 1)
    return float(low - (margin if low < 0 else 0)), float(high + margin)


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
    table["told"] = _numbers(table, column, *ends)
    tooltip = [
        alt.Tooltip("augmentation:N"), alt.Tooltip("layer:Q"), alt.Tooltip("told:N", title=title),
    ]  # fmt: skip
    values = table[[column, *(bounds or ())]].to_numpy(float)
    low, high = (0, np.nanmax(values)) if column == "tokens" else (np.nanmin(values), 1)
    margin = 0.05 * ((high - low) or 1)
    kept = ["augmentation", "severity", "layer", column, *(bounds or ()), "told"]
    domain = (float(low - margin), float(high + margin))
    chart = _lines(table[kept], "layer", column, title, bounds, tooltip, domain)
    return with_severity(chart, table).properties(
        description=f"{capitalised(title)} of views, after each layer, by augmentation."
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

    A column's darkest colour is its farthest mean, or `FAINT` where all lie nearer. What cannot be
    told from no change stays blank, and so does a measure that has no value for it.

    Args:
        summary: Means with intervals.
        columns: What the measures are.
    """
    names = shown_measures(summary, columns)
    parts = []
    for severity, rows in summary.groupby("severity", sort=False):
        harms = harm(rows, columns)
        for name in names:
            own = rows[rows["measure"] == name].set_index("augmentation")
            parts.append(
                pd.DataFrame(
                    {"severity": severity, "measure": columns[name].short,
                     "label": columns[name].label, "harm": harms[name].round(4),
                     "mean": own["mean"].map("{:.2f}".format),
                     "told": _numbers(own, "mean", "ci_low", "ci_high")}
                ).reset_index(names="augmentation")
            )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("label:N", title="measure"),
        alt.Tooltip("told:N", title="mean, 95 %"),
    ]
    chart = _matrix(
        table,
        alt.X("measure:N", sort=[columns[m].short for m in names], title=None),
        alt.Y("augmentation:N", sort=_by_shift(summary), title=None),
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


def _matrix(
    table: pd.DataFrame, x: alt.X, y: alt.Y, opacity: alt.FillOpacity, color: Any, text: str,
    tooltip: list[alt.Tooltip],
) -> Any:  # fmt: skip
    """A heat map: rectangles with text on them."""
    x = x.axis(orient="top", labelAngle=-38, labelAlign="left", grid=False, labelOverlap=False)
    y = y.axis(grid=False, labelOverlap=False)
    return alt.layer(
        alt.Chart().mark_rect(cornerRadius=2, stroke=MUTED, strokeOpacity=0.15).encode(
            x=x, y=y, fillOpacity=opacity, fill=color, tooltip=tooltip
        ),
        alt.Chart().mark_text().encode(x=x, y=y, text=f"{text}:N", tooltip=tooltip),
        data=table,
    ).properties(width=alt.Step(CELL), height=alt.Step(26))  # fmt: skip


def _by_shift(summary: pd.DataFrame) -> list[str]:
    """Augmentations by their cosine over all severities, the largest shift first."""
    rows = summary[summary["measure"] == "cosine_similarity"]
    if rows.empty:
        return list(summary["augmentation"].unique())
    return list(rows.groupby("augmentation")["mean"].mean().sort_values(kind="stable").index)


def harm(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> pd.DataFrame:
    """How far each mean is from no change, in shares of its measure's farthest.

    0 where the interval includes no change, or where a measure has no value for it.

    Args:
        summary: One severity's means with intervals.
        columns: What the measures are.

    Returns:
        One row per augmentation, one column per measure, in [0, 1].
    """
    means, low, high = (pivot(summary, column) for column in ("mean", "ci_low", "ci_high"))
    made = {}
    for name in means:
        facts = columns[str(name)]
        if facts.unchanged is None:
            made[name] = pd.Series(0.0, means.index)
            continue
        changed = (low[name] > facts.unchanged) | (high[name] < facts.unchanged)
        distance = (means[name] - facts.unchanged).abs().where(changed, 0.0)
        span = facts.high - facts.low
        least = FAINT * (max(span, 1.0) if np.isfinite(span) else 1.0)
        made[name] = distance / max(distance.max(), least)
    return pd.DataFrame(made)


def shown_measures(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> list[str]:
    """The measures of a summary that tell of a shift: of embeddings first, of pixels last."""
    spaces = ["embedding", "text", "gaze", "aligned gaze", "pixels"]
    measures = [m for m in summary["measure"].unique() if columns[m].space in spaces]
    return sorted(measures, key=lambda m: spaces.index(columns[m].space))


def draw_gaze(summary: pd.DataFrame) -> Chart:
    """Divergence of the gaze as it is, and moved back with the pixels, with 95 % intervals.

    Args:
        summary: From `clipshift.results.summarize`, with ``gaze_divergence`` and, where it was
            measured, ``gaze_divergence_aligned``.
    """
    kinds = {
        "gaze_divergence_aligned": "on the photo (moved back)",
        "gaze_divergence": "in the view",
    }
    rows = summary[summary["measure"].isin(list(kinds))]
    # one point is enough where no pixel moves
    keys = ["augmentation", "severity", "mean", "ci_low", "ci_high"]
    aligned = rows["measure"] == "gaze_divergence_aligned"
    rows = pd.concat([rows[aligned], rows[~aligned]]).drop_duplicates(keys)
    table = rows.assign(
        told=_numbers(rows, "mean", "ci_low", "ci_high"), kind=rows["measure"].map(kinds)
    )
    names = sorted(table["augmentation"].unique())
    order = alt.EncodingSortField("mean", op="min", order="descending")
    y = alt.Y("augmentation:N", sort=order, title=None)
    title = "gaze divergence (bits)"
    x = alt.X("mean:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    shape = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=list(kinds.values()), range=["circle", "square"]),
        legend=alt.Legend(title=None, orient="top", columns=1, labelLimit=300),
    )
    filled = f"datum.kind == '{kinds['gaze_divergence_aligned']}'"
    color = color_of(names)
    chart = alt.layer(
        alt.Chart().mark_rule(strokeWidth=4, opacity=0.3).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=color
        ),
        alt.Chart().mark_point(filled=False, size=85, opacity=1, strokeWidth=2).encode(
            x=x, y=y, color=color, fill=alt.Fill("augmentation:N", scale=scale_of(names, "color"),
            legend=None), shape=shape,
            fillOpacity=alt.condition(filled, alt.value(1), alt.value(0)), tooltip=[
                alt.Tooltip("augmentation:N"), alt.Tooltip("kind:N", title="compared"),
                alt.Tooltip("told:N", title="divergence"),
            ],
        ),
        data=table[["severity", "augmentation", "kind", "mean", "ci_low", "ci_high", "told"]],
    )  # fmt: skip
    return with_severity(chart, table).properties(
        width="container",
        height=27 * len(names),
        description="Divergence of the gaze between view and clean view, by augmentation, as it is "
        "in the view and moved back onto the photo, with 95 % intervals.",
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
            "told": _numbers(known, "rho", "ci_low", "ci_high", "+.2f"),
            "p": known["p_holm"],
        }
    )  # fmt: skip
    strength = alt.FillOpacity(
        "strength:Q", scale=alt.Scale(domain=[0, 1], range=[0, STRONGEST]), legend=None
    )
    chart = _matrix(
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


def draw_distances(
    distances: pd.DataFrame,
    low: pd.DataFrame,
    high: pd.DataFrame,
    description: str = "Mean distance between two augmentations' views of the same photo, and the "
    "tree of their Ward linkage.",
) -> Chart:
    """Distances between augmentations' views of one photo, and the tree of their Ward linkage.

    Args:
        distances: Mean distances, K × K, with names ``AUGMENTATION`` or ``AUGMENTATION@SEVERITY``.
        low: Lower ends of their 95 % intervals, K × K.
        high: Upper ends.
        description: What they are, for those who cannot see the figure.
    """
    views = list(distances.index)
    severity_of = {view: split_view_name(view)[1] for view in views}
    cells, branches = [], []
    for severity in dict.fromkeys(severity_of.values()):
        own = [view for view in views if severity_of[view] == severity]
        if len(own) < 2:
            continue
        matrix = distances.loc[own, own].to_numpy(float)
        tree = augmentation_linkage(matrix)
        drawn = dendrogram(tree, no_plot=True)
        leaves = drawn["leaves"]
        names = [split_view_name(view)[0] for view in own]
        most = matrix.max() or 1
        for row, i in enumerate(leaves):
            for column, j in enumerate(leaves):
                value, ends = matrix[i, j], (low.loc[own[i], own[j]], high.loc[own[i], own[j]])
                cells.append(
                    (severity, names[i], names[j], row, column, round(value / most, 4),
                     f"{value:.2f}" if i != j else "",
                     with_interval(value, *(ends if i != j else (np.nan, np.nan))))
                )  # fmt: skip
        for branch, (xs, ys) in enumerate(zip(drawn["icoord"], drawn["dcoord"], strict=True)):
            branches += [
                (severity, branch, step, (x - 5) / 10, y)
                for step, (x, y) in enumerate(zip(xs, ys, strict=True))
            ]
    table = pd.DataFrame(
        cells,
        columns=["severity", "augmentation", "other", "row", "column", "share", "text", "told"],
    )
    tree_table = pd.DataFrame(branches, columns=["severity", "branch", "step", "leaf", "height"])
    count = table["augmentation"].nunique()
    matrix_chart = _matrix(
        table,
        alt.X("other:N", sort=alt.EncodingSortField("column", op="min"), title=None),
        alt.Y("augmentation:N", sort=alt.EncodingSortField("row", op="min"), title=None),
        alt.FillOpacity(
            "share:Q", scale=alt.Scale(domain=[0, 1], range=[0, STRONGEST]), legend=None
        ),
        alt.value(ACCENT),
        "text",
        [
            alt.Tooltip("augmentation:N", title="one"),
            alt.Tooltip("other:N"),
            alt.Tooltip("told:N", title="1 − cosine, 95 %"),
        ],
    ).properties(width=alt.Step(46))
    tree_chart = (
        alt.Chart(tree_table)
        .mark_line(interpolate="linear", strokeWidth=1.5, color=MUTED)
        .encode(
            x=alt.X("height:Q", title="height of the merge (Ward)", axis=alt.Axis(tickCount=3)),
            y=alt.Y("leaf:Q", axis=None, scale=alt.Scale(domain=[-0.5, count - 0.5], reverse=True)),
            detail="branch:N",
            order="step:Q",
        )
        .properties(width=150, height=26 * count)
    )
    several = table["severity"].nunique() > 1
    if several:
        matrix_chart, tree_chart = (
            chart.transform_filter("datum.severity == severity")
            for chart in (matrix_chart, tree_chart)
        )
    chart = alt.hconcat(matrix_chart, tree_chart, spacing=14)
    if several:
        severities = list(table["severity"].unique())
        choice = alt.binding_select(options=severities, name="severity ")
        chart = chart.add_params(alt.param(name="severity", value=severities[0], bind=choice))
    return chart.properties(description=description)


def draw_against(rows: pd.DataFrame, title: str) -> Chart:
    """A number for each augmentation with its 95 % interval, and a tick to compare it with.

    Args:
        rows: ``severity``, ``augmentation``, ``value``, ``ci_low``, ``ci_high`` and ``reference``.
        title: What the number is.
    """
    table = rows.dropna(subset="value").assign(
        told=lambda known: _numbers(known, "value", "ci_low", "ci_high")
    )
    names = sorted(table["augmentation"].unique())
    order = alt.EncodingSortField("value", op="max", order="descending")
    y = alt.Y("augmentation:N", sort=order, title=None)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    color = color_of(names)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("told:N", title=title),
        alt.Tooltip("reference:Q", title="tick", format=".3f"),
    ]
    chart = alt.layer(
        alt.Chart().mark_rule(strokeWidth=5, opacity=0.45).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=color
        ),
        alt.Chart().mark_tick(thickness=2, height=17, color=MUTED).encode(
            x=alt.X("reference:Q", title=title), y=y
        ),
        alt.Chart().mark_point(size=90, filled=True, opacity=1).encode(
            x=x, y=y, color=color, shape=shape_of(names), tooltip=tooltip
        ),
        data=table[
            ["severity", "augmentation", "value", "ci_low", "ci_high", "reference", "told"]
        ],
    )  # fmt: skip
    return with_severity(chart, table).properties(
        width="container",
        height=alt.Step(25),
        description=f"{capitalised(title)}, by augmentation, with 95 % intervals.",
    )


def draw_corruption_error(errors: pd.DataFrame) -> Chart:
    """The error under each stored corruption and severity over the shift, with 95 % intervals.

    Args:
        errors: From `clipshift.results.corruption_errors`, with shifts.
    """
    table = errors.dropna(subset=["error", "shift"]).assign(
        told=lambda known: _numbers(known, "error", "ci_low", "ci_high")
    )
    names = sorted(table["augmentation"].unique())
    x = alt.X("shift:Q", title="shift (1 − cosine)", scale=alt.Scale(zero=True))
    y = alt.Y("error:Q", title="top-1 error", scale=alt.Scale(domain=[0, 1]))
    color = color_of(names)
    tooltip = [
        alt.Tooltip("augmentation:N", title="corruption"),
        alt.Tooltip("severity:N"),
        alt.Tooltip("told:N", title="error"),
        alt.Tooltip("shift:Q", format=".3f"),
    ]
    return alt.layer(
        alt.Chart().mark_rule(strokeWidth=2, opacity=0.3).encode(
            x=x, y=alt.Y("ci_low:Q", title="top-1 error"), y2="ci_high:Q", color=color
        ),
        alt.Chart().mark_point(size=70, filled=True, opacity=1).encode(
            x=x, y=y, color=color, tooltip=tooltip
        ),
        alt.Chart().mark_text(align="left", dx=7).encode(x=x, y=y, text="severity:N"),
        data=table[["augmentation", "severity", "shift", "error", "ci_low", "ci_high", "told"]],
    ).properties(
        width="container",
        height=360,
        description="Top-1 error over the shift, a point for each stored corruption and severity.",
    )  # fmt: skip


def draw_undone(undone: pd.DataFrame) -> Chart:
    """R² of the clean embedding by augmentation and method, with 95 % intervals.

    Args:
        undone: ``undone.csv`` of a run.
    """
    table = undone.assign(told=_numbers(undone, "r_squared", "ci_low", "ci_high"))
    methods = list(table["method"].unique())
    order = alt.EncodingSortField("r_squared", op="min", order="ascending")
    y = alt.Y("augmentation:N", sort=order, title=None)
    offset = alt.YOffset("method:N", sort=methods)
    title = "R² of the clean embedding"
    color = alt.Color(
        "method:N",
        scale=alt.Scale(domain=methods, range=[MUTED, OPPOSITE, ACCENT, "#8a4fb3"]),
        legend=alt.Legend(title=None, orient="top"),
    )
    shape = alt.Shape(
        "method:N",
        scale=alt.Scale(domain=methods, range=["cross", "square", "circle", "triangle-up"]),
        legend=alt.Legend(title=None, orient="top"),
    )
    tooltip = [
        alt.Tooltip("augmentation:N"), alt.Tooltip("method:N"), alt.Tooltip("told:N", title=title),
    ]  # fmt: skip
    chart = alt.layer(
        alt.Chart().mark_rule(strokeWidth=3, opacity=0.45).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, yOffset=offset, color=color
        ),
        alt.Chart().mark_point(size=55, filled=True, opacity=1).encode(
            x=alt.X("r_squared:Q", title=title), y=y, yOffset=offset, color=color, shape=shape,
            tooltip=tooltip,
        ),
        data=table[
            ["severity", "augmentation", "method", "r_squared", "ci_low", "ci_high", "told"]
        ],
    )  # fmt: skip
    return with_severity(chart, table).properties(
        width="container",
        height=alt.Step(11),
        description="How much of the clean embedding each method recovers from the view's, by "
        "augmentation, with 95 % intervals.",
    )


def draw_differences(table: pd.DataFrame, facts: Facts) -> Chart:
    """Paired differences of two runs in one measure, with 95 % intervals; hollow: may be none.

    Args:
        table: One measure's rows of `clipshift.results.compare_photos`; a column ``group``, where
            it has one, names what stands together, and ``label`` what to call each augmentation.
        facts: The measure's.
    """
    rows = table.assign(
        told=_numbers(table, "difference", "ci_low", "ci_high", "+.3f"),
        clear=np.where((table["ci_low"] > 0) | (table["ci_high"] < 0), "yes", "no"),
        group=table.get("group", ""),
        label=table.get("label", table["augmentation"]),
    )
    order = list(dict.fromkeys(rows["label"]))
    title = "B minus A" + (f" ({facts.better} is better)" if facts.better else "")
    y = alt.Y("label:N", sort=order, title=None)
    x = alt.X("difference:Q", title=title, axis=alt.Axis(tickCount=6))
    names = sorted(rows["augmentation"].unique())
    color = color_of(names)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("group:N", title="the model was"),
        alt.Tooltip("mean_a:Q", title="A", format=".3f"),
        alt.Tooltip("mean_b:Q", title="B", format=".3f"),
        alt.Tooltip("told:N", title="difference, 95 %"),
        alt.Tooltip("improved:Q", title="photos improved", format=".0%"),
        alt.Tooltip("worsened:Q", title="photos worsened", format=".0%"),
        alt.Tooltip("n:Q", title="photos"),
    ]
    kept = ["severity", "augmentation", "label", "group", "mean_a", "mean_b", "difference",
            "ci_low", "ci_high", "told", "improved", "worsened", "clear", "n"]  # fmt: skip
    chart = alt.layer(
        alt.Chart(pd.DataFrame({"difference": [0]})).mark_rule(strokeDash=[4, 3]).encode(x=x),
        alt.Chart().mark_rule(strokeWidth=5, opacity=0.45).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=color
        ),
        alt.Chart().mark_point(size=90, opacity=1, strokeWidth=2).encode(
            x=x, y=y, color=color, shape=shape_of(names),
            fill=alt.Fill("augmentation:N", scale=scale_of(names, "color"), legend=None),
            fillOpacity=alt.condition("datum.clear == 'yes'", alt.value(1), alt.value(0)),
            tooltip=tooltip,
        ),
        data=rows[kept],
    )  # fmt: skip
    return with_severity(chart, rows).properties(
        width="container",
        height=27 * len(order),
        description=f"Paired differences in {facts.label} with 95 % intervals.",
    )


def draw_interpolation(curve: pd.DataFrame, alpha: float, tolerance: float) -> Chart:
    """Shift against clean accuracy along the way from the base to the fine-tuned weights.

    Args:
        curve: One row per ``alpha``, 0 first, with ``shift`` and, where there are classes,
            ``clean_top1``.
        alpha: The chosen one.
        tolerance: How much accuracy may be lost, as a fraction.
    """
    across = "clean_top1" if "clean_top1" in curve else "alpha"
    table = curve.assign(
        label=[f"α {value:g}" for value in curve["alpha"]],
        chosen=np.where(curve["alpha"] == alpha, "chosen", "not chosen"),
    )
    title = "zero-shot top-1 on clean views" if across == "clean_top1" else "α"
    least = float(curve[across].iloc[0] - tolerance) if across == "clean_top1" else 0.0
    ends = np.array([min(least, curve[across].min()), curve[across].max()])
    # wide enough that a photo more or less does not look like a difference
    ends = ends + np.array([-1, 1]) * max(0.02, 0.15 * np.ptp(ends))
    x = alt.X(
        f"{across}:Q",
        title=title,
        axis=alt.Axis(tickCount=6, format=".1%" if across == "clean_top1" else "g"),
        scale=alt.Scale(domain=ends.tolist(), nice=False),
    )
    y = alt.Y("shift:Q", title="1 − cosine under the trained augmentations",
              scale=alt.Scale(zero=True))  # fmt: skip
    tooltip = [
        alt.Tooltip(f"{name}:Q", title=words, format=form)
        for name, words, form in (
            ("alpha", "α", "g"),
            ("shift", "1 − cosine", ".3f"),
            ("clean_top1", "clean top-1", ".1%"),
            ("top1", "top-1 under them", ".1%"),
        )
        if name in curve
    ]
    base = alt.Chart().encode(x=x, y=y)
    layers = [
        base.mark_line(strokeWidth=1.5, color=MUTED).encode(order="alpha:Q"),
        base.mark_point(filled=True, opacity=1).encode(
            size=alt.condition("datum.chosen == 'chosen'", alt.value(170), alt.value(60)),
            color=alt.condition("datum.chosen == 'chosen'", alt.value(ACCENT), alt.value(MUTED)),
            tooltip=tooltip,
        ),
        base.mark_text(align="left", dx=9, dy=-9).encode(text="label:N"),
    ]
    if across == "clean_top1":
        accepted = pd.DataFrame({across: [least]})
        layers.insert(0, alt.Chart(accepted).mark_rule(strokeDash=[4, 3]).encode(x=x))
    return alt.layer(*layers, data=table).properties(
        width="container",
        height=320,
        description="Shift against clean accuracy from the base (α 0) to the fine-tuned weights "
        f"(α 1); chosen: {alpha:g}.",
    )


def draw_curves(rows: pd.DataFrame) -> Chart:
    """Mean shift against severity over a sweep's jobs: a line for other options, or augmentations.

    Args:
        rows: The cosine's rows of a sweep's ``comparison.csv`` at numbered severities, with a
            job's other ``options`` in words.
    """
    lines = [
        f"{name} ({options})" if options else name
        for name, options in zip(rows["augmentation"], rows["options"], strict=True)
    ]
    table = pd.DataFrame(
        {"severity": rows["severity"].astype(int), "augmentation": rows["augmentation"],
         "line": lines, "mean": 1 - rows["mean"], "ci_low": 1 - rows["ci_high"],
         "ci_high": 1 - rows["ci_low"]}
    ).reset_index(drop=True)  # fmt: skip
    table["told"] = _numbers(table, "mean", "ci_low", "ci_high")
    tooltip = [
        alt.Tooltip("line:N", title="curve"),
        alt.Tooltip("severity:Q"),
        alt.Tooltip("told:N", title="1 − cosine"),
    ]
    domain = _domain(table, ["mean", "ci_low", "ci_high"])
    height = max(340, 16 * len(set(lines)))
    chart = _lines(
        table, "severity", "mean", "1 − cosine", ("ci_low", "ci_high"), tooltip, domain, height
    )
    return chart.properties(
        description="Mean shift of a sweep's jobs against severity, with 95 % intervals."
    )


def draw_parallel(jobs: pd.DataFrame, numbers: Sequence[str]) -> Chart:
    """A sweep's jobs as lines over parallel axes: their options, and what came of them.

    Args:
        jobs: One row per job, with a column ``job``; every other column is an axis.
        numbers: The columns that are numbers, each with an axis from its least to its greatest;
            the others' values lie at equal distances. The last one colours the lines.
    """
    axes = [column for column in jobs if column != "job"]
    points: list[tuple] = []
    ticks: list[tuple] = []
    last = jobs[numbers[-1]].astype(float)
    strength = ((last - last.min()) / ((last.max() - last.min()) or 1)).fillna(0)
    for axis in axes:
        if axis in numbers:
            values = jobs[axis].astype(float)
            low, high = values.min(), values.max()
            heights = (values - low) / ((high - low) or 1)
            told = [f"{value:.3g}" for value in values]
            marks = {f"{low:.3g}": 0.0, f"{high:.3g}": 1.0} if high > low else {f"{low:.3g}": 0.0}
        else:
            told = [str(value) for value in jobs[axis]]
            known = list(dict.fromkeys(told))
            marks = {value: index / (len(known) - 1 or 1) for index, value in enumerate(known)}
            heights = pd.Series([marks[value] for value in told], jobs.index)
        ticks += [(axis, height, text) for text, height in marks.items()]
        points += zip(
            jobs["job"], [axis] * len(jobs), heights, told, strength.round(3), strict=True
        )
    table = pd.DataFrame(points, columns=["job", "axis", "height", "value", "strength"])
    marks_table = pd.DataFrame(ticks, columns=["axis", "height", "value"])
    over = alt.selection_point(name="over", fields=["job"], on="pointerover", clear="pointerout")
    x = alt.X(
        "axis:N", sort=axes, title=None, scale=alt.Scale(padding=0.4),
        axis=alt.Axis(orient="top", labelAngle=0, grid=True, domain=False, labelOverlap=False),
    )  # fmt: skip
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-0.06, 1.06]))
    tooltip = [alt.Tooltip(f"{column}:N") for column in ("job", "axis", "value")]
    color = alt.Color("strength:Q", scale=alt.Scale(range=["#7fb0ea", ACCENT, "#c05a00"]),
                      legend=None)  # fmt: skip
    dim = alt.condition(over, alt.value(0.9), alt.value(0.12))
    lines = alt.Chart(table).encode(x=x, y=y, color=color, opacity=dim, detail="job:N")
    chart = alt.layer(
        lines.mark_line(strokeWidth=2),
        lines.mark_point(filled=True, size=60).encode(tooltip=tooltip).add_params(over),
        alt.Chart(marks_table)
        .mark_text(align="left", dx=8, dy=-7)
        .encode(x=x, y=y, text="value:N"),
    )
    return chart.properties(
        width=alt.Step(120),
        height=300,
        description="A sweep's jobs as lines over their options and results.",
    )
