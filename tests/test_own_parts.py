"""Parts of one's own, from outside the package: an augmentation, a measure and a data source."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import VIT, run_evaluate, write_hub_folder
from PIL import Image

CODE = '''
import math
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity

from clipshift.augment.keyed import uniform
from clipshift.checks import checked, interval
from clipshift.data import Photo
from clipshift.measure import Facts, PhotoMeasure


class Fade:
    """Towards grey."""

    strongest, moves_pixels = math.inf, False

    def __init__(self, amount):
        self.amount = checked("amount", amount, interval(0, 1))

    def sample(self, rng, size):
        return {"amount": uniform(rng, self.amount)}

    def apply(self, images, draws, strength=1.0):
        amount = (strength * draws["amount"]).clamp(max=1)[..., None, None]
        return (1 - amount) * images + amount / 2


class Angle(PhotoMeasure):
    """The angle between the embeddings."""

    facts = Facts(
        label="angle between the embeddings", short="angle", definition="arccos of the cosine",
        space="embedding", better="lower", low=0, high=math.pi, unchanged=0, unit="rad",
        correlate="angle",
    )
    measure = staticmethod(
        lambda view, clean: cosine_similarity(view.double(), clean.double()).clamp(-1, 1).arccos()
    )


def pairs(root, classes):
    """Photos whose class stands behind a comma in a list."""
    lines = (Path(root) / "list.txt").read_text().split()
    rows = [line.split(",") for line in lines]
    return [Photo(name, Path(root) / name, label=label) for name, label in rows if label in classes]
'''
OPTIONS = {
    "aug/fade.yaml": "fade:\n  _target_: own_parts.Fade\n  amount: [0.2, 0.8]\n"
    "  ladder: [0.1, 0.2, 0.3, 0.4, 0.5]\n",
    "metric/angle.yaml": "angle:\n  _target_: own_parts.Angle\n",
    "data/pairs.yaml": "_target_: own_parts.pairs\nroot: ???\nclasses: [cat, dog]\nskip: 0\n"
    "limit: null\nskip_sample: 0\nsample: null\nresize: squash\nbatch_size: 4\nnum_workers: 0\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, hub_folder: Path):  # type: ignore[no-untyped-def]
    """Runs ``evaluate.py`` with the parts, which no file of the package knows."""
    root = tmp_path_factory.mktemp("own")
    (root / "own_parts.py").write_text(CODE)
    for name, text in OPTIONS.items():
        (root / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "conf" / name).write_text(text)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
        lines.append(f"{index}.png,{('cat', 'dog', 'cow')[index % 3]}")
    (root / "list.txt").write_text("\n".join(lines))

    def run(*options: str):  # type: ignore[no-untyped-def]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        return run_evaluate(
            f"--config-dir={root}/conf", "logger=none", "trainer=cpu", *options,
            env={"PYTHONPATH": path},
        )  # fmt: skip

    def measured(name: str, model: Path) -> Path:
        done = run(
            f"model.checkpoint={model}", "aug=[noise,fade]", "metric=[cosine_similarity,angle]",
            "data=pairs", f"data.root={root}", f"hydra.run.dir={root}/{name}",
            "severity=[paper,2]",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "angle" in done.stdout
        return root / name

    run.folders = measured("a", hub_folder), measured("b", write_hub_folder(root / "m", VIT, 1))
    return run


def test_they_are_in_the_tables_and_on_the_page(run) -> None:  # type: ignore[no-untyped-def]
    folder = run.folders[0]
    shift = pd.read_parquet(folder / "shift.parquet")
    assert set(shift["label"]) == {"cat", "dog"}
    assert shift["photo"].nunique() == 8
    np.testing.assert_allclose(shift["angle"], np.arccos(shift["cosine_similarity"]), atol=1e-12)
    summary = pd.read_csv(folder / "summary.csv")
    assert {"fade", "noise"} == set(summary.loc[summary["measure"] == "angle", "augmentation"])
    assert set(pd.read_csv(folder / "ranking.csv")["augmentation"]) == {"fade", "noise"}
    rows = pd.read_csv(folder / "correlations.csv").query("`with` == 'angle'")
    np.testing.assert_allclose(rows["rho"], 1)  # it is a rising function of the shift
    columns = json.loads((folder / "columns.json").read_text())
    assert columns["shift.parquet"]["angle"]["unit"] == "rad"
    page = (folder / "report.html").read_text()
    assert "arccos of the cosine" in page
    assert "fade" in page


def test_less_of_it_is_an_improvement(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    a, b = run.folders
    done = run(f"compare=[{a},{b}]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "comparison.csv", dtype={"severity": str})
    before, after = (
        pd.read_parquet(f / "shift.parquet").set_index(["augmentation", "severity", "photo"])
        for f in (a, b)
    )
    less = (after["angle"] < before["angle"]).groupby(level=[0, 1]).mean()
    rows = table[table["measure"] == "angle"].set_index(["augmentation", "severity"])["improved"]
    assert len(rows) == 4
    for key, share in less.items():
        assert rows[key] == pytest.approx(share)


def test_their_own_ranges_are_told_with_the_options_name(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("aug=fade", "aug.fade.amount=[0,2]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: aug.fade.amount: [0, 2] is out of range: it must be")
