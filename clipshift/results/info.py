"""The typed contents of ``run.json``, checked once when it is read.

A run's folder may come from a stranger. What it says is data: texts and numbers that are shown and
compared. No part of it names code, and nothing in it is resolved.
"""

from typing import Annotated, Any, Literal

import pydantic
from typing_extensions import TypedDict

Sha256 = Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")]
Name = Annotated[
    str, pydantic.StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Count = Annotated[int, pydantic.Field(ge=0, le=2**53)]
Triple = Annotated[list[float], pydantic.Field(min_length=3, max_length=3)]

OPEN = pydantic.ConfigDict(extra="allow", frozen=True)
"""For tables of options, to which a user's own parts may add keys."""


class Known(pydantic.BaseModel):
    """Facts that are clipshift's alone: any other key is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def _gaze_kind(value: Any) -> Any:
    """Earlier versions only said whether there is a gaze: it was attention."""
    return ("attention" if value else None) if isinstance(value, bool) else value


@pydantic.with_config(OPEN)
class Preprocessing(TypedDict):
    """What a model is given: open_clip's ``preprocess_cfg``."""

    size: Annotated[int, pydantic.Field(ge=1, le=2**14)] | tuple[int, int]
    mean: Triple
    std: Triple


class ModelInfo(pydantic.BaseModel):
    """The model, where its weights come from, and what it can do."""

    model_config = OPEN

    name: Name
    architecture: str
    pretrained: str | None
    checkpoint: str | None
    trained_on: list[Name] | None = None
    trained: bool
    weights_sha256: Sha256
    fingerprint: Sha256
    preprocessing: Preprocessing
    gaze: Annotated[str | None, pydantic.BeforeValidator(_gaze_kind)] = None
    gaze_layer: int | None = None
    text: str | None = None
    kind: str = "open_clip"
    pooling: str = "projection"
    image_parameters: Count | None = None


class DataInfo(Known):
    """The photos and texts."""

    fingerprint: Sha256
    photos: Count
    skipped: Count
    classes: list[str] = []
    prompts: list[str] | str = []
    stored_fingerprint: Sha256 | None = None
    shown_sha256: dict[str, Sha256] = {}


@pydantic.with_config(OPEN)
class SourceOptions(TypedDict):
    """``data`` of the options."""

    _target_: str
    resize: str


class Options(pydantic.BaseModel):
    """The options that a run was made with: what is read of them again has a type."""

    model_config = OPEN

    data: SourceOptions
    aug: dict[Name, dict[str, Any]]
    metric: dict[str, Any]
    prompts: dict[str, Any]
    logger: dict[str, Any]
    seed: Count
    sweeps: str
    dashboard: bool
    inside: bool = False
    dissect: bool = False
    draws: Count = 1


class Floor(Known):
    """By how much half precision changes a cosine: mean and 95th percentile over photos."""

    photos: Count
    mean: float
    p95: float


class Resampled(Known):
    """What intervals take as drawn at random, see `clipshift.results.intervals.resampling`.

    The unit, how many of them there are, and how many photos are alone, having no class.
    """

    unit: Literal["photos", "classes"]
    units: Count
    alone: Count
    design_effect: float | None


class Agreement(Known):
    """Kendall's τ between the rankings at the paper's and at matched severities."""

    tau: float | None
    ci_low: float | None
    ci_high: float | None


class MatchingInfo(Known):
    """What strengths at severity ``matched`` were matched by, and how the shift follows it."""

    distortion: Name
    target: float
    photos: Count
    elasticity: dict[Name, float]


class CorruptionError(Known):
    """Summary of errors under corruptions.

    See `clipshift.results.corruptions.shift_and_error`.
    Earlier versions have neither ``mce``'s interval nor the ρ within corruptions.
    """

    mce: float | None
    mce_low: float | None = None
    mce_high: float | None = None
    rho: float | None
    ci_low: float | None
    ci_high: float | None
    rho_within: float | None = None
    n: Count | None = None
    n_within: Count | None = None


class RunInfo(Known):
    """``run.json``: provenance, and what is true of the run as a whole.

    What has a default is not in runs of earlier versions, or only in some runs.
    """

    job: str | None
    model: ModelInfo
    precision: str
    config: Options
    complete: bool
    data: DataInfo
    seed: Count
    device: str
    floor: dict[Name, dict[str, Floor]]
    seconds: dict[str, float]
    started: str
    notes: list[str]
    command: list[str]
    commit: str | None
    python: str
    system: str
    processor: str
    versions: dict[str, str]
    code_sha256: Sha256
    spread: float | None
    collapsed: bool
    strengths: dict[Name, float]
    gallery: Count
    distortion: dict[Name, dict[str, dict[str, float]]]
    intraclass_correlation: float | None
    resampled: Resampled | None = None
    paper_and_matched: Agreement | None = None
    matching: MatchingInfo | None = None
    corruption_error: CorruptionError | None = None
    sha256: dict[Name, Sha256] = {}

    @pydantic.field_validator("versions")
    @classmethod
    def _has_clipshift(cls, versions: dict[str, str]) -> dict[str, str]:
        if "clipshift" not in versions:
            raise ValueError("clipshift is missing")
        return versions

    @property
    def prompts(self) -> list[str] | str:
        """The templates, or ``openai``; in runs of earlier versions they are options alone."""
        return self.data.prompts or self.config.prompts.get("templates", [])

    @property
    def by_class(self) -> bool:
        """Whether intervals take classes as drawn at random; earlier versions took photos."""
        return self.resampled is not None and self.resampled.unit == "classes"

    def as_json(self) -> dict[str, Any]:
        """The content of ``run.json``: what was given, and no defaults."""
        return self.model_dump(exclude_unset=True)


RUN_INFO: pydantic.TypeAdapter[RunInfo] = pydantic.TypeAdapter(RunInfo)
