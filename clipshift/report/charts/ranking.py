"""Charts of rankings."""

import altair as alt
import pandas as pd

from clipshift.report.charts import marks
from clipshift.report.charts.look import color_of, dash_of, shape_of
from clipshift.report.charts.vega import Chart
from clipshift.report.shift import COSINE, as_shift, headline_measure, shift_name
from clipshift.report.tables import with_ranks
from clipshift.report.words import WHITE_BOX
from clipshift.severities import MATCHED, PAPER


def draw_ranking(
    ranking: pd.DataFrame, summary: pd.DataFrame, attack: pd.DataFrame | None = None
) -> Chart:
    """Augmentations by their mean shift, the largest first, with 95 % intervals and ranks.

    The axis is the relative shift, or else 1 − cosine (`clipshift.report.shift.headline_measure`).

    Args:
        ranking: From `clipshift.results.ranking.rank_augmentations`.
        summary: From `clipshift.results.table.summarize`.
        attack: ``attack.csv``, whose greatest ε is drawn as a line; None for no attack.
    """
    table = marks.with_words(with_ranks(ranking), "shift", into="cosine")
    table["place"] = "rank " + table["ranks"]
    measure, unit = headline_measure(summary) or COSINE, ""
    name, table["mean"] = f"mean {shift_name(measure)}", table["shift"]
    if measure != COSINE:
        name, unit = shift_name(measure), " (1: another photo)"
        keys, numbers = ["augmentation", "severity"], ["mean", "ci_low", "ci_high"]
        means = summary.loc[summary["measure"] == measure, keys + numbers]
        table = table.drop(columns=numbers).merge(means, on=keys)
    table = marks.with_words(table, "mean")
    x = marks.values_from_zero("mean", name + unit, range=[0, alt.expr("width - 62")])
    y = marks.augmentations_by("mean")
    interval, point = marks.interval_and_point(x, y=y, color=color_of(table))
    tips = marks.tooltip(
        "augmentation", interval=name, cosine="1 − cosine", ranks="rank, 95 %", n="photos"
    )
    beside = alt.Chart().encode(x=alt.X("ci_high:Q", title=name + unit), y=y)
    bound = []
    if attack is not None and len(attack):
        strongest = as_shift(attack[attack["measure"] == measure].tail(1)).iloc[0]
        table["attack"] = strongest["mean"]
        line = alt.Chart().encode(alt.X("mean(attack):Q", title=name + unit))
        words = alt.value(f"{WHITE_BOX}, ε = {strongest['epsilon']:g}/255")
        at_top = line.mark_text(align="right", dy=-7).encode(y=alt.value(0), text=words)
        bound = [line.mark_rule(strokeDash=[4, 4]), at_top]
    return marks.layered(
        table,
        *bound,
        interval,
        point.encode(shape=shape_of(table), tooltip=tips),
        beside.mark_text(align="left", dx=9).encode(text="place:N"),
        height=27 * table["augmentation"].nunique(),
        description="Augmentations by their mean shift, with 95 % intervals and ranks.",
    )


def draw_agreement(ranking: pd.DataFrame, severities: tuple[str, str] = (PAPER, MATCHED)) -> Chart:
    """The rankings at two severities, by default the paper's and matched, joined by lines.

    Args:
        ranking: From `clipshift.results.ranking.rank_augmentations`, with both severities.
        severities: The two, the left one first.
    """
    left_name, right_name = severities
    table = with_ranks(ranking[ranking["severity"].isin(severities)])
    names, ranks, count = table["augmentation"], table["ranks"], table["augmentation"].nunique()
    left, right = names + "  " + ranks, ranks + "  " + names
    table["text"] = left.where(table["severity"] == left_name, right)
    middle = alt.Scale(padding=0, range=[alt.expr("190"), alt.expr("width - 190")])
    heads = alt.Axis(orient="top", labelAngle=0, labelFontWeight="bold")
    x = alt.X("severity:N", sort=severities, title=None, scale=middle, axis=heads)
    y = alt.Y("rank:Q", axis=None, scale=alt.Scale(reverse=True, domain=[0.5, count + 0.5]))
    at = alt.Chart().encode(x, y)
    line = at.encode(color_of(table))
    tips = marks.tooltip(
        "augmentation", "severity", ranks="rank, 95 %", shift=("1 − cosine", ".3f")
    )
    text, of = at.encode(text="text:N"), "datum.severity =="
    return marks.layered(
        table,
        line.mark_line(strokeWidth=2).encode(dash_of(table)),
        line.mark_point(**marks.SOLID | {"size": 80}).encode(shape_of(table), tooltip=tips),
        text.mark_text(align="right", dx=-10, fontSize=12).transform_filter(f"{of} '{left_name}'"),
        text.mark_text(align="left", dx=10, fontSize=12).transform_filter(f"{of} '{right_name}'"),
        by_severity=False,
        height=27 * count,
        description=f"Ranks of the augmentations at {left_name} and {right_name} strengths.",
    )
