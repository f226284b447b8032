"""Names and order of the severities, and the names of views (``noise@3``)."""

from collections.abc import Iterable

PAPER = "paper"
MATCHED = "matched"
LADDER = ("1", "2", "3", "4", "5")
"""The severities that are steps, the weakest first."""
ALL = "all"
"""What tables call the views of all augmentations together."""
SEVERITIES = (PAPER, *LADDER, MATCHED)


def ladder_steps(severities: Iterable[str]) -> list[str]:
    """The severities that are steps of the ladder, the weakest first.

    Example:
        >>> ladder_steps(["paper", "3", "1", "matched"])
        ['1', '3']
    """
    return sorted({*severities}.intersection(LADDER))


def leading_severity(severities: Iterable[str]) -> str:
    """The severity that sentences and pages begin with: the paper's, or else the strongest step.

    Example:
        >>> leading_severity(["1", "paper"]), leading_severity(["1", "3"])
        ('paper', '3')
    """
    several = list(severities)
    return PAPER if PAPER in several else [*several[:1], *ladder_steps(several)][-1]


def view_name(name: str, severity: str | None = None) -> str:
    """The name of a view, or of what is made of views: with the severity where there are several.

    Example:
        >>> view_name("noise"), view_name("noise", "matched")
        ('noise', 'noise@matched')
    """
    return f"{name}@{severity}" if severity else name


def draw_name(name: str, draw: int) -> str:
    """The name of a draw of an augmentation or view, by which its random numbers are keyed.

    Example:
        >>> draw_name("noise", 1), draw_name("noise", 2)
        ('noise', 'noise#2')
    """
    return f"{name}#{draw}" if draw > 1 else name


def split_view_name(view: str) -> tuple[str, str]:
    """The augmentation of a view and its severity, which is empty where the name has none.

    Example:
        >>> split_view_name("noise@matched"), split_view_name("noise")
        (('noise', 'matched'), ('noise', ''))
    """
    name, _, severity = view.partition("@")
    return name, severity
