"""Numbers and models in words, the same in terminal, pages, figures and W&B."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipshift.results import Run

FEW_PHOTOS = 30
"""Below this many, pages and the terminal say how few photos there are."""
ALIKE = 0.1
"""Above this intraclass correlation they say that photos of one label shift alike."""


def counted(count: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "photo"), counted(2, "photo")
        ('1 photo', '2 photos')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def with_interval(value: float, low: float, high: float, digits: str = ".3f") -> str:
    """A number with the ends of its interval, where it has one.

    Example:
        >>> with_interval(0.0, 0.0, 0.161)
        '0.000 [0.000, 0.161]'
    """
    if not np.isfinite([low, high]).all():
        return f"{value:{digits}}"
    return f"{value:{digits}} [{low:{digits}}, {high:{digits}}]"


def p_value(p: float) -> str:
    """A p-value: never 0, which is only what floats make of one that is very small."""
    return f"{p:.2g}" if p else "< 1e-300"


def weights_in_words(model: Mapping[str, Any]) -> str:
    """Where a model's weights come from.

    Args:
        model: ``model`` of a ``run.json``.
    """
    if not model["trained"]:
        return "random weights"
    if model["checkpoint"]:
        return str(model["checkpoint"])
    if model["pretrained"]:
        return f"weights {model['pretrained']}"
    schema, _, name = model["architecture"].partition(":")
    return "weights of its own, inside clipshift" if schema == "builtin" else f"weights of {name}"


def model_in_words(model: Mapping[str, Any]) -> str:
    """A model's name, marked where its weights are random.

    Args:
        model: ``model`` of a ``run.json``.
    """
    return model["name"] + ("" if model["trained"] else " (UNTRAINED: random weights)")


def model_notes(model: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a model before its numbers, one sentence each.

    Args:
        model: ``model`` of a ``run.json``.
    """
    if model["trained"]:
        return []
    return [
        f"The weights of {model['name']} are random (untrained): its numbers say nothing about "
        "CLIP."
    ]


def gaze_in_words(kind: str) -> str:
    """What a gaze is.

    Args:
        kind: ``gaze`` of the model in a ``run.json``, where there is one.
    """
    meaning = {
        "attention": "of the query that makes the embedding",
        "contribution": "the share of each location in the embedding, negative ones as none",
    }
    return f"{kind} ({meaning[kind]})"


def few_photos(count: int) -> list[str]:
    """What a reader must know of numbers over so few photos; empty where they are enough."""
    if count >= FEW_PHOTOS:
        return []
    photos = counted(count, "photo")
    return [f"Only {photos}: intervals over so few are wide, and only roughly 95 %."]


def alike_photos(correlation: float | None) -> list[str]:
    """What a reader must know where photos of one label shift alike; empty where they do not.

    Args:
        correlation: The intraclass correlation of labels; None where it is not known.
    """
    if correlation is None or correlation <= ALIKE:
        return []
    return [
        f"Photos of one label shift alike (intraclass correlation {correlation:.2f}): they say "
        "less than as many of different labels, and the intervals are too narrow."
    ]


def run_title(run: Run) -> str:
    """What tells a run from others: its model, and the end of its checkpoint's path, or its tag."""
    model = run.facts["model"]
    weights = model["checkpoint"] or model["pretrained"]
    if weights and model["checkpoint"]:
        weights = "/".join(Path(weights).parts[-2:])
    return model_in_words(model) + (f" ({weights})" if weights else "")


def without_paths(override: str) -> str:
    """An option of the command line, its paths cut to their last part.

    Example:
        >>> without_paths("data.root=/data/photos"), without_paths("compare=[a/b,c/d]")
        ('data.root=photos', 'compare=[b,d]')
    """
    option, equals, value = override.partition("=")
    opening, closing = ("[", "]") if value.startswith("[") else ("", "")
    parts = value.strip("[]").split(",")
    return f"{option}{equals}{opening}{','.join(Path(part).name for part in parts)}{closing}"
