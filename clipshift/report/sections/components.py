"""Heads and MLPs: which of them carry the shift."""

import numpy as np
import pandas as pd

from clipshift.report.charts.components import draw_components, draw_locations
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows
from clipshift.report.words import counted, short
from clipshift.results.runs import Run
from clipshift.severities import ALL

SHOWN_HEADS = 10
"""How many heads are listed."""
SHOWN_TEXTS = 3
"""How many texts name a head."""


def component_section(run: Run) -> Section:
    """The shares of heads and MLPs in the shift, and the heads that carry most."""
    means = with_patching(run)
    by_severity = means[means["component"] == "head"].groupby("severity", sort=False)
    table = pd.concat([of.nlargest(SHOWN_HEADS, "share") for _, of in by_severity])
    shown, shares = leading_rows(table), leading_rows(run.components)
    heads = shares[shares["component"] == "head"]
    leading = [of.nlargest(SHOWN_HEADS, "share") for _, of in heads.groupby("augmentation")]
    places = [set(zip(of["layer"], of["head"], strict=True)) for of in leading]
    sums = shares[shares["augmentation"] == ALL].groupby("component")["share"].sum()
    drawn = {"components": draw_components(run.components)}
    if not run.locations.empty:
        drawn["locations"] = draw_locations(run.locations)
    section = make_section(
        "components",
        drawn,
        [table, *head_texts(run)],
        attention=short(sums["attention"]),
        mlp=short(sums["mlp"]),
        leading=len(shown),
        heads=len(heads[["layer", "head"]].drop_duplicates()),
        carried=short(shown["share"].sum()),
        common=len(set.intersection(*places)),
    )
    section.text = [*section.text, *disagreement(leading_rows(means), run.patching["n"].max())]
    return section


def stage_section(run: Run) -> Section | None:
    """What the stages of a convolutional tower undo and do when they are patched."""
    rows = run.patching[run.patching["component"] == "stage"]
    if rows.empty:
        return None
    medians = leading_rows(rows).groupby("layer")["undone"].median()
    undone = ", ".join(f"{short(value)} (stage {layer:.0f})" for layer, value in medians.items())
    return make_section("stages", {}, [rows], undone=undone, photos=f"{rows['n'].max():.0f}")


def head_texts(run: Run) -> list[pd.DataFrame]:
    """The first texts of each leading head in one row, with what they explain; none without."""
    named = run.head_texts
    if named.empty:
        return []
    rows = named[(named["augmentation"] == ALL) & (named["rank"] <= SHOWN_TEXTS)]
    ways = np.select([rows["ci_low"] > 0, rows["ci_high"] < 0], ["towards", "away from"], "along")
    parts = zip(ways, rows["text"], rows["share"], strict=True)
    rows = rows.assign(texts=[f"{way} “{text}” {100 * share:.1f} %" for way, text, share in parts])
    keys, last = ["severity", "layer", "head"], dict.fromkeys(["cumulative", "null", "n"], "last")
    return [rows.groupby(keys, sort=False, as_index=False).agg({"texts": "; ".join, **last})]


def with_patching(run: Run) -> pd.DataFrame:
    """Mean shares over augmentations, and mean ``undone`` and ``alone``, NaN if not patched."""
    keys = ["severity", "layer", "component", "head"]
    patched = run.patching.astype(dict.fromkeys(["layer", "head", "undone", "alone"], float))
    both = patched.groupby(keys, as_index=False, dropna=False)[["undone", "alone"]].mean()
    return run.components[run.components["augmentation"] == ALL].merge(both, "left", keys)


def disagreement(means: pd.DataFrame, photos: float) -> list[str]:
    """A sentence on the component whose share and patching differ most; none without patching."""
    difference = (means["share"] - means["undone"]).abs()
    if not difference.notna().any():
        return []
    most = means.loc[difference.idxmax()]
    name = {"attention": "attention", "mlp": "the MLP"}.get(
        most["component"], f"head {most['head']:.0f}"
    )
    return [
        f"Share and intervention disagree most on {name} of layer {most['layer']:.0f}: its share "
        f"is {short(most['share'])}, and its clean output, put into the pass of the view, undoes "
        f"{short(most['undone'])} of the shift in {counted(int(photos), 'photo')}. What a "
        "component writes, later ones may compensate or amplify."
    ]
