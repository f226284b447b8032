"""Numbers and models in words, the same in terminal, pages, figures and W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipshift.measure.facts import NEIGHBOUR_VOTES
from clipshift.results.info import ModelInfo, RunInfo
from clipshift.results.runs import Run

WHITE_BOX = "attack (white-box)"
"""What tables and figures call an adversary who sees the model."""
SIGNIFICANT = 0.05
"""Below this p, after Holm's correction, sentences say that there is a difference."""


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
        >>> with_interval(0.0, -0.0001, 0.161)
        '0.000 [0.000, 0.161]'
    """
    number, *ends = (_number(one, digits) for one in (value, low, high))
    return f"{number} [{', '.join(ends)}]" if np.isfinite([low, high]).all() else number


def _number(value: float, digits: str) -> str:
    """A number; one that rounds to 0 has no minus sign."""
    text = f"{value:{digits}}"
    is_zero = float(text.rstrip("%")) == 0
    return text.replace("-", "+" if digits.startswith("+") else "") if is_zero else text


def p_value(p: float) -> str:
    """A p-value: never 0, which is only what floats make of one that is very small."""
    return f"{p:.2g}" if p else "< 1e-300"


def short(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A number in a sentence, to a few digits, with the ends of its interval where it has one.

    Example:
        >>> short(0.4236, 0.391, 0.46), short(0.0713), short(-0.0009)
        ('0.42 [0.39, 0.46]', '0.071', '-0.0009')
    """
    size = abs(value)
    decimals = 2 if size >= 0.1 or not size else 3 if size >= 0.01 else 4
    return with_interval(value, low, high, f".{decimals}f")


def ranks_in_words(low: int, high: int) -> str:
    """A rank's interval.

    Example:
        >>> ranks_in_words(1, 1), ranks_in_words(6, 8)
        ('1', '6–8')
    """
    return f"{low}" if low == high else f"{low}–{high}"


def capitalised(words: str) -> str:
    """Words with the first letter as at the start of a sentence."""
    return words[:1].upper() + words[1:]


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence, each in backquotes; more than the most that are named are counted.

    Example:
        >>> listed(["noise"]), listed(["noise", "blur", "flip"]), listed(list("abcde"))
        ('`noise`', '`noise`, `blur` and `flip`', '5 augmentations')
    """
    if len(names) > most:
        return f"{len(names)} augmentations"
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def weights_in_words(model: ModelInfo) -> str:
    """Where a model's weights come from."""
    if not model.trained:
        return "random weights"
    if model.checkpoint:
        return str(model.checkpoint)
    if model.pretrained:
        return f"weights {model.pretrained}"
    schema, _, name = model.architecture.partition(":")
    return "weights of its own, inside clipshift" if schema == "builtin" else f"weights of {name}"


def embedding_in_words(model: ModelInfo) -> str:
    """What a model's embedding is, and what its input is made by."""
    names = {
        "projection": "projection into the space of images and texts",
        "class_token": "class token",
        "mean_of_patches": "mean of the patch tokens",
        "attention_pool": "attention pool",
        "pooled": "the model’s pooled features",
        "own": "as the model’s code returns it",
    }
    given: Mapping[str, Any] = model.preprocessing
    sides = given["size"] if isinstance(given["size"], list | tuple) else [given["size"]]
    mean, std = (", ".join(f"{value:.4g}" for value in given[name]) for name in ("mean", "std"))
    facts = f"{' × '.join(map(str, sides))} px, mean {mean}, std {std}"
    if "interpolation" in given:
        facts += f", {given['interpolation']}"
    return f"{names.get(model.pooling, model.pooling)} ({model.kind}; input {facts})"


def model_in_words(model: ModelInfo) -> str:
    """A model's name, marked where its weights are random."""
    return model.name + ("" if model.trained else " (UNTRAINED: random weights)")


def run_title(run: Run) -> str:
    """What tells a run from others: its model, and the end of its checkpoint's path, or its tag."""
    model = run.info.model
    weights = model.checkpoint or model.pretrained
    if weights and model.checkpoint:
        weights = "/".join(Path(weights).parts[-2:])
    return model_in_words(model) + (f" ({weights})" if weights else "")


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


def faithful_in_words(run: Run) -> str:
    """What the gaze of a run's model is good for; empty where that is not known."""
    rows = run.faithfulness[:2]  # of clean views, and both curves
    if rows.empty or rows["mean"].isna().any():
        return ""
    scores = [short(*row) for row in rows[["mean", "ci_low", "ci_high"]].to_numpy()]
    words = (
        "not nearly as well as",
        "much less well than",
        "about half as well as",
        "less well than",
        "about as well as",
    )
    worth = words[np.searchsorted([0.15, 0.4, 0.6, 0.9], rows["mean"].mean())]
    return (
        "On clean views the gaze finds the patches that the embedding depends on "
        f"{worth} occlusion: {scores[0]} by deletion and {scores[1]} by insertion (0: random; 1: "
        "occlusion)."
    )


def resampled(info: RunInfo) -> str:
    """What a run's intervals take as drawn at random; of earlier versions it is always photos."""
    photos = counted(info.data.photos, "photo")
    if info.resampled is None or not info.by_class:
        return photos
    units, alone = info.resampled.units, info.resampled.alone
    without = f" and {counted(alone, 'photo')} without one" if alone else ""
    return f"{units:,} classes{without}, of {photos}"


def clean_accuracy(summary: pd.DataFrame) -> str:
    """Accuracies on the clean views with intervals; empty where photos have no labels."""
    rows = summary.dropna(subset="mean").drop_duplicates("measure").set_index("measure")
    names = {f"zero-shot top-{k}": f"zero_shot_top{k}_clean" for k in (1, 5)}
    names |= {f"{k}-NN": f"{name}_clean" for name, k in NEIGHBOUR_VOTES.items()}
    return ", ".join(
        f"{short_name} {with_interval(*rows.loc[name, ['mean', 'ci_low', 'ci_high']])}"
        for short_name, name in names.items()
        if name in rows.index
    )


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
