"""Tracking in Weights & Biases, through Lightning's logger."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger

from clipshift.errors import UserError, one_line
from clipshift.report.explorer import from_data_url, gazed
from clipshift.report.headline import headline
from clipshift.report.words import without_paths
from clipshift.results.runs import Run
from clipshift.severities import LADDER, ladder_steps, view_name


def wandb_logger(save_dir: str, project: str, **options: Any) -> WandbLogger:
    """Lightning's W&B logger: online when logged in, otherwise offline, without a question asked.

    Args:
        save_dir: Folder under which an offline run lies.
        project: The W&B project.
        options: What else ``wandb.init`` takes: ``entity`` (user or team; by default the user who
            is logged in), ``name``, ``group``, ``tags``, ``job_type``.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    settings = wandb.Settings(init_timeout=20)
    init = partial(wandb.init, dir=save_dir, project=project, settings=settings, **options)
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    try:
        return WandbLogger(experiment=init(mode=mode))
    except wandb.errors.CommError as error:
        _warn_offline(error)
        return WandbLogger(experiment=init(mode="offline"))


def mlflow_logger(**options: Any) -> MLFlowLogger:
    """Lightning's MLflow logger.

    Args:
        options: What it takes: ``experiment_name``, ``run_name``, ``save_dir``, ``tracking_uri``.

    Raises:
        UserError: If MLflow is not installed.
    """
    try:
        return MLFlowLogger(**options)
    except ModuleNotFoundError:
        raise UserError("logger=mlflow requires: pip install 'clipshift[mlflow]'") from None


def logged_in() -> bool:
    """Whether W&B has an API key; never asks for one."""
    try:
        return wandb.login(prompt=False, verify=False)
    except (wandb.errors.Error, ValueError) as error:
        _warn_offline(error)
        return False


def _warn_offline(error: Exception) -> None:
    reason = one_line(str(error))
    print(f"warning: this run is tracked offline. W&B reported: {reason}", file=sys.stderr)


@contextmanager
def optional_tracking() -> Iterator[None]:
    """Go on where W&B fails, as when its own process has died: the results are on the disk."""
    try:
        yield
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        print(f"warning: the W&B log of this run is incomplete: {reason}", file=sys.stderr)


def sweep_group(folder: Path, sweeps: str) -> str:
    """The W&B group of a sweep: its folder, below that of all sweeps where it lies there."""
    root = Path(sweeps)
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def run_name(overrides: Sequence[str], otherwise: str) -> str:
    """A W&B run's name: what its command line set, without paths, but for where things go."""
    chosen = [
        without_paths(override)
        for override in overrides
        if not override.startswith(("hydra", "logger", "cache", "sweeps", "rerun"))
    ]
    return (" ".join(chosen) or otherwise)[:128]


WANDB_ROWS = 10_000
"""How many rows W&B shows of a table."""
PICTURED_ROWS = 216
"""How many rows its table of photos has at the most, with four pictures each."""

SHIFT = "relative_shift"
"""The measure that W&B shows of each augmentation."""
OVER_AUGMENTATIONS = ("zero_shot_top1", "retained")
"""The measures that it shows as a mean over augmentations."""


def key_of(measure: str, augmentation: str, severity: str | None = None) -> str:
    """The key of a mean: the measure first, so that W&B keeps a measure's augmentations together.

    Example:
        >>> key_of("cosine_similarity", "noise"), key_of("shift", "noise", "3")
        ('cosine_similarity/noise', 'shift/noise@3')
    """
    return f"{measure}/{view_name(augmentation, severity)}"


def means(summary: pd.DataFrame) -> dict[str, float]:
    """All means of a summary, 1 − cosine among them as ``shift``, by `key_of`.

    The severity is in the key where there are several.
    """
    several = summary["severity"].nunique() > 1
    by_key: dict[str, float] = {}
    for row in summary.itertuples():
        variant = (row.augmentation, row.severity if several else None)
        if row.measure == "cosine_similarity":
            by_key[key_of("shift", *variant)] = 1 - row.mean
        by_key[key_of(row.measure, *variant)] = row.mean
    return by_key


def track_results(
    logger: WandbLogger,
    run: Run,
    figures: Mapping[str, Path],
    report: Path,
    explorer: Mapping[str, Any],
) -> list[str]:
    """Put a run's tables, figures, page, files and leading numbers into its W&B run.

    W&B draws a panel for each number that it is given: it is given `summary_values` and, where
    severities are steps of a ladder, the curves of `track_curves`. All others are in the tables.

    Args:
        logger: The run's logger.
        run: The run: its tables and ``run.json`` become an artifact.
        figures: Image files by figure name.
        report: The page, which becomes an artifact and a panel.
        explorer: The page's photos, from `clipshift.report.explorer.explorer_data`.

    Returns:
        What W&B does not show, in words.
    """
    tracked = logger.experiment
    track_curves(tracked, run)
    named = {
        "shift": run.rows.head(WANDB_ROWS),
        "summary": run.summary,
        "distances": run.distances.reset_index(names="augmentation"),
        "ranking": run.ranking,
        "correlations": run.correlations,
        "layers": run.layers,
    }
    tables = {f"tables/{name}": wandb_table(table) for name, table in named.items() if len(table)}
    tables["tables/pictures"] = photo_table(explorer)
    page = {"report": wandb.Html(str(report), inject=False)}
    tracked.log(tables | page | logged_figures(figures))
    artifact = wandb.Artifact(f"shift-{tracked.id}", type="evaluation")
    for file in ("shift.parquet", "summary.csv", "run.json", report.name):
        artifact.add_file(str(run.folder / file))
    checkpoint = run.info.model.checkpoint
    if checkpoint and not tracked.offline:
        tracked.use_artifact(checkpoint_artifact(Path(checkpoint)))
    tracked.log_artifact(artifact)
    tracked.summary.update(summary_values(run))
    shown = f"W&B shows the first {WANDB_ROWS} of {len(run.rows)} rows of shift"
    left_out = f"{shown}; all are in the artifact's shift.parquet."
    return [left_out] if len(run.rows) > WANDB_ROWS else []


def summary_values(run: Run) -> dict[str, Any]:
    """The numbers that lead in W&B: of `headline`, and at its severity.

    Returns:
        The headline; ``mean_zero_shot_top1`` and ``mean_retained``, means over augmentations; and
        by `key_of` the mean relative shift of each augmentation. What a run has not is left out.
    """
    numbers = headline(run)
    rows = run.summary[run.summary["severity"] == str(numbers.get("severity"))]
    rows = rows.dropna(subset="mean")
    over = rows[rows["measure"].isin(OVER_AUGMENTATIONS)].groupby("measure")["mean"].mean()
    return numbers | over.add_prefix("mean_").to_dict() | means(rows[rows["measure"] == SHIFT])


def track_curves(tracked: Any, run: Run) -> None:
    """Log the relative shift against ``severity``, where a run has two steps or more."""
    steps = run.summary[run.summary["severity"].isin(LADDER) & (run.summary["measure"] == SHIFT)]
    if steps["severity"].nunique() < 2:
        return
    tracked.define_metric("severity", hidden=True)
    tracked.define_metric(f"{SHIFT}/*", step_metric="severity", summary="none")
    for severity in ladder_steps(steps["severity"]):
        shifts = means(steps[steps["severity"] == severity])
        tracked.log({"severity": int(severity)} | shifts)


def photo_table(explorer: Mapping[str, Any]) -> wandb.Table:
    """The page's photos with pictures, gaze and numbers: one row per photo and variant.

    At most `PICTURED_ROWS` rows, of photos that moved most, typical ones, and those that moved
    least.

    Args:
        explorer: From `clipshift.report.explorer.explorer_data`.
    """
    variants = explorer["variants"]
    labels = {photo["id"]: photo["label"] for photo in explorer["photos"]}
    measures = [name for name, _ in explorer["measures"]]
    pictured = [photo for photo, shown in explorer["shown"].items() if shown["pictures"]]
    count = min(len(pictured), max(1, PICTURED_ROWS // len(variants)))
    chosen = [pictured[index * len(pictured) // count] for index in range(count)]
    head = ["photo", "label", "moved", "augmentation", "severity"]
    pictures = ["clean", "view", "gaze on clean", "gaze on view"]
    table = wandb.Table(columns=[*head, *pictures, *measures])
    for photo in chosen:
        shown = explorer["shown"][photo]
        measured = shown["models"][0]
        clean, *views = [from_data_url(url) for url in shown["pictures"]]
        seen_clean, *seen = gazed([clean, *views], measured["gaze"])
        before = [wandb_picture(clean), wandb_picture(seen_clean)]
        for index, (name, severity) in enumerate(variants):
            table.add_data(
                photo, labels.get(photo, ""), shown["part"], name, severity,
                before[0], wandb_picture(views[index]), before[1], wandb_picture(seen[index]),
                *(measured["values"][measure][index] for measure in measures),
            )  # fmt: skip
    return table


def wandb_picture(picture: Image.Image | None) -> wandb.Image | None:
    """A picture for W&B, small on the disk."""
    return None if picture is None else wandb.Image(picture, file_type="jpg")


def logged_figures(figures: Mapping[str, Path]) -> dict[str, wandb.Image]:
    """Image files by figure name, as W&B logs them."""
    return {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}


def wandb_table(table: pd.DataFrame) -> wandb.Table:
    """A table for W&B: by lists, since it takes three times as long over a DataFrame."""
    return wandb.Table(columns=list(table.columns), data=table.astype(object).to_numpy().tolist())


def checkpoint_artifact(checkpoint: Path) -> wandb.Artifact:
    """A checkpoint, file or folder, as an artifact that links its training and its evaluations."""
    artifact = wandb.Artifact(f"checkpoint-{checkpoint.stem}", type="model")
    add = artifact.add_dir if checkpoint.is_dir() else artifact.add_file
    add(str(checkpoint))
    return artifact


def track_checkpoint(logger: Logger | None, checkpoint: Path) -> None:
    """Make an exported checkpoint an artifact of its training's W&B run, where there is one."""
    if isinstance(logger, WandbLogger):
        logger.experiment.log_artifact(checkpoint_artifact(checkpoint))


@optional_tracking()
def track_sweep(
    folder: Path,
    options: Mapping[str, Any],
    sweeps: str,
    dashboard: bool,
    table: pd.DataFrame,
    figures: Mapping[str, Path],
    failed: bool,
) -> None:
    """Put a sweep's comparison into a W&B run of its own, in the group of its jobs.

    Args:
        folder: The sweep's folder.
        options: Its options ``logger``, which are W&B's.
        sweeps: The folder of all sweeps.
        dashboard: Whether to publish a W&B report.
        table: The summaries of all jobs.
        figures: Image files by figure name.
        failed: Whether a job has failed.
    """
    logger = wandb_logger(
        str(folder),
        options["project"],
        entity=options["entity"],
        name="comparison",
        group=options.get("group") or sweep_group(folder, sweeps),
        tags=[*options["tags"], "comparison"],
        job_type="comparison",
    )
    run = logger.experiment
    run.log({"tables/comparison": wandb_table(table)} | logged_figures(figures))
    run.summary["jobs"] = int(table["job"].nunique())
    if dashboard:
        print(publish_dashboard(run, list(table["augmentation"].unique())))
    run.finish(exit_code=int(failed))


def publish_dashboard(run: Any, augmentations: list[str]) -> str:
    """Publish a sweep's W&B report; returns a line on where it is, or why there is none."""
    if run.offline:
        return "no dashboard: W&B is offline, log in with `wandb login`"
    try:
        from clipshift.integrations.dashboard import sweep_dashboard
    except ModuleNotFoundError:
        return "no dashboard: it needs pip install 'clipshift[dashboard]'"
    report = sweep_dashboard(run.project, run.entity, run.group, augmentations)
    report.save()
    return f"dashboard: {report.url}"


def run_place(logger: WandbLogger) -> str:
    """Where the W&B run lies, and how to bring it online if it is not."""
    run = logger.experiment
    if run.offline:
        return f"W&B run (offline): wandb sync {Path(run.dir).parent}"
    return f"W&B run: {run.url or 'none (disabled)'}"
