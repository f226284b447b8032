"""Export trained models as folders in open_clip's hub format."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter
from safetensors.torch import save
from torch import Tensor
from typing_extensions import TypedDict

from clipshift.choices import OPEN_CLIP_CONFIG, SENTENCES
from clipshift.data.files import read_json, read_text, typed
from clipshift.encode.encoder import Encoder
from clipshift.encode.open_clip_models import model_config
from clipshift.errors import UserError
from clipshift.integrations.publishing import model_card
from clipshift.results.files import write_json, write_whole
from clipshift.results.runs import Run
from clipshift.versions import CODE_SHA256, package_versions

PROVENANCE = "provenance.json"
"""What a fine-tuned model came from, beside its weights."""
CARD = "README.md"
"""Where the Hugging Face hub looks for a model's card."""
WEIGHTS = "open_clip_model.safetensors"


class TrainedOn(TypedDict):
    """What is read of `PROVENANCE`."""

    trained_on: list[str]


TRAINED_ON = TypeAdapter(TrainedOn)


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
    write_json(folder / OPEN_CLIP_CONFIG, config)


def export_finetuned(
    encoder: Encoder, model: Mapping[str, Any], facts: Mapping[str, Any], folder: Path
) -> None:
    """Write a fine-tuned model as open_clip's hub folder, with its provenance and its card.

    Args:
        encoder: The model.
        model: Its base: ``architecture``, ``pretrained`` and ``checkpoint``.
        facts: What else its provenance says: ``trained_on`` at least, the augmentations.
        folder: Where to.
    """
    kept = ("mean", "std", "interpolation", "resize_mode")
    preprocess_cfg = {name: encoder.preprocessing[name] for name in kept}
    model_cfg = model_config(model["architecture"], model["checkpoint"])
    export_model(encoder.model.state_dict(), model_cfg, preprocess_cfg, folder, encoder.text)
    base = {name: model[name] for name in ("architecture", "pretrained", "checkpoint")}
    base["weights_sha256"] = encoder.weights_sha256
    code = {"versions": package_versions(), "code_sha256": CODE_SHA256}
    write_json(folder / PROVENANCE, {"base": base, **facts, **code})
    write_card(folder)


def write_card(
    folder: Path,
    base: Run | None = None,
    tuned: Run | None = None,
    comparison: pd.DataFrame | None = None,
    outcome: Sequence[Sequence[str]] = (),
) -> None:
    """Write a fine-tuned model's card, see `clipshift.integrations.publishing.model_card`.

    Args:
        folder: The model's.
        base: A run of the base model, once there is one.
        tuned: A run of this model.
        comparison: Their paired differences.
        outcome: What the training changed: a table's heads, and its rows.
    """
    card = model_card(read_json(folder / PROVENANCE), base, tuned, comparison, outcome)
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
        return typed(TRAINED_ON, read_text(file))["trained_on"]
    except (OSError, ValueError):
        raise UserError(f"{file} is damaged: delete it, or export the model again") from None
