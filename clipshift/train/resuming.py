"""Save a training's state, and resume from it."""

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
from pydantic import NonNegativeInt, TypeAdapter
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.connectors import checkpoint_connector
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import TypedDict

from clipshift.augment.keyed import keyed_generator
from clipshift.data.files import read_text, typed
from clipshift.errors import UserError
from clipshift.results.files import write_json, write_whole

LAST = "last.ckpt"
BEST = "best.ckpt"
SETTINGS = "settings.json"
POSITION = "clipshift"
"""The key of a checkpoint's `Position`."""
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", POSITION}
"""The keys that a checkpoint must have."""
OPTIONS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
SAVE_SECONDS = 300
"""How often the state is saved within an epoch."""
NO_EFFECT_ON_TRAINING = ("logger", "evaluation", "control")
"""Options that do not change what is trained."""


class Position(TypedDict):
    """Our own part of a checkpoint.

    Attributes:
        epoch: Completed epochs.
        batch: Completed batches of the next one.
        best: The lowest score of a validation; None where there was none.
    """

    epoch: NonNegativeInt
    batch: NonNegativeInt
    best: float | None


POSITIONS = TypeAdapter(Position)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint completely or not at all, without leaving its folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_whole(Path(path), lambda partial: torch.save(checkpoint, partial))


class StateCheckpoint(Checkpoint):
    """Save a training's state, so that a resumed training ends with the same weights.

    ``last.ckpt`` is written every five minutes, after every epoch, and before the training stops;
    ``best.ckpt`` after each validation with the lowest score so far. torch's random generator is
    seeded before every batch, so that dropout and the like do not depend on where it was resumed.

    Args:
        folder: The training's folder.
        seed: The training's seed.
        stop: Whether to stop the training after the current step.
        monitor: The name of the validation score, lower is better; None saves no ``best.ckpt``.
    """

    def __init__(
        self, folder: Path, seed: int, stop: Callable[[], bool], monitor: str | None = None
    ) -> None:
        self.folder, self.seed, self.stop, self.monitor = folder, seed, stop, monitor
        self.best: float | None = None
        self.steps = 0
        """The number of steps in the state that was saved last."""
        self.saved_at = math.nan

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        epochs: Any = trainer.fit_loop.epoch_progress.current
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        batch = batches.processed if epochs.ready > epochs.processed else 0
        checkpoint[POSITION] = {"epoch": epochs.processed, "batch": batch, "best": self.best}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.best, self.steps = checkpoint[POSITION]["best"], checkpoint["global_step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                shapes = {getattr(value, "shape", None) for value in state.values()}
                if not shapes <= {torch.Size(), parameter.shape}:
                    raise UserError(_damaged(self.folder / LAST))
        self.saved_at = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        generator = keyed_generator(self.seed, f"epoch {trainer.current_epoch}", f"{batch_idx}")
        torch.manual_seed(int(generator.integers(2**63)))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        due = self.stop() or time.monotonic() - self.saved_at > SAVE_SECONDS
        if _resumable(trainer) and trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save_or_stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        score = trainer.callback_metrics[self.monitor].item()
        if self.best is None or score < self.best:
            self.best = math.inf if math.isnan(score) else score
            trainer.save_checkpoint(self.folder / BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_or_stop(trainer)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save the state if the error came between two steps, and no other process takes part."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        between_steps = trainer.training and batches.ready == batches.completed
        started = self.saved_at >= 0
        if trainer.world_size == 1 and started and between_steps and _resumable(trainer):
            self._save(trainer)

    def _save_or_stop(self, trainer: pl.Trainer) -> None:
        self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.stop(), all=False):
            raise KeyboardInterrupt

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_at, self.steps = time.monotonic(), trainer.global_step


def _resumable(trainer: pl.Trainer) -> bool:
    """Whether a training can resume from the state after this batch.

    It cannot while gradients are being accumulated, which a checkpoint does not hold, nor before a
    validation, which Lightning would skip.
    """
    loop, validated = trainer.fit_loop, trainer.val_check_batch or math.inf
    done = loop.batch_idx + 1
    due = trainer.is_last_batch or 0 in (done % validated, (loop.total_batch_idx + 1) % validated)
    return not due and done % trainer.accumulate_grad_batches == 0


@contextmanager
def restore_errors(last: Path | None) -> Iterator[None]:
    """Turn errors that Lightning raises while it restores a checkpoint into one line.

    Args:
        last: The checkpoint; None if the training starts.

    Raises:
        UserError: If the checkpoint cannot be restored.
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
    wanted = {name: value for name, value in options.items() if name not in NO_EFFECT_ON_TRAINING}
    wanted = json.loads(json.dumps(wanted))
    wanted["data"].pop("num_workers", None)
    file = folder / SETTINGS
    if not (folder / LAST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        rank_zero_only(write_json)(file, wanted)
        return None
    try:
        begun = typed(OPTIONS, read_text(file)) if file.exists() else {}
    except (ValueError, OSError):
        raise UserError(_damaged(file)) from None
    for checkpoint in (folder / LAST, folder / BEST):
        if checkpoint.exists():
            load_training(checkpoint, "meta")  # a damaged one: reported before a model is loaded
    names = sorted(wanted.keys() | begun.keys())
    if differing := [name for name in names if begun.get(name) != wanted.get(name)]:
        raise UserError(
            f"{folder} holds a training with other options ({', '.join(differing)}): "
            f"choose another folder with hydra.run.dir=FOLDER, or delete this one"
        )
    return folder / LAST


def resume_position(last: Path | None, trained: Mapping[str, Tensor]) -> tuple[int, int]:
    """The epoch in which a training resumes, and the number of its completed batches.

    Args:
        last: The checkpoint to resume from; None if the training starts.
        trained: The trained weights: the folder's checkpoints must have their names and shapes.

    Raises:
        UserError: If a checkpoint in the folder is damaged, or of another training.
    """
    if last is None:
        return 0, 0
    if (best := last.with_name(BEST)).exists():
        load_training(best, "meta", trained)
    place = load_training(last, "meta", trained)[POSITION]
    return place["epoch"], place["batch"]


def load_training(
    file: Path, device: str, trained: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """What a training's checkpoint holds, once all its bytes are checked.

    Args:
        file: A checkpoint of Lightning's.
        device: Where its tensors go; ``meta`` keeps their shapes alone.
        trained: The weights that it must have by name and shape, if these are known.

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
        POSITIONS.validate_python(stored[POSITION], strict=True)
        if type(stored["global_step"]) is not int or stored["global_step"] < 0:
            raise ValueError
        # Lightning would silently restore nothing if these were missing.
        (moments,), (_,) = stored["optimizer_states"], stored["lr_schedulers"]
        if not moments["state"]:
            raise ValueError
        shapes = {name: value.shape for name, value in stored["state_dict"].items()}
        if trained is not None and shapes != {n: value.shape for n, value in trained.items()}:
            raise ValueError
    except Exception:  # zipfile and torch raise all kinds on damaged files
        raise UserError(_damaged(file)) from None
    return stored


def _damaged(file: Path) -> str:
    return (
        f"the training in {file.parent} is damaged: {file.name} is not whole, or of another "
        "training; delete the folder, or choose another with hydra.run.dir=FOLDER"
    )
