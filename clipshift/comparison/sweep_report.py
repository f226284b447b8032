"""The report of a sweep: its answer in sentences, a table for the terminal, and a page."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from clipshift.comparison.leaderboard import (
    FILE,
    make_leaderboard,
    shown_columns,
    write_leaderboard,
)
from clipshift.comparison.pair import Pair, class_groups, compare_pair, trained_on_of
from clipshift.comparison.pair_report import forest, pair_answer, pair_section
from clipshift.comparison.sweep import (
    HEADS,
    WORDS,
    Sweep,
    comparable_pair,
    read_runs,
    read_sweep,
    sweep_notes,
)
from clipshift.comparison.sweep_answer import sweep_answer
from clipshift.errors import from_here
from clipshift.report import terminal
from clipshift.report.charts.curves import draw_curves
from clipshift.report.charts.grid import draw_grid, draw_lines
from clipshift.report.charts.ranking import draw_agreement
from clipshift.report.charts.vega import save_figures
from clipshift.report.page import COMPARISON, Figure, Page, Section, link_comparison, write_page
from clipshift.report.prose import Contents, make_figure, make_section
from clipshift.report.shift import COSINE, headline_measure, shift_name
from clipshift.report.tables import COUNT, Column, side_by_side
from clipshift.report.words import counted, listed, short
from clipshift.results.files import write_csv
from clipshift.results.ranking import ranking_agreement
from clipshift.results.runs import Run, misfits
from clipshift.severities import MATCHED, ladder_steps

PAIRED = "paired.csv"
MOST_LINES = 12
"""Of more, intervals by augmentation would take several screens: tables and hovering have them."""


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
    files = report_sweep(sweep, folder)
    for job in sweep.runs:
        link_comparison(folder / job / "report.html")
    if sweep.runs and "project" in logger:
        from clipshift.integrations import tracking

        failed = bool(sweep.failed)
        tracking.track_sweep(folder, logger, sweeps, dashboard, sweep.table, files, failed)
    return not sweep.failed


@misfits("the comparison")
def rank_runs(places: Sequence[str], folder: Path) -> bool:
    """Compare any runs of the same views as the jobs of a sweep: ``clipshift leaderboard``.

    Args:
        places: See `read_runs`.
        folder: Where the files go.

    Returns:
        Whether no run is refused.
    """
    sweep = read_runs(places)
    folder.mkdir(parents=True, exist_ok=True)
    report_sweep(sweep, folder)
    return not sweep.failed


def report_sweep(sweep: Sweep, folder: Path) -> dict[str, Path]:
    """Write the tables and the page of a sweep, print what they say, and return its figures."""
    write_csv(folder / "comparison.csv", sweep.table)
    table = make_leaderboard(sweep)
    page = sweep_page(sweep, folder, table)
    if len(table):
        write_leaderboard(folder, table, sweep.severity)
    files = save_figures(page.charts, folder / "figures", page.title) if page.charts else {}
    report = write_page(folder / COMPARISON, page)
    console = terminal.make_console()
    if len(rows := sweep.leading_rows):
        name, severity = HEADS[rows["measure"].iloc[0]], rows["severity"].iloc[0]
        title = f"Mean {name} at severity {severity}, with 95 % intervals"
        means = terminal.grid_table(rows, sweep.order, console.width)
        terminal.print_table(console, title, means)
    if len(table):
        shown, columns = shown_columns(table[table["severity"] == sweep.severity])
        over = counted(sweep.leading_rows["augmentation"].nunique(), "augmentation")
        title = f"Means over {over} at severity {sweep.severity}, with 95 % intervals"
        terminal.print_table(
            console, title, terminal.fitting_rows(shown, columns, console.width)[0]
        )
    for note in page.notes:
        terminal.print_text(console, note, "note: ")
    terminal.print_text(console, " ".join(page.answer))
    _, done, lost = WORDS[sweep.noun]
    jobs = f"{len(sweep.runs)} of {len(sweep.overrides)} {sweep.noun}s {done}"
    print(f"{jobs}; comparison: {from_here(report)}")
    for job, reason in sweep.failed.items():
        settings = sweep.describe(job, sweep.options)
        place = f"{sweep.folder / job} ({settings})" if settings else sweep.folder / job
        print(from_here(f"{lost}: {place}: {reason}"), file=sys.stderr)
    return files


def sweep_page(sweep: Sweep, folder: Path, table: pd.DataFrame) -> Page:
    """What the page of a sweep says; for two jobs on the same views, write ``paired.csv`` too.

    Args:
        sweep: The sweep.
        folder: Where the page goes.
        table: Its `make_leaderboard`.
    """
    answer, figures, sections = sweep_answer(sweep), grid_figures(sweep), []
    together, done, lost = WORDS[sweep.noun]
    if len(table):
        ranked = {"shift": shift_name(headline_measure(sweep.grid) or COSINE), "file": FILE}
        sections.append(make_section("leaderboard", {}, [shown_columns(table)], **ranked))
    if len(sweep.grid):
        sections += [
            *([replace(make_section("grid"), figures=figures[1:])] if figures[1:] else []),
            *curve_sections(sweep),
            *equaliser_sections(sweep),
            make_section("jobs", {}, [jobs_table(sweep, folder)], noun=sweep.noun),
        ]
    if runs := comparable_pair(sweep.runs):
        trained_on = trained_on_of(runs)
        pair = Pair(*runs, trained_on, compare_pair(*runs, runs[0].info.seed, trained_on))
        write_csv(folder / PAIRED, pair.table)
        answer = pair_answer(pair)
        a, b = (run.folder.name for run in runs)
        forests = [forest(pair, measure) for measure in pair.measures[:1]]
        names = {"a": a, "b": b, "noun": sweep.noun, "file": PAIRED}
        sections.append(pair_section("paired", pair, pair.measures, forests, **names))
    if sweep.failed:
        failed = pd.DataFrame(sweep.failed.items(), columns=[sweep.noun, "reason"])
        failed.insert(1, "options", [sweep.describe(job, sweep.options) for job in sweep.failed])
        columns = [Column(name, name) for name in failed if (failed[name] != "").any()]
        sections.append(make_section(lost, {}, [(failed, columns)]))
    outcome = f"{done}, {len(sweep.failed)} {lost}"
    differ = ", ".join(sweep.options) or "nothing"
    if sweep.noun == "run":
        photos = next(iter(sweep.runs.values())).info.data.photos
        differ = f"their models: the views of {counted(photos, 'photo')} are the same"
    severities = list(sweep.grid["severity"].unique())
    return Page(
        title=f"{together} of {counted(len(sweep.overrides), sweep.noun)}",
        answer=answer,
        measured=f"{counted(len(sweep.runs), sweep.noun)} {outcome}. They differ in {differ}.",
        notes=sweep_notes(sweep),
        lead=figures[0] if figures else None,
        sections=sections,
        facts={"folder": str(sweep.folder), f"{sweep.noun}s": f"{len(sweep.runs)} {outcome}"},
        severities=severities if len(severities) > 1 else [],
        severity=sweep.severity if severities else "",
        about="What is compared",
    )


def grid_figures(sweep: Sweep) -> list[Figure]:
    """The heat map of models and augmentations, and the intervals: what tells more comes first."""
    measure = headline_measure(sweep.grid)
    if measure is None:
        return []
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
            chart = draw_grid(rows, sweep.facts(name), order)
            heat_maps.append(replace(make_figure("grid", name, chart), label=HEADS[name]))
    rows = sweep.grid[sweep.grid["measure"] == measure]
    figures = [replace(heat_maps[0], others=heat_maps[1:])]
    if len(lines) <= MOST_LINES:
        drawn = draw_lines(rows, HEADS[measure], lines)
        figures.append(make_figure("grid", "intervals", drawn))
    return figures if len(lines) > 1 else figures[::-1]


def curve_sections(sweep: Sweep) -> list[Section]:
    """The shift against severity; empty where the jobs have fewer than two steps of the ladder."""
    steps = ladder_steps(sweep.table["severity"])
    rows = sweep.table[(sweep.table["measure"] == COSINE) & sweep.table["severity"].isin(steps)]
    if rows["severity"].nunique() < 2:
        return []
    several = len(sweep.order["line"]) > 1
    chart = draw_curves(rows.assign(options=rows["job"].map(sweep.lines) if several else ""))
    return [make_section("curves", {"curves": chart})]


def equaliser_sections(sweep: Sweep) -> list[Section]:
    """A model's rankings by two measures of distortion; empty where jobs were matched by one."""
    by_model: dict[tuple[str, str], dict[str, Run]] = {}
    for job, run in sweep.runs.items():
        if run.info.matching and len(run.ranking):
            measured = sweep.models[job], run.info.data.fingerprint
            by_model.setdefault(measured, {})[run.info.matching.distortion] = run
    figures = [
        _equaliser_figure(model, {name: runs[name] for name in pair})
        for (model, _), runs in by_model.items()
        for pair in combinations(runs, 2)
    ]
    named = [replace(figure, name=f"{figure.name}_{n}") for n, figure in enumerate(figures, 1)]
    return [replace(make_section("equalisers"), figures=named)] if named else []


def _equaliser_figure(model: str, runs: Mapping[str, Run]) -> Figure:
    """Two rankings side by side, how well they agree, and which ranks change beyond chance."""
    a, b = runs

    def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        matched = [table[table["severity"] == MATCHED] for table in tables]
        return pd.concat(t.assign(severity=n) for t, n in zip(matched, runs, strict=True))

    ranking = joined(run.ranking for run in runs.values())
    shift = joined(run.shift for run in runs.values())
    groups = class_groups(list(runs.values()))
    agreement = ranking_agreement(shift, (a, b), runs[a].info.seed, groups=groups)
    ranks = ranking.groupby("augmentation")[["rank_low", "rank_high"]].agg(["min", "max"])
    changed = ranks["rank_low", "max"] > ranks["rank_high", "min"]
    words = {"tau": short(*agreement), "changed": listed(changed.index[changed]) or "none"}
    chart = draw_agreement(ranking, (a, b))
    matching = {"a": runs[a].info.matching, "b": runs[b].info.matching}
    return make_figure("equalisers", "equalisers", chart, model=model, **matching, **words)


def jobs_table(sweep: Sweep, folder: Path) -> Contents:
    """The means of every job, with a link from a page in ``folder`` to its page."""
    data = side_by_side(sweep.grid, "measure", index=["job", "augmentation", "severity"])
    data = data.join(sweep.settings[sweep.other_options], on="job")
    data = data.assign(
        model=data["job"].map(sweep.models),
        photos=[sweep.runs[job].info.data.photos for job in data["job"]],
        page=[
            f"./{quote(os.path.relpath(sweep.runs[job].folder / 'report.html', folder))}"
            for job in data["job"]
        ],
    )
    names = ["model", *sweep.other_options, "augmentation", "severity"]
    columns = [
        Column(sweep.noun, "job", link="page"),
        *(Column(name, name) for name in names),
        *(Column(head, name, name) for name, head in HEADS.items() if name in data),
        Column("photos", "photos", form=COUNT),
    ]
    return data, columns
