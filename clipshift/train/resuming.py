"""Keeping a training's state, and going on from it where the training was stopped."""

import json
import math
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.connectors import checkpoint_connector
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from clipshift.augment.keyed import keyed_generator
from clipshift.data import read_json
from clipshift.errors import UserError
from clipshift.results import write_json, write_whole

LAST = "last.ckpt"
BEST = "best.ckpt"
SETTINGS = "settings.json"
PLACE = "clipshift"
"""What a checkpoint calls our own part: epoch, batches of it that are done, and the best score."""
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", PLACE}
"""What a training needs of a checkpoint to go on from it."""
KEEP_SECONDS = 300
"""How often the state is kept within an epoch."""
HARMLESS = ("logger", "evaluation", "control")
"""Options that do not change what is trained."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint whole or not at all, inside its folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_whole(Path(path), lambda partial: torch.save(checkpoint, partial))


class KeepState(Checkpoint):
    """Keeps a training's state, so that it can go on from there to the very same weights.

    ``last.ckpt`` is written every few minutes, after every epoch, and before the training stops;
    ``best.ckpt`` after a validation with a smaller score than all before. Randomness that is not
    keyed by itself, as that of dropout, is seeded for every batch.

    Args:
        folder: The training's folder.
        seed: The training's seed.
        stop: Whether the training was told to stop, which it then does after a step.
        monitor: The score, or None if weights are not chosen.
    """

    def __init__(
        self, folder: Path, seed: int, stop: Callable[[], bool], monitor: str | None = None
    ) -> None:
        self.folder, self.seed, self.stop, self.monitor = folder, seed, stop, monitor
        self.best: float | None = None
        self.steps = 0
        """How many steps the state has behind it that was kept last."""
        self.kept_at = math.nan

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        epochs = trainer.fit_loop.epoch_progress.current
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        within = epochs.ready > epochs.processed
        checkpoint[PLACE] = {
            "epoch": epochs.processed,
            "batch": batches.processed if within else 0,
            "best": self.best,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.best, self.steps = checkpoint[PLACE]["best"], checkpoint["global_step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.kept_at = time.monotonic()
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                shapes = {getattr(value, "shape", None) for value in state.values()}
                if not shapes <= {torch.Size(), parameter.shape}:
                    raise UserError(_damaged(self.folder / LAST))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        generator = keyed_generator(self.seed, f"epoch {trainer.current_epoch}", f"{batch_idx}")
        torch.manual_seed(int(generator.integers(2**63)))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        due = self.stop() or time.monotonic() - self.kept_at > KEEP_SECONDS
        if _resumable(trainer) and trainer.strategy.reduce_boolean_decision(due, all=False):
            self._keep(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        score = trainer.callback_metrics[self.monitor].item()
        if self.best is None or score < self.best:
            self.best = math.inf if math.isnan(score) else score
            trainer.save_checkpoint(self.folder / BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the state if it is that between two steps, and no other process waits for it."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        waiting = trainer.training and batches.ready == batches.completed
        if trainer.world_size == 1 and self.kept_at >= 0 and waiting and _resumable(trainer):
            self._save(trainer)

    def _keep(self, trainer: pl.Trainer) -> None:
        self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.stop(), all=False):
            raise KeyboardInterrupt

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.kept_at, self.steps = time.monotonic(), trainer.global_step


def _resumable(trainer: pl.Trainer) -> bool:
    """Whether a training can go on from the state after this batch.

    Not while gradients are accumulated, which are not kept, nor before a validation, which
    Lightning would leave out.
    """
    loop, validated = trainer.fit_loop, trainer.val_check_batch or math.inf
    done = loop.batch_idx + 1
    due = trainer.is_last_batch or 0 in (done % validated, (loop.total_batch_idx + 1) % validated)
    return not due and done % trainer.accumulate_grad_batches == 0


@contextmanager
def told_of_damage(last: Path | None) -> Iterator[None]:
    """Within a fit: errors of Lightning's that come of what a checkpoint holds.

    Raises:
        UserError: In their place.
    """
    try:
        yield
    except Exception as error:
        for frame in traceback.extract_tb(error.__traceback__):
            restoring = frame.name.lstrip("_").startswith(("restore", "resume"))
            if last and restoring and frame.filename == checkpoint_connector.__file__:
                raise UserError(_damaged(last)) from error
        raise


def last_checkpoint(folder: Path, options: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from; None where the training starts.

    Args:
        folder: The training's folder, which keeps its options.
        options: The training's options, resolved.

    Raises:
        UserError: If the folder holds a training with other options, or a damaged one.
    """
    wanted = {name: value for name, value in options.items() if name not in HARMLESS}
    wanted = json.loads(json.dumps(wanted))
    wanted["data"].pop("num_workers", None)
    file = folder / SETTINGS
    if not (folder / LAST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        rank_zero_only(write_json)(file, wanted)
        return None
    try:
        begun = read_json(file) if file.exists() else {}
        if not isinstance(begun, dict):
            raise ValueError
    except (ValueError, OSError):
        raise UserError(_damaged(file)) from None
    for checkpoint in (folder / LAST, folder / BEST):
        if checkpoint.exists():
            load_training(checkpoint, "meta")  # a mistake is told before a model is loaded
    names = sorted(wanted.keys() | begun.keys())
    if differing := [name for name in names if begun.get(name) != wanted.get(name)]:
        raise UserError(
            f"{folder} holds a training with other options ({', '.join(differing)}): "
            f"choose another folder with hydra.run.dir=FOLDER, or delete this one"
        )
    return folder / LAST


def place_in(last: Path | None, own: Mapping[str, Tensor]) -> tuple[int, int]:
    """The epoch that a training is in, and how many of its batches are done.

    Args:
        last: The checkpoint to go on from; None where the training starts.
        own: The weights in training, which its checkpoints must have by name and shape.

    Raises:
        UserError: If a checkpoint in its folder is damaged, or of something else.
    """
    if last is None:
        return 0, 0
    if (best := last.with_name(BEST)).exists():
        load_training(best, "meta", own)
    place = load_training(last, "meta", own)[PLACE]
    return place["epoch"], place["batch"]


def load_training(
    file: Path, device: str, own: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """What a training's checkpoint holds, once all its bytes are checked.

    Args:
        file: A checkpoint of Lightning's.
        device: Where its tensors go; ``meta`` keeps their shapes alone.
        own: The weights that it must have by name and shape, if these are known.

    Raises:
        UserError: If it is damaged, or of something else.
    """
    try:
        if not file.is_file():
            raise FileNotFoundError
        with zipfile.ZipFile(file) as parts:
            if parts.testzip():  # torch itself looks at no checksum
                raise zipfile.BadZipFile
        stored = torch.load(file, map_location=device, weights_only=True)
        if not stored.keys() >= PARTS:
            raise KeyError
        place = stored[PLACE]
        counts = place["epoch"], place["batch"], stored["global_step"]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError
        if type(place["best"]) not in (float, type(None)):
            raise TypeError
        # Of fewer than there are Lightning would restore none, without a word.
        (moments,), (_,) = stored["optimizer_states"], stored["lr_schedulers"]
        if not moments["state"]:
            raise ValueError
        shapes = {name: value.shape for name, value in stored["state_dict"].items()}
        if own is not None and shapes != {name: value.shape for name, value in own.items()}:
            raise ValueError
    except Exception:  # zipfile and torch raise all kinds on damaged files
        raise UserError(_damaged(file)) from None
    return stored


def _damaged(file: Path) -> str:
    return (
        f"the training in {file.parent} is damaged: {file.name} is not whole, or of another "
        "training; delete the folder, or choose another with hydra.run.dir=FOLDER"
    )
