"""Which cosine tells the same photo from another, and how many views it finds."""

from clipshift.report.charts.thresholds import draw_cosines
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import leading_rows, side_by_side, with_marks
from clipshift.report.words import short, with_interval
from clipshift.results.runs import Run
from clipshift.severities import ALL


def threshold_section(run: Run) -> Section | None:
    """How well views find their own photo in the gallery, and the thresholds to set."""
    rows = run.thresholds
    if rows.empty or run.cosines.empty:
        return None
    rate = rows["fpr"].map(" {:g}".format).where(rows["fpr"].notna(), "")
    wide = side_by_side(
        rows.assign(entry=rows["measure"] + rate),
        "entry",
        "value",
        ("severity", "augmentation", "impostors"),
    )
    data = with_marks(wide, run.trained_on, run.below_floor)
    everything = rows[(rows["augmentation"] == ALL) & (rows["impostors"] == "all")]
    shown = everything[everything["measure"] == "threshold"].dropna(subset="value")
    chart = draw_cosines(run.cosines[run.cosines["augmentation"] == ALL], shown)
    blank = everything.dropna(subset="reason").drop_duplicates("fpr")
    reasons = "; ".join(f"{fpr:g}: {why}" for fpr, why in blank[["fpr", "reason"]].to_numpy())
    section = make_section(
        "thresholds",
        {"cosines": chart},
        [data[data["impostors"] == "all"], data],
        photos=f"{rows['n'].max():,.0f}",
        blank=f" Blank where photos are too few; all augmentations, {reasons}." * bool(reasons),
    )
    leading = leading_rows(everything).dropna(subset="value").set_index("measure")
    numbers = leading[["value", "ci_low", "ci_high"]]
    if "found" in leading.index:
        rate = leading["fpr"].min()
        threshold, found = numbers[leading["fpr"] == rate].to_numpy()
        section.finding = (
            f"Above a cosine of {with_interval(*threshold)}: {short(*found)} of the views with "
            f"their own photo, and 1 in {1 / rate:,.0f} pairs of different photos."
        )
    else:
        recall = short(*numbers.loc["recall1"])
        section.finding = f"Share of the views that are nearest to their own photo: {recall}."
    return section
