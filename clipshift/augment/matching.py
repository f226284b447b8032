"""Matched strengths: every augmentation made equally strong by a pixel measure.

At the paper's ranges noise destroys a photo, and an elastic deformation moves it by a tenth of a
pixel. Their ranking thus reflects how strong each was made as well as how sensitive a model is to
it. Here each augmentation's strength is chosen such that its views' mean distortion is a common
target.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BeforeValidator, ConfigDict
from scipy.optimize import brentq
from torch import Tensor

from clipshift.augment.keyed import Augmentation, Draws, augment

TOLERANCE = 0.005
"""Largest distance of the realised mean distortion from the target, as a share of the target."""
WEAKEST, STRONGEST = 2.0**-10, 2.0**12
"""The range of strengths that is searched."""

FORBID = ConfigDict(extra="forbid")

Distortion = Callable[[Augmentation, Tensor, Draws, float], Tensor]
"""Maps an augmentation, clean views (B, 3, H, W), draws and a strength to distortions (B,)."""


@dataclass(frozen=True)
class Match:
    """The strength of one augmentation, and the distortion that it results in.

    Attributes:
        strength: Factor on the augmentation's draws.
        realised: Mean distortion of the calibration photos at that strength.
        reached: Whether ``realised`` is the target, to within half a per cent.
        distortions: The distortion of each calibration photo at that strength; empty in files of
            earlier versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID

    strength: float
    realised: float
    reached: bool
    distortions: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class CalibrationPhoto:
    """A photo that strengths were matched on, identified by its id and its content.

    Attributes:
        id: Its id.
        sha256: SHA-256 of the encoded photo, in hexadecimal; None in files of earlier versions.
        length: Number of bytes of the encoded photo; None in files of earlier versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID

    id: str
    sha256: str | None = None
    length: int | None = None


def _read_photo(stored: Any) -> Any:
    """Read a photo also as earlier versions stored it: as its id alone."""
    return CalibrationPhoto(stored) if isinstance(stored, str) else stored


@dataclass(frozen=True)
class Calibration:
    """Strengths at which all augmentations distort photos equally.

    Attributes:
        distortion: ``displacement``, or the name of a measure of pixels, as ``ssim``.
        target: Its common mean.
        seed: Seed of the draws.
        resize: How photos became clean views.
        parameters: Parameters of each augmentation, by name: strengths hold only for these.
        photos: The calibration photos, which must not be measured.
        matches: The match of each augmentation, by name.
        undistorted: The distortion of a clean view.
        definition: What the distortion is, in words; empty in files of earlier versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID

    distortion: str
    target: float
    seed: int
    resize: str | Mapping[str, Any]
    parameters: dict[str, dict[str, Any]]
    photos: list[Annotated[CalibrationPhoto, BeforeValidator(_read_photo)]]
    matches: dict[str, Match]
    undistorted: float = 0.0
    definition: str = ""

    def relative_distortions(self) -> dict[str, np.ndarray]:
        r"""How much more or less each calibration photo is distorted than their mean.

        Returns:
            :math:`(x_j - \bar x) / (\bar x - x_0)`, with :math:`x_0` of an undistorted view, for
            each augmentation whose strength was matched on the photos.
        """
        distances = {
            name: np.array(match.distortions) - self.undistorted
            for name, match in self.matches.items()
            if match.reached and match.distortions
        }
        return {name: d / d.mean() - 1 for name, d in distances.items() if d.any()}

    def as_json(self) -> dict[str, object]:
        """The calibration as it is stored."""
        return asdict(self)

    def check(self) -> None:
        """Check that `match_strength` can have produced it.

        Raises:
            ValueError: If it cannot.
        """
        if not (math.isfinite(self.target) and self.target > 0):
            raise ValueError(f"the target is {self.target}")
        for name, match in self.matches.items():
            if not WEAKEST <= match.strength <= STRONGEST:
                raise ValueError(f"the strength of {name} is {match.strength}")
            if not math.isfinite(match.realised):
                raise ValueError(f"the realised distortion of {name} is {match.realised}")
            if match.reached != is_reached(match.realised, self.target):
                raise ValueError(f"{name} has realised={match.realised}, reached={match.reached}")
            values = match.distortions
            if values and not (len(values) == len(self.photos) and all(map(math.isfinite, values))):
                raise ValueError(f"{name} does not have one distortion for each photo")


def is_reached(realised: float, target: float) -> bool:
    """Whether a mean distortion is its target, to within half a per cent."""
    return abs(realised - target) <= TOLERANCE * target


def match_strength(
    distortions: Callable[[float], np.ndarray], target: float, strongest: float
) -> Match:
    """Find the smallest strength at which a mean distortion reaches its target, by bracketing.

    The strength is doubled from the weakest until the target is passed, and the bracket is then
    narrowed by Brent's method (scipy's ``brentq``, on the logarithm of the strength).

    Args:
        distortions: Maps a strength to the distortions of the calibration photos, shape (N,).
        target: The mean that they should have.
        strongest: The strength beyond which the augmentation does not change.

    Returns:
        The match; where the target is out of reach, the strength that came nearest.
    """
    tried: dict[float, np.ndarray] = {}

    def excess(log_strength: float) -> float:
        strength = min(2.0**log_strength, strongest)
        if strength not in tried:
            tried[strength] = distortions(strength)
        difference = tried[strength].mean() - target
        return 0.0 if abs(difference) <= TOLERANCE / 2 * target else difference

    end = np.log2(min(strongest, STRONGEST))
    low = np.log2(WEAKEST)
    start = excess(low)
    while low < end:
        high = min(low + 1, end)
        if start * excess(high) <= 0:
            brentq(excess, low, high, xtol=1e-4)
            break
        low = high
    strength, nearest = min(tried.items(), key=lambda pair: abs(pair[1].mean() - target))
    realised = float(nearest.mean())
    return Match(strength, realised, is_reached(realised, target), nearest.tolist())


def displacement(
    augmentation: Augmentation, clean: Tensor, draws: Draws, strength: float
) -> Tensor:
    """Mean distance by which an augmentation moves the pixels that stay in the view.

    An image that holds its own coordinates is augmented like the photo: each pixel of the result
    then holds the place that it came from.

    Args:
        augmentation: The augmentation. One that does not move pixels displaces none.
        clean: Views, shape (B, 3, H, W); only their shape matters.
        draws: The augmentation's draws for them.
        strength: Its strength.

    Returns:
        In pixels, float32, shape (B,).
    """
    if not augmentation.moves_pixels:
        return torch.zeros(len(clean), device=clean.device)
    sides = [torch.arange(1.0, side + 1, device=clean.device) for side in clean.shape[-2:]]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    inside = torch.ones_like(rows)
    charts = torch.stack([rows, columns, inside]).expand(len(clean), -1, -1, -1)
    moved = getattr(augmentation, "move", augmentation.apply)(charts, draws, strength)
    kept = (moved[:, 2] > 0.999).float()
    distance = torch.hypot(moved[:, 0] - rows, moved[:, 1] - columns) * kept
    return distance.sum(dim=(1, 2)) / kept.sum(dim=(1, 2)).clamp(min=1)


def pixel_distortion(measure: Callable[[Tensor, Tensor], Tensor]) -> Distortion:
    """The distortion of an augmentation as a measure of view and clean view."""
    return lambda augmentation, clean, *drawn: measure(augment(augmentation, clean, *drawn), clean)
