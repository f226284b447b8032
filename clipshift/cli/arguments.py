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
from clipshift.choices import choice_names, experiment_names
from clipshift.cli.config import DESCRIPTIONS, PATHS
from clipshift.cli.help import chosen_groups
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
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        behind = arguments[position + 1 :]
        following = "".join(w for w in behind[:1] if "=" not in w and w[:1] != "-")
        if argument.startswith("-") and argument in unknown:
            use = f"{option.lstrip('-')}={value or following or 'VALUE'}"
            raise UserError(f"no flag {option}: use {use}")
        if equals and following and value.count("[") > value.count("]"):
            joined = "".join([argument, *behind])
            whole = joined[: joined.find("]") + 1 or None]
            raise UserError(f"{argument} has no closing bracket: use {whole}, without spaces")
        if equals:
            check_override(command, argument, flags.multirun, option_names)
        elif argument in overrides and not argument.startswith("~"):
            named = chosen_groups("finetune" if command == "train" else command).items()
            meant = [f"{name}={argument}" for name, g in named if argument in choice_names(g)]
            meant += [f"data=folder data.root={argument}"] * Path(argument).exists()
            use = [*meant, "OPTION=VALUE"][0]
            raise UserError(f"{argument} is not an option: use {use}; --help lists all options")
    return [*map(quoted, overrides), *(word for word in arguments if word not in overrides)]


def check_override(
    command: str, argument: str, multirun: bool, option_names: Callable[[str], Sequence[str]]
) -> None:
    """Make sure that Hydra can read one option, and takes its value: see `checked_arguments`."""
    option, _, value = argument.partition("=")
    parser = OverridesParser.create()
    try:
        parser.parse_override(f"{option}=0")
    except HydraException:
        meant = did_you_mean(option, option_names(command))
        raise UserError(f"no option {option!r}{meant}; --help lists all options") from None
    swept = False
    with suppress(HydraException):  # it is taken as it is typed
        swept = parser.parse_override(argument).is_sweep_override()
    if swept and not multirun and not option.startswith("hydra"):
        use = f"-m {argument} for a run each"
        if takes_list(option, yaml.safe_load(f"[{value}]")):
            use = f"{option}=[{value}] for one run, or {use}"
        raise UserError(f"{argument} has several values: use {use}")
    names = experiment_names(command)
    if option == "experiment" and not swept and value not in (*names, "null"):
        other = "evaluate" if command == "train" else "train"
        there = value in experiment_names(other)
        hint = f"; use clipshift {other} {argument}" if there else did_you_mean(value, names)
        raise UserError(f"no experiment {value!r}{hint} (there are: {', '.join(names)})")


def takes_list(name: str, values: list[Any]) -> bool:
    """Whether an option or group takes several values in one run, as in ``aug=[noise,blur]``."""
    for description in DESCRIPTIONS.values():
        for option, one in spec.options_of(description):
            if name in (option, f"{one.metadata.get('group')}@{option}"):
                check = spec.check_of(one)
                several = bool(one.metadata.get("example")) and one.type is Any
                return check[1](values) if check else several
    return False


def quoted(argument: str) -> str:
    """An argument of the command line as Hydra's grammar needs it: ``data.root=Müll`` in quotes.

    A value that Hydra cannot read is taken as it is typed, and so is the name of a file or folder
    that looks like a number.

    Example:
        >>> quoted("data.root=My Photos (2024)"), quoted("seed=3"), quoted("data.root=1e5")
        ("data.root='My Photos (2024)'", 'seed=3', "data.root='1e5'")
    """
    option, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    text = f"{option}={as_typed(value)}"
    try:
        read = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        try:
            OverridesParser.create().parse_override(text)
        except HydraException:
            return argument  # it is the option that Hydra cannot read, and it will say so
        return text
    if option in PATHS and isinstance(read, bool | int | float):
        return text
    return argument


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
