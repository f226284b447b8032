"""Charts of two runs against each other."""

import altair as alt
import numpy as np
import pandas as pd

from clipshift.measure import Facts
from clipshift.report.charts.marks import intervals_in_words
from clipshift.report.charts.vega import (
    ACCENT,
    MUTED,
    Chart,
    color_of,
    scale_of,
    shape_of,
    with_severity,
)


def draw_differences(table: pd.DataFrame, facts: Facts) -> Chart:
    """Paired differences of two runs in one measure, with 95 % intervals; hollow: may be none.

    Args:
        table: One measure's rows of `clipshift.results.compare_photos`; a column ``group``, where
            it has one, names what stands together, and ``label`` what to call each augmentation.
        facts: The measure's.
    """
    rows = table.assign(
        told=intervals_in_words(table, "difference", "ci_low", "ci_high", "+.3f"),
        clear=np.where((table["ci_low"] > 0) | (table["ci_high"] < 0), "yes", "no"),
        group=table.get("group", ""),
        label=table.get("label", table["augmentation"]),
    )
    order = list(dict.fromkeys(rows["label"]))
    title = "B minus A" + (f" ({facts.better} is better)" if facts.better else "")
    y = alt.Y("label:N", sort=order, title=None)
    x = alt.X("difference:Q", title=title, axis=alt.Axis(tickCount=6))
    names = sorted(rows["augmentation"].unique())
    color = color_of(names)
    tooltip = [
        alt.Tooltip("augmentation:N"),
        alt.Tooltip("group:N", title="the model was"),
        alt.Tooltip("mean_a:Q", title="A", format=".3f"),
        alt.Tooltip("mean_b:Q", title="B", format=".3f"),
        alt.Tooltip("told:N", title="difference, 95 %"),
        alt.Tooltip("improved:Q", title="photos improved", format=".0%"),
        alt.Tooltip("worsened:Q", title="photos worsened", format=".0%"),
        alt.Tooltip("n:Q", title="photos"),
    ]
    kept = ["severity", "augmentation", "label", "group", "mean_a", "mean_b", "difference",
            "ci_low", "ci_high", "told", "improved", "worsened", "clear", "n"]  # fmt: skip
    chart = alt.layer(
        alt.Chart(pd.DataFrame({"difference": [0]})).mark_rule(strokeDash=[4, 3]).encode(x=x),
        alt.Chart().mark_rule(strokeWidth=5, opacity=0.45).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=color
        ),
        alt.Chart().mark_point(size=90, opacity=1, strokeWidth=2).encode(
            x=x, y=y, color=color, shape=shape_of(names),
            fill=alt.Fill("augmentation:N", scale=scale_of(names, "color"), legend=None),
            fillOpacity=alt.condition("datum.clear == 'yes'", alt.value(1), alt.value(0)),
            tooltip=tooltip,
        ),
        data=rows[kept],
    )  # fmt: skip
    return with_severity(chart, rows).properties(
        width="container",
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
    across = "clean_top1" if "clean_top1" in curve else "alpha"
    table = curve.assign(
        label=[f"α {value:g}" for value in curve["alpha"]],
        chosen=np.where(curve["alpha"] == alpha, "chosen", "not chosen"),
    )
    title = "zero-shot top-1 on clean views" if across == "clean_top1" else "α"
    least = float(curve[across].iloc[0] - tolerance) if across == "clean_top1" else 0.0
    ends = np.array([min(least, curve[across].min()), curve[across].max()])
    # wide enough that a photo more or less does not look like a difference
    ends = ends + np.array([-1, 1]) * max(0.02, 0.15 * np.ptp(ends))
    x = alt.X(
        f"{across}:Q",
        title=title,
        axis=alt.Axis(tickCount=6, format=".1%" if across == "clean_top1" else "g"),
        scale=alt.Scale(domain=ends.tolist(), nice=False),
    )
    y = alt.Y("shift:Q", title="1 − cosine under the trained augmentations",
              scale=alt.Scale(zero=True))  # fmt: skip
    tooltip = [
        alt.Tooltip(f"{name}:Q", title=words, format=form)
        for name, words, form in (
            ("alpha", "α", "g"),
            ("shift", "1 − cosine", ".3f"),
            ("clean_top1", "clean top-1", ".1%"),
            ("top1", "top-1 under them", ".1%"),
        )
        if name in curve
    ]
    base = alt.Chart().encode(x=x, y=y)
    layers = [
        base.mark_line(strokeWidth=1.5, color=MUTED).encode(order="alpha:Q"),
        base.mark_point(filled=True, opacity=1).encode(
            size=alt.condition("datum.chosen == 'chosen'", alt.value(170), alt.value(60)),
            color=alt.condition("datum.chosen == 'chosen'", alt.value(ACCENT), alt.value(MUTED)),
            tooltip=tooltip,
        ),
        base.mark_text(align="left", dx=9, dy=-9).encode(text="label:N"),
    ]
    if across == "clean_top1":
        accepted = pd.DataFrame({across: [least]})
        layers.insert(0, alt.Chart(accepted).mark_rule(strokeDash=[4, 3]).encode(x=x))
    return alt.layer(*layers, data=table).properties(
        width="container",
        height=320,
        description="Shift against clean accuracy from the base (α 0) to the fine-tuned weights "
        f"(α 1); chosen: {alpha:g}.",
    )
