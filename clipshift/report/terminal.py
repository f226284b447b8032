"""The output of a run in the terminal."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipshift.measure.facts import Facts
from clipshift.report.sections.measures import measure_columns, ranked_means
from clipshift.report.shift import COSINE, HEADLINE_MEASURES, as_shift, shift_name
from clipshift.report.tables import AUGMENTATION, Column, side_by_side
from clipshift.report.words import resampled
from clipshift.results.change import shown_measures
from clipshift.results.runs import Run
from clipshift.severities import MATCHED

FIRST_MEASURES = (*HEADLINE_MEASURES, "retained", "gaze_divergence_aligned")
"""The measures that a terminal of 80 columns has room for; wider ones show more."""
LOG_WIDTH = 120
"""How wide tables are where nobody looks on, as in a log file."""
GAP = 2
"""Spaces between columns."""
Rows = list[list[str]]
"""A table's cells, its head first."""


def make_console() -> Console:
    """The terminal; or what stands for it in a log file, with a width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def print_run(
    run: Run, title: str, answer: Sequence[str], notes: Sequence[str], lines: Sequence[str]
) -> None:
    """Print what a run found: in sentences, in a table, what limits it, and where things lie.

    Args:
        run: The run.
        title: What was run.
        answer: What was found, in sentences; names in backquotes.
        notes: What limits the numbers, a sentence each.
        lines: What else to say, as where files lie.
    """
    console = make_console()
    console.print()
    console.print(Text(title, "bold"), soft_wrap=not console.is_terminal)
    print_text(console, " ".join(answer))
    console.print()
    severities = list(run.summary["severity"].unique())
    over = f", with 95 % intervals over {resampled(run.info)}"
    measures = measures_in_order(run.summary, run.columns)
    heads = headings(run.columns)
    if len(severities) <= 2:
        shown = set()
        for severity, summary in run.summary.groupby("severity", sort=False):
            table = measure_table(summary, run, console.width)
            shown |= set(table[0])
            print_table(console, f"Means at severity {severity}{over}", table)
        left = [heads[measure] for measure in measures if heads[measure] not in shown]
    else:
        table, intervals = severity_table(run, measures[0], console.width)
        title = f"Mean {heads[measures[0]]} by severity"
        title += over if intervals else " (summary.csv has the intervals)"
        print_table(console, title, table)
        left = [heads[measure] for measure in measures[1:]]
    if not {*run.trained_on}.isdisjoint(run.summary["augmentation"]):
        print_text(console, "* trained on")
    if run.below_floor:
        print_text(console, f"° may be rounding: below the precision error of {run.info.precision}")
    if left:
        print_text(console, f"In the report and summary.csv as well: {', '.join(left)}")
    console.print()
    for note in notes:
        print_text(console, note, "note: ")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def print_text(console: Console, text: str, label: str = "") -> None:
    """Print sentences: what is in backquotes in bold, intervals faint."""
    parts = [(part, "bold" if index % 2 else "") for index, part in enumerate(text.split("`"))]
    styled = Text.assemble((label, "yellow"), *parts)
    styled.highlight_regex(r"\[[-+−\d., %]+\]", "dim")
    console.print(styled, soft_wrap=not console.is_terminal)


def print_table(console: Console, title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its first row being the head; heads may take two lines, other cells one."""
    console.print(Text(title, "italic"), soft_wrap=True)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),  # the box has a space between columns as well
    )
    for name, width in zip(rows[0], widths(rows), strict=True):
        table.add_column(Text(name), width=width)
    for row in rows[1:]:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    console.print(table)
    console.print()


def aligned(cells: Sequence[str]) -> list[str]:
    """A column's cells with their numbers set to the right, and their intervals below each other.

    Example:
        >>> aligned(["9.50 8.11–9.90", "12.00 9.71–14.20"])
        [' 9.50 8.11–9.90', '12.00 9.71–14.20']
    """
    width = max((len(cell.partition(" ")[0]) for cell in cells), default=0)
    return [" " * (width - len(cell.partition(" ")[0])) + cell for cell in cells]


def compact_rows(
    data: pd.DataFrame, columns: Sequence[Column], digits: int, intervals: bool = True
) -> Rows:
    """A table's rows, head first, in little room.

    Args:
        data: One row per row of the table.
        columns: What it shows.
        digits: Of numbers, after the point.
        intervals: Whether they are shown.
    """

    def show(mean: float, low: float, high: float) -> str:
        return compact(mean, *((low, high) if intervals else (math.nan, math.nan)), digits)

    texts = [
        aligned(column.texts(data, show)) if column.is_number(data) else column.texts(data)
        for column in columns
    ]
    return [[column.head for column in columns], *map(list, zip(*texts, strict=True))]


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column must be: its longest cell, or the longest word of its head."""
    head, *body = rows
    cells = zip(*body, strict=True) if body else ([] for _ in head)
    return [
        max([*map(len, name.split()), *map(len, column)], default=0)
        for name, column in zip(head, cells, strict=True)
    ]


def fitted(rows: Sequence[Sequence[str]], width: int) -> Rows:
    """As many columns of a table as fit into a width, the first two in any case.

    Example:
        >>> fitted([["name", "a", "b"], ["noise", "0.42", "0.43"]], width=15)
        [['name', 'a'], ['noise', '0.42']]
    """
    used, count = 0, 0
    for column in widths(rows):
        used += column + GAP
        count += used - GAP <= width or count < 2
    return [list(row[:count]) for row in rows]


def headings(columns: Mapping[str, Facts]) -> dict[str, str]:
    """What a terminal calls each measure: the cosine is shown as 1 − cosine."""
    heads = {measure: facts.short for measure, facts in columns.items()}
    return heads | {COSINE: shift_name(COSINE)}


def measures_in_order(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> list[str]:
    """The measures of a summary, the first ones first."""
    shown = shown_measures(summary, columns)
    return [m for m in FIRST_MEASURES if m in shown] + [m for m in shown if m not in FIRST_MEASURES]


def measure_table(summary: pd.DataFrame, run: Run, width: int) -> Rows:
    """The summary at one severity: one row per augmentation, the largest shift first.

    To three decimals where that leaves room for the first measures, or else to two.

    Args:
        summary: Means with intervals, of one severity.
        run: The run.
        width: Of the terminal.

    Returns:
        Rows of cells, header first; as many measures as fit. At matched severity what it was
        matched by comes after the shift.
    """
    measures = measures_in_order(summary, run.columns)
    if run.matched_by in measures and MATCHED in set(summary["severity"]):
        measures.remove(run.matched_by)
        measures.insert(FIRST_MEASURES.index(COSINE) + 1, run.matched_by)
    columns = measure_columns(measures, headings(run.columns))
    data = ranked_means(as_shift(summary), ascending=False)
    data["augmentation"] = [starred(n, run, summary["severity"]) for n in data["augmentation"]]
    least = 1 + sum(measure in (*FIRST_MEASURES, run.matched_by) for measure in measures)
    for digits in (3, 2):
        rows = fitted(compact_rows(data, columns, digits), width)
        if len(rows[0]) >= least:
            break
    return rows


def severity_table(run: Run, measure: str, width: int) -> tuple[Rows, bool]:
    """One measure at every severity: one row per augmentation, the largest at the last one first.

    Args:
        run: The run.
        measure: The measure.
        width: Of the terminal.

    Returns:
        The table, and whether it has room for intervals.
    """
    means = as_shift(run.summary[run.summary["measure"] == measure])
    severities = list(means["severity"].unique())
    data = side_by_side(means, "severity", index=["augmentation"])
    data = data.sort_values(severities[-1], ascending=False, kind="stable")
    data["augmentation"] = [starred(name, run, severities) for name in data["augmentation"]]
    columns = [AUGMENTATION, *(Column(severity, severity, severity) for severity in severities)]
    return fitting_rows(data, columns, width)


def fitting_rows(data: pd.DataFrame, columns: Sequence[Column], width: int) -> tuple[Rows, bool]:
    """A table's rows of numbers to two digits, and whether there is room for their intervals."""
    for intervals in (True, False):
        rows = compact_rows(data, columns, 2, intervals)
        if fitted(rows, width) == rows:
            break
    return fitted(rows, width), intervals


def starred(augmentation: str, run: Run, severities: Iterable[str]) -> str:
    """An augmentation's name, marked where the model was trained on it or rounding may be all."""
    below = run.below_floor & {(augmentation, severity) for severity in severities}
    marks = "*" * (augmentation in run.trained_on) + "°" * bool(below)
    return f"{augmentation} {marks}".rstrip()


def compact(mean: float, low: float, high: float, digits: int) -> str:
    """A number and the ends of its interval in little room.

    Example:
        >>> compact(0.42, 0.391, 0.46, 2), compact(-0.1, -0.2, 0.034, 2), compact(0.5, 0, 1, 1)
        ('0.42 .39–.46', '-0.10 -.20 to .03', '0.5 .0–1.0')
    """
    if not math.isfinite(mean):
        return ""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{mean:.{digits}f}"
    ends = [re.sub(r"^(-?)0\.", r"\1.", f"{end:.{digits}f}") for end in (low, high)]
    return f"{mean:.{digits}f} {(' to ' if low < 0 else '–').join(ends)}"


def grid_table(rows: pd.DataFrame, order: Mapping[str, Sequence[str]], width: int) -> Rows:
    """The means of a sweep's models under its augmentations, the more numerous as rows.

    Args:
        rows: One per ``line`` (a model, or what else is compared) and ``augmentation``.
        order: The order of both.
        width: Of the terminal.
    """
    across, down = sorted(order, key=lambda side: len(order[side]))
    data = side_by_side(rows, across, index=[down])
    data = data.sort_values(down, key=lambda names: names.map(order[down].index))
    columns = [Column(name, name, name) for name in order[across] if name in data]
    columns.insert(0, Column("model" if down == "line" else down, down))
    return fitting_rows(data, columns, width)[0]
