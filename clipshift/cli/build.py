"""From a configuration to the parts that it names."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from clipshift import parts
from clipshift.augment import VIEW_SIZE, Augmentation, KeyedTransform
from clipshift.augment.matching import Calibration
from clipshift.checks import is_template
from clipshift.cli.config import plain
from clipshift.cli.jobs import targets
from clipshift.data import (
    LOADING,
    NATIVE,
    SELECTION,
    Cache,
    Photo,
    Resize,
    candidate_classes,
    is_imagenet,
    native_resize,
    read_lines,
    select,
    view_size,
    without_copies,
)
from clipshift.encode import OPENAI, Encoder, as_encoder, best_precision, load_encoder
from clipshift.errors import UserError, one_line
from clipshift.evaluate import Evaluation
from clipshift.evaluate.calibration import (
    DEFAULTS,
    calibrate,
    calibration_notes,
    left_to_measure,
    load_calibration,
    set_aside,
)
from clipshift.measure import PhotoMeasure
from clipshift.results import CLASSES
from clipshift.severities import MATCHED

AUTO, FULL = "auto", "fp32"
"""The precision that suits the hardware, and the one that loses nothing."""


def instantiate_part(option: str, node: Mapping[str, Any]) -> Any:
    """What a configuration's ``_target_``, which may be anyone's code, makes of its other options.

    Args:
        option: Where it stands among the options.
        node: The configuration.

    Raises:
        UserError: If an option is wrong, with its full name.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__.within(option) from None
        reason = one_line(str(error.__cause__ or error))
        raise UserError(f"{option}: {reason}") from error


def make_encoder(model: DictConfig, precision: str, accelerator: str = "cpu") -> Encoder:
    """The encoder of a ``model`` configuration: an open_clip model, or what its ``_target_`` makes.

    Args:
        model: The configuration.
        precision: The encoder's; ``auto`` is the best of the accelerator, or, of a model of one's
            own, the precision that it is in.
        accelerator: Lightning's name of what the encoder will run on.

    Raises:
        UserError: If the model cannot be had or is none, or is in another precision.
    """
    options = {name: value for name, value in plain(model).items() if name != "name"}
    if precision == AUTO and "_target_" not in options:
        precision = best_precision(accelerator)
    return _encoder_of(json.dumps(options, sort_keys=True), precision)


def make_reference(model: DictConfig, encoder: Encoder) -> Encoder | None:
    """The same model in float32, which says what an encoder's lower precision costs.

    None where the encoder is in float32 itself, or is a model of one's own, made in its precision.
    """
    if encoder.precision == FULL or "_target_" in plain(model):
        return None
    return make_encoder(model, FULL)


def model_origin(model: DictConfig) -> dict[str, Any]:
    """Where a model comes from, for ``run.json``: of one's own, the code that makes it."""
    options = plain(model)
    if "_target_" not in options:
        return options
    own = [name for name in targets(options) if not name.startswith("clipshift.")]
    code = own[0] if own else options["_target_"]
    return {"architecture": code, "pretrained": None, "checkpoint": None} | options


@lru_cache(maxsize=2)  # for all jobs of a process, with a reference
def _encoder_of(described: str, precision: str) -> Encoder:
    options = json.loads(described)
    if "_target_" not in options:
        return load_encoder(
            options["architecture"], options["pretrained"], options["checkpoint"], precision,
            image_tower=options.get("image_tower"),
        )  # fmt: skip
    made = instantiate_part("model", options)
    try:
        encoder = as_encoder(made)
    except UserError as error:
        raise UserError(f"model: {error}") from None
    if precision not in (AUTO, encoder.precision):
        raise UserError(
            f"the model that {options['_target_']} makes is in {encoder.precision}: set "
            f"precision={encoder.precision}, or let it make one in {precision}"
        )
    return encoder


def load_photos(data: DictConfig, option: str = "data") -> tuple[list[Photo], list[str]]:
    """The photos of a ``data`` configuration, and the classes of all photos in its source.

    Args:
        data: The configuration: its ``_target_`` is the source, a function that lists photos.
        option: Where it stands among the options.

    Raises:
        UserError: If there are none.
    """
    options = plain(data)
    choice = {name: options.pop(name, None) for name in SELECTION}
    source = {name: value for name, value in options.items() if name not in LOADING}
    photos: list[Photo] = instantiate_part(option, source)
    try:
        chosen = select(photos, **choice)
    except UserError as error:
        raise error.within(option) from None
    return chosen, classes_of(photos)


def classes_of(photos: Sequence[Photo]) -> list[str]:
    """The labels of photos, each once, in alphabetical order."""
    return sorted({p.label for p in photos if p.label is not None and p.left_out is None})


def resize_of(data: DictConfig, preprocessing: Mapping[str, Any]) -> Resize:
    """How the photos of a ``data`` configuration become views of a model.

    Raises:
        UserError: If the model's own views are wanted, and are not square.
    """
    if data.resize != NATIVE:
        return str(data.resize)
    try:
        return native_resize(preprocessing)
    except UserError as error:
        raise error.within("data") from None


def templates_for(prompts: DictConfig, classes: Sequence[str]) -> list[str] | str:
    """The prompts of a ``prompts`` configuration for some classes, see `make_zero_shot`.

    Raises:
        UserError: If they are to be read from a file that holds none.
    """
    chosen = prompts.templates
    if chosen == "auto":
        ours = classes and all(map(is_imagenet, classes))
        chosen = OPENAI if ours else prompts.elsewhere.templates
    if isinstance(chosen, str) and chosen != OPENAI:
        try:
            chosen = [line.replace("{c}", "{}") for line in read_lines(chosen, "templates")]
            if wrong := [line for line in chosen if not is_template(line)]:
                raise UserError(f"{wrong[0]} has no {{}} or {{c}} for the class", "templates")
        except UserError as error:
            raise error.within("prompts") from None
    return chosen if chosen == OPENAI else list(chosen)


def load_classes(cfg: DictConfig) -> list[str]:
    """The classes that ``zero_shot.classes`` names.

    Raises:
        UserError: If they cannot be read.
    """
    try:
        return candidate_classes(cfg.zero_shot.classes)
    except UserError as error:
        raise error.within("zero_shot") from None


def make_augmentations(
    aug: Mapping[str, Any], option: str = "aug"
) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations of an ``aug`` configuration, and their strengths at severity 1 to 5.

    Args:
        aug: The configuration, by name.
        option: Where it stands among the options.

    Returns:
        Both by name; strengths of those that have a ladder.

    Raises:
        UserError: If a parameter is out of its range, or a part is no augmentation.
    """
    return parts.make_augmentations(aug, option, instantiate_part)


def make_measures(metric: Mapping[str, Any]) -> dict[str, PhotoMeasure]:
    """The measures of a ``metric`` configuration, by name.

    Raises:
        UserError: If a part is no measure.
    """
    return parts.make_measures(metric, instantiate_part)


def make_cache(cfg: DictConfig) -> tuple[Cache | None, list[str]]:
    """The cache, or None where it is off; and why it is, if that was not asked for."""
    try:
        return instantiate(cfg.cache) if cfg.cache else None, []
    except InstantiationException as error:
        return None, [f"The cache is off: {error.__cause__} (cache.folder={cfg.cache.folder})."]


def calibration_for(
    cfg: DictConfig,
    photos: Sequence[Photo],
    augmentations: Mapping[str, Augmentation],
    resize: Resize,
) -> Calibration:
    """The calibration that a run asks for: a stored one, or one on photos that are set aside.

    Args:
        cfg: The run's configuration.
        photos: The run's photos.
        augmentations: Augmentations by name.
        resize: How photos become views.

    Raises:
        UserError: If a stored one cannot be used or was made with other options ``matching`` than
            those set, an augmentation has no strength, or there are too few photos.
    """
    for name, augmentation in augmentations.items():
        if isinstance(augmentation, KeyedTransform):
            raise UserError(
                f"aug.{name} is a transform, which has no strength to match: leave it out, or "
                "choose severity=paper"
            )
    parameters = {
        name: {key: value for key, value in node.items() if key != "ladder"}
        for name, node in plain(cfg.aug).items()
    }
    asked = {name: value for name in DEFAULTS if (value := cfg.matching[name]) is not None}
    if cfg.matching.file:
        return load_calibration(Path(cfg.matching.file), parameters, resize, asked)
    matching: dict[str, Any] = DEFAULTS | asked
    chosen = set_aside(photos, matching["photos"], cfg.seed)
    if not chosen:
        raise UserError("severity=matched sets photos aside to calibrate on: give at least 2")
    return calibrate(
        chosen,
        augmentations,
        matching["distortion"],
        matching["target"],
        cfg.seed,
        resize,
        parameters,
    )


def make_evaluation(
    cfg: DictConfig,
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
    photos: list[Photo],
    classes: list[str],
    encoder: Encoder,
    reference: Encoder | None = None,
) -> Evaluation:
    """The evaluation that a configuration describes, of parts that are made already.

    Raises:
        UserError: If matched severities are asked for, and the photos are too few for them or the
            stored calibration cannot be used.
    """
    severities = [str(severity) for severity in as_list(cfg.severity)]
    calibration, notes = None, []
    every, photos = len(measurable(photos)), without_copies(photos)
    if copies := every - len(measurable(photos)):
        notes.append(
            f"Photos that are the same file as another: {copies} of {every}. They are not "
            "measured, and skipped.csv lists them."
        )
    if cfg.resample == CLASSES:
        check_classes(photos)
    resize = resize_of(cfg.data, encoder.preprocessing)
    measures = make_measures(plain(cfg.metric))
    if view_size(resize) != VIEW_SIZE:
        check_size(measures, view_size(resize))
    if MATCHED in severities:
        calibration = calibration_for(cfg, photos, augmentations, resize)
        given, photos = len(photos), left_to_measure(photos, calibration)
        notes += calibration_notes(calibration, given - len(photos))
    transforms = [name for name, a in augmentations.items() if isinstance(a, KeyedTransform)]
    if transforms and any(m.facts.space == "aligned gaze" for m in measures.values()):
        notes.append(
            "Whether a transform moves pixels is not known: the aligned measures of gaze have no "
            f"value for {', '.join(transforms)}."
        )
    if encoder.precision != FULL and reference is None:
        notes.append(f"The model came in {encoder.precision}: what that costs is not known.")
    return Evaluation(
        photos=photos,
        classes=classes,
        encoder=encoder,
        augmentations=augmentations,
        ladders=ladders,
        severities=severities,
        measures=measures,
        templates=templates_for(cfg.prompts, classes),
        seed=cfg.seed,
        resize=resize,
        calibration=calibration,
        reference=reference,
        layers=cfg.layers,
        inside=cfg.inside,
        attributes=cfg.attributes,
        gallery=cfg.gallery,
        resample=cfg.resample,
        save_embeddings=cfg.save.embeddings,
        save_views=cfg.save.views,
        save_gaze=cfg.save.gaze,
        save_gaze_heads=cfg.save.gaze_heads,
        notes=notes,
    )


def measurable(photos: Sequence[Photo]) -> list[Photo]:
    """The photos of a list that are not left out."""
    return [photo for photo in photos if photo.left_out is None]


def check_classes(photos: Sequence[Photo]) -> None:
    """Make sure that classes can be resampled.

    Raises:
        UserError: If there are fewer than two, or none has two photos.
    """
    sizes = Counter(photo.label for photo in measurable(photos) if photo.label is not None)
    if len(sizes) < 2 or max(sizes.values()) < 2:
        raise UserError(
            f"resample=classes requires two classes or more, of which one has two photos: there "
            f"are {len(sizes)}; use resample=photos"
        )


def check_size(measures: Mapping[str, PhotoMeasure], size: int) -> None:
    """Make sure that measures of pixels can be taken of views of a size.

    Raises:
        UserError: If one cannot, as where the view cannot be cut into its cells.
    """
    view = torch.zeros(1, 3, size, size)
    for name, measure in measures.items():
        if measure.facts.space == "pixels":
            try:
                measure.measure(view, view)
            except ValueError as error:
                raise UserError(
                    f"metric.{name}: {error}; leave it out with ~metric.{name}, or choose "
                    "data.resize=squash"
                ) from None


def as_list(value: Any) -> list[Any]:
    """A configured list as it is, and a single value as a list of one."""
    return list(value) if OmegaConf.is_list(value) else [value]
