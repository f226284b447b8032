"""The report of a sweep: its answer in sentences, a table for the terminal, and a page."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.comparison.pair import Pair, compare_pair, trained_on_of
from clipshift.comparison.pair_report import forest, pair_answer, pair_table
from clipshift.comparison.sweep import (
    Sweep,
    comparable_pair,
    grid,
    read_sweep,
    shifts_by_job,
    sweep_notes,
)
from clipshift.integrations import tracking
from clipshift.report import terminal
from clipshift.report.charts.comparison import draw_parallel
from clipshift.report.charts.curves import draw_curves
from clipshift.report.charts.vega import save_figures
from clipshift.report.page import Figure, Page, Section, write_page
from clipshift.report.prose import make_figure, make_section
from clipshift.report.shift import COSINE, shift_name
from clipshift.report.tables import AUGMENTATION, PHOTOS, Column
from clipshift.report.words import counted, short
from clipshift.results.files import write_csv
from clipshift.severities import ladder_steps

PAIRED = "paired.csv"


def compare_sweep(
    folder: Path, logger: Mapping[str, Any], sweeps: str = "multirun", dashboard: bool = False
) -> bool:
    """Make ``comparison.csv`` and ``comparison.html`` of all jobs in a sweep's folder.

    Args:
        folder: The sweep's folder.
        logger: The sweep's options ``logger``: W&B tracks the comparison where they are its.
        sweeps: The folder of all sweeps.
        dashboard: Whether to publish a W&B report.

    Returns:
        Whether every job has finished.
    """
    sweep = read_sweep(folder)
    write_csv(folder / "comparison.csv", sweep.table)
    notes = sweep_notes(sweep)
    report, files = write_sweep(sweep, notes)
    if sweep.runs:
        failed = bool(sweep.failed)
        tracking.track_sweep(folder, logger, sweeps, dashboard, sweep.table, files, failed)
        terminal.print_sweep(terminal.sweep_table(sweep.runs, sweep.overrides, sweep.options))
    for note in notes:
        print(f"note: {note}")
    print(f"{len(sweep.runs)} of {len(sweep.overrides)} jobs finished; comparison: {report}")
    for job, reason in sweep.failed.items():
        settings = sweep.describe(job, sweep.options)
        print(f"failed: {folder / job} ({settings}): {reason}", file=sys.stderr)
    return not sweep.failed


def write_sweep(sweep: Sweep, notes: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    """Write the page of a sweep: every job's shift, curves over severity, and what failed.

    Returns:
        The page's path, and the figures' by name.
    """
    lead, sections = None, []
    answer = [f"None of the {counted(len(sweep.overrides), 'job')} has finished."]
    if len(sweep.table):
        jobs, numbers = grid(sweep)
        lead = parallel_figure(jobs, numbers) if len(jobs) > 1 and numbers else None
        answer = sweep_answer(jobs, numbers, sweep.options)
        columns = [Column(name, name) for name in jobs]
        sections = [
            *curve_sections(sweep),
            make_section("grid", {}, [(jobs, columns)]),
            make_section("jobs", {}, [(shifts_by_job(sweep), shift_columns(sweep))]),
        ]
    if runs := comparable_pair(sweep.runs):
        trained_on = trained_on_of(runs)
        table = compare_pair(*runs, runs[0].info.seed, trained_on)
        pair = Pair(*runs, trained_on, table)
        write_csv(sweep.folder / PAIRED, table)
        answer = pair_answer(pair)
        a, b = (run.folder.name for run in runs)
        tables = [pair_table(pair, pair.measures)]
        section = make_section("paired", {}, tables, a=a, b=b, file=PAIRED)
        section.figures = [forest(pair, measure) for measure in pair.measures[:1]]
        sections.append(section)
    if sweep.failed:
        reasons = [
            (job, sweep.describe(job, sweep.options), reason)
            for job, reason in sweep.failed.items()
        ]
        names = ["job", "options", "error"]
        contents = pd.DataFrame(reasons, columns=names), [Column(name, name) for name in names]
        sections.append(make_section("failed", {}, [contents]))
    finished = f"{len(sweep.runs)} finished, {len(sweep.failed)} failed"
    page = Page(
        title=f"Sweep of {counted(len(sweep.overrides), 'job')}",
        answer=answer,
        measured=f"{counted(len(sweep.runs), 'job')} finished, {len(sweep.failed)} failed. They "
        f"differ in {', '.join(sweep.options) or 'nothing'}.",
        notes=notes,
        lead=lead,
        sections=sections,
        facts={"folder": str(sweep.folder), "jobs": finished},
        about="What is compared",
    )
    folder = sweep.folder / "figures"
    files = save_figures(page.charts, folder, page.title) if page.charts else {}
    return write_page(sweep.folder / "comparison.html", page), files


def parallel_figure(jobs: pd.DataFrame, numbers: Sequence[str]) -> Figure:
    """The jobs as lines over their options and results.

    Args:
        jobs: From `grid`.
        numbers: Which of its columns are numbers.
    """
    same = [name for name in numbers[:-1] if jobs[name].nunique() < 2]
    chart = draw_parallel(jobs.drop(columns=same), [name for name in numbers if name not in same])
    return make_figure("grid", "parallel", chart, number=numbers[-1])


def curve_sections(sweep: Sweep) -> list[Section]:
    """The shift against severity; empty where the jobs have fewer than two steps of the ladder."""
    steps = ladder_steps(sweep.table["severity"])
    rows = sweep.table[(sweep.table["measure"] == COSINE) & sweep.table["severity"].isin(steps)]
    if rows["severity"].nunique() < 2:
        return []
    lines = {job: sweep.describe(job, sweep.other_options) for job in sweep.runs}
    if len(set(sweep.models.values())) > 1:
        lines = {job: f"{sweep.models[job]} {line}".strip() for job, line in lines.items()}
    chart = draw_curves(rows.assign(options=rows["job"].map(lines)))
    return [make_section("curves", {"curves": chart})]


def shift_columns(sweep: Sweep) -> list[Column]:
    """What the table of every job's shift shows of `shifts_by_job`."""
    return [
        *(Column(option, option) for option in ("job", "model", *sweep.other_options)),
        AUGMENTATION,
        Column("severity", "severity"),
        Column(shift_name(COSINE), "mean", "ci", ".4f"),
        Column("relative shift", "relative", "relative"),
        PHOTOS,
    ]


def sweep_answer(
    jobs: pd.DataFrame, number_columns: Sequence[str], options: Sequence[str]
) -> list[str]:
    """Say in a sentence which jobs have the smallest and the largest mean shift.

    Args:
        jobs: From `grid`.
        number_columns: Names of its columns of numbers; the last is compared.
        options: The options in which jobs differ.
    """
    shift = number_columns[-1] if number_columns else ""
    ranked = jobs.dropna(subset=shift).sort_values(shift, kind="stable") if shift else jobs[:0]
    if len(ranked) < 2 or ranked[shift].nunique() < 2:
        return [f"{counted(len(jobs), 'job')} finished."]

    def described(row: pd.Series) -> str:
        chosen = ", ".join(f"{option} {row[option]}" for option in options if row[option])
        return f"job {row['job']} ({chosen})" if chosen else f"job {row['job']}"

    least, most = ranked.iloc[0], ranked.iloc[-1]
    return [
        f"The mean {shift} is smallest in {described(least)}: {short(least[shift])}; and largest "
        f"in {described(most)}: {short(most[shift])}. Differences between jobs are not tested."
    ]
