"""Report a finished run: its page, the files for other tools, W&B, and the terminal's summary."""

from pathlib import Path
from typing import Any

from clipshift.data.dataset import ViewDataset
from clipshift.errors import from_here
from clipshift.integrations import publishing
from clipshift.progress import Progress
from clipshift.report import terminal
from clipshift.report.answer import corruption_error
from clipshift.report.run import write_report
from clipshift.report.words import clean_accuracy
from clipshift.results.rebuild import rebuild_views
from clipshift.results.runs import Run, misfits, read_run


def report_run(run: Run, dataset: ViewDataset, logger: Any = None) -> None:
    """Write the report, track it, and print the summary.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown; those that are gone are left out.
        logger: The run's logger of Lightning's; None for none.
    """
    with Progress("Drawing figures and page"):
        publishing.write_published(run)
        content, report, files = write_report(run, dataset)
    notes = list(content.notes)
    clean = clean_accuracy(run.summary)
    lines = [f"accuracy on the clean views: {clean}"] if clean else []
    lines += corruption_error(run)
    copies = [section for section in content.sections if section.name == "thresholds"]
    lines += [f"same picture or another: {found.finding}" for found in copies if found.finding]
    lines += [f"{name}: {content.facts[name]}" for name in ("embedding", "gaze")]
    lines.append(f"report: {from_here(report)}")
    if logger is not None:
        from clipshift.integrations import tracking

        if isinstance(logger, tracking.WandbLogger):
            with tracking.optional_tracking(), Progress("Tracking in W&B"):
                [photos] = [s.explorer for s in content.sections if s.explorer]
                notes += tracking.track_results(logger, run, files, report, photos)
                lines.append(tracking.run_place(logger))
        else:
            logger.log_metrics(tracking.means(run.summary))
    terminal.print_run(run, content.title, content.answer, notes, lines)


def remake_report(folder: Path, fetch: bool) -> None:
    """Make the figures and the page of a finished run again from its files: ``report=RUN``.

    Args:
        folder: The run's folder.
        fetch: Whether its photos may be read again from an address.

    Raises:
        UserError: If the folder holds no finished run, its photos cannot be read, its files do not
            fit together, or it was made with parts that are not clipshift's.
    """
    run = read_run(folder)
    with misfits(f"the run in {folder}"):
        report_run(run, rebuild_views(run, fetch))
