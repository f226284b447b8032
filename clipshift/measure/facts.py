"""What every measured column means: one record each, read by tables, figures and pages."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

Space = Literal["embedding", "gaze", "aligned gaze", "pixels", "text", "photo"]
"""What a measure is taken on; ``photo``: on the clean photo alone, so that it is no shift."""
Better = Literal["higher", "lower", "nearer 0"]


@dataclass(frozen=True)
class Facts:
    """What a column of ``shift.parquet`` means.

    Attributes:
        label: Its name in words.
        short: Its name where there is little room.
        definition: Its definition in one sentence; the formulas are in docs/protocol.md.
        space: What it is taken on. Measures of ``pixels`` do not depend on the model.
        better: Which way is less harm; None where neither is.
        low: The least value that it can have.
        high: The greatest.
        unchanged: Its value where the augmentation changed nothing; None where that depends on the
            photo.
        unit: Its unit; empty for a plain number. The mean of a ``share`` is a share of photos.
        correlate: Under which name its correlation with the shift is listed; empty where it is not.
            Of a measure of which higher is better, the loss 1 − x is correlated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    label: str
    short: str
    definition: str
    space: Space
    better: Better | None
    low: float
    high: float
    unchanged: float | None = None
    unit: str = ""
    correlate: str = ""

    @property
    def correlate_label(self) -> str:
        """What is correlated with the shift, in words."""
        if self.space == "photo":
            return self.label
        return f"1 − {self.short}" if self.better == "higher" else self.short

    @property
    def is_share(self) -> bool:
        """Whether a photo's value is 0, 1 or, with ties, between: the mean is a share of photos."""
        return self.unit == "share"

    def gain(self, before: Any, after: Any) -> Any:
        """How much better ``after`` is than ``before``; NaN where neither direction is better.

        Args:
            before: Numbers or arrays.
            after: Likewise.

        Example:
            >>> COLUMNS["relative_shift"].gain(0.5, 0.3)
            0.2
        """
        if self.better is None:
            return (after - before) * math.nan
        if self.better == "higher":
            return after - before
        return before - after if self.better == "lower" else abs(before) - abs(after)

    def as_json(self) -> dict[str, Any]:
        """The facts as JSON holds them: an infinite bound is null."""
        fields = asdict(self)
        return {n: None if v in (math.inf, -math.inf) else v for n, v in fields.items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Facts":
        """What `as_json` gave.

        Raises:
            ValueError: If it is something else.
        """
        bounds = {"low": -math.inf, "high": math.inf}
        filled: dict[str, Any] = {
            n: bounds[n] if v is None and n in bounds else v for n, v in stored.items()
        }
        return FACTS.validate_python(filled)


FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)


def accuracy(k: int, clean: bool, classes: int | None = None) -> Facts:
    """The facts of zero-shot top-k accuracy, on the augmented or on the clean view.

    Args:
        k: How many classes count.
        clean: Whether it is that of the clean view.
        classes: How many there are to choose among, where that is known.
    """
    of = "the clean view" if clean else "the augmented view"
    among = f" of {classes:,}" if classes else ""
    return Facts(
        label=f"zero-shot top-{k} accuracy of {of}" + (f"{among} classes" if among else ""),
        short=f"top-{k} clean{among}" if clean else f"top-{k}{among}",
        definition=f"1 if the photo's own class is among the {k}{among} classes of the highest "
        f"cosine with {of}, 0 if not; classes that tie share their places",
        space="photo" if clean else "text",
        better="higher",
        low=0,
        high=1,
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
        gallery: Among how many photos, where that is known. It falls as they become more.
    """
    among = f" among {gallery:,}" if gallery else ""
    return Facts(
        label="views that still find their own photo" + (f"{among} photos" if among else ""),
        short=f"retained{among}",
        definition=f"1 if among {f'{gallery:,}' if gallery else 'the gallery of'} clean photos the "
        "view's highest cosine is with its own photo, 0 if not; photos that tie share the place",
        space="embedding",
        better="higher",
        low=0,
        high=1,
        unchanged=1,
        unit="share",
    )


COLUMNS = {
    "relative_shift": Facts(
        label="relative shift",
        short="relative shift",
        definition="1 − cosine of the embeddings, divided by its mean over different clean photos; "
        "1: as far as another photo",
        space="embedding",
        better="lower",
        low=0,
        high=math.inf,
        unchanged=0,
    ),
    "retained": retained_facts(),
    **accuracy_columns((1, 5)),
    "zero_shot_flip": Facts(
        label="changed zero-shot predictions",
        short="top-1 changes",
        definition="1 if the class of the highest cosine is another than on the clean view, 0 if "
        "not; between where classes tie",
        space="text",
        better="lower",
        low=0,
        high=1,
        unchanged=0,
        unit="share",
    ),
    "text_shift": Facts(
        label="change of the cosine with the photo's captions",
        short="text shift",
        definition="mean over the photo's captions of their cosine with the view minus that with "
        "the clean view",
        space="text",
        better="higher",
        low=-2,
        high=2,
        unchanged=0,
    ),
    "brightness": Facts(
        label="brightness of the photo",
        short="brightness",
        definition="mean luma of the clean view",
        space="photo",
        better=None,
        low=0,
        high=1,
        correlate="brightness",
    ),
    "contrast": Facts(
        label="contrast of the photo",
        short="contrast",
        definition="standard deviation of the clean view's luma",
        space="photo",
        better=None,
        low=0,
        high=0.5,
        correlate="contrast",
    ),
    "distance_to_others": Facts(
        label="distance to the other photos",
        short="distance to others",
        definition="mean 1 − cosine between the photo's clean embedding and those of all others",
        space="photo",
        better=None,
        low=0,
        high=2,
    ),
}
"""The columns that the evaluation makes itself; those of a metric are its ``facts``."""
