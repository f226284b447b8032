"""Charts of the gaze, and the gaze over a picture."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, OPPOSITE, color_of
from clipshift.report.charts.vega import Chart

Key = TypeVar("Key", bound=Hashable)
HEAT = (
    "#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60",
    "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4",
)  # fmt: skip
"""The colours of gaze, evenly spaced from none to the greatest: matplotlib's inferno."""
OPACITY = (0.25, 0.75)
"""The opacity of the colours of no gaze and of the greatest, over the picture in grey."""


def share_of(gaze: np.ndarray) -> np.ndarray | None:
    """A gaze divided by its sum; None where it has no finite sum above 0."""
    total = gaze.sum(dtype=float)
    return gaze / total if np.isfinite(total) and total > 0 else None


def gaze_over(picture: Image.Image, share: np.ndarray, greatest: float) -> Image.Image:
    """A picture in grey with the gaze over it in the colours of `HEAT`, as the page shows it.

    Args:
        picture: The view, in mode ``RGB``.
        share: The share of the gaze in each patch, shape (h, w), from 0.
        greatest: The share that has the last colour; so has any above it.
    """
    levels = np.round(255 * np.minimum(share / greatest, 1)).astype(np.uint8)
    heat = np.asarray(Image.fromarray(levels).resize(picture.size, Image.Resampling.BICUBIC)) / 255
    colors = np.array([tuple(bytes.fromhex(color[1:])) for color in HEAT], dtype=float)
    steps = np.linspace(0, 1, len(colors))
    painted = np.stack([np.interp(heat, steps, channel) for channel in colors.T], axis=-1)
    opacity = np.interp(heat, (0, 1), OPACITY)[..., None]
    grey = np.asarray(picture.convert("L"), dtype=float)[..., None]
    return Image.fromarray(np.round(grey * (1 - opacity) + painted * opacity).astype(np.uint8))


def gaze_over_each(
    pictures: Mapping[Key, Image.Image], gazes: Mapping[Key, np.ndarray]
) -> dict[Key, Image.Image]:
    """`gaze_over` on views of a photo, on a common scale up to the greatest share of them all.

    Args:
        pictures: The views.
        gazes: The gaze on each, shape (h, w). Views without one, or with one of no sum, are left
            out.
    """
    of_view = {key: share_of(gazes[key]) for key in pictures if key in gazes}
    shares = {key: share for key, share in of_view.items() if share is not None}
    greatest = max((share.max() for share in shares.values()), default=1.0)
    return {key: gaze_over(pictures[key], share, greatest) for key, share in shares.items()}


def draw_pictures(pictures: Mapping[str, str], title: str = "", columns: int = 5) -> Chart:
    """Pictures side by side, each below its name.

    Args:
        pictures: Data URLs by name.
        title: What they show.
        columns: How many stand in a row.
    """
    table = pd.DataFrame({"name": list(pictures), "picture": list(pictures.values())})
    picture = alt.Chart(table, width=160, height=160).encode(
        url="picture:N", x=alt.value(0), y=alt.value(0)
    )
    name = alt.Facet("name:N", sort=list(pictures), title=None)
    faceted = picture.mark_image(width=160, height=160, align="left", baseline="top").facet(
        facet=name, columns=columns, spacing=8
    )
    return faceted.properties(title=title) if title else faceted


def draw_faithfulness(curves: pd.DataFrame, curve: str) -> Chart:
    """The cosine with the whole view while its cells are removed or put in, a line for each map.

    Args:
        curves: ``faithfulness_curves.csv`` of a run.
        curve: ``deletion`` or ``insertion``.
    """
    table = marks.with_words(curves[curves["curve"] == curve], "mean")
    maps, views = (list(table[column].unique()) for column in ("map", "augmentation"))
    colors = [ACCENT, *[OPPOSITE] * (len(maps) > 3), "#824bcb", "#6b727e"]
    scale = alt.Scale(domain=maps, range=colors)
    color = alt.Color("map:N", scale=scale, legend=alt.Legend(title=None, orient="top", columns=2))
    share = "cells removed" if curve == "deletion" else "cells put in"
    x = alt.X("share:Q", title=share, axis=alt.Axis(format="%", tickCount=5))
    y = alt.Y("mean:Q", title="cosine with the whole view")
    interval, point = marks.interval_and_point(y, {"strokeWidth": 1.5}, x=x, color=color)
    tips = marks.tooltip("augmentation", "map", share=(share, ".0%"), interval="cosine, 95 %")
    chart = marks.layered(
        table,
        interval,
        point.mark_line(strokeWidth=2, point=True).encode(tooltip=tips),
        height=260,
        description=f"Cosine with the whole view against the share of {share}, by map.",
    )
    return marks.with_choice(chart, "view", views, "augmentation")


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
