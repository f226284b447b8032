"""A run's headline numbers, for W&B."""

from typing import Any

from clipshift.report.words import model_in_words, weights_in_words
from clipshift.results.runs import Run
from clipshift.severities import LADDER, leading_severity

HEADLINE = {
    "severity": "severity",
    "mean_shift": "mean 1 − cosine",
    "mean_relative_shift": "mean relative shift",
    "worst_augmentation": "largest mean shift",
    "worst_relative_shift": "by how much",
    "clean_top1": "top-1 clean",
    "clean_neighbour_top1": "1-NN clean",
    "spread": "spread",
    "photos": "photos",
    "trained": "trained",
    "model": "model",
    "weights": "weights",
}
"""The keys of W&B's summary that lead, in the order of `headline`, and what they are in words."""


def headline(run: Run) -> dict[str, Any]:
    """A run in a few numbers, to line up many runs by: the keys are those of `HEADLINE`.

    Returns:
        ``severity`` (of the numbers that follow: the paper's, or else the strongest step; a step as
        a number); ``mean_shift`` and ``mean_relative_shift``, means over augmentations of the mean
        1 − cosine and of the mean relative shift; ``worst_augmentation``, the one that moves
        embeddings most, and its ``worst_relative_shift``; ``clean_top1``, zero-shot accuracy on
        the clean views, and ``clean_neighbour_top1``, that of the nearest neighbour; ``spread``,
        the mean 1 − cosine between different photos; ``photos``; ``trained``, whether the weights
        are; ``model`` and ``weights`` in words. What a run has not is left out.
    """
    model = run.info.model
    numbers: dict[str, Any] = {}
    if len(run.ranking):
        severity = leading_severity(list(run.ranking["severity"].unique()))
        ranked = run.ranking[run.ranking["severity"] == severity]
        worst = ranked["augmentation"].iloc[0]
        means = run.summary[run.summary["severity"] == severity].pivot(
            index="augmentation", columns="measure", values="mean"
        )
        numbers["severity"] = int(severity) if severity in LADDER else severity
        numbers["mean_shift"] = float(ranked["shift"].mean())
        if "relative_shift" in means:
            numbers["mean_relative_shift"] = float(means["relative_shift"].mean())
            numbers["worst_relative_shift"] = float(means.loc[worst, "relative_shift"])
        numbers["worst_augmentation"] = worst
    for measure in ("zero_shot_top1", "neighbour_top1"):
        top = run.summary.loc[run.summary["measure"] == f"{measure}_clean", "mean"]
        if len(top):
            numbers[f"clean_{measure.removeprefix('zero_shot_')}"] = float(top.iloc[0])
    if run.info.spread is not None:
        numbers["spread"] = run.info.spread
    numbers |= {"photos": run.info.data.photos, "trained": model.trained}
    numbers |= {"model": model_in_words(model), "weights": weights_in_words(model)}
    return {key: numbers[key] for key in HEADLINE if key in numbers}
