"""Heads and MLPs: which of them carry the shift."""

import pandas as pd

from clipshift.report.charts.components import draw_components
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows
from clipshift.report.words import short
from clipshift.results.runs import Run
from clipshift.severities import ALL

SHOWN_HEADS = 10
"""How many heads are listed."""


def component_section(run: Run) -> Section | None:
    """The shares of heads and MLPs in the shift, and the heads that carry most."""
    rows = run.components
    if rows.empty:
        return None
    tables = [leading_heads(part) for _, part in rows.groupby("severity", sort=False)]
    shown = leading_rows(pd.concat(tables))
    shares = leading_rows(rows)
    heads = shares[shares["component"] == "head"]
    by_name = {
        name: of.nlargest(SHOWN_HEADS, "share") for name, of in heads.groupby("augmentation")
    }
    places = [set(zip(of["layer"], of["head"], strict=True)) for of in by_name.values()]
    sums = shares[shares["augmentation"] == ALL].groupby("component")["share"].sum()
    return make_section(
        "components",
        {"components": draw_components(rows)},
        [pd.concat(tables)],
        attention=short(sums["attention"]),
        mlp=short(sums["mlp"]),
        leading=len(shown),
        heads=len(heads[["layer", "head"]].drop_duplicates()),
        carried=short(shown["share"].sum()),
        common=len(set.intersection(*places)),
    )


def leading_heads(rows: pd.DataFrame) -> pd.DataFrame:
    """The heads with the greatest mean share, and where it is least and greatest.

    Args:
        rows: Of ``components.csv``, at one severity.
    """
    heads = rows[rows["component"] == "head"]
    means = heads[heads["augmentation"] == ALL].nlargest(SHOWN_HEADS, "share")
    each = heads[heads["augmentation"] != ALL]
    wide = each.pivot(index=["layer", "head"], columns="augmentation", values="share")
    wide = wide.loc[pd.MultiIndex.from_frame(means[["layer", "head"]])]
    ends = {"least": (wide.idxmin(axis=1), wide.min(axis=1)),
            "greatest": (wide.idxmax(axis=1), wide.max(axis=1))}  # fmt: skip
    return means.assign(**{
        name: [f"{value:.3f} {under}" for under, value in zip(*of, strict=True)]
        for name, of in ends.items()
    })  # fmt: skip
