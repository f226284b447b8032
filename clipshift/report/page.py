"""The pages: one self-contained HTML file each, which asks nothing of the network."""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import vl_convert
from markupsafe import Markup, escape

from clipshift.measure import Facts
from clipshift.report.charts import look, vega
from clipshift.report.words import p_value, ranks_in_words, with_interval
from clipshift.results import normalized_change, shown_measures, write_whole

WIDE = 560
"""The least width in pixels of figures with names at their sides."""
LIGHT = {"ink": look.INK, "muted": look.MUTED, "grid": look.GRID}
DARK = {"ink": "#e8eaed", "muted": "#a3abb6", "grid": "#30353c"}
"""The colours of charts on a light and on a dark page, as in ``page.css``."""


class Cell(NamedTuple):
    """A table's cell.

    Attributes:
        text: What it says.
        value: What it is sorted by; None where it is sorted by its text.
        tint: How strongly it is painted, in [0, 1].
    """

    text: str
    value: float | None = None
    tint: float = 0.0


@dataclass
class Table:
    """A table that people can sort.

    Attributes:
        head: Names of the columns.
        rows: Cells by row.
        severities: Of each row, where the page's choice of severity applies.
        file: The CSV file that has its numbers, beside the page.
        note: What to know of it.
        name: Its name, for those who cannot see it.
        figure: The chart of the same numbers, saved beside the page.
        folded: Whether it is shown only when asked for.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str
    severities: Sequence[str] = ()
    file: str = ""
    note: str = ""
    figure: "Figure | None" = None
    folded: bool = False


@dataclass
class Figure:
    """A chart with its caption.

    Attributes:
        name: Under which it is saved: ``figures/NAME.svg``, or ``figures/NAME@SEVERITY.svg``.
        chart: From `clipshift.report.charts`.
        caption: What it shows.
        notes: What else to say of it, by severity.
        least: Its least width in pixels: on a narrower page it scrolls.
    """

    name: str
    chart: vega.Chart
    caption: str
    notes: Mapping[str, str] = field(default_factory=dict)
    least: int = 0

    @cached_property
    def drawn(self) -> vega.Spec:
        """The chart as Vega-Lite has it."""
        return vega.spec_of(self.chart)

    @property
    def severities(self) -> list[str]:
        """The severities that it can show."""
        return vega.severities_of(self.drawn)

    @property
    def description(self) -> str:
        """What it shows, for those who cannot see it."""
        return str(self.drawn.get("description", self.caption))


@dataclass
class Section:
    """A part of a page, with its entry in the table of contents.

    Attributes:
        name: Its anchor.
        title: Its head.
        text: Paragraphs before its figures.
        figures: Its charts.
        tables: Its tables.
        explorer: The photos to explore, from `clipshift.report.explorer.explorer_data`.
        definitions: Terms and what they mean.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    explorer: Mapping[str, Any] | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Page:
    """What a page says.

    Attributes:
        title: What was run or compared.
        answer: What was found, in sentences.
        measured: What was measured, in a sentence.
        notes: What limits the numbers, a sentence each.
        lead: The figure beside the answer.
        sections: Its parts.
        severities: What a reader can choose from, where there are several.
        severity: Which is chosen at first.
        facts: Provenance, by name.
        citation: A BibTeX entry; empty where there is none.
        methods: A sentence for a methods section.
        about: Head of the provenance.
    """

    title: str
    answer: Sequence[str]
    measured: str
    notes: Sequence[str]
    lead: Figure | None
    sections: Sequence[Section]
    facts: Mapping[str, Any]
    severities: Sequence[str] = ()
    severity: str = ""
    citation: str = ""
    methods: str = ""
    about: str = "This run"

    @property
    def charts(self) -> dict[str, vega.Spec]:
        """The charts that it shows, by name."""
        drawn = [figure for section in self.sections for figure in section.figures]
        return {figure.name: figure.drawn for figure in ([self.lead] if self.lead else []) + drawn}

    @property
    def saved(self) -> dict[str, vega.Spec]:
        """All charts that lie beside the page, by name: those that it shows, and of its tables."""
        tables = [table for section in self.sections for table in section.tables]
        of_tables = [table.figure for table in tables if table.figure]
        return self.charts | {figure.name: figure.drawn for figure in of_tables}


def write_page(path: Path, page: Page) -> Path:
    """Write a page.

    Args:
        path: The HTML file.
        page: What it says.

    Returns:
        The file's path.
    """
    scripts = [chart_library(), Path(__file__).with_name("page.js").read_text(encoding="utf-8")]
    text = page_template().render(
        page=page,
        charts={name: vega.standalone(chart) for name, chart in page.charts.items()},
        configs={"light": look.config(**LIGHT), "dark": look.config(**DARK)},
        scripts=[Markup(script) for script in scripts],
        policy=content_security_policy(scripts),
    )
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


@lru_cache
def page_template() -> jinja2.Template:
    """The template of all pages."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("clipshift.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["rich"] = rich
    templates.filters["json"] = embedded_json
    return templates.get_template("page.html.jinja")


@lru_cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which a page holds in itself."""
    bundle = vl_convert.javascript_bundle(vl_version=vega.VEGALITE)  # type: ignore[call-arg]
    return bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def content_security_policy(scripts: Sequence[str]) -> str:
    """The policy that lets a page run these scripts, show what it holds, and load nothing.

    Styles may be inline: bars and tints are set by their attributes.
    """
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded_json(content: Any) -> Markup:
    """JSON for a script element: no text of it can end the element, or begin another."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def rich(text: str) -> Markup:
    """Text for people: what is in backquotes as code, intervals smaller, minus signs as such.

    Example:
        >>> print(rich("`noise` <b>: 0.42 [0.38, 0.46]"))
        <code>noise</code> &lt;b&gt;: 0.42 <span class="ci">[0.38, 0.46]</span>
    """
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    interval = r"(\[[-+−]?[\d.]+(?: ?%)?, [-+−]?[\d.]+(?: ?%)?\])"
    return Markup(re.sub(interval, r'<span class="ci">\1</span>', safe))


def clean_accuracy(summary: pd.DataFrame) -> str:
    """Zero-shot accuracies on the clean views with intervals; empty where photos have no labels."""
    rows = summary.dropna(subset="mean").drop_duplicates("measure").set_index("measure")
    names = {f"top-{k}": f"zero_shot_top{k}_clean" for k in (1, 5)}
    return ", ".join(
        f"{short} {with_interval(*rows.loc[name, ['mean', 'ci_low', 'ci_high']])}"
        for short, name in names.items()
        if name in rows.index
    )


def marked(augmentation: str, trained_on: Sequence[str], below: bool = False) -> str:
    """An augmentation's name, marked where the model was trained on it or rounding may be all."""
    name = f"{augmentation} (trained on)" if augmentation in trained_on else augmentation
    return f"{name} (below the floor)" if below else name


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
    table = measure_table(summary, columns, trained_on)
    return [list(table.head), *([cell.text for cell in row] for row in table.rows)]


def measure_table(
    summary: pd.DataFrame,
    columns: Mapping[str, Facts],
    trained_on: Sequence[str],
    below: Collection[tuple[str, str]] = (),
) -> Table:
    """All means with intervals, painted as `clipshift.report.charts.measures.draw_heatmap` does.

    Args:
        summary: Means with intervals.
        columns: What the measures are.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.
        below: Augmentations and severities whose shift may be rounding, to be marked.
    """
    measures = shown_measures(summary, columns)
    rows, severities = [], []
    for severity, group in summary.groupby("severity", sort=False):
        cells = group.set_index(["measure", "augmentation"])
        names = list(group["augmentation"].unique())
        if "cosine_similarity" in measures:
            names.sort(key=lambda name: cells.loc[("cosine_similarity", name), "mean"])
        tints = normalized_change(group, columns)
        for name in names:
            made = [cells.loc[(m, name), ["mean", "ci_low", "ci_high"]] for m in measures]
            rows.append(
                [Cell(marked(name, trained_on, (name, str(severity)) in below))]
                + [
                    Cell(with_interval(*ends), _value(ends["mean"]), float(tints.loc[name, m]))
                    for m, ends in zip(measures, made, strict=True)
                ]
            )
            severities.append(str(severity))
    return Table(
        ["augmentation", *(columns[m].short for m in measures)],
        rows,
        "Every measure under every augmentation",
        severities,
        "summary.csv",
        "Means over photos against the clean view, with 95 % intervals. Painted: how far from no "
        "change, in shares of a column’s farthest; blank where it may be no change.",
    )


def number(value: float, low: float = np.nan, high: float = np.nan, digits: str = ".3f") -> Cell:
    """The cell of a number with its interval; empty where it is not known."""
    text = with_interval(value, low, high, digits) if np.isfinite(value) else ""
    return Cell(text, _value(value))


def probability(p: float) -> Cell:
    """The cell of a p-value; empty where it is not known."""
    return Cell(p_value(p) if np.isfinite(p) else "", _value(p))


def _value(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def ranking_table(
    ranking: pd.DataFrame,
    summary: pd.DataFrame,
    trained_on: Sequence[str],
    below: Collection[tuple[str, str]] = (),
    distortion: str = "",
) -> Table:
    """The ranking with what the choice of photos leaves open.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        summary: From `clipshift.results.summarize`.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.
        below: Augmentations and severities whose shift may be rounding, to be marked.
        distortion: The short name of what severities were matched by, where they were.
    """
    relative = summary[summary["measure"] == "relative_shift"]
    relative = relative.set_index(["augmentation", "severity"])
    rows = []
    for row in ranking.itertuples():
        key = (row.augmentation, row.severity)
        ends = relative.loc[key, ["mean", "ci_low", "ci_high"]] if key in relative.index else None
        gap = with_interval(row.difference, row.difference_low, row.difference_high)
        rows.append(
            [
                Cell(marked(row.augmentation, trained_on, key in below)),
                Cell(ranks_in_words(row.rank_low, row.rank_high), row.rank),
                Cell(with_interval(row.shift, row.ci_low, row.ci_high), row.shift),
                Cell("" if ends is None else with_interval(*ends),
                     None if ends is None else _value(ends["mean"])),
                Cell(gap if np.isfinite(row.difference) else "", _value(row.difference)),
                *([number(row.distortion, row.distortion_low, row.distortion_high)]
                  if distortion else []),
                Cell(str(row.n), row.n),
            ]
        )  # fmt: skip
    return Table(
        [
            "augmentation",
            "rank",
            "1 − cosine",
            "relative shift",
            "ahead of the next by",
            *([distortion] if distortion else []),
            "photos",
        ],
        rows,
        "Augmentations by their shift",
        list(ranking["severity"]),
        "ranking.csv",
        "Ranks are intervals from differences on the same photos: 6–8 means that all three places "
        "are possible. “Ahead of the next by” is the paired difference in 1 − cosine. The "
        "intervals of all ranks and differences of a severity hold together at the 95 % level.",
    )
