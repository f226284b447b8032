"""The jobs of a sweep, or other runs, read from their folders, and their numbers side by side."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from clipshift.comparison.notes import notes_on_runs, pair_notes, settings_notes
from clipshift.data.files import read_text
from clipshift.errors import ERROR_FILE, UserError, one_line
from clipshift.measure.facts import Facts
from clipshift.report.shift import COSINE, as_shift, headline_measure
from clipshift.report.words import counted, model_in_words, without_paths
from clipshift.results.columns import DEFINITIONS, VARIANT
from clipshift.results.compatibility import differing_views
from clipshift.results.runs import Run, read_run
from clipshift.results.table import influences
from clipshift.severities import MATCHED, leading_severity

RUN, SWEEP = "run.json", "multirun.yaml"
"""The files by which a run and a sweep are known: Hydra writes a sweep's."""
WORDS = {"job": ("Sweep", "finished", "failed"), "run": ("Leaderboard", "compared", "refused")}
"""What many jobs or runs are called together, and what becomes of most and of the others."""
NO_JOBS = pd.DataFrame(columns=["job", "model", *DEFINITIONS["summary"]])
NOT_IN_LINES = ("model", "aug", "severity")
"""The options that do not name a line of the grid: the model does, and they are its other sides."""
HEADS = {
    "relative_shift": "relative shift",
    COSINE: "1 − cosine",
    "percentile_shift": "percentile shift",
    "whitened_shift": "whitened shift",
    "retained": "retained",
    "recall5": "recall@5",
    "micro_ap": "µAP",
    "neighbour_top1": "1-NN",
    "neighbour_top1_clean": "1-NN clean",
    "zero_shot_top1": "top-1",
    "zero_shot_top1_clean": "clean top-1",
}
"""The measures that the page of a sweep shows, and what it calls them: means of ``summary.csv``,
which ``comparison.csv`` has all, and of ``thresholds.csv``."""


@dataclass
class Sweep:
    """The jobs of a sweep, or other runs of the same views.

    Attributes:
        folder: The sweep's folder, or the one above all runs.
        overrides: What each job's command line set, by job and option; nothing of other runs.
        runs: The finished jobs' runs, by job, or runs by name.
        failed: Why the others failed, or are refused, by job.
        noun: What one of them is called: ``job`` or ``run``.
    """

    folder: Path
    overrides: dict[str, dict[str, str]]
    runs: dict[str, Run] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    noun: str = "job"

    @cached_property
    def options(self) -> list[str]:
        """The options in which jobs differ."""
        settings = list(self.overrides.values())
        names = dict.fromkeys(option for given in settings for option in given)
        return [name for name in names if len({given.get(name) for given in settings}) > 1]

    @cached_property
    def other_options(self) -> list[str]:
        """Those beside the model, the augmentation and the severity."""
        return [option for option in self.options if option not in NOT_IN_LINES]

    @property
    def settings(self) -> pd.DataFrame:
        """These options of the finished jobs, as text: one row per job."""
        given = pd.DataFrame(self.overrides, self.options, dtype=object)
        return given.T.loc[list(self.runs)].fillna("")

    @cached_property
    def models(self) -> dict[str, str]:
        """What the model of each finished job is called."""
        return {job: model_in_words(run.info.model) for job, run in self.runs.items()}

    @cached_property
    def lines(self) -> dict[str, str]:
        """What is compared, by finished job: its model, and the other options that jobs differ in.

        The model is left out where all jobs have it and other options tell them apart. Jobs that
        measured the same under one name are told apart by their number, runs by their folder.
        """
        several = len(set(self.models.values())) > 1
        options = {job: self.describe(job, self.other_options) for job in self.runs}
        lines = {
            job: f"{model} {options[job]}".strip() if several or not options[job] else options[job]
            for job, model in self.models.items()
        }
        rows = self.table.assign(line=self.table["job"].map(lines))
        twice = rows.duplicated(["line", "augmentation", "severity", "measure"], keep=False)
        return lines | {job: f"{lines[job]} ({self.noun} {job})" for job in rows.loc[twice, "job"]}

    @cached_property
    def table(self) -> pd.DataFrame:
        """The summaries of all finished jobs, with their model and `other_options`."""
        parts = []
        for job, run in self.runs.items():
            settings = self.settings.loc[job, self.other_options]
            head = {"job": job, "model": run.info.model.name, **settings}
            parts.append(pd.DataFrame(head, index=run.summary.index).join(run.summary))
        return pd.concat(parts, ignore_index=True) if parts else NO_JOBS

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The table's rows of `HEADS` that have a value, each with its ``line``.

        Cosines are shifts.
        """
        rows = as_shift(self.table.assign(line=self.table["job"].map(self.lines)))
        return rows[rows["measure"].isin(HEADS) & rows["mean"].notna()]

    @cached_property
    def order(self) -> dict[str, list[str]]:
        """How the grid is sorted, by column: the largest shift first, the smallest line first."""
        shift = self.grid[self.grid["measure"] == headline_measure(self.grid)]
        augmentations = (-shift.groupby("augmentation")["mean"].max()).sort_values(kind="stable")
        lines = shift.groupby("line")["mean"].mean().sort_values(kind="stable")
        return {"augmentation": list(augmentations.index), "line": list(lines.index)}

    @property
    def severity(self) -> str:
        """The severity that models are ranked by first: the one of equal distortion, if any."""
        severities = list(self.grid["severity"].unique())
        return MATCHED if MATCHED in severities else leading_severity(severities)

    @property
    def leading_rows(self) -> pd.DataFrame:
        """The grid's rows that sentences and terminal tell of: one measure at one severity."""
        rows = self.grid[self.grid["measure"] == headline_measure(self.grid)]
        return rows[rows["severity"] == self.severity] if len(rows) else rows

    def facts(self, measure: str) -> Facts:
        """What a measure of the grid is."""
        facts = next(run.columns[measure] for run in self.runs.values() if measure in run.columns)
        return replace(facts, better="lower") if measure == COSINE else facts

    def describe(self, job: str, options: Sequence[str]) -> str:
        """A job by its options, paths cut to their last part."""
        given = self.overrides[job]
        return " ".join(without_paths(f"{name}={given[name]}") for name in options if name in given)


def job_overrides(folder: Path) -> dict[str, str]:
    """What a job's command line set, by option."""
    try:
        lines = yaml.safe_load(read_text(folder / ".hydra/overrides.yaml")) or []
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    pairs = (str(line).lstrip("+~").partition("=") for line in lines)
    return {option: value for option, equals, value in pairs if equals}


def read_sweep(folder: Path) -> Sweep:
    """Read the jobs of a sweep from its folder, those that failed with their errors."""
    jobs = sorted(
        (path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")),
        key=lambda job: (len(job.name), job.name),
    )
    overrides = {job.name: job_overrides(job) for job in jobs}
    return Sweep(folder, overrides, *read_each({job.name: job for job in jobs}))


def read_each(folders: Mapping[str, Path]) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs in folders, by name, and why the others cannot be read."""
    runs, failed = {}, {}
    for name, folder in folders.items():
        try:
            runs[name] = read_run(folder)
        except UserError as error:
            file = folder / ERROR_FILE
            failed[name] = one_line(read_text(file)) if file.is_file() else str(error)
    return runs, failed


def read_runs(places: Sequence[str]) -> Sweep:
    """Read the runs of a leaderboard: those of the same views as most of them.

    Args:
        places: Folders of runs, folders with runs at any depth, or the folder of one sweep, whose
            jobs may have other views each.

    Raises:
        UserError: If a folder holds no run, or no two runs have the same views.
    """
    paths = [Path(place).expanduser() for place in places]
    if len(paths) == 1 and (paths[0] / SWEEP).is_file():
        return read_sweep(paths[0])
    folders: dict[Path, None] = {}
    for path in paths:
        inside = [file.parent for file in path.rglob(RUN)]
        if not inside:
            raise UserError(f"no finished run in {path}: pass folders of runs, or what they lie in")
        chosen = [path] if path in inside else sorted(inside, key=lambda run: (len(run.name), run))
        folders |= dict.fromkeys(run.resolve() for run in chosen)
    above = Path(os.path.commonpath([run.parent for run in folders]))
    finished, failed = read_each({str(run.relative_to(above)): run for run in folders})
    runs, others = same_runs(finished)
    refused = failed | others
    if len(runs) < 2:
        reasons = "".join(f"; {name}: {reason}" for name, reason in refused.items())
        raise UserError(f"a leaderboard requires two runs of the same views{reasons}")
    return Sweep(above, {name: {} for name in [*runs, *refused]}, runs, refused, "run")


def same_runs(runs: Mapping[str, Run]) -> tuple[dict[str, Run], dict[str, str]]:
    """The most runs of the same views, and why each of the others is not one of them."""
    groups: list[dict[str, Run]] = []
    for name, run in runs.items():
        alike = (one for one in groups if not differing_views(next(iter(one.values())), run))
        group = next(alike, None)
        if group is None:
            groups.append(group := {})
        group[name] = run
    most = max(groups, key=len, default={})
    refused = {}
    for name in [name for name in runs if name not in most]:
        first = next(iter(most))
        differences = ", ".join(differing_views(most[first], runs[name]))
        refused[name] = f"{first} and it differ in {differences}"
    return most, refused


def line_means(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    """What each photo adds to the mean of each line over augmentations: `influences`.

    Args:
        sweep: The sweep.
        rows: Of its grid: one measure and severity, and the same augmentations for each line.

    Returns:
        One row per photo, one column per line; of cosines shifts.
    """
    measure, means = rows["measure"].iloc[0], {}
    for line, of_line in rows.groupby("line", sort=False):
        columns = [
            influences(sweep.runs[job].rows, measure)[[*map(tuple, part[list(VARIANT)].to_numpy())]]
            for job, part in of_line.groupby("job", sort=False)
        ]
        means[line] = pd.concat(columns, axis=1).mean(axis=1)
    values = pd.DataFrame(means)
    return 1 - values if measure == COSINE else values


def same_views(sweep: Sweep, rows: pd.DataFrame) -> bool:
    """Whether jobs measured the same photos, and under each augmentation the same views."""
    for jobs in {tuple(jobs) for _, jobs in rows.groupby("augmentation")["job"]}:
        first, *others = (sweep.runs[job] for job in jobs)
        if any(differing_views(first, other) for other in others):
            return False
    return len({sweep.runs[job].info.data.fingerprint for job in rows["job"]}) == 1


def comparable_pair(runs: Mapping[str, Run]) -> tuple[Run, Run] | None:
    """The two runs of a sweep that has two, on the same views; None for any other sweep."""
    if len(runs) != 2:
        return None
    a, b = runs.values()
    return None if differing_views(a, b) else (a, b)


def sweep_notes(sweep: Sweep) -> list[str]:
    """What one must know before reading a sweep's numbers."""
    runs, failed = list(sweep.runs.values()), len(sweep.failed)
    of_all = f"{failed} of {counted(failed + len(runs), sweep.noun)}"
    notes = [f"{of_all} {WORDS[sweep.noun][2]}."] if failed else []
    if pair := comparable_pair(sweep.runs):
        return notes + pair_notes(*pair)
    return notes + ([*settings_notes(runs), *notes_on_runs(runs)] if runs else [])
