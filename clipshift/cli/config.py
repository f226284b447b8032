"""Checks of a composed configuration, before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from clipshift.checks import (
    BOOLEAN,
    INFINITY,
    TEXT,
    Check,
    is_template,
    number,
    one_of,
    optional,
    share,
    whole,
)
from clipshift.errors import UserError, did_you_mean, one_line
from clipshift.severities import LADDER, MATCHED, PAPER


def _is_severity(value: Any) -> bool:
    return type(value) in (int, str) and value in SEVERITIES


DISTURBED = {"aug": "aug=noise"}
"""The group that the demo cannot be without, see `validate`."""
MEASURED = DISTURBED | {"metric": "metric=cosine_similarity", "prompts": "prompts=auto"}
"""The groups that an evaluation cannot be without."""
SEVERITIES = (PAPER, *map(int, LADDER), MATCHED)
CHECKS: dict[str, Check] = {
    "seed": whole(0),
    "precision": one_of("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16", "auto"),
    "severity": (
        "paper, 1 to 5, matched, or a list of them, each once",
        lambda v: (
            bool(v) and all(map(_is_severity, v)) and len(set(v)) == len(v)
            if isinstance(v, list)
            else _is_severity(v)
        ),
    ),
    "model.name": TEXT,
    "model.architecture": TEXT,
    "model.pretrained": optional(TEXT),
    "model.checkpoint": optional(TEXT),
    "prompts.templates": (
        "auto, openai, a file, or a list of texts with {} in the place of the class",
        lambda v: isinstance(v, str) or (isinstance(v, list) and all(map(is_template, v))),
    ),
    "attributes": (
        "a list of texts",
        lambda v: isinstance(v, list) and all(isinstance(text, str) and text for text in v),
    ),
    "cache.gigabytes": number(0),
    "logger.tags": (
        "a list of words",
        lambda v: isinstance(v, list) and all(isinstance(tag, str) for tag in v),
    ),
    "matching.distortion": optional(one_of("ssim", "rmse", "displacement")),
    "matching.target": optional(number(0)),
    "matching.photos": optional(whole(1)),
    "rerun": BOOLEAN,
    "dashboard": BOOLEAN,
    "compare": (
        "two run folders, [A,B]",
        lambda v: v is None or (isinstance(v, list) and [type(path) for path in v] == [str] * 2),
    ),
    "report": optional(TEXT),
    "fetch": BOOLEAN,
    "check.tolerance": number(0),
    "check.download": BOOLEAN,
    "check.shards": optional(TEXT),
    "layers": BOOLEAN,
    "inside": BOOLEAN,
    "zero_shot.classes": optional(TEXT),
    "gallery": whole(0),
    "resample": one_of("auto", "photos", "classes"),
    "beside": optional(TEXT),
    "port": whole(1, 65535),
    "save.embeddings": BOOLEAN,
    "save.views": whole(0),
    "save.gaze": whole(0),
    "save.gaze_heads": whole(0),
    "data.skip": optional(whole(0)),
    "data.limit": optional(whole(1)),
    "data.skip_sample": optional(whole(0)),
    "data.sample": optional(whole(1)),
    "data.pattern": optional(TEXT),
    "data.rows": optional(whole(1)),
    "data.stream": BOOLEAN,
    "data.batch_size": whole(1),
    "data.num_workers": optional(whole(0)),
    "data.resize": one_of("squash", "crop", "native"),
    "optimization.lr": number(0),
    "optimization.weight_decay": share(0, 1),
    "objective.anchor_weight": share(0, INFINITY),
    "objective.loss.distance": one_of("l2", "cosine"),
    "objective.loss.weight": share(0, INFINITY),
    "trainer.max_epochs": whole(1),
    "tune.blocks": whole(1),
    "tune.rank": whole(1),
    "tune.alpha": number(0),
    "clip_weight": share(),
    "ridge": number(0),
    "logit_scale": number(0),
    "optimization.steps": whole(1),
    "ema": optional(share()),
    "control": BOOLEAN,
    "patience": optional(whole(1)),
    "tolerance": share(),
    "alphas": (
        "numbers from 0 to 1, and 0 first",
        lambda v: isinstance(v, list) and all(map(share()[1], v)) and bool(v) and float(v[0]) == 0,
    ),
    "severities": (
        "a list of paper and 1 to 5",
        lambda v: (
            isinstance(v, list)
            and bool(v)
            and all(_is_severity(one) and one != MATCHED for one in v)
        ),
    ),
}
STANDS_IN = {"aug": ("aug", "train_aug"), "data": ("data", "data.train", "data.val")}
"""Where a group's options stand: in ``evaluate.yaml``, and in ``train.yaml``."""
PATHS = {
    "data.root": ("dir", "file"),
    "data.csv_file": ("file",),
    "data.classnames": ("file",),
    "data.clean": ("dir",),
    "model.checkpoint": ("file", "dir"),
    "matching.file": ("file",),
    "report": ("dir",),
}
"""Options that name a file or a folder."""


def plain(node: DictConfig) -> dict[str, Any]:
    """A configuration as resolved dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def validate(cfg: DictConfig, groups: Mapping[str, str]) -> None:
    """Check the ranges of a composed configuration.

    Args:
        cfg: The configuration.
        groups: Groups of which at least one must be chosen, with an example each.

    Raises:
        UserError: If a value is missing or outside its range, naming the option and the range.
    """
    if missing := list(_missing(OmegaConf.to_container(cfg))):
        raise UserError(f"{missing[0]} is not set: add {missing[0]}=VALUE")
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except InterpolationKeyError as error:
        raise UserError(str(error).splitlines()[0]) from None
    for option, (expected, test) in CHECKS.items():
        group, dot, rest = option.partition(".")
        for node in STANDS_IN.get(group, (group,)):
            name = node + dot + rest
            value = OmegaConf.select(cfg, name, default=cfg)
            if value is cfg:
                continue
            given = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            if not test(given):
                raise UserError(f"{name}={given} is out of range: it must be {expected}")
    for group in ("metric", *STANDS_IN["aug"]):
        nodes = cfg.get(group) or {}
        if not isinstance(nodes, Mapping) or not all(map(OmegaConf.is_dict, nodes.values())):
            raise UserError(f"{group} holds something without options: choose it by name")
    for group, example in groups.items():
        if not cfg.get(group):
            raise UserError(f"{group} is empty: choose at least one, as in {example}")


def check_paths(cfg: DictConfig) -> None:
    """Make sure that the files and folders of a configuration are there.

    The rooms behind check them as well, but only after seconds of imports.

    Raises:
        UserError: If one is missing, naming its option.
    """
    for option, kinds in PATHS.items():
        group, dot, rest = option.partition(".")
        for node in STANDS_IN.get(group, (group,)):
            name = node + dot + rest
            path = OmegaConf.select(cfg, name)
            if path is None or "://" in str(path):
                continue
            found = Path(str(path)).expanduser()
            if not any(getattr(found, f"is_{kind}")() for kind in kinds):
                kind = " or ".join({"dir": "folder"}.get(kind, kind) for kind in kinds)
                raise UserError(f"{name}: no {kind} {path}")


def _missing(content: Any, name: str = "") -> Iterator[str]:
    # OmegaConf.missing_keys fails where an interpolation leads to what is missing.
    if content == "???":
        yield name
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _missing(value, f"{name}.{key}".lstrip("."))


def name_model(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Call a model by its architecture where the command line gives that, and no name.

    Args:
        cfg: The composed configuration, changed in place.
        overrides: The command line.
    """
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "model.architecture" in given and "model.name" not in given:
        cfg.model.name = Path(cfg.model.architecture.rpartition(":")[2]).name


def dotted_names(node: Any) -> Iterator[str]:
    """Dotted names of everything in a configuration, set or not."""
    content: dict[str, Any] = OmegaConf.to_container(node)  # type: ignore[assignment]
    for key, value in content.items():
        yield key
        if isinstance(value, dict):
            yield from (f"{key}.{name}" for name in dotted_names(OmegaConf.create(value)))


def composition_error(message: str, options: list[str], conf: Path) -> str:
    """One line for what Hydra says in many when the command line does not fit the configuration.

    Args:
        message: Hydra's message.
        options: Dotted names of all options there are.
        conf: The folder of all configurations.
    """
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^']+)'", message):
        group, choice = found.groups()
        choices = sorted(file.stem for file in (conf / group).glob("*.yaml"))
        return (
            f"no {choice!r} in group {group}{did_you_mean(choice, choices)} "
            f"(there are: {', '.join(choices)})"
        )
    if found := re.search(r"Could not override '([^']+)'", message):
        option = found[1]
        group, _, key = option.partition(".")
        choices = [
            file.stem
            for file in sorted((conf / group).glob("*.yaml"))
            if key in dotted_names(OmegaConf.load(file))
        ]
        if choices:
            return (
                f"option {option!r} comes with {group}={' or '.join(choices)}: choose that as well"
            )
        return f"no option {option!r}{did_you_mean(option, options)}; --help lists them"
    if found := re.search(r"Error merging override ([\w.]+)=(.*)", message):
        node, choice = found.groups()
        for group, nodes in STANDS_IN.items():
            if node in nodes:
                return f"{node} is chosen from a group: {group}@{node}={choice}"
    return one_line(message)
