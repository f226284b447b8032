"""The views of a finished run, drawn again for its page from what its ``run.json`` says.

A run's folder may come from a stranger. The parts that draw views are therefore looked up in
`SOURCES` and `AUGMENTATIONS`, by name, and given values of the types that they declare. No dotted
path is imported, and no ``${…}`` is resolved: here it is text.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from clipshift import augment
from clipshift.augment import authors
from clipshift.data import (
    LOADING,
    NATIVE,
    SELECTION,
    Photo,
    ViewDataset,
    captions,
    folder,
    huggingface,
    imagenet_c,
    is_url,
    native_resize,
    sample,
    select,
    shards,
    typed,
)
from clipshift.errors import UserError
from clipshift.results.runs import Run

SOURCES: dict[str, Callable[..., list[Photo]]] = {
    f"clipshift.data.{source.__name__}": source
    for source in (captions, folder, huggingface, imagenet_c, sample, shards)
}
"""Where photos may come from, by the name in a run's file."""
AUGMENTATIONS: dict[str, Callable[..., Any]] = {
    f"{module.__name__}.{name}": part
    for module in (augment, authors)
    for name in module.__all__
    if inspect.isclass(part := getattr(module, name)) and hasattr(part, "strongest")
    if part not in (augment.KeyedTransform, augment.Augmentation, augment.MovingAugmentation)
}
"""What may be done to them."""
PICKED: TypeAdapter[dict[str, int | None]] = TypeAdapter(dict[str, int | None])


def rebuild_views(run: Run, fetch: bool = False) -> ViewDataset:
    """The photos of a finished run, and what was drawn for them.

    Args:
        run: The run, from a folder that need not be one's own.
        fetch: Whether photos that lie behind an address may be read from there again.

    Raises:
        UserError: If its photos cannot be read, lie behind an address and ``fetch`` is not set, or
            its file describes parts that are not clipshift's or have other options.
    """
    config = run.facts["config"]
    options: dict[str, Any] = dict(config["data"])
    if not fetch and (address := _address(options)):
        raise UserError(
            f"the photos of {run.folder} lie at {address}, which is not read again without being "
            "asked: add fetch=true if you trust it"
        )
    picked = {name: options.pop(name, None) for name in SELECTION}
    resize = config["data"]["resize"]
    if "download" in options:
        options["download"] = None  # a run's file does not say where files are written
    try:
        choice = typed(PICKED, json.dumps(picked))
        if any(value is not None and value < 0 for value in choice.values()):
            raise ValueError(f"data: {picked} has a number below 0")
        photos = select(_rebuilt("data", SOURCES, options, leave_out=LOADING), **choice)
        augmentations = {
            name: _rebuilt(f"aug.{name}", AUGMENTATIONS, node, leave_out=("ladder",))
            for name, node in config["aug"].items()
        }
        shape = native_resize(run.facts["model"]["preprocessing"]) if resize == NATIVE else resize
        return ViewDataset(photos, augmentations, run.facts["seed"], shape)
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"the views of {run.folder} cannot be drawn again: {error}") from None


def _address(options: Mapping[str, Any]) -> str | None:
    """Where photos lie that would come over the network; None where they lie on this machine.

    A data set of `datasets` counts as such even in a local folder, whose files may name addresses.
    """
    if options.get("_target_") == f"clipshift.data.{huggingface.__name__}":
        return str(options.get("dataset"))
    return next((str(value) for value in options.values() if is_url(value)), None)


def _rebuilt(
    option: str,
    registry: Mapping[str, Callable[..., Any]],
    described: Mapping[str, JsonValue],
    leave_out: Sequence[str],
) -> Any:
    """A part of a run, from the registry and with values of the types that it declares.

    Raises:
        ValueError: If it is not in the registry, or has other options.
        UserError: From the part itself.
    """
    values = {key: value for key, value in described.items() if key not in leave_out}
    name = values.pop("_target_", None)
    part = registry.get(name) if isinstance(name, str) else None
    if part is None:
        raise ValueError(
            f"{option} was made by {str(name)[:200]}, which is not clipshift's, and the file of a "
            "run is not trusted to name code"
        )
    hints = get_type_hints(part.__init__ if inspect.isclass(part) else part)
    config = ConfigDict(coerce_numbers_to_str=True)  # a folder may be called 2024
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{option}.{key[:200]} is not an option of {name}")
        try:
            shape: TypeAdapter[Any] = TypeAdapter(hints[key], config=config)
            values[key] = shape.validate_json(json.dumps(value))
        except ValidationError as error:
            raise ValueError(f"{option}.{key}: {error.errors()[0]['msg']}") from None
    try:
        return part(**values)
    except UserError as error:
        raise error.within(option) from None
