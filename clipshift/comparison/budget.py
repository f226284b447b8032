"""A budget: limits on the means of a run, and whether the run keeps them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic
import yaml

from clipshift.comparison.pair import compare_pair
from clipshift.data.files import read_text, typed
from clipshift.errors import UserError, did_you_mean
from clipshift.report.words import with_interval
from clipshift.results.info import OPEN, Known
from clipshift.results.intervals import limit_distance
from clipshift.results.measured import CLEAN
from clipshift.results.paired import GROUPS
from clipshift.results.runs import Run, misfits, read_run

OF_CHANGES = {"max_increase": "change ≤ {:+g}", "max_decrease": "change ≥ {:+g}"}
BOUNDS = {"max": "≤ {:g}", "min": "≥ {:g}"} | OF_CHANGES
"""What a limit can be, of a mean or of its change against a baseline, and how tables have it."""
KEYS = ("measure", "augmentation", "severity")
FAIL, UNDECIDED, PASS = VERDICTS = ("fail", "undecided", "pass")
"""The verdicts on a limit. That on a budget is the first of these that one of its limits has."""


AS_LIST = pydantic.BeforeValidator(lambda v: [str(one) for one in (v if type(v) is list else [v])])
Names = Annotated[list[str], AS_LIST]
"""One name or several. A severity may be a number."""


class Limit(pydantic.BaseModel):
    """A limit on means: on one measure or several, and on all augmentations and severities."""

    model_config = OPEN
    __pydantic_extra__: dict[str, pydantic.FiniteFloat]
    """Its bounds, by their names."""
    measure: Names
    augmentation: Names = []
    severity: Names = []

    @pydantic.model_validator(mode="after")
    def _has_bounds(self) -> "Limit":
        bounds = self.__pydantic_extra__
        if unknown := [name for name in bounds if name not in BOUNDS]:
            hint = did_you_mean(unknown[0], [*KEYS, *BOUNDS])
            raise ValueError(f"unknown key {unknown[0]!r}{hint}")
        if not bounds:
            raise ValueError(f"it has neither {', '.join(BOUNDS)}: set one of them")
        return self


class Budget(Known):
    """Limits, and the folder of the run that changes are against, from the budget's own folder."""

    limits: Annotated[list[Limit], pydantic.Field(min_length=1)]
    baseline: Path | None = None


@dataclass(frozen=True)
class Judgement:
    """Whether a run keeps a budget.

    Attributes:
        table: One row per limit and mean: ``measure``, ``augmentation`` and ``severity``, which are
            ``clean`` and empty of what does not depend on them; ``bound``, as ``max``; ``limit``,
            of the mean or of its change; ``value``, the mean or the change, with its 95 % interval
            ``ci_low``, ``ci_high``; ``n``; ``verdict``: pass, fail or undecided; and in words
            ``allowed``, the limit, and ``decision``, what would decide an undecided one.
    """

    table: pd.DataFrame

    @property
    def verdict(self) -> str:
        """``pass`` if every limit is kept, ``fail`` if one is broken, otherwise ``undecided``."""
        return next(one for one in VERDICTS if one in set(self.table["verdict"]))

    def __str__(self) -> str:
        count = self.table["verdict"].value_counts()
        counts = ", ".join(f"{count[one]} {one}" for one in VERDICTS if one in count)
        rows = self.table[self.table["verdict"] != PASS].itertuples()
        return "\n".join([f"budget: {self.verdict} ({counts})", *map(sentence, rows)])


def sentence(row: Any) -> str:
    """A row of a `Judgement` in words."""
    value = with_interval(row.value, row.ci_low, row.ci_high, ".4f")
    parts = (row.measure, f"{row.augmentation} {row.severity}".strip(), f"{value} ({row.allowed})")
    return ", ".join(filter(None, [f"{row.verdict}: {': '.join(parts)}", row.decision]))


def read_budget(given: Any) -> Budget:
    """A budget from a YAML file, or from what such a file holds.

    Args:
        given: The file's path; or a mapping, see `Budget`.

    Raises:
        UserError: If it cannot be read, or is not a budget.
    """
    file = None if isinstance(given, Mapping) else Path(given).expanduser()
    try:
        content = yaml.safe_load(read_text(file)) if file else given
        budget = typed(pydantic.TypeAdapter(Budget), json.dumps(content, default=str))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{file or 'budget'}: {error}") from None
    baseline = budget.baseline and (file or Path()).parent / budget.baseline.expanduser()
    return budget.model_copy(update={"baseline": baseline})


@misfits("the budget's runs")
def judge(budget: Budget, run: Run, paired: pd.DataFrame | None = None) -> Judgement:
    """Hold a run against a budget: see docs/protocol.md, "Budgets".

    A limit is kept where the 95 % interval lies within it, and broken where the simultaneous
    interval lies beyond it. Otherwise it is undecided.

    Args:
        budget: The limits.
        run: The run.
        paired: `clipshift.comparison.pair.compare_pair` of another run and this, in place of that
            of the budget's baseline.

    Raises:
        UserError: If a limit is on what the run has not measured, changes have no baseline, or that
            measured other photos or views.
    """
    of_clean = run.summary["measure"].map(lambda name: run.columns[name].space == "photo")
    once = run.summary[of_clean].drop_duplicates("measure").assign(augmentation=CLEAN, severity="")
    means = pd.concat([run.summary[~of_clean], once]).rename(columns={"mean": "value"})
    tables = dict.fromkeys(BOUNDS, means)
    if any(OF_CHANGES.keys() & limit.__pydantic_extra__.keys() for limit in budget.limits):
        if paired is None:
            if budget.baseline is None:
                raise UserError(f"budget: {' and '.join(OF_CHANGES)} require a baseline")
            paired = compare_pair(read_run(budget.baseline), run, run.info.seed, [])
        changes = paired[~paired["augmentation"].isin(GROUPS)]
        tables |= dict.fromkeys(OF_CHANGES, changes.rename(columns={"difference": "value"}))
    rows = []
    for place, limit in enumerate(budget.limits):
        for bound, value in limit.__pydantic_extra__.items():
            signed = -value if bound == "max_decrease" else value
            texts = {"bound": bound, "allowed": BOUNDS[bound].format(signed)}
            rows.append(_chosen(tables[bound], limit, place).assign(limit=signed, **texts))
    table = pd.concat(rows, ignore_index=True)
    ends = table[["value", "ci_low", "ci_high"]].to_numpy(float).T
    is_beyond = (ends[0] > table["limit"]) == table["bound"].isin(["max", "max_increase"])
    units = run.info.resampled.units if run.info.by_class else table["n"]  # type: ignore[union-attr]
    distance = limit_distance(ends, table["limit"], is_beyond, units)
    verdicts = np.where(distance > 1, np.where(is_beyond, FAIL, PASS), UNDECIDED)
    decisions = list(map(_decision, distance, table["n"]))
    return Judgement(table.assign(verdict=verdicts, decision=decisions))


def _chosen(means: pd.DataFrame, limit: Limit, place: int) -> pd.DataFrame:
    """The means that a limit is on.

    Raises:
        UserError: If there are none.
    """
    for key in KEYS:
        wanted, names = getattr(limit, key), list(means[key].unique())
        if names == [""]:  # clean views have no severity
            break
        if unknown := [name for name in wanted if name not in names]:
            hint = did_you_mean(unknown[0], names) or f" (there are: {', '.join(names)})"
            raise UserError(f"budget: limits.{place}: no {key} {unknown[0]!r}{hint}")
        means = means[means[key].isin(wanted or names)]
    return means[[*KEYS, "value", "ci_low", "ci_high", "n"]]


def _decision(distance: float, photos: int) -> str:
    """What would decide a limit, by `limit_distance`; empty where it is decided."""
    if distance > 1:
        return ""
    if math.isnan(distance):
        return "fewer than two photos have a value"
    if not distance:
        return "cannot be decided: the mean is at the limit"
    return f"about {float(f'{photos / distance**2:.3g}'):,.0f} photos would decide"
