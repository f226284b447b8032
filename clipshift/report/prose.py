"""Make sections, figures and tables with the text that ``prose.yaml`` has for them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clipshift.report.charts.vega import Chart
from clipshift.report.page import WIDE, Figure, Section
from clipshift.report.tables import Column, make_table

Contents = tuple[pd.DataFrame, Sequence[Column]]
"""A table's data, and what it shows of them, where ``prose.yaml`` does not say it."""


@lru_cache
def prose() -> dict[str, Any]:
    """The words of all sections, by anchor."""
    return yaml.safe_load(Path(__file__).with_name("prose.yaml").read_text(encoding="utf-8"))


def make_figure(section: str, name: str, chart: Chart, /, **values: Any) -> Figure:
    """A figure with its caption.

    Args:
        section: The section's name.
        name: The figure's.
        chart: What it draws.
        **values: What the words have in braces.
    """
    words = prose()[section]
    wide = WIDE if name in words.get("wide", ()) else 0
    return Figure(name, chart, words["figures"][name].format(**values), least=wide)


def make_section(
    name: str,
    charts: Mapping[str, Chart] | None = None,
    tables: Sequence[pd.DataFrame | Contents] = (),
    /,
    **values: Any,
) -> Section:
    """A section of a page.

    Args:
        name: Its name, under which the words stand.
        charts: Its charts, by name.
        tables: Its tables, as many as it has of those that have words.
        **values: What the words have in braces.
    """
    words = prose()[name]

    def filled(texts: Mapping[str, Any]) -> dict[str, Any]:
        return {k: t.format(**values) if isinstance(t, str) else t for k, t in texts.items()}

    described = []
    for contents, texts in zip(tables, words.get("tables", ()), strict=False):
        attributes = filled(texts)
        columns = [Column(**column) for column in attributes.pop("columns", ())]
        data, columns = contents if isinstance(contents, tuple) else (contents, columns)
        described.append(make_table(data, columns, **attributes))
    return Section(
        name,
        words["title"].format(**values),
        [paragraph.format(**values) for paragraph in words.get("text", ())],
        [make_figure(name, figure, chart, **values) for figure, chart in (charts or {}).items()],
        described,
        definitions=words.get("definitions", {}),
        finding=words.get("finding", "").format(**values),
    )
