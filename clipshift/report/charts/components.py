"""The chart of the heads and MLPs that carry the shift."""

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, OPPOSITE
from clipshift.report.charts.vega import Chart
from clipshift.severities import ALL


def draw_components(components: pd.DataFrame) -> Chart:
    """A heat map of layers and heads, by augmentation: shares of the shift in per cent.

    The darkest is the greatest share of a severity and augmentation, positive or negative. Blank:
    an interval that includes 0.

    Args:
        components: From `clipshift.evaluate.dissect.component_table`.
    """
    table = components[components["component"].isin(["head", "mlp"])]
    significant = ~((table["ci_low"] <= 0) & (table["ci_high"] >= 0))
    size = table["share"].abs()
    most = size.groupby([table["severity"], table["augmentation"]]).transform("max")
    table = marks.with_words(table, "share").assign(
        layer=table["layer"].map("{:.0f}".format),
        column=table["head"].map("{:.0f}".format).where(table["head"].notna(), "MLP"),
        strength=(size / most).where(significant, 0).round(4),
        text=(100 * table["share"]).map("{:.1f}".format).where(significant, ""),
    )
    names = [ALL, *(name for name in table["augmentation"].unique() if name != ALL)]
    choice = alt.binding_select(options=names, name="augmentation ")
    chart = marks.heat_map(
        table,
        {
            "column": sorted(table["column"].unique(), key="MLP".__eq__),
            "layer": list(table["layer"].unique())[::-1],
        },
        alt.condition("datum.share > 0", alt.value(ACCENT), alt.value(OPPOSITE)),
        marks.tooltip("augmentation", "layer", column="head", interval="share, 95 %"),
        description="Share of every head and MLP in the shift; blank where it may be none.",
    )
    chart = chart.transform_filter("datum.augmentation == augmentation")
    return chart.add_params(alt.param(name="augmentation", value=ALL, bind=choice))
