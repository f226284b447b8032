"""Charts of comparisons: of two runs, of a sweep's jobs, of fine-tuned weights and their base."""

import altair as alt
import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, MUTED, color_of, shape_of
from clipshift.report.charts.vega import Chart

LABEL = 220
"""The most room for an augmentation's name, in pixels: the configuration's limit of labels."""


def draw_differences(table: pd.DataFrame, facts: Facts) -> Chart:
    """Paired differences of two runs in one measure, with 95 % intervals; hollow: may be none.

    Args:
        table: One measure's rows of `clipshift.results.paired.compare_photos`; a column ``group``,
            where it has one, names what stands together, and ``label`` what to call each
            augmentation.
        facts: The measure's.
    """
    rows = marks.with_words(table, "difference", "+.3f").assign(
        clear=np.where((table["ci_low"] > 0) | (table["ci_high"] < 0), "yes", "no"),
        group=table.get("group", ""),
        label=table.get("label", table["augmentation"]),
    )
    order = list(dict.fromkeys(rows["label"]))
    title = "B minus A" + (f" ({facts.better} is better)" if facts.better else "")
    x = alt.X("difference:Q", title=title, axis=alt.Axis(tickCount=6, titleAnchor="end"))
    room = 7 * max(map(len, order), default=0)  # or a label of another severity is cut
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(minExtent=min(room, LABEL)))
    outlined = {"size": 90, "opacity": 1, "strokeWidth": 2}
    interval, point = marks.interval_and_point(x, point=outlined, y=y, color=color_of(rows))
    means = {"group": "the model was", "mean_a": ("A", ".3f"), "mean_b": ("B", ".3f")}
    shares = {"improved": ("photos improved", ".0%"), "worsened": ("photos worsened", ".0%")}
    difference = {"interval": "difference, 95 %"}
    tips = marks.tooltip("augmentation", **means, **difference, **shares, n="photos")
    filled = marks.filled_where("datum.clear == 'yes'", rows)
    return marks.layered(
        rows,
        _dashed_at(0, "difference", x),
        interval,
        point.encode(shape_of(rows), tooltip=tips, **filled),
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
    across, title, form, least = "alpha", "α", "g", 0.0
    if "clean_top1" in curve:
        across, title, form = "clean_top1", "zero-shot top-1 on clean views", ".1%"
        least = float(curve[across].iloc[0] - tolerance)
    table = curve.assign(
        label=curve["alpha"].map("α {:g}".format),
        chosen=np.where(curve["alpha"] == alpha, "chosen", "not chosen"),
    )
    ends = np.array([min(least, curve[across].min()), curve[across].max()])
    # wide enough that a photo more or less does not look like a difference
    ends = ends + np.array([-1, 1]) * max(0.02, 0.15 * np.ptp(ends))
    scale = alt.Scale(domain=ends.tolist(), nice=False)
    x = alt.X(f"{across}:Q", title=title, axis=alt.Axis(tickCount=6, format=form), scale=scale)
    shift = "1 − cosine under the trained augmentations"
    at = alt.Chart().encode(x, alt.Y("shift:Q", title=shift, scale=alt.Scale(zero=True)))
    chosen = "datum.chosen == 'chosen'"
    shown = {"alpha": ("α", "g"), "shift": ("1 − cosine", ".3f")}
    shown |= {"clean_top1": ("clean top-1", ".1%"), "top1": ("top-1 under them", ".1%")}
    tips = marks.tooltip(**{name: words for name, words in shown.items() if name in curve})
    layers = [
        at.mark_line(strokeWidth=1.5, color=MUTED).encode(order="alpha:Q"),
        at.mark_point(filled=True, opacity=1).encode(
            size=alt.condition(chosen, alt.value(170), alt.value(60)),
            color=alt.condition(chosen, alt.value(ACCENT), alt.value(MUTED)),
            tooltip=tips,
        ),
        at.mark_text(align="left", dx=9, dy=-9).encode(text="label:N"),
    ]
    return marks.layered(
        table,
        *([_dashed_at(least, across, x)] if across == "clean_top1" else []),
        *layers,
        by_severity=False,
        height=320,
        description="Shift against clean accuracy from the base (α 0) to the fine-tuned weights "
        f"(α 1); chosen: {alpha:g}.",
    )


def _dashed_at(value: float, column: str, x: alt.X) -> alt.Chart:
    """A dashed rule at a value of an x axis."""
    return alt.Chart(pd.DataFrame({column: [value]})).mark_rule(strokeDash=[4, 3]).encode(x)
