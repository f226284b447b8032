"""Mistakes on the command line: one clear line, exit code 1, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_evaluate


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=untraind", "did you mean 'untrained'"),
        ("aug=nois", "did you mean 'noise'"),
        ("aug=[noise,blr]", "did you mean 'blur'"),
        ("data.lmit=3", "did you mean 'data.limit'"),
        ("mdel=untrained", "did you mean 'model'"),
        ("data.csv_file=x.csv", "comes with data=captions"),
        ("aug.noise.sdt=[0,1]", "did you mean 'aug.noise.std'"),
        ("aug.noise.std=[2,1]", "a range [a, b] with 0 ≤ a ≤ b"),
        ("aug.blur.kernel=[2]", "odd whole numbers"),
        ("data.batch_size=0", "whole number ≥ 1"),
        ("precision=fp8", "one of fp32"),
        ("seed=-1", "whole number ≥ 0"),
        ("data=folder", "data.root is not set"),
        ("aug=[]", "aug is empty"),
        ("save.views=yes", "whole number"),
        ("severity=9", "paper, 1 to 5, matched"),
        ("severity=[paper,paper]", "each once"),
        ("aug.noise.ladder=[3,2,1]", "five rising strengths"),
    ],
)
def test_composition_mistakes(override: str, expected: str) -> None:
    done = run_evaluate(override)
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=folder", "data.root={tmp}/nowhere"], "no folder"),
        (["data=folder", "data.root={tmp}/texts"], "none of the 1 photos could be read"),
        (["trainer=gpu"], "gpu"),
        (["severity=matched", "matching.file={tmp}/none.json"], "no calibration"),
        (["+trainer.precision=bf16-mixed"], "choose the encoder's by precision=bf16"),
    ],
)
def test_run_time_mistakes(overrides: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jpg").write_text("not a photo")
    if "gpu" in expected:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    done = run_evaluate(*(o.format(tmp=tmp_path) for o in overrides), "logger=none",
               f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_failed_job_does_not_stop_the_sweep(tmp_path: Path) -> None:
    done = run_evaluate("-m", f"data.root={tmp_path}/nowhere,{tmp_path}/neither", "data=folder",
               "logger=none", f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    assert done.returncode == 1
    assert f"no folder {tmp_path}/nowhere" in done.stderr
    assert f"no folder {tmp_path}/neither" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_training_of_a_sweep_ends_with_code_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}",
         "hydra.run.dir=."],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("nothing to train") == 2
    assert "Traceback" not in done.stderr


def test_help_is_a_manual() -> None:
    said = run_evaluate("--help").stdout
    for part in ("USAGE", "GROUPS", "OPTIONS", "EXAMPLES", "data.root", "save.embeddings"):
        assert part in said
    assert said.count("  python evaluate.py") == 6
    composed = run_evaluate("--cfg", "job", "aug=noise")
    assert composed.returncode == 0
    assert "0.44" in composed.stdout


def test_help_and_mistakes_do_not_wait_for_heavy_imports() -> None:
    code = (
        "import sys, clipshift.command, clipshift.config; "
        "print(sorted({'torch', 'open_clip', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
