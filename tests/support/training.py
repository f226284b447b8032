"""One step of a training."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from clipshift.cli.trainer import make_trainer


def first_loss(module: pl.LightningModule, batch: Any) -> float:
    """Return the loss that a training logs for its first step, on one batch."""
    trainer = make_trainer(
        {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "max_steps": 1},
        Path(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(module, DataLoader([batch], batch_size=None), DataLoader([]))  # type: ignore[arg-type]
    return trainer.callback_metrics["train/loss"].item()
