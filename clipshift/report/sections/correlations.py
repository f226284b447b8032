"""What correlates with the shift over photos."""

from clipshift.report.charts.measures import draw_correlations
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import AUGMENTATION, PHOTOS, Column
from clipshift.report.words import p_value
from clipshift.results.runs import Run

COLUMNS = (
    AUGMENTATION,
    Column("with", "label"),
    Column("Spearman’s ρ", "rho", "ci", "+.2f"),
    Column("p (Holm)", "p_holm", form=p_value),
    PHOTOS,
)


def correlation_section(run: Run) -> Section | None:
    """What correlates with a large shift over photos."""
    rows = run.correlations.dropna(subset=["rho"]) if len(run.correlations) else run.correlations
    if rows.empty:
        return None
    labels = {facts.correlate: facts.correlate_label for facts in run.columns.values()}
    drawn = {"correlations": draw_correlations(run.correlations, run.columns)}
    data = rows.assign(label=rows["with"].map(labels))
    return make_section("correlations", drawn, [(data, COLUMNS)])
