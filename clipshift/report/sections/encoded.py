"""Encoded or destroyed: what embeddings still tell of augmentations and draws."""

from clipshift.report.charts.encoded import ENCODED, RETAINED, draw_plane
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows, side_by_side
from clipshift.report.words import listed, short
from clipshift.results.runs import Run


def encoded_section(run: Run) -> Section:
    """Which augmentations could be undone, which leave no trace, and which lose the photo."""
    retained = run.summary[run.summary["measure"] == "retained"]
    is_told = run.encoded["measure"].isin(["auroc", "read_off"])
    explained = run.encoded[~is_told].dropna(subset="ci_low")  # others are 0
    table = side_by_side(run.encoded[is_told], "measure", "value")
    retained = retained.rename(columns={"mean": "retained"})
    table = table.merge(retained, "inner", ["severity", "augmentation"])
    leading, accuracy = leading_rows(table), leading_rows(run.encoded[is_told]).iloc[0]  # of all
    told, kept = leading["auroc"] >= ENCODED, leading["retained"] >= RETAINED
    quadrants = {"undoable": told & kept, "invariant": ~told & kept, "lost": ~kept}
    names = {n: list(leading.loc[of, "augmentation"]) for n, of in quadrants.items()}
    return make_section(
        "encoded",
        {"encoded": draw_plane(table)},
        [table, explained],
        accuracy=short(*accuracy[["value", "ci_low", "ci_high"]]),
        kinds=1 + len(leading),
        encoded=ENCODED,
        retained=RETAINED,
        **{quadrant: listed(of) if of else "none" for quadrant, of in names.items()},
    )
