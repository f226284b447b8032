"""The sections of a run's page, by topic: each says which figures and tables a run has."""

from dataclasses import replace

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

SECTIONS = {
    ranking.ranking_section: "summary",
    ranking.severity_section: "summary",
    ranking.dose_section: "dose",
    ranking.attack_section: "attack",
    measures.measure_section: "summary",
    thresholds.threshold_section: "cosines",
    measures.corruption_section: "corruption_error",
    texts.confidence_section: "confidence",
    texts.retrieval_section: "retrieval",
    measures.draw_section: "draws",
    inside.layer_section: "layers",
    components.component_section: "components",
    components.stage_section: "patching",
    geometry.part_section: "geometry",
    geometry.margin_section: "margins",
    encoded.encoded_section: "encoded",
    geometry.direction_section: "directions",
    geometry.undone_section: "undone",
    geometry.neighbourhood_section: "neighbourhoods",
    texts.text_section: "named",
    inside.gaze_section: "summary",
    inside.faithfulness_section: "faithfulness",
    inside.outlier_section: "outliers",
    geometry.similarity_section: "distances",
    measures.correlation_section: "correlations",
}
"""The sections in the order of the page, and the table that a run must have rows of for each. Some
are None all the same, where these rows show nothing."""


def run_sections(run: Run, dataset: ViewDataset) -> list[Section]:
    """The sections of a run's page.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown.
    """
    sections = [section(run) for section, table in SECTIONS.items() if len(getattr(run, table))]
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
    return replace(make_section("photos", about=about), explorer=explorer)
