"""The command ``clipshift``, as a user types it."""

from pathlib import Path

import open_clip
import pandas as pd
import pytest
import yaml
from support.commands import run_script
from support.hub import put_in_cache

from clipshift.choices import choice_names, read_choice
from clipshift.cli.main import COMMANDS, main
from clipshift.cli.models import FACTS, model_row
from clipshift.encode.gaze import gaze_probe
from clipshift.encode.open_clip_models import MODELS
from clipshift.encode.weights import weight_places

EXPERIMENTS = ("check", "dissect", "imagenet_c", "inside", "paper", "parity")
SEVERITIES = ("paper", "1", "2", "3", "4", "5", "matched")


def clipshift(*arguments: str, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
    done = run_script("clipshift/__main__.py", *arguments, cwd=cwd, env=env or None)
    return done.returncode, done.stdout, done.stderr


def test_help_names_every_command() -> None:
    code, said, _ = clipshift()
    assert code == 0
    assert all(f"  clipshift {name} " in said for name in COMMANDS)
    assert clipshift("--help")[1] == said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evalute"], "did you mean 'evaluate'"),
        (["report"], "the folder of a run"),
        (["models", "lite"], "no arguments"),
    ],
)
def test_mistakes_in_the_command_are_one_line(
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["clipshift", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clipshift ", set(COMMANDS)),
        ("clipshift evaluate aug=no", {"aug=noise"}),
        ("clipshift train experiment=robustify_d", {"experiment=robustify_demo"}),
        ("clipshift train experiment=check", set()),
        ("clipshift evaluate experiment=", {f"experiment={name}" for name in EXPERIMENTS}),
        ("clipshift demo prompts=pl", {"prompts=plain"}),
        ("clipshift evaluate aug=noise severity=m", {"severity=matched"}),
        ("clipshift evaluate severity=", {f"severity={name}" for name in SEVERITIES}),
        ("clipshift demo precision=f", {"precision=fp32", "precision=fp16"}),
        ("clipshift evaluate layers=", {"layers=true", "layers=false"}),
        ("clipshift report ", {"outputs/day/time", "here"}),
        ("clipshift compare here out", {"outputs/day/time"}),
    ],
)
def test_the_shell_completes_commands_options_values_and_runs(
    line: str,
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("outputs/day/time", "here"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["clipshift", "-sc", "query=bash"])
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr("clipshift.cli.command.stop_on_signals", lambda: None)
    main()
    assert set(capsys.readouterr().out.split()) == expected


def test_paths_are_those_of_the_folder_one_stands_in(hub_folder: Path, tmp_path: Path) -> None:
    options = (
        "data.limit=2", "aug=flip", "metric=cosine_similarity", "logger=none", "cache=off",
        "trainer=cpu", "prompts=none", f"model.checkpoint={hub_folder}",
    )  # fmt: skip
    for seed in "01":
        code, _, error = clipshift(
            "evaluate", *options, f"seed={seed}", f"hydra.run.dir=run {seed}", cwd=tmp_path
        )
        assert code == 0, error
    code, said, error = clipshift("report", "run 0", cwd=tmp_path)
    assert code == 0, error
    assert f"{Path('run 0/report.html')}" in said
    code, _, error = clipshift("compare", "run 0", "run 1", "hydra.run.dir=both", cwd=tmp_path)
    assert (code, error) == (1, error)
    assert "cannot be compared photo by photo: they differ in seed" in error
    code, _, error = clipshift("compare", "run 0", "run 0", "hydra.run.dir=both", cwd=tmp_path)
    assert code == 0, error
    table = pd.read_csv(tmp_path / "both" / "comparison.csv").set_index("measure")
    assert set(table.index[table["mean_a"].isna()]) == {"whitened_shift"}  # not of two photos
    assert (table["difference"].drop("whitened_shift") == 0).all()


STORED = yaml.safe_load(FACTS.read_text("utf-8"))


@pytest.mark.parametrize("name", ["vit_b32_openai", "rn50_openai", "tiny"])
def test_models_are_listed_as_open_clip_makes_them(name: str) -> None:
    architecture = read_choice("model", name)["architecture"]
    known = architecture.replace("builtin:", f"local-dir:{MODELS}/")
    model = open_clip.create_model(known, pretrained_text=False)
    count = sum(weight.numel() for weight in model.parameters())
    assert STORED[name]["parameters"] == f"{count / 1e6:.1f} M"
    assert STORED[name]["embedding"] == (model.visual.output_dim if name != "tiny" else 128)
    size = model.visual.image_size
    assert STORED[name]["input"] == f"{size if isinstance(size, int) else size[0]} px"


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_of_a_model_is_what_building_it_gives(name: str) -> None:
    model = read_choice("model", name)
    architecture, tag = model["architecture"], model["pretrained"]
    known = architecture.replace("builtin:", f"local-dir:{MODELS}/")
    built = open_clip.create_model(known, load_weights=False, pretrained_text=False)
    size, probe = built.visual.preprocess_cfg["size"], gaze_probe(built.visual)
    assert STORED[name] == {
        "parameters": f"{sum(weight.numel() for weight in built.parameters()) / 1e6:.1f} M",
        "input": f"{size if isinstance(size, int) else size[0]} px",
        "embedding": open_clip.get_model_config(known)["embed_dim"],
        "gaze": probe.kind if probe else "none",
        "weights": weight_places(architecture, tag) if tag else [],
    }


def test_every_model_that_is_listed_has_its_facts() -> None:
    assert list(STORED) == [
        n for n in choice_names("model") if "kind" not in read_choice("model", n)
    ]


def test_weights_are_here_once_they_are_in_a_cache(hub_cache: Path) -> None:
    model = read_choice("model", "rn50_openai")
    assert model_row("a", model, STORED["rn50_openai"])[-1] == "no"
    repo, _, file = STORED["rn50_openai"]["weights"][1].rpartition("/")
    put_in_cache(hub_cache, repo, {file: Path(__file__)})
    assert model_row("a", model, STORED["rn50_openai"])[-1] == "yes"
    assert model_row("a", read_choice("model", "lite"), STORED["lite"])[-1] == "yes"
