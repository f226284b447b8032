"""Every option of the commands, described once: name, type, default, check and a line of help.

The configuration's defaults, the checks, ``--help``, the parameters of `clipshift.measure_shift`
and ``docs/options.md`` are all made from these descriptions. To add an option, add a field.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from clipshift.checks import (
    BOOLEAN,
    TEXT,
    Check,
    is_template,
    list_of,
    number,
    one_of,
    optional,
    share,
    whole,
)
from clipshift.errors import UserError
from clipshift.severities import LADDER, MATCHED, PAPER

Options = TypeVar("Options")
REQUIRED = "???"
"""The default of an option that has none: it must be set. The word is Hydra's."""
SEVERITIES = (PAPER, *map(int, LADDER), MATCHED)
FILE, FOLDER = "file", "folder"
PATH: Check = ("a path", TEXT[1])


def option(default: Any, check: Check, help: str, *, paths: tuple[str, ...] = ()) -> Any:
    """A dataclass field that describes an option.

    Args:
        default: Its value where nothing else is given; ``...`` where the chosen part of a group
            (as ``data=folder``) brings it, or not.
        check: Its range, see `clipshift.checks`.
        help: What it is, in a line.
        paths: Of an option that names one: ``file``, ``folder``, or both.
    """
    metadata = {"check": check, "help": help, "paths": paths}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(help: str, *, of: str = "", example: str = "", options: type | None = None) -> Any:
    """A dataclass field for what is chosen in a group of configurations, as ``model=lite``.

    Args:
        help: What is chosen, in a line.
        of: The group, where that is not the field's name.
        example: How to choose one, of a group of which at least one must be chosen.
        options: The described options of what is chosen.
    """
    metadata = {"group": of, "help": help, "example": example}
    if options:
        return field(default_factory=options, metadata=metadata)
    return field(default=..., metadata=metadata)


def options_of(description: type, within: str = "") -> Iterator[tuple[str, Field]]:
    """All fields of a description by their dotted names, nested ones after their parent's."""
    for one in fields(description):
        yield within + one.name, one
        if is_dataclass(one.type):
            yield from options_of(one.type, f"{within}{one.name}.")  # type: ignore[arg-type]


def default_of(described: Field) -> Any:
    """An option's default; ``...`` where it has none of its own."""
    if described.default_factory is not MISSING:
        return described.default_factory()
    return described.default


def defaults(description: type) -> dict[str, Any]:
    """The defaults of a description as nested dictionaries, without what groups bring."""
    values = {}
    for one in fields(description):
        nested = is_dataclass(one.type)
        value = defaults(one.type) if nested else default_of(one)  # type: ignore[arg-type]
        if value is not ... and (value or not nested):
            values[one.name] = value
    return values


def read_options(description: type[Options], values: Mapping[str, Any]) -> Options:
    """An object of a description from nested dictionaries, whose other keys are ignored.

    Example:
        >>> read_options(EvaluateOptions, {"seed": 3, "save": {"gaze": 8}, "mine": 1}).save.gaze
        8
    """
    given = {}
    for one in fields(description):  # type: ignore[arg-type]
        if one.name in values:
            value = values[one.name]
            nested = is_dataclass(one.type) and isinstance(value, Mapping)
            given[one.name] = read_options(one.type, value) if nested else value  # type: ignore[arg-type]
    return description(**given)


def check_options(description: type, values: Mapping[str, Any], within: str = "") -> None:
    """Check the values that a description has a check for.

    Args:
        description: The description.
        values: Nested dictionaries. What they lack is not checked, nor what is not described.
        within: What the options' names begin with.

    Raises:
        UserError: If one is out of its range, naming the option and the range.
    """
    for one in fields(description):
        name, value = within + one.name, values.get(one.name, values)
        if value is values:
            continue
        if "check" in one.metadata:
            expected, test = one.metadata["check"]
            if not test(value):
                raise UserError(f"{name}={value} is out of range: it must be {expected}")
        elif one.metadata.get("example") and not value:
            raise UserError(
                f"{name} is empty: choose at least one, as in {one.metadata['example']}"
            )
        if is_dataclass(one.type) and isinstance(value, Mapping):
            check_options(one.type, value, f"{name}.")  # type: ignore[arg-type]


def _is_severity(value: Any) -> bool:
    return type(value) in (int, str) and value in SEVERITIES


SEVERITY: Check = (
    "paper, 1 to 5, matched, or a list of them, each once",
    lambda v: (
        bool(v) and all(map(_is_severity, v)) and len(set(v)) == len(v)
        if isinstance(v, list)
        else _is_severity(v)
    ),
)
TRAINED_SEVERITIES: Check = (
    "a list of paper and 1 to 5",
    lambda v: (
        isinstance(v, list) and bool(v) and all(_is_severity(one) and one != MATCHED for one in v)
    ),
)
TEMPLATES: Check = (
    "auto, openai, a file, or a list of texts with {} in the place of the class",
    lambda v: isinstance(v, str) or (isinstance(v, list) and all(map(is_template, v))),
)
TWO_RUNS: Check = (
    "two run folders, [A,B]",
    lambda v: v is None or (isinstance(v, list) and [type(path) for path in v] == [str] * 2),
)
ALPHAS: Check = (
    "numbers from 0 to 1, and 0 first",
    lambda v: isinstance(v, list) and all(map(share()[1], v)) and bool(v) and float(v[0]) == 0,
)
PRECISION = one_of("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16", "auto")


@dataclass
class LoadingOptions:
    """Which photos of a source are measured, and how they become batches of views."""

    skip: int = option(0, optional(whole(0)), "leave out the first N photos")
    limit: int | None = option(None, optional(whole(1)), "of the others, only the first N (all)")
    skip_sample: int = option(
        0, optional(whole(0)), "of these, leave out the N photos that sample=N would choose"
    )
    sample: int | None = option(
        None, optional(whole(1)), "of the rest, only N at random; the same for every seed (all)"
    )
    resize: str = option(
        "squash",
        one_of("squash", "crop", "native"),
        "squash; crop, which keeps the aspect ratio; or native, the model's own preprocessing",
    )
    batch_size: int = option(32, whole(1), "photos in a batch; the numbers do not depend on it")
    num_workers: int | None = option(
        None,
        optional(whole(0)),
        "processes that read photos (0 on a CPU, 4 for a GPU); the numbers do not depend on it",
    )


@dataclass
class MatchingOptions:
    """How augmentations are set to the same distortion, of ``severity=matched``."""

    distortion: str | None = option(
        None,
        optional(one_of("ssim", "rmse", "displacement")),
        "ssim, rmse, or displacement in pixels, for augmentations that move pixels (ssim)",
    )
    target: float | None = option(
        None, optional(number(0)), "the mean distortion of every augmentation (0.7)"
    )
    photos: int | None = option(
        None,
        optional(whole(1)),
        "photos to match on, at most half of all, which are then not measured (100)",
    )
    file: str | None = option(
        None,
        optional(TEXT),
        "a calibration.json to use again, with its target, distortion and photos",
        paths=(FILE,),
    )


@dataclass
class ZeroShotOptions:
    """What zero-shot classification chooses among."""

    classes: str | None = option(
        None,
        optional(TEXT),
        "classes to choose among: imagenet, or a file of names (those of the photos)",
    )


@dataclass
class SaveOptions:
    """What is written beside the tables."""

    embeddings: bool = option(False, BOOLEAN, "write all embeddings (embeddings.safetensors)")
    views: int = option(0, whole(0), "write the views of the first N photos")
    gaze: int = option(0, whole(0), "write the gaze on the first N photos")
    gaze_heads: int = option(0, whole(0), "write the gaze of each head on the first N photos")


@dataclass
class EvaluateOptions:
    """What an evaluation's numbers depend on, beside photos, model and parts."""

    seed: int = option(0, whole(0), "the seed of every random draw")
    precision: str = option(
        "fp32",
        PRECISION,
        "of the encoder: fp32, bf16, fp16, pure_bf16, pure_fp16, or auto: bf16 where the "
        "hardware computes in it, otherwise fp32",
    )
    severity: Any = option(
        "paper", SEVERITY, "paper, 1 to 5, matched, or a list: severity=[paper,matched]"
    )
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    layers: bool = option(
        False, BOOLEAN, "measure the shift of every layer (layers.csv, outliers.csv)"
    )
    inside: bool = option(
        False, BOOLEAN, "analyse the geometry of the shift, and whether it can be reversed"
    )
    attributes: list[str] = option(
        [], list_of(TEXT, "texts"), "of inside=true: how photos can look (conf/attributes.yaml)"
    )
    zero_shot: ZeroShotOptions = field(default_factory=ZeroShotOptions)
    gallery: int = option(
        1000, whole(0), "photos at random among which a view must find its own (recall@1)"
    )
    resample: str = option(
        "auto",
        one_of("auto", "photos", "classes"),
        "what intervals resample: photos, classes, or auto: classes where photos of one class "
        "shift alike",
    )
    save: SaveOptions = field(default_factory=SaveOptions)
    data: LoadingOptions = field(default_factory=LoadingOptions)
