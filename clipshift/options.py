"""Every option of the commands, once: its name, type, default, range and a line of help.

An option is a field of a dataclass, and the line below it is its help. The configuration's
defaults, the checks, ``--help``, the parameters of `clipshift.measure_shift` and
``docs/options.md`` are made from these fields: to add an option, add a field.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from typing_extensions import dataclass_transform

from clipshift import checks
from clipshift.checks import TEXT, Check, list_of, number, one_of, share, whole
from clipshift.errors import UserError
from clipshift.severities import LADDER, MATCHED, PAPER

Options = TypeVar("Options")
REQUIRED = "???"
"""The default of an option that must be set. The word is Hydra's."""
FROM_CHOICE: Any = ...
"""The default of an option that only a choice of a group sets, as ``data=folder`` sets its root."""


@dataclass_transform(field_specifiers=(field,))
class Description:
    """A description of options: every class of this one is a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    def __init_subclass__(cls) -> None:
        dataclass(cls)


def option(
    default: Any, check: Check | None = None, *, paths: tuple[str, ...] = (), missing: str = ""
) -> Any:
    """A field whose type does not say all about the option.

    Args:
        default: Its value unless another is given.
        check: Its range; by default any value of its type.
        paths: Of an option that names one: ``file``, ``folder``, both, ``finished run in``, or
            ``finished run in or below``.
        missing: What to do where it is `REQUIRED` and not set.
    """
    metadata = {"check": check, "paths": paths, "missing": missing}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(options: type | None = None, *, of: str = "", example: str = "") -> Any:
    """A field for what is chosen in a group of ``conf/``, as by ``model=lite``.

    Args:
        options: A description of the chosen part's options.
        of: The group, where that is not the field's name.
        example: How to choose one, of a group of which at least one must be chosen.
    """
    metadata = {"group": of, "example": example}
    return field(default_factory=options or (lambda: FROM_CHOICE), metadata=metadata)


def type_of(one: Field) -> tuple[Any, bool]:
    """An option's type, and whether the option may be null."""
    kinds = get_args(one.type) if isinstance(one.type, UnionType) else (one.type,)
    return kinds[0], len(kinds) > 1


def nested(one: Field) -> Any:
    """The description of a field that holds options of its own, as ``save``; else None."""
    kind = type_of(one)[0]
    return kind if is_dataclass(kind) else None


def options_of(description: type, within: str = "") -> Iterator[tuple[str, Field]]:
    """All fields of a description by their dotted names, nested ones after their parent."""
    for one in fields(description):
        yield within + one.name, one
        if nested(one):
            yield from options_of(nested(one), f"{within}{one.name}.")


def help_of(description: type) -> dict[str, str]:
    """The lines of help that stand below the fields of a description, by the fields' names."""
    lines = {}
    for ancestor in reversed(description.__mro__[:-1]):
        for one, below in pairwise(_class_bodies(ancestor.__module__)[ancestor.__name__]):
            if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr):
                text: Any = ast.literal_eval(below.value)
                lines[ast.unparse(one.target)] = " ".join(text.split())
    return lines


@cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    source = ast.parse(inspect.getsource(sys.modules[module]))  # once, not for every class
    return {one.name: one.body for one in source.body if isinstance(one, ast.ClassDef)}


def described_options(
    description: type, within: str = "", listed: dict[type, str] | None = None
) -> Iterator[tuple[str, Field, str]]:
    """Name, field and help of each option of a description. What stands twice is listed once."""
    lines, listed = help_of(description), {} if listed is None else listed
    for one in fields(description):
        name, options = within + one.name, nested(one)
        if same := [listed[other] for other in listed if options and issubclass(other, options)]:
            yield f"{name}.OPTION", one, f"As {same[0]}.OPTION"
        elif options:
            listed[options] = name
            yield from described_options(options, f"{name}.", listed)
        elif "group" not in one.metadata:
            yield name, one, lines[one.name].rstrip(".")


def default_of(one: Field) -> Any:
    """An option's default, see `REQUIRED` and `FROM_CHOICE`."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def check_of(one: Field) -> Check | None:
    """An option's range; None of a group, or a field that holds options of its own."""
    kind, nullable = type_of(one)
    by_type: dict[Any, Check] = {bool: checks.BOOLEAN, str: TEXT, list[str]: list_of(TEXT, "texts")}
    check = one.metadata.get("check") or by_type.get(kind)
    return checks.optional(check) if check and nullable else check


def values_of(one: Field) -> list[str]:
    """The values that an option's range names, as ``severity=paper``; none of numbers and texts."""
    words, test = check_of(one) or ("", lambda value: True)
    if any(map(test, ("?", 7, 0.5))):
        return []
    named = dict.fromkeys([*re.findall(r"\w+", words), *LADDER])
    return [word for word in named if test(yaml.safe_load(word))]


def defaults(description: type) -> dict[str, Any]:
    """The defaults of a description as nested dictionaries, without what only choices set."""

    def without_choices(values: dict[str, Any]) -> dict[str, Any]:
        values = {
            name: without_choices(v) if isinstance(v, dict) else v for name, v in values.items()
        }
        return {name: v for name, v in values.items() if v is not FROM_CHOICE and v != {}}

    return without_choices(asdict(description()))


def read_options(description: type[Options], values: Mapping[str, Any]) -> Options:
    """An object of a description from nested dictionaries, whose other keys are ignored.

    Example:
        >>> read_options(EvaluateOptions, {"seed": 3, "save": {"gaze": 8}, "mine": 1}).save.gaze
        8
    """
    given = {one: values[one.name] for one in fields(description) if one.name in values}  # type: ignore[arg-type]
    return description(
        **{
            one.name: read_options(nested(one), value) if nested(one) and value else value
            for one, value in given.items()
        }
    )


def check_options(description: type, values: Mapping[str, Any], within: str = "") -> None:
    """Check values against their description.

    Args:
        description: The description.
        values: Nested dictionaries. What is not described is not checked, nor what is not there,
            except for groups of which one part at least must be chosen.
        within: What the options' names begin with.

    Raises:
        UserError: If one is out of its range, naming the option and the range.
    """
    for one in fields(description):
        name, check, example = within + one.name, check_of(one), one.metadata.get("example")
        value: Any = values.get(one.name)
        if example and not value:
            raise UserError(f"{name} is empty: choose at least one, as in {example}")
        if one.name not in values:
            continue
        if check and not check[1](value):
            raise UserError(f"{name}={value} is out of range: it must be {check[0]}")
        if nested(one) and isinstance(value, Mapping):
            check_options(nested(one), value, f"{name}.")
            for key, source in value.items() if nested(one) is TrainingSource else ():
                if is_source(source):
                    check_options(TrainingSource, source, f"{name}.{key}.")
        elif nested(one) and value != default_of(one):
            raise UserError(f"{name}={value} is out of range: set its options, {name}.NAME=VALUE")
        elif example and not all(isinstance(part, Mapping) for part in value.values()):
            raise UserError(f"{name} contains an invalid entry: choose by name, as in {example}")


def is_source(value: Any) -> bool:
    """Whether an option of ``data.train`` is a source, one of several."""
    return isinstance(value, Mapping) and "_target_" in value


def _are_severities(values: Any) -> bool:
    choices = (PAPER, *map(int, LADDER), MATCHED)
    return isinstance(values, list) and all(type(v) in (int, str) and v in choices for v in values)


def _is_severity(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return _are_severities(listed) and 0 < len(listed) == len(set(listed))


SEVERITY = ("paper, 1 to 5, matched, or a list of them, each once", _is_severity)
TRAINED_SEVERITIES: Check = (
    "a list of paper and 1 to 5",
    lambda v: _are_severities(v) and bool(v) and MATCHED not in v,
)
TEMPLATES: Check = (
    "auto, openai, a file, or a list of texts with {} in the place of the class",
    lambda v: isinstance(v, str) or (isinstance(v, list) and all(map(checks.is_template, v))),
)
TWO_RUNS = ("two run folders, [A,B]", lambda v: list_of(TEXT, "")[1](v) and len(v) == 2)
_are_shares = list_of(share(), "")[1]
ALPHAS: Check = ("numbers from 0 to 1, and 0 first", lambda v: _are_shares(v) and v[:1] == [0])
PRECISION = one_of("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16", "auto")


class ViewOptions(Description):
    """Which photos of a source are used, and how they become views."""

    skip: int | None = option(0, whole(0))
    """Leave out the first N photos, by name."""
    limit: int | None = option(None, whole(1))
    """Of the others, only the first N, which may all be of the first classes (all)."""
    skip_sample: int | None = option(0, whole(0))
    """Of these, leave out the N photos that sample=N would choose: data.sample=250, and
    data.skip_sample=250 data.sample=500, are random parts of one folder without a common photo."""
    sample: int | None = option(None, whole(1))
    """Of the rest, only N photos at random, the same ones for every seed (all)."""
    resize: str = option("squash", one_of("squash", "crop", "native"))
    """How photos become square: squash; crop, which keeps the aspect ratio; or native, the model's
    own preprocessing."""


class LoadingOptions(ViewOptions):
    """How photos are loaded as well."""

    batch_size: int = option(32, whole(1))
    """Photos in a batch; the numbers do not depend on it."""
    num_workers: int | None = option(None, whole(0))
    """Processes that read photos; the numbers do not depend on it (0 on a CPU, 4 for a GPU)."""


class SourceOptions(ViewOptions):
    """The options of ``data``. Which of the following there are depends on the source."""

    root: str | None = option(FROM_CHOICE, paths=("folder", "file"))
    """Of data=folder: a folder, a photo, or a text file that lists photos; of data=shards: a
    folder, or an address; of data=captions: the images; of data=imagenet_c: the corruptions."""
    classnames: str | None = option(FROM_CHOICE, paths=("file",))
    """Of data=folder: a file of the classes' names, if they are not known by WordNet ids."""
    csv_file: str = option(FROM_CHOICE, paths=("file",))
    """Of data=captions: the CSV file."""
    dataset: str = FROM_CHOICE
    """Of data=huggingface: a folder, or a name on the hub."""
    rows: int | None = option(FROM_CHOICE, whole(1))
    """Of data=huggingface: stream the first N rows, and download nothing else (all)."""
    clean: str = option(FROM_CHOICE, paths=("folder",))
    """Of data=imagenet_c: the clean photographs."""
    pattern: str | None = FROM_CHOICE
    """Of data=shards: which shards."""
    stream: bool = FROM_CHOICE
    """Of data=shards: read each photo from its address when it is measured."""


class DataOptions(SourceOptions, LoadingOptions):
    """The options of ``data`` in an evaluation."""


class MatchingOptions(Description):
    """Of ``severity=matched``: the distortion that all augmentations are set to."""

    distortion: str | None = None
    """The measure of distortion: any measure of pixels by its name in metric, as ssim, rmse, gmsd
    or one of your own; or displacement in pixels, for augmentations that move pixels (ssim)."""
    target: float | None = option(None, number(0))
    """The mean distortion of every augmentation (0.7 of ssim and displacement; of another measure,
    its median over the augmentations at an SSIM of 0.7)."""
    photos: int | None = option(None, whole(1))
    """Photos to match on, at most half of all, which are then not measured (100)."""
    file: str | None = option(None, paths=("file",))
    """A calibration.json to use again, with its target, distortion and photos."""


class AttackOptions(Description):
    """What a bounded adversary who knows the model does to views."""

    epsilon: list[float] = option([], list_of(number(0, 255), "numbers > 0 and ≤ 255"))
    """The largest changes of a pixel, in 1/255, as [1,4]; empty: no attack (attack.csv)."""
    steps: int = option(10, whole(1))
    """Steps along the gradient."""
    restarts: int = option(1, whole(1))
    """Starts at random, of which the best counts."""
    photos: int = option(100, whole(1))
    """Photos at random that are attacked."""


class ZeroShotOptions(Description):
    """Zero-shot classification."""

    classes: str | None = None
    """The classes to choose among: imagenet, or a file of names (those of the photos)."""


class SaveOptions(Description):
    """What is written beside the tables."""

    embeddings: bool = False
    """Write all embeddings (embeddings.safetensors)."""
    views: int = option(0, whole(0))
    """Write the views of the first N photos."""
    gaze: int = option(0, whole(0))
    """Write the gaze on the views of the first N photos."""
    gaze_heads: int = option(0, whole(0))
    """Write the gaze of each attention head on the views of the first N photos."""


class PatchingOptions(Description):
    """Of dissect=true: components of one view are put into the pass of another."""

    photos: int = option(8, whole(0))
    """Photos at random in which components are patched; each of their views takes 2 more passes of
    32 views for every 32 components, and one for the clean view."""
    layers: int = option(2, whole(0))
    """The number of last layers that are patched head by head."""


class FaithfulnessOptions(Description):
    """Of dissect=true: whether the gaze names what the embedding depends on."""

    photos: int = option(8, whole(0))
    """Photos at random in whose views patches are removed in the order of the gaze; each of their
    views, clean ones too, takes about 160 more."""


class SeedOptions(Description):
    """What all commands have."""

    seed: int = option(0, whole(0))
    """The seed of every random draw."""


class EncoderOptions(SeedOptions):
    """What all commands have that encode photos."""

    precision: str = option("fp32", PRECISION)
    """The encoder's precision: fp32, bf16, fp16, pure_bf16, pure_fp16, or auto: bf16 where the
    hardware computes in it, otherwise fp32."""


class EvaluateOptions(EncoderOptions):
    """What the numbers of an evaluation depend on, beside its photos and parts."""

    severity: Any = option("paper", SEVERITY)
    """How strong augmentations are: paper, 1 to 5, matched, or a list: severity=[paper,matched]."""
    draws: int = option(1, whole(1))
    """Draws of every augmentation for each photo (shift.parquet has a row for each, draws.csv)."""
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)
    zero_shot: ZeroShotOptions = field(default_factory=ZeroShotOptions)
    layers: bool = False
    """Measure the shift of every layer (layers.csv, outliers.csv)."""
    inside: bool = False
    """Analyse the geometry of the shift."""
    dissect: bool = False
    """Dissect the shift: which heads and MLPs carry it (components.csv) and cause it
    (patching.csv), where (locations.csv), in words (head_texts.csv), what of it can change a
    decision (geometry.csv, margins.csv), what stays encoded (encoded.csv), and whether the gaze is
    faithful (faithfulness.csv)."""
    patching: PatchingOptions = field(default_factory=PatchingOptions)
    faithfulness: FaithfulnessOptions = field(default_factory=FaithfulnessOptions)
    vocabulary: str | None = option(None, paths=("file",))
    """Of dissect=true: a file with a text per line, from which heads are named, together with
    attributes (default: conf/vocabulary.txt)."""
    attributes: list[str] = option([])
    """Of inside=true: texts that say how a photo can look (conf/attributes.yaml)."""
    gallery: int = option(1000, whole(0))
    """Photos at random, among which a view must find its own."""
    resample: str = option("auto", one_of("auto", "photos", "classes"))
    """What intervals resample: photos, classes, or auto: classes where photos of one class shift
    alike."""
    save: SaveOptions = field(default_factory=SaveOptions)
    data: LoadingOptions = field(default_factory=LoadingOptions)


class PreprocessingOptions(Description):
    """Of model=onnx: what happens to photos before the model, which the file does not say."""

    size: int | None = option(FROM_CHOICE, whole(1))
    """The side of its input, in pixels."""
    mean: list[float] | None = option(FROM_CHOICE, list_of(share(), "numbers from 0 to 1"))
    """What is subtracted from pixels in [0, 1], for red, green and blue."""
    std: list[float] | None = option(FROM_CHOICE, list_of(number(0), "numbers > 0"))
    """What they are then divided by."""
    interpolation: str | None = option(FROM_CHOICE, one_of("bilinear", "bicubic"))
    """How photos are resized with data.resize=native."""
    resize_mode: str | None = option(FROM_CHOICE, one_of("shortest", "longest", "squash"))
    """Which side of photos becomes size then: the shortest, of which the centre is cropped, the
    longest, which gets borders, or both."""


class ModelOptions(Description):
    """The options of ``model``."""

    name: str = FROM_CHOICE
    """What tables and figures call the model."""
    kind: str = FROM_CHOICE
    """The library that the model is of."""
    architecture: str | None = FROM_CHOICE
    """Any of open_clip's, or local-dir:FOLDER, or hf-hub:ORGANISATION/NAME; of model=timm or
    torchvision, any of theirs."""
    pretrained: str | None = FROM_CHOICE
    """A tag of open_clip's for that architecture, or the name of timm's or torchvision's weights;
    null for random weights."""
    checkpoint: str | None = option(FROM_CHOICE, paths=("file", "folder"))
    """A .safetensors, .pt or .onnx file, or a folder in the hub's format."""
    repo: str = FROM_CHOICE
    """Of model=transformers: a name on the hub, or a folder."""
    pooling: str | None = FROM_CHOICE
    """What the embedding is: class_token, mean_of_patches and others, as the model allows."""
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    """What happens to photos before the model."""


class PromptOptions(Description):
    """The options of ``prompts``."""

    templates: Any = option(FROM_CHOICE, TEMPLATES)
    """Texts with {} in the place of the class, or a file of them."""


class LoggerOptions(Description):
    """The options of ``logger``."""

    tags: list[str] = option(FROM_CHOICE, list_of(TEXT, "words"))
    """Of logger=wandb: the run's tags."""


class CacheOptions(Description):
    """The options of ``cache``."""

    gigabytes: float = option(FROM_CHOICE, number(0))
    """Of cache=disk: its largest size."""


class CheckOptions(Description):
    """The options of ``experiment=check``."""

    tolerance: float = option(FROM_CHOICE, number(0))
    """The largest difference to a published value, in percentage points."""
    download: bool = FROM_CHOICE
    """Download weights that are not here."""
    shards: str | None = FROM_CHOICE
    """CLIP_benchmark's shards, with {} for the name of a data set: FOLDER/wds_{}."""


class ParityOptions(Description):
    """The options of ``clipshift parity A B``."""

    a: str = FROM_CHOICE
    """A model: a choice, a folder, or KIND:NAME, with options of its own: tiny,precision=bf16."""
    b: str = FROM_CHOICE
    """The other model."""
    tolerance: float = option(FROM_CHOICE, number(0))
    """The largest 1 − cosine of a photo's two embeddings; clipshift parity takes tolerance=N."""


class EvaluateCommand(EvaluateOptions):
    """All options of ``clipshift evaluate``."""

    data: DataOptions = group(DataOptions)
    """The photos."""
    model: ModelOptions = group(ModelOptions)
    """The model."""
    aug: Any = group(example="aug=noise")
    """The augmentations."""
    metric: Any = group(example="metric=cosine_similarity")
    """The measures."""
    prompts: PromptOptions = group(PromptOptions, example="prompts=auto")
    """The texts of zero-shot classification."""
    trainer: Any = group()
    """The devices, and other options of Lightning's Trainer."""
    logger: LoggerOptions = group(LoggerOptions)
    """Where the run is tracked."""
    cache: CacheOptions = group(CacheOptions)
    """What is kept between jobs."""
    compare: list[str] | None = option(None, TWO_RUNS, paths=("finished run in",))
    """Compare two finished runs photo by photo, and measure nothing."""
    leaderboard: list[str] | None = option(None, paths=("finished run in or below",))
    """Rank the models of finished runs, or of the runs in folders, and measure nothing."""
    check: CheckOptions | None = None
    parity: ParityOptions | None = None
    report: str | None = option(None, paths=("finished run in",))
    """Draw the figures and the page of a finished run again, and measure nothing."""
    budget: str | None = option(None, paths=("file",))
    """A file of limits (budget.yaml) that this run, or the second of compare, must keep: exit code
    4 if one is broken, 5 if one is undecided. With report: judge that run, and draw nothing."""
    fetch: bool = False
    """With compare and report: read photos again from the address that a run names; only for runs
    that you trust."""
    rerun: bool = False
    """Measure again what an interrupted run or another job has measured."""
    sweeps: str = "multirun"
    """The folder of all sweeps."""
    dashboard: bool = False
    """Publish a sweep as a W&B report, which needs clipshift[dashboard] and a login."""


class TrainerOptions(Description):
    """The options of ``trainer``."""

    max_epochs: int = option(FROM_CHOICE, whole(1))
    """Epochs of the training."""


class TrainOptions(SeedOptions):
    """What all trainings have."""

    stage: str = option(
        REQUIRED, missing="nothing to train: add experiment=robustify_demo, or another one"
    )
    """A function (cfg, folder), by its dotted name."""
    prompts: PromptOptions = group(PromptOptions)
    """The texts of zero-shot classification."""
    trainer: TrainerOptions = group(TrainerOptions)
    """The devices, and other options of Lightning's Trainer."""
    logger: LoggerOptions = group(LoggerOptions)
    """Where the training is tracked."""


class LossOptions(Description):
    """The options of ``objective.loss``."""

    distance: str = option(FROM_CHOICE, one_of("l2", "cosine"))
    """Between view and clean view: l2 (squared, unnormalised) or cosine."""
    weight: float = option(FROM_CHOICE, share(0, checks.INFINITY))
    """The weight of the cross-entropy."""


class ObjectiveOptions(Description):
    """The options of ``objective``."""

    loss: LossOptions = field(default_factory=LossOptions)
    anchor_weight: float = option(FROM_CHOICE, share(0, checks.INFINITY))
    """The weight of the loss that holds the clean view's embedding."""


class TuneOptions(Description):
    """The options of ``tune``."""

    blocks: int = option(FROM_CHOICE, whole(1))
    """Of tune=first_blocks and last_blocks: how many blocks are trained."""
    rank: int = option(FROM_CHOICE, whole(1))
    """Of tune=lora: the rank of the changes."""
    alpha: float = option(FROM_CHOICE, number(0))
    """Of tune=lora: the scale of the changes, times the rank."""


class OptimizationOptions(Description):
    """The optimizer."""

    lr: float = option(5.0e-4, number(0))
    """The peak learning rate."""
    weight_decay: float = option(0.0, share())
    """The weight decay."""


class TrainingSource(SourceOptions):
    """Photos to train on."""

    weight: float | None = option(None, number(0))
    """Of several sources, data@data.train.NAME=, the share of each in an epoch (all alike)."""
    vary: Any = group(of="aug")
    """Augmentations that make more photos of each, at random strengths up to the paper's."""


class TrainingData(Description):
    """The photos of a training."""

    train: TrainingSource = group(TrainingSource, of="data")
    """The photos to train on."""
    val: SourceOptions = group(SourceOptions, of="data")
    """Photos that choose between weights; the models are compared on the rest."""
    photos: int | None = option(None, whole(1))
    """Photos in an epoch (as many as there are)."""
    batch_size: int = option(128, whole(1))
    """Photos in a step, over all devices."""
    num_workers: int | None = option(8, whole(0))
    """Processes that read photos."""


class FinetuneOptions(TrainOptions):
    """All options of ``clipshift train`` that fine-tune: the robustify experiments."""

    model: ModelOptions = group(ModelOptions)
    """The model to fine-tune."""
    objective: ObjectiveOptions = group(ObjectiveOptions)
    """The loss."""
    tune: TuneOptions = group(TuneOptions)
    """Which weights are trained."""
    train_aug: Any = group(of="aug", example="aug@train_aug=[noise,blur]")
    """The augmentations to train on."""
    data: TrainingData = field(default_factory=TrainingData)
    severities: list[Any] = option(["paper", 1, 2, 3, 4, 5], TRAINED_SEVERITIES)
    """Severities, of which one is drawn for every view: paper and 1 to 5."""
    views: int = option(1, whole(1))
    """Augmented views of a photo in a step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, block by block: less memory, more time."""
    optimization: OptimizationOptions = field(default_factory=OptimizationOptions)
    ema: float | None = option(0.99, share())
    """The decay of a moving average of the weights, which is what is kept; null: none."""
    patience: int | None = option(None, whole(1))
    """Epochs without a smaller shift of the validation photos, after which to stop (never)."""
    alphas: list[float] = option([0.0, 0.25, 0.5, 0.75, 1.0], ALPHAS)
    """Points of the interpolation with the base."""
    tolerance: float = option(0.01, share())
    """How much clean zero-shot top-1 accuracy may be lost."""
    control: bool = False
    """Train on clean views alone as well, and compare all three models."""
    evaluation: list[str] | None = option(FROM_CHOICE, list_of(TEXT, "options"))
    """What `clipshift evaluate` is given for the comparison; null: no comparison."""


class MakingData(Description):
    """The photos that ``tiny`` learns from."""

    limit: int | None = option(FROM_CHOICE, whole(1))
    """Only the first N photos (all)."""
    batch_size: int = option(FROM_CHOICE, whole(1))
    """Photos in a step."""


class MakingOptimization(Description):
    """The optimizer of a built-in model."""

    lr: float = option(FROM_CHOICE, number(0))
    """The peak learning rate."""
    weight_decay: float = option(FROM_CHOICE, share())
    """The weight decay."""
    steps: int = option(FROM_CHOICE, whole(1))
    """Of make_lite: steps."""


class MakingOptions(TrainOptions):
    """Options of ``clipshift train`` that make a built-in model: make_lite and pretrain_tiny."""

    data: MakingData = field(default_factory=MakingData)
    optimization: MakingOptimization = field(default_factory=MakingOptimization)
    ema: float | None = option(FROM_CHOICE, share())
    """Of pretrain_tiny: the decay of a moving average of the weights."""
    clip_weight: float = option(FROM_CHOICE, share())
    """Of make_lite: the weight of the CLIP's classifier against the network's."""
    ridge: float = option(FROM_CHOICE, number(0))
    """Of make_lite: the ridge of the projection."""
    logit_scale: float = option(FROM_CHOICE, number(0))
    """Of make_lite: the model's logit scale."""


class DemoClasses(Description):
    """Zero-shot classification in the demo."""

    classes: str = "imagenet"
    """The classes to choose among: imagenet, or a file of names."""


class DemoOptions(EncoderOptions):
    """All options of ``clipshift demo``."""

    model: ModelOptions = group(ModelOptions)
    """The model."""
    aug: Any = group(example="aug=noise")
    """The augmentations."""
    prompts: PromptOptions = group(PromptOptions)
    """The texts of zero-shot classification."""
    beside: str | None = None
    """A second model: a choice of model, or a folder in the hub's format."""
    zero_shot: DemoClasses = field(default_factory=DemoClasses)
    port: int = option(7860, whole(1, 65535))
    """The port of localhost."""
