"""The command ``clipshift parity A B``: from a checked configuration to a verdict."""

from pathlib import Path

from omegaconf import DictConfig

from clipshift.cli.build import load_photos
from clipshift.comparison.parity import make_stack, measure_parity
from clipshift.comparison.parity_report import report_parity
from clipshift.errors import from_here
from clipshift.report.terminal import make_console, print_text

EXIT_CODE = 3
"""Of models that do not agree within the tolerance; a fault ends with 1."""


def parity(cfg: DictConfig, folder: Path) -> bool:
    """Compare two models on the same photos, and write and print how far they agree.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml`` with ``experiment=parity``.
        folder: Where ``parity.csv``, ``parity.json`` and ``parity.html`` go.

    Returns:
        Whether all photos are within the tolerance.

    Raises:
        UserError: If a model or the photos cannot be loaded.
    """
    a, b = (make_stack(name, precision=cfg.precision) for name in (cfg.parity.a, cfg.parity.b))
    measured = measure_parity(a, b, load_photos(cfg.data)[0], cfg.parity.tolerance)
    page = report_parity(measured, folder)
    print_text(make_console(), "\n".join(measured.verdict))
    print(f"report: {from_here(page)}")
    return measured.passed
