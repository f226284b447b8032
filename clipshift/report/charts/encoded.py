"""The plane of augmentations: what embeddings still tell of them, and of the photo."""

from functools import partial

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import color_of, dash_of, shape_of
from clipshift.report.charts.vega import Chart

ENCODED, RETAINED = 0.75, 0.5
"""Where the plane is divided: AUROC halfway between chance and 1, and half of the views."""
QUADRANTS = (
    (0.6, 0.57, "not encoded, but retained:\ninvariant"), (0.6, 0.45, "neither:\nlost"),
    (0.88, 0.57, "encoded and retained:\ncould be undone"),
    (0.88, 0.45, "encoded, but the photo\nis lost"),
)  # fmt: skip
"""Where in the plane is said what: encoded, retained, caption."""
OUTLINED: marks.Style = {"size": 160, "opacity": 1, "strokeWidth": 2.5}


def draw_plane(rows: pd.DataFrame) -> Chart:
    """Encoded against retained, a point for each augmentation, with 95 % intervals.

    Args:
        rows: ``severity``, ``augmentation``, ``auroc`` with ``auroc_low`` and ``auroc_high``, and
            ``retained`` with ``ci_low`` and ``ci_high``.
    """
    ends = {"auroc_low": "ci_low", "auroc_high": "ci_high"}
    words = marks.with_words(rows[["auroc", *ends]].rename(columns=ends), "auroc")
    table = marks.with_words(rows, "retained").assign(told=words["interval"])
    captions = pd.DataFrame(QUADRANTS, columns=["at", "height", "caption"])
    captions = captions.merge(rows[["severity"]].drop_duplicates(), "cross")
    captions = captions.assign(encoded_from=ENCODED, retained_from=RETAINED)
    scale = alt.Scale(domain=[min(0.45, rows["auroc_low"].min()), 1], nice=False)
    across, up = "encoded: AUROC of a probe against clean views", "retained: share of views"
    few = alt.Axis(tickCount=6)
    x = partial(alt.X, type="quantitative", title=across, scale=scale, axis=few)
    y = partial(alt.Y, type="quantitative", title=up, scale=alt.Scale(domain=[0, 1]))
    legend = alt.Legend(title=None, orient="right", symbolOpacity=1)
    looks = [look(table).legend(legend) for look in (shape_of, dash_of)]
    color = color_of(table).legend(legend)
    said = alt.Chart().transform_filter("isValid(datum.caption)")
    at = alt.Chart().transform_filter("isValid(datum.auroc)").encode(color=color)
    rule: marks.Style = {"strokeWidth": 2, "opacity": 0.35}
    tips = marks.tooltip("augmentation", told="AUROC, 95 %", interval="retained, 95 %")
    return marks.layered(
        pd.concat([table, captions], ignore_index=True),
        said.mark_rule(strokeDash=[4, 4]).encode(x("encoded_from")),
        said.mark_rule(strokeDash=[4, 4]).encode(y("retained_from")),
        said.mark_text(lineBreak="\n").encode(x("at"), y("height"), text="caption:N"),
        at.mark_rule(**rule).encode(x("auroc_low"), y("retained"), x2="auroc_high:Q"),
        at.mark_rule(**rule).encode(x("auroc"), y("ci_low"), y2="ci_high:Q"),
        # in a kind's colours and shape: only its dash tells an augmentation from others
        at.mark_point(**OUTLINED).encode(x("auroc"), y("retained"), *looks, tooltip=tips),
        height=400,
        description="How well augmentations can be told from clean views, against the share of "
        "views that find their own photo.",
    )
