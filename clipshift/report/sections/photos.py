"""The photos of a run, to explore."""

from clipshift.data.dataset import ViewDataset
from clipshift.report.explorer import explorer_data
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.words import counted, model_in_words
from clipshift.results.runs import Run


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
    if explorer["unlisted"]:
        about += f" {explorer['unlisted']:,} between the most and the least moved are not listed."
    section = make_section("photos", about=about)
    section.explorer = explorer
    return section
