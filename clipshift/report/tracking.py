"""Tracking in Weights & Biases, through Lightning's logger."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from clipshift.results import Tables


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
    except wandb.errors.CommError:
        return WandbLogger(experiment=init(mode="offline"))


def logged_in() -> bool:
    """Whether W&B has a key to work with, found without asking anyone."""
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.Error:
        return False


def track_results(logger: WandbLogger, tables: Tables, figures: Mapping[str, Path]) -> None:
    """Put a run's tables, figures and summary values into its W&B run.

    Args:
        logger: The run's logger.
        tables: The run's tables.
        figures: PNG files by figure name.
    """
    run = logger.experiment
    named = {
        "shift": tables.shift,
        "summary": tables.summary,
        "distances": tables.distances.reset_index(names="augmentation"),
        "ranking": tables.ranking,
        "correlations": tables.correlations,
        "layers": tables.layers,
    }
    run.log(
        {name: wandb.Table(dataframe=table) for name, table in named.items() if len(table)}
        | {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}
    )
    several = tables.summary["severity"].nunique() > 1
    for row in tables.summary.itertuples():
        variant = f"{row.augmentation}@{row.severity}" if several else row.augmentation
        run.summary[f"{variant}/{row.measure}"] = row.mean


def run_place(logger: WandbLogger) -> str:
    """Where the W&B run lies, and how to bring it online if it is not."""
    run = logger.experiment
    if run.offline:
        return f"W&B run (offline): wandb sync {Path(run.dir).parent}"
    return f"W&B run: {run.url}"
