"""The jobs of a sweep, read from its folder, and their numbers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from clipshift.comparison.notes import notes_on_runs, pair_notes, software_notes
from clipshift.data.files import read_text
from clipshift.errors import ERROR_FILE, UserError, one_line
from clipshift.report.shift import COSINE, as_shift, headline_measure
from clipshift.report.tables import leading_rows
from clipshift.report.words import counted, model_in_words, without_paths
from clipshift.results.columns import DEFINITIONS
from clipshift.results.compatibility import differing_views
from clipshift.results.runs import Run, read_run

NO_JOBS = pd.DataFrame(columns=["job", "model", *DEFINITIONS["summary"]])
NOT_IN_LINES = ("model", "aug", "severity")
"""The options that do not name a line of the grid: the model does, and they are its other sides."""
HEADS = {
    "relative_shift": "relative shift",
    COSINE: "1 − cosine",
    "percentile_shift": "percentile shift",
    "whitened_shift": "whitened shift",
    "retained": "retained",
    "neighbour_top1": "1-NN",
    "neighbour_top1_clean": "1-NN clean",
    "zero_shot_top1": "top-1",
    "zero_shot_top1_clean": "clean top-1",
}
"""The measures that the page of a sweep shows, and what it calls them; the CSV has all."""


@dataclass
class Sweep:
    """The jobs of a sweep.

    Attributes:
        folder: The sweep's folder.
        overrides: What each job's command line set, by job and option.
        runs: The finished jobs' runs, by job.
        failed: Why the others failed, by job.
    """

    folder: Path
    overrides: dict[str, dict[str, str]]
    runs: dict[str, Run] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

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
        measured the same under one name are told apart by their number.
        """
        several = len(set(self.models.values())) > 1
        options = {job: self.describe(job, self.other_options) for job in self.runs}
        lines = {
            job: f"{model} {options[job]}".strip() if several or not options[job] else options[job]
            for job, model in self.models.items()
        }
        rows = self.table.assign(line=self.table["job"].map(lines))
        twice = rows.duplicated(["line", "augmentation", "severity", "measure"], keep=False)
        return lines | {job: f"{lines[job]} (job {job})" for job in rows.loc[twice, "job"]}

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
    def leading_rows(self) -> pd.DataFrame:
        """The grid's rows that sentences and terminal tell of: one measure at one severity."""
        return leading_rows(self.grid[self.grid["measure"] == headline_measure(self.grid)])

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
    sweep = Sweep(folder, {job.name: job_overrides(job) for job in jobs})
    for job in jobs:
        try:
            sweep.runs[job.name] = read_run(job)
        except UserError as error:
            file = job / ERROR_FILE
            sweep.failed[job.name] = one_line(read_text(file)) if file.is_file() else str(error)
    return sweep


def comparable_pair(runs: Mapping[str, Run]) -> tuple[Run, Run] | None:
    """The two runs of a sweep that has two, on the same views; None for any other sweep."""
    if len(runs) != 2:
        return None
    a, b = runs.values()
    return None if differing_views(a, b) else (a, b)


def sweep_notes(sweep: Sweep) -> list[str]:
    """What one must know before reading a sweep's numbers."""
    runs, failed = list(sweep.runs.values()), len(sweep.failed)
    notes = [f"{failed} of {counted(failed + len(runs), 'job')} failed."] if failed else []
    if pair := comparable_pair(sweep.runs):
        return notes + pair_notes(*pair)
    return notes + (software_notes(runs) + notes_on_runs(runs) if runs else [])


def by_job(sweep: Sweep) -> tuple[pd.DataFrame, list[str]]:
    """What came of each of a sweep's jobs, beside the options that jobs differ in.

    Returns:
        One row per job, and which of its columns are numbers: options of numbers first, then means
        over the job's augmentations and severities, the shift last.
    """
    rows = sweep.grid.replace({"measure": HEADS})
    means = rows.pivot_table(index="job", columns="measure", values="mean", sort=False)
    names = [name for name in reversed(HEADS.values()) if name in means]
    numbers = sweep.settings.apply(pd.to_numeric, errors="coerce").dropna(axis="columns")
    swept = [option for option in numbers if sweep.settings[option].nunique() > 1]
    jobs = sweep.settings.astype(dict.fromkeys(swept, float)).join(means[names])
    return jobs.reset_index(names="job"), [*swept, *names]
