"""Charts of the gaze."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import color_of
from clipshift.report.charts.vega import Chart


def draw_pictures(pictures: Mapping[str, str], columns: int = 5) -> Chart:
    """Pictures side by side, each below its name.

    Args:
        pictures: Data URLs by name.
        columns: How many stand in a row.
    """
    table = pd.DataFrame({"name": list(pictures), "picture": list(pictures.values())})
    picture = alt.Chart(table, width=160, height=160).encode(
        url="picture:N", x=alt.value(0), y=alt.value(0)
    )
    name = alt.Facet("name:N", sort=list(pictures), title=None)
    return picture.mark_image(width=160, height=160, align="left", baseline="top").facet(
        facet=name, columns=columns, spacing=8
    )


def draw_gaze(summary: pd.DataFrame) -> Chart:
    """Divergence of the gaze as it is, and moved back with the pixels, with 95 % intervals.

    Args:
        summary: From `clipshift.results.table.summarize`, with ``gaze_divergence`` and, where it
            was measured, ``gaze_divergence_aligned``.
    """
    on_photo, in_view = "on the photo (moved back)", "in the view"
    kinds = {"gaze_divergence_aligned": on_photo, "gaze_divergence": in_view}
    rows = pd.concat([summary[summary["measure"] == measure] for measure in kinds])
    # one point is enough where no pixel moves
    rows = rows.drop_duplicates(["augmentation", "severity", "mean", "ci_low", "ci_high"])
    table = marks.with_words(rows.assign(kind=rows["measure"].map(kinds)), "mean")
    interval, point = marks.interval_and_point(
        marks.values_from_zero("mean", "gaze divergence (bits)"),
        {"strokeWidth": 4, "opacity": 0.3},
        {"size": 85, "filled": False, "opacity": 1, "strokeWidth": 2},
        y=marks.augmentations_by("mean", op="min"),
        color=color_of(table),
    )
    shapes = alt.Scale(domain=[on_photo, in_view], range=["circle", "square"])
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=300)
    point = point.encode(
        alt.Shape("kind:N", scale=shapes, legend=legend),
        tooltip=marks.tooltip("augmentation", kind="compared", interval="divergence"),
        **marks.filled_where(f"datum.kind == '{on_photo}'", table),
    )
    return marks.layered(
        table,
        interval,
        point,
        height=27 * table["augmentation"].nunique(),
        description="Divergence of the gaze between view and clean view, by augmentation, as it is "
        "in the view and moved back onto the photo, with 95 % intervals.",
    )
