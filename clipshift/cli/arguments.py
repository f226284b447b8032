"""What is typed after a command: what Hydra cannot read ends in one line that says what to type."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from clipshift import options as spec
from clipshift.choices import experiment_names
from clipshift.cli.config import OPTIONS, PATHS
from clipshift.errors import UserError, did_you_mean


def checked_arguments(
    command: str, arguments: Sequence[str], option_names: Callable[[str], Sequence[str]]
) -> list[str]:
    """Arguments as Hydra's grammar needs them.

    Args:
        command: Whose configuration they change: ``evaluate``, ``train`` or ``demo``.
        arguments: What follows the command: Hydra's overrides and flags.
        option_names: Lists the options of a command.

    Raises:
        UserError: If one is not what Hydra takes, with what to type instead.
    """

    def refuse(message: str) -> None:
        raise UserError(f"{message}; --help lists what there is")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign, assignment]
    flags, unknown = parser.parse_known_args(arguments)
    overrides = [*flags.overrides, *(word for word in unknown if not word.startswith("-"))]
    for argument, *behind in (arguments[place:] for place in range(len(arguments))):
        option, equals, value = argument.partition("=")
        following = "".join(word for word in behind[:1] if "=" not in word and word[:1] != "-")
        if argument.startswith("-") and argument in unknown:
            use = f"{option.lstrip('-')}={value or following or 'VALUE'}"
            raise UserError(f"no flag {option}: use {use}")
        if following and value.count("[") > value.count("]"):
            whole = "".join([argument, *behind]).partition("]")[0] + "]"
            raise UserError(f"{argument} has no closing bracket: use {whole}, without spaces")
        if argument in overrides and not equals and not argument.startswith("~"):
            use = f"data=folder data.root={argument}" if Path(argument).exists() else "OPTION=VALUE"
            raise UserError(f"{argument} is not an option: use {use}; --help lists all options")
    read = [checked_override(command, one, flags.multirun, option_names) for one in overrides]
    return [*read, *(word for word in arguments if word not in overrides)]


def checked_override(
    command: str, argument: str, multirun: bool, option_names: Callable[[str], Sequence[str]]
) -> str:
    """One option as Hydra's grammar needs it: see `checked_arguments`."""
    option, _, value = argument.partition("=")
    try:
        text = quoted(argument)
    except HydraException:
        meant = did_you_mean(option, option_names(command))
        raise UserError(f"no option {option!r}{meant}; --help lists all options") from None
    if swept([text]) and not multirun and not option.startswith("hydra"):
        check = spec.check_of(OPTIONS[option]) if option in OPTIONS else None
        listed = option.split("@")[0] in ("aug", "metric") or (
            check and check[1](yaml.safe_load(f"[{value}]"))
        )
        both = f"{option}=[{value}] for one run, or " if listed else ""
        raise UserError(f"{argument} has several values: use {both}-m {argument} for a run each")
    if option == "experiment" and not multirun and value != "null":
        check_experiment(command, value)
    return text


def check_experiment(command: str, name: str) -> None:
    """Check that a command has an experiment.

    Raises:
        UserError: If it has not, naming the other command where that one has.
    """
    names = experiment_names(command)
    if name in names:
        return
    other = "evaluate" if command == "train" else "train"
    there = name in experiment_names(other)
    hint = f"; use clipshift {other} experiment={name}" if there else did_you_mean(name, names)
    raise UserError(f"no experiment {name!r}{hint} (there are: {', '.join(names)})")


def quoted(argument: str) -> str:
    """An argument of the command line as Hydra's grammar needs it: ``data.root=Müll`` in quotes.

    A value that Hydra cannot read is taken as it is typed, and so is the name of a file or folder
    that looks like a number.

    Raises:
        HydraException: If it is the option that Hydra cannot read.

    Example:
        >>> quoted("data.root=My Photos (2024)"), quoted("seed=3"), quoted("data.root=1e5")
        ("data.root='My Photos (2024)'", 'seed=3', "data.root='1e5'")
    """
    option, _, value = argument.partition("=")
    text, parser = f"{option}={as_typed(value)}", OverridesParser.create()
    with suppress(HydraException):
        read = parser.parse_override(argument).value()
        return text if option in PATHS and isinstance(read, bool | int | float) else argument
    parser.parse_override(text)
    return text


def as_typed(value: str) -> str:
    """A value in the quotes that keep Hydra from reading anything into it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def swept(overrides: Sequence[str]) -> dict[str, list[Any]]:
    """The values of the options that a sweep goes over.

    Example:
        >>> swept(["aug=noise,flip", "severity=range(1,4)", "seed=0"])
        {'aug': ['noise', 'flip'], 'severity': [1, 2, 3]}
    """
    read = OverridesParser.create().parse_overrides(list(overrides))
    return {
        one.get_key_element(): list(one.sweep_iterator()) for one in read if one.is_sweep_override()
    }
