"""Errors that users can fix: one line that says what is wrong, where, and what to do."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

ERROR_FILE = "error.txt"
"""Name of the file in which a failed job of a sweep stores its error."""
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and surrogates."""


class UserError(Exception):
    """A mistake in the user's input, shown as one line without a traceback, with exit code 1.

    Args:
        message: What is wrong, where, and what to do.
        option: The parameter that the error is about, if the message does not name it.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(one_line(message))  # it may quote a file
        self.option = option

    def within(self, part: str) -> "UserError":
        """The same error, with the part of the configuration before its parameter.

        Example:
            >>> str(UserError("it must be positive", option="side").within("aug.coarse_dropout"))
            'aug.coarse_dropout.side: it must be positive'
        """
        return UserError(f"{part}.{self.option}: {self}" if self.option else str(self))


def one_line(message: str) -> str:
    """A message in one line, without characters that control a terminal."""
    return printable(" ".join(line.strip() for line in message.splitlines() if line.strip()))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def failures_of(name: str) -> Iterator[None]:
    """Say in one line what a user's code raises in a ``with`` block.

    Raises:
        UserError: Then.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = one_line(str(error)) or "no reason given"
        raise UserError(f"{name} fails: {type(error).__name__}: {reason}") from error


def from_here(text: object) -> str:
    """A message with the paths that lie below the current folder written from there."""
    return re.sub(rf"(?<![\w./-]){re.escape(os.getcwd() + os.sep)}(?=\S)", "", str(text))


def printable(text: str) -> str:
    r"""Escape the characters of a text that a file or terminal may not be able to hold.

    Args:
        text: Any text. Bytes that are not UTF-8 are in it as Python's file functions return them,
            by ``surrogateescape``.

    Returns:
        The text with control characters and line separators escaped as in Python, and bytes that
        are not UTF-8 as ``\xNN``.

    >>> print(printable("two\nlines"), printable("caf\udce9"))
    two\nlines caf\xe9
    """
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:x}"
    return repr(match[0])[1:-1] if code < 0x80 else f"\\u{code:04x}"


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """``"; did you mean 'NEAREST'?"``, or an empty text if no valid name is similar."""
    nearest = get_close_matches(name, list(valid_names), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
