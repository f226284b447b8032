"""timm's models: by name, from a folder or file of weights, or from a model in memory.

By name, ``pretrained`` is a tag of timm's, or ``default`` for the tag in the name or timm's first.
The name may also be ``local-dir:FOLDER`` or ``hf-hub:ORGANISATION/NAME`` in timm's format.

The embedding is what the model gives to its classifier. ``pooling`` names it, and chooses another
one of a ViT: ``class_token`` or ``mean_of_patches``, without registers. The norm after the pool, if
the model has one, stays.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import timm
from open_clip.factory import load_state_dict
from timm.data import resolve_data_config
from timm.models import Beit, EfficientNet, Eva, MobileNetV3, VisionTransformer
from torch import nn

from clipshift.encode import gaze, modules
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import chosen_pooling
from clipshift.encode.layers import prefix_tokens, tower_blocks
from clipshift.encode.tower import Tower
from clipshift.encode.weights import HUB, check_known, hub_file, hub_folder
from clipshift.errors import UserError

LOCAL = "local-dir:"
WEIGHTS = ["model.safetensors", "pytorch_model.bin"]
GLOBAL_POOL = {"class_token": "token", "mean_of_patches": "avg"}
"""What timm calls these poolings of tokens."""
RESIZE_MODES = {"center": "shortest", "squash": "squash"}
"""What open_clip calls timm's modes of cropping."""
WITH_BLOCKS = (VisionTransformer, Eva, Beit, EfficientNet, MobileNetV3)


def build(architecture: str, pretrained: str | None, checkpoint: str | None) -> tuple[Any, None]:
    """A model with the weights that are asked for; its preprocessing is its own.

    Raises:
        UserError: If name or tag are unknown, or weights are not cached and cannot be downloaded.
    """
    if checkpoint and Path(checkpoint).is_dir():
        architecture, checkpoint = LOCAL + checkpoint, None
    if architecture.startswith(HUB):
        repo = architecture.removeprefix(HUB)
        architecture = f"{LOCAL}{hub_folder(repo, WEIGHTS, ['config.json'])}"
    options = {}
    if architecture.startswith(LOCAL):
        files = [Path(architecture.removeprefix(LOCAL)) / name for name in WEIGHTS]
        checkpoint = checkpoint or str(next(filter(Path.is_file, files), files[0]))
    else:
        name, _, tag = architecture.partition(".")
        check_known(name, timm.list_models(), "a model of timm")
        if pretrained:
            default: Any = tag or timm.get_pretrained_cfg(name).tag  # type: ignore[union-attr]
            tag = default if pretrained == "default" else pretrained
            tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
            check_known(tag, tags, f"the tag of weights of {name} in timm")
        architecture = f"{name}.{tag}" if tag else name
        if pretrained and not checkpoint:
            options = pretrained_options(architecture)
    model = timm.create_model(architecture, **options)
    if checkpoint:
        modules.load_weights(model, checkpoint, classifiers_of(model))
    return model, None


def pretrained_options(architecture: str) -> dict[str, Any]:
    """The options by which timm loads the weights of a tag, which are downloaded if necessary.

    Raises:
        UserError: If they are not cached and cannot be downloaded.
    """
    facts: Any = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {"pretrained": True}
    if facts.hf_hub_id:
        names = [facts.hf_hub_filename] if facts.hf_hub_filename else WEIGHTS
        weights = load_state_dict(str(hub_file(facts.hf_hub_id, names)))
        options["pretrained_cfg_overlay"] = {"state_dict": weights}
    else:
        modules.require_download(facts.url)
    return options


def wrap(model: Any, preprocess: Any, tokenizer: Any, trained: bool, pooling: Any) -> Encoder:
    """An encoder of a model in memory: see `clipshift.encode.modules.as_encoder`."""
    for name in classifiers_of(model):
        model.set_submodule(name, nn.Identity())
    possible = poolings_of(model)
    pooling = chosen_pooling(pooling, possible)
    if pooling != possible[0]:
        model.global_pool, model.attn_pool = GLOBAL_POOL[pooling], None
        model.pool_include_prefix = False
    preprocess = preprocess or preprocessing_of_timm(model)
    facts = {"pooling": pooling, "tower": tower_of(model)}
    encoder = modules.wrap_image_model(model, preprocess, tokenizer, trained, **facts)
    if (size := input_size(model)) not in (None, encoder.input_size):
        raise UserError(f"size={encoder.input_size}, but the model was made with img_size={size}")
    return encoder


load = partial(modules.load_image_model, build, wrap)


def classifiers_of(model: Any) -> list[str]:
    """The names of a model's classifiers: one, two of distilled models, or none."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if names:
        return [names] if isinstance(names, str) else list(names)
    return [name for name, layer in model.named_modules() if layer is model.get_classifier()]


def poolings_of(model: Any) -> list[str]:
    """What the embedding can be: first what timm returns."""
    if not gaze.pools_tokens(model):
        return ["pooled"]
    names = {pool: name for name, pool in GLOBAL_POOL.items()}
    first = "pooled" if gaze.is_pooling_prefix(model) else names.get(model.global_pool, "pooled")
    if model.attn_pool is not None:
        first = "attention_pool"
    others = ["class_token", "mean_of_patches"][model.cls_token is None :]
    return list(dict.fromkeys([first, *others]))


def tower_of(model: Any) -> Tower:
    """The readable parts of a model: the blocks where the form of their output is known."""
    blocks: Any = tower_blocks(model) or getattr(model, "stages", getattr(model, "layers", ()))
    if isinstance(model, WITH_BLOCKS):
        blocks = model.blocks
    return Tower(
        list(blocks) if isinstance(blocks, (list, nn.Sequential, nn.ModuleList)) else (),
        *prefix_tokens(model),
        gaze.timm_probe(model, model),
        getattr(model, "output_fmt", "") == "NHWC",
    )


def input_size(model: Any) -> tuple[int, int] | None:
    """Height and width that a model with position embeddings was made for."""
    return getattr(getattr(model, "patch_embed", None), "img_size", None)


def preprocessing_of_timm(model: Any) -> dict[str, Any]:
    """What timm does to photos before a model, in the keys of `Encoder`.

    Raises:
        UserError: If it adds borders to photos.
    """
    config = resolve_data_config({}, model=model)
    height, width = input_size(model) or config["input_size"][1:]
    if config["crop_mode"] not in RESIZE_MODES:
        raise UserError(f"timm's crop_mode={config['crop_mode']} is unknown: pass preprocess=")
    return {
        "size": height if height == width else [height, width],
        "mean": config["mean"],
        "std": config["std"],
        "interpolation": config["interpolation"],
        "resize_mode": RESIZE_MODES[config["crop_mode"]],
        "resize_size": math.floor(height / config["crop_pct"]),
    }
