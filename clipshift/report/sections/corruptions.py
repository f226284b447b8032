"""Errors under stored corruptions, beside the shift."""

from clipshift.report.answer import corruption_error
from clipshift.report.charts.measures import draw_corruption_error
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import COUNT, Column
from clipshift.results.corruptions import errors_by_corruption
from clipshift.results.runs import Run

COLUMNS = (
    Column("corruption", "augmentation"),
    Column("error, %", "error"),
    Column("relative to AlexNet, %", "relative_error"),
    Column("1 − cosine", "shift"),
    Column("severities", "severities", form=COUNT),
)


def corruption_section(run: Run) -> Section | None:
    """Errors under stored corruptions beside the shift."""
    errors = run.corruption_error
    if errors.empty:
        return None
    shifted = errors["shift"].notna().any()
    data = errors_by_corruption(errors)
    percent = {share: 100 * data[share] for share in ("error", "relative_error")}
    drawn = {"corruption_error": draw_corruption_error(errors)} if shifted else {}
    section = make_section("corruptions", drawn, [(data.assign(**percent), COLUMNS)])
    section.text = corruption_error(run)
    return section
