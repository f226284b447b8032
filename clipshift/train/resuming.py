"""Going on where a training was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only

from clipshift.errors import UserError
from clipshift.results import write_json

LAST = "last.ckpt"
SETTINGS = "settings.json"
HARMLESS = ("logger", "evaluation")
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
        begun = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        torch.load(folder / LAST, map_location="meta", weights_only=True)
    except (ValueError, RuntimeError, EOFError, OSError, KeyError, UnpicklingError):
        raise UserError(
            f"the training in {folder} is damaged: delete it, or choose another folder with "
            "hydra.run.dir=FOLDER"
        ) from None
    if differing := [name for name in wanted if begun.get(name) != wanted[name]]:
        raise UserError(
            f"{folder} holds a training with other options ({', '.join(differing)}): "
            f"choose another folder with hydra.run.dir=FOLDER, or delete this one"
        )
    return folder / LAST
