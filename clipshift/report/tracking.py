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
from pytorch_lightning.loggers import Logger, WandbLogger

from clipshift.errors import one_line
from clipshift.report.words import model_in_words, weights_in_words, without_paths
from clipshift.results import Run


def wandb_logger(
    save_dir: str,
    project: str,
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    job_type: str | None = None,
) -> WandbLogger:
    """Lightning's W&B logger: online when logged in, otherwise offline, without a question asked.

    Args:
        save_dir: Folder under which an offline run lies.
        project: The W&B project.
        entity: User or team; by default the user who is logged in.
        name: The run's name.
        group: What the run is grouped under.
        tags: The run's tags.
        job_type: The run's kind.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    init = partial(
        wandb.init,
        dir=save_dir,
        project=project,
        entity=entity,
        name=name,
        group=group,
        tags=tags,
        job_type=job_type,
        settings=wandb.Settings(init_timeout=20),
    )
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    try:
        return WandbLogger(experiment=init(mode=mode))
    except wandb.errors.CommError as error:
        _warn_offline(error)
        return WandbLogger(experiment=init(mode="offline"))


def logged_in() -> bool:
    """Whether W&B has a key to work with, found without asking anyone."""
    try:
        return wandb.login(prompt=False, verify=False)
    except (wandb.errors.Error, ValueError) as error:
        _warn_offline(error)
        return False


def _warn_offline(error: Exception) -> None:
    print(f"warning: this run is tracked offline, for W&B says: {one_line(str(error))}",
          file=sys.stderr)  # fmt: skip


@contextmanager
def optional_tracking() -> Iterator[None]:
    """Go on where W&B fails, as when its own process has died: the results are on the disk."""
    try:
        yield
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        print(f"warning: W&B has not got all of this run: {reason}", file=sys.stderr)


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


def means(run: Run) -> dict[str, float]:
    """The means of a run's summary, by ``VARIANT/MEASURE``."""
    several = run.summary["severity"].nunique() > 1
    return {
        (f"{row.augmentation}@{row.severity}" if several else row.augmentation)
        + f"/{row.measure}": row.mean
        for row in run.summary.itertuples()
    }


def track_results(logger: WandbLogger, run: Run, figures: Mapping[str, Path]) -> list[str]:
    """Put a run's tables, figures, files and summary values into its W&B run.

    Shifts at numbered severities are logged against ``severity`` as well, for curves.

    Args:
        logger: The run's logger.
        run: The run: its tables and ``run.json`` become an artifact.
        figures: Image files by figure name.

    Returns:
        What W&B does not show, in words.
    """
    tracked = logger.experiment
    tracked.define_metric("severity", hidden=True)
    for family in ("shift", "relative_shift"):
        tracked.define_metric(f"{family}/*", step_metric="severity")
    numbered = run.summary[run.summary["severity"].str.isdigit()]
    for severity, rows in numbered.groupby("severity", sort=True):
        cosine, relative = (
            rows[rows["measure"] == name].set_index("augmentation")["mean"]
            for name in ("cosine_similarity", "relative_shift")
        )
        tracked.log(
            {"severity": int(str(severity))}
            | {f"shift/{name}": 1 - mean for name, mean in cosine.items()}
            | {f"relative_shift/{name}": mean for name, mean in relative.items()}
        )
    named = {
        "shift": run.shift[:WANDB_ROWS],
        "summary": run.summary,
        "distances": run.distances.reset_index(names="augmentation"),
        "ranking": run.ranking,
        "correlations": run.correlations,
        "layers": run.layers,
    }
    tracked.log(
        {name: wandb_table(table) for name, table in named.items() if len(table)}
        | {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}
    )
    artifact = wandb.Artifact(f"shift-{tracked.id}", type="evaluation")
    for file in ("shift.parquet", "summary.csv", "run.json"):
        artifact.add_file(str(run.folder / file))
    checkpoint = run.facts["model"]["checkpoint"]
    if checkpoint and not tracked.offline:
        tracked.use_artifact(checkpoint_artifact(Path(checkpoint)))
    tracked.log_artifact(artifact)
    tracked.summary["model"] = model_in_words(run.facts["model"])
    tracked.summary["weights"] = weights_in_words(run.facts["model"])
    tracked.summary.update(means(run))
    if len(run.shift) <= WANDB_ROWS:
        return []
    return [
        f"W&B shows the first {WANDB_ROWS} of {len(run.shift)} rows of shift; all are in the "
        "artifact's shift.parquet."
    ]


def wandb_table(table: pd.DataFrame) -> wandb.Table:
    """A table for W&B: by lists, since it takes three times as long over a DataFrame."""
    return wandb.Table(columns=list(table.columns), data=table.astype(object).to_numpy().tolist())


def checkpoint_artifact(checkpoint: Path) -> wandb.Artifact:
    """A checkpoint, file or folder, as an artifact that links its training and its evaluations."""
    artifact = wandb.Artifact(f"checkpoint-{checkpoint.stem}", type="model")
    if checkpoint.is_dir():
        artifact.add_dir(str(checkpoint))
    else:
        artifact.add_file(str(checkpoint))
    return artifact


def track_checkpoint(logger: Logger | None, checkpoint: Path) -> None:
    """Make an exported checkpoint an artifact of its training's W&B run, where there is one."""
    if isinstance(logger, WandbLogger):
        logger.experiment.log_artifact(checkpoint_artifact(checkpoint))


def track_comparison(logger: WandbLogger, table: pd.DataFrame, figures: Mapping[str, Path]) -> None:
    """Put a sweep's comparison into a W&B run.

    Args:
        logger: The run's logger.
        table: The summaries of all jobs.
        figures: Image files by figure name.
    """
    run = logger.experiment
    run.log(
        {"comparison": wandb_table(table)}
        | {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}
    )
    run.summary["jobs"] = int(table["job"].nunique())


def run_place(logger: WandbLogger) -> str:
    """Where the W&B run lies, and how to bring it online if it is not."""
    run = logger.experiment
    if run.offline:
        return f"W&B run (offline): wandb sync {Path(run.dir).parent}"
    return f"W&B run: {run.url or 'none (disabled)'}"
