"""Which cosine tells the same photo from another, and how many views it finds."""

from dataclasses import replace

from clipshift.report.charts.thresholds import draw_cosines
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows, side_by_side, with_marks
from clipshift.report.words import with_interval
from clipshift.results.runs import Run
from clipshift.severities import ALL


def threshold_section(run: Run) -> Section:
    """How well views find their own photo in the gallery, and the thresholds to set."""
    rows = run.thresholds
    entry = rows["measure"] + rows["fpr"].map(" {:g}".format).where(rows["fpr"].notna(), "")
    index = ("severity", "augmentation", "impostors")
    data = side_by_side(rows.assign(entry=entry), "entry", "value", index)
    data = with_marks(data, run.trained_on, run.below_floor)
    of_all = rows[(rows["augmentation"] == ALL) & (rows["impostors"] == "all")]
    shown = of_all[of_all["measure"] == "threshold"].dropna(subset="value")
    chart = draw_cosines(run.cosines[run.cosines["augmentation"] == ALL], shown)
    leading = leading_rows(of_all.dropna(subset=["fpr", "value"]))
    words = {"threshold": "", "found": "", "pairs": 0.0}
    for row in leading.itertuples():  # of the lowest rate in the end
        words |= {row.measure: with_interval(row.value, row.ci_low, row.ci_high)}
        words |= {"pairs": 1 / row.fpr}
    tables = [data[data["impostors"] == "all"], *([data] if len(shown) else [])]
    section = make_section("thresholds", {"cosines": chart}, tables, n=rows["n"].max(), **words)
    return section if len(leading) else replace(section, finding="")
