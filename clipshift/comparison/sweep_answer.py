"""The answer of a sweep in sentences: which model shifts least, and under what."""

from collections.abc import Mapping

import pandas as pd

from clipshift.comparison.leaderboard import rank_lines
from clipshift.comparison.pair import class_groups
from clipshift.comparison.sweep import Sweep, same_views
from clipshift.report.answer import answer
from clipshift.report.shift import COSINE, shift_name
from clipshift.report.words import counted, listed, short
from clipshift.results.ranking import rank_augmentations
from clipshift.results.runs import Run
from clipshift.results.table import mean_over_draws

FEW = 3
"""Up to this many augmentations have a sentence each, and lines that are tied are named."""
TESTED = "Differences in the mean {} are tested at the 95 % level on the same photos{}."
NOT_TESTED = (
    "Differences in the mean {} are not tested, only intervals are compared: the jobs did not "
    "measure the same views of the same photos."
)


def sweep_answer(sweep: Sweep) -> list[str]:
    """What a sweep found, in sentences.

    Its lines are compared under each augmentation, and in the mean of all. Where all jobs measured
    the same views, a line shifts least that is told apart from all others photo by photo
    (`rank_lines`); elsewhere one whose interval overlaps with no other's, and that is said.
    """
    if not sweep.runs:
        return [f"None of the {counted(len(sweep.overrides), 'job')} has finished."]
    rows = sweep.leading_rows
    if rows["line"].nunique() < 2:
        return answer(joined_run(sweep.runs))
    shift, tested = shift_name(rows["measure"].iloc[0]), same_views(sweep, rows)
    of_name = dict(list(rows.groupby("augmentation")))
    parts = {name: of_name[name] for name in sweep.order["augmentation"] if name in of_name}
    leads = {n: leader(sweep, part, tested) for n, part in parts.items() if len(part) > 1}
    whole = rows.groupby("line").filter(lambda part: len(part) == len(parts))
    sentences = []
    if tested and len(parts) > 1 and whole["line"].nunique() > 1:
        _, of_all = leader(sweep, whole, tested)
        sentences = [f"Over all {len(parts)} augmentations, {of_all}."]
    if len(leads) <= FEW:
        sentences += [f"Under `{name}`, {words}." for name, (_, words) in leads.items()]
    else:
        under: dict[str, list[str]] = {}
        for name, (line, _) in leads.items():
            least = f"`{line}` shifts least" if line else "none can be said to shift least"
            under.setdefault(least, []).append(name)
        sentences += [
            f"Under {listed(names, len(names))} ({len(names)} of {len(leads)}), {least}."
            for least, names in under.items()
        ]
    at = f", at severity {sweep.severity}" if sweep.grid["severity"].nunique() > 1 else ""
    return [*sentences, (TESTED if tested else NOT_TESTED).format(shift, at)]


def leader(sweep: Sweep, rows: pd.DataFrame, tested: bool) -> tuple[str, str]:
    """The line whose mean shift over some augmentations is smallest, and which may be as small.

    Args:
        sweep: The sweep.
        rows: Of its grid: one measure and severity, and the same augmentations for each line.
        tested: Whether differences on the same photos are tested, or else intervals compared.

    Returns:
        The line, empty where others are not told apart from it; and in words: it, its mean and the
        next, or else all those that are not told apart.
    """
    lines = rows.groupby("line", sort=False)
    means = lines["mean"].mean().sort_values(kind="stable")
    first, *others = means.index
    ends = lines[["ci_low", "ci_high"]].mean()
    tied = overlapping = [n for n in others if ends["ci_low"][n] <= ends["ci_high"][first]]
    if tested:
        ranked = rank_lines(sweep, rows)
        tied = [name for name in ranked.loc[ranked["rank_low"] == 1, "line"] if name != first]
    if not tied:
        two = f"{short(means[first])}, next {short(means[others[0]])} (`{others[0]}`)"
        return first, f"`{first}` shifts least: {two}"
    named = [f"{short(means[line])} (`{line}`)" for line in (first, *tied)]
    if named[FEW + 1 :]:
        named[FEW:] = [f"{len(named) - FEW} more"]
    relation = "overlap" if set(tied) <= set(overlapping) else "are not distinguishable"
    return "", f"{', '.join(named[:-1])} and {named[-1]} {relation}"


def joined_run(runs: Mapping[str, Run]) -> Run:
    """Jobs of one line, under different augmentations or at different severities, as one run."""
    first, *_ = runs.values()
    columns = ["photo", "label", "augmentation", "severity", COSINE]
    tables = [mean_over_draws(run.shift) for run in runs.values()]
    shift = pd.concat([table.reindex(columns=columns) for table in tables])
    summary = pd.concat([run.summary for run in runs.values()])
    ranking = rank_augmentations(shift, first.info.seed, groups=class_groups([first]))
    return Run(first.folder, first.info, first.columns, shift, summary, ranking=ranking)
