"""The choices of every group: the files ``conf/GROUP/CHOICE.yaml``, read without Hydra."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from clipshift.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""All choices: inside the package where it was installed from a wheel, beside it in a checkout."""
OPEN_CLIP_CONFIG = "open_clip_config.json"
"""What a folder in the hub's format is known by."""
MODEL_SOURCES = ("architecture", "repo", "checkpoint")
"""The options of a model that say where it comes from, the first of them that is set."""
SENTENCES, NAMES = "sentences", "names"
"""The texts that a model was trained with: sentences, or only names of classes."""
ENVIRONMENT = re.compile(r'\$\{oc\.env:(\w+),"([^"]*)"\}')
"""A variable of the environment, and its default."""


def choice_names(group: str) -> list[str]:
    """The choices of a group, in alphabetical order."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def experiment_names(command: str) -> list[str]:
    """The experiments of ``train``, or of ``evaluate``, in alphabetical order."""

    def trains(name: str) -> bool:
        content = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text("utf-8"))
        return "stage" in content or "robustify" in content.get("defaults", ())

    return [n for n in choice_names("experiment") if trains(n) == (command == "train")]


def unknown_choice(group: str, choice: str) -> UserError:
    """The error of a choice that a group does not have."""
    names = choice_names(group)
    if group == "model" and Path(choice).exists():
        return UserError(f"model={choice} is not a choice of model: use model.checkpoint={choice}")
    if group == "model" and (architecture := architecture_of(choice)):
        architectures = {n: read_choice("model", n).get("architecture") or "" for n in names}
        like = [f"model={n}, " for n, a in architectures.items() if _base(a) == _base(architecture)]
        own = f"model.architecture={architecture} model.pretrained=TAG"
        return UserError(f"{choice} is an architecture: use {''.join(like)}{own}")
    return UserError(
        f"no {choice!r} in group {group}{did_you_mean(choice, names)} "
        f"(there are: {', '.join(names)})"
    )


def architecture_of(name: str) -> str | None:
    """open_clip's architecture that a name means, as ``ViT-B/32`` does; None if there is none."""
    names = {name.lower(): name for name in architectures()}
    return names.get(name.replace("/", "-").lower())


def architectures() -> list[str]:
    """The names of open_clip's architectures, without importing it."""
    package = find_spec("open_clip")
    folder = Path((package and package.origin) or "").parent / "model_configs"
    return [file.stem for file in folder.glob("*.json")]


def _base(architecture: str) -> str:
    return architecture.removesuffix("-quickgelu")  # open_clip's mark of OpenAI's activation


def read_choice(group: str, choices: str | Sequence[str]) -> dict[str, Any]:
    """The options of a choice, or of several together, as Hydra composes them.

    Args:
        group: The group, as ``aug``.
        choices: One of its choices, or several.

    Raises:
        UserError: If the group does not have one of them.

    Example:
        >>> list(read_choice("aug", ["noise", "blur"])), read_choice("prompts", "openai")
        (['noise', 'blur'], {'templates': 'openai'})
    """
    options: dict[str, Any] = {}
    for choice in [choices] if isinstance(choices, str) else choices:
        file = CONF / group / f"{choice}.yaml"
        if not file.is_file():
            raise unknown_choice(group, choice)
        chosen = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for listed in chosen.pop("defaults", []):
            if listed != "_self_":
                name, _, node = listed.partition("@")
                read = read_choice(group, name)
                options = _merged(options, {node: read} if node else read)
        options = _merged(options, chosen)
    return options


def model_options(
    model: str | os.PathLike[str] | tuple[str, str | Path] | Mapping[str, Any],
) -> dict[str, Any]:
    """The options of a model.

    Args:
        model: One of ``clipshift models``; a folder in the hub's format; open_clip's name and tag,
            or name and checkpoint file; a name in another library, ``timm:NAME``; a repository of
            transformers, ``ORGANISATION/NAME``; or options of ``model`` with their ``kind``.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(model, Mapping):
        options = read_choice("model", model.get("kind", "lite")) | {"name": ""} | dict(model)
        named = [options.get(key) for key in ("name", *MODEL_SOURCES)]
        return options | {"name": Path(str(next(filter(None, named), ""))).name}
    if isinstance(model, tuple):
        architecture, weights = model
        kind = "checkpoint" if Path(weights).exists() else "pretrained"
        name = Path(architecture.rpartition(":")[2]).name
        options = {"name": name, "architecture": architecture}
        return options | {"pretrained": None, "checkpoint": None, kind: str(weights)}
    names = choice_names("model")
    if model in names:
        return read_choice("model", str(model))
    if (Path(model) / "config.json").is_file() and not (Path(model) / OPEN_CLIP_CONFIG).is_file():
        return model_options({"kind": "transformers", "repo": str(model)})
    if str(model) and Path(model).is_dir():
        return read_choice("model", "lite") | {"name": Path(model).name, "checkpoint": str(model)}
    kind, colon, name = str(model).partition(":")
    if not colon and kind.count("/") == 1:
        kind, name = "transformers", kind
    if kind in names and (required := required_option(kind)):
        return model_options({"kind": kind, required: name})
    raise UserError(
        f"no model {str(model)!r}{did_you_mean(str(model), names)} (clipshift models lists them); "
        "a folder in the hub's format, (architecture, tag or file), KIND:NAME as timm:resnet50, or "
        "the name of a repository of transformers, is taken as well"
    )


def required_option(model: str) -> str | None:
    """The option of a choice of ``model`` that must be set."""
    options = read_choice("model", model)
    return next((name for name, value in options.items() if value == "???"), None)


def _merged(options: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Options with later ones over them: nested ones one by one, lists as a whole."""
    merged = dict(options)
    for name, value in later.items():
        if isinstance(value, str):
            value = ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[2]), value)
            if "${" in value:
                raise UserError(f"{name}={value} depends on other options: use the command line")
        nested = isinstance(value, Mapping) and isinstance(merged.get(name, {}), Mapping)
        merged[name] = _merged(merged.get(name, {}), value) if nested else value
    return merged
