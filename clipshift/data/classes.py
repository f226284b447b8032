"""Names of classes: those to choose among, and those of folders or of an index."""

from collections.abc import Iterable
from typing import Any

from clipshift.data.files import existing
from clipshift.data.wordnet import imagenet_names
from clipshift.errors import UserError, printable


def candidate_classes(choice: str) -> list[str]:
    """The names of classes to choose among, by the option ``zero_shot.classes``.

    Args:
        choice: ``imagenet`` for open_clip's names of ImageNet's 1,000 classes, or a text file with
            a name on each line.

    Raises:
        UserError: If there is no such file, it is not UTF-8, or it has fewer than two names.
    """
    if choice == "imagenet":
        return [names[0] for names in imagenet_names()]
    try:
        names = read_lines(choice, "classes")
    except UserError as error:
        raise UserError(f"{error}: imagenet, or a file of names is needed", "classes") from None
    if len(names) < 2:
        raise UserError(f"{choice} needs two class names or more, one on a line", "classes")
    return names


def read_lines(file: Any, option: str) -> list[str]:
    """The lines of a text file that an option names, but for empty ones.

    Raises:
        UserError: If there is no such file, or it is not UTF-8.
    """
    text = existing(file, "file", option)
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text} cannot be read ({error})", option) from None
    return [line.strip() for line in lines if line.strip()]


def names_of_classes(file: Any, classes: Iterable[str]) -> dict[str, str]:
    """The names that a file gives to classes.

    Args:
        file: A text file. Its lines are either names in the order of the classes, or a class and
            its name each, separated by a tab or a comma.
        classes: What the source calls its classes, as by the names of folders.

    Returns:
        The name of every class.

    Raises:
        UserError: If there is no such file, it is not UTF-8, or it names more classes or fewer.
    """
    known, lines = sorted(set(classes)), read_lines(file, "classnames")
    pairs = [line.partition("\t" if "\t" in line else ",") for line in lines]
    named = {key.strip(): name.strip() for key, _, name in pairs if name.strip()}
    if len(named) == len(lines) and named.keys() >= set(known):
        return {one: printable(named[one]) for one in known}
    if len(lines) == len(known):
        return dict(zip(known, map(printable, lines), strict=True))
    missing = [one for one in known if one not in named]
    raise UserError(
        f"{file} has {len(lines)} names for {len(known)} classes: it needs one on a line in the "
        f"order of the classes, or lines CLASS,NAME ({missing[0]} has none)",
        "classnames",
    )
