"""The chart of the heads and MLPs that carry the shift."""

from typing import Any

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, OPPOSITE
from clipshift.report.charts.vega import Chart
from clipshift.severities import ALL

SIDE = 300
"""The side of a map of patches, in pixels."""


def draw_components(components: pd.DataFrame) -> Chart:
    """A heat map of layers and heads, by augmentation: shares of the shift in per cent.

    The darkest is the greatest share of a severity and augmentation, positive or negative. Blank:
    an interval that includes 0.

    Args:
        components: From `clipshift.evaluate.dissect.component_table`.
    """
    table = components[components["component"].isin(["head", "mlp"])]
    significant = ~((table["ci_low"] <= 0) & (table["ci_high"] >= 0))
    table = table.assign(
        layer=table["layer"].map("{:.0f}".format),
        column=table["head"].map("{:.0f}".format).where(table["head"].notna(), "MLP"),
        text=(100 * table["share"]).map("{:.1f}".format).where(significant, ""),
        drawn=table["share"].where(significant, 0),
    )
    return _draw_shares(
        table,
        {
            "column": sorted(table["column"].unique(), key="MLP".__eq__),
            "layer": list(table["layer"].unique())[::-1],
        },
        marks.tooltip("augmentation", "layer", column="head", interval="share, 95 %"),
        description="Share of every head and MLP in the shift; blank where it may be none.",
    )


def draw_locations(locations: pd.DataFrame) -> Chart:
    """A map of patches, by augmentation: shares of the shift in what heads gather of each.

    Args:
        locations: From `clipshift.evaluate.dissect.location_table`.
    """
    table = locations[locations["token"] == "patch"].assign(text="", drawn=locations["share"])
    sides = {side: list(table[side].unique()) for side in ("column", "row")}
    return _draw_shares(
        table.astype({"column": int, "row": int}),
        sides,
        marks.tooltip("augmentation", "row", "column", interval="share, 95 %"),
        digits=".4f",
        width=SIDE,
        height=SIDE * len(sides["row"]) / len(sides["column"]),
        description="Share of the shift by the patch in which attention heads gather it.",
    )


def _draw_shares(
    table: pd.DataFrame, sides: dict[str, Any], tips: Any, digits: str = ".3f", **options: Any
) -> Chart:
    """A heat map of the column ``drawn``, of one augmentation at a time."""
    size = table["drawn"].abs()
    most = table["share"].abs().groupby([table["severity"], table["augmentation"]]).transform("max")
    table = marks.with_words(table, "share", digits).assign(strength=(size / most).round(4))
    fill = alt.condition("datum.share > 0", alt.value(ACCENT), alt.value(OPPOSITE))
    chart = marks.heat_map(table, sides, fill, tips, **options)
    names = [ALL, *(name for name in table["augmentation"].unique() if name != ALL)]
    return marks.with_choice(chart, "augmentation", names, "augmentation")
