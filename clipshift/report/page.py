"""The report: one self-contained HTML page."""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from clipshift.results import write_whole

CAPTIONS = {
    "rankings": "What the paper's unequal strengths decide, and what is left when every "
    "augmentation distorts equally.",
    "severity": "The same draws, stronger: each photo's curve is paired with itself.",
    "ranking": "Which augmentations move the embedding most. The paper's severities are unequal, "
    "so that its ranking mixes the model's sensitivity with their strength.",
    "cosine_distribution": "How the cosine similarity to the clean view spreads over photos.",
    "l2_distribution": "How the distance of unnormalised embeddings spreads over photos.",
    "heatmap": "Every measure under every augmentation.",
    "radar": "What an augmentation preserves: embedding, gaze, and pixels.",
    "distances": "Which augmentations take the same photo to the same place.",
    "layers": "Where in the network the shift starts.",
    "correlations": "What goes with a large shift; it need not be its cause.",
    "moved_most": "The photos that the encoder is least sure of, whatever is done to them.",
    "moved_least": "The photos that stay where they are.",
    "difference": "The mean difference of the two runs, photo by photo.",
    "interpolation": "Between the base and the fine-tuned weights.",
    "curves": "The mean shift of every job against severity.",
    "gallery": "What the encoder saw, and where it looked.",
}


def write_report(
    folder: Path,
    title: str,
    facts: Mapping[str, Any],
    warnings: list[str],
    tables: Mapping[str, list[list[str]]],
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
        clean: Zero-shot accuracies on the clean views; empty where photos have no labels.
        figures: Image files by figure name; they are put into the page.

    Returns:
        The page's path.
    """
    return _write_page(
        folder / "report.html",
        "page.html.jinja",
        figures,
        title=title,
        about="This run",
        facts=facts,
        warnings=warnings,
        tables=tables,
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


def _write_page(path: Path, template: str, figures: Mapping[str, Path], **content: Any) -> Path:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("clipshift.report", "."), autoescape=True
    )
    shown = [
        {
            "name": name,
            "caption": CAPTIONS[name.partition("@")[0]],
            "source": _embedded(file),
        }
        for name, file in figures.items()
    ]
    text = templates.get_template(template).render(figures=shown, **content)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


def clean_accuracy(summary: pd.DataFrame) -> str:
    """Zero-shot accuracies on the clean views in words; empty where photos have no labels."""
    means = summary.drop_duplicates("measure").set_index("measure")["mean"]
    return ", ".join(
        f"top-{k} {means[f'zero_shot_top{k}_clean']:.3f}"
        for k in (1, 5)
        if f"zero_shot_top{k}_clean" in means
    )


def marked(augmentation: str, trained_on: Sequence[str]) -> str:
    """An augmentation's name, with a mark where the model was trained on it."""
    return f"{augmentation} (trained on)" if augmentation in trained_on else augmentation


def ranked_table(
    summary: pd.DataFrame, names: Mapping[str, str], intervals: bool, trained_on: Sequence[str]
) -> list[list[str]]:
    """The summary for people: a row an augmentation, the largest shift first.

    Args:
        summary: Means with intervals, of one severity.
        names: The measures to show, in order, and what to call them; the run may lack some.
        intervals: Whether every mean has half the width of its 95 % interval beside it, or only the
            cosine.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.

    Returns:
        Rows of cells, header first.
    """
    measures = [measure for measure in names if measure in set(summary["measure"])]
    rows = summary.set_index(["measure", "augmentation"])
    augmentations = list(summary["augmentation"].unique())
    if "cosine_similarity" in measures:
        augmentations.sort(key=lambda name: rows.loc[("cosine_similarity", name), "mean"])

    def cell(measure: str, augmentation: str) -> str:
        row = rows.loc[(measure, augmentation)]
        half = (row["ci_high"] - row["ci_low"]) / 2
        known = np.isfinite(half) and (intervals or measure == "cosine_similarity")
        interval = f" ± {half:.3f}" if known else ""
        return f"{row['mean']:.3f}{interval}"

    header = ["augmentation", *(names[measure] for measure in measures)]
    return [header] + [
        [marked(name, trained_on), *(cell(m, name) for m in measures)] for name in augmentations
    ]
