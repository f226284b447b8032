"""Charts of a grid of models and augmentations."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.charts import marks
from clipshift.report.charts.look import ACCENT, color_of, shape_of
from clipshift.report.charts.vega import Chart
from clipshift.report.words import capitalised
from clipshift.results.change import LEAST_CHANGE

LABEL = 180
"""The most room for a model's name beside its interval, in pixels."""


def draw_grid(table: pd.DataFrame, facts: Facts, order: Mapping[str, Sequence[str]]) -> Chart:
    """A heat map of models and augmentations: means as numbers, darker the more is lost.

    The darkest is the greatest loss of a severity, or `clipshift.results.change.LEAST_CHANGE` where
    all are smaller; a loss is 1 − x of a measure that is better when higher. The more numerous of
    the two are the rows.

    Args:
        table: One row per ``line`` (a model, or what else is compared), ``augmentation`` and
            ``severity``, with ``mean`` and, NaN where there is none, ``ci_low`` and ``ci_high``.
        facts: The measure's.
        order: The order of each ``line`` and each ``augmentation``.
    """
    loss = 1 - table["mean"] if facts.better == "higher" else table["mean"]
    greatest = loss.groupby(table["severity"]).transform("max").clip(lower=LEAST_CHANGE)
    table = marks.with_words(table, "mean").assign(
        text=table["mean"].map("{:.2f}".format), strength=(loss / greatest).clip(0, 1).round(4)
    )
    return marks.heat_map(
        table,
        dict(sorted(order.items(), key=lambda side: len(side[1]))),
        alt.value(ACCENT),
        marks.tooltip("augmentation", line="model", interval=f"{facts.short}, 95 %"),
        description=f"{capitalised(facts.label)} of every model under every augmentation.",
    )


def draw_lines(table: pd.DataFrame, title: str, lines: Sequence[str]) -> Chart:
    """Means with 95 % intervals by augmentation, in each a row for every model.

    Args:
        table: As of `draw_grid`.
        title: What the means are of.
        lines: The order of the models, whose names stand beside their intervals.
    """
    longest = max(map(len, lines)) if len(lines) > 1 else 0
    room = [0, alt.expr(f"width - {min(7 * longest, LABEL) + 14}")]
    sides: dict[str, Any] = {
        "y": marks.augmentations_by("mean"),
        "yOffset": alt.YOffset("line:N", sort=list(lines)),
    }
    table = marks.with_words(table, "mean")
    x = marks.values_from_zero("mean", title, range=room)
    interval, point = marks.interval_and_point(x, color=color_of(table), **sides)
    beside = alt.Chart().encode(x=alt.X("ci_high:Q", title=title), **sides)
    names = beside.mark_text(align="left", dx=9, limit=LABEL).encode(text="line:N")
    return marks.layered(
        table,
        interval,
        point.encode(
            shape_of(table), tooltip=marks.tooltip("augmentation", line="model", interval=title)
        ),
        *([names] if longest else []),
        height=(18 * len(lines) + 9) * table["augmentation"].nunique(),
        description=f"{title} with 95 % intervals, by augmentation and model.",
    )
