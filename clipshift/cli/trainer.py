"""Lightning's trainer, as configured, and without its small talk."""

import logging
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from clipshift.cli.interruption import deferred_stop
from clipshift.cli.jobs import announce_stop
from clipshift.errors import UserError
from clipshift.train.resuming import StateCheckpoint, restore_errors

HARMLESS_WARNINGS = (
    ".*does not have many workers",
    ".*LeafSpec",
    "The ``compute`` method of metric",
    "Found .* module.s. in eval mode",
    "Checkpoint directory .* exists",
    "The `srun` command is available",
    ".*your dataloader is not resumable",  # its sampler is: see `clipshift.train.views.Shuffled`
)


class KeepSigterm(pl.Callback):
    """Keeps this process's answer to SIGTERM, which Lightning replaces.

    Lightning's own waits for all processes, of which some may be dead.
    """

    def __init__(self) -> None:
        self.answer = signal.getsignal(signal.SIGTERM)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.answer)

    on_train_start = on_validation_start = on_test_start


def make_trainer(
    options: Mapping[str, Any], callbacks: Sequence[pl.Callback] = (), **fixed: Any
) -> pl.Trainer:
    """The configured trainer; samplers of loaders stay as they are.

    Args:
        options: The ``trainer`` configuration.
        callbacks: Lightning's callbacks.
        fixed: More arguments of Lightning's trainer.

    Raises:
        UserError: If Lightning refuses it, as where there is no GPU.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for words in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=words)
    try:
        return instantiate(
            options,
            callbacks=[KeepSigterm(), *callbacks],
            enable_model_summary=False,
            use_distributed_sampler=False,
            **fixed,
        )
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"trainer: {str(cause).strip().splitlines()[0]}") from error


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
