"""Pages: one self-contained HTML file each, which needs no network."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from clipshift.report.charts import look, vega
from clipshift.results.files import write_whole

COMPARISON = "comparison.html"
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
        link: The page that it leads to, relative to this one; empty where there is none.
    """

    text: str
    value: float | None = None
    tint: float = 0.0
    link: str = ""


@dataclass
class Table:
    """A table that people can sort.

    Attributes:
        head: Names of the columns.
        rows: Cells by row.
        severities: Of each row, where the page's choice of severity applies.
        file: The CSV file in the page's folder that has all its numbers.
        note: What to know of it.
        name: Its name, for those who cannot see it.
        figure: The chart of the same numbers, saved beside the page.
        folded: Whether it is shown only when asked for.
        filter: Whether its rows can be filtered by their text.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str
    severities: Sequence[str] = ()
    file: str = ""
    note: str = ""
    figure: "Figure | None" = None
    folded: bool = False
    filter: bool = False


@dataclass
class Figure:
    """A chart with its caption.

    Attributes:
        name: Under which it is saved: ``figures/NAME.svg``, or ``figures/NAME@SEVERITY.svg``.
        chart: From `clipshift.report.charts`.
        caption: What it shows.
        notes: What else to say of it, by severity.
        least: Its least width in pixels: on a narrower page it scrolls.
        label: What it is called where the reader chooses between it and ``others``.
        others: The figures that the reader can choose in its place.
    """

    name: str
    chart: vega.Chart
    caption: str
    notes: Mapping[str, str] = field(default_factory=dict)
    least: int = 0
    label: str = ""
    others: Sequence["Figure"] = ()

    @cached_property
    def drawn(self) -> vega.Spec:
        """The chart as Vega-Lite has it."""
        return vega.spec_of(self.chart)

    @property
    def choices(self) -> list["Figure"]:
        """It, and the figures that the reader can choose in its place."""
        return [self, *self.others]

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
        finding: What was found, in a sentence that leads the page; below it the section is folded.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    explorer: Mapping[str, Any] | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)
    finding: str = ""


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
        """The charts that it shows, and those of its tables, by name."""
        drawn = [figure for section in self.sections for figure in section.figures]
        of_tables = [table.figure for section in self.sections for table in section.tables]
        shown = [figure for figure in [self.lead, *drawn, *of_tables] if figure]
        return {one.name: one.drawn for figure in shown for one in figure.choices}


def write_page(path: Path, page: Page) -> Path:
    """Write a page.

    Args:
        path: The HTML file.
        page: What it says.

    Returns:
        The file's path.
    """
    explorer = next((section.explorer for section in page.sections if section.explorer), None)
    names = ["page.js", "photos.js"] if explorer else ["page.js"]
    files = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names]
    scripts = [vega.chart_library(), *files]
    text = template("clipshift.report", "page.html.jinja").render(
        page=page,
        explorer=explorer,
        place=_place(path),
        charts={name: vega.standalone(chart) for name, chart in page.charts.items()},
        configs={"light": look.config(**LIGHT), "dark": look.config(**DARK)},
        saved={"width": vega.WIDTH, "scale": vega.PNG_SCALE, "title": vega.source_line(page.title)},
        scripts=[Markup(script) for script in scripts],
        policy=content_security_policy(scripts),
    )
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


def link_comparison(report: Path) -> None:
    """Link a run's page to the page of the comparison in the folder above, if there is one."""
    comparison = report.parent.parent / COMPARISON
    if comparison.is_file() and report.is_file() and not report.parent.is_symlink():
        above = f"/{report.resolve().parent.parent.name}{_place(report)}"
        link = Markup(' · <a data-page="../{}" data-place="{}">the comparison it is part of</a>')
        slot = b'<span id="above">%b</span>' % link.format(COMPARISON, above).encode()
        linked = re.sub(rb'<span id="above">.*?</span>', lambda _: slot, report.read_bytes())
        write_whole(report, lambda partial: partial.write_bytes(linked))


def _place(path: Path) -> str:
    """How a page's address ends, as long as it lies where it was written."""
    return f"/{path.resolve().parent.name}/{path.name}"


@lru_cache
def template(package: str, name: str) -> jinja2.Template:
    """A package's template; those of HTML escape what they are given."""
    loader, escapes = jinja2.PackageLoader(package, "."), jinja2.select_autoescape(["html.jinja"])
    templates = jinja2.Environment(
        loader=loader, autoescape=escapes, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"rich": rich, "json": embedded_json}
    return templates.get_template(name)


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
