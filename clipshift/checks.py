"""Ranges of parameters, in words and as tests."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from clipshift.errors import UserError

Value = TypeVar("Value")
INFINITY = float("inf")
Check = tuple[str, Callable[[Any], bool]]


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def whole(low: int, high: float = INFINITY) -> Check:
    """A whole number between two, both included."""
    bound = f" and ≤ {high:g}" if high < INFINITY else ""
    return f"a whole number ≥ {low}{bound}", lambda v: type(v) is int and low <= v <= high


def number(low: float, high: float = INFINITY) -> Check:
    """A number greater than ``low``, and at most ``high``."""
    bound = f" and ≤ {high:g}" if high < INFINITY else ""
    return f"a number > {low:g}{bound}", lambda v: _number(v) and low < v <= high


def share(low: float = 0, high: float = 1) -> Check:
    """A number between two, both included."""
    words = f"from {low:g} to {high:g}" if high < INFINITY else f"≥ {low:g}"
    return f"a number {words}", lambda v: _number(v) and low <= v <= high


def interval(low: float, high: float = INFINITY) -> Check:
    """A range [a, b] with low ≤ a ≤ b ≤ high."""
    bounds = f"{low:g} ≤ a ≤ b" + (f" ≤ {high:g}" if high < INFINITY else "")
    return (
        f"a range [a, b] with {bounds}",
        lambda v: (
            len(v) == 2 and all(map(_number, v)) and low <= v[0] <= v[1] <= high
            if isinstance(v, list)
            else False
        ),
    )


def one_of(*choices: str) -> Check:
    """One of some words."""
    return f"one of {', '.join(choices)}", lambda v: v in choices


def optional(check: Check) -> Check:
    """What the check asks for, or null."""
    words, test = check
    return f"{words}, or null", lambda v: v is None or test(v)


def list_of(check: Check, words: str) -> Check:
    """A list of what the check asks for."""
    test = check[1]
    return f"a list of {words}", lambda v: isinstance(v, list) and all(map(test, v))


def is_template(value: Any) -> bool:
    """Whether a value is a text with ``{}`` in the place of the class, and nothing else to fill."""
    try:
        return "{}" in value and bool(value.format(""))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def rising(count: int) -> Check:
    """So many rising numbers > 0."""
    return (
        f"a list of {count} rising numbers > 0",
        lambda v: (
            isinstance(v, list)
            and len(v) == count
            and all(map(_number, v))
            and v[0] > 0
            and all(low < high for low, high in pairwise(v))
        ),
    )


TEXT: Check = ("text", lambda v: isinstance(v, str) and bool(v))
BOOLEAN: Check = ("true or false", lambda v: isinstance(v, bool))


def checked(parameter: str, value: Value, check: Check) -> Value:
    """A parameter's value, if it is in its range.

    Args:
        parameter: The parameter's name.
        value: Its value.
        check: The range.

    Raises:
        UserError: If it is not, naming the parameter and the range.

    Example:
        >>> checked("side", 16, whole(1, 224))
        16
    """
    expected, test = check
    given: Any = value
    if isinstance(value, Sequence) and not isinstance(value, str):
        given = list(value)
    if not test(given):
        raise UserError(f"{given} is out of range: it must be {expected}", option=parameter)
    return value
