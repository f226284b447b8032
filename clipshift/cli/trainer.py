"""Lightning's trainer, made from the group ``trainer`` of the configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from clipshift import pipeline
from clipshift.cli.interruption import deferred_stop
from clipshift.cli.jobs import announce_stop
from clipshift.encode.encoder import best_precision
from clipshift.errors import UserError, first_line
from clipshift.train.resuming import StateCheckpoint, restore_errors


def trainer_maker(options: Mapping[str, Any]) -> Callable[..., pl.Trainer]:
    """What makes the configured trainer, for `clipshift.pipeline.make_trainer`.

    Args:
        options: The ``trainer`` configuration.

    Raises:
        UserError: If a part of it cannot be made.
    """
    try:
        return instantiate(options, _partial_=True)
    except InstantiationException as error:
        raise UserError(f"trainer: {first_line(error.__cause__ or error)}") from error


def make_trainer(options: Mapping[str, Any], *args: Any, **fixed: Any) -> pl.Trainer:
    """The configured trainer, see `clipshift.pipeline.make_trainer`."""
    return pipeline.make_trainer(trainer_maker(options), *args, **fixed)


def choose_precision(trainer: DictConfig) -> None:
    """Set ``precision=auto`` of a training to what suits its hardware, as that of an evaluation.

    Args:
        trainer: The ``trainer`` configuration, changed in place.
    """
    if trainer.get("precision") == pipeline.AUTO:
        has_bf16 = best_precision(trainer.accelerator) == "bf16"
        trainer.precision = "bf16-mixed" if has_bf16 else "32-true"


def fit(
    trainer: pl.Trainer,
    state: StateCheckpoint,
    module: pl.LightningModule,
    batches: DataLoader,
    validation: DataLoader,
    last: Path | None,
) -> None:
    """Train. A signal stops the training after the current step, and prints what is kept.

    Args:
        trainer: The trainer, with ``state`` among its callbacks.
        state: Saves the training's state.
        module: The module to train.
        batches: One device's batches of an epoch, without those completed before a stop.
        validation: The batches of a validation.
        last: The checkpoint to resume from; None if the training starts.

    Raises:
        UserError: If the checkpoint is damaged.
    """

    def kept() -> str:
        if not state.steps:
            return "before the first step was saved. The same command starts again"
        done = f"{state.steps} steps are kept in {state.folder}"
        return f"{done}. The same command goes on after them"

    with restore_errors(last), announce_stop(kept), deferred_stop():
        trainer.fit(module, batches, validation, ckpt_path=last, weights_only=True)
