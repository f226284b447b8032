"""Finished runs: read back from their folders, and whether two of them can be compared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.errors import UserError
from clipshift.measure import Facts
from clipshift.results.columns import read_shift

VIEWS = ("aug", "seed", "data.resize")
"""Options that decide what the views are, beside the photos and the strengths."""


@dataclass(frozen=True)
class Run:
    """A finished run, as read back from its folder.

    Attributes:
        folder: The folder.
        facts: ``run.json``.
        shift: ``shift.parquet``.
        columns: What its measured columns mean.
    """

    folder: Path
    facts: dict[str, Any]
    shift: pd.DataFrame
    columns: dict[str, Facts]

    @property
    def trained_on(self) -> list[str]:
        """The augmentations that its model was fine-tuned on; empty for any other model."""
        return self.facts["model"].get("trained_on") or []


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: If the folder holds none, or one that was interrupted or measured no photo.
    """
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        shift, columns = read_shift(folder / "shift.parquet")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no finished run in {folder}: {error}") from None
    if not isinstance(facts, dict) or "complete" not in facts:
        raise UserError(f"no finished run in {folder}: its run.json is not clipshift's")
    if not facts["complete"]:
        raise UserError(f"the run in {folder} was interrupted: run it again")
    if shift.empty:
        raise UserError(f"the run in {folder} measured no photo: see its skipped.csv")
    return Run(folder, facts, shift, columns)


def differing_views(a: Run, b: Run) -> list[str]:
    """Why two runs cannot be compared photo by photo: what differs, in words; empty if nothing."""
    found = []
    if a.facts["data"]["fingerprint"] != b.facts["data"]["fingerprint"]:
        found.append(
            f"their photos ({a.facts['data']['photos']} and {b.facts['data']['photos']}, or others)"
        )

    def option(run: Run, dotted: str) -> Any:
        value = run.facts["config"]
        for key in dotted.split("."):
            value = value[key]
        return value

    found += [
        f"{name} ({option(a, name)} and {option(b, name)})" if name != "aug" else "aug"
        for name in VIEWS
        if option(a, name) != option(b, name)
    ]
    keys = [
        sorted(run.shift[["augmentation", "severity"]].drop_duplicates().itertuples(index=False))
        for run in (a, b)
    ]
    if keys[0] != keys[1]:
        found.append("their augmentations or severities")
    elif a.facts["strengths"] != b.facts["strengths"]:
        found.append("the strengths of their augmentations")
    return found


def incomparable(a: Run, b: Run) -> dict[str, str]:
    """The measures that depend on options in which two runs differ, by how their names begin.

    Returns:
        The cause of each, in words.
    """
    galleries = [
        set(run.shift.loc[run.shift["retained"].notna(), "photo"])
        if "retained" in run.shift
        else set()
        for run in (a, b)
    ]
    texts = [(run.facts["data"].get("classes"), run.facts["config"]["prompts"]) for run in (a, b)]
    found = {}
    if galleries[0] != galleries[1]:
        found["retained"] = "the galleries hold other photos"
    if texts[0] != texts[1]:
        found["zero_shot"] = "classes or prompts differ"
    kinds = [gaze_kind(run) for run in (a, b)]
    if kinds[0] != kinds[1]:
        cause = f"the gaze is {kinds[0]} in one and {kinds[1]} in the other"
        of_gaze = [n for n, facts in a.columns.items() if facts.space in ("gaze", "aligned gaze")]
        found |= {n: cause for n in of_gaze if n in a.shift and n in b.shift}
    return found


def gaze_kind(run: Run) -> str | None:
    """The kind of a run's gaze; None where it has none.

    Runs of earlier versions only say whether they have one: it was attention.
    """
    kind: str | bool | None = run.facts["model"].get("gaze")
    return "attention" if kind is True else kind or None
