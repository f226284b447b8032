"""The report: one self-contained HTML page."""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from clipshift.augment import PAPER
from clipshift.measure import Facts
from clipshift.report.figures import shown_measures
from clipshift.report.words import with_interval
from clipshift.results import write_whole

CAPTIONS = {
    "rankings": "What the paper's unequal strengths decide, and what is left when every "
    "augmentation distorts equally.",
    "severity": "The same draws, stronger: each photo's curve is paired with itself.",
    "ranking": "Which augmentations move the embedding most.",
    "cosine_distribution": "How the cosine similarity to the clean view spreads over photos.",
    "l2_distribution": "How the distance of unnormalised embeddings spreads over photos.",
    "heatmap": "Every measure under every augmentation.",
    "radar": "What an augmentation preserves: embedding, gaze, and pixels.",
    "distances": "Which augmentations take the same photo to the same place.",
    "layers": "Where in the network the shift starts.",
    "correlations": "What goes with a large shift; it need not be its cause.",
    "moved_most": "The photos whose embedding moved farthest on average over all augmented views.",
    "moved_least": "The photos whose embedding moved least on average over all augmented views.",
    "difference": "The mean difference of the two runs, photo by photo.",
    "interpolation": "Between the base and the fine-tuned weights.",
    "curves": "The mean shift of every job against severity.",
    "gallery": "What the encoder saw, and where it looked.",
}
UNEQUAL = (
    " The paper's augmentations are unequally strong: this ranking mixes the model's sensitivity "
    "with their strength."
)


def write_report(
    folder: Path,
    title: str,
    facts: Mapping[str, Any],
    warnings: list[str],
    tables: Mapping[str, list[list[str]]],
    columns: Sequence[Facts],
    clean: str,
    figures: Mapping[str, Path],
) -> Path:
    """Write ``report.html``.

    Args:
        folder: The run's folder.
        title: What was run.
        facts: Name and value of what a reader must know of the run.
        warnings: What limits the numbers, a sentence each.
        tables: The summary by severity, each from `ranked_table`.
        columns: What the tables' measures are.
        clean: Zero-shot accuracies on the clean views; empty where photos have no labels.
        figures: Image files by figure name; they are put into the page.

    Returns:
        The page's path.
    """
    return _write_page(
        folder / "report.html",
        "page.html.jinja",
        figures,
        severities=list(tables),
        title=title,
        about="This run",
        facts=facts,
        warnings=warnings,
        tables=tables,
        columns=columns,
        clean=clean,
    )


def write_comparison(
    folder: Path,
    title: str,
    facts: Mapping[str, Any],
    warnings: Sequence[str],
    tables: Mapping[str, list[list[str]]],
    figures: Mapping[str, Path],
) -> Path:
    """Write ``comparison.html``.

    Args:
        folder: Where to.
        title: What is compared.
        facts: Name and value of what a reader must know.
        warnings: What limits the numbers, a sentence each.
        tables: By their heads, header row first.
        figures: Image files by figure name; they are put into the page.

    Returns:
        The page's path.
    """
    return _write_page(
        folder / "comparison.html",
        "comparison.html.jinja",
        figures,
        title=title,
        about="What is compared",
        paired=any("p (Holm)" in table[0] for table in tables.values()),
        facts=facts,
        warnings=warnings,
        tables=tables,
    )


def _embedded(file: Path) -> str:
    """An image file as a data URL."""
    kind = mimetypes.guess_type(file)[0]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def caption(figure: str, severities: Sequence[str]) -> str:
    """The words below a figure.

    Args:
        figure: Its name, with ``@SEVERITY`` where the page has several.
        severities: The page's severities.
    """
    name, _, severity = figure.partition("@")
    of_paper = [severity] == [PAPER] or (not severity and list(severities) == [PAPER])
    return CAPTIONS[name] + (UNEQUAL if name == "ranking" and of_paper else "")


def _write_page(
    path: Path,
    template: str,
    figures: Mapping[str, Path],
    severities: Sequence[str] = (),
    **content: Any,
) -> Path:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("clipshift.report", "."), autoescape=True
    )
    shown = [
        {"name": name, "caption": caption(name, severities), "source": _embedded(file)}
        for name, file in figures.items()
    ]
    text = templates.get_template(template).render(figures=shown, **content)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


def clean_accuracy(summary: pd.DataFrame) -> str:
    """Zero-shot accuracies on the clean views with intervals; empty where photos have no labels."""
    rows = summary.drop_duplicates("measure").set_index("measure")
    names = {f"top-{k}": f"zero_shot_top{k}_clean" for k in (1, 5)}
    return ", ".join(
        f"{short} {with_interval(*rows.loc[name, ['mean', 'ci_low', 'ci_high']])}"
        for short, name in names.items()
        if name in rows.index
    )


def marked(augmentation: str, trained_on: Sequence[str]) -> str:
    """An augmentation's name, with a mark where the model was trained on it."""
    return f"{augmentation} (trained on)" if augmentation in trained_on else augmentation


def ranked_table(
    summary: pd.DataFrame, columns: Mapping[str, Facts], trained_on: Sequence[str]
) -> list[list[str]]:
    """The summary for people: one row per augmentation, the largest shift first.

    Args:
        summary: Means with intervals, of one severity.
        columns: What the measures are.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.

    Returns:
        Rows of cells, header first.
    """
    measures = shown_measures(summary, columns)
    rows = summary.set_index(["measure", "augmentation"])
    augmentations = list(summary["augmentation"].unique())
    if "cosine_similarity" in measures:
        augmentations.sort(key=lambda name: rows.loc[("cosine_similarity", name), "mean"])

    def cell(measure: str, augmentation: str) -> str:
        return with_interval(*rows.loc[(measure, augmentation), ["mean", "ci_low", "ci_high"]])

    header = ["augmentation", *(columns[measure].short for measure in measures)]
    return [header] + [
        [marked(name, trained_on), *(cell(m, name) for m in measures)] for name in augmentations
    ]
