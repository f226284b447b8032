"""A model's preprocessing: what happens to a photo before the model, in the keys of open_clip."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from open_clip.transform import PreprocessCfg

from clipshift.checks import Check, are_numbers, checked, whole
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


def preprocessing_of(preprocess: Any) -> Mapping[str, Any]:
    """The keys of a mapping, or the size, mean and std of a torchvision ``Compose``."""
    if isinstance(preprocess, Mapping):
        return preprocess
    settings: dict[str, Any] = {}
    for step in getattr(preprocess, "transforms", [preprocess]):
        kind = getattr(step, "__name__", type(step).__name__)
        if kind in RESIZING:
            settings["size"] = step.size
        elif kind == "Normalize":
            settings |= {"mean": step.mean, "std": step.std}
        elif kind not in CONVERTING:
            raise UserError(f"preprocess: unknown step {kind}; pass a dict of size, mean and std")
    return settings


def checked_preprocessing(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
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
