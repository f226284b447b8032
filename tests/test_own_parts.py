"""Parts of one's own, from outside the package: docs/extend.md as it stands."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from support.commands import shared_terminal
from support.terminal import ROOT

from clipshift.cli.build import make_augmentations
from clipshift.comparison import compare_runs
from clipshift.errors import UserError

TEXT = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^\*\*`([^`]+)`\*\*\n```\w+\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^```bash\n(.*?)\n```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of docs/extend.md: its files, and twelve photos with their list."""
    root = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    rng = np.random.default_rng(0)
    lines = []
    (root / "photos").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(root / f"photos/{index}.png")
        lines.append(f"{index}.png,{('cat', 'dog', 'cow')[index % 3]}")
    (root / "photos/list.txt").write_text("\n".join(lines))
    command = root / "bin/clipshift"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shared_terminal().python} -m clipshift "$@"\n')
    command.chmod(0o755)
    return root


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user types it in a folder."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"PATH": path},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(folder: Path) -> Path:
    """The run of the last command of docs/extend.md, with all parts at once."""
    done = shell(COMMANDS[-1], folder)
    assert done.returncode == 0, done.stderr
    assert "angle" in done.stdout
    return folder / "run"


def test_they_are_in_the_tables_and_on_the_page(measured: Path) -> None:
    shift = pd.read_parquet(measured / "shift.parquet")
    assert set(shift["label"]) == {"cat", "dog"}
    assert shift["photo"].nunique() == 8
    np.testing.assert_allclose(shift["angle"], np.arccos(shift["cosine_similarity"]), atol=1e-12)
    summary = pd.read_csv(measured / "summary.csv")
    for measure in ("angle", "psnr"):
        of_one = summary[summary["measure"] == measure]
        assert set(of_one["augmentation"]) == {"noise", "fog", "fade", "printed"}
        assert of_one["ci_high"].gt(of_one["ci_low"]).all()
    assert set(pd.read_csv(measured / "ranking.csv")["augmentation"]) == {
        "noise",
        "fog",
        "fade",
        "printed",
    }
    rows = pd.read_csv(measured / "correlations.csv").query("`with` == 'angle'")
    np.testing.assert_allclose(rows["rho"], 1)  # it is a rising function of the shift
    columns = json.loads((measured / "columns.json").read_text())["shift.parquet"]
    assert columns["angle"]["unit"] == "rad"
    assert columns["psnr"]["better"] == "higher"
    page = (measured / "report.html").read_text()
    for words in (
        "arccos of the cosine",
        "torchmetrics.image.psnr",
        "my_model.load",
        "fade",
        "fog",
        "printed",
    ):
        assert words in page
    model = json.loads((measured / "run.json").read_text())["model"]
    assert (model["name"], model["_target_"]) == ("colours", "my_model.load")


def test_less_of_it_is_an_improvement(folder: Path, measured: Path) -> None:
    command = COMMANDS[-1].replace("run.dir=run", "run.dir=other") + " model.cells=1"
    assert command.count("other") == 1
    done = shell(command, folder)
    assert done.returncode == 0, done.stderr
    compare_runs([str(measured), str(folder / "other")], 0, folder / "compared")
    table = pd.read_csv(folder / "compared/comparison.csv", dtype={"severity": str})
    before, after = (
        pd.read_parquet(f / "shift.parquet").set_index(["augmentation", "photo"])
        for f in (measured, folder / "other")
    )
    assert before["psnr"].equals(after["psnr"])  # of pixels, and so the same for every model
    less = (after["angle"] < before["angle"]).groupby(level=0).mean()
    rows = table[table["measure"] == "angle"].set_index("augmentation")["improved"]
    assert len(rows) == 4
    for name, share in less.items():
        assert rows[name] == pytest.approx(share)


def test_a_transform_needs_no_file(folder: Path) -> None:
    assert len(COMMANDS) == 2
    done = shell(COMMANDS[0] + " hydra.run.dir=inverted save.views=4", folder)
    assert done.returncode == 0, done.stderr
    shift = pd.read_parquet(folder / "inverted/shift.parquet")
    assert set(shift["augmentation"]) == {"custom"}
    assert shift["attention_similarity_aligned"].isna().all()
    assert shift["attention_similarity"].notna().all()
    notes = json.loads((folder / "inverted/run.json").read_text())["notes"]
    assert any("no value for custom" in note for note in notes)


def test_their_own_ranges_are_told_with_the_options_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    options = yaml.safe_load(FILES["conf/aug/fade.yaml"])
    options["fade"]["amount"] = [0, 2]
    with pytest.raises(UserError) as error:
        make_augmentations(options)
    assert str(error.value).startswith("aug.fade.amount: [0, 2] is out of range: it must be")
