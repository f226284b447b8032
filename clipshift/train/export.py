"""Trained models as folders in open_clip's hub format."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save
from torch import Tensor

from clipshift.data import read_json
from clipshift.encode import SENTENCES
from clipshift.errors import UserError
from clipshift.integrations.publishing import model_card
from clipshift.results import Run, write_json, write_whole

PROVENANCE = "provenance.json"
"""What a fine-tuned model came from, beside its weights."""
CARD = "README.md"
"""Where the Hugging Face hub looks for a model's card."""
WEIGHTS = "open_clip_model.safetensors"


def export_model(
    weights: Mapping[str, Tensor],
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    folder: Path,
    text: str = SENTENCES,
) -> None:
    """Write a model so that open_clip loads it as ``local-dir:FOLDER``.

    ``open_clip_config.json`` (architecture and preprocessing), ``open_clip_model.safetensors``,
    and ``open_clip_model.safetensors.sha256`` (as ``sha256sum`` writes it).

    Args:
        weights: The model's ``state_dict``, in the precision that is to be kept.
        model_cfg: open_clip's configuration of the architecture.
        preprocess_cfg: What open_clip does to photos before this model.
        folder: Where to; made if missing.
        text: What its text side knows, see `clipshift.encode.Encoder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(content))
    digest = f"{hashlib.sha256(content).hexdigest()}  {WEIGHTS}\n"
    write_whole(folder / f"{WEIGHTS}.sha256", lambda path: path.write_text(digest))
    config: dict[str, Any] = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    if text != SENTENCES:
        config["text"] = text
    write_json(folder / "open_clip_config.json", config)


def write_card(
    folder: Path,
    base: Run | None = None,
    tuned: Run | None = None,
    comparison: pd.DataFrame | None = None,
) -> None:
    """Write a fine-tuned model's card, see `clipshift.integrations.publishing.model_card`.

    Args:
        folder: The model's.
        base: A run of the base model, once there is one.
        tuned: A run of this model.
        comparison: Their paired differences.
    """
    card = model_card(read_json(folder / PROVENANCE), base, tuned, comparison)
    write_whole(folder / CARD, lambda path: path.write_text(str(card), encoding="utf-8"))


def trained_augmentations(checkpoint: str | None) -> list[str] | None:
    """What a fine-tuned model's folder says it was trained on; None for any other checkpoint.

    Raises:
        UserError: If it has a record of that which cannot be read.
    """
    file = Path(checkpoint or "") / PROVENANCE
    if not file.is_file():
        return None
    try:
        names = read_json(file)["trained_on"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError
        return names
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{file} is damaged: delete it, or export the model again") from None
