"""Charts of rankings."""

from typing import Literal

import altair as alt
import pandas as pd

from clipshift.report.charts.marks import intervals_in_words
from clipshift.report.charts.vega import Chart, color_of, dash_of, shape_of, with_severity
from clipshift.report.words import ranks_in_words
from clipshift.severities import MATCHED, PAPER


def draw_ranking(ranking: pd.DataFrame, summary: pd.DataFrame) -> Chart:
    """Augmentations by their mean shift, the largest first, with 95 % intervals and ranks.

    The axis is the relative shift where it was measured, and otherwise 1 − cosine.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        summary: From `clipshift.results.summarize`.
    """
    table = ranking.assign(
        cosine=intervals_in_words(ranking, "shift", "ci_low", "ci_high"),
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
        told=intervals_in_words(table, "mean", "ci_low", "ci_high"),
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
