"""Models in memory as encoders: open_clip's own, or any module with ``encode_image``."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from clipshift.checks import Check, are_numbers, checked, whole
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError, one_line
from clipshift.versions import source_sha256

Tokenizer = Callable[[list[str]], Tensor]

PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
RESIZING = ("Resize", "ResizeKeepRatio", "CenterCrop", "CenterCropOrPad")
CONVERTING: tuple[str, ...] = ("MaybeConvertMode", "MaybeToTensor", "ToTensor", "PILToTensor")
CONVERTING += ("ToImage", "ToDtype", "RGB", "ConvertImageDtype", "_convert_to_rgb")
"""Preprocessing steps that convert a photo to numbers in [0, 1], which views are already."""
SIZE: Check = (
    "a side in pixels, or two",
    lambda v: all(whole(1)[1](side) for side in (v if isinstance(v, list) else [v])),
)


def _are_in_unit_range(values: Any) -> bool:
    return are_numbers(values, 3) and 0 <= min(values) <= max(values) <= 1


MEAN: Check = ("three numbers from 0 to 1", _are_in_unit_range)
STD: Check = ("three numbers > 0 and ≤ 1", lambda v: _are_in_unit_range(v) and min(v) > 0)


def as_encoder(
    model: nn.Module,
    preprocess: Mapping[str, Any] | Any = None,
    tokenizer: Tokenizer | None = None,
    trained: bool = True,
) -> Encoder:
    """Make an encoder from a copy of a model in memory.

    Args:
        model: An open_clip model, or any module whose ``encode_image`` turns normalised views,
            (B, 3, H, W), into embeddings, floats of shape (B, D). If it has ``encode_text``, which
            turns the tokenizer's output into embeddings of the same D, texts are measured too. Gaze
            and layers are read if ``model.visual`` is an image tower of open_clip. An encoder is
            returned as it is.
        preprocess: The preprocessing of views: a mapping with ``size`` (a side, or height and
            width), ``mean`` and ``std`` of pixels in [0, 1]; or a torchvision ``Compose``, such as
            ``open_clip.create_model_and_transforms`` returns. None uses that of an open_clip model.
            Only the size of its resizing is used: views of 224 × 224 are resized to it bilinearly.
        tokenizer: Turns a list of texts into one tensor. Without it, measures with text are left
            out.
        trained: Whether the weights were trained, which the model does not tell.

    Raises:
        UserError: If the model has no ``encode_image`` or returns no embeddings; if its
            preprocessing is missing or has unknown steps; or if a view's embedding depends on the
            other views.

    Example:
        >>> class Colours(nn.Module):
        ...     def encode_image(self, images):
        ...         return images.mean(dim=(2, 3))
        >>> unchanged = {"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}
        >>> encoder = as_encoder(Colours(), unchanged)
        >>> encoder(torch.full((2, 3, 224, 224), 0.5)).embedding.shape
        torch.Size([2, 3])
    """
    if isinstance(model, Encoder):
        return model
    name = type(model).__name__
    if not isinstance(model, nn.Module) or not callable(getattr(model, "encode_image", None)):
        raise UserError(f"{name} is not a model: pass a torch.nn.Module with encode_image")
    if tokenizer is not None and not callable(getattr(model, "encode_text", None)):
        raise UserError(f"{name} has no encode_text: define it, or pass no tokenizer")
    if preprocess is None:
        preprocess = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if preprocess is None:
        raise UserError(
            f"the preprocessing of {name} is required: pass preprocess=dict(size=…, mean=…, "
            "std=…), with the mean and std of pixels in [0, 1]"
        )
    if not isinstance(preprocess, Mapping):
        preprocess = _preprocessing_of(preprocess)
    kinds = {type(module) for module in model.modules()}
    try:
        encoder = Encoder(
            copy.deepcopy(model).cpu(),
            _checked(preprocess),
            {
                "classes": sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds),
                "source": source_sha256(kind.__module__ for kind in kinds),
            },
            trained,
            PRECISIONS.get(next((p.dtype for p in model.parameters()), torch.float32), "fp32"),
            lambda: _require(tokenizer),
        )
        encoder.cacheable = False
        _try(encoder, name, tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} fails: {type(error).__name__}: {one_line(str(error))}") from error
    return encoder


def _require(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise UserError("the model has no tokenizer: pass one to as_encoder")
    return tokenizer


def _preprocessing_of(compose: Any) -> dict[str, Any]:
    """The size, mean and std of a torchvision ``Compose``."""
    settings: dict[str, Any] = {}
    for step in getattr(compose, "transforms", [compose]):
        kind = getattr(step, "__name__", type(step).__name__)
        if kind in RESIZING:
            settings["size"] = step.size
        elif kind == "Normalize":
            settings |= {"mean": step.mean, "std": step.std}
        elif kind not in CONVERTING:
            raise UserError(f"preprocess: unknown step {kind}; pass a dict of size, mean and std")
    return settings


def _checked(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing with the keys of open_clip, in its ranges."""
    keys = [field.name for field in fields(PreprocessCfg)]
    for key in preprocessing:
        if key not in keys:
            raise UserError(f"preprocess: unknown key {key!r}; valid keys are {', '.join(keys)}")
    settings = dict(preprocessing)
    for key, check in (("size", SIZE), ("mean", MEAN), ("std", STD)):
        if key not in settings:
            raise UserError(f"preprocess: `{key}` is required")
        try:
            settings[key] = checked(key, np.asarray(settings[key]).tolist(), check)
        except UserError as error:
            raise error.within("preprocess") from None
    return settings


@torch.inference_mode()
def _try(encoder: Encoder, name: str, tokenizer: Tokenizer | None) -> None:
    """Check the output of a model for a bright and a dark view of noise."""
    views = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    views[0] /= 8
    inputs = ((views - encoder.mean) / encoder.std).to(encoder.input_dtype)
    output = encoder.model.encode_image(inputs)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        raise UserError(f"{name}.encode_image returns {shape} for 2 views: it must return (2, D)")
    if not output.is_floating_point():
        raise UserError(f"{name}.encode_image returns {output.dtype}: it must return floats")
    if encoder.probe:
        encoder.probe.read()
    in_batch, alone = output[1:].float(), encoder.model.encode_image(inputs[1:]).float()
    if not (in_batch - alone).norm() <= 0.01 * in_batch.norm():
        raise UserError(
            f"the embeddings of {name} change with the other views of the batch, or from call to "
            "call: numbers would depend on the batch"
        )
    if tokenizer is not None:
        texts = encoder.model.encode_text(tokenizer(["a photo", "a dog"]))
        if tuple(texts.shape) != shape:
            raise UserError(
                f"{name}.encode_text returns {tuple(texts.shape)} for 2 texts, not {shape}"
            )
