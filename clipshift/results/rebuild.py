"""Draw the views of a finished run again, from the contents of its ``run.json``.

A run's folder may come from a stranger. The parts that draw views are therefore looked up by name
among clipshift's own, see `clipshift.parts.build_part`.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from clipshift.data.dataset import NATIVE, ViewDataset, native_resize
from clipshift.data.download import is_url
from clipshift.data.files import typed
from clipshift.data.huggingface import huggingface
from clipshift.data.memory import files_again, photos_of
from clipshift.data.selection import LOADING, SELECTION, select
from clipshift.errors import UserError
from clipshift.parts import AUGMENTATIONS, SOURCES, build_part, make_augmentations
from clipshift.results.runs import Run
from clipshift.results.table import labels_of

PASSED = f"{photos_of.__module__}.{photos_of.__name__}"
"""The source of photos that were passed from Python."""
PICKED: TypeAdapter[dict[str, int | None]] = TypeAdapter(dict[str, int | None])


def rebuild_views(run: Run, fetch: bool = False, photos: Any = None) -> ViewDataset:
    """The photos of a finished run, and what was drawn for them.

    Args:
        run: The run, from a folder that need not be one's own.
        fetch: Whether photos that lie behind an address may be read from there again.
        photos: The photos, as `clipshift.data.memory.photos_of` takes them; None for where the run
            says that they lie.

    Raises:
        UserError: If its photos cannot be read, lie behind an address and ``fetch`` is not set, or
            its file describes parts that are not clipshift's or have other options.
    """
    config = run.info.config
    options: dict[str, Any] = dict(config.data)
    if photos is None and not fetch and (address := _address(options)):
        raise UserError(
            f"the photos of {run.folder} lie at {address}, which is not read again without being "
            "asked: add fetch=true if you trust it"
        )
    picked = {name: options.pop(name, None) for name in SELECTION}
    resize = config.data["resize"]
    if "download" in options:
        options["download"] = None  # a run's file does not say where files are written
    try:
        choice = typed(PICKED, json.dumps(picked))
        if any(value is not None and value < 0 for value in choice.values()):
            raise ValueError(f"data: {picked} has a number below 0")
        source = {name: value for name, value in options.items() if name not in LOADING}
        if photos is not None:
            selected = select(photos_of(photos), **choice)
        elif options["_target_"] == PASSED:
            selected = files_again(options.get("root"), labels_of(run.rows).index)
        else:
            selected = select(build_part("data", source, SOURCES), **choice)
        build = partial(build_part, registry=AUGMENTATIONS)
        augmentations, _ = make_augmentations(config.aug, build=build)
        shape = native_resize(run.info.model.preprocessing) if resize == NATIVE else resize
        return ViewDataset(selected, augmentations, run.info.seed, shape)
    except (UserError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"the views of {run.folder} cannot be drawn again: {error}") from None


def _address(options: Mapping[str, Any]) -> str | None:
    """Where photos lie that would come over the network; None where they lie on this machine.

    A data set of `datasets` counts as such even in a local folder, whose files may name addresses.
    """
    if options.get("_target_") == f"clipshift.data.{huggingface.__name__}":
        return str(options.get("dataset"))
    return next((str(value) for value in options.values() if is_url(value)), None)
