"""The geometry of the shift: its directions, photos' neighbours, and how much a map undoes."""

import numpy as np
import pandas as pd

from clipshift.report.charts import geometry as charts
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import AUGMENTATION, Column, side_by_side, span
from clipshift.report.words import SIGNIFICANT, short
from clipshift.results.runs import Run
from clipshift.severities import ALL, view_name


def similarity_section(run: Run) -> Section | None:
    """Which augmentations take a photo to the same place, where there are several."""
    if run.summary["augmentation"].nunique() < 2:
        return None
    chart = charts.draw_distances(run.distances, run.distances_low, run.distances_high)
    return make_section("alike", {"distances": chart})


def direction_section(run: Run) -> Section:
    """Whether all photos are moved the same way, and which augmentations share a direction."""
    rows = run.directions
    lengths = rows.rename(columns={"direction": "value", "null": "reference"})
    drawn = {"directions": charts.draw_against(lengths, "length of the mean unit displacement")}
    if matrices := cosine_matrices(run):
        cosines, low, high = matrices
        drawn["direction_cosines"] = charts.draw_distances(
            cosines,
            low,
            high,
            "1 − cosine between the mean displacements of augmentations, and the tree of their "
            "Ward linkage.",
        )
    return make_section("directions", drawn, [rows], span=span(rows, "share", "share"))


def cosine_matrices(run: Run) -> list[pd.DataFrame]:
    """1 − cosine of directions and the ends of its intervals, as matrices by view name.

    Of augmentations whose direction differs from chance at a severity and that have a mean
    displacement, where there are several. Empty where there are none.
    """
    significant = (run.directions["p_holm"] < SIGNIFICANT) & (run.directions["share"] > 0)
    rows = run.directions[significant]
    views = [view_name(row.augmentation, row.severity) for row in rows.itertuples()]
    matrices = [
        pd.DataFrame(np.where(np.eye(len(views)) > 0, 0.0, np.nan), views, views) for _ in range(3)
    ]
    for row in run.direction_cosines.dropna(subset="cosine").itertuples():
        pair = [view_name(name, row.severity) for name in (row.augmentation, row.other)]
        if not set(pair) <= set(views):
            continue
        for matrix, cosine in zip(matrices, (row.cosine, row.ci_high, row.ci_low), strict=True):
            matrix.loc[pair[0], pair[1]] = matrix.loc[pair[1], pair[0]] = 1 - cosine
    return matrices if rows["severity"].duplicated().any() else []


def undone_section(run: Run) -> Section:
    """How much of the shift is lost, and how much was only moved."""
    methods = [Column(method, method, method) for method in run.undone["method"].unique()]
    table = side_by_side(run.undone, "method", "r_squared"), [AUGMENTATION, *methods]
    best = run.undone.sort_values("r_squared", ascending=False)
    best = best.drop_duplicates(["severity", "augmentation"])
    drawn = {"undone": charts.draw_undone(run.undone)}
    return make_section("undone", drawn, [table], span=span(best, "r_squared"))


def neighbourhood_section(run: Run) -> Section:
    """What becomes of photos' neighbours, and of how embeddings fill their space."""
    rows = run.neighbourhoods
    title = "share of the 10 nearest photos that stay nearest"
    kept = rows[rows["measure"] == "neighbours_kept"]
    found = {"span": span(kept, "value"), "chance": short(kept["reference"].iloc[0])}
    table = rows.assign(measure=rows["measure"].str.replace("_", " "))
    drawn = {"neighbours_kept": charts.draw_against(kept, title)}
    return make_section("neighbourhoods", drawn, [table], **found)


def part_section(run: Run) -> Section:
    """What all photos share of the shift, and what is each photo's own."""
    rows = run.geometry
    parts = [Column(part.replace("_", " "), part, part) for part in rows["part"].unique()]
    table = side_by_side(rows, "part", "share"), [AUGMENTATION, *parts]
    common = span(rows[rows["part"] == "common"], "share")
    return make_section("parts", {"parts": charts.draw_parts(rows)}, [table], common=common)


def margin_section(run: Run) -> Section:
    """How much margins between classes shrink, and the flips that clean margins predict."""
    rows = run.margins[run.margins["prompt"] == ALL]
    words = {measure: span(of, "value") for measure, of in rows.groupby("measure")}
    within = run.geometry[run.geometry["part"] == "class_span"]
    words |= {"inside": span(within, "share"), "random": short(within["reference"].max())}
    spread = rows.loc[rows["measure"] == "flips", "prompt_std"].to_numpy()
    table = side_by_side(rows, "measure", "value").assign(prompt_std=spread)
    return make_section("margins", {}, [table], **words)
