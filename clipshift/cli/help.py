"""The text of ``--help`` and the page ``docs/options.md``, generated from the options."""

import json
import re
from collections.abc import Iterable
from dataclasses import Field
from functools import cache
from itertools import takewhile
from pathlib import Path
from textwrap import TextWrapper

from clipshift import options as spec
from clipshift.choices import CONF, choice_names, experiment_names
from clipshift.cli.config import DESCRIPTIONS

PLACEHOLDERS = {"list": "LIST", "bool": "true", "int": "N", "float": "N"}
"""By a type's name, what stands for a value in the help; for any other, ``NAME``."""
PAGE = """\
<!-- Written by `python -m clipshift.cli.help`, from clipshift/options.py and conf/. -->
# Options

Every option of every command, as in `clipshift evaluate seed=1 save.gaze=8`, and every choice of
every group, as in `clipshift evaluate model=tiny`. What null stands for is in brackets. An option
without a default is set by the choice that brings it.
"""


def summary(group: str, choice: str) -> str:
    """The first sentence of the comment that begins a choice's file."""
    lines = (CONF / group / f"{choice}.yaml").read_text("utf-8").splitlines()
    comment = " ".join(line[2:] for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=\.) ", comment.removeprefix("@package _global_ "))[0].rstrip(".")


def chosen_groups(command: str) -> dict[str, str]:
    """The groups of a command, by what chooses in them: ``aug@train_aug`` in ``aug``."""
    named = spec.options_of(DESCRIPTIONS[command])
    groups = {name: one.metadata["group"] for name, one in named if "group" in one.metadata}
    return {f"{group}@{name}".lstrip("@"): group or name for name, group in groups.items()}


def default(one: Field) -> str:
    """An option's default as it is typed; nothing where a choice sets it."""
    value = spec.default_of(one)
    silent = spec.nested(one) or value is spec.FROM_CHOICE or value in ([], spec.REQUIRED)
    return "" if silent else json.dumps(value, ensure_ascii=False).replace('"', "")


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Lines of two columns, of which the second is wrapped."""
    rows = list(rows)
    edge = max(len(name) for name, _ in rows) + 4
    wrapped = TextWrapper(100, subsequent_indent=" " * edge)
    return "\n".join(wrapped.fill(f"  {name:{edge - 2}}{text}") for name, text in rows)


@cache
def groups(command: str) -> str:
    """The groups of a command and their choices, for its help."""
    named = chosen_groups(command)
    return columns((name, ", ".join(choice_names(group))) for name, group in named.items())


@cache
def experiments(command: str) -> str:
    """The experiments of a command, for its help."""
    return columns((name, summary("experiment", name)) for name in experiment_names(command))


@cache
def options(command: str) -> str:
    """The options of a command, for its help."""
    rows = []
    for name, one, text in spec.described_options(DESCRIPTIONS[command]):
        placeholders = (word for kind, word in PLACEHOLDERS.items() if kind in str(one.type))
        placeholder = next(placeholders, "PATH" if one.metadata.get("paths") else "NAME")
        value = default(one)
        silent = value in ("", "null", "false")
        rows.append((f"{name}={placeholder}", text if silent else f"{text} ({value})"))
    return columns(rows)


def help_text(command: str) -> str:
    """The text of a command's ``--help``."""
    parts = {"groups": groups, "options": options, "experiments": experiments}
    text = Path(__file__).with_name(f"{command}_help.txt").read_text("utf-8").rstrip()
    return re.sub(r"\$\{(\w+):(\w+)\}", lambda match: parts[match[1]](match[2]), text)


def options_page() -> str:
    """``docs/options.md``: all options, and all choices of all groups."""
    lines = [PAGE]
    for description in DESCRIPTIONS.values():
        title = (description.__doc__ or "").replace("``", "`").rstrip(".")
        lines += [f"## {title}\n", "| option | default | range | |", "| --- | --- | --- | --- |"]
        for name, one, text in spec.described_options(description):
            cells = [f"`{name}`", default(one), (spec.check_of(one) or [""])[0], text]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    chosen = {group for command in DESCRIPTIONS for group in chosen_groups(command).values()}
    for group in [*sorted(chosen), "experiment"]:
        lines += [f"## {group}=\n", "| choice | |", "| --- | --- |"]
        lines += [f"| `{name}` | {summary(group, name)} |" for name in choice_names(group)] + [""]
    return "\n".join(lines[:-1])


if __name__ == "__main__":
    print(options_page())
