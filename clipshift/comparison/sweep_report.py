"""The report of a sweep: its answer in sentences, a table for the terminal, and a page."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from clipshift.comparison.pair import Pair, compare_pair, trained_on_of
from clipshift.comparison.pair_report import forest, pair_answer, pair_table
from clipshift.comparison.sweep import (
    HEADS,
    Sweep,
    by_job,
    comparable_pair,
    read_sweep,
    sweep_notes,
)
from clipshift.comparison.sweep_answer import sweep_answer
from clipshift.errors import from_here
from clipshift.integrations import tracking
from clipshift.report import terminal
from clipshift.report.charts.comparison import draw_parallel
from clipshift.report.charts.curves import draw_curves
from clipshift.report.charts.grid import draw_grid, draw_lines
from clipshift.report.charts.vega import save_figures
from clipshift.report.page import COMPARISON, Figure, Page, Section, link_comparison, write_page
from clipshift.report.prose import Contents, make_figure, make_section
from clipshift.report.shift import COSINE, headline_measure
from clipshift.report.tables import COUNT, Column, side_by_side
from clipshift.report.words import counted
from clipshift.results.files import write_csv
from clipshift.severities import ladder_steps, leading_severity

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
    page = sweep_page(sweep)
    files = save_figures(page.charts, folder / "figures", page.title) if page.charts else {}
    report = write_page(folder / COMPARISON, page)
    for job in sweep.runs:
        link_comparison(folder / job / "report.html")
    if sweep.runs:
        failed = bool(sweep.failed)
        tracking.track_sweep(folder, logger, sweeps, dashboard, sweep.table, files, failed)
    console = terminal.make_console()
    if len(rows := sweep.leading_rows):
        name, severity = HEADS[rows["measure"].iloc[0]], rows["severity"].iloc[0]
        title = f"Mean {name} at severity {severity}, with 95 % intervals"
        table = terminal.grid_table(rows, sweep.order, console.width)
        terminal.print_table(console, title, table)
    for note in page.notes:
        terminal.print_text(console, note, "note: ")
    terminal.print_text(console, " ".join(page.answer))
    jobs = f"{len(sweep.runs)} of {len(sweep.overrides)} jobs finished"
    print(f"{jobs}; comparison: {from_here(report)}")
    for job, reason in sweep.failed.items():
        settings = sweep.describe(job, sweep.options)
        print(from_here(f"failed: {folder / job} ({settings}): {reason}"), file=sys.stderr)
    return not sweep.failed


def sweep_page(sweep: Sweep) -> Page:
    """What the page of a sweep says; for two jobs on the same views, write ``paired.csv`` too."""
    answer, figures, sections = sweep_answer(sweep), grid_figures(sweep), []
    if len(sweep.grid):
        sections = [
            *([replace(make_section("grid"), figures=figures[1:])] if figures[1:] else []),
            *curve_sections(sweep),
            *parallel_sections(sweep),
            make_section("jobs", {}, [jobs_table(sweep)]),
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
        options = [sweep.describe(job, sweep.options) for job in sweep.failed]
        failed = pd.DataFrame(sweep.failed.items(), columns=["job", "error"])
        failed.insert(1, "options", options)
        columns = [Column(name, name) for name in failed]
        sections.append(make_section("failed", {}, [(failed, columns)]))
    outcome = f"finished, {len(sweep.failed)} failed"
    severities = list(sweep.grid["severity"].unique())
    return Page(
        title=f"Sweep of {counted(len(sweep.overrides), 'job')}",
        answer=answer,
        measured=f"{counted(len(sweep.runs), 'job')} {outcome}. They differ in "
        f"{', '.join(sweep.options) or 'nothing'}.",
        notes=sweep_notes(sweep),
        lead=figures[0] if figures else None,
        sections=sections,
        facts={"folder": str(sweep.folder), "jobs": f"{len(sweep.runs)} {outcome}"},
        severities=severities if len(severities) > 1 else [],
        severity=leading_severity(severities) if severities else "",
        about="What is compared",
    )


def grid_figures(sweep: Sweep) -> list[Figure]:
    """The heat map of models and augmentations, and the intervals: what tells more comes first."""
    measure = headline_measure(sweep.grid)
    if measure is None:
        return []
    columns = next(iter(sweep.runs.values())).columns
    heat_maps, lines = [], sweep.order["line"]
    for name in (measure, "zero_shot_top1", "neighbour_top1", "retained"):
        rows = sweep.grid[sweep.grid["measure"] == name]
        order = sweep.order
        clean = sweep.grid[sweep.grid["measure"] == f"{name}_clean"]
        if len(clean):
            clean = clean.drop_duplicates(["line", "severity"]).assign(augmentation="clean")
            rows = pd.concat([rows, clean])
            order = order | {"augmentation": ["clean", *order["augmentation"]]}
        if len(rows):
            chart = draw_grid(rows, columns[name], order)
            heat_maps.append(replace(make_figure("grid", name, chart), label=HEADS[name]))
    rows = sweep.grid[sweep.grid["measure"] == measure]
    intervals = make_figure("grid", "intervals", draw_lines(rows, HEADS[measure], lines))
    figures = [replace(heat_maps[0], others=heat_maps[1:]), intervals]
    return figures if len(lines) > 1 else figures[::-1]


def parallel_sections(sweep: Sweep) -> list[Section]:
    """The jobs as lines over their options and results; empty where no option has numbers."""
    jobs, numbers = by_job(sweep)
    if not set(numbers).intersection(sweep.other_options):
        return []
    same = [name for name in numbers[:-1] if jobs[name].nunique() < 2]
    chart = draw_parallel(jobs.drop(columns=same), [n for n in numbers if n not in same])
    return [make_section("parallel", {"parallel": chart}, number=numbers[-1])]


def curve_sections(sweep: Sweep) -> list[Section]:
    """The shift against severity; empty where the jobs have fewer than two steps of the ladder."""
    steps = ladder_steps(sweep.table["severity"])
    rows = sweep.table[(sweep.table["measure"] == COSINE) & sweep.table["severity"].isin(steps)]
    if rows["severity"].nunique() < 2:
        return []
    several = len(sweep.order["line"]) > 1
    chart = draw_curves(rows.assign(options=rows["job"].map(sweep.lines) if several else ""))
    return [make_section("curves", {"curves": chart})]


def jobs_table(sweep: Sweep) -> Contents:
    """The means of every job, with a link to its page."""
    data = side_by_side(sweep.grid, "measure", index=["job", "augmentation", "severity"])
    data = data.join(sweep.settings[sweep.other_options], on="job")
    data = data.assign(
        model=data["job"].map(sweep.models),
        photos=[sweep.runs[job].info.data.photos for job in data["job"]],
        page=[f"./{quote(job)}/report.html" for job in data["job"]],
    )
    names = ["model", *sweep.other_options, "augmentation", "severity"]
    columns = [
        Column("job", "job", link="page"),
        *(Column(name, name) for name in names),
        *(Column(head, name, name) for name, head in HEADS.items() if name in data),
        Column("photos", "photos", form=COUNT),
    ]
    return data, columns
