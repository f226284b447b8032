"""Make the parts that a configuration names by Hydra; they may be a user's own code."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from clipshift import parts
from clipshift.cli.config import plain
from clipshift.data.cache import Cache
from clipshift.data.classes import candidate_classes
from clipshift.data.photos import Photo
from clipshift.data.selection import LOADING, SELECTION, select
from clipshift.encode.encoder import Encoder
from clipshift.encode.modules import as_encoder
from clipshift.errors import UserError, one_line
from clipshift.evaluate.evaluation import Evaluation
from clipshift.options import EvaluateOptions, read_options
from clipshift.pipeline import AUTO, classes_of, load_model, load_reference, templates_for
from clipshift.progress import Progress


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
        if place := re.search(r"full_key: (\w+?)(\d+)$", str(error)):  # of a part in a list
            option = f"{option}.{place[1]}.{place[2]}"
        if isinstance(error.__cause__, UserError):
            raise error.__cause__.within(option) from None
        reason = one_line(str(error.__cause__ or error))
        raise UserError(f"{option}: {reason}") from error


make_augmentations = partial(parts.make_augmentations, build=instantiate_part)
"""`clipshift.parts.make_augmentations` of anyone's code."""


def make_evaluation(cfg: DictConfig) -> Evaluation:
    """The evaluation that a configuration describes, for `clipshift.pipeline.prepare`.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml``.

    Raises:
        UserError: If a part cannot be made.
    """
    config = plain(cfg)
    options = read_options(EvaluateOptions, config)
    augmentations = make_augmentations(config["aug"])
    measures = parts.make_measures(config["metric"], instantiate_part)
    with Progress("Listing photos"):
        photos, classes = load_photos(cfg.data)
    if cfg.zero_shot.classes:
        classes = load_classes(cfg)
    templates = templates_for(config["prompts"], classes)
    encoder = make_encoder(config["model"], cfg.precision, cfg.trainer.accelerator)
    reference = load_reference(config["model"], encoder)
    return Evaluation(
        options, photos, classes, encoder, *augmentations, measures, templates, config, reference
    )


def make_encoder(model: Mapping[str, Any], precision: str, accelerator: str = "cpu") -> Encoder:
    """The encoder of a ``model`` configuration: an open_clip model, or what its ``_target_`` makes.

    Args:
        model: The configuration.
        precision: The encoder's; ``auto`` is the best of the accelerator, or, of a user's own
            model, the precision that it is in.
        accelerator: Lightning's name of what the encoder will run on.

    Raises:
        UserError: If the model cannot be loaded, is not one, or is in another precision.
    """
    if "_target_" not in model:
        return load_model(model, precision, accelerator)
    encoder = _instantiate_encoder(json.dumps({n: v for n, v in model.items() if n != "name"}))
    if precision not in (AUTO, encoder.precision):
        raise UserError(
            f"the model that {model['_target_']} makes is in {encoder.precision}: set "
            f"precision={encoder.precision}, or let it make one in {precision}"
        )
    return encoder


@lru_cache(maxsize=2)  # for all jobs of a process
def _instantiate_encoder(described: str) -> Encoder:
    model = instantiate_part("model", json.loads(described))
    try:
        return as_encoder(model)
    except UserError as error:
        raise UserError(f"model: {error}") from None


def load_photos(data: DictConfig, option: str = "data") -> tuple[list[Photo], list[str]]:
    """The photos of a ``data`` configuration, and the classes of all photos in its source.

    Args:
        data: The configuration: its ``_target_`` is the source, a function that lists photos.
        option: Where it stands among the options.

    Raises:
        UserError: If there are none.
    """
    source = plain(data)
    selection = {name: source.pop(name, None) for name in SELECTION}
    source = {name: value for name, value in source.items() if name not in LOADING}
    photos: Sequence[Photo] = instantiate_part(option, source)
    try:
        return select(photos, **selection), classes_of(photos)
    except UserError as error:
        raise error.within(option) from None


def load_classes(cfg: DictConfig) -> list[str]:
    """The classes that ``zero_shot.classes`` names.

    Raises:
        UserError: If they cannot be read.
    """
    try:
        return candidate_classes(cfg.zero_shot.classes)
    except UserError as error:
        raise error.within("zero_shot") from None


def make_cache(cfg: DictConfig) -> tuple[Cache | None, list[str]]:
    """The cache, or None where it is off; and why it is, if that was not asked for."""
    try:
        return instantiate(cfg.cache) if cfg.cache else None, []
    except InstantiationException as error:
        return None, [f"The cache is off: {error.__cause__} (cache.folder={cfg.cache.folder})."]
