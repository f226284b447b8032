"""The sections of a run's page, by topic: each says which figures and tables a run has."""

from clipshift.data.dataset import ViewDataset
from clipshift.report.page import Section
from clipshift.report.sections.correlations import correlation_section
from clipshift.report.sections.corruptions import corruption_section
from clipshift.report.sections.gaze import gaze_section, outlier_section
from clipshift.report.sections.geometry import (
    direction_section,
    neighbourhood_section,
    similarity_section,
    undone_section,
)
from clipshift.report.sections.layers import layer_section
from clipshift.report.sections.measures import measure_section
from clipshift.report.sections.photos import photo_section
from clipshift.report.sections.ranking import ranking_section, severity_section
from clipshift.report.sections.texts import text_section
from clipshift.results.runs import Run

SECTIONS = (
    ranking_section,
    severity_section,
    measure_section,
    corruption_section,
    layer_section,
    direction_section,
    undone_section,
    neighbourhood_section,
    text_section,
    gaze_section,
    outlier_section,
    similarity_section,
    correlation_section,
)
"""The sections in the order of the page; each is None for a run that has nothing to show in it."""


def run_sections(run: Run, dataset: ViewDataset) -> list[Section]:
    """The sections of a run's page.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown.
    """
    sections = [section(run) for section in SECTIONS]
    return [*filter(None, sections), photo_section(run, dataset)]
