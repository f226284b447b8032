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
from clipshift.report.shift import COSINE, as_shift, shift_name
from clipshift.report.words import counted, model_in_words
from clipshift.results.compatibility import differing_views
from clipshift.results.runs import Run, read_run

TABLE_COLUMNS = ("model", "aug", "severity")
"""The options that the table of a sweep has columns for, whether or not jobs differ in them."""


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
        """Those that its table does not have columns for anyway."""
        return [option for option in self.options if option not in TABLE_COLUMNS]

    @cached_property
    def models(self) -> dict[str, str]:
        """What the model of each finished job is called."""
        return {job: model_in_words(run.info.model) for job, run in self.runs.items()}

    @cached_property
    def table(self) -> pd.DataFrame:
        """The summaries of all finished jobs, with their model and `other_options`."""
        parts = []
        for job, run in self.runs.items():
            settings = {name: self.overrides[job].get(name, "") for name in self.other_options}
            head = {"job": job, "model": run.info.model.name, **settings}
            parts.append(pd.DataFrame(head, index=run.summary.index).join(run.summary))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def describe(self, job: str, options: Sequence[str]) -> str:
        """A job by its options."""
        given = self.overrides[job]
        return " ".join(f"{option}={given[option]}" for option in options if option in given)


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


def grid(sweep: Sweep) -> tuple[pd.DataFrame, list[str]]:
    """A sweep's jobs: the options in which they differ, and what came of each.

    Returns:
        One row per job, and which of its columns are numbers: means over the job's augmentations
        and severities, the shift last.
    """
    means = sweep.table.pivot_table(index="job", columns="measure", values="mean", sort=False)
    results = {
        "clean top-1": "zero_shot_top1_clean",
        "top-1": "zero_shot_top1",
        "1-NN clean": "neighbour_top1_clean",
        "1-NN": "neighbour_top1",
        "retained": "retained",
        "relative shift": "relative_shift",
    }
    numbers = {name: means[measure] for name, measure in results.items() if measure in means}
    if "relative shift" not in numbers and COSINE in means:
        numbers[shift_name(COSINE)] = 1 - means[COSINE]
    settings = {
        option: [sweep.overrides[job].get(option, "") for job in means.index]
        for option in sweep.options
    }
    if "model" in settings:
        settings["model"] = [sweep.models[job] for job in means.index]
    jobs = pd.DataFrame(settings, index=means.index).assign(**numbers)
    return jobs.reset_index(names="job"), list(numbers)


def shifts_by_job(sweep: Sweep) -> pd.DataFrame:
    """The shift of every job under every augmentation, the largest 1 − cosine first.

    Returns:
        The rows of 1 − cosine in the sweep's table, with the relative shift in the columns
        ``relative``, ``relative_low`` and ``relative_high``.
    """
    keys = ["job", "augmentation", "severity"]
    means = as_shift(sweep.table)
    cosines = means[means["measure"] == COSINE]
    names = {"mean": "relative", "ci_low": "relative_low", "ci_high": "relative_high"}
    relative = means[means["measure"] == "relative_shift"].rename(columns=names)
    rows = cosines.merge(relative[[*keys, *names.values()]], "left", keys).sort_values(keys)
    rows = rows.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    return rows.assign(model=rows["job"].map(sweep.models))
