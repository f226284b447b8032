"""What is chosen by name: the same with and without Hydra, and nothing but clipshift's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from clipshift.choices import choice_names, model_options, read_choice
from clipshift.cli import build
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.errors import UserError
from clipshift.parts import AUGMENTATIONS, build_part, make_augmentations, make_measures, measures

ONLY_COMMAND = {"custom", "imagenet_c", "imagenet_c_bar"}
"""Choices that depend on other options."""


def keys_of(choices: dict[str, dict[str, Any]]) -> set[str]:
    return {key for content in choices.values() for key in content}


@pytest.mark.parametrize("group", ["aug", "metric", "prompts", "model", "trainer", "cache"])
def test_choices_are_read_as_hydra_composes_them(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices of different keys are composed together: each part of the whole is one choice's."""
    monkeypatch.setenv("CLIPSHIFT_CACHE", "/some 'where'")
    together: list[dict[str, Any]] = []
    for name in sorted(set(choice_names(group)) - ONLY_COMMAND - {"attributes"}):
        content = read_choice(group, name)
        several = group in ("aug", "metric")
        free = (one for one in together if several and not content.keys() & keys_of(one))
        one = next(free, None)
        if one is None:
            together.append(one := {})
        one[name] = content
    for one in together:
        composed = compose_config("evaluate", [f"{group}=[{','.join(one)}]", "logger=none"])
        if "ddp" not in one:  # which holds numbers alone, and is read no other way
            whole = {key: value for content in one.values() for key, value in content.items()}
            assert plain(composed)[group] == whole, list(one)


def test_several_choices_are_merged_in_their_order() -> None:
    composed = compose_config("evaluate", ["aug=[authors,jpeg]", "logger=none"])
    assert read_choice("aug", ["authors", "jpeg"]) == plain(composed.aug)
    assert list(read_choice("aug", ["jpeg", "noise"])) == ["jpeg", "noise"]


def state(part: Any) -> Any:
    """What a part holds, with ranges as lists."""
    return json.loads(json.dumps(vars(part), default=vars))


def test_parts_are_those_that_hydra_makes() -> None:
    for name in set(choice_names("aug")) - ONLY_COMMAND:
        nodes = read_choice("aug", name)
        parts, ladders = make_augmentations(nodes)
        expected, expected_ladders = build.make_augmentations(nodes)
        assert ladders == expected_ladders
        for key, part in parts.items():
            assert type(part) is type(expected[key])
            assert state(part) == state(expected[key])
    without_weights = [name for name in choice_names("metric") if name not in ("lpips", "dists")]
    nodes = read_choice("metric", without_weights)
    measures, instantiated = make_measures(nodes), make_measures(nodes, build.instantiate_part)
    assert {n: type(m) for n, m in measures.items()} == {
        n: type(m) for n, m in instantiated.items()
    }


def test_every_part_of_ours_can_be_chosen() -> None:
    chosen = {
        node["_target_"]
        for group, names in (("aug", set(choice_names("aug")) - ONLY_COMMAND), ("metric", ["full"]))
        for name in names
        for node in read_choice(group, name).values()
    }
    assert chosen | {"clipshift.augment.Stored"} >= set(AUGMENTATIONS)
    assert len(chosen & set(measures())) == 13


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "os.mkdir"}, r"aug\.x is made by os\.mkdir, which is not clipshift's"),
        ({"_target_": "clipshift.augment.KeyedTransform"}, "which is not clipshift's"),
        ({"_target_": "clipshift.augment.Augmentation"}, "which is not clipshift's"),
        ({}, "which is not clipshift's"),
        ({"_target_": "clipshift.augment.Noise", "std": "loud"}, r"aug\.x\.std: "),
        ({"_target_": "clipshift.augment.Noise", "evil": 1}, r"aug\.x\.evil is not an option"),
        ({"_target_": "clipshift.augment.Noise", "std": [3, 1]}, r"aug\.x\.std: .*out of range"),
    ],
)
def test_what_is_not_ours_is_not_built(node: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_part("aug.x", node, AUGMENTATIONS)


def test_unknown_names_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"no 'nois' in group aug; did you mean 'noise'\? \(there"):
        read_choice("aug", ["blur", "nois"])
    with pytest.raises(UserError, match="depends on other options: use the command line"):
        read_choice("aug", "imagenet_c")
    with pytest.raises(UserError, match="no model 'lit'; did you mean 'lite'"):
        model_options("lit")


def test_models_are_chosen_by_name_folder_or_architecture(tmp_path: Path) -> None:
    lite = OmegaConf.to_container(compose_config("evaluate").model)
    assert model_options("lite") == lite
    assert model_options(tmp_path) == lite | {"name": tmp_path.name, "checkpoint": str(tmp_path)}
    weights = tmp_path / "weights.pt"
    weights.touch()
    for given, kind in (("openai", "pretrained"), (weights, "checkpoint")):
        expected = {"name": "ViT-B-32", "architecture": "ViT-B-32", "pretrained": None}
        expected |= {"checkpoint": None} | {kind: str(given)}
        assert model_options(("ViT-B-32", given)) == expected
