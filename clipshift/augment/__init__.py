"""Augmentations: perturbations of an image, drawn under keyed randomness, at any severity."""

from clipshift.augment.chain import Chain
from clipshift.augment.corruptions import Corruption
from clipshift.augment.geometric import Elastic, Flip, Perspective, ShiftScaleRotate
from clipshift.augment.keyed import Augmentation, FileAugmentation, MovingAugmentation
from clipshift.augment.pixel import (
    JPEG,
    Blur,
    BrightnessContrast,
    CoarseDropout,
    ColorJitter,
    Grayscale,
    MotionBlur,
    Noise,
    Pixelate,
)
from clipshift.augment.stored import Stored
from clipshift.augment.transforms import KeyedTransform, as_augmentation
from clipshift.augment.variants import Variant

__all__ = [
    "JPEG",
    "Augmentation",
    "Blur",
    "BrightnessContrast",
    "Chain",
    "CoarseDropout",
    "ColorJitter",
    "Corruption",
    "Elastic",
    "FileAugmentation",
    "Flip",
    "Grayscale",
    "KeyedTransform",
    "MotionBlur",
    "MovingAugmentation",
    "Noise",
    "Perspective",
    "Pixelate",
    "ShiftScaleRotate",
    "Stored",
    "Variant",
    "as_augmentation",
]
