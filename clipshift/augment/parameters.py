"""Parameters of augmentations: fields of a class, each with its check, most drawn uniformly."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from typing_extensions import dataclass_transform

from clipshift.augment.keyed import Draws, uniform
from clipshift.checks import Check, checked

Range = tuple[float, float]


def parameter(check: Check) -> Any:
    """A field for a parameter whose values must pass a check."""
    return field(metadata={"check": check})


@dataclass_transform(field_specifiers=(parameter,))
class Parametrised:
    """Base of augmentations with parameters: every class of it is a dataclass of its `parameter` s.

    Raises:
        UserError: If a parameter fails its check.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(cls, eq=False, repr=False)  # type: ignore[call-overload]

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            checked(one.name, getattr(self, one.name), one.metadata["check"])

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw one number from the range of each parameter, in their order."""
        return {one.name: uniform(rng, getattr(self, one.name)) for one in fields(self)}  # type: ignore[arg-type]
