"""Facts about every measured column, which tables, figures and pages read."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml
from pydantic import ConfigDict, TypeAdapter

Space = Literal["embedding", "gaze", "aligned gaze", "pixels", "text", "photo"]
"""What a measure is computed from; ``photo``: only the clean photo, so that it is not a shift."""
Better = Literal["higher", "lower", "nearer 0"]


@dataclass(frozen=True)
class Facts:
    """Facts about a column of ``shift.parquet``.

    Attributes:
        label: Its name in words.
        short: Its name where there is little room.
        definition: Its definition in one sentence; the formulas are in docs/protocol.md.
        space: What it is computed from. Measures of ``pixels`` do not depend on the model.
        better: The direction that means less harm; None where neither does.
        low: The smallest possible value.
        high: The largest possible value.
        unchanged: Its value where the augmentation changed nothing; None where that depends on the
            photo.
        unit: Its unit; empty for a plain number. The mean of a ``share`` is a share of photos.
        correlate: Name under which its correlation with the shift is listed; empty where it is not
            listed. If higher is better, the loss 1 − x is correlated instead of x.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    label: str
    short: str
    definition: str
    space: Space
    better: Better | None
    low: float = 0
    high: float = 1
    unchanged: float | None = None
    unit: str = ""
    correlate: str = ""

    @property
    def correlate_label(self) -> str:
        """The quantity that is correlated with the shift, in words."""
        if self.space == "photo":
            return self.label
        return f"1 − {self.short}" if self.better == "higher" else self.short

    @property
    def is_share(self) -> bool:
        """Whether the mean is a share of photos: each photo counts 0, 1 or between."""
        return self.unit == "share"

    def gain(self, before: Any, after: Any) -> Any:
        """How much better ``after`` is than ``before``; NaN where neither direction is better.

        Args:
            before: A number or array.
            after: A number or array of the same shape.

        Example:
            >>> COLUMNS["relative_shift"].gain(0.5, 0.3)
            0.2
        """
        if self.better is None:
            return (after - before) * math.nan
        if self.better == "higher":
            return after - before
        return before - after if self.better == "lower" else abs(before) - abs(after)

    def worst(self, values: np.ndarray) -> Any:
        """The worst of each photo's draws, which is the largest unless higher is better.

        Args:
            values: Shape (N, K, …); draws without a value are left out.

        Returns:
            Shape (N, …), NaN where no draw has a value.

        Example:
            >>> COLUMNS["relative_shift"].worst(np.array([[0.5, 0.3], [0.1, np.nan]]))
            array([0.5, 0.1])
        """
        low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
        if self.better == "nearer 0":
            return np.where(-low > high, low, high)
        return low if self.better == "higher" else high

    def as_json(self) -> dict[str, Any]:
        """The facts for JSON, where an infinite bound is null."""
        fields = asdict(self)
        return {n: None if v in (math.inf, -math.inf) else v for n, v in fields.items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Facts":
        """Read what `as_json` returned.

        Raises:
            ValueError: If it is something else.
        """
        bounds = {"low": -math.inf, "high": math.inf}
        filled: dict[str, Any] = {
            n: bounds[n] if v is None and n in bounds else v for n, v in stored.items()
        }
        return FACTS.validate_python(filled)


FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)
similarity = partial(Facts, better="higher", unchanged=1)
"""The facts of a measure that is 1 where nothing changed, and lower otherwise."""
distance = partial(Facts, better="lower", unchanged=0)
"""The facts of a measure that is 0 where nothing changed, and higher otherwise."""


def accuracy(k: int, clean: bool, classes: int | None = None) -> Facts:
    """The facts of zero-shot top-k accuracy, on the augmented or on the clean view.

    Args:
        k: Number of classes with the highest cosine that count as a hit.
        clean: Whether the accuracy is that of the clean view.
        classes: Number of classes to choose from, where it is known.
    """
    view = "the clean view" if clean else "the augmented view"
    among = f" of {classes:,}" if classes else ""
    return Facts(
        label=f"zero-shot top-{k} accuracy of {view}" + (f"{among} classes" if among else ""),
        short=f"top-{k} clean{among}" if clean else f"top-{k}{among}",
        definition=f"1 if the photo's own class is among the {k}{among} classes of the highest "
        f"cosine with {view}, 0 if not; classes that tie share their places",
        space="photo" if clean else "text",
        better="higher",
        unit="share",
    )


def accuracy_columns(top: Iterable[int], classes: int | None = None) -> dict[str, Facts]:
    """The facts of zero-shot top-k accuracies for several k, by column, see `accuracy`."""
    return {
        f"zero_shot_top{k}{'_clean' if clean else ''}": accuracy(k, clean, classes)
        for k in top
        for clean in (True, False)
    }


def retained_facts(gallery: int | None = None) -> Facts:
    """The facts of `retained`.

    Args:
        gallery: Number of photos to find it among, where it is known. More photos make it harder.
    """
    among = f" among {gallery:,}" if gallery else ""
    return similarity(
        label="views that still find their own photo" + (f"{among} photos" if among else ""),
        short=f"retained{among}",
        definition=f"1 if among {f'{gallery:,}' if gallery else 'the gallery of'} clean photos the "
        "view's highest cosine is with its own photo, 0 if not; photos that tie share the place",
        space="embedding",
        unit="share",
    )


_DESCRIBED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
COLUMNS = {
    "relative_shift": Facts(**_DESCRIBED.pop("relative_shift")),
    "retained": retained_facts(),
}
COLUMNS |= accuracy_columns((1, 5)) | {name: Facts(**facts) for name, facts in _DESCRIBED.items()}
"""The columns that the evaluation computes itself; those of a metric are its ``facts``."""
NEIGHBOUR_VOTES = {"neighbour_top1": 1, "neighbour10_top1": 10}
"""The accuracies without text, and of how many neighbours they are the vote."""
