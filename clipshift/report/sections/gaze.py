"""Whether the model looks elsewhere, and how much of its gaze is on outlier tokens."""

from clipshift.report.charts.curves import draw_layers
from clipshift.report.charts.gaze import draw_gaze
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import AUGMENTATION, PHOTOS, Column
from clipshift.report.words import gaze_in_words
from clipshift.results.runs import Run

OUTLIER_COLUMNS = (
    AUGMENTATION,
    Column("outlier tokens", "tokens", "ci"),
    Column("of all patches", "share"),
    Column("share of the gaze", "gaze_share", "gaze"),
    PHOTOS,
)


def gaze_section(run: Run) -> Section | None:
    """How far the gaze on views is from the gaze on clean views."""
    measures = {"gaze_divergence", "gaze_divergence_aligned"} & set(run.summary["measure"])
    kind = run.info.model.gaze
    if not measures or kind is None:
        return None
    caption = (
        "Circles: has the model looked elsewhere on the photo? Its gaze is moved back with the "
        "pixels first. Squares: compared in the view, where a gaze that follows its object moves "
        "too."
        if len(measures) == 2
        else "How far the gaze on the view is from the gaze on the clean view."
    )
    drawn = {"gaze": draw_gaze(run.summary)}
    return make_section("gaze", drawn, kind=gaze_in_words(kind), caption=caption)


def outlier_section(run: Run) -> Section | None:
    """How many patch tokens are outliers, and how much of the gaze is on them."""
    rows, layer = run.outliers, run.info.model.gaze_layer
    if rows.empty or not run.info.config.inside:
        return None
    if not rows["tokens"].any():
        section = make_section("outliers")
        section.text = [*section.text, "There are none, in any layer."]
        return section
    seen = rows[rows["layer"] == layer]
    tables = [(seen, OUTLIER_COLUMNS)] if seen["gaze_share"].notna().any() else []
    return make_section("outliers", {"outliers": draw_layers(rows, "tokens")}, tables, layer=layer)
