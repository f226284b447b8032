"""The sections of a run's page, by topic: each says which figures and tables a run has."""

from clipshift.data.dataset import ViewDataset
from clipshift.report.explorer import explorer_data
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.sections import (
    components,
    encoded,
    geometry,
    inside,
    measures,
    ranking,
    texts,
    thresholds,
)
from clipshift.report.words import counted, model_in_words
from clipshift.results.runs import Run

SECTIONS = (
    ranking.ranking_section,
    ranking.severity_section,
    ranking.dose_section,
    ranking.attack_section,
    measures.measure_section,
    thresholds.threshold_section,
    measures.corruption_section,
    texts.confidence_section,
    texts.retrieval_section,
    measures.draw_section,
    inside.layer_section,
    components.component_section,
    components.stage_section,
    geometry.part_section,
    geometry.margin_section,
    encoded.encoded_section,
    geometry.direction_section,
    geometry.undone_section,
    geometry.neighbourhood_section,
    texts.text_section,
    inside.gaze_section,
    inside.faithfulness_section,
    inside.outlier_section,
    geometry.similarity_section,
    measures.correlation_section,
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


def photo_section(run: Run, dataset: ViewDataset) -> Section:
    """The photo explorer.

    Args:
        run: The run.
        dataset: Its photos.
    """
    explorer = explorer_data({model_in_words(run.info.model): run}, dataset)
    pictured = sum(bool(shown["pictures"]) for shown in explorer["shown"].values())
    about = (
        f"All {counted(run.info.data.photos, 'photo')}, by how far they move; "
        f"{pictured} with pictures: those that moved most, those that moved least, and some "
        "between. Choose one to see its views, where the model looks, and its numbers."
    )
    section = make_section("photos", about=about)
    section.explorer = explorer
    return section
