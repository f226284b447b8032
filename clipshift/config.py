"""Checks of a composed configuration, before anything heavy is imported."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from clipshift.errors import UserError, did_you_mean, one_line

Check = tuple[str, Callable[[Any], bool]]


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def whole(low: int, high: float = float("inf")) -> Check:
    """A whole number between two, both included."""
    return f"a whole number ≥ {low}", lambda v: type(v) is int and low <= v <= high


def number(low: float, high: float = float("inf")) -> Check:
    """A number greater than ``low``, and at most ``high``."""
    bound = f" and ≤ {high:g}" if high < float("inf") else ""
    return f"a number > {low:g}{bound}", lambda v: _number(v) and low < v <= high


def share(low: float = 0, high: float = 1) -> Check:
    """A number between two, both included."""
    return f"a number from {low:g} to {high:g}", lambda v: _number(v) and low <= v <= high


def interval(low: float, high: float) -> Check:
    """A range [a, b] with low ≤ a ≤ b ≤ high."""
    bounds = f"{low:g} ≤ a ≤ b" + (f" ≤ {high:g}" if high < float("inf") else "")
    return (
        f"a range [a, b] with {bounds}",
        lambda v: (
            len(v) == 2 and all(map(_number, v)) and low <= v[0] <= v[1] <= high
            if isinstance(v, list)
            else False
        ),
    )


def one_of(*choices: str) -> Check:
    """One of some words."""
    return f"one of {', '.join(choices)}", lambda v: v in choices


def optional(check: Check) -> Check:
    """What the check asks for, or null."""
    words, test = check
    return f"{words}, or null", lambda v: v is None or test(v)


def _is_severity(value: Any) -> bool:
    return type(value) in (int, str) and value in SEVERITIES


def _is_template(value: Any) -> bool:
    try:
        return "{}" in value and bool(value.format(""))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


TEXT: Check = ("text", lambda v: isinstance(v, str) and bool(v))
BOOLEAN: Check = ("true or false", lambda v: isinstance(v, bool))
INFINITY = float("inf")
MEASURED = {"aug": "aug=noise", "metric": "metric=cosine_similarity"}
"""The groups that an evaluation cannot be without, see `validate`."""
SEVERITIES = ("paper", 1, 2, 3, 4, 5, "matched")
CHECKS: dict[str, Check] = {
    "seed": whole(0),
    "precision": one_of("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"),
    "severity": (
        "paper, 1 to 5, matched, or a list of them, each once",
        lambda v: (
            bool(v) and all(map(_is_severity, v)) and len(set(v)) == len(v)
            if isinstance(v, list)
            else _is_severity(v)
        ),
    ),
    "model.architecture": TEXT,
    "model.pretrained": optional(TEXT),
    "model.checkpoint": optional(TEXT),
    "prompts.templates": (
        "a list of texts with {} in the place of the class",
        lambda v: isinstance(v, list) and all(map(_is_template, v)),
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
    "layers": BOOLEAN,
    "zero_shot.classes": optional(TEXT),
    "gallery": whole(0),
    "save.embeddings": BOOLEAN,
    "save.views": whole(0),
    "save.gaze": whole(0),
    "data.skip": optional(whole(0)),
    "data.limit": optional(whole(1)),
    "data.skip_sample": optional(whole(0)),
    "data.sample": optional(whole(1)),
    "data.pattern": optional(TEXT),
    "data.batch_size": whole(1),
    "data.num_workers": whole(0),
    "data.resize": one_of("squash", "crop"),
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
            and all(_is_severity(one) and one != SEVERITIES[-1] for one in v)
        ),
    ),
    "aug.noise.std": interval(0, INFINITY),
    "aug.blur.kernel": (
        "a list of odd whole numbers ≥ 1",
        lambda v: (
            isinstance(v, list) and bool(v) and all(type(k) is int and k % 2 and k > 0 for k in v)
        ),
    ),
    "aug.blur.sigma": interval(1e-3, INFINITY),
    "aug.color_jitter.brightness": interval(0, INFINITY),
    "aug.color_jitter.contrast": interval(0, INFINITY),
    "aug.color_jitter.saturation": interval(0, INFINITY),
    "aug.color_jitter.hue": interval(-0.5, 0.5),
    "aug.shift_scale_rotate.shift": interval(-1, 1),
    "aug.shift_scale_rotate.scale": interval(0.01, 100),
    "aug.shift_scale_rotate.rotation": interval(-360, 360),
    "aug.elastic.alpha": number(0),
    "aug.elastic.sigma": number(0, 224),
    "aug.perspective.scale": interval(0, 0.45),
    "aug.brightness_contrast.brightness": interval(-1, 1),
    "aug.brightness_contrast.contrast": interval(-1, INFINITY),
    "aug.coarse_dropout.holes": (
        "a range [a, b] of whole numbers with 0 ≤ a ≤ b",
        lambda v: isinstance(v, list) and [type(n) for n in v] == [int] * 2 and 0 <= v[0] <= v[1],
    ),
    "aug.coarse_dropout.side": whole(1, 224),
    "aug.jpeg.quality": interval(1, 100),
    "aug.pixelate.block": interval(1, 224),
    "aug.motion_blur.length": interval(0, 224),
    "aug.rotation.rotation": interval(-360, 360),
    "aug.grayscale.amount": interval(0, 1),
}
PLACES = {"aug": ("aug", "train_aug"), "data": ("data", "data.train", "data.val")}
"""Where a group's options stand: in ``evaluate.yaml``, and in ``train.yaml``."""
LADDER_CHECK: Check = (
    "five rising strengths > 0, those of severity 1 to 5",
    lambda v: (
        isinstance(v, list)
        and len(v) == 5
        and all(map(_number, v))
        and v[0] > 0
        and all(low < high for low, high in pairwise(v))
    ),
)


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
        for place in PLACES.get(group, (group,)):
            name = place + dot + rest
            value = OmegaConf.select(cfg, name, default=cfg)
            if value is cfg:
                continue
            given = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            if not test(given):
                raise UserError(
                    f"{place}{dot}{rest}={given} is out of range: it must be {expected}"
                )
    for place in ("metric", *PLACES["aug"]):
        nodes = cfg.get(place) or {}
        if not isinstance(nodes, Mapping) or not all(map(OmegaConf.is_dict, nodes.values())):
            raise UserError(f"{place} holds something without options: choose it by name")
    for place in PLACES["aug"]:
        for name, node in (cfg.get(place) or {}).items():
            ladder = OmegaConf.to_container(node.get("ladder", OmegaConf.create([])))
            if not LADDER_CHECK[1](ladder):
                raise UserError(f"{place}.{name}.ladder={ladder} must be {LADDER_CHECK[0]}")
    for group, example in groups.items():
        if not cfg.get(group):
            raise UserError(f"{group} is empty: choose at least one, as in {example}")


def _missing(content: Any, place: str = "") -> Iterator[str]:
    # OmegaConf.missing_keys fails where an interpolation leads to what is missing.
    if content == "???":
        yield place
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _missing(value, f"{place}.{key}".lstrip("."))


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
        place, choice = found.groups()
        for group, places in PLACES.items():
            if place in places:
                return f"{place} is chosen from a group: {group}@{place}={choice}"
    return one_line(message)
