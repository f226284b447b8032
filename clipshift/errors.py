"""Errors that the user can mend: one line saying what is wrong, where, and what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

ERROR_FILE = "error.txt"
"""Where a failed job of a sweep leaves its error, in its folder."""
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and what is no character at all."""


class UserError(Exception):
    """A mistake in what was asked for. Shown as one line, without a traceback, exit code 1.

    Args:
        message: What is wrong, where, and what to do.
        option: The parameter that it is about, where the message does not say.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(one_line(message))  # it may quote a file's words
        self.option = option

    def within(self, part: str) -> "UserError":
        """The error with its parameter named as that of a part of the configuration.

        Example:
            >>> str(UserError("0 is no side", option="side").within("aug.coarse_dropout"))
            'aug.coarse_dropout.side: 0 is no side'
        """
        return UserError(f"{part}.{self.option}: {self}" if self.option else str(self))


def one_line(message: str) -> str:
    """A message's lines, joined by spaces, without what a terminal would take for a command."""
    return printable(" ".join(line.strip() for line in message.splitlines() if line.strip()))


def printable(text: str) -> str:
    r"""A text in one line that every file and terminal can hold.

    Args:
        text: Any text. A byte that is not UTF-8 stands in it as Python's file functions give it, by
            ``surrogateescape``.

    Returns:
        The text with control characters and line separators as Python escapes them, and bytes that
        are not UTF-8 as ``\xNN``.

    >>> print(printable("two\nlines"), printable("caf\udce9"))
    two\nlines caf\xe9
    """
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:x}"
    return repr(found[0])[1:-1] if code < 0x80 else f"\\u{code:04x}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'NEAREST'?"``, or nothing when no known name is near."""
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
