"""The headline measure of a shift: relative shift, or 1 − cosine where that is missing."""

import pandas as pd

from clipshift.measure.facts import COLUMNS

COSINE = "cosine_similarity"
HEADLINE_MEASURES = ("relative_shift", COSINE)
"""What tells of the shift, the best first: a relative shift does not shrink with the spread."""


def headline_measure(table: pd.DataFrame, value: str = "mean") -> str | None:
    """The measure by which sentences, leading figures and the terminal tell of the shift.

    Args:
        table: Rows of a ``measure`` each: a summary, or a comparison.
        value: The column that must hold a number: a collapsed model has no relative shift.

    Returns:
        The first of `HEADLINE_MEASURES` with a value; None where there is neither.
    """
    measured = set(table.loc[table[value].notna(), "measure"])
    return next((measure for measure in HEADLINE_MEASURES if measure in measured), None)


def shift_name(measure: str) -> str:
    """The name of a headline measure: the cosine is shown as 1 − cosine."""
    return "1 − cosine" if measure == COSINE else COLUMNS[measure].short


def as_shift(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a summary or a comparison, those of cosines as those of the shift 1 − cosine."""
    cosine = rows["measure"].eq(COSINE)
    means = [column for column in ("mean", "mean_a", "mean_b") if column in rows]
    whole = 1 if "mean" in rows else 0  # a comparison's interval is of a difference
    shifts = {column: 1 - rows[column] for column in means} | {
        "ci_low": whole - rows["ci_high"],
        "ci_high": whole - rows["ci_low"],
    }
    if "difference" in rows:
        shifts["difference"] = -rows["difference"]
    return rows.assign(
        **{column: rows[column].mask(cosine, values) for column, values in shifts.items()}
    )
