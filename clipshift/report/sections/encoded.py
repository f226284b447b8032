"""Encoded or destroyed: what embeddings still tell of augmentations and draws."""

from clipshift.report.charts.encoded import ENCODED, RETAINED, draw_plane
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows, side_by_side
from clipshift.report.words import listed, short
from clipshift.results.runs import Run
from clipshift.severities import ALL

SHOWN = ("auroc", "read_off")
"""The measures that have a column in the page's table."""


def encoded_section(run: Run) -> Section | None:
    """Which augmentations could be undone, which leave no trace, and which lose the photo."""
    if run.encoded.empty:
        return None
    keys = ["severity", "augmentation"]
    retained = run.summary[run.summary["measure"] == "retained"]
    is_told = run.encoded["measure"].isin(SHOWN)
    explained = run.encoded[~is_told].dropna(subset="ci_low")  # others are 0
    table = side_by_side(run.encoded[is_told], "measure", "value")
    table = table.merge(retained.rename(columns={"mean": "retained"}), "inner", keys)
    leading, every = leading_rows(table), leading_rows(run.encoded)
    told = every[(every["augmentation"] == ALL) & (every["measure"] == "read_off")].iloc[0]
    encoded, kept = leading["auroc"] >= ENCODED, leading["retained"] >= RETAINED
    quadrants = {"undoable": encoded & kept, "invariant": ~encoded & kept, "lost": ~kept}
    names = {
        name: listed(leading.loc[chosen, "augmentation"].tolist()) if chosen.any() else "none"
        for name, chosen in quadrants.items()
    }
    accuracy, kinds = short(*told[["value", "ci_low", "ci_high"]]), 1 + len(leading)
    drawing = {"encoded": draw_plane(table)}
    return make_section(
        "encoded", drawing, [table, explained], accuracy=accuracy, kinds=kinds, **names
    )
