"""The chart of cosines that tell the same photo from another."""

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, OPPOSITE
from clipshift.report.charts.vega import Chart


def draw_cosines(cosines: pd.DataFrame, thresholds: pd.DataFrame) -> Chart:
    """How cosines of the same photo's and of different photos' are distributed, and thresholds.

    Args:
        cosines: Of ``cosines.csv``, the rows of all augmentations together.
        thresholds: Of ``thresholds.csv``, the thresholds of all augmentations together.
    """
    kinds = {"own": "same photo", "others": "different photos"}
    shares = cosines.rename(columns=kinds).melt(
        ["severity", "cosine", "cosine_high"], list(kinds.values()), "pairs", "share"
    )
    rules = thresholds.assign(
        cosine=thresholds["value"], at=(1 / thresholds["fpr"]).map("1 in {:,.0f}".format)
    )
    scale = alt.Scale(domain=list(kinds.values()), range=[ACCENT, OPPOSITE])
    color = alt.Color("pairs:N", scale=scale, legend=alt.Legend(title=None, orient="top"))
    x = alt.X("cosine:Q", title="cosine of a view and a clean photo", scale=alt.Scale(zero=False))
    root, percent = alt.Scale(type="sqrt"), alt.Axis(format="%")
    y = alt.Y("share:Q", title="share of the pairs", scale=root, axis=percent)
    bar = alt.Chart().transform_filter("isValid(datum.pairs)").encode(x, y, color=color)
    rule = alt.Chart().transform_filter("isValid(datum.at)").encode(x)
    tips = marks.tooltip(at="different photos above", interval="threshold, 95 %")
    return marks.layered(
        pd.concat([shares, marks.with_words(rules, "value")], ignore_index=True),
        bar.mark_rect(opacity=0.5).encode(x2="cosine_high:Q", y2=alt.Y2Datum(0)),
        rule.mark_rule(strokeWidth=2, strokeDash=[6, 3]).encode(tooltip=tips),
        rule.mark_text(angle=270, align="right", dx=-4, dy=-6).encode(y=alt.value(0), text="at:N"),
        height=260,
        description="Cosines of views with their own photo and with other photos, and the "
        "thresholds of each false-positive rate.",
    )
