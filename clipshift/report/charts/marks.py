"""The marks that several charts are made of: named lines and heat maps."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from clipshift.report.charts.vega import MUTED, color_of, dash_of, shape_of
from clipshift.report.words import with_interval

STRONGEST = 0.6
"""Opacity of a heat map's strongest colour: text stays readable on it, on white and on black."""
MANY_LINES = 6
"""With more lines than this, their intervals are thin."""
LABEL = 160
"""Room for an augmentation's name beside a line's end, in pixels."""
CELL = 58
"""Width of a heat map's cell in pixels."""


def intervals_in_words(
    table: pd.DataFrame, mean: str, low: str, high: str, digits: str = ".3f"
) -> list[str]:
    """Means with intervals in words, for hovering."""
    return [
        with_interval(value, least, most, digits)
        for value, least, most in table[[mean, low, high]].to_numpy(float)
    ]


def _spread(positions: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions moved apart to at least a gap, in their order, upwards from low where they can."""
    order = np.argsort(positions, kind="stable")
    moved = positions[order].astype(float)
    for _ in range(200):
        short = gap - np.diff(moved)
        push = np.where(short > 1e-9, short / 2, 0)
        moved[:-1] -= push
        moved[1:] += push
    room = high - low - gap * (len(moved) - 1)
    for index in range(len(moved)):
        least = low + gap * index if room > 0 else low
        moved[index] = max(moved[index], least, moved[index - 1] + gap if index else least)
    for index in range(len(moved))[::-1]:
        after = moved[index + 1] - gap if index + 1 < len(moved) else high
        moved[index] = min(moved[index], after)
    result = np.empty_like(moved)
    result[order] = moved
    return result


def named_lines(
    table: pd.DataFrame, across: str, y: str, title: str, bounds: tuple[str, str] | None,
    tooltip: list[alt.Tooltip], domain: tuple[float, float], height: int = 340,
) -> Any:  # fmt: skip
    """One line for each augmentation with its name at its end; hovering dims the others.

    Args:
        table: One row per line and point on the x axis: ``augmentation``, and, where an
            augmentation has several lines, ``line``, what each is called.
        across: Column of the x axis, of whole numbers.
        y: Column of the y axis.
        title: Of the y axis.
        bounds: Columns of the interval's ends; None where there is none.
        tooltip: What hovering shows.
        domain: Of the y axis.
        height: In pixels.
    """
    names = sorted(table["augmentation"].unique())
    table = table.assign(line=table.get("line", table["augmentation"]), label_y=np.nan)
    ends = table[(table[across] == table[across].max()) & table[y].notna()]
    gap = 15 / height * (domain[1] - domain[0])
    apart = across != "severity" and "severity" in table
    for _, part in ends.groupby("severity" if apart else lambda _: 0, sort=False):
        table.loc[part.index, "label_y"] = _spread(part[y].to_numpy(float), gap, *domain)
    over = alt.selection_point(name="over", fields=["line"], on="pointerover", clear="pointerout")
    dim = alt.condition(over, alt.value(1), alt.value(0.15))
    scale = alt.Scale(domain=list(domain), nice=False)
    steps = sorted(table[across].unique().tolist())
    x = alt.X(
        f"{across}:Q",
        title=across,
        axis=alt.Axis(values=steps, format="d", grid=False),
        scale=alt.Scale(range=[0, alt.expr(f"width - {LABEL}")], zero=False),
    )
    color, shape = color_of(names), shape_of(names)
    of_y, of_label = (alt.Y(f"{column}:Q", title=title, scale=scale) for column in (y, "label_y"))
    base = alt.Chart().encode(x=x, color=color, detail="line:N")
    labels = alt.Chart().transform_filter("isValid(datum.label_y)").encode(x=x, y=of_label)
    layers = [
        base.mark_line(strokeWidth=2).encode(y=of_y, strokeDash=dash_of(names), opacity=dim),
        base.mark_point(filled=True, size=55, opacity=1)
        .encode(y=of_y, shape=shape, opacity=dim, tooltip=tooltip)
        .add_params(over),
        labels.mark_point(filled=True, size=40, xOffset=16).encode(
            color=color, shape=shape, opacity=dim
        ),
        labels.mark_text(align="left", dx=24).encode(text="line:N", opacity=dim),
    ]
    if bounds:
        thin = table["line"].nunique() > MANY_LINES
        interval = base.mark_rule(strokeWidth=1.5 if thin else 5).encode(
            y=alt.Y(f"{bounds[0]}:Q", title=title, scale=scale),
            y2=f"{bounds[1]}:Q",
            opacity=alt.condition(over, alt.value(0.35), alt.value(0.08)),
        )
        layers.insert(0, interval)
    return alt.layer(*layers, data=table).properties(width="container", height=height)


def domain_of(table: pd.DataFrame, columns: Sequence[str]) -> tuple[float, float]:
    """From 0 or the least value to the greatest, with a margin."""
    values = table[list(columns)].to_numpy(float)
    low, high = min(0.0, np.nanmin(values)), np.nanmax(values)
    margin = 0.04 * ((high - low) or 1)
    return float(low - (margin if low < 0 else 0)), float(high + margin)


def heat_map(
    table: pd.DataFrame, x: alt.X, y: alt.Y, opacity: alt.FillOpacity, color: Any, text: str,
    tooltip: list[alt.Tooltip],
) -> Any:  # fmt: skip
    """A heat map: rectangles with text on them."""
    x = x.axis(orient="top", labelAngle=-38, labelAlign="left", grid=False, labelOverlap=False)
    y = y.axis(grid=False, labelOverlap=False)
    return alt.layer(
        alt.Chart().mark_rect(cornerRadius=2, stroke=MUTED, strokeOpacity=0.15).encode(
            x=x, y=y, fillOpacity=opacity, fill=color, tooltip=tooltip
        ),
        alt.Chart().mark_text().encode(x=x, y=y, text=f"{text}:N", tooltip=tooltip),
        data=table,
    ).properties(width=alt.Step(CELL), height=alt.Step(26))  # fmt: skip
