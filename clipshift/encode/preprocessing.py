"""A model's preprocessing: what happens to a photo before the model, in the keys of open_clip."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from open_clip.transform import PreprocessCfg
from torchvision.transforms._presets import ImageClassification

from clipshift.checks import Check, are_numbers, checked, one_of, whole
from clipshift.errors import UserError

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
REQUIRED = ("size", "mean", "std")
CHECKS: dict[str, Check] = {
    "size": SIZE,
    "mean": MEAN,
    "std": STD,
    "interpolation": one_of("bilinear", "bicubic"),
    "resize_mode": one_of("shortest", "longest", "squash"),
    "resize_size": whole(1),
}


def preprocessing_of(preprocess: Any, model: str) -> dict[str, Any]:
    """Preprocessing in the keys of open_clip, with values in their ranges.

    Args:
        preprocess: A mapping with these keys, a torchvision ``Compose``, or a
            ``weights.transforms()``.
        model: The name of the model, for the message where there is none.

    Raises:
        UserError: If it is None, has unknown steps or keys, or a value is missing or out of range.
    """
    if preprocess is None:
        raise UserError(
            f"the preprocessing of {model} is required: pass preprocess=dict(size=…, mean=…, "
            "std=…), with the mean and std of pixels in [0, 1]"
        )
    settings = dict(preprocess) if isinstance(preprocess, Mapping) else read_steps(preprocess)
    keys = [*(field.name for field in fields(PreprocessCfg)), "resize_size", "backend"]
    for key in settings:
        if key not in keys:
            raise UserError(f"preprocess: unknown key {key!r}; valid keys are {', '.join(keys)}")
    for key in REQUIRED:
        if key not in settings:
            raise UserError(f"preprocess: `{key}` is required")
    try:
        for key in [key for key in CHECKS if key in settings]:
            settings[key] = checked(key, np.asarray(settings[key]).tolist(), CHECKS[key])
    except UserError as error:
        raise error.within("preprocess") from None
    return settings


def read_steps(preprocess: Any) -> dict[str, Any]:
    """The preprocessing that a torchvision ``Compose``, or a ``weights.transforms()``, does.

    Raises:
        UserError: If it has unknown steps.
    """
    if isinstance(preprocess, ImageClassification):
        [size], [resize_size] = preprocess.crop_size, preprocess.resize_size
        settings = {"size": size, "resize_size": resize_size, "resize_mode": "shortest"}
        settings |= {"mean": preprocess.mean, "std": preprocess.std}
        return settings | {"interpolation": preprocess.interpolation.value}
    settings = {}
    for step in getattr(preprocess, "transforms", [preprocess]):
        kind = getattr(step, "__name__", type(step).__name__)
        if kind in RESIZING:
            settings["size"] = step.size
        elif kind == "Normalize":
            settings |= {"mean": step.mean, "std": step.std}
        elif kind not in CONVERTING:
            raise UserError(f"preprocess: unknown step {kind}; pass a dict of size, mean and std")
    return settings
