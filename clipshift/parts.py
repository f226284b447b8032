"""The registry of parts: sources, augmentations and measures by their ``_target_`` names.

A configuration and a run's file describe a part by a node: its name as ``_target_``, and its
parameters. Only clipshift's own parts are in the registry.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clipshift import augment, data, measure
from clipshift.augment import authors, internet
from clipshift.augment.chain import Chain
from clipshift.augment.keyed import Augmentation, FileAugmentation, MovingAugmentation
from clipshift.augment.transforms import KeyedTransform, as_augmentation
from clipshift.checks import checked, rising
from clipshift.choices import read_choice
from clipshift.errors import UserError
from clipshift.severities import LADDER

if TYPE_CHECKING:
    from clipshift.measure import PhotoMeasure

Registry = dict[str, Callable[..., Any]]
Build = Callable[[str, Mapping[str, Any]], Any]
"""Makes a part, given the option that describes it, and the description."""
SOURCES: Registry = {
    f"clipshift.data.{name}": getattr(data, name)
    for name in ("captions", "folder", "huggingface", "imagenet_c", "sample", "shards")
}
AUGMENTATIONS: Registry = {
    f"{module.__name__}.{name}": part
    for module in (augment, authors, internet)
    for name in module.__all__
    if inspect.isclass(part := getattr(module, name)) and hasattr(part, "strongest")
    if part not in (Augmentation, FileAugmentation, MovingAugmentation, KeyedTransform)
}


@cache
def measures() -> Registry:
    """The measures, whose torchmetrics takes seconds to import."""
    return {
        f"clipshift.measure.{name}": part
        for name in measure.__all__
        if inspect.isclass(part := getattr(measure, name))
        if issubclass(part, measure.PhotoMeasure)
    }


def build_part(option: str, described: Mapping[str, Any], registry: Registry | None = None) -> Any:
    """Build a part of the registry, with parameters of the types that it declares.

    No dotted path is imported, and no ``${…}`` is resolved: here it is text.

    Args:
        option: Which option describes it, for errors.
        described: Its name as ``_target_``, and its parameters.
        registry: Where its name is looked up; all parts where it is None.

    Raises:
        UserError: If it is not in the registry, or does not take these parameters.
    """
    values = dict(described)
    name = values.pop("_target_", None)
    registry = SOURCES | AUGMENTATIONS | measures() if registry is None else registry
    part = registry.get(name) if isinstance(name, str) else None
    if part is None:
        raise UserError(
            f"{option} is made by {str(name)[:200]}, which is not clipshift's: only the command "
            "line may name other code"
        )
    hints = get_type_hints(part.__init__ if inspect.isclass(part) else part)
    config = ConfigDict(coerce_numbers_to_str=True)  # a folder may be called 2024
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{option}.{key[:200]} is not an option of {name}")
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            nested = enumerate(value)
            values[key] = [build_part(f"{option}.{key}.{i}", one, registry) for i, one in nested]
            continue
        try:
            shape: TypeAdapter[Any] = TypeAdapter(hints[key], config=config)
            values[key] = shape.validate_json(json.dumps(value))
        except ValidationError as error:
            raise UserError(f"{option}.{key}: {error.errors()[0]['msg']}") from None
    try:
        return part(**values)
    except UserError as error:
        raise error.within(option) from None


def named_parts(group: str, given: Any) -> dict[str, Any]:
    """Name parts that are passed from Python: choices of a group, and objects.

    Args:
        group: ``aug`` or ``metric``.
        given: A choice, an object, a list of both, or a mapping of them by name. An object in a
            list is called after its class or function: ``RandomRotation`` is ``random_rotation``.

    Returns:
        By name, the options of a choice's part, or the object.

    Raises:
        UserError: If a choice does not exist, or a name is taken or not a name.
    """
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        given = [given]
    if not isinstance(given, Mapping) and all(isinstance(part, str) for part in given):
        return read_choice(group, given)
    items = given.items() if isinstance(given, Mapping) else ((None, part) for part in given)
    parts: dict[str, Any] = {}
    for name, part in items:
        if not isinstance(part, str):
            named = {_name_of(part) if name is None else name: part}
        elif len(named := read_choice(group, part)) == 1 and name is not None:
            named = {name: next(iter(named.values()))}
        elif name is not None:
            raise UserError(f"{group}: {part!r} is {len(named)} parts: list it without a name")
        for key in named:
            if not isinstance(key, str) or "@" in key or key in ("", "clean"):
                raise UserError(f"{group}: {key!r} is not a name: use a text without @, not clean")
            if key in parts:
                raise UserError(f"{group}: two are called {key}: pass a dict, {{NAME: …}}")
        parts |= named
    return parts


def _name_of(part: Any) -> str:
    """What a part is called in tables: its class or function, in small letters."""
    name = getattr(part, "__name__", type(part).__name__).strip("<>")
    return re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def node_of(part: Any) -> dict[str, Any]:
    """What a run records of a part: its options; of an object its code, and how it shows itself.

    Raises:
        UserError: If a class is given in place of an object.
    """
    if isinstance(part, Mapping):
        return dict(part)
    if inspect.isclass(part):
        raise UserError(f"{part.__name__} is a class: pass an object, {part.__name__}(…)")
    code = part if hasattr(part, "__qualname__") else type(part)
    node = {"_target_": f"{code.__module__}.{code.__qualname__}"}
    shown = " ".join(repr(part).split())
    return node if " at 0x" in shown else node | {"repr": shown}


def make_augmentations(
    nodes: Mapping[str, Any], option: str = "aug", build: Build = build_part
) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations that a group's options describe, and their strengths at severity 1 to 5.

    Args:
        nodes: The options, or the augmentation or transform itself, by name.
        option: Where they stand among all options.
        build: Makes one of them.

    Returns:
        Both by name; strengths of those that have a ladder.

    Raises:
        UserError: If a parameter is out of its range, or a part is not an augmentation.
    """
    augmentations, ladders = {}, {}
    for name, node in nodes.items():
        where = f"{option}.{name}"
        part = build(where, without_ladder(node)) if isinstance(node, Mapping) else node
        try:
            augmentation = as_augmentation(part)
            on_file = getattr(augmentation, "stage", "view") == "file"
            augmentations[name] = Chain([augmentation]) if on_file else augmentation
            described = node if part is not node and "ladder" in node else vars(type(part))
            if "ladder" not in described:
                continue
            if isinstance(augmentations[name], KeyedTransform):
                raise UserError("a transform has no strength, so leave it out", option="ladder")
            ladders[name] = checked("ladder", described["ladder"], rising(len(LADDER)))
        except UserError as error:
            path = f"{where}.{error.option}" if error.option else where
            raise UserError(f"{path}: {error}") from None
    return augmentations, ladders


def without_ladder(node: Mapping[str, Any]) -> dict[str, Any]:
    """An augmentation's ``_target_`` and parameters, which say what is drawn."""
    return {key: value for key, value in node.items() if key != "ladder"}


def make_measures(nodes: Mapping[str, Any], build: Build = build_part) -> "dict[str, PhotoMeasure]":
    """The measures that the options of ``metric`` describe, by name.

    Args:
        nodes: The options, or the measure or metric itself, by name.
        build: Makes one of them.

    Raises:
        UserError: If a part is not a measure.
    """
    from clipshift.measure.per_photo import as_measure

    by_name = {}
    for name, node in nodes.items():
        part = build(f"metric.{name}", node) if isinstance(node, Mapping) else node
        try:
            by_name[name] = as_measure(name, part)
        except UserError as error:
            raise UserError(f"metric.{name}: {error}") from None
    return by_name
