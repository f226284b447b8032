"""The answer of a run: its main result in sentences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipshift.report import words
from clipshift.report.shift import COSINE, as_shift, headline_measure, shift_name
from clipshift.results.corruptions import ALEXNET_ERROR
from clipshift.results.runs import Run
from clipshift.severities import LADDER, MATCHED, PAPER, ladder_steps, leading_severity


def answer(run: Run) -> list[str]:
    """What a run found, in up to three sentences: what shifts the embedding most, and whether.

    Only what holds at the 95 % level is said to lead (`rank_augmentations`); of all else means are
    told. Augmentations are in backquotes, 95 % intervals in brackets.
    """
    model = words.model_in_words(run.info.model)
    if run.ranking.empty:
        measured = "measure" in run.summary and headline_measure(run.summary)
        missing = "two photos with a value" if measured else "a measured cosine similarity"
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
    most = f"`{leader}` shifts {model} most{at}"
    if rivals:
        most = f"The mean shift of {model}{at} is largest under `{leader}`"
    _, smallest = _mean_shift(run, first, last)
    sentences = [
        f"{most}: {largest}. The mean is smallest under `{last}`: {smallest}.",
        f"{_first_place(leader, rivals)}.",
    ]
    other = MATCHED if MATCHED in severities else steps[0] if len(steps) > 1 else first
    again = run.ranking[run.ranking["severity"] == other]
    if other == first or len(again) < 2:
        return sentences
    second, rivals = again["augmentation"].iloc[0], _rivals(again)
    where = "At equal distortion" if other == MATCHED else f"At severity {other}"
    also = "again" if second == leader else "instead"
    largest = f"the mean is largest under `{second}` {also}: {_mean_shift(run, other, second)[1]}"
    return [*sentences, f"{where} {largest}. {_first_place(second, rivals)}."]


def _first_place(leader: str, rivals: Sequence[str]) -> str:
    """Whether the first of a ranking is first beyond chance."""
    if rivals:
        return f"At the 95 % level `{leader}` is not distinguishable from {words.listed(rivals)}"
    return f"`{leader}` ranks first at the 95 % level"


def _mean_shift(run: Run, severity: str, augmentation: str) -> tuple[str, str]:
    """What the shift is told by, and its mean with its interval."""
    rows = run.summary[
        (run.summary["severity"] == severity) & (run.summary["augmentation"] == augmentation)
    ]
    measure = headline_measure(rows) or COSINE
    [row] = as_shift(rows[rows["measure"] == measure]).itertuples()
    return shift_name(measure), words.short(row.mean, row.ci_low, row.ci_high)


def _rivals(ranked: pd.DataFrame) -> list[str]:
    """Which augmentations may rank first as well."""
    leader = ranked.iloc[0]
    near = ranked[(ranked["rank_low"] == 1) & (ranked["augmentation"] != leader["augmentation"])]
    return list(near["augmentation"])


def corruption_error(run: Run) -> list[str]:
    """What a run found of errors under corruptions, in sentences; empty where nothing."""
    errors = run.info.corruption_error
    if errors is None or run.corruption_error.empty:
        return []
    of_imagenet_c = run.corruption_error.dropna(subset="alexnet_error")
    whole = of_imagenet_c.groupby("augmentation").size() == len(LADDER)
    if errors.mce is not None:
        mean, low, high = 100 * np.array([errors.mce, errors.mce_low, errors.mce_high], float)
        mce = words.with_interval(mean, low, high, ".1f")
        sentences = [
            f"Mean corruption error (mCE): {mce} %, of {len(whole)} of the "
            f"{len(ALEXNET_ERROR)} corruptions of ImageNet-C; 100 % is AlexNet’s."
        ]
    else:
        sentences = [
            f"No mean corruption error (mCE): it is over the {len(ALEXNET_ERROR)} corruptions of "
            f"ImageNet-C at all {len(LADDER)} severities, of which {whole.sum()} are here."
        ]
    if errors.rho is not None:
        low, high = np.array([errors.ci_low, errors.ci_high], float)
        rho = words.with_interval(errors.rho, low, high, "+.2f")
        over = "corruptions and severities"
        if errors.n:
            over = f"{errors.n} corruptions, of their means over severities"
        correlation = f"Spearman’s ρ of shift and error over {over}: {rho}"
        if errors.rho_within is not None:
            correlation += f"; over the severities of one corruption: {errors.rho_within:+.2f}"
        sentences.append(f"{correlation}.")
    return sentences


def measured_in_words(run: Run) -> str:
    """What was measured, in sentences."""
    info = run.info
    names = words.counted(run.summary["augmentation"].nunique(), "augmentation")
    *others, last = run.summary["severity"].unique()
    severities = f"severities {', '.join(others)} and {last}" if others else f"severity {last}"
    sentences = [
        f"Each of {words.counted(info.data.photos, 'photo')} was compared with itself under "
        f"{names} at {severities}, as {words.model_in_words(info.model)} sees them."
    ]
    if info.spread:
        sentences.append(
            f"Different photos are {info.spread:.2f} apart on average (1 − cosine): that is a "
            "relative shift of 1."
        )
    if clean := words.clean_accuracy(run.summary):
        sentences.append(f"Accuracy on the clean views: {clean}.")
    return " ".join(sentences)
