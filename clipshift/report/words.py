"""Numbers and models in words, the same in terminal, pages, figures and W&B."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clipshift.results import ALEXNET_ERROR, DESIGN_EFFECT, ModelInfo, Run, RunInfo
from clipshift.severities import LADDER, MATCHED, PAPER, ladder_steps, leading_severity

FEW_PHOTOS = 30
"""Below this many, pages and the terminal say how few photos there are."""
HEADLINE_MEASURES = ("relative_shift", "cosine_similarity")
"""What tells of the shift, the best first: a relative shift does not shrink with the spread."""
SIGNIFICANT = 0.05
"""Below this p, after Holm's correction, sentences say that there is a difference."""
ALIKE = 0.1
"""Above this intraclass correlation they say that photos of one label shift alike, of runs of
earlier versions, which do not say by how much intervals over photos are too narrow."""


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
    told, *ends = (_number(number, digits) for number in (value, low, high))
    return f"{told} [{', '.join(ends)}]" if np.isfinite([low, high]).all() else told


def _number(value: float, digits: str) -> str:
    """A number; one that rounds to 0 has no minus sign."""
    text = f"{value:{digits}}"
    return text.replace("-", "+" if digits.startswith("+") else "") if float(text) == 0 else text


def p_value(p: float) -> str:
    """A p-value: never 0, which is only what floats make of one that is very small."""
    return f"{p:.2g}" if p else "< 1e-300"


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


def model_in_words(model: ModelInfo) -> str:
    """A model's name, marked where its weights are random."""
    return model.name + ("" if model.trained else " (UNTRAINED: random weights)")


def model_notes(model: ModelInfo) -> list[str]:
    """What a reader must know of a model before its numbers, one sentence each."""
    if model.trained:
        return []
    return [
        f"The weights of {model.name} are random (untrained): its numbers say nothing about CLIP."
    ]


def collapsed_notes(run: Run) -> list[str]:
    """A warning where a model gives all photos the same embedding; empty where it does not."""
    if not run.info.collapsed:
        return []
    return [
        f"{run.info.model.name} is collapsed: it gives all photos the same embedding, so "
        "that a shift of 0 means nothing."
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


def floor_notes(run: Run) -> list[str]:
    """What half precision costs, a sentence each; empty for a run in float32."""
    floor = run.info.floor
    if not floor:
        return []
    severities = {name: found.values() for name, found in floor.items()}
    worst = {name: max(one.p95 for one in found) for name, found in severities.items()}
    photos = max(one.photos for found in severities.values() for one in found)
    told = ", ".join(f"{name} {p95:.1g}" for name, p95 in worst.items())
    precision = run.info.precision
    notes = [
        f"Floor of {precision}: by so much it changes the cosine of 95 % of the first "
        f"{counted(photos, 'photo')}, against float32: {told}."
    ]
    if below := sorted({name for name, _ in run.below_floor}):
        notes.append(
            f"Shifts below the floor of {precision} may be rounding: {', '.join(below)}. "
            "precision=fp32 tells."
        )
    return notes


def few_photos(count: int) -> list[str]:
    """What a reader must know of numbers over so few photos; empty where they are enough."""
    if count >= FEW_PHOTOS:
        return []
    photos = counted(count, "photo")
    return [f"Only {photos}: intervals over so few are wide, and only roughly 95 %."]


def resampled(info: RunInfo) -> str:
    """What a run's intervals take as drawn at random; of earlier versions it is always photos."""
    photos = counted(info.data.photos, "photo")
    if info.resampled is None or not info.by_class:
        return photos
    units, alone = info.resampled.units, info.resampled.alone
    without = f" and {counted(alone, 'photo')} without one" if alone else ""
    return f"{units:,} classes{without}, of {photos}"


def alike_photos(info: RunInfo) -> list[str]:
    """What a reader must know where photos of one label shift alike; empty where they do not."""
    correlation = info.intraclass_correlation
    effect = info.resampled.design_effect if info.resampled else None
    told = "" if correlation is None else f" (intraclass correlation {correlation:.2f})"
    if info.by_class:
        return [
            f"Intervals take classes as drawn at random, not photos: {resampled(info)}{told}. "
            "Correlations, and p-values within a run, take photos as independent."
        ]
    alike = effect > DESIGN_EFFECT if effect is not None else (correlation or 0) > ALIKE
    if not alike:
        return []
    return [
        f"Photos of one label shift alike{told}: they say less than as many of different labels, "
        "and the intervals, which take photos as independent, are too narrow."
    ]


def run_title(run: Run) -> str:
    """What tells a run from others: its model, and the end of its checkpoint's path, or its tag."""
    model = run.info.model
    weights = model.checkpoint or model.pretrained
    if weights and model.checkpoint:
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


def short(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A number in a sentence, to a few digits, with the ends of its interval where it has one.

    Example:
        >>> short(0.4236, 0.391, 0.46), short(0.0713), short(-0.0009)
        ('0.42 [0.39, 0.46]', '0.071', '-0.0009')
    """
    size = abs(value)
    decimals = 2 if size >= 0.1 or not size else 3 if size >= 0.01 else 4
    return with_interval(value, low, high, f".{decimals}f")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, each in backquotes; more than four are only counted.

    Example:
        >>> listed(["noise"]), listed(["noise", "blur", "flip"]), listed(list("abcde"))
        ('`noise`', '`noise`, `blur` and `flip`', '5 augmentations')
    """
    if len(names) > 4:
        return f"{len(names)} augmentations"
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def headline_measure(table: pd.DataFrame, value: str = "mean") -> str | None:
    """The measure by which sentences, leading figures and the terminal tell of the shift.

    Args:
        table: Rows of a ``measure`` each: a summary, or a comparison.
        value: The column that must hold a number: a collapsed model has no relative shift.

    Returns:
        The first of `HEADLINE_MEASURES` with a value; None where there is neither.
    """
    known = set(table.loc[table[value].notna(), "measure"])
    return next((measure for measure in HEADLINE_MEASURES if measure in known), None)


def answer(run: Run) -> list[str]:
    """What a run found, in up to three sentences: what shifts the embedding most, and whether.

    Only what holds at the 95 % level is said to lead (`rank_augmentations`); of all else means are
    told. Augmentations are in backquotes, 95 % intervals in brackets.
    """
    model = model_in_words(run.info.model)
    if run.ranking.empty:
        known = "measure" in run.summary and headline_measure(run.summary)
        missing = "two photos with a value" if known else "a measured cosine similarity"
        return [f"No ranking of the shift: it requires {missing}."]
    severities = list(run.ranking["severity"].unique())
    steps = ladder_steps(severities)
    first = leading_severity(severities)
    ranked = run.ranking[run.ranking["severity"] == first]
    leader, last = ranked["augmentation"].iloc[0], ranked["augmentation"].iloc[-1]
    at = "" if first == PAPER else f" at severity {first}"
    name, mean = _mean_shift(run, first, leader)
    unit = " (1 = the mean distance between two different photos)"
    largest = f"{name} {mean}{unit if name == 'relative shift' else ''}"
    if len(ranked) == 1:
        return [f"The mean shift of {model} under `{leader}`{at}: {largest}."]
    rivals = _rivals(ranked)
    most = (
        f"The mean shift of {model}{at} is largest under `{leader}`"
        if rivals
        else f"`{leader}` shifts {model} most{at}"
    )
    _, smallest = _mean_shift(run, first, last)
    told = [
        f"{most}: {largest}. The mean is smallest under `{last}`: {smallest}.",
        f"{_first_place(leader, rivals)}.",
    ]
    other = MATCHED if MATCHED in severities else steps[0] if len(steps) > 1 else first
    again = run.ranking[run.ranking["severity"] == other]
    if other == first or len(again) < 2:
        return told
    second, rivals = again["augmentation"].iloc[0], _rivals(again)
    where = "At equal distortion" if other == MATCHED else f"At severity {other}"
    also = "again" if second == leader else "instead"
    _, mean = _mean_shift(run, other, second)
    return [
        *told,
        f"{where} the mean is largest under `{second}` {also}: {mean}. "
        f"{_first_place(second, rivals)}.",
    ]


def _first_place(leader: str, rivals: Sequence[str]) -> str:
    """Whether the first of a ranking is first beyond chance."""
    if rivals:
        return f"At the 95 % level `{leader}` is not distinguishable from {listed(rivals)}"
    return f"`{leader}` ranks first at the 95 % level"


def corruption_error(run: Run) -> list[str]:
    """What a run found of errors under stored corruptions, in sentences; empty where nothing."""
    found = run.info.corruption_error
    if found is None or run.corruption_error.empty:
        return []
    of_imagenet_c = run.corruption_error.dropna(subset="alexnet_error")
    whole = of_imagenet_c.groupby("augmentation").size() == len(LADDER)
    if found.mce is not None:
        low, high = (
            np.nan if end is None else 100 * end for end in (found.mce_low, found.mce_high)
        )
        mce = with_interval(100 * found.mce, low, high, ".1f")
        told = [
            f"Mean corruption error (mCE): {mce} %, of {len(whole)} of the "
            f"{len(ALEXNET_ERROR)} corruptions of ImageNet-C; 100 % is AlexNet’s."
        ]
    else:
        told = [
            f"No mean corruption error (mCE): it is over the {len(ALEXNET_ERROR)} corruptions of "
            f"ImageNet-C at all {len(LADDER)} severities, of which {whole.sum()} are here."
        ]
    if found.rho is not None:
        low, high = (np.nan if end is None else end for end in (found.ci_low, found.ci_high))
        rho = with_interval(found.rho, low, high, "+.2f")
        correlation = (
            f"Spearman’s ρ of shift and error over {found.n} corruptions, of their means "
            f"over severities: {rho}"
            if found.n
            else f"Spearman’s ρ of shift and error over corruptions and severities: {rho}"
        )
        if found.rho_within is not None:
            correlation += f"; over the severities of one corruption: {found.rho_within:+.2f}"
        told.append(f"{correlation}.")
    return told


def _mean_shift(run: Run, severity: str, augmentation: str) -> tuple[str, str]:
    """What the shift is told by, and its mean with its interval."""
    rows = run.summary[
        (run.summary["severity"] == severity) & (run.summary["augmentation"] == augmentation)
    ]
    measure = headline_measure(rows)
    mean, low, high = rows.set_index("measure").loc[measure, ["mean", "ci_low", "ci_high"]]
    if measure == "relative_shift":
        return "relative shift", short(mean, low, high)
    return "1 − cosine", short(1 - mean, 1 - high, 1 - low)


def _rivals(ranked: pd.DataFrame) -> list[str]:
    """Which augmentations may rank first as well."""
    leader = ranked.iloc[0]
    near = ranked[(ranked["rank_low"] == 1) & (ranked["augmentation"] != leader["augmentation"])]
    return list(near["augmentation"])


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
