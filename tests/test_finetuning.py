"""The robust fine-tune: what is trained, what comes out, and that it goes on after a stop."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import MEASURED, ROOT
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from clipshift.command import compose_config
from clipshift.config import plain
from clipshift.data import Photo, sample
from clipshift.encode import Encoder, load_encoder
from clipshift.errors import UserError
from clipshift.evaluation import make_augmentations
from clipshift.results import compare_photos, with_group_means
from clipshift.train import tuning
from clipshift.train.export import trained_augmentations
from clipshift.train.finetuning import (
    Finetuning,
    compose_evaluations,
    finetune,
    overlap_notes,
    text_targets,
)
from clipshift.train.interpolation import choose_alpha, interpolated
from clipshift.train.objectives import Consistency, ConsistencyTeCoA, Contrastive, TeCoA
from clipshift.train.views import EpochSampler, RobustViews


def configured(hub_folder: Path, *overrides: str) -> DictConfig:
    return compose_config(
        "train",
        [
            "experiment=robustify_demo", "logger=none", f"model.checkpoint={hub_folder}",
            "data.train.limit=8", "aug@train_aug=[noise,blur]", "optimization.lr=1e-3",
            "+trainer.enable_progress_bar=false", "trainer.max_epochs=4",
            "trainer.precision=32-true", "ema=null", "evaluation=null", *overrides,
        ],
    )  # fmt: skip


def test_objectives_by_their_formulas() -> None:
    view, clean = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    nothing = torch.empty(0)
    squared = ((view - clean).numpy() ** 2).sum(1).mean()
    assert Consistency("l2")(view, clean, nothing, nothing).item() == pytest.approx(squared)
    cosines = (view * clean).sum(1) / view.norm(dim=1) / clean.norm(dim=1)
    made = Consistency("cosine")(view, clean, nothing, nothing)
    torch.testing.assert_close(made, (1 - cosines).mean())
    texts = 20 * torch.eye(8)[:, :3]
    target = torch.tensor([0, 1, 2, -1, 1])
    logits = (view / view.norm(dim=1, keepdim=True)) @ texts
    expected = cross_entropy(logits[target >= 0], target[target >= 0])
    torch.testing.assert_close(TeCoA()(view, clean, texts, target), expected)
    both = ConsistencyTeCoA("l2", weight=3)(view, clean, texts, target)
    assert both.item() == pytest.approx(squared + 3 * expected.item())


def test_contrastive_is_open_clips_loss_where_all_texts_differ() -> None:
    view = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = nn.functional.normalize(torch.randn(9, 8, dtype=torch.float64), dim=1)
    target = torch.tensor([4, 0, 8, 2, 7, 1])
    images = nn.functional.normalize(view, dim=1)
    expected = open_clip.ClipLoss()(images, units[target], torch.tensor(30.0))
    made = Contrastive()(view, view, 30 * units.T, target)
    torch.testing.assert_close(made, expected)


def test_contrastive_shares_the_target_among_photos_of_one_text() -> None:
    """By numpy, term by term; photos without a text do not count."""
    view = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    texts = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = np.array([1, -1, 0, 1, 1])
    kept = [0, 2, 3, 4]
    images = view.numpy()[kept]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    z = images @ texts.numpy()[:, target[kept]]
    terms = []
    for i, own in enumerate(target[kept]):
        alike = [j for j, other in enumerate(target[kept]) if other == own]
        for row in (z[i], z[:, i]):
            terms.append(np.mean([np.log(np.exp(row).sum()) - row[j] for j in alike]))
    made = Contrastive()(view, view, texts, torch.from_numpy(target))
    assert made.item() == pytest.approx(np.sum(terms) / 8)
    nobody = torch.full((5,), -1)
    assert Contrastive()(view, view, texts, nobody) == 0
    assert TeCoA()(view, view, texts, nobody) == 0


def trainable(encoder: Encoder, tune: Callable[[nn.Module], nn.Module]) -> set[str]:
    tower = tune(copy.deepcopy(encoder.model.visual))
    return {name for name, parameter in tower.named_parameters() if parameter.requires_grad}


def test_what_is_tuned(encoder: Encoder) -> None:
    visual = encoder.model.visual
    assert trainable(encoder, tuning.full) == {name for name, _ in visual.named_parameters()}
    layers = [module for module in visual.modules() if isinstance(module, nn.LayerNorm)]
    assert len(trainable(encoder, tuning.layernorm)) == 2 * len(layers)
    last = trainable(encoder, lambda tower: tuning.last_blocks(tower, 1))
    assert {"transformer.resblocks.1.mlp.c_fc.weight", "ln_post.weight", "proj"} <= last
    assert not any(name.startswith(("transformer.resblocks.0", "conv1")) for name in last)
    with pytest.raises(UserError, match=r"tune\.blocks=9: this image tower has 2"):
        tuning.last_blocks(visual, 9)


@pytest.mark.parametrize("architecture", ["ViT", "builtin:tiny"])
def test_lora_is_merged_into_the_weights_it_changes(encoder: Encoder, architecture: str) -> None:
    """After two steps, merged weights are W + α/r B A, and give what the adapted tower gives."""
    if architecture != "ViT":
        encoder = load_encoder(architecture)
    encoder(torch.zeros(1, 3, *encoder.input_size), layers=True)  # leaves nothing behind
    plain_tower = copy.deepcopy(encoder.model.visual)
    before = {name: value.clone() for name, value in plain_tower.state_dict().items()}
    tower = tuning.lora(copy.deepcopy(plain_tower), rank=2, alpha=8)
    names = [name for name, p in tower.named_parameters() if p.requires_grad]
    assert names
    views = torch.rand(3, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tower(views), plain_tower(views))  # it starts as the base
    step = torch.optim.SGD([p for p in tower.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # B starts at zero, so that A moves in the second step
        step.zero_grad()
        tower(views).square().sum().backward()
        step.step()
    merged = tuning.plain_weights(tower)
    assert merged.keys() == before.keys()
    plain_tower.load_state_dict(merged)
    torch.testing.assert_close(plain_tower(views), tower(views), atol=1e-4, rtol=1e-3)
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert all("blocks" in name for name in changed)
    learnt = dict(tower.named_parameters())
    adapted = set()
    assert {name.rpartition(".")[2] for name in names} == {"a", "b"}
    for name in names[::2]:
        a, b = learnt[name], learnt[f"{name[:-1]}b"]
        assert a.shape[0] == b.shape[1] == 2
        weight = name.removesuffix(".0.a").replace(".parametrizations.", ".")
        adapted.add(weight)
        change = 8 / 2 * b @ a
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(merged[weight], before[weight] + change, atol=1e-6, rtol=1e-6)
    assert adapted == changed


def test_captions_are_texts_where_there_are_no_labels(encoder: Encoder) -> None:
    photos = sample()[:3]
    texts = text_targets(encoder, photos, [], ["a photo of a {}."])
    assert texts is not None
    assert texts.targets.tolist() == [0, 1, 2]
    own = encoder.encode_texts(list(photos[1].captions)).mean(dim=0)
    torch.testing.assert_close(texts.classifier[:, 1], own / own.norm())


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
    for hits in range(
        100, 1000
    ):  # a loss of ten in a thousand is within 1 %, however it is rounded
        accuracy = MeanMetric()
        accuracy.update((torch.arange(1000) < hits).float())
        base = accuracy.compute().item()
        accuracy.reset()
        accuracy.update((torch.arange(1000) < hits - 10).float())
        curve["clean_top1"] = [base, base, accuracy.compute().item()]
        assert choose_alpha(curve, tolerance=0.01) == 1.0


def test_photos_that_are_not_new_to_the_model_are_told(hub_folder: Path, tmp_path: Path) -> None:
    cfg = configured(hub_folder, "evaluation=['data=sample','data.limit=6']")
    evaluations = compose_evaluations(cfg, tmp_path)
    photos = sample()
    notes = overlap_notes(evaluations, photos[4:], photos[:4])
    assert [note[:22] for note in notes] == ["2 of these 6 photos we", "4 of these 6 photos ch"]
    assert overlap_notes(evaluations, photos[6:], photos[6:]) == []
    assert overlap_notes({}, photos, photos) == []


def test_devices_take_the_photos_of_one_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EpochSampler(10, seed=3)
    whole.set_epoch(2)
    in_order = list(whole)
    shares = []
    for rank in (0, 1, 2):
        monkeypatch.setattr("clipshift.train.views._devices", lambda rank=rank: (rank, 3))
        own = EpochSampler(10, seed=3)
        own.set_epoch(2)
        shares.append(list(own))
        assert len(own) == len(shares[-1]) == 3
    assert [place for places in zip(*shares, strict=True) for place in places] == in_order[:9]


def test_a_broken_photo_is_replaced_by_the_next(tmp_path: Path) -> None:
    photos = sample()[:3]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    photos[1] = Photo("broken", broken)
    augmentations, ladders = make_augmentations(
        plain(compose_config("evaluate", ["aug=noise"]).aug)
    )
    views = RobustViews(photos, augmentations, ladders, ["paper"], 0, "squash")
    clean, view, index = views[4, 1]
    assert index == 2
    assert torch.equal(clean, views[0, 2][0])
    assert torch.equal(view, views[4, 2][1])


def test_it_lowers_the_shift_and_is_compared_with_its_base(
    hub_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = configured(hub_folder, "tolerance=1", "evaluation=['data=sample','data.limit=6']")
    finetune(cfg, tmp_path)
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert curve["alpha"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve["shift"].iloc[-1] < curve["shift"].iloc[0]
    provenance = json.loads((tmp_path / "model/provenance.json").read_text())
    base = load_encoder(f"local-dir:{hub_folder}")
    assert provenance["base"]["weights_sha256"] == base.weights_sha256
    assert provenance["trained_on"] == ["noise", "blur"]
    assert provenance["photos"]["count"] == 8
    tuned = load_encoder(f"local-dir:{tmp_path}/model")
    assert torch.equal(tuned.mean, base.mean)
    text = [name for name, _ in base.model.named_parameters() if not name.startswith("visual")]
    for name in text:
        assert torch.equal(tuned.model.get_parameter(name), base.model.get_parameter(name))
    facts = json.loads((tmp_path / "robust/run.json").read_text())
    assert facts["model"]["weights_sha256"] == tuned.weights_sha256
    assert facts["model"]["trained_on"] == ["noise", "blur"]
    cosines = pd.read_parquet(tmp_path / "robust/shift.parquet")
    relative = (1 - cosines["cosine_similarity"]) / facts["spread"]
    np.testing.assert_allclose(relative, cosines["relative_shift"])
    assert "noise (trained on)" in (tmp_path / "robust/report.html").read_text()
    page = (tmp_path / "comparison.html").read_text()
    assert "blur (trained on)" in page
    assert "flip (trained on)" not in page
    assert "6 of these 6 photos chose the weights" in page
    assert "mean of held out" in capsys.readouterr().out
    # The curve's start is what the evaluation finds on the same photos.
    compared = pd.read_csv(tmp_path / "comparison.csv")
    cosine = compared[compared["measure"] == "cosine_similarity"].set_index("augmentation")
    shift = 1 - cosine.loc[["noise", "blur"], "mean_a"].mean()
    assert shift == pytest.approx(curve["shift"].iloc[0], rel=1e-4)
    assert 1 - cosine.loc["mean of trained on", "mean_a"] == pytest.approx(shift)


def test_group_means_are_of_photos() -> None:
    rng = np.random.default_rng(0)
    names = ["noise", "blur", "flip"]
    keys = pd.DataFrame(
        [(f"{i:02d}", None, name, "paper") for i in range(20) for name in names],
        columns=["photo", "label", "augmentation", "severity"],
    )
    a, b = (keys.assign(cosine_similarity=rng.uniform(size=60)) for _ in range(2))
    made = compare_photos(
        *(with_group_means(t, ["noise", "blur"]) for t in (a, b)), MEASURED, seed=0
    )
    row = made.set_index("augmentation").loc["mean of trained on"]
    change = (b["cosine_similarity"] - a["cosine_similarity"]).to_numpy().reshape(20, 3)
    assert row["difference"] == pytest.approx(change[:, :2].mean())
    assert row["improved"] == (change[:, :2].mean(axis=1) > 0).mean()
    assert row["n"] == 20
    assert with_group_means(a, []) is a
    assert with_group_means(a, names) is a


def test_started_again_it_ends_as_if_uninterrupted(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a moving average, early stopping and LoRA, all of which must be taken up again."""
    more = ("tune=lora", "ema=0.9", "patience=3")
    finetune(configured(hub_folder, *more), tmp_path / "whole")
    start = Finetuning.on_train_epoch_start

    def breaks(self: Finetuning) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    monkeypatch.setattr(Finetuning, "on_train_epoch_start", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        finetune(configured(hub_folder, *more), tmp_path / "stopped")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"other options \(seed\)"):
        finetune(configured(hub_folder, *more, "seed=1"), tmp_path / "stopped")
    finetune(configured(hub_folder, *more), tmp_path / "stopped")
    whole, stopped = (
        load_file(tmp_path / name / "model/open_clip_model.safetensors")
        for name in ("whole", "stopped")
    )
    for name, value in whole.items():
        assert torch.equal(stopped[name], value), name
    (tmp_path / "stopped/last.ckpt").write_bytes(b"half of it")
    with pytest.raises(UserError, match="is damaged"):
        finetune(configured(hub_folder, *more), tmp_path / "stopped")
    record = tmp_path / "stopped/model/provenance.json"
    assert trained_augmentations(str(record.parent)) == list(
        configured(hub_folder, *more).train_aug
    )
    record.write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        trained_augmentations(str(record.parent))


def test_early_stopping_keeps_the_best(hub_folder: Path, tmp_path: Path) -> None:
    """The learning rate rises until it destroys the model, soon after the best epoch."""
    cfg = configured(hub_folder, "patience=2", "optimization.lr=1", "trainer.max_epochs=20")
    finetune(cfg, tmp_path)
    epochs = {
        name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs["last"] < 19
    assert epochs["best"] == epochs["last"] - 2


@pytest.mark.parametrize("objective", ["tecoa", "contrastive", "consistency_tecoa"])
def test_objectives_with_texts(hub_folder: Path, tmp_path: Path, objective: str) -> None:
    more = (f"objective={objective}", "tune=layernorm", "+trainer.accumulate_grad_batches=2")
    finetune(configured(hub_folder, *more), tmp_path)
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert curve["shift"].iloc[-1] != curve["shift"].iloc[0]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert (tmp_path / "model/open_clip_model.safetensors").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("alphas=[0.5,1]", r"alphas=\[0.5, 1\] is out of range: it must be .* 0 first"),
        ("ema=2", "ema=2 is out of range"),
        ("severities=[matched]", "a list of paper and 1 to 5"),
        ("train_aug.noise.std=[2,1]", r"train_aug.noise.std=\[2, 1\] is out of range"),
        ("data.train.limit=0", "data.train.limit=0 is out of range"),
        ("~train_aug", "train_aug is empty: choose at least one, as in aug@train_aug="),
        ("data.batch_size=0", "data.batch_size=0 is out of range"),
    ],
)
def test_mistakes_in_options_are_told_before_anything_is_done(
    tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        finetune(configured(tmp_path / "no_model", override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_texts_are_asked_for_in_one_line(hub_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for photo in sample()[:4]:
        (tmp_path / "photos" / photo.id).write_bytes(photo.read())
    cfg = configured(
        hub_folder, "objective=tecoa", "data@data.train=folder",
        f"data.train.root={tmp_path}/photos", "data.train.skip=0",
    )  # fmt: skip
    with pytest.raises(UserError, match="needs photos with labels or captions"):
        finetune(cfg, tmp_path / "run")


def test_two_devices_learn_what_one_learns(hub_folder: Path, tmp_path: Path) -> None:
    """The whole batch's loss, also of an objective that contrasts photos on different devices."""
    made = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        command = [
            sys.executable, str(ROOT / "train.py"),
            "experiment=robustify_demo", "objective=contrastive", "logger=none",
            f"model.checkpoint={hub_folder}", "data.train.limit=8", "data.val.limit=2",
            "aug@train_aug=[noise,flip]", "optimization.lr=1e-3", "trainer.max_epochs=2",
            "trainer.precision=32-true", f"trainer.devices={devices}", "alphas=[0,1]",
            f"+trainer.strategy={'ddp' if devices > 1 else 'auto'}", "tolerance=1",
            "evaluation=['data=sample','data.limit=2','aug=noise','trainer=cpu']",
            f"hydra.run.dir={folder}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert "2 photos, paired" in done.stdout
        made.append(load_file(folder / "model/open_clip_model.safetensors"))
    base = load_file(hub_folder / "open_clip_model.safetensors")
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, atol=2e-5, rtol=1e-3)
    assert any(not torch.equal(base[name], made[0][name]) for name in base)


def test_vit_b32_takes_twenty_steps_of_lora_here(tmp_path: Path) -> None:
    """The real architecture, with random weights: its own are on a hub."""
    cfg = compose_config(
        "train",
        [
            "experiment=robustify_vit_b32", "logger=none", "model.pretrained=null", "trainer=cpu",
            "data@data.train=sample", "data@data.val=sample", "data.train.limit=10",
            "data.val.limit=2", "data.batch_size=2", "data.num_workers=0", "alphas=[0,1]",
            "aug@train_aug=[noise]", "prompts=none", "evaluation=null", "trainer.max_epochs=4",
            "+trainer.check_val_every_n_epoch=4", "+trainer.num_sanity_val_steps=0",
            "+trainer.enable_progress_bar=false",
            "tolerance=1",
        ],
    )  # fmt: skip
    finetune(cfg, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 20
    assert load_encoder(f"local-dir:{tmp_path}/model").trained
