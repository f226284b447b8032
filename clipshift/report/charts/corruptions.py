"""A chart of errors under stored corruptions."""

import altair as alt
import pandas as pd

from clipshift.report.charts.marks import intervals_in_words
from clipshift.report.charts.vega import Chart, color_of


def draw_corruption_error(errors: pd.DataFrame) -> Chart:
    """The error under each stored corruption and severity over the shift, with 95 % intervals.

    Args:
        errors: From `clipshift.results.corruption_errors`, with shifts.
    """
    table = errors.dropna(subset=["error", "shift"]).assign(
        told=lambda known: intervals_in_words(known, "error", "ci_low", "ci_high")
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
