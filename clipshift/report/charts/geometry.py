"""Charts of the geometry of embeddings: distances, directions, and what can be undone."""

import altair as alt
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram

from clipshift.measure.functional import augmentation_linkage
from clipshift.report.charts.marks import STRONGEST, heat_map, intervals_in_words
from clipshift.report.charts.vega import (
    ACCENT,
    MUTED,
    OPPOSITE,
    Chart,
    color_of,
    shape_of,
    with_severity,
)
from clipshift.report.words import capitalised, with_interval
from clipshift.severities import split_view_name


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
    matrix_chart = heat_map(
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
        told=lambda known: intervals_in_words(known, "value", "ci_low", "ci_high")
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


def draw_undone(undone: pd.DataFrame) -> Chart:
    """R² of the clean embedding by augmentation and method, with 95 % intervals.

    Args:
        undone: ``undone.csv`` of a run.
    """
    table = undone.assign(told=intervals_in_words(undone, "r_squared", "ci_low", "ci_high"))
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
