"""What ``run.json`` may say: known keys with values of known types, and nothing that is looked up.

A run's folder may come from a stranger. What it says is data: texts and numbers that are shown and
compared. No part of it names code, and nothing in it is resolved.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import NotRequired, TypedDict

KNOWN = ConfigDict(extra="forbid")
"""Of tables of facts that are ours alone."""
OPEN = ConfigDict(extra="allow")
"""Of options, to which a user's own parts may have added some."""

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Count = Annotated[int, Field(ge=0, le=2**53)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


@with_config(OPEN)
class PreprocessingFacts(TypedDict):
    """What a model is given: open_clip's ``preprocess_cfg``."""

    size: Annotated[int, Field(ge=1, le=2**14)] | tuple[int, int]
    mean: Triple
    std: Triple


@with_config(OPEN)
class ModelFacts(TypedDict):
    """The model, where its weights come from, and what it can do."""

    name: Name
    architecture: str
    pretrained: str | None
    checkpoint: str | None
    trained_on: NotRequired[list[Name] | None]
    trained: bool
    weights_sha256: Sha256
    fingerprint: Sha256
    preprocessing: PreprocessingFacts
    gaze: NotRequired[str | None]
    gaze_layer: NotRequired[int | None]
    text: NotRequired[str | None]


@with_config(KNOWN)
class DataFacts(TypedDict):
    """The photos and texts."""

    fingerprint: Sha256
    stored_fingerprint: NotRequired[Sha256]
    photos: Count
    skipped: Count
    classes: NotRequired[list[str]]
    prompts: NotRequired[list[str] | str]
    shown_sha256: NotRequired[dict[str, Sha256]]


@with_config(OPEN)
class SourceOptions(TypedDict):
    """``data`` of the configuration."""

    _target_: str
    resize: str


@with_config(OPEN)
class Options(TypedDict):
    """The configuration that a run was made with: what is read of it again has a type."""

    data: SourceOptions
    aug: dict[Name, dict[str, Any]]
    metric: dict[str, Any]
    prompts: dict[str, Any]
    logger: dict[str, Any]
    seed: Count
    sweeps: str
    dashboard: bool
    inside: NotRequired[bool]


@with_config(OPEN)
class Versions(TypedDict):
    """Versions of packages."""

    clipshift: str


@with_config(KNOWN)
class MatchingFacts(TypedDict):
    """What strengths at severity ``matched`` were matched by, and how the shift follows it."""

    distortion: Name
    target: float
    photos: Count
    elasticity: dict[Name, float]


@with_config(KNOWN)
class ResampledFacts(TypedDict):
    """What intervals take as drawn at random."""

    unit: Literal["photos", "classes"]
    units: Count
    alone: Count
    design_effect: float | None


@with_config(KNOWN)
class RunFacts(TypedDict):
    """``run.json``: provenance, and what is true of the run as a whole."""

    job: str | None
    complete: bool
    model: ModelFacts
    precision: str
    config: Options
    data: DataFacts
    seed: Count
    device: str
    floor: dict[Name, dict[str, dict[str, float]]]
    seconds: dict[str, float]
    started: str
    notes: list[str]
    command: list[str]
    commit: str | None
    python: str
    system: str
    processor: str
    versions: Versions
    code_sha256: Sha256
    spread: float | None
    collapsed: bool
    strengths: dict[Name, float]
    gallery: Count
    distortion: dict[Name, dict[str, dict[str, float]]]
    intraclass_correlation: float | None
    resampled: NotRequired[ResampledFacts]
    paper_and_matched: NotRequired[dict[Literal["tau", "ci_low", "ci_high"], float | None]]
    matching: NotRequired[MatchingFacts]
    corruption_error: NotRequired[dict[str, float | None]]
    sha256: dict[Name, Sha256]


RUN_FACTS: TypeAdapter[Any] = TypeAdapter(RunFacts)
