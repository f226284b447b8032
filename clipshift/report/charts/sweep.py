"""Charts of a sweep's jobs."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from clipshift.report.charts.marks import domain_of, intervals_in_words, named_lines
from clipshift.report.charts.vega import ACCENT, Chart


def draw_curves(rows: pd.DataFrame) -> Chart:
    """Mean shift against severity over a sweep's jobs: a line for other options, or augmentations.

    Args:
        rows: The cosine's rows of a sweep's ``comparison.csv`` at numbered severities, with a
            job's other ``options`` in words.
    """
    lines = [
        f"{name} ({options})" if options else name
        for name, options in zip(rows["augmentation"], rows["options"], strict=True)
    ]
    table = pd.DataFrame(
        {"severity": rows["severity"].astype(int), "augmentation": rows["augmentation"],
         "line": lines, "mean": 1 - rows["mean"], "ci_low": 1 - rows["ci_high"],
         "ci_high": 1 - rows["ci_low"]}
    ).reset_index(drop=True)  # fmt: skip
    table["told"] = intervals_in_words(table, "mean", "ci_low", "ci_high")
    tooltip = [
        alt.Tooltip("line:N", title="curve"),
        alt.Tooltip("severity:Q"),
        alt.Tooltip("told:N", title="1 − cosine"),
    ]
    domain = domain_of(table, ["mean", "ci_low", "ci_high"])
    height = max(340, 16 * len(set(lines)))
    chart = named_lines(
        table, "severity", "mean", "1 − cosine", ("ci_low", "ci_high"), tooltip, domain, height
    )
    return chart.properties(
        description="Mean shift of a sweep's jobs against severity, with 95 % intervals."
    )


def draw_parallel(jobs: pd.DataFrame, numbers: Sequence[str]) -> Chart:
    """A sweep's jobs as lines over parallel axes: their options, and what came of them.

    Args:
        jobs: One row per job, with a column ``job``; every other column is an axis.
        numbers: The columns that are numbers, each with an axis from its least to its greatest;
            the others' values lie at equal distances. The last one colours the lines.
    """
    axes = [column for column in jobs if column != "job"]
    points: list[tuple] = []
    ticks: list[tuple] = []
    last = jobs[numbers[-1]].astype(float)
    strength = ((last - last.min()) / ((last.max() - last.min()) or 1)).fillna(0)
    for axis in axes:
        if axis in numbers:
            values = jobs[axis].astype(float)
            low, high = values.min(), values.max()
            heights = (values - low) / ((high - low) or 1)
            told = [f"{value:.3g}" for value in values]
            marks = {f"{low:.3g}": 0.0, f"{high:.3g}": 1.0} if high > low else {f"{low:.3g}": 0.0}
        else:
            told = [str(value) for value in jobs[axis]]
            known = list(dict.fromkeys(told))
            marks = {value: index / (len(known) - 1 or 1) for index, value in enumerate(known)}
            heights = pd.Series([marks[value] for value in told], jobs.index)
        ticks += [(axis, height, text) for text, height in marks.items()]
        points += zip(
            jobs["job"], [axis] * len(jobs), heights, told, strength.round(3), strict=True
        )
    table = pd.DataFrame(points, columns=["job", "axis", "height", "value", "strength"])
    marks_table = pd.DataFrame(ticks, columns=["axis", "height", "value"])
    over = alt.selection_point(name="over", fields=["job"], on="pointerover", clear="pointerout")
    x = alt.X(
        "axis:N", sort=axes, title=None, scale=alt.Scale(padding=0.4),
        axis=alt.Axis(orient="top", labelAngle=0, grid=True, domain=False, labelOverlap=False),
    )  # fmt: skip
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-0.06, 1.06]))
    tooltip = [alt.Tooltip(f"{column}:N") for column in ("job", "axis", "value")]
    color = alt.Color("strength:Q", scale=alt.Scale(range=["#7fb0ea", ACCENT, "#c05a00"]),
                      legend=None)  # fmt: skip
    dim = alt.condition(over, alt.value(0.9), alt.value(0.12))
    lines = alt.Chart(table).encode(x=x, y=y, color=color, opacity=dim, detail="job:N")
    chart = alt.layer(
        lines.mark_line(strokeWidth=2),
        lines.mark_point(filled=True, size=60).encode(tooltip=tooltip).add_params(over),
        alt.Chart(marks_table)
        .mark_text(align="left", dx=8, dy=-7)
        .encode(x=x, y=y, text="value:N"),
    )
    return chart.properties(
        width=alt.Step(120),
        height=300,
        description="A sweep's jobs as lines over their options and results.",
    )
