"""What all charts share: an augmentation's look, and how a chart becomes Vega-Lite, SVG and PNG."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
import vl_convert

from clipshift.results import file_name, subfolder, write_whole
from clipshift.severities import view_name

Chart = alt.TopLevelMixin
"""Any of Altair's charts."""
Drawn = dict[str, Any]
"""A chart in Vega-Lite's own words."""

PNG_SCALE = 2


class Look(NamedTuple):
    """How an augmentation is drawn, in every figure.

    Attributes:
        color: Of at least 3 : 1 contrast to a white and to a nearly black page.
        dash: Of its lines: apart within a kind of augmentations.
        shape: Of its points: apart between kinds.
    """

    color: str
    dash: tuple[int, ...]
    shape: str


SOLID, DASHED, DOTTED, MIXED, LONG = (1, 0), (7, 4), (2, 3), (8, 3, 2, 3), (14, 4)
LOOKS = {
    # what moves pixels: blue
    "shift_scale_rotate": Look("#3964c7", SOLID, "circle"),
    "flip": Look("#2d95d3", DASHED, "circle"),
    "elastic": Look("#1d97a3", DOTTED, "circle"),
    "perspective": Look("#2d74ca", MIXED, "circle"),
    "rotation": Look("#6f7dd9", LONG, "circle"),
    # what changes light and colour: amber
    "color_jitter": Look("#cc7200", SOLID, "square"),
    "brightness_contrast": Look("#a77f19", DASHED, "square"),
    "grayscale": Look("#a3591c", DOTTED, "square"),
    # what changes texture: purple
    "noise": Look("#b229ad", SOLID, "triangle-up"),
    "blur": Look("#a564d1", DASHED, "triangle-up"),
    "jpeg": Look("#824bcb", DOTTED, "triangle-up"),
    "pixelate": Look("#d168a7", MIXED, "triangle-up"),
    "motion_blur": Look("#9558a3", LONG, "triangle-up"),
    # what hides a part
    "coarse_dropout": Look("#6b727e", SOLID, "diamond"),
}  # fmt: skip
"""The augmentations with a look of their own: a hue for each kind, and neither red nor green."""
OTHERS = tuple(
    Look(color, dash, "cross")
    for dash in (SOLID, DASHED, DOTTED)
    for color in ("#6b727e", "#7d6b5d", "#5d7382")
)
"""How other augmentations are drawn, one after another by name."""

INK, MUTED, GRID, ACCENT, OPPOSITE = "#1b1e23", "#5b626c", "#e3e6ea", "#2d6cc0", "#b8660a"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def config(ink: str = INK, muted: str = MUTED, grid: str = GRID, back: str = "transparent") -> dict:
    """Vega-Lite's configuration for a page of these colours.

    Args:
        ink: Of text.
        muted: Of axis titles and rules.
        grid: Of grid lines.
        back: Of the background.
    """
    axis = {
        "labelColor": ink, "titleColor": muted, "gridColor": grid, "domain": False, "ticks": False,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 220,
        "labelPadding": 6, "titlePadding": 10, "labelFlush": False, "labelOverlap": "greedy",
        "labelSeparation": 6,
    }  # fmt: skip
    return {
        "background": back,
        "font": FONT,
        "view": {"stroke": None, "continuousWidth": 300},
        "axis": axis,
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "titleFontWeight": "normal",
            "symbolFillColor": muted,
            "symbolStrokeColor": muted,
            "labelFontSize": 12,
        },
        "title": {"color": ink, "anchor": "start", "fontSize": 13, "subtitleColor": muted},
    }


def looks(names: Sequence[str]) -> dict[str, Look]:
    """How to draw each augmentation, the same in every run, and also where its name is marked.

    Others follow by name.
    """
    known = {name: LOOKS.get(name.partition(" (")[0]) for name in names}
    others = sorted(name for name, look in known.items() if look is None)
    unknown = {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}
    return {name: look or unknown[name] for name, look in known.items()}


def save_figures(figures: Mapping[str, Drawn], folder: Path, source: str) -> dict[str, Path]:
    """Write charts as SVG and PNG, one of each for every severity that a chart can show.

    Args:
        figures: By name.
        folder: Where to.
        source: What they were made from: it stands below each.

    Returns:
        The PNG files by figure name, with ``@SEVERITY`` where there are several.
    """
    folder = subfolder(folder.parent, folder.name)
    paths = {}
    for name, chart in figures.items():
        for severity in severities_of(chart) or [""]:
            spec = specification(chart, severity or None, source)
            title = view_name(name, severity)
            svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGALITE, config=config(back="white"))
            png = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
            file = folder / file_name(title)
            write_whole(Path(f"{file}.svg"), partial(Path.write_text, data=svg, encoding="utf-8"))
            paths[title] = Path(f"{file}.png")
            write_whole(paths[title], partial(Path.write_bytes, data=png))
    return paths


def svg(chart: Chart) -> str:
    """A chart of its first severity as SVG."""
    spec = specification(drawn(chart))
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    text: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGALITE, config=config(back="white"))
    return text


VEGALITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes, and the page and files are drawn by."""
WIDTH = 680
"""Width of a figure's file in pixels, where the figure fits itself to its page."""


def drawn(chart: Chart) -> Drawn:
    """A chart as Vega-Lite has it: the tables in it take a while, so once is enough."""
    made: Drawn = chart.to_dict(validate=False)
    return made


def specification(chart: Drawn, severity: str | None = None, source: str = "") -> Drawn:
    """A chart alone: without a dropdown, of one severity.

    Args:
        chart: From `clipshift.report.charts`, as `drawn` makes it, which stays as it is.
        severity: Which one to show; None leaves the first.
        source: To stand below it.
    """
    spec = {name: value for name, value in chart.items() if name != "config"}
    if "params" in spec:
        spec["params"] = [
            {"name": "severity", "value": severity or param["value"]}
            if param["name"] == "severity"
            else param
            for param in chart["params"]
        ]
    if spec.get("width") == "container":
        spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    if source:
        spec["title"] = {"text": source, "orient": "bottom", "fontSize": 10, "fontWeight": "normal",
                         "color": MUTED, "offset": 12}  # fmt: skip
        if spec.get("width") == "container":
            spec["width"] = WIDTH
    return spec


def severities_of(chart: Drawn) -> list[str]:
    """The severities that a chart can show; empty where it has one or none."""
    binds = [param["bind"] for param in chart.get("params", []) if param["name"] == "severity"]
    return list(binds[0]["options"]) if binds else []


def with_severity(chart: Any, table: pd.DataFrame) -> Any:
    """The chart with a choice of severity, where its table has several."""
    severities = list(table["severity"].unique())
    if len(severities) < 2:
        return chart
    choice = alt.binding_select(options=severities, name="severity ")
    chosen = alt.param(name="severity", value=severities[0], bind=choice)
    return chart.add_params(chosen).transform_filter("datum.severity == severity")


def scale_of(names: Sequence[str], part: str) -> alt.Scale:
    """Augmentations and a part of their looks: ``color``, ``dash`` or ``shape``."""
    known = looks(names)
    return alt.Scale(
        domain=list(known), range=[list(getattr(k, part)) if part == "dash" else getattr(k, part)
                                   for k in known.values()]
    )  # fmt: skip


def color_of(names: Sequence[str]) -> alt.Color:
    """A chart's colours by its column ``augmentation``."""
    return alt.Color("augmentation:N", scale=scale_of(names, "color"), legend=None)


def shape_of(names: Sequence[str]) -> alt.Shape:
    """The shapes of its points."""
    return alt.Shape("augmentation:N", scale=scale_of(names, "shape"), legend=None)


def dash_of(names: Sequence[str]) -> alt.StrokeDash:
    """The dashes of its lines."""
    return alt.StrokeDash("augmentation:N", scale=scale_of(names, "dash"), legend=None)
