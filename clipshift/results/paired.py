"""Two runs on the same views, photo by photo."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipshift.errors import UserError
from clipshift.results.intervals import (
    holm,
    mean_interval,
    relative_shift_values,
    share_difference_interval,
    sign_test,
    signed_rank_test,
)
from clipshift.results.table import KEYS, LOWER_IS_BETTER, PHOTO, SHARES, distance_to_others

GROUPS = ("mean of trained on", "mean of held out")
VIEWS = ("aug", "seed", "data.resize")
"""Options that decide what the views are, beside the photos and the strengths."""


@dataclass(frozen=True)
class Run:
    """A finished run, as read back from its folder.

    Attributes:
        folder: The folder.
        facts: ``run.json``.
        shift: ``shift.parquet``.
    """

    folder: Path
    facts: dict[str, Any]
    shift: pd.DataFrame

    @property
    def title(self) -> str:
        """What tells it from others: its model, and where its weights came from."""
        model = self.facts["model"]
        weights = model["checkpoint"] or model["pretrained"]
        return model["name"] + (f" ({weights})" if weights else "")

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
        shift = pd.read_parquet(folder / "shift.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"no finished run in {folder}: {error}") from None
    if not isinstance(facts, dict) or "complete" not in facts:
        raise UserError(f"no finished run in {folder}: its run.json is not clipshift's")
    if not facts["complete"]:
        raise UserError(f"the run in {folder} was interrupted: run it again")
    if shift.empty:
        raise UserError(f"the run in {folder} measured no photo: see its skipped.csv")
    return Run(folder, facts, shift)


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
    gallery = [run.facts["gallery"] for run in (a, b)]
    texts = [(run.facts["data"].get("classes"), run.facts["config"]["prompts"]) for run in (a, b)]
    found = {}
    if gallery[0] != gallery[1]:
        found["retained"] = f"the galleries hold {gallery[0]} and {gallery[1]} photos"
    if texts[0] != texts[1]:
        found["zero_shot"] = "classes or prompts differ"
    return found


def with_group_means(shift: pd.DataFrame, trained_on: Sequence[str]) -> pd.DataFrame:
    """A run's table with a photo's mean over augmentations that were trained on, and over others.

    Args:
        shift: From `clipshift.results.shift_table`.
        trained_on: Names of augmentations.

    Returns:
        The table and, behind it, its rows of "mean of trained on" and "mean of held out"; only the
        table where one of the two would be empty.
    """
    group = (
        shift["augmentation"].isin(trained_on).map(dict(zip((True, False), GROUPS, strict=True)))
    )
    if group.nunique() < 2:
        return shift
    measures = shift.columns.difference(KEYS, sort=False)
    means = shift.groupby(["photo", group, "severity"], sort=False)[list(measures)].mean()
    return pd.concat([shift, means.reset_index()], ignore_index=True)


def compare_photos(a: pd.DataFrame, b: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The paired difference of two runs, b − a, in every measure under every variant.

    Of measures that are 0 or 1, the interval is `share_difference_interval` and p that of
    `sign_test`; of all others `mean_interval` and `signed_rank_test`. The interval of
    ``relative_shift`` lets both runs' spreads vary (`relative_shift_values`); its p takes them as
    they are.

    Args:
        a: A run's table, from `clipshift.results.shift_table`.
        b: Another's, of the same photos, augmentations and severities.
        seed: Seed of the bootstrap.

    Returns:
        A row per (augmentation, severity, measure): ``mean_a``, ``mean_b``; the mean ``difference``
        with its 95 % interval ``ci_low``, ``ci_high``; ``improved`` and ``worsened``, the shares of
        photos on which b is better or worse than a; ``p``; ``p_holm``, that after Holm's correction
        over all rows; and ``n``. Photos without a value in either run are left out.
    """
    keys = ["photo", "augmentation", "severity"]
    joined = a.merge(b, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    measures = [
        name for name in a.columns.difference([*KEYS, *PHOTO], sort=False) if name in b.columns
    ]
    rows = []
    for (name, severity), group in joined.groupby(["augmentation", "severity"], sort=False):
        changes = _changes(group, measures)
        ends = zip(*mean_interval(_influence(group, changes).to_numpy(), seed), strict=True)
        for measure, (low, high) in zip(measures, ends, strict=True):
            pair = group[[f"{measure}_a", f"{measure}_b"]].dropna().to_numpy(float)
            change = changes[measure].dropna().to_numpy()
            size = np.abs(pair)
            gain = size[:, 0] - size[:, 1] if measure in LOWER_IS_BETTER else change
            test = signed_rank_test
            if measure in SHARES and np.isin(change, (-1, 0, 1)).all():
                low, high = share_difference_interval(change)
                test = sign_test
            rows.append(
                {
                    "augmentation": name,
                    "severity": severity,
                    "measure": measure,
                    "mean_a": pair[:, 0].mean() if len(pair) else np.nan,
                    "mean_b": pair[:, 1].mean() if len(pair) else np.nan,
                    "difference": change.mean() if len(pair) else np.nan,
                    "ci_low": low,
                    "ci_high": high,
                    "improved": (gain > 0).mean() if len(pair) else np.nan,
                    "worsened": (gain < 0).mean() if len(pair) else np.nan,
                    "p": test(change),
                    "n": len(pair),
                }
            )
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("n"), "p_holm", holm(table["p"].to_numpy()))  # type: ignore[arg-type]
    return table


def _changes(group: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Differences b − a in every measure, one row per photo; NaN where either has no value."""
    return pd.DataFrame(
        {name: (group[f"{name}_b"] - group[f"{name}_a"]).astype(float) for name in measures}
    )


def _influence(group: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The differences, of ``relative_shift`` with what each photo does to the spreads."""
    if "relative_shift" not in changes:
        return changes
    known = changes["relative_shift"].notna()
    before, after = (
        relative_shift_values(
            group[f"relative_shift_{run}"].where(known).to_numpy(float),
            distance_to_others(group, f"_{run}"),
        )
        for run in ("a", "b")
    )
    return changes.assign(relative_shift=after - before)
