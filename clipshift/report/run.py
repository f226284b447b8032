"""The report of a run, made from its files: figures and page."""

from pathlib import Path

from clipshift.data.dataset import ViewDataset
from clipshift.report.answer import answer, measured_in_words
from clipshift.report.charts.vega import save_figures
from clipshift.report.notes import run_notes
from clipshift.report.page import Page, link_comparison, write_page
from clipshift.report.sections import run_sections
from clipshift.report.sections.provenance import citation, methods, provenance
from clipshift.report.sections.ranking import leading_figure
from clipshift.report.words import counted, model_in_words
from clipshift.results.runs import Run
from clipshift.severities import leading_severity


def write_report(run: Run, dataset: ViewDataset) -> tuple[Page, Path, dict[str, Path]]:
    """Write ``report.html`` and ``figures/``.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown; those that are gone are left out.

    Returns:
        What the page says, its path, and the figures by name.
    """
    page = report_page(run, dataset)
    source = f"{page.title}; seed {run.info.seed}, {run.info.precision}; clipshift"
    files = save_figures(page.charts, run.folder / "figures", source)
    report = write_page(run.folder / "report.html", page)
    link_comparison(report)
    return page, report, files


def report_page(run: Run, dataset: ViewDataset) -> Page:
    """What ``report.html`` says.

    Args:
        run: The run.
        dataset: Its photos.
    """
    severities = list(run.summary["severity"].unique())
    photos = counted(run.info.data.photos, "photo")
    return Page(
        title=f"Embedding shift of {model_in_words(run.info.model)} on {photos}",
        answer=answer(run),
        measured=measured_in_words(run),
        notes=run_notes(run),
        lead=leading_figure(run),
        sections=run_sections(run, dataset),
        facts=provenance(run),
        severities=severities if len(severities) > 1 else [],
        severity=leading_severity(severities),
        citation=citation(run),
        methods=methods(run),
    )
