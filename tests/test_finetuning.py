"""The robust fine-tune: what is trained, what comes out, and that it goes on after a stop."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_evaluate
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn
from torch.nn.functional import cross_entropy

from clipshift.command import CONF
from clipshift.encode import Encoder, load_encoder
from clipshift.finetuning import Finetuning, choose_alpha, choose_tuned, finetune, interpolated
from clipshift.objectives import Consistency, TeCoA


def configured(hub_folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [
            "experiment=robustify_tiny", "logger=none", f"model.checkpoint={hub_folder}",
            "data.train={source: sample, limit: 8}", "data.val={source: sample, limit: 6}",
            "data.batch_size=4", "data.num_workers=0", "aug@train_aug=[noise,blur]",
            "optimization.lr=1e-3", "+trainer.enable_progress_bar=false",
            "trainer.max_epochs=4", *overrides,
        ])  # fmt: skip


def test_objectives_by_their_formulas() -> None:
    view, clean = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    nothing = torch.empty(0)
    squared = ((view - clean).numpy() ** 2).sum(1).mean()
    assert Consistency("l2")(view, clean, nothing, nothing).item() == pytest.approx(squared)
    cosines = (view * clean).sum(1) / view.norm(dim=1) / clean.norm(dim=1)
    made = Consistency("cosine")(view, clean, nothing, nothing)
    torch.testing.assert_close(made, (1 - cosines).mean())
    classifier = 20 * torch.eye(8)[:, :3]
    target = torch.tensor([0, 1, 2, -1, 1])
    logits = (view / view.norm(dim=1, keepdim=True)) @ classifier
    expected = cross_entropy(logits[target >= 0], target[target >= 0])
    torch.testing.assert_close(TeCoA()(view, clean, classifier, target), expected)


def test_what_is_tuned(encoder: Encoder) -> None:
    visual = encoder.model.visual
    every = {name for name, _ in visual.named_parameters()}
    assert set(choose_tuned(visual, {"name": "full"})) == every
    norms = set(choose_tuned(visual, {"name": "layernorm"}))
    layers = [module for module in visual.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * len(layers)
    last = set(choose_tuned(visual, {"name": "last_blocks", "blocks": 1}))
    assert "transformer.resblocks.1.mlp.c_fc.weight" in last
    assert "proj" in last or any(name.startswith("ln_post") for name in last)
    assert not any(name.startswith(("transformer.resblocks.0", "conv1")) for name in last)


def test_interpolation_is_linear_and_keeps_its_ends() -> None:
    base = {"w": torch.zeros(3), "steps": torch.tensor(4)}
    tuned = {"w": torch.full((3,), 2.0), "steps": torch.tensor(9)}
    assert interpolated(base, tuned, 0.25)["w"].tolist() == [0.5] * 3
    assert interpolated(base, tuned, 1.0)["w"].tolist() == [2.0] * 3
    assert interpolated(base, tuned, 1.0)["steps"] == 4


def test_alpha_is_the_smallest_shift_that_keeps_the_accuracy() -> None:
    curve = pd.DataFrame(
        {"alpha": [0, 0.5, 1], "shift": [0.5, 0.3, 0.1], "clean_top1": [0.4, 0.395, 0.3]}
    )
    assert choose_alpha(curve, tolerance=0.01) == 0.5
    assert choose_alpha(curve, tolerance=0.2) == 1.0
    assert choose_alpha(curve.drop(columns="clean_top1"), tolerance=0.0) == 1.0


def test_it_lowers_the_shift_and_loads_in_evaluate(hub_folder: Path, tmp_path: Path) -> None:
    finetune(configured(hub_folder, "tolerance=1"), tmp_path)
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert curve["alpha"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve["shift"].iloc[-1] < curve["shift"].iloc[0]
    provenance = json.loads((tmp_path / "model/provenance.json").read_text())
    base = load_encoder(f"local-dir:{hub_folder}")
    assert provenance["base"]["weights_sha256"] == base.weights_sha256
    assert provenance["trained_on"] == ["noise", "blur"]
    tuned = load_encoder(f"local-dir:{tmp_path}/model")
    assert torch.equal(tuned.mean, base.mean)
    text = [name for name, _ in base.model.named_parameters() if not name.startswith("visual")]
    for name in text:
        assert torch.equal(tuned.model.get_parameter(name), base.model.get_parameter(name))
    done = run_evaluate(
        f"model.checkpoint={tmp_path}/model", "aug=noise", "data.limit=2", "logger=none",
        f"hydra.run.dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["model"]["weights_sha256"] == tuned.weights_sha256


def test_started_again_it_ends_as_if_uninterrupted(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(configured(hub_folder), tmp_path / "whole")
    start = Finetuning.on_train_epoch_start

    def breaks(self: Finetuning) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    monkeypatch.setattr(Finetuning, "on_train_epoch_start", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        finetune(configured(hub_folder), tmp_path / "stopped")
    monkeypatch.undo()
    finetune(configured(hub_folder), tmp_path / "stopped")
    curves = [pd.read_csv(tmp_path / name / "interpolation.csv") for name in ("whole", "stopped")]
    np.testing.assert_allclose(curves[0]["shift"], curves[1]["shift"], rtol=1e-6)


def test_tecoa_and_layernorm_run(hub_folder: Path, tmp_path: Path) -> None:
    finetune(
        configured(hub_folder, "objective=tecoa", "tune=layernorm", "trainer.max_epochs=1"),
        tmp_path,
    )
    assert (tmp_path / "model/open_clip_model.safetensors").exists()
