"""Checks of a composed configuration, before anything heavy is imported."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from clipshift import options as spec
from clipshift.choices import CONF, MODEL_SOURCES, unknown_choice
from clipshift.errors import UserError, did_you_mean, first_line, one_line

DESCRIPTIONS: dict[str, type] = {
    "evaluate": spec.EvaluateCommand,
    "train": spec.MakingOptions,
    "finetune": spec.FinetuneOptions,
    "demo": spec.DemoOptions,
}
"""By command, and of ``train`` those of experiments that fine-tune apart, all options there are."""
OPTIONS = dict(pair for described in DESCRIPTIONS.values() for pair in spec.options_of(described))
"""All options of all commands, by name."""
PATHS = {name for name, one in OPTIONS.items() if one.metadata.get("paths")}
"""Options that name a file or a folder."""
RUN_FILE = "run.json"
"""What a finished run is known by."""
KINDS: dict[str, Callable[[Path], bool]] = {
    "file": Path.is_file,
    "folder": Path.is_dir,
    "finished run in": lambda folder: (folder / RUN_FILE).is_file(),
    "finished run in or below": lambda folder: any(folder.rglob(RUN_FILE)),
}
"""What an option can name, and whether a path is one."""


def plain(node: DictConfig) -> dict[str, Any]:
    """A configuration as resolved dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def validate(cfg: DictConfig, command: str) -> None:
    """Check a composed configuration.

    Args:
        cfg: The configuration.
        command: Whose options they are: a key of `DESCRIPTIONS`.

    Raises:
        UserError: If a value is missing or outside its range, naming the option and the range.
    """
    # OmegaConf.missing_keys fails where an interpolation leads to what is missing.
    entries = _entries(OmegaConf.to_container(cfg))
    if missing := next((name for name, value in entries if value == spec.REQUIRED), None):
        option = dict(spec.options_of(DESCRIPTIONS[command])).get(missing)
        advice = option and option.metadata.get("missing")
        raise UserError(advice or f"{missing} is not set: add {missing}=VALUE")
    try:
        values = plain(cfg)
    except InterpolationKeyError as error:
        raise UserError(first_line(error)) from None
    spec.check_options(DESCRIPTIONS[command], values)


def check_paths(cfg: DictConfig, command: str) -> None:
    """Make sure that the files and folders of a configuration are there.

    The rooms behind check them as well, but only after seconds of imports.

    Raises:
        UserError: If one is missing, naming its option.
    """
    for name, kinds, path in _paths(cfg, command):
        file = Path(str(path)).expanduser()
        if "://" in str(path) or any(KINDS[kind](file) for kind in kinds):
            continue
        latest = f" (the latest run here is {runs[0]})" if (runs := finished_runs()) else ""
        hint = latest if kinds[0].startswith("finished run") else ""
        raise UserError(f"{name}: no {' or '.join(kinds)} {path}{hint}")


def _paths(cfg: DictConfig, command: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Options that name files or folders, those of several sources first, and what is given."""
    train = OmegaConf.select(cfg, "data.train")
    named = train if isinstance(train, DictConfig) else {}  # a pattern of shards in pretrain_tiny
    sources = [f"data.train.{name}" for name, value in named.items() if spec.is_source(value)]
    for option, one in spec.options_of(DESCRIPTIONS[command]):
        if kinds := one.metadata.get("paths"):
            names = [option.replace("data.train", place) for place in [*sources, "data.train"]]
            for name in dict.fromkeys(names):
                given = OmegaConf.select(cfg, name)
                paths = given if isinstance(given, ListConfig) else [given]
                yield from ((name, kinds, path) for path in paths if path is not None)


def finished_runs() -> list[str]:
    """Folders of runs where the command puts them, below the current folder, the latest first."""
    places = ("*", "outputs/*/*", "multirun/*/*/*")
    files = [file for place in places for file in Path().glob(f"{place}/{RUN_FILE}")]
    by_time = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    return [str(file.parent) for file in by_time]


def _entries(content: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items() if isinstance(content, dict) else ():
        yield f"{within}{key}", value
        yield from _entries(value, f"{within}{key}.")


def name_model(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Call a model by its architecture, repository or ONNX file where only these are given.

    Args:
        cfg: The composed configuration, changed in place.
        overrides: The command line.
    """
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    for option in MODEL_SOURCES:
        is_source = option != "checkpoint" or cfg.get("model", {}).get("kind") == "onnx"
        if f"model.{option}" in given and "model.name" not in given and is_source:
            cfg.model.name = Path(str(cfg.model[option]).rpartition(":")[2]).name


def dotted_names(node: Any) -> Iterator[str]:
    """Dotted names of everything in a configuration, set or not."""
    return (name for name, _ in _entries(OmegaConf.to_container(node)))


def composition_error(message: str, options: list[str]) -> str:
    """One line for what Hydra says in many when the command line does not fit the configuration.

    Args:
        message: Hydra's message.
        options: Dotted names of all options there are.
    """
    if match := re.search(r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']+)'", message):
        group, choice = match.groups()
        return str(unknown_choice(group, choice))
    if match := re.search(r"An item is already at '([^']+)'", message):
        return f"{match[1]} is an option: use {match[1]}=VALUE, without +"
    if match := re.search(r"Could not override '([^']+)'", message):
        option = match[1]
        group, _, key = option.partition(".")
        files = sorted((CONF / group).glob("*.yaml"))
        choices = [file.stem for file in files if key in dotted_names(OmegaConf.load(file))]
        if choices:
            return f"option {option!r} requires {group}={' or '.join(choices)}"
        return f"no option {option!r}{did_you_mean(option, options)}; --help lists them"
    if match := re.search(r"Error merging override ([\w.]+)=(.*)", message):
        node, choice = match.groups()
        for name, one in spec.options_of(spec.FinetuneOptions):
            if name == node and one.metadata.get("group"):
                return f"{node} is chosen from a group: {one.metadata['group']}@{node}={choice}"
    return one_line(message)
