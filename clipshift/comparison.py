"""Comparisons of finished runs: two of them photo by photo, or all jobs of a sweep."""

import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pytorch_lightning.loggers import WandbLogger

from clipshift.command import ERROR
from clipshift.errors import UserError
from clipshift.report import page, tracking
from clipshift.report.figures import draw_curves, draw_differences, save_figures, sign
from clipshift.report.words import (
    alike_photos,
    counted,
    few_photos,
    model_in_words,
    model_notes,
    p_value,
    run_title,
    weights_in_words,
    with_interval,
)
from clipshift.results import (
    Run,
    compare_photos,
    differing_views,
    incomparable,
    read_run,
    with_group_means,
    write_csv,
)

LEADING = (
    "cosine_similarity",
    "relative_shift",
    "retained",
    "zero_shot_top1_clean",
    "zero_shot_top1",
    "attention_similarity",
)
"""Measures of which a page shows the paired differences; the CSV has all."""
SPREAD_FALL = 0.1
"""How much closer together photos may lie before a comparison warns of it, as a fraction."""


def compare_runs(
    runs: Sequence[str],
    seed: int,
    folder: Path,
    figures: Mapping[str, Path] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Compare two finished runs photo by photo: ``compare=[RUN_A,RUN_B]``.

    Args:
        runs: Two run folders.
        seed: Seed of the bootstrap.
        folder: Where ``comparison.csv`` and ``comparison.html`` go.
        figures: More figures for the page, by name.
        notes: What else a reader must know.

    Returns:
        The page's path.

    Raises:
        UserError: If a folder holds no finished run, or the two measured different photos or views.
    """
    a, b = (read_run(Path(path).expanduser()) for path in runs)
    if differences := differing_views(a, b):
        raise UserError(
            f"{a.folder} and {b.folder} cannot be compared photo by photo: "
            f"they differ in {', '.join(differences)}"
        )
    table = compare_pair(a, b, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "comparison.csv", table)
    notes = [*notes, *pair_notes(a, b)]
    report = write_pair(folder, a, b, table, figures or {}, notes)
    shown = table[table["measure"] == "cosine_similarity"]
    print(pair_lines(a, b, shown if len(shown) else table))
    for note in notes:
        print(f"note: {note}")
    print(f"report: {report}")
    return report


def trained_on_of(a: Run, b: Run) -> list[str]:
    """What the fine-tuned one of two models was trained on; B's where both were."""
    return b.trained_on or a.trained_on


def compare_pair(a: Run, b: Run, seed: int) -> pd.DataFrame:
    """`compare_photos` of two runs, without the measures that cannot be compared.

    Of a fine-tuned model, with what it was trained on together.
    """
    trained_on = trained_on_of(a, b)
    lost = [name for name in a.shift if name.startswith(tuple(incomparable(a, b)))]
    return compare_photos(
        with_group_means(a.shift.drop(columns=lost), trained_on),
        with_group_means(b.shift, trained_on),
        a.columns,
        seed,
    )


def pair_lines(a: Run, b: Run, table: pd.DataFrame) -> str:
    """A paired comparison in the terminal's words."""
    photos = counted(int(table["n"].max()), "photo")
    lines = [f"{run_title(b)} against {run_title(a)}, {photos}, paired:"]
    lines += [
        f"  {row.augmentation:20} {row.severity:8} {row.measure} "
        f"{row.mean_a:.4f} → {row.mean_b:.4f}{shift_change(row)}  difference "
        f"{with_interval(row.difference, row.ci_low, row.ci_high, '+.4f')}  "
        f"improved {row.improved:.1%} of photos  p {p_value(row.p_holm)}"
        for row in table.itertuples()
    ]
    return "\n".join(lines)


def shift_change(row: Any) -> str:
    """By how much the shift (1 − cosine) of a comparison's row changes, in per cent of A's."""
    if row.measure != "cosine_similarity" or row.mean_a == 1:
        return ""
    return f" (shift {(1 - row.mean_b) / (1 - row.mean_a) - 1:+.0%})"


def spread_change(a: Run, b: Run) -> str:
    """The mean distances between different photos in A and in B; empty where one has none."""
    before, after = (run.facts.get("spread") for run in (a, b))
    return f"{before:.3f} → {after:.3f}" if before and after else ""


def pair_notes(a: Run, b: Run) -> list[str]:
    """What one must know before reading a paired comparison's numbers."""
    notes = [
        f"{name} differs: {a.facts[name]} and {b.facts[name]}. Part of the difference is this."
        for name in ("precision", "device")
        if a.facts[name] != b.facts[name]
    ]
    notes += software_notes([a, b])
    lost = incomparable(a, b)
    for cause in dict.fromkeys(lost.values()):
        measures = [measure for measure in lost if lost[measure] == cause]
        notes.append(f"Left out: {', '.join(measures)} ({cause}).")
    return notes + notes_on_runs([a, b])


def software_notes(runs: Sequence[Run]) -> list[str]:
    """Whether runs were made by different versions of packages, or of clipshift's own code."""
    made_by = [run.facts["versions"] | {"python": run.facts["python"]} for run in runs]
    names = dict.fromkeys(name for versions in made_by for name in versions)
    found = {name: dict.fromkeys(v.get(name, "none") for v in made_by) for name in names}
    other = [f"{name} ({', '.join(seen)})" for name, seen in found.items() if len(seen) > 1]
    if len({run.facts["code_sha256"] for run in runs}) > 1:
        other.append("clipshift's own code")
    if not other:
        return []
    return [
        f"The runs were made by different versions: {'; '.join(other)}. Part of the difference may "
        "be this."
    ]


def notes_on_runs(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of runs: random weights, photos that are few, alike or close."""
    notes = [note for run in runs for note in model_notes(run.facts["model"])]
    notes += few_photos(min(run.facts["data"]["photos"] for run in runs))
    notes += alike_photos(max(run.facts["intraclass_correlation"] or 0 for run in runs))
    first = runs[0]
    for run in runs[1:]:
        photos = [one.facts["data"].get("fingerprint") for one in (first, run)]
        change = spread_change(first, run) if photos[0] == photos[1] else ""
        if change and run.facts["spread"] < (1 - SPREAD_FALL) * first.facts["spread"]:
            notes.append(
                f"With {run_title(run)} all photos lie closer together than with "
                f"{run_title(first)} (mean distance {change}): a part of the smaller shift is "
                "this. Look at relative_shift and retained."
            )
    return list(dict.fromkeys(notes))


def write_pair(
    folder: Path,
    a: Run,
    b: Run,
    table: pd.DataFrame,
    more: Mapping[str, Path],
    notes: Sequence[str],
) -> Path:
    """Write the page of a paired comparison."""
    measures = [measure for measure in LEADING if measure in set(table["measure"])]
    marked = mark_trained(table, trained_on_of(a, b))
    rows = {measure: marked[marked["measure"] == measure] for measure in measures}
    tables = {measure: pair_table(rows[measure]) for measure in measures}
    drawn = {
        f"difference@{measure}": draw_differences(rows[measure], a.columns[measure])
        for measure in measures
    }
    photos = counted(int(table["n"].max()), "photo")
    for figure in drawn.values():
        sign(figure, f"{run_title(b)} minus {run_title(a)}, {photos}")
    facts = {
        name: f"{run_title(run)}: {run.folder}; {weights_in_words(run.facts['model'])}"
        for name, run in (("A", a), ("B", b))
    }
    if spread := spread_change(a, b):
        facts["mean distance between different photos"] = spread
    return page.write_comparison(
        folder,
        f"{run_title(b)} against {run_title(a)}, photo by photo",
        facts,
        notes,
        tables,
        {**more, **save_figures(drawn, folder / "figures")},
    )


def mark_trained(table: pd.DataFrame, trained_on: list[str]) -> pd.DataFrame:
    """A table with a mark at the augmentations that a model was trained on."""
    return table.assign(
        augmentation=[page.marked(name, trained_on) for name in table["augmentation"]]
    )


def pair_table(rows: pd.DataFrame) -> list[list[str]]:
    """A paired comparison's rows for people, header first."""
    header = ["augmentation", "severity", "A", "B", "difference (95 % interval)", "improved",
              "worsened", "p (Holm)"]  # fmt: skip
    return [header] + [
        [
            row.augmentation,
            row.severity,
            f"{row.mean_a:.4f}",
            f"{row.mean_b:.4f}{shift_change(row)}",
            with_interval(row.difference, row.ci_low, row.ci_high, "+.4f"),
            f"{row.improved:.1%}",
            f"{row.worsened:.1%}",
            p_value(row.p_holm),
        ]
        for row in rows.itertuples()
    ]


def job_overrides(folder: Path) -> dict[str, str]:
    """What a job's command line set, by option."""
    lines: list[str] = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text()) or []
    return dict(line.lstrip("+~").split("=", 1) for line in lines if "=" in line)


def compare_sweep(folder: Path) -> bool:
    """Make ``comparison.csv`` and ``comparison.html`` of all jobs in a sweep's folder.

    Args:
        folder: The sweep's folder.

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
            said = job / ERROR
            failed[job] = said.read_text().strip() if said.exists() else str(error)
    parts = []
    for job, run in runs.items():
        summary = pd.read_csv(job / "summary.csv", dtype={"severity": str})
        settings = {name: overrides[job].get(name, "") for name in untold(options)}
        head = {"job": job.name, "model": run.facts["model"]["name"], **settings}
        parts.append(pd.DataFrame(head, index=summary.index).join(summary))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    write_csv(folder / "comparison.csv", table)
    notes = sweep_notes(runs, failed)
    report, files = write_sweep(folder, runs, failed, overrides, options, table, notes)
    if runs:
        track_sweep(folder, list(runs.values()), table, files, failed=bool(failed))
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
    tables: dict[str, list[list[str]]] = {}
    drawn: dict[str, Any] = {}
    if len(table):
        models = {job.name: model_in_words(run.facts["model"]) for job, run in runs.items()}
        tables["mean shift of every job"] = job_table(table, models, untold(options))
        numbered = table[
            (table["measure"] == "cosine_similarity") & table["severity"].str.isdigit()
        ]
        if numbered["severity"].nunique() > 1:
            of_jobs = {job.name: describe(overrides[job], untold(options)) for job in runs}
            if len(set(models.values())) > 1:
                of_jobs = {job: f"{models[job]} {told}".strip() for job, told in of_jobs.items()}
            drawn["curves"] = draw_curves(numbered.assign(options=numbered["job"].map(of_jobs)))
    if failed:
        tables["failed jobs"] = [["job", "options", "error"]] + [
            [job.name, describe(overrides[job], options), reason] for job, reason in failed.items()
        ]
    if pair := comparable_pair(runs):
        a, b = pair
        paired = compare_pair(a, b, a.facts["seed"])
        write_csv(folder / "paired.csv", paired)
        marked = mark_trained(paired, trained_on_of(a, b))
        for measure in (m for m in LEADING if m in set(paired["measure"])):
            tables[f"{measure}: job {b.folder.name} against job {a.folder.name}, paired"] = (
                pair_table(marked[marked["measure"] == measure])
            )
    files = save_figures(drawn, folder / "figures") if drawn else {}
    facts = {"folder": str(folder), "jobs": f"{len(runs)} finished, {len(failed)} failed"}
    title = f"Sweep of {len(overrides)} jobs"
    return page.write_comparison(folder, title, facts, notes, tables, files), files


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


def track_sweep(
    folder: Path, runs: list[Run], table: pd.DataFrame, files: dict[str, Path], failed: bool
) -> None:
    """Put the comparison into a W&B run of its own, in the group of the jobs that were tracked."""
    options = runs[0].facts["config"]["logger"]
    if "project" not in options:
        return
    logger = tracking.wandb_logger(
        str(folder),
        options["project"],
        options["entity"],
        name="comparison",
        group=options["group"] or tracking.sweep_group(folder, runs[0].facts["config"]["sweeps"]),
        tags=[*options["tags"], "comparison"],
        job_type="comparison",
    )
    tracking.track_comparison(logger, table, files)
    if runs[0].facts["config"]["dashboard"]:
        print(publish_dashboard(logger, list(table["augmentation"].unique())))
    logger.experiment.finish(exit_code=int(failed))


def publish_dashboard(logger: WandbLogger, augmentations: list[str]) -> str:
    """Publish the sweep's W&B report; says where it is, or why it is not."""
    run = logger.experiment
    if run.offline:
        return "no dashboard: W&B is offline, log in with `wandb login`"
    try:
        from clipshift.report.dashboard import sweep_dashboard
    except ModuleNotFoundError:
        return "no dashboard: it needs pip install 'clipshift[dashboard]'"
    report = sweep_dashboard(run.project, run.entity, run.group, augmentations)
    report.save()
    return f"dashboard: {report.url}"
