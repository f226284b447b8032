"""Every option is described once, and all that is said of it is made from that."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.commands import run_code
from support.terminal import ROOT

from clipshift.choices import CONF, choice_names
from clipshift.cli.command import compose_config
from clipshift.cli.config import DESCRIPTIONS, plain, validate
from clipshift.cli.help import chosen_groups, options_page, summary
from clipshift.errors import UserError
from clipshift.options import (
    FROM_CHOICE,
    REQUIRED,
    EvaluateOptions,
    check_of,
    check_options,
    default_of,
    defaults,
    described_options,
    nested,
    options_of,
    read_options,
)

LINE = '    sharpness: int = option(3, whole(2))\n    """How sharp a photo must be."""\n'
USE = """
import inspect, sys, warnings
warnings.filterwarnings("ignore", "Overwriting")  # timm knows a model of the checkout
for name in [name for name in sys.modules if name.partition(".")[0] == "clipshift"]:
    del sys.modules[name]
sys.path.insert(0, "")
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.cli.help import options, options_page
from clipshift.errors import UserError
assert compose_config("evaluate").sharpness == 3
lines = " ".join(options("evaluate").split())
assert "sharpness=N How sharp a photo must be (3)" in lines, "help"
assert "| `sharpness` | 3 | a whole number ≥ 2 | How sharp a photo must be |" in options_page()
try:
    validate(compose_config("evaluate", ["logger=none", "sharpness=1"]), "evaluate")
except UserError as error:
    print(error)
from clipshift import measure_shift
assert inspect.signature(measure_shift).parameters["sharpness"].default == 3
assert "        sharpness: How sharp a photo must be." in measure_shift.__doc__
try:
    measure_shift(sharpness=1)
except UserError as error:
    print(error)
"""


def test_an_option_is_added_by_one_field_in_one_place(tmp_path: Path) -> None:
    for entry in (ROOT / "clipshift").iterdir():
        (tmp_path / "clipshift").mkdir(exist_ok=True)
        (tmp_path / "clipshift" / entry.name).symlink_to(entry)
    file = tmp_path / "clipshift" / "options.py"
    text = file.read_text("utf-8")
    file.unlink()
    before = "    layers: bool = False\n"
    assert text.count(before) == 1
    file.write_text(text.replace(before, LINE + before), "utf-8")
    done = run_code(USE, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "sharpness=1 is out of range: it must be a whole number ≥ 2\n" * 2


@pytest.mark.parametrize("command", DESCRIPTIONS)
def test_every_option_has_a_line_of_help_and_a_default_in_its_range(command: str) -> None:
    rows = list(described_options(DESCRIPTIONS[command]))
    assert len({name for name, *_ in rows}) == len(rows)
    for name, one, text in rows:
        assert text[0].isupper(), name
        assert len(text) > 3, name
        check, default = check_of(one), default_of(one)
        assert check or nested(one), f"{name} accepts anything"
        if check and default is not FROM_CHOICE:
            assert check[1](default), name


HELP = """
import contextlib, io, json, sys
from clipshift.cli.main import main
said = {}
for command in sys.argv[1:]:
    sys.argv[:] = ["clipshift", command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main()
    imported = sorted({"torch", "open_clip", "pandas"} & set(sys.modules))
    said[command] = [output.getvalue(), imported]
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.errors import UserError
try:
    validate(compose_config("evaluate", ["logger=none", "seed=-1"]), "evaluate")
    raise AssertionError("seed=-1 was accepted")
except UserError:
    assert "torch" not in sys.modules
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, list[str]]]:
    """By command: its help, and what one new Python has imported until then."""
    command = [sys.executable, "-c", HELP, "evaluate", "train", "demo"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("command", ["evaluate", "train", "demo"])
def test_help_lists_every_option_and_every_choice_without_torch(
    helps: dict[str, tuple[str, list[str]]], command: str
) -> None:
    text, imported = helps[command]
    assert imported == []
    text = " ".join(text.split())
    described = "finetune" if command == "train" else command
    for name, *_ in described_options(DESCRIPTIONS[described]):
        assert f" {name}=" in text
    for name, group in chosen_groups(described).items():
        assert f" {name} {', '.join(choice_names(group))} " in text


def test_all_groups_are_described() -> None:
    folders = {file.parent.name for file in CONF.glob("*/*.yaml")}
    groups = {group for command in DESCRIPTIONS for group in chosen_groups(command).values()}
    assert groups == folders - {"experiment", "sweep"}
    for group in groups | {"experiment"}:
        for choice in choice_names(group):
            assert summary(group, choice), f"conf/{group}/{choice}.yaml begins without a comment"


def test_the_page_of_options_is_up_to_date() -> None:
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert page == options_page() + "\n", "write it by: python -m clipshift.cli.help"


def test_the_yaml_repeats_no_option() -> None:
    for command in ("evaluate", "train", "demo"):
        text = (CONF / f"{command}.yaml").read_text("utf-8")
        assert set(re.findall(r"^(\w+):", text, re.M)) == {"defaults", "hydra"}
    loading = set(defaults(EvaluateOptions)["data"])
    for file in (CONF / "data").glob("*.yaml"):
        repeated = loading & set(re.findall(r"^(\w+):", file.read_text("utf-8"), re.M))
        assert repeated == ({"resize", "batch_size"} if file.stem == "imagenet_c" else set())


def test_a_source_of_ones_own_gets_the_loading_options(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "_target_: mine.photos\nfolder: x\nbatch_size: 2\n"
    )
    own = [
        "logger=none",
        f"hydra.searchpath=[file://{tmp_path}]",
        "data=mine",
        "data.sample=3",
        "+mine.key=1",
    ]
    cfg = plain(compose_config("evaluate", own))
    assert cfg["data"] == defaults(EvaluateOptions)["data"] | {
        "_target_": "mine.photos",
        "folder": "x",
        "batch_size": 2,
        "sample": 3,
    }
    assert cfg["mine"] == {"key": 1}
    validate(compose_config("evaluate", own), "evaluate")


def test_options_are_read_from_a_configuration_and_checked_without_one() -> None:
    cfg = plain(compose_config("evaluate", ["logger=none", "save.gaze=8", "severity=[1,matched]"]))
    options = read_options(EvaluateOptions, cfg)
    assert options.save.gaze == 8
    assert options.severity == [1, "matched"]
    assert options.data.batch_size == 32
    assert asdict(EvaluateOptions()) == defaults(EvaluateOptions)
    check_options(EvaluateOptions, asdict(options))
    with pytest.raises(UserError, match=r"data\.batch_size=0 is out of range: it must be a whole"):
        check_options(EvaluateOptions, asdict(options) | {"data": {"batch_size": 0}})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=x", "seed=x is out of range: it must be a whole number ≥ 0"),
        ("seed=1.0", "seed=1.0 is out of range: it must be a whole number ≥ 0"),
        ("layers=1", "layers=1 is out of range: it must be true or false"),
        ("save=3", "save=3 is out of range: set its options, save.NAME=VALUE"),
        ("matching=null", "matching=None is out of range: set its options, matching.NAME=VALUE"),
        ("data.num_workers=[1]", "data.num_workers=[1] is out of range: it must be a whole number"),
        ("~metric", "metric is empty: choose at least one, as in metric=cosine_similarity"),
        ("sweeps=null", "sweeps=None is out of range: it must be text"),
    ],
)
def test_a_wrong_type_is_told_in_one_line(override: str, expected: str) -> None:
    cfg = compose_config("evaluate", ["logger=none", override])
    with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
        validate(cfg, "evaluate")


def test_a_missing_value_says_what_to_add() -> None:
    with pytest.raises(UserError, match=r"^nothing to train: add experiment=robustify_demo"):
        validate(compose_config("train"), "train")
    with pytest.raises(UserError, match=r"^data\.csv_file is not set: add data\.csv_file=VALUE$"):
        validate(compose_config("evaluate", ["logger=none", "data=captions"]), "evaluate")
    required = [
        name for name, one in options_of(DESCRIPTIONS["train"]) if default_of(one) == REQUIRED
    ]
    assert required == ["stage"]
