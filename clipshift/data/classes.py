"""Names of classes: those of the zero-shot classifier, and those of a source's labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipshift.data.files import existing
from clipshift.data.wordnet import (
    TOLD_BY_CASE,
    class_labels,
    imagenet_name,
    imagenet_names,
    spoken_names,
)
from clipshift.errors import UserError, printable

OPENAI = "openai"
"""Stands for the 80 templates of Radford et al. (CLIP, 2021) and open_clip's class names."""


def candidate_classes(choice: str) -> list[str]:
    """The names of the classes to choose from, as the option ``zero_shot.classes`` defines them.

    Args:
        choice: ``imagenet`` for open_clip's names of ImageNet's 1,000 classes, or a text file with
            one name per line.

    Raises:
        UserError: If there is no such file, it is not UTF-8, or it has fewer than two names.
    """
    if choice == "imagenet":
        return [names[0] for names in imagenet_names()]
    try:
        names = read_lines(choice, "classes")
    except UserError as error:
        raise UserError(f"{error}: set imagenet, or a file of names", "classes") from None
    if len(names) < 2:
        raise UserError(f"{choice} must have at least two class names, one per line", "classes")
    return names


def read_lines(file: Any, option: str) -> list[str]:
    """The non-empty lines of a text file that an option names.

    Raises:
        UserError: If there is no such file, or it is not UTF-8.
    """
    text = existing(file, "file", option)
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {text} ({error})", option) from None
    return [line.strip() for line in lines if line.strip()]


def names_of_classes(file: Any, classes: Iterable[str]) -> dict[str, str]:
    """Read the names of classes from a file.

    Args:
        file: A text file. Its lines are either names in the sorted order of the classes, or pairs
            of a class and its name, separated by a tab or a comma.
        classes: The classes of the source, such as the names of folders.

    Returns:
        The name of every class.

    Raises:
        UserError: If there is no such file, it is not UTF-8, or it names more classes or fewer.
    """
    labels, lines = sorted(set(classes)), read_lines(file, "classnames")
    pairs = [line.partition("\t" if "\t" in line else ",") for line in lines]
    names = {label.strip(): name.strip() for label, _, name in pairs if name.strip()}
    if len(names) == len(lines) and names.keys() >= set(labels):
        return {label: printable(names[label]) for label in labels}
    if len(lines) == len(labels):
        return dict(zip(labels, map(printable, lines), strict=True))
    missing = next(label for label in labels if label not in names)
    raise UserError(
        f"{file} has {len(lines)} names for {len(labels)} classes: it must have one name per line "
        f"in the order of the classes, or lines CLASS,NAME ({missing} has no name)",
        "classnames",
    )


def class_names(classes: Sequence[str], templates: Sequence[str] | str) -> dict[str, str]:
    """The name of each class in the prompts, by its normalised label; see `make_zero_shot`."""
    spoken = spoken_names() if templates == OPENAI else {}
    keys = class_keys(classes, templates).items()
    return {key: spoken.get(label) or label.replace("_", " ") for key, label in keys}


def class_keys(classes: Sequence[str], templates: Sequence[str] | str) -> dict[str, str]:
    """The label of each class by its normalised label, as `class_names` has them."""
    keys: dict[str, str] = {}
    for label in class_labels(classes) if templates == OPENAI else classes:
        keys.setdefault(_normalised(label), label)
    return keys


def class_of(label: str | None, position: Mapping[str, int]) -> int:
    """The class of a label, by the positions of `class_names`; −1 for none."""
    if label is None:
        return -1
    words = _words(label)
    key = _normalised(TOLD_BY_CASE.get(words, words))
    key = key if key in position else words.casefold()
    key = key if key in position else _normalised(imagenet_name(key) or "")
    return position.get(key, -1)


def _normalised(label: str) -> str:
    return _words(label).casefold()


def _words(label: str) -> str:
    return " ".join(label.replace("_", " ").split())
