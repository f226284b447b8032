"""Mistakes on the command line: one clear line, exit code 1, no traceback."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from support.commands import run_code, run_evaluate, run_script
from support.terminal import ROOT

from clipshift.choices import experiment_names
from clipshift.cli import command
from clipshift.cli.build import instantiate_part, make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import check_paths, name_model, plain, validate
from clipshift.errors import UserError

# What is typed, and what the one line that answers it says.
LINES = {
    "evaluate model=untraind": "did you mean 'untrained'",
    "evaluate aug=nois": "did you mean 'noise'",
    "evaluate aug=[noise,blr]": "did you mean 'blur'",
    "evaluate data.lmit=3": "did you mean 'data.limit'",
    "evaluate mdel=untrained": "did you mean 'model'",
    "evaluate data.csv_file=x.csv": "requires data=captions",
    "evaluate aug.noise.sdt=[0,1]": "did you mean 'aug.noise.std'",
    "evaluate data.batch_size=0": "whole number ≥ 1",
    "evaluate precision=fp8": "one of fp32",
    "evaluate seed=-1": "whole number ≥ 0",
    "evaluate data=folder": "data.root is not set",
    "evaluate aug=[]": "aug is empty",
    "evaluate aug=null": "must be a string or a list",
    "evaluate save.views=yes": "whole number",
    "evaluate severity=9": "paper, 1 to 5, matched",
    "evaluate severity=[paper,paper]": "each once",
    "evaluate aug=[noise, blur]": "aug=[noise, has no closing bracket: use aug=[noise,blur], with",
    "evaluate aug=[noise, blur, flip] seed=1": "use aug=[noise,blur,flip], without spaces",
    "evaluate größe=3": "no option 'größe'; --help lists",
    "evaluate sede=3": "did you mean 'seed'",
    "evaluate +data.skip=3": "use data.skip=VALUE, without +",
    "evaluate severity=paper,matched": "use severity=[paper,matched] for one run, or -m sever",
    "evaluate aug=noise,blur": "use aug=[noise,blur] for one run, or -m aug=noise,blur",
    "evaluate model=lite,tiny": "has several values: use -m model=lite,tiny for a run each",
    "train experiment=robustify_demo aug@train_aug=noise,blur": "use aug@train_aug=[noise,blur]",
    "evaluate --data folder": "no flag --data: use data=folder",
    "evaluate --seed=3 aug=noise": "no flag --seed: use seed=3",
    "evaluate --cfg": "expected one argument; --help lists",
    "evaluate noise": "noise is not an option: use OPTION=VALUE",
    "evaluate photos": "photos is not an option: use data=folder data.root=photos",
    "evaluate model=ViT-B-32": "an architecture: use model=vit_b32_laion2b, model=vit_b32_openai,",
    "evaluate model=ViT-L/14": "use model=vit_l14_openai, model.architecture=ViT-L-14 model.pret",
    "evaluate model=photos": "use model.checkpoint=photos",
    "evaluate aug=noise -m seed=0,1 model=nope": "no 'nope' in group model",
    "compare a b": "compare: no finished run in a (the latest run here is outputs/day/time)",
    "compare outputs/day/time photos": "compare: no finished run in photos",
    "report nowhere": "report: no finished run in nowhere",
    "compare a": "compare needs two run folders",
    "leaderboard": "leaderboard needs runs",
    "leaderboard photos": "leaderboard: no finished run in or below photos (the latest run here is",
    "train": "nothing to train: add experiment=robustify_demo",
    "train experiment=nope": "(there are: make_lite, pretrain_tiny, robustify, ",
    "train experiment=check": "use clipshift evaluate experiment=check",
    "evaluate experiment=papr": "'paper'? (there are: check, dissect, imagenet_c, inside",
    "evaluate experiment=robustify": "use clipshift train experiment=robustify",
    "train experiment=robustify data.train.root=photos data.val.root=x": "data.val.root: no folder",
    "train experiment=robustify_lite data.train.large.root=x": "data.train.large.root: no folder",
}  # fmt: skip
EACH = """
import contextlib, io, json, os, sys
from clipshift.cli.main import main
said = []
for words in json.load(sys.stdin):
    sys.argv[:] = ["clipshift", *words]
    error, code = io.StringIO(), 0
    with contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    said.append([code, error.getvalue(), sorted(os.listdir()), os.listdir("outputs")])
print(json.dumps([said, sorted({"torch", "open_clip", "pandas"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Code, standard error and folders after each of `LINES`, all in one new Python."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "photos").mkdir()
    (folder / "outputs/day/time").mkdir(parents=True)
    (folder / "outputs/day/time/run.json").touch()
    done = subprocess.run(
        [sys.executable, "-c", EACH], input=json.dumps([line.split() for line in LINES]),
        capture_output=True, text=True, check=True, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    each, imported = json.loads(done.stdout)
    assert not imported  # no mistake waits for seconds
    return dict(zip(LINES, each, strict=True))


@pytest.mark.parametrize("line", LINES)
def test_a_mistake_is_one_line_that_says_what_to_type(
    said: dict[str, list[Any]], line: str
) -> None:
    code, error, folders, runs = said[line]
    assert code == 1
    assert LINES[line] in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (folders, runs) == (["outputs", "photos"], ["day"])


@pytest.mark.parametrize("experiment", experiment_names("train"))
def test_the_paths_of_every_experiment_can_be_checked(experiment: str) -> None:
    """Whether one source is trained on, several, or shards; that one is missing is no defect."""
    cfg = compose_config("train", [f"experiment={experiment}"])
    with suppress(UserError, MissingMandatoryValue):
        check_paths(cfg, "finetune" if "train_aug" in cfg else "train")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("severity=true", "paper, 1 to 5, matched"),
        ("severity=[[1]]", "paper, 1 to 5, matched"),
        ("matching.target=.inf", "a number > 0"),
        ("prompts.templates=[a photo]", "with {} in the place of the class"),
        ("prompts.templates=['{} and {x}']", "with {} in the place of the class"),
        ("model.pretrained=[openai]", "must be text, or null"),
        ("cache.gigabytes=0", "a number > 0"),
        ("data.limit=0", "a whole number ≥ 1, or null"),
        ("data.sample=0", "a whole number ≥ 1, or null"),
        ("data.skip_sample=-1", "a whole number ≥ 0, or null"),
        ("compare=[a]", "two run folders"),
        ("compare=[1,2]", "two run folders"),
        ("+aug.mine=3", "contains an invalid entry: choose by name"),
        ("metric=[]", "metric is empty"),
    ],
)
def test_options_out_of_range(override: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        validate(compose_config("evaluate", ["logger=none", override]), "evaluate")
    assert expected in str(error.value)
    assert override.lstrip("+").partition(".")[0].partition("=")[0] in str(error.value)


def make_parts(cfg: DictConfig) -> None:
    make_augmentations(plain(cfg.aug))
    instantiate_part("metric.ssim", plain(cfg.metric)["ssim"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("aug.elastic.sigma=300", "aug.elastic.sigma: 300 is out of range"),
        ("aug.noise.std=[2,1]", "aug.noise.std: [2, 1] is out of range: it must be a range"),
        ("aug.coarse_dropout.side=300", "a whole number ≥ 1 and ≤ 224"),
        ("aug.noise.ladder=[3,2,1]", "aug.noise.ladder: [3, 2, 1] is out of range"),
        ("aug.blur.kernel=[2]", "a list of odd whole numbers"),
        ("+aug.noise.colour=red", "aug.noise: "),
        ("metric.ssim._target_=nowhere.SSIM", "metric.ssim: "),
    ],
)
def test_parts_check_their_own_parameters(override: str, expected: str) -> None:
    cfg = compose_config("evaluate", ["logger=none", override])
    validate(cfg, "evaluate")
    with pytest.raises(UserError) as error:
        make_parts(cfg)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=robustify_vit_b32"], "data.train.root is not set"),
        (["experiment=robustify_demo", "evaluation=['data=foldr']"], "did you mean 'folder'"),
        (["experiment=robustify_demo", "train_aug=[noise]"], "aug@train_aug=[noise]"),
        (["experiment=robustify_demo", "trainer.max_epochs=0"], "whole number ≥ 1"),
        (["experiment=robustify_demo", "data.batch_size=9"], "4 training photos are fewer"),
        (["experiment=robustify_demo", "data.val.skip=14"], "data.val.skip: 14 leaves none"),
        (
            ["experiment=robustify_demo", "data@data.train=folder", "data.train.root=/no/data.1"],
            "data.train.root: no folder or file /no/data.1",
        ),
    ],
)
def test_training_mistakes(overrides: list[str], expected: str, tmp_path: Path) -> None:
    done = run_script("train.py", *overrides, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_is_called_by_its_architecture_unless_it_is_named() -> None:
    def name(*overrides: str) -> str:
        cfg = compose_config("evaluate", overrides)
        name_model(cfg, overrides)
        return cfg.model.name

    assert name("model=vit_b32_openai") == "vit_b32_openai"
    assert name("model.architecture=RN50") == "RN50"
    assert name("model.architecture=local-dir:/models/mine") == "mine"
    assert name("model.architecture=RN50", "model.name=small") == "small"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=captions", "data.csv_file={tmp}/latin1.csv"], "save it as UTF-8"),
        (["data=shards", "data.root={tmp}", "data.pattern='*.csv'"], "is not a tar file"),
        (["model.pretrained=openai"], "pretrained"),
        (["hydra.run.dir={tmp}/latin1.csv/run"], "hydra.run.dir=FOLDER"),
        (["data=folder", "data.root={tmp}/nowhere"], "no folder"),
        (
            ["data=folder", "data.root={tmp}/texts"],
            "none of the 1 photos could be read (the first, a.jpg: ",
        ),
        (["trainer=gpu"], "gpu"),
        (["severity=matched", "matching.file={tmp}/none.json"], "no file"),
        (["+trainer.precision=bf16-mixed"], "use precision=bf16 for the encoder"),
    ],
)
def test_run_time_mistakes(overrides: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a.jpg", "notes.txt"):
        (tmp_path / "texts" / name).write_text("not a photo")
    (tmp_path / "latin1.csv").write_bytes("image,caption\na.jpg,crème\n".encode("latin-1"))
    (tmp_path / "classes.json").write_text('{"names": ["cat"], "wnids": ["n1"]}')
    if "gpu" in expected:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    given = [override.format(tmp=tmp_path) for override in overrides]
    done = run_evaluate(f"hydra.run.dir={tmp_path}/run", "logger=none", *given)
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_failed_job_does_not_stop_the_sweep(tmp_path: Path) -> None:
    done = run_evaluate("-m", f"data.root={tmp_path}/nowhere,{tmp_path}/neither", "data=folder",
               "logger=none", f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    assert done.returncode == 1
    assert f"no folder or file {tmp_path}/nowhere" in done.stderr
    assert f"no folder or file {tmp_path}/neither" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_training_of_a_sweep_ends_with_code_1(tmp_path: Path) -> None:
    done = run_script(
        "train.py", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}", "hydra.run.dir=."
    )
    assert done.returncode == 1
    assert done.stderr.count("nothing to train") == 2
    assert "Traceback" not in done.stderr


def test_each_commands_help_names_its_own_groups_and_experiments() -> None:
    said = {name: run_script(f"{name}.py", "--help").stdout for name in ("evaluate", "train")}
    groups = {file.parent.name for file in (ROOT / "conf").glob("*/*.yaml")}
    named = {name: set(re.findall(r"^  ([a-z]+)\b", text, re.M)) for name, text in said.items()}
    assert groups - {"sweep"} <= named["evaluate"] | named["train"] | {"experiment"}
    assert not named["evaluate"] & {"objective", "tune", "sweep"}
    assert not named["train"] & {"metric", "cache", "sweep"}
    for file in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert sum(bool(re.search(rf"\b{file.stem}\b *\S", t)) for t in said.values()) >= 1
    for text in said.values():
        assert "vit_b32_openai" in text


def test_help_is_a_manual() -> None:
    said = run_evaluate("--help").stdout
    for part in ("USAGE", "GROUPS", "OPTIONS", "EXAMPLES", "data.root", "save.embeddings"):
        assert part in said
    assert said.count("  clipshift evaluate") == 6
    composed = run_evaluate("--cfg", "job", "aug=noise")
    assert composed.returncode == 0
    assert "0.44" in composed.stdout


def test_help_and_mistakes_do_not_wait_for_heavy_imports() -> None:
    code = (
        "import sys, clipshift.cli.command, clipshift.cli.config; "
        "print(sorted({'torch', 'open_clip', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_defect_keeps_its_traceback_and_is_no_mistake_of_the_users(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "from clipshift.cli import evaluate as module\n"
        "def evaluate(*_): raise ValueError('a defect')\n"
        "module.evaluate = evaluate\n"
        f"sys.argv = ['evaluate.py', 'logger=none', 'hydra.run.dir={tmp_path}']\n"
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')\n"
    )
    done = run_code(code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a defect" in done.stderr
    assert "error: a defect" not in done.stderr


def test_a_comparison_that_fails_fails_its_sweep(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "from clipshift import comparison\n"
        "def compare_sweep(*_): raise ValueError('a defect')\n"
        "comparison.compare_sweep = compare_sweep\n"
        f"sys.argv = ['evaluate.py', '-m', 'data=folder', 'data.root={tmp_path}/none',"
        f" 'logger=none', 'hydra.sweep.dir={tmp_path}/sweep']\n"
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')\n"
    )
    done = run_code(code)
    assert done.returncode == 1
    assert "ValueError: a defect" in done.stderr


def test_a_job_is_composed_once_to_be_checked_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        composed: ClassVar[list[list[str]]] = []

        def load_sweep_config(self, master_config: None, sweep_overrides: list[str]) -> DictConfig:
            self.composed.append(sweep_overrides)
            return OmegaConf.create({"job": sweep_overrides})

    monkeypatch.setattr(command, "KEPT_JOBS", 2)
    loader = Loader()
    command.compose_once(loader)
    jobs = [["a=1"], ["a=2"], ["a=3"]]
    for job in jobs:
        loader.load_sweep_config(master_config=None, sweep_overrides=job)
    made = [loader.load_sweep_config(None, job) for job in jobs]
    assert made == [{"job": job} for job in jobs]
    assert loader.composed == [*jobs, ["a=3"]]  # for which there was no room


def test_freed_memory_is_kept_for_the_next_batch() -> None:
    """A tensor of 40 MB has 9,766 pages: without, the system clears them for each one anew."""
    code = (
        "import resource, sys, torch\n"
        "from clipshift.cli.command import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "batch = lambda: [torch.ones(10_000_000) for _ in range(3)]\n"
        "batch()\n"
        "before = faults()\n"
        "for _ in range(4): batch()\n"
        "print(faults() - before)\n"
    )

    def faults(memory: str) -> int:
        return int(run_code(code, memory).stdout)

    assert faults("kept") < 500
    assert faults("given back") > 8 * 9766
