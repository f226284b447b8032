"""The terminal's table of a check: published and measured accuracies, and what is missing."""

from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.errors import from_here
from clipshift.report.terminal import make_console, print_table, print_text
from clipshift.report.words import counted

WITHIN, OUTSIDE, NOT_CHECKED = "yes", "no", "not checked"
"""Whether a value of ours is within the tolerance of the published one."""
HEAD = ["model", "data", "published", "ours", "difference", "within?"]


def verdict(table: pd.DataFrame) -> str:
    """How many rows passed, were not checked, and failed.

    Example:
        >>> verdict(pd.DataFrame({"within": ["yes", "not checked", "yes"]}))
        '2 within tolerance, 1 not checked, 0 outside'
    """
    words = {WITHIN: "within tolerance", NOT_CHECKED: "not checked", OUTSIDE: "outside"}
    return ", ".join(f"{(table['within'] == key).sum()} {word}" for key, word in words.items())


def check_row(row: Any) -> list[str]:
    """A row for people, in the columns of `HEAD`."""
    data, digits = row.data, ".2f"
    if row.measure != "top1":
        data, digits = f"{row.data}, {row.measure}", ".3f"
    signed = ((row.published, ""), (row.ours, ""), (row.difference, "+"))
    numbers = ["" if pd.isna(value) else f"{value:{sign}{digits}}" for value, sign in signed]
    return [row.model, data, *numbers, row.within]


def print_check(table: pd.DataFrame, file: Path) -> None:
    """Print a check: its rows, why some were not checked, and the verdict.

    Args:
        table: What ``check.csv`` holds.
        file: That file.
    """
    console = make_console()
    console.print()
    rows = table[table["within"] != NOT_CHECKED]
    if len(rows):
        title = "Zero-shot top-1 in % (cosines in hundredths): is ours what was published?"
        print_table(console, title, [HEAD, *map(check_row, rows.itertuples())])
    for row in rows[rows["reason"] != ""].itertuples():
        print_text(console, f"`{row.model}` on `{row.data}`: {row.reason}", "failed: ")
    for reason, missing in table[table["within"] == NOT_CHECKED].groupby("reason", sort=False):
        names = list(dict.fromkeys(missing["model"] + " on " + missing["data"]))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print_text(console, f"{', '.join(names[:3])}{more}: {reason}", "not checked: ")
    print_text(console, f"`{verdict(table)}`")
    print_text(console, f"{counted(len(table), 'row')} with their sources: {from_here(file)}")
