"""Charts of the gaze."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from clipshift.report.charts.marks import intervals_in_words
from clipshift.report.charts.vega import Chart, color_of, scale_of, with_severity


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
        told=intervals_in_words(rows, "mean", "ci_low", "ci_high"), kind=rows["measure"].map(kinds)
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
