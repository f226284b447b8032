"""open_clip's models, by name or from a folder in the hub's format."""

import hashlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import load_state_dict, parse_model_name
from pydantic import JsonValue, TypeAdapter
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from clipshift.choices import NAMES, OPEN_CLIP_CONFIG, SENTENCES
from clipshift.data.files import read_text, typed
from clipshift.encode import modules, tiny  # noqa: F401  (registers its image tower with timm)
from clipshift.encode.encoder import Encoder
from clipshift.encode.weights import (
    check_finite,
    check_known,
    find_checkpoint,
    hub_file,
    hub_folder,
    loading,
    only_errors_logged,
    tag_facts,
    weight_files,
)
from clipshift.errors import UserError, first_line

BUILTIN = "builtin:"
MODELS = Path(__file__).parent.parent / "models"


class HubModel(TypedDict):
    """The configuration of the image tower: open_clip checks the rest."""

    vision_cfg: NotRequired[dict[str, JsonValue]]


class HubConfig(TypedDict):
    """The keys of ``open_clip_config.json`` that may stand in a folder in the hub's format."""

    model_cfg: HubModel
    preprocess_cfg: NotRequired[dict[str, JsonValue]]
    text: NotRequired[str]


HUB_CONFIG: TypeAdapter[HubConfig] = TypeAdapter(HubConfig)


def load(
    architecture: str,
    pretrained: str | None = None,
    checkpoint: str | None = None,
    precision: str = "fp32",
    seed: int = 0,
    image_tower: str | None = None,
) -> Encoder:
    """Build an open_clip model and load its weights, without a network if possible.

    Args:
        architecture: A name in ``open_clip.list_models()``; ``builtin:NAME`` for a model that is
            part of clipshift; ``local-dir:FOLDER`` for a folder in the hub's format
            (``open_clip_config.json`` beside the weights); or ``hf-hub:ORGANISATION/NAME``.
        pretrained: A tag of open_clip's. Without it, and without a checkpoint, the weights are
            random.
        checkpoint: A ``.safetensors`` or ``.pt`` file with weights for the architecture, or a
            folder in the hub's format, which defines the architecture.
        precision: open_clip's name: ``fp32``, ``bf16`` or ``fp16`` (weights and activations, with
            layer norms in float32), ``pure_bf16``, ``pure_fp16``.
        seed: Seed of the random weights.
        image_tower: A file with weights of only the image tower, such as those of FARE and TeCoA,
            which replace those of the model.

    Returns:
        The encoder, in evaluation mode and without gradients.

    Raises:
        UserError: If the architecture, tag or file is unknown, the weights do not fit, or they must
            be downloaded and there is no network.
    """
    if checkpoint and Path(checkpoint).is_dir():
        architecture, pretrained, checkpoint = f"local-dir:{checkpoint}", None, None
    schema, name = parse_model_name(_open_clip_name(architecture))
    if schema == "hf-hub":
        schema, name = "local-dir", str(hub_folder(name, [OPEN_CLIP_CONFIG], weight_files("")))
    if schema == "local-dir":
        if not (Path(name) / OPEN_CLIP_CONFIG).is_file():
            raise UserError(f"no {OPEN_CLIP_CONFIG} in {name}: is it a folder in the hub's format?")
        architecture = f"local-dir:{name}"
    else:
        check_known(name, open_clip.list_models(), "a model of open_clip")
    preprocessing = {}
    weights = checkpoint
    if image_tower and not Path(image_tower).is_file():
        raise UserError(f"no weights {image_tower}: set model.image_tower to a file")
    if pretrained and schema:
        raise UserError(
            f"model.pretrained={pretrained} cannot be used with {architecture}, which has weights "
            "already: set model.architecture as well, or choose model="
        )
    if checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"no checkpoint {checkpoint}: set model.checkpoint to a file or folder")
    if pretrained and not schema:
        # A checkpoint that was trained from a tag keeps the tag's preprocessing.
        if checkpoint:
            facts = tag_facts(name, pretrained)
        else:
            file, facts = find_checkpoint(name, pretrained)
            weights = str(file)
        keys = ("mean", "std", "interpolation", "resize_mode")
        preprocessing = {key: facts[key] for key in keys if key in facts}
    with loading(image_tower or weights or name, architecture, seed):
        text = trained_texts(Path(name)) if schema == "local-dir" else SENTENCES
        model = open_clip.create_model(
            architecture,
            pretrained=None if schema else weights,
            precision=precision,
            force_preprocess_cfg=preprocessing,
            pretrained_text=False,
            require_pretrained=bool(schema and not weights),
        )
        if schema and weights:
            open_clip.load_checkpoint(model, weights)
        if image_tower:
            model.visual.load_state_dict(load_state_dict(image_tower))
    check_finite(model, image_tower or weights or name)
    return Encoder(
        model,
        model.visual.preprocess_cfg,
        open_clip.get_model_config(architecture),
        bool(schema or weights),
        precision,
        partial(load_tokenizer, architecture),
        text,
    )


wrap = partial(modules.wrap, default="projection")


def trained_texts(folder: Path) -> str:
    """The texts that a model was trained with: ``text`` in its config in the hub's format.

    open_clip does not read it. Models without it were trained with sentences.

    Raises:
        ValueError: If the config has other keys or types, or names a tower on the hub.
    """
    config = typed(HUB_CONFIG, read_text(folder / OPEN_CLIP_CONFIG))
    tower = str(config["model_cfg"].get("vision_cfg", {}).get("timm_model_name", ""))
    if ":" in tower:
        raise ValueError(
            f"{OPEN_CLIP_CONFIG} names the image tower {tower}, which is not one of timm's own"
        )
    return NAMES if config.get("text") == NAMES else SENTENCES


@only_errors_logged()
def load_tokenizer(architecture: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of an architecture's text tower.

    Raises:
        UserError: If it is on the hub and cannot be loaded, or requires running remote code.
    """
    text = open_clip.get_model_config(architecture)["text_cfg"]
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UserError(
            f"the tokenizer of {architecture} requires running remote code, which clipshift never "
            f"does: remove trust_remote_code from its {OPEN_CLIP_CONFIG} if the tokenizer works "
            "without it"
        )
    if repo := text.get("hf_tokenizer_name"):
        if find_spec("transformers") is None:
            package = "pip install 'clipshift[transformers]'"
            raise UserError(f"the tokenizer {repo} requires the package transformers: {package}")
        hub_file(repo, ["tokenizer_config.json"])
        try:
            return open_clip.get_tokenizer(architecture, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            reason = first_line(error)
            raise UserError(f"cannot load the tokenizer of {architecture}: {reason}") from error
    if text.get("tokenizer_kwargs"):
        return open_clip.get_tokenizer(architecture)
    # open_clip has made this one already: another would take a fifth of a second
    return partial(open_clip.tokenize, context_length=text.get("context_length"))


@only_errors_logged()
def model_config(architecture: str, checkpoint: str | None = None) -> dict[str, Any]:
    """open_clip's configuration of a model that `load_encoder` loads."""
    if checkpoint and Path(checkpoint).is_dir():
        architecture = f"local-dir:{checkpoint}"
    return open_clip.get_model_config(_open_clip_name(architecture))


def _open_clip_name(architecture: str) -> str:
    """open_clip's name of an architecture."""
    if architecture.startswith(BUILTIN):
        return f"local-dir:{builtin_folder(architecture.removeprefix(BUILTIN))}"
    return architecture


def builtin_folder(name: str) -> Path:
    """The folder of a model that is part of clipshift, after checking the SHA-256 of its weights.

    Raises:
        UserError: If there is no such model, or its weights are damaged.
    """
    folder = MODELS / name
    record = folder / "open_clip_model.safetensors.sha256"
    check_known(name, [path.parent.name for path in MODELS.glob("*/*.sha256")], "a built-in model")
    expected, file = record.read_text().split()
    if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
        raise UserError(f"{folder / file} is damaged (its SHA-256 differs): reinstall clipshift")
    return folder
