"""Whether two runs can be compared photo by photo, and in which measures."""

from typing import Any

from clipshift.data.dataset import NATIVE, native_resize
from clipshift.results.info import RunInfo
from clipshift.results.runs import Run
from clipshift.results.table import by_photo, labels_of, variants_of


def differing_views(a: Run, b: Run) -> list[str]:
    """Why two runs cannot be compared photo by photo: what differs, in words; empty if nothing."""
    infos = (a.info, b.info)
    differences = []
    first, second = (info.data for info in infos)
    if first.fingerprint != second.fingerprint:
        differences.append(f"their photos ({first.photos} and {second.photos}, or others)")
    elif first.stored_fingerprint != second.stored_fingerprint:
        differences.append("their stored corruptions")
    if a.info.config.aug != b.info.config.aug:
        differences.append("aug")
    options: dict[str, list[Any]] = {
        "draws": [info.config.draws for info in infos],
        "seed": [info.config.seed for info in infos],
        "data.resize": [_resize(info) for info in infos],
    }
    differences += [
        f"{name} ({of_a} and {of_b})" for name, (of_a, of_b) in options.items() if of_a != of_b
    ]
    if not variants_of(a.rows).sort_values().equals(variants_of(b.rows).sort_values()):
        differences.append("their augmentations or severities")
    elif a.info.strengths != b.info.strengths:
        differences.append("the strengths of their augmentations")
    return differences


def _resize(info: RunInfo) -> str | dict[str, Any]:
    """How photos became clean views."""
    resize = info.config.data["resize"]
    return native_resize(info.model.preprocessing) if resize == NATIVE else resize


def incomparable(a: Run, b: Run) -> dict[str, str]:
    """The measures that depend on options in which two runs differ, by how their names begin.

    Returns:
        The cause of each, in words.
    """
    galleries = [
        set(by_photo(run.rows, "retained").dropna(how="all").index)
        if "retained" in run.rows
        else set()
        for run in (a, b)
    ]
    texts = [(run.info.data.classes, run.info.prompts) for run in (a, b)]
    causes: dict[str, str] = {}
    if galleries[0] != galleries[1]:
        of_gallery = ("retained", "percentile_shift", "whitened_shift")
        causes |= dict.fromkeys(of_gallery, "the galleries hold other photos")
    if "neighbour_top1" in a.shift:
        if galleries[0] != galleries[1]:
            causes["neighbour"] = causes["retained"]
        elif not labels_of(a.rows).equals(labels_of(b.rows)):
            causes["neighbour"] = "labels differ"
    if texts[0] != texts[1]:
        causes["zero_shot"] = "classes or prompts differ"
    kinds = [run.info.model.gaze for run in (a, b)]
    if kinds[0] != kinds[1]:
        cause = f"the gaze is {kinds[0]} in one and {kinds[1]} in the other"
        of_gaze = [n for n, facts in a.columns.items() if facts.space in ("gaze", "aligned gaze")]
        causes |= {n: cause for n in of_gaze if n in a.shift and n in b.shift}
    return causes
