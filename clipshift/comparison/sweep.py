"""All jobs of a sweep in one comparison."""

import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clipshift.comparison.pair import (
    COMPARED_MEASURES,
    compare_pair,
    forest,
    notes_on_runs,
    pair_answer,
    pair_notes,
    pair_table,
    software_notes,
    trained_on_of,
)
from clipshift.data import read_text
from clipshift.errors import ERROR_FILE, UserError, one_line
from clipshift.integrations import tracking
from clipshift.report import terminal
from clipshift.report.charts.comparison import draw_parallel
from clipshift.report.charts.curves import draw_curves
from clipshift.report.charts.vega import save_figures
from clipshift.report.page import WIDE, Cell, Figure, Page, Section, Table, write_page
from clipshift.report.words import counted, model_in_words, short, with_interval
from clipshift.results import Run, differing_views, read_run, write_csv
from clipshift.severities import LADDER


def job_overrides(folder: Path) -> dict[str, str]:
    """What a job's command line set, by option."""
    try:
        lines = yaml.safe_load(read_text(folder / ".hydra/overrides.yaml")) or []
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    pairs = (str(line).lstrip("+~").partition("=") for line in lines)
    return {option: value for option, equals, value in pairs if equals}


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
    jobs = sorted(
        (path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")),
        key=lambda job: (len(job.name), job.name),
    )
    overrides = {job: job_overrides(job) for job in jobs}
    options = [
        option
        for option in dict.fromkeys(key for own in overrides.values() for key in own)
        if len({own.get(option) for own in overrides.values()}) > 1
    ]
    runs: dict[Path, Run] = {}
    failed: dict[Path, str] = {}
    for job in jobs:
        try:
            runs[job] = read_run(job)
        except UserError as error:
            written = job / ERROR_FILE
            failed[job] = one_line(read_text(written)) if written.is_file() else str(error)
    parts = []
    for job, run in runs.items():
        summary = run.summary
        settings = {name: overrides[job].get(name, "") for name in untold(options)}
        head = {"job": job.name, "model": run.info.model.name, **settings}
        parts.append(pd.DataFrame(head, index=summary.index).join(summary))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    write_csv(folder / "comparison.csv", table)
    notes = sweep_notes(runs, failed)
    report, files = write_sweep(folder, runs, failed, overrides, options, table, notes)
    if runs:
        tracking.track_sweep(folder, logger, sweeps, dashboard, table, files, failed=bool(failed))
        jobs_by_name = {job.name: run for job, run in runs.items()}
        told = {job.name: own for job, own in overrides.items()}
        terminal.print_sweep(terminal.sweep_table(jobs_by_name, told, options))
    for note in notes:
        print(f"note: {note}")
    print(f"{len(runs)} of {len(jobs)} jobs finished; comparison: {report}")
    for job, reason in failed.items():
        print(f"failed: {job} ({describe(overrides[job], options)}): {reason}", file=sys.stderr)
    return not failed


def describe(overrides: Mapping[str, str], options: Sequence[str]) -> str:
    """A job by the options in which a sweep's jobs differ."""
    return " ".join(f"{option}={overrides[option]}" for option in options if option in overrides)


def comparable_pair(runs: Mapping[Path, Run]) -> tuple[Run, Run] | None:
    """The two runs of a sweep that has two, on the same views; None for any other sweep."""
    if len(runs) != 2:
        return None
    a, b = runs.values()
    return None if differing_views(a, b) else (a, b)


def sweep_notes(runs: Mapping[Path, Run], failed: Mapping[Path, str]) -> list[str]:
    """What one must know before reading a sweep's numbers."""
    notes = (
        [f"{len(failed)} of {counted(len(failed) + len(runs), 'job')} failed."] if failed else []
    )
    if pair := comparable_pair(runs):
        return notes + pair_notes(*pair)
    every = list(runs.values())
    return notes + (software_notes(every) + notes_on_runs(every) if every else [])


def untold(options: Sequence[str]) -> list[str]:
    """The options that a sweep's table does not tell of by its own columns."""
    return [option for option in options if option not in ("model", "aug", "severity")]


def write_sweep(
    folder: Path,
    runs: dict[Path, Run],
    failed: dict[Path, str],
    overrides: dict[Path, dict[str, str]],
    options: list[str],
    table: pd.DataFrame,
    notes: Sequence[str],
) -> tuple[Path, dict[str, Path]]:
    """Write the page of a sweep: every job's shift, curves over severity, and what failed.

    Returns:
        The page's path, and the figures' by name.
    """
    sections = []
    models = {job.name: model_in_words(run.info.model) for job, run in runs.items()}
    lead = None
    answer = [f"None of the {counted(len(overrides), 'job')} has finished."]
    if len(table):
        jobs, numbers = grid(table, models, {job.name: overrides[job] for job in runs}, options)
        if len(jobs) > 1 and numbers:
            same = [name for name in numbers[:-1] if jobs[name].nunique() < 2]
            varying = [name for name in numbers if name not in same]
            lead = Figure(
                "parallel",
                draw_parallel(jobs.drop(columns=same), varying),
                f"Every line is a job: its options, and the means over its augmentations. Amber: "
                f"the largest {numbers[-1]}. Point at a line to see it alone.",
            )
        answer = sweep_answer(jobs, numbers, options)
        cells = [
            [Cell(f"{value:.3f}", value) if isinstance(value, float) else Cell(str(value))
             for value in row]
            for row in jobs.itertuples(index=False)
        ]  # fmt: skip
        note = "One row per job. Numbers are means over the job’s augmentations and severities."
        sections.append(
            Section("grid", "The grid", tables=[Table(list(jobs), cells, "All jobs", note=note)])
        )
        rows = job_table(table, models, untold(options))
        shifts = Table(
            rows[0], [[Cell(text, leading_number(text)) for text in row] for row in rows[1:]],
            "The shift of every job", file="comparison.csv",
        )  # fmt: skip
        sections.append(Section("jobs", "The shift of every job", tables=[shifts]))
        numbered = table[(table["measure"] == "cosine_similarity") & table["severity"].isin(LADDER)]
        if numbered["severity"].nunique() > 1:
            of_jobs = {job.name: describe(overrides[job], untold(options)) for job in runs}
            if len(set(models.values())) > 1:
                of_jobs = {job: f"{models[job]} {told}".strip() for job, told in of_jobs.items()}
            curves = draw_curves(numbered.assign(options=numbered["job"].map(of_jobs)))
            caption = "Mean shift against severity, with 95 % intervals."
            sections.insert(
                0,
                Section("curves", "As augmentations grow stronger",
                        figures=[Figure("curves", curves, caption, least=WIDE)]),
            )  # fmt: skip
    if pair := comparable_pair(runs):
        a, b = pair
        trained_on = trained_on_of(pair)
        paired = compare_pair(a, b, a.info.seed, trained_on)
        write_csv(folder / "paired.csv", paired)
        answer = pair_answer(a, b, paired)
        known = set(paired.dropna(subset="difference")["measure"])
        measures = [m for m in COMPARED_MEASURES if m in known]
        drawn = [forest(paired, measure, a, trained_on) for measure in measures[:1]]
        shown = pair_table(paired[paired["measure"].isin(measures)], a, trained_on, "paired.csv")
        title = f"Job {b.folder.name} against job {a.folder.name}, photo by photo"
        sections.append(Section("paired", title, figures=drawn, tables=[shown]))
    if failed:
        reasons = [
            [Cell(job.name), Cell(describe(overrides[job], options)), Cell(reason)]
            for job, reason in failed.items()
        ]
        shown = Table(["job", "options", "error"], reasons, "Failed jobs")
        sections.append(Section("failed", "Failed jobs", tables=[shown]))
    made = Page(
        title=f"Sweep of {counted(len(overrides), 'job')}",
        answer=answer,
        measured=f"{counted(len(runs), 'job')} finished, {len(failed)} failed. They differ in "
        f"{', '.join(options) or 'nothing'}.",
        notes=notes,
        lead=lead,
        sections=sections,
        facts={"folder": str(folder), "jobs": f"{len(runs)} finished, {len(failed)} failed"},
        about="What is compared",
    )
    files = save_figures(made.saved, folder / "figures", made.title) if made.saved else {}
    return write_page(folder / "comparison.html", made), files


def grid(
    table: pd.DataFrame,
    models: Mapping[str, str],
    overrides: Mapping[str, Mapping[str, str]],
    options: Sequence[str],
) -> tuple[pd.DataFrame, list[str]]:
    """A sweep's jobs: the options in which they differ, and what came of each.

    Args:
        table: The summaries of all jobs.
        models: What to call each job's model.
        overrides: What each job's command line set.
        options: The options in which jobs differ.

    Returns:
        One row per job, and which of its columns are numbers: means over the job's augmentations
        and severities, the shift last.
    """
    means = table.pivot_table(index="job", columns="measure", values="mean", sort=False)
    results = {
        "clean top-1": "zero_shot_top1_clean",
        "top-1": "zero_shot_top1",
        "retained": "retained",
        "relative shift": "relative_shift",
    }
    numbers = {name: means[m] for name, m in results.items() if m in means}
    if "relative shift" not in numbers and "cosine_similarity" in means:
        numbers["1 − cosine"] = 1 - means["cosine_similarity"]
    settings = {o: [overrides[job].get(o, "") for job in means.index] for o in options}
    settings |= {"model": [models[job] for job in means.index]} if "model" in options else {}
    jobs = pd.DataFrame(settings, index=means.index).assign(**numbers)
    return jobs.reset_index(names="job"), list(numbers)


def sweep_answer(jobs: pd.DataFrame, numbers: Sequence[str], options: Sequence[str]) -> list[str]:
    """Which jobs have the smallest and the largest mean shift, in a sentence."""
    ranked = jobs.sort_values(numbers[-1], kind="stable") if numbers else jobs[:0]
    ranked = ranked.dropna(subset=numbers[-1:])
    if len(ranked) < 2 or ranked[numbers[-1]].nunique() < 2:
        return [f"{counted(len(jobs), 'job')} finished."]
    shift = numbers[-1]

    def told(row: pd.Series) -> str:
        chosen = ", ".join(f"{option} {row[option]}" for option in options if row[option])
        return f"job {row['job']} ({chosen})" if chosen else f"job {row['job']}"

    least, most = ranked.iloc[0], ranked.iloc[-1]
    return [
        f"The mean {shift} is smallest in {told(least)}: {short(least[shift])}; and largest in "
        f"{told(most)}: {short(most[shift])}. Differences between jobs are not tested."
    ]


def leading_number(text: str) -> float | None:
    """The number that a cell begins with; None where it begins with something else."""
    try:
        return float(text.partition(" ")[0])
    except ValueError:
        return None


def job_table(
    table: pd.DataFrame, models: Mapping[str, str], options: Sequence[str]
) -> list[list[str]]:
    """The shift of every job under every augmentation for people, the largest first.

    Args:
        table: The summaries of all jobs.
        models: What to call each job's model.
        options: The options in which jobs differ, beside those that are columns.
    """
    header = ["job", "model", *options, "augmentation", "severity", "1 − cosine", "relative shift",
              "photos"]  # fmt: skip
    rows = []
    for (job, augmentation, severity), group in table.groupby(["job", "augmentation", "severity"]):
        measures = group.set_index("measure")
        if "cosine_similarity" not in measures.index:
            continue
        cosine = measures.loc["cosine_similarity"]
        mean, low, high = 1 - cosine[["mean", "ci_high", "ci_low"]]
        shift = with_interval(mean, low, high, ".4f")
        relative = measures.reindex(["relative_shift"]).iloc[0][["mean", "ci_low", "ci_high"]]
        told = [str(group.iloc[0][option]) for option in options]
        numbers = [shift, with_interval(*relative), str(cosine["n"])]
        cells = [job, models[job], *told, augmentation, severity, *numbers]
        rows.append((cosine["mean"], cells))
    return [header] + [cells for _, cells in sorted(rows, key=itemgetter(0))]
