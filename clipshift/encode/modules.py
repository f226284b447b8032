"""Models in memory as encoders: open_clip's own, or any module with ``encode_image``."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from clipshift.checks import Check, checked, whole
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError, one_line
from clipshift.versions import source_sha256

Tokenizer = Callable[[list[str]], Tensor]

PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
RESIZING = ("Resize", "ResizeKeepRatio", "CenterCrop", "CenterCropOrPad")
CONVERTING = (
    "MaybeConvertMode", "MaybeToTensor", "ToTensor", "PILToTensor", "ToImage", "ToDtype", "RGB",
    "ConvertImageDtype", "_convert_to_rgb",
)  # fmt: skip
"""Steps of a preprocessing that bring a photo to numbers in [0, 1], as views are already."""
SIZE: Check = (
    "a side in pixels, or two",
    lambda v: all(whole(1)[1](side) for side in (v if isinstance(v, list) else [v])),
)
MEAN: Check = ("three numbers from 0 to 1", lambda v: _are_three(v) and min(v) >= 0)
STD: Check = ("three numbers > 0 and ≤ 1", lambda v: _are_three(v) and min(v) > 0)


def _are_three(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(number, (int, float)) and number <= 1 for number in value)
    )


def as_encoder(
    model: nn.Module,
    preprocess: Mapping[str, Any] | Any = None,
    tokenizer: Tokenizer | None = None,
    trained: bool = True,
) -> Encoder:
    """An encoder of a model in memory, which is copied and stays as it is.

    Args:
        model: An open_clip model, or any module whose ``encode_image`` turns normalised views,
            (B, 3, H, W), into embeddings, floats of shape (B, D). With ``encode_text``, which turns
            what the tokenizer gives into embeddings of the same D, texts are measured too. Gaze and
            layers are read where ``model.visual`` is an image tower of open_clip's. An encoder is
            handed back.
        preprocess: What the model's views need: a mapping with ``size`` (a side, or height and
            width), ``mean`` and ``std`` of pixels in [0, 1]; or a torchvision ``Compose`` that says
            the same, as ``open_clip.create_model_and_transforms`` returns it. None: what an
            open_clip model brings. Of its resizing only the size counts: views are 224 × 224, and
            are brought to it bilinearly.
        tokenizer: Turns a list of texts into one tensor. None leaves measures with text out.
        trained: Whether the weights were learnt. There is no way to see it, so they count as
            learnt unless said otherwise.

    Raises:
        UserError: If the model has no ``encode_image`` or gives no embeddings; if its preprocessing
            is not known, which is never guessed, or not understood; or if a view's embedding
            depends on the other views.

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
        raise UserError(f"{name} is no model: a torch.nn.Module with encode_image is needed")
    if tokenizer is not None and not callable(getattr(model, "encode_text", None)):
        raise UserError(f"{name} has no encode_text: give it one, or leave the tokenizer out")
    if preprocess is None:
        preprocess = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if preprocess is None:
        raise UserError(
            f"{name} does not say how its pixels are normalised: give preprocess=dict(size=…, "
            "mean=…, std=…), the mean and std of pixels in [0, 1]"
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
            lambda: _given(tokenizer),
        )
        encoder.cacheable = False
        _try(encoder, name, tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} fails: {type(error).__name__}: {one_line(str(error))}") from error
    return encoder


def _given(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise UserError("the model came without a tokenizer")
    return tokenizer


def _preprocessing_of(compose: Any) -> dict[str, Any]:
    """What a torchvision ``Compose`` says of size, mean and std."""
    found: dict[str, Any] = {}
    for step in getattr(compose, "transforms", [compose]):
        kind = getattr(step, "__name__", type(step).__name__)
        if kind in RESIZING:
            found["size"] = step.size
        elif kind == "Normalize":
            found |= {"mean": step.mean, "std": step.std}
        elif kind not in CONVERTING:
            raise UserError(
                f"preprocess: {kind} is not understood: give a dict of size, mean and std"
            )
    return found


def _checked(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as open_clip writes it, in its ranges."""
    known = [field.name for field in fields(PreprocessCfg)]
    for key in preprocessing:
        if key not in known:
            raise UserError(f"preprocess: {key!r} is not understood ({', '.join(known)} are)")
    made = {
        key: np.asarray(value).tolist() if key in ("size", "mean", "std") else value
        for key, value in preprocessing.items()
    }
    for key, check in (("size", SIZE), ("mean", MEAN), ("std", STD)):
        if key not in made:
            raise UserError(f"preprocess says no {key}, which is never guessed: give it as well")
        try:
            checked(key, made[key], check)
        except UserError as error:
            raise error.within("preprocess") from None
    return made


@torch.inference_mode()
def _try(encoder: Encoder, name: str, tokenizer: Tokenizer | None) -> None:
    """Find out whether a model gives what it must, on a bright and a dark view of noise."""
    views = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    views[0] /= 8
    inputs = ((views - encoder.mean) / encoder.std).to(encoder.input_dtype)
    made = encoder.model.encode_image(inputs)
    shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != 2:
        raise UserError(f"{name}.encode_image gives {shape} for 2 views: (2, D) is needed")
    if not made.is_floating_point():
        raise UserError(f"{name}.encode_image gives {made.dtype}: floats are needed")
    if encoder.probe:
        encoder.probe.read()
    both, alone = made[1:].float(), encoder.model.encode_image(inputs[1:]).float()
    if not (both - alone).norm() <= 0.01 * both.norm():
        raise UserError(
            f"{name} gives a view another embedding beside other views, or when asked again: then "
            "numbers would depend on the batch"
        )
    if tokenizer is not None:
        texts = encoder.model.encode_text(tokenizer(["a photo", "a dog"]))
        if tuple(texts.shape) != shape:
            raise UserError(
                f"{name}.encode_text gives {tuple(texts.shape)} for 2 texts, not {shape}"
            )
