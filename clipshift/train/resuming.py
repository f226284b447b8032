"""Going on where a training was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        UserError: If the folder holds a training with other options.
    """
    wanted = {name: value for name, value in options.items() if name not in HARMLESS}
    wanted = json.loads(json.dumps(wanted))
    wanted["data"].pop("num_workers", None)
    file = folder / SETTINGS
    if not (folder / LAST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        rank_zero_only(write_json)(file, wanted)
        return None
    begun = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if differing := [name for name in wanted if begun.get(name) != wanted[name]]:
        raise UserError(
            f"{folder} holds a training with other options ({', '.join(differing)}): "
            f"choose another folder with hydra.run.dir=FOLDER, or delete this one"
        )
    return folder / LAST
