"""The building blocks of charts: intervals with a point, named lines, heat maps, tooltips."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from clipshift.report.charts.look import MUTED, color_of, dash_of, scale_of, shape_of
from clipshift.report.words import with_interval

STRONGEST = 0.6
"""Opacity of a heat map's strongest colour: text stays readable on it, on white and on black."""
MANY_LINES = 6
"""With more lines than this, their intervals are thin."""
LABEL = 160
"""Room for an augmentation's name beside a line's end, in pixels."""
Style = dict[str, Any]
"""The properties of a mark."""
WIDE: Style = {"strokeWidth": 5, "opacity": 0.45}
"""How the rule of an interval is drawn."""
SOLID: Style = {"size": 90, "filled": True, "opacity": 1}
"""How the point of a value is drawn."""


def with_words(
    table: pd.DataFrame, value: str, digits: str = ".3f", into: str = "interval"
) -> pd.DataFrame:
    """A table with a column's values and their intervals (``ci_low``, ``ci_high``) in words."""
    numbers = table[[value, "ci_low", "ci_high"]].to_numpy(float)
    words = [with_interval(mean, low, high, digits) for mean, low, high in numbers]
    return table.assign(**{into: words})


def tooltip(*names: str, **titles: Sequence[str]) -> list[alt.Tooltip]:
    """What hovering shows.

    Args:
        names: Columns under their own names.
        titles: Of further columns: a title, for text, or a title and a format, for numbers.
    """
    words = dict(zip(names, names, strict=True)) | titles
    return [
        alt.Tooltip(f"{column}:N", title=title)
        if isinstance(title, str)
        else alt.Tooltip(f"{column}:Q", title=title[0], format=title[1])
        for column, title in words.items()
    ]


def augmentations_by(column: str, op: Literal["min", "max"] = "max") -> alt.Y:
    """A y axis of augmentations in the order of a column's greatest or least values."""
    sort = alt.EncodingSortField(column, op=op, order="descending")
    return alt.Y("augmentation:N", sort=sort, title=None)


def values_from_zero(column: str, title: str, **scale: Any) -> alt.X:
    """An x axis of a column's values that begins at 0."""
    from_zero = alt.Scale(zero=True, **scale)
    return alt.X(f"{column}:Q", title=title, axis=alt.Axis(tickCount=6), scale=from_zero)


def interval_and_point(
    value: alt.X | alt.Y, rule: Style = WIDE, point: Style = SOLID, **encodings: Any
) -> tuple[alt.Chart, alt.Chart]:
    """A rule from ``ci_low`` to ``ci_high``, and a point at the value.

    Args:
        value: The axis of the value, and so of the interval.
        rule: How the rule is drawn.
        point: How the point is drawn.
        encodings: What both encode.
    """
    axis = "x" if isinstance(value, alt.X) else "y"
    both = alt.Chart().encode(**encodings)
    ends = {axis: type(value)("ci_low:Q", title=value["title"]), f"{axis}2": "ci_high:Q"}
    return both.mark_rule(**rule).encode(**ends), both.mark_point(**point).encode(value)


def pointed_at(field: str) -> alt.Parameter:
    """What the pointer is on, by a field; all where it is on nothing."""
    return alt.selection_point(name="over", fields=[field], on="pointerover", clear="pointerout")


def filled_where(test: str, table: pd.DataFrame) -> dict[str, Any]:
    """The encodings of points that are filled where a test of ``datum`` holds."""
    color = alt.Fill("augmentation:N", scale=scale_of(table, "color"), legend=None)
    return {"fill": color, "fillOpacity": alt.condition(test, alt.value(1), alt.value(0))}


def spread(positions: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions moved apart to at least a gap, in their order, upwards from low where they can."""
    order = np.argsort(positions, kind="stable")
    moved = positions[order].astype(float)
    for _ in range(200):
        short = gap - np.diff(moved)
        push = np.where(short > 1e-9, short / 2, 0)
        moved[:-1] -= push
        moved[1:] += push
    room = high - low - gap * (len(moved) - 1)
    steps = gap * np.arange(len(moved))
    least = low + (steps if room > 0 else 0)
    moved = np.maximum.accumulate(np.maximum(moved, least) - steps) + steps
    moved = np.minimum.accumulate((np.minimum(moved, high) - steps)[::-1])[::-1] + steps
    return moved[np.argsort(order)]


def named_lines(
    table: pd.DataFrame, across: str, title: str, domain: list[float], about: str, height: int
) -> Any:
    """Means as lines, each with its name at its end; hovering dims the others.

    Args:
        table: One row per line and point on the x axis: ``augmentation``, ``mean``, ``ci_low`` and
            ``ci_high``, NaN where there are none, and, where an augmentation has several lines,
            ``line``, what each is called.
        across: Column of the x axis, of whole numbers. Where it is not the severity, and there are
            several, the reader chooses one.
        title: Of the y axis.
        domain: Of the y axis.
        about: What the chart shows, for those who cannot see it.
        height: In pixels.
    """
    tips = tooltip("augmentation", across, interval=title)
    if "line" in table:
        tips = tooltip(line="curve", severity="severity", interval=title)
    table = with_words(table.reset_index(drop=True), "mean")
    table = table.assign(line=table.get("line", table["augmentation"]), label_y=np.nan)
    ends = table[(table[across] == table[across].max()) & table["mean"].notna()]
    gap = 15 / height * (domain[1] - domain[0])
    by_severity = across != "severity"
    for _, part in ends.groupby("severity" if by_severity else lambda _: 0, sort=False):
        table.loc[part.index, "label_y"] = spread(part["mean"].to_numpy(float), gap, *domain)
    over = pointed_at("line")
    dim = alt.condition(over, alt.value(1), alt.value(0.15))
    steps = alt.Axis(values=sorted(table[across].unique().tolist()), format="d", grid=False)
    room = alt.Scale(range=[0, alt.expr(f"width - {LABEL}")], zero=False)
    x = alt.X(f"{across}:Q", title=across, axis=steps, scale=room)
    scale = alt.Scale(domain=domain, nice=False)
    y, label_y = (alt.Y(f"{column}:Q", title=title, scale=scale) for column in ("mean", "label_y"))
    color, shape = color_of(table), shape_of(table)
    rule = {"strokeWidth": 1.5 if table["line"].nunique() > MANY_LINES else 5}
    same = {"x": x, "color": color, "detail": "line:N"}
    interval, point = interval_and_point(y, rule, SOLID | {"size": 55}, **same)
    label = alt.Chart().transform_filter("isValid(datum.label_y)").encode(x, label_y, opacity=dim)
    layers = [
        point.mark_line(strokeWidth=2).encode(strokeDash=dash_of(table), opacity=dim),
        point.encode(shape=shape, opacity=dim, tooltip=tips).add_params(over),
        label.mark_point(filled=True, size=40, xOffset=16).encode(color=color, shape=shape),
        label.mark_text(align="left", dx=24).encode(text="line:N"),
    ]
    if table[["ci_low", "ci_high"]].notna().any(axis=None):
        faint = alt.condition(over, alt.value(0.35), alt.value(0.08))
        low = alt.Y("ci_low:Q", title=title, scale=scale)  # or Vega-Lite's axis starts at 0
        layers.insert(0, interval.encode(low, opacity=faint))
    return layered(table, *layers, by_severity=by_severity, height=height, description=about)


def heat_map(
    table: pd.DataFrame, sides: Mapping[str, Any], fill: Any, tips: Any, **options: Any
) -> Any:
    """Rectangles with their ``text`` on them, painted as strongly as their ``strength``.

    Args:
        table: One row per rectangle, with its ``text`` and its ``strength``, in [0, 1].
        sides: The column whose values are the heat map's columns, and the one whose values are its
            rows, each with the order of its values.
        fill: The colour of the rectangles.
        tips: What hovering shows.
        options: For `layered`.
    """
    (across, columns), (down, rows) = sides.items()
    scale = alt.Scale(domain=[0, 1], range=[0, STRONGEST])
    opacity = alt.FillOpacity("strength:Q", scale=scale, legend=None)
    plain: dict[str, Any] = {"grid": False, "labelOverlap": False}
    slanted = alt.Axis(orient="top", labelAngle=-38, labelAlign="left", **plain)
    x = alt.X(f"{across}:N", sort=columns, title=None, axis=slanted)
    y = alt.Y(f"{down}:N", sort=rows, title=None, axis=alt.Axis(**plain))
    at = alt.Chart().encode(x, y, tooltip=tips)
    rectangle = at.mark_rect(cornerRadius=2, stroke=MUTED, strokeOpacity=0.15)
    layers = [rectangle.encode(opacity, fill=fill), at.mark_text().encode(text="text:N")]
    size = {"width": alt.Step(58), "height": alt.Step(26)}
    return layered(table, *layers, **size | options)


def layered(
    table: pd.DataFrame, *layers: alt.Chart, by_severity: bool = True, **properties: Any
) -> Any:
    """Layers over one table, of which the chart holds only the columns that they use.

    Args:
        table: What they draw.
        layers: The lowest first.
        by_severity: Whether the reader chooses a severity, where the table has several.
        properties: Of the chart: ``height``, ``description``; its width is the page's.
    """
    chart = alt.layer(*layers).properties(**{"width": "container"} | properties)
    text = json.dumps(chart.to_dict(validate=False))
    used = {"severity"}.union(*re.findall(r'"field": "(\w+)"|datum\.(\w+)', text))
    chart.data = table[[column for column in table if column in used]]
    return with_severity(table, chart) if by_severity else chart


def with_choice(chart: Any, name: str, options: Sequence[str], field: str) -> Any:
    """A chart of the rows of one value of a field, the first option or what the reader chooses."""
    choice = alt.binding_select(options=list(options), name=f"{name} ")
    chart = chart.transform_filter(f"datum.{field} == {name}")
    return chart.add_params(alt.param(name=name, value=options[0], bind=choice))


def with_severity(table: pd.DataFrame, *charts: Any) -> Any:
    """A chart, or several side by side, with a choice of severity where the table has several."""
    severities = list(table["severity"].unique())
    several = len(severities) > 1
    if several:
        charts = tuple(chart.transform_filter("datum.severity == severity") for chart in charts)
    chart = charts[0] if len(charts) == 1 else alt.hconcat(*charts, spacing=14)
    choice = alt.binding_select(options=severities, name="severity ")
    chosen = alt.param(name="severity", value=severities[0], bind=choice)
    return chart.add_params(chosen) if several else chart
