"""The look of charts: colour, dash and shape of each augmentation, and the page's colours."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import altair as alt
import pandas as pd


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
    # what sees the model: rust
    "attack": Look("#b8562e", SOLID, "cross"),
}
"""The augmentations with a look of their own: a hue for each kind, and none of them green."""
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
    words = {"labelColor": ink, "labelFontSize": 12, "titleColor": muted}
    words["titleFontWeight"] = "normal"
    distances = {"labelPadding": 6, "titlePadding": 10, "labelSeparation": 6, "labelLimit": 220}
    quiet = {"domain": False, "ticks": False, "labelFlush": False, "labelOverlap": "greedy"}
    return {
        "background": back,
        "font": FONT,
        "view": {"stroke": None, "continuousWidth": 300},
        "axis": {**words, **distances, **quiet, "gridColor": grid, "titleFontSize": 12},
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "header": {"labelColor": ink, "titleColor": muted},
        "legend": {**words, "symbolFillColor": muted, "symbolStrokeColor": muted},
        "title": {"color": ink, "anchor": "start", "fontSize": 13, "subtitleColor": muted},
    }


def looks(names: Sequence[str]) -> dict[str, Look]:
    """How to draw each augmentation: the same in every run, and where ``(…)`` follows its name.

    Augmentations without a look of their own take one of `OTHERS` each, by name.
    """
    unmarked = {name: name.partition(" (")[0] for name in names}
    others = sorted(name for name in unmarked if unmarked[name] not in LOOKS)
    spare = dict(zip(others, cycle(OTHERS), strict=False))
    return {name: LOOKS.get(unmarked[name]) or spare[name] for name in unmarked}


def scale_of(table: pd.DataFrame, part: str) -> alt.Scale:
    """A table's augmentations and a part of their looks: ``color``, ``dash`` or ``shape``."""
    drawn = looks(sorted(table["augmentation"].unique()))
    parts = [getattr(look, part) for look in drawn.values()]
    return alt.Scale(domain=list(drawn), range=[list(p) if part == "dash" else p for p in parts])


def color_of(table: pd.DataFrame) -> alt.Color:
    """A chart's colours by its column ``augmentation``."""
    return alt.Color("augmentation:N", scale=scale_of(table, "color"), legend=None)


def shape_of(table: pd.DataFrame) -> alt.Shape:
    """The shapes of its points."""
    return alt.Shape("augmentation:N", scale=scale_of(table, "shape"), legend=None)


def dash_of(table: pd.DataFrame) -> alt.StrokeDash:
    """The dashes of its lines."""
    return alt.StrokeDash("augmentation:N", scale=scale_of(table, "dash"), legend=None)
