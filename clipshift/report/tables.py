"""Tables for readers: one list of columns describes a table for the page and the terminal."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from clipshift.report.page import Cell, Table
from clipshift.report.words import p_value, ranks_in_words, short, with_interval
from clipshift.severities import leading_severity

COUNT = ".0f"
"""The format of whole numbers."""
Show = Callable[[float, float, float], str]
"""Puts a number and the ends of its interval, NaN where it has none, into words."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, and which columns of a DataFrame it shows.

    Attributes:
        head: The header.
        value: The column shown: texts as they are; numbers in a format, and sorted by.
        ends: The ends of the interval are in the columns ``{ends}_low`` and ``{ends}_high``; empty
            where there is none.
        form: The format of numbers; ``p`` for p-values.
        text: The column whose texts are shown in place of the numbers.
        tint: The column that says how strongly a cell is painted, in [0, 1].
        link: The column of the pages that cells lead to.
    """

    head: str
    value: str
    ends: str = ""
    form: str = ".3f"
    text: str = ""
    tint: str = ""
    link: str = ""

    def is_number(self, data: pd.DataFrame) -> bool:
        """Whether it shows numbers."""
        return not self.text and is_numeric_dtype(data[self.value])

    def texts(self, data: pd.DataFrame, show: Show | None = None) -> list[str]:
        """The text of each row; empty where its number is unknown.

        Args:
            data: The table's data.
            show: How numbers are shown; None for ``form``.
        """
        if not self.is_number(data):
            texts = data[self.text or self.value]
            return ["" if pd.isna(text) else str(text) for text in texts]
        show = show or self._in_words
        names = [f"{self.ends}_{end}" for end in ("low", "high")] if self.ends else []
        rows = data[[self.value, *names]].reindex(columns=[self.value, *(names or "lh")])
        return [show(*row) if np.isfinite(row[0]) else "" for row in rows.to_numpy(float)]

    def _in_words(self, value: float, low: float, high: float) -> str:
        return p_value(value) if self.form == "p" else with_interval(value, low, high, self.form)

    def cells(self, data: pd.DataFrame) -> list[Cell]:
        """The cell of each row on a page: texts that are numbers are sorted as these."""
        numbers = pd.to_numeric(data[self.value], errors="coerce")
        values = [number if np.isfinite(number) else None for number in numbers.tolist()]
        tints = data[self.tint].tolist() if self.tint else [0.0] * len(data)
        links = data[self.link].tolist() if self.link else [""] * len(data)
        parts = zip(self.texts(data), values, tints, links, strict=True)
        return [Cell(*cell) for cell in parts]


AUGMENTATION = Column("augmentation", "augmentation")
PHOTOS = Column("photos", "n", form=COUNT)


def make_table(data: pd.DataFrame, columns: Sequence[Column], /, **attributes: Any) -> Table:
    """A page's table.

    Args:
        data: One row per row of the table. Its column ``severity``, where it has one, is what the
            page's choice of a severity applies to.
        columns: What it shows.
        **attributes: Its name, and what else a `Table` has.
    """
    rows = list(zip(*(column.cells(data) for column in columns), strict=True))
    severities = list(data["severity"]) if "severity" in data else []
    return Table([column.head for column in columns], rows, severities=severities, **attributes)


def side_by_side(
    rows: pd.DataFrame,
    by: str,
    value: str = "mean",
    index: Sequence[str] = ("severity", "augmentation"),
) -> pd.DataFrame:
    """Values with their intervals side by side, one row per severity and augmentation.

    Args:
        rows: ``ci_low``, ``ci_high`` and the columns named next.
        by: The column whose every entry becomes a column ``ENTRY``, with ``ENTRY_low`` and
            ``ENTRY_high``.
        value: The column of values.
        index: The columns that tell a row from others.

    Returns:
        The rows in their order, ``index`` among their columns.
    """
    keys = list(index)
    ends = {value: "", "ci_low": "_low", "ci_high": "_high"}
    wide = rows.pivot(index=keys, columns=by, values=list(ends))
    wide.columns = pd.Index([f"{entry}{ends[column]}" for column, entry in wide.columns])
    return rows[keys].drop_duplicates().merge(wide.reset_index(), "left", keys)


def leading_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at the severity that sentences tell of."""
    severities = rows["severity"].unique()
    return rows[rows["severity"] == leading_severity(severities)] if len(rows) else rows


def first_and_last(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row and the last of a table, where it has as many."""
    return rows.iloc[:: max(1, len(rows) - 1)]


def span(rows: pd.DataFrame, value: str, ends: str = "ci") -> str:
    """The least and the greatest of augmentations' numbers at the leading severity, in words.

    Args:
        rows: ``severity``, ``augmentation``, the number and its interval.
        value: The column of the numbers.
        ends: The ends of their intervals are in ``{ends}_low`` and ``{ends}_high``.

    Example:
        >>> rows = {"severity": "paper", "augmentation": ["flip", "blur"], "r": [0.7, 0.2]}
        >>> span(pd.DataFrame(rows | {"ci_low": [0.6, 0.1], "ci_high": [0.8, 0.3]}), "r")
        '0.20 [0.10, 0.30] under `blur` to 0.70 [0.60, 0.80] under `flip`'
    """
    ordered = leading_rows(rows.dropna(subset=value)).sort_values(value, kind="stable")
    columns = [value, f"{ends}_low", f"{ends}_high", "augmentation"]
    numbers = first_and_last(ordered)[columns].to_numpy()
    return " to ".join(f"{short(*number)} under `{name}`" for *number, name in numbers) or "unknown"


def marked(augmentation: str, trained_on: Collection[str], rounding: bool = False) -> str:
    """An augmentation's name, marked where the model was trained on it or rounding may be all."""
    name = f"{augmentation} (trained on)" if augmentation in trained_on else augmentation
    return f"{name} (may be rounding)" if rounding else name


def with_ranks(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking with the intervals of its ranks in words, in the column ``ranks``."""
    ranks = map(ranks_in_words, ranking["rank_low"], ranking["rank_high"])
    return ranking.assign(ranks=list(ranks))


def markdown_table(rows: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    """A table in Markdown.

    Args:
        rows: Its cells, escaped; the head first.
        align: Of each column, as ``---`` or ``--:``.

    Example:
        >>> print(markdown_table([["name", "x"], ["noise", "0.5"]], ["---", "--:"]), end="")
        | name | x |
        | --- | --: |
        | noise | 0.5 |
    """
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], align, *rows[1:]])


def with_marks(
    data: pd.DataFrame, trained_on: Collection[str], below: Collection[tuple[str, str]]
) -> pd.DataFrame:
    """Data whose augmentations are `marked`.

    Args:
        data: With columns ``augmentation`` and ``severity``.
        trained_on: Augmentations that the model was fine-tuned on.
        below: Augmentations and severities whose shift may be rounding.
    """
    keys = zip(data["augmentation"], data["severity"], strict=True)
    return data.assign(augmentation=[marked(key[0], trained_on, key in below) for key in keys])
