"""Views: the nine disturbances of a photo, drawn under keyed randomness."""

from clipshift.augment.geometric import Elastic, Flip, Perspective, ShiftScaleRotate
from clipshift.augment.keyed import Augmentation, augment, draw
from clipshift.augment.pixel import Blur, BrightnessContrast, CoarseDropout, ColorJitter, Noise

__all__ = [
    "Augmentation",
    "Blur",
    "BrightnessContrast",
    "CoarseDropout",
    "ColorJitter",
    "Elastic",
    "Flip",
    "Noise",
    "Perspective",
    "ShiftScaleRotate",
    "augment",
    "draw",
]
