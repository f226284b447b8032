"""Checks of parameters: each is a description of the valid values and a test for them."""

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


def are_numbers(value: Any, count: int) -> bool:
    """Whether a value is a list of ``count`` finite numbers."""
    return isinstance(value, list) and len(value) == count and all(map(_number, value))


def whole(low: int, high: float = INFINITY) -> Check:
    """A whole number from ``low`` to ``high``."""
    bound = f" and ≤ {high:g}" if high < INFINITY else ""
    return f"a whole number ≥ {low}{bound}", lambda v: type(v) is int and low <= v <= high


def number(low: float, high: float = INFINITY) -> Check:
    """A number greater than ``low``, and at most ``high``."""
    bound = f" and ≤ {high:g}" if high < INFINITY else ""
    return f"a number > {low:g}{bound}", lambda v: _number(v) and low < v <= high


def share(low: float = 0, high: float = 1) -> Check:
    """A number from ``low`` to ``high``."""
    words = f"from {low:g} to {high:g}" if high < INFINITY else f"≥ {low:g}"
    return f"a number {words}", lambda v: _number(v) and low <= v <= high


def interval(low: float, high: float = INFINITY) -> Check:
    """A range [a, b] with low ≤ a ≤ b ≤ high."""
    bounds = f"{low:g} ≤ a ≤ b" + (f" ≤ {high:g}" if high < INFINITY else "")
    words = f"a range [a, b] with {bounds}"
    return words, lambda v: are_numbers(v, 2) and low <= v[0] <= v[1] <= high


def one_of(*choices: str) -> Check:
    """One of the given words."""
    return f"one of {', '.join(choices)}", lambda v: v in choices


def optional(check: Check) -> Check:
    """A value that passes the check, or null."""
    words, test = check
    return f"{words}, or null", lambda v: v is None or test(v)


def list_of(check: Check, words: str) -> Check:
    """A list of values that pass the check."""
    test = check[1]
    return f"a list of {words}", lambda v: isinstance(v, list) and all(map(test, v))


def is_template(value: Any) -> bool:
    """Whether a value is a text with ``{}`` in place of the class, and no other placeholders."""
    try:
        return "{}" in value and bool(value.format(""))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def rising(count: int) -> Check:
    """A list of ``count`` rising numbers > 0."""
    words = f"a list of {count} rising numbers > 0"
    return words, lambda v: are_numbers(v, count) and all(a < b for a, b in pairwise([0, *v]))


TEXT: Check = ("text", lambda v: isinstance(v, str) and bool(v))
BOOLEAN: Check = ("true or false", lambda v: isinstance(v, bool))


def checked(parameter: str, value: Value, check: Check) -> Value:
    """Check a parameter's value, and return it.

    Args:
        parameter: The parameter's name.
        value: Its value.
        check: The check.

    Raises:
        UserError: If the value fails, naming the parameter and its valid values.

    Example:
        >>> checked("side", 16, whole(1, 224))
        16
    """
    expected, test = check
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    tested: Any = list(value) if is_sequence else value  # type: ignore[call-overload]
    if not test(tested):
        raise UserError(f"{tested} is out of range: it must be {expected}", option=parameter)
    return value
