"""Charts of the geometry of the shift: distances, directions, and how much maps recover."""

from itertools import product

import altair as alt
import numpy as np
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, MUTED, OPPOSITE, color_of, shape_of
from clipshift.report.charts.vega import Chart
from clipshift.report.words import capitalised, with_interval
from clipshift.results.clusters import cluster_views
from clipshift.severities import split_view_name

PARTS = {"common": ACCENT, "contraction": OPPOSITE, "own": MUTED}
"""The parts of the shift that add up to 1, and their colours."""


def draw_distances(
    distances: pd.DataFrame,
    low: pd.DataFrame,
    high: pd.DataFrame,
    description: str = "Mean distance between two augmentations' views of the same photo, and the "
    "tree of their Ward linkage.",
) -> Chart:
    """Distances between augmentations (views or directions), and the tree of their Ward linkage.

    Args:
        distances: Mean distances, K × K, with names ``AUGMENTATION`` or ``AUGMENTATION@SEVERITY``.
        low: Lower ends of their 95 % intervals, K × K.
        high: Upper ends.
        description: What they are, for those who cannot see the figure.
    """
    cells, branches = [], []
    for severity, tree in cluster_views(distances).items():
        most = distances.loc[tree.leaves, tree.leaves].max(axis=None) or 1
        branches.append(tree.branches.assign(severity=severity))
        for (row, one), (column, other) in product(enumerate(tree.leaves), repeat=2):
            value, ends = distances.loc[one, other], (low.loc[one, other], high.loc[one, other])
            names = split_view_name(one)[0], split_view_name(other)[0]
            text = f"{value:.2f}" if one != other else ""
            words = with_interval(value, *(ends if one != other else (np.nan, np.nan)))
            cells.append((severity, *names, row, column, round(value / most, 4), text, words))
    head = ["severity", "augmentation", "other", "row", "column", "strength", "text", "interval"]
    table = pd.DataFrame(cells, columns=head)
    matrix = marks.heat_map(
        table,
        {
            "other": alt.EncodingSortField("column", op="min"),
            "augmentation": alt.EncodingSortField("row", op="min"),
        },
        alt.value(ACCENT),
        marks.tooltip(augmentation="one", other="other", interval="1 − cosine, 95 %"),
        width=alt.Step(46),
        by_severity=False,
    )
    count = table["augmentation"].nunique()
    top_down = alt.Scale(domain=[-0.5, count - 0.5], reverse=True)
    height = alt.X("height:Q", title="height of the merge (Ward)", axis=alt.Axis(tickCount=3))
    branch = alt.Chart(pd.concat(branches), width=150, height=26 * count).mark_line(
        interpolate="linear", strokeWidth=1.5, color=MUTED
    )
    leaf = alt.Y("leaf:Q", axis=None, scale=top_down)
    trees = branch.encode(height, leaf, detail="branch:N", order="step:Q")
    return marks.with_severity(table, matrix, trees).properties(description=description)


def draw_against(rows: pd.DataFrame, title: str) -> Chart:
    """A number for each augmentation with its 95 % interval, and a tick to compare it with.

    Args:
        rows: ``severity``, ``augmentation``, ``value``, ``ci_low``, ``ci_high`` and ``reference``.
        title: What the number is.
    """
    table = marks.with_words(rows.dropna(subset="value"), "value")
    x, y = marks.values_from_zero("value", title), marks.augmentations_by("value")
    interval, point = marks.interval_and_point(x, y=y, color=color_of(table))
    tips = marks.tooltip("augmentation", interval=title, reference=("tick", ".3f"))
    tick = alt.Chart().mark_tick(thickness=2, height=17, color=MUTED)
    return marks.layered(
        table,
        interval,
        tick.encode(alt.X("reference:Q", title=title), y),
        point.encode(shape_of(table), tooltip=tips),
        height=alt.Step(25),
        description=f"{capitalised(title)}, by augmentation, with 95 % intervals.",
    )


def draw_undone(undone: pd.DataFrame) -> Chart:
    """R² of the clean embedding by augmentation and method, with 95 % intervals.

    Args:
        undone: ``undone.csv`` of a run.
    """
    table = marks.with_words(undone, "r_squared")
    methods = list(table["method"].unique())
    colors = alt.Scale(domain=methods, range=[MUTED, OPPOSITE, ACCENT, "#8a4fb3"])
    shapes = alt.Scale(domain=methods, range=["cross", "square", "circle", "triangle-up"])
    legend = alt.Legend(title=None, orient="top")
    least_first = alt.EncodingSortField("r_squared", op="min", order="ascending")
    title = "R² of the clean embedding"
    interval, point = marks.interval_and_point(
        alt.X("r_squared:Q", title=title),
        {"strokeWidth": 3, "opacity": 0.45},
        marks.SOLID | {"size": 55},
        y=alt.Y("augmentation:N", sort=least_first, title=None),
        yOffset=alt.YOffset("method:N", sort=methods),
        color=alt.Color("method:N", scale=colors, legend=legend),
    )
    shape = alt.Shape("method:N", scale=shapes, legend=legend)
    tips = marks.tooltip("augmentation", "method", interval=title)
    return marks.layered(
        table,
        interval,
        point.encode(shape, tooltip=tips),
        height=alt.Step(11),
        description="How much of the clean embedding each method recovers from the view's, by "
        "augmentation, with 95 % intervals.",
    )


def draw_parts(parts: pd.DataFrame) -> Chart:
    """What all photos share of the shift and what is each photo's own, as stacked bars.

    Args:
        parts: ``geometry.csv`` of a run.
    """
    table = marks.with_words(parts[parts["part"].isin(PARTS)], "share")
    table = table.assign(common=table["share"].where(table["part"] == "common"))
    scale = alt.Scale(domain=list(PARTS), range=list(PARTS.values()))
    title = "share of the squared shift"
    bar = alt.Chart().mark_bar(height=15)
    bar = bar.encode(
        alt.X("share:Q", title=title, axis=alt.Axis(format="%", tickCount=6)),
        marks.augmentations_by("common"),
        alt.Color("part:N", scale=scale, legend=alt.Legend(title=None, orient="top")),
        tooltip=marks.tooltip("augmentation", "part", interval="share, 95 %"),
    )
    about = "What all photos share of the shift, and what is each photo's own, by augmentation."
    return marks.layered(table, bar, height=alt.Step(25), description=about)
