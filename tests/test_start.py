"""Which libraries each command imports: those that it uses, after a line that says what it does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.terminal import ROOT

from clipshift.lazy import POSTPONED, Postponed
from clipshift.report.charts import vega

LIBRARIES = {"torch", "torchvision", "kornia", "open_clip", "timm", "pytorch_lightning"}
LIBRARIES |= {"torchmetrics", "albumentations", "datasets", "gradio", "skimage", *POSTPONED}
LIBRARIES |= {"scipy.ndimage", "scipy.stats"}
DRAWS_PHOTOS = {"torch", "torchvision", "kornia", "skimage"}  # which has some of the sample
ENCODES = DRAWS_PHOTOS | {"open_clip", "timm", "pytorch_lightning", "torchmetrics"}
USED = {
    "models": set(),
    "leaderboard": DRAWS_PHOTOS,
    "compare": DRAWS_PHOTOS,
    "report": DRAWS_PHOTOS,
    "evaluate": ENCODES,
}
"""By command, what it may have imported after it, and those above it, have run in one Python."""
EACH = """
import atexit, contextlib, gc, io, json, sys, traceback
from clipshift.cli.main import main
atexit.register(lambda: print("frozen at exit:", gc.get_freeze_count(), file=sys.stderr))
said, (lines, used) = {}, json.load(sys.stdin)
for command, *words in lines:
    sys.argv[:] = ["clipshift", command, *words]
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as stopped:
            assert not stopped.code, errors.getvalue()
    said[command] = [sorted(sys.modules), errors.getvalue()]
try:
    exec(used, {})
    print(json.dumps([said, ""]))
except Exception:
    print(json.dumps([said, traceback.format_exc()]))
"""
POSTPONED_AND_USED = """
import sys
from clipshift.lazy import postponed_imports
with postponed_imports():
    import open_clip.hf_model, torchvision, pytorch_lightning.utilities.compile as lightning
    assert "transformers" in sys.modules
    import importlib.util
    assert importlib.util.find_spec("transformers") is not None
assert not {"torch._dynamo", "transformers"} & set(sys.modules)
with postponed_imports():
    import clipshift.cli.train, clipshift.cli.check, clipshift.cli.parity, clipshift.cli.demo
    import clipshift.make_models.lite, clipshift.make_models.tiny, clipshift.api
assert not {"torch._dynamo", "transformers"} & set(sys.modules)
import torch
layer = torch.nn.Linear(2, 2)
assert not isinstance(layer, lightning.OptimizedModule)
assert "torch._dynamo" not in sys.modules
assert isinstance(torch.compile(layer), lightning.OptimizedModule)
config = open_clip.hf_model.AutoConfig.for_model("bert")
assert isinstance(config, open_clip.hf_model.PretrainedConfig)
assert type(config).__module__.startswith("transformers.")
import torchmetrics
figure, _ = torchmetrics.MeanMetric().plot(torch.ones(1))
assert type(figure).__module__.startswith("matplotlib.")
"""
"""Run after the commands: what they have postponed, and more."""

Said = dict[str, tuple[list[str], str]]


@pytest.fixture(scope="module")
def new_python(
    finished: tuple[Path, str], hub_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Said, str]:
    """All that one new Python has to say: `said`, and what failed in `POSTPONED_AND_USED`."""
    folder = tmp_path_factory.mktemp("start")
    for name in ("run", "other"):
        shutil.copytree(finished[0], folder / name)
    lines = [
        "models",
        "leaderboard run other out=ranked",
        "compare run run hydra.run.dir=compared",
        "report run",
        f"evaluate model.checkpoint={hub_folder} data.limit=2 trainer=cpu logger=none cache=off",
    ]
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=json.dumps([[line.split() for line in lines], POSTPONED_AND_USED]),
        capture_output=True, text=True, check=False, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("frozen at exit: 0\n")  # or bindings report there that they leak
    return json.loads(done.stdout)


@pytest.fixture
def said(new_python: tuple[Said, str]) -> Said:
    """All imported modules and standard error after each of `USED`."""
    return new_python[0]


@pytest.mark.parametrize("command", USED)
def test_a_command_imports_only_what_it_uses(said: Said, command: str) -> None:
    assert LIBRARIES & set(said[command][0]) <= USED[command]


def test_the_first_command_that_takes_seconds_says_what_it_does(said: Said) -> None:
    assert said["models"][1] == ""
    assert said["leaderboard"][1].startswith("clipshift: loading libraries to rank runs")
    assert said["evaluate"][1] == ""  # torch is there


def test_what_is_postponed_is_the_real_library_once_it_is_used(
    new_python: tuple[Said, str],
) -> None:
    pytest.importorskip("transformers")
    assert new_python[1] == ""


def test_the_chart_library_is_packed_once_and_again_where_it_cannot_be_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = []

    def pack(vl_version: str) -> str:
        packed.append(vl_version)
        return "draw('</script>')"

    def library() -> str:
        vega.chart_library.cache_clear()
        return vega.chart_library()

    monkeypatch.setenv("CLIPSHIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vega.vl_convert, "javascript_bundle", pack)
    try:
        assert library() == library() == r"draw('<\/script>')"
        assert len(packed) == 1
        [file] = (tmp_path / "cache").glob("vega-*.js")
        content = file.read_text()
        for damaged in (content[:-1], content.replace("draw", "steal"), ""):
            file.write_text(damaged)
            assert library() == r"draw('<\/script>')"
            assert file.read_text() == content
        file.chmod(0o666)  # others could have written it
        assert library() == r"draw('<\/script>')"
        assert len(packed) == 5
        monkeypatch.setenv("CLIPSHIFT_CACHE", str(file / "no-folder"))
        assert library() == r"draw('<\/script>')"
    finally:
        vega.chart_library.cache_clear()


def test_nothing_of_this_process_is_a_stand_in() -> None:
    assert not any(isinstance(module, Postponed) for module in sys.modules.values())
