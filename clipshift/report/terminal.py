"""What a run says in the terminal: progress in photos, and the last words."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich import box
from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from clipshift.measure import Facts
from clipshift.report.headline import HEADLINE, headline
from clipshift.report.words import resampled
from clipshift.results import Run, shown_measures
from clipshift.severities import MATCHED

HEADLINE_MEASURES = ("relative_shift", "cosine_similarity", "retained", "gaze_divergence_aligned")
"""The measures that a terminal of 80 columns has room for; wider ones show more."""
LOG_WIDTH = 120
"""How wide tables are where nobody looks on, as in a log file."""
GAP = 2
"""Spaces between columns."""
Rows = list[list[str]]
"""A table's cells, its head first."""


class PhotoSpeedColumn(ProgressColumn):
    """Photos per second since the first of them."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.completed and task.elapsed else None
        return Text("" if speed is None else f"{speed:.1f} photos/s")


class PhotoProgressBar(RichProgressBar):
    """Lightning's rich progress bar, counting photos and not batches."""

    @property
    def loader(self) -> Any:
        """The loader of this rank's photos."""
        return self.trainer.test_dataloaders

    @property
    def test_description(self) -> str:
        return "Measuring photos"

    @property
    def total_test_batches_current_dataloader(self) -> int:
        return len(self.loader.sampler)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        return [
            PhotoSpeedColumn() if isinstance(column, ProcessingSpeedColumn) else column
            for column in super().configure_columns(trainer)
        ]

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done = (batch_idx + 1) * self.loader.batch_size
        total = self.total_test_batches_current_dataloader
        self._update(self.test_progress_bar_id, min(done, total))


def make_console() -> Console:
    """The terminal; or what stands for it in a log file, with a width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say what is being done, as long as it is done; only where someone is looking."""
    console = make_console()
    if not console.is_terminal:
        yield
        return
    with console.status(doing):
        yield


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
    if len(severities) <= 2:
        shown = set()
        for severity, summary in run.summary.groupby("severity", sort=False):
            table = measure_table(summary, run, console.width)
            shown |= set(table[0])
            print_table(console, f"Means at severity {severity}{over}", table)
        left = [m for m in measures_in_order(run.summary, run.columns)
                if heading(m, run.columns) not in shown]  # fmt: skip
    else:
        measure = measures_in_order(run.summary, run.columns)[0]
        table, intervals = severity_table(run, measure, console.width)
        title = f"Mean {heading(measure, run.columns)} by severity"
        title += over if intervals else " (summary.csv has the intervals)"
        print_table(console, title, table)
        left = [m for m in measures_in_order(run.summary, run.columns) if m != measure]
    if not {*run.trained_on}.isdisjoint(run.summary["augmentation"]):
        print_text(console, "* trained on")
    if run.below_floor:
        print_text(console, f"° below the floor of {run.info.precision}")
    if left:
        names = ", ".join(heading(measure, run.columns) for measure in left)
        print_text(console, f"In the report and summary.csv as well: {names}")
    console.print()
    for note in notes:
        print_text(console, note, "note: ")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def print_text(console: Console, text: str, label: str = "") -> None:
    """Print sentences: what is in backquotes in bold, intervals faint."""
    parts = [(part, "bold" if index % 2 else "") for index, part in enumerate(text.split("`"))]
    made = Text.assemble((label, "yellow"), *parts)
    made.highlight_regex(r"\[[-+−\d., %]+\]", "dim")
    console.print(made, soft_wrap=not console.is_terminal)


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


def with_head(head: Sequence[str], names: Sequence[str], columns: Sequence[Sequence[str]]) -> Rows:
    """A table's rows, head first, from a column of names and columns of numbers."""
    cells = [aligned(column) for column in columns]
    return [list(head), *([name, *row] for name, *row in zip(names, *cells, strict=True))]


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


def heading(measure: str, columns: Mapping[str, Facts]) -> str:
    """What a terminal calls a measure: the cosine is shown as the shift that it is."""
    return "1 − cosine" if measure == "cosine_similarity" else columns[measure].short


def measures_in_order(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> list[str]:
    """The measures of a summary, the leading ones first."""
    shown = shown_measures(summary, columns)
    return [m for m in HEADLINE_MEASURES if m in shown] + [
        m for m in shown if m not in HEADLINE_MEASURES
    ]


def measure_table(summary: pd.DataFrame, run: Run, width: int) -> Rows:
    """The summary at one severity: one row per augmentation, the largest shift first.

    To three decimals where that leaves room for the leading measures, or else to two.

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
        measures.insert(HEADLINE_MEASURES.index("cosine_similarity") + 1, run.matched_by)
    cells = summary.set_index(["measure", "augmentation"])
    names = list(summary["augmentation"].unique())
    if "cosine_similarity" in measures:
        names.sort(key=lambda name: cells.loc[("cosine_similarity", name), "mean"])
    leading = 1 + sum(measure in (*HEADLINE_MEASURES, run.matched_by) for measure in measures)
    marked, made = [starred(name, run, summary["severity"]) for name in names], []
    for digits in (3, 2):
        columns = [[cell(cells.loc[(m, n)], m, digits) for n in names] for m in measures]
        head = ["augmentation", *(heading(measure, run.columns) for measure in measures)]
        made = fitted(with_head(head, marked, columns), width)
        if len(made[0]) >= leading:
            break
    return made


def severity_table(run: Run, measure: str, width: int) -> tuple[Rows, bool]:
    """One measure at every severity: one row per augmentation, the largest at the last one first.

    Args:
        run: The run.
        measure: The measure.
        width: Of the terminal.

    Returns:
        The table, and whether it has room for intervals.
    """
    table = run.summary[run.summary["measure"] == measure]
    severities = list(table["severity"].unique())
    last = table[table["severity"] == severities[-1]]
    last = last.sort_values("mean", ascending=measure == "cosine_similarity", kind="stable")
    names = list(last["augmentation"])
    cells = table.set_index(["severity", "augmentation"])
    marked, head = [starred(n, run, severities) for n in names], ["augmentation", *severities]
    for interval in (True, False):
        columns = [
            [cell(cells.loc[(severity, name)], measure, 2, interval) for name in names]
            for severity in severities
        ]
        made = with_head(head, marked, columns)
        if fitted(made, width) == made:
            break
    return fitted(made, width), interval


def starred(augmentation: str, run: Run, severities: Iterable[str]) -> str:
    """An augmentation's name, marked where the model was trained on it or rounding may be all."""
    below = run.below_floor & {(augmentation, severity) for severity in severities}
    marks = "*" * (augmentation in run.trained_on) + "°" * bool(below)
    return f"{augmentation} {marks}".rstrip()


def cell(row: pd.Series, measure: str, digits: int, interval: bool = True) -> str:
    """A mean of a summary, with its interval; of the cosine, 1 minus it."""
    mean, low, high = (float(row[column]) for column in ("mean", "ci_low", "ci_high"))
    if measure == "cosine_similarity":
        mean, low, high = 1 - mean, 1 - high, 1 - low
    return compact(mean, *((low, high) if interval else (math.nan, math.nan)), digits)


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


def sweep_table(
    runs: Mapping[str, Run], overrides: Mapping[str, Mapping[str, str]], options: Sequence[str]
) -> Rows:
    """A sweep's jobs for people, one row each: the numbers that lead in W&B.

    Args:
        runs: The finished jobs by name.
        overrides: What each job's command line set, by option.
        options: The options in which jobs differ.

    Returns:
        Rows of cells, header first; a column that no job has a value for is left out.
    """
    keys = ("worst_augmentation", "worst_relative_shift", "mean_relative_shift", "clean_top1")
    columns: dict[str, list[str]] = {"job": list(runs)}
    for option in options:
        given = [overrides[job].get(option, "") for job in runs]
        name = option.rpartition(".")[2]
        columns[option if name in columns else name] = [Path(value).name for value in given]
    found = [headline(run) for run in runs.values()]
    for key in keys:
        cells = [
            _of_headline(run, kept, key) for run, kept in zip(runs.values(), found, strict=True)
        ]
        if any(cells):
            columns[HEADLINE[key]] = aligned(cells) if key != keys[0] else cells
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _of_headline(run: Run, found: Mapping[str, Any], key: str) -> str:
    if key not in found:
        return ""
    if key == "worst_relative_shift":
        rows = run.summary.set_index(["measure", "augmentation", "severity"])
        worst = ("relative_shift", found["worst_augmentation"], str(found["severity"]))
        return cell(rows.loc[worst], "relative_shift", 3)
    return found[key] if isinstance(found[key], str) else f"{found[key]:.3f}"


def print_sweep(rows: Rows) -> None:
    """Print a sweep's jobs as one table."""
    console = make_console()
    console.print()
    print_table(console, "Job by job, with 95 % intervals", fitted(rows, console.width))


def shortened(path: Path) -> str:
    """A path, from the folder that one is in where it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
