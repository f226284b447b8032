"""Going on where a training was stopped."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from clipshift.data import read_json
from clipshift.errors import UserError
from clipshift.results import write_json

LAST = "last.ckpt"
BEST = "best.ckpt"
SETTINGS = "settings.json"
LIGHTNING = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}
"""What Lightning needs of a checkpoint to go on from it."""
HARMLESS = ("logger", "evaluation", "control")
"""Options that do not change what is trained."""


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
    if differing := [name for name in wanted if begun.get(name) != wanted[name]]:
        raise UserError(
            f"{folder} holds a training with other options ({', '.join(differing)}): "
            f"choose another folder with hydra.run.dir=FOLDER, or delete this one"
        )
    return folder / LAST


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
        if not stored.keys() >= LIGHTNING:
            raise KeyError
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
