"""The robust fine-tune: what is trained, what comes out, and that it goes on after a stop."""

import copy
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare, kstest, uniform
from support.commands import run_script
from support.terminal import ROOT
from support.training import first_loss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torchmetrics import MeanMetric

from clipshift.augment.keyed import Draws
from clipshift.cli import interruption
from clipshift.cli.build import load_photos, make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.cli.train import (
    comparison_notes,
    compose_evaluations,
    finetune,
    make_training,
    training_batches,
)
from clipshift.data.photos import Photo
from clipshift.data.sources import sample
from clipshift.encode import encoder as encoder_module
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import ZeroShot
from clipshift.errors import UserError
from clipshift.train import resuming, tuning
from clipshift.train.export import trained_augmentations
from clipshift.train.finetuning import Finetuning, text_targets
from clipshift.train.interpolation import choose_alpha, interpolated
from clipshift.train.objectives import (
    Consistency,
    ConsistencyTeCoA,
    Contrastive,
    Objective,
    TeCoA,
)
from clipshift.train.resuming import BEST, LAST, SETTINGS
from clipshift.train.views import EpochSampler, RobustViews, Source


def configured(hub_folder: Path, *overrides: str) -> DictConfig:
    return compose_config(
        "train",
        [
            "experiment=robustify_demo", "logger=none", f"model.checkpoint={hub_folder}",
            "data.train.skip=6", "data.train.limit=8", "data.val.limit=6", "data.batch_size=4",
            "aug@train_aug=[noise,blur]", "optimization.lr=1e-3", "trainer.max_epochs=4",
            "trainer.check_val_every_n_epoch=1", "+trainer.enable_progress_bar=false",
            "trainer.precision=32-true", "ema=null", "evaluation=null", *overrides,
        ],
    )  # fmt: skip


def moved(tower: nn.Module) -> nn.Module:
    """A tower that is trained whole, and no longer is the base's."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return tower.requires_grad_(True)


def in_training(
    base: Encoder, objective: Objective, anchor: Objective | None, texts: ZeroShot | None, **weights
) -> Finetuning:
    options = {"anchor_weight": 1.0, "lr": 1e-4, "weight_decay": 0.0} | weights
    return Finetuning(base, moved, objective, anchor, texts, {}, None, **options)


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


def test_objectives_that_depend_on_texts_say_that_they_need_them() -> None:
    generator = torch.Generator().manual_seed(1)
    view, clean, target = *torch.randn(2, 5, 8, generator=generator), torch.arange(5)
    texts, others = torch.randn(2, 8, 5, generator=generator)
    for objective in (
        Consistency("l2"), Consistency("cosine"), Contrastive(), TeCoA(), ConsistencyTeCoA("l2", 1)
    ):  # fmt: skip
        depends = objective(view, clean, texts, target) != objective(view, clean, others, target)
        assert objective.needs_texts == bool(depends)


def test_the_loss_holds_views_and_clean_views_to_the_frozen_bases_clean_ones(
    encoder: Encoder, views: Tensor
) -> None:
    clean, augmented, index = views[:4], views[:4].flip(3) / 2, torch.arange(4)
    module = in_training(encoder, Consistency("l2"), Consistency("l2"), None, anchor_weight=3.0)
    with torch.no_grad():
        target = encoder.embed(clean).numpy()
        view, held = (module.student.embed(x).numpy() for x in (augmented, clean))
    distances = [((made - target) ** 2).sum(axis=1).mean() for made in (view, held)]
    assert min(distances) > 1e-3  # or it would not be seen which of them are in the loss
    made = first_loss(module, [clean, augmented[:, None], index])
    assert made == pytest.approx(distances[0] + 3 * distances[1], rel=1e-4)
    alone = in_training(encoder, Consistency("l2"), None, None, anchor_weight=3.0)
    made = first_loss(alone, [clean, augmented[:, None], index])
    assert made == pytest.approx(distances[0], rel=1e-4)


def test_the_loss_is_the_mean_over_all_views_of_a_photo(encoder: Encoder, views: Tensor) -> None:
    clean, augmented = views[:2], torch.stack([views[:2].flip(3), views[:2] / 2, views[2:4]], dim=1)
    index = torch.tensor([1, 2])
    unit = normalize(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)), dim=0)
    texts = ZeroShot(unit, torch.tensor([2, 0, 1]))

    def loss(augmented: Tensor) -> float:
        module = in_training(encoder, ConsistencyTeCoA("l2", 0.5), None, texts)
        return first_loss(module, [clean, augmented, index])

    losses = [loss(augmented[:, number, None]) for number in range(3)]
    made = loss(augmented)
    assert made == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.std(losses) > 1e-2 * made


def test_texts_are_compared_at_the_bases_own_scale(encoder: Encoder, views: Tensor) -> None:
    base = copy.deepcopy(encoder)
    base.model.logit_scale.data.fill_(math.log(20))
    unit = normalize(torch.randn(32, 5, generator=torch.Generator().manual_seed(0)), dim=0)
    targets = torch.tensor([3, 0, -1, 4, 3, 1])  # of all photos, of which a batch has some
    module = in_training(base, TeCoA(), None, ZeroShot(unit, targets))
    index = torch.tensor([5, 0, 2, 3])
    with torch.no_grad():
        made = module.student.embed(views[:4]).double().numpy()
    logits = 20 * made / np.linalg.norm(made, axis=1, keepdims=True) @ unit.double().numpy()
    of_photo = np.log(np.exp(logits).sum(axis=1)) - logits[range(4), [1, 3, 0, 4]]
    expected = of_photo[[0, 1, 3]].mean()  # the photo without a text is left out
    loss = first_loss(module, [views[:4], views[:4, None], index])
    assert loss == pytest.approx(expected, rel=1e-4)


def trainable(encoder: Encoder, tune: Callable[[nn.Module], nn.Module]) -> set[str]:
    tower = tune(copy.deepcopy(encoder.model.visual))
    return {name for name, parameter in tower.named_parameters() if parameter.requires_grad}


def test_what_is_tuned(encoder: Encoder) -> None:
    visual = encoder.model.visual
    everything = {name for name, _ in visual.named_parameters()}
    assert trainable(encoder, tuning.full) == everything
    layers = [module for module in visual.modules() if isinstance(module, nn.LayerNorm)]
    assert len(trainable(encoder, tuning.layernorm)) == 2 * len(layers)
    last = trainable(encoder, lambda tower: tuning.last_blocks(tower, 1))
    assert {"transformer.resblocks.1.mlp.c_fc.weight", "ln_post.weight", "proj"} <= last
    assert not any(name.startswith(("transformer.resblocks.0", "conv1")) for name in last)
    both = trainable(encoder, lambda tower: tuning.last_blocks(tower, 2))
    first = {name for name in everything if ".resblocks.0." in name}
    assert both == last | first
    assert trainable(encoder, lambda tower: tuning.first_blocks(tower, 1)) == everything - last
    both = trainable(encoder, lambda tower: tuning.first_blocks(tower, 2))
    assert everything - both == {"ln_post.weight", "ln_post.bias", "proj"}
    for part in (tuning.first_blocks, tuning.last_blocks):
        with pytest.raises(UserError, match=r"tune\.blocks=9: this image tower has 2"):
            part(visual, 9)


def test_low_rank_changes_start_as_in_the_authors_code() -> None:
    """A is uniform up to 1 / √in, as the weights of ``nn.Linear`` are, and B is zero."""
    torch.manual_seed(0)
    change = tuning.LowRank(torch.ones(3, 400), rank=50, alpha=8)
    assert kstest(change.a.detach().numpy().ravel(), uniform(-1 / 20, 1 / 10).cdf).pvalue > 1e-3
    assert change.b.eq(0).all()


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
    notes = comparison_notes(evaluations, photos[4:], photos[:4])
    assert [note[:22] for note in notes] == ["2 of these 6 photos we", "4 of these 6 photos ch"]
    assert comparison_notes(evaluations, photos[6:], photos[6:]) == []
    assert comparison_notes({}, photos, photos) == []


def test_the_demo_compares_on_photos_that_are_new_to_the_model(tmp_path: Path) -> None:
    cfg = compose_config("train", ["experiment=robustify_demo"])
    train, val = (load_photos(cfg.data[part])[0] for part in ("train", "val"))
    evaluations = compose_evaluations(cfg, tmp_path)
    assert comparison_notes(evaluations, train, val) == []
    measured = load_photos(evaluations[tmp_path / "robust"].data)[0]
    assert not {photo.id for photo in [*train, *val]} & {photo.id for photo in measured}
    assert [len(train), len(val), len(measured)] == [4, 4, 10]


@pytest.mark.photos
def test_lite_is_compared_on_photos_that_are_new_to_it(photos_root: Path, tmp_path: Path) -> None:
    root = f"data.train.large.root={photos_root}/imagenet-sample"
    cfg = compose_config("train", ["experiment=robustify_lite", root])
    train, val = (load_photos(part)[0] for part in (cfg.data.train.large, cfg.data.val))
    evaluations = compose_evaluations(cfg, tmp_path)
    measured = load_photos(evaluations[tmp_path / "robust"].data)[0]
    assert [len(train), len(val), len(measured)] == [250, 50, 200]
    assert len({photo.id for photo in (*train, *val, *measured)}) == 500


def test_devices_take_the_photos_of_one_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EpochSampler([10], 10, seed=3)
    assert {epoch for epoch, _ in whole} == {0}
    whole.set_epoch(2)
    in_order = list(whole)
    shares = []
    for rank in (0, 1, 2):
        monkeypatch.setattr("clipshift.train.views._devices", lambda rank=rank: (rank, 3))
        own = EpochSampler([10], 10, seed=3)
        own.set_epoch(2)
        shares.append(list(own))
        assert len(own) == len(shares[-1]) == 3
        resumed = EpochSampler([10], 10, seed=3, epoch=2, start=6)
        assert list(resumed) == shares[-1][2:]
        resumed.set_epoch(2)
        assert list(resumed) == shares[-1][2:]
        resumed.set_epoch(3)
        assert len(list(resumed)) == 3
    assert [place for places in zip(*shares, strict=True) for place in places] == in_order[:9]


def test_a_broken_photo_is_replaced_by_the_next(tmp_path: Path) -> None:
    """The one after the last is the first."""
    whole = sample()[:3]
    broken = Photo("broken", tmp_path / "broken.jpg")
    Path(broken.file).write_bytes(b"no photo")
    parts = make_augmentations(plain(compose_config("evaluate", ["aug=noise"]).aug))

    def views(*photos: Photo) -> RobustViews:
        return RobustViews([Source(photos, "squash")], *parts, ["paper"], 0)

    for photos, start, taken in (
        ((whole[0], broken, whole[2]), 1, 2),
        ((whole[0], whole[1], broken), 2, 0),
        ((broken, whole[1], broken), 2, 1),
    ):
        made = views(*photos)[4, start]
        assert made[2] == taken
        for got, expected in zip(made[:2], views(*whole)[4, taken][:2], strict=True):
            assert torch.equal(got, expected)
    with pytest.raises(UserError, match="none of the photos can be read"):
        views(broken, broken)[0, 1]


class Shown:
    """An augmentation whose view shows the strength (times 1/10) and what was drawn."""

    strongest, moves_pixels = float("inf"), False

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"drawn": torch.tensor(rng.random())}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        view = torch.full_like(images, strength / 10)
        view[:, 1] = draws["drawn"].float()[:, None, None]
        return view


def test_every_photo_and_epoch_draws_anew_from_all_severities(tmp_path: Path) -> None:
    photos = [Photo(name, tmp_path / name) for name in ("a.png", "b.png")]
    for photo in photos:
        Image.new("RGB", (8, 8)).save(photo.file)
    ladders = {"a": [2.0, 3.0, 4.0, 5.0, 6.0], "b": [1.5, 2.5, 3.5, 4.5, 5.5]}
    augmentations = {"a": Shown(), "b": Shown()}
    severities = ["paper", "1", "4"]
    sources = [Source(photos[:1], "squash"), Source(photos[1:], "squash")]
    views = RobustViews(sources, augmentations, ladders, severities, 0, count=2)
    shown = np.array(
        [[views[epoch, i][1][:, :2, 0, 0].tolist() for i in range(2)] for epoch in range(100)]
    )
    strengths, counts = np.unique((10 * shown[..., 0]).round(4), return_counts=True)
    assert strengths.tolist() == [1, 1.5, 2, 4.5, 5]  # 1 is the paper's, of both augmentations
    share = np.array([2, 1, 1, 1, 1]) / 6
    assert chisquare(counts, 400 * share).pvalue > 1e-3
    assert len(np.unique(shown[..., 1])) == 400
    one = [Source(photos, "squash")]  # what is drawn depends neither on sources nor other views
    again = RobustViews(one, augmentations, ladders, severities, 0)
    assert torch.equal(again[7, 1][1], views[7, 1][1][:1])
    other = RobustViews(one, augmentations, ladders, severities, 1)
    assert not torch.equal(other[7, 1][1], views[7, 1][1][:1])


def test_photos_are_varied_before_everything_else(tmp_path: Path) -> None:
    """A mirror image in half of the cases, of which base and student see the same."""
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "a.png")
    parts, ladders = make_augmentations(plain(compose_config("evaluate", ["aug=[noise,flip]"]).aug))
    noise = {"noise": parts.pop("noise")}
    plainly, vary = (Source([Photo("a", tmp_path / "a.png")], "squash", v) for v in ({}, parts))
    clean = RobustViews([plainly], {}, {}, ["paper"], 0)[0, 0][0]
    views = RobustViews([vary], noise, ladders, ["paper"], 0)
    turned = []
    for epoch in range(24):
        varied, [view], _ = views[epoch, 0]
        turned.append(torch.equal(varied, clean.flip(2)))
        assert turned[-1] or torch.equal(varied, clean)
        inside = (varied > 0.3) & (varied < 0.7)
        noisy = (view - varied)[inside]
        assert noisy.mean().abs() < 5 * noisy.std() / math.sqrt(len(noisy))
    assert 6 <= sum(turned) <= 18
    assert torch.equal(varied, views[epoch, 0][0])


def test_sources_are_mixed_in_their_shares_and_each_is_seen_whole_before_it_repeats() -> None:
    sampler = EpochSampler([3, 50], 20, seed=1, weights=[1, 3])
    order = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        order.append(list(sampler))
        assert len(order[-1]) == 20
        assert sum(index < 3 for _, index in order[-1]) == 5
    for first, photos in ((0, 3), (3, 50)):
        seen = [place for epoch in order for place in epoch if first <= place[1] < first + photos]
        turns = [seen[i : i + photos] for i in range(0, len(seen), photos)]
        for turn, places in enumerate(turns[: len(seen) // photos]):
            assert {of for of, _ in places} == {turn}
            assert sorted(index for _, index in places) == [*range(first, first + photos)]
        assert turns[0] != [(0, index) for _, index in turns[1]]
    large = [[i for i, (_, index) in enumerate(epoch) if index < 3] for epoch in order]
    places = np.bincount(np.concatenate(large), minlength=20)
    assert chisquare(places).pvalue > 1e-3
    resumed = EpochSampler([3, 50], 20, seed=1, epoch=7, start=12, weights=[1, 3])
    assert list(resumed) == order[7][12:]


def test_sources_share_the_options_that_they_lack(hub_folder: Path, encoder: Encoder) -> None:
    cfg = configured(
        hub_folder, "~data@data.train", "+data@data.train.whole=sample", "+data.train.whole.skip=9",
        "+data@data.train.mirrored=sample", "+aug@data.train.mirrored.vary=[flip]", "data.photos=6",
        "+data.train.mirrored.weight=3", "data.train.weight=2", "views=2",
    )  # fmt: skip
    _, views, _ = make_training(cfg, encoder, *make_augmentations(plain(cfg.train_aug)))
    whole, mirrored = views.sources
    assert [photo.id for photo in whole.photos] == [f"whole/{p.id}" for p in sample()[9:]]
    assert [photo.id for photo in mirrored.photos] == [f"mirrored/{p.id}" for p in sample()[6:]]
    assert [list(source.vary) for source in views.sources] == [[], ["flip"]]
    assert [source.weight for source in views.sources] == [2, 3]
    batches = training_batches(cfg, views, 1)
    clean, augmented, _ = next(iter(batches))
    assert len(batches) == 1
    assert clean.shape == (4, 3, 224, 224)
    assert augmented.shape == (4, 2, 3, 224, 224)
    with pytest.raises(UserError, match=r"data\.train\.mirrored\.weight=0 is out of range"):
        finetune(OmegaConf.merge(cfg, {"data": {"train": {"mirrored": {"weight": 0}}}}), Path("no"))


def test_it_is_trained_on_the_severities_and_with_the_anchor_that_are_configured(
    hub_folder: Path, encoder: Encoder
) -> None:
    cfg = configured(hub_folder, "severities=[2,5]", "objective.anchor_weight=0.3")
    parts = make_augmentations(plain(cfg.train_aug))
    module, views, _ = make_training(cfg, encoder, *parts)
    assert isinstance(module.anchor, Consistency)
    assert module.anchor_weight == 0.3
    expected = [
        (name, str(severity), node.ladder[severity - 1])
        for severity in (2, 5)
        for name, node in cfg.train_aug.items()
    ]
    assert [(v.name, v.severity, v.strength) for v in views.variants] == expected


@pytest.fixture(scope="module", params=["full", "lora"])
def recorded(
    request: pytest.FixtureRequest, hub_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finetuning, list[list[Tensor]], list[dict[str, Tensor]]]:
    """A training's folder and module, and after every step: its batch, and what is trained."""
    batches, weights = [], []

    def record(self: Finetuning, _: object, batch: list[Tensor], __: int) -> None:
        batches.append(batch)
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        weights.append({name: p.detach().clone() for name, p in trained})
        modules.append(self)

    modules: list[Finetuning] = []
    folder = tmp_path_factory.mktemp(request.param)
    cfg = configured(
        hub_folder, f"tune={request.param}", "ema=0.6", "alphas=[0,1]", "tolerance=1",
        "data.val.limit=1", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=3",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "on_train_batch_end", record)
        finetune(cfg, folder)
    return folder, modules[-1], batches, weights


def test_the_moving_average_is_what_is_exported(
    recorded: tuple[Path, Finetuning, list[list[Tensor]], list[dict[str, Tensor]]],
    hub_folder: Path,
) -> None:
    folder, module, _, weights = recorded
    assert len(weights) == 6
    assert json.loads((folder / "model/provenance.json").read_text())["alpha"] == 1
    exported = load_file(folder / "model/open_clip_model.safetensors")

    def is_exported(values: dict[str, np.ndarray]) -> bool:
        state = {name: torch.from_numpy(value) for name, value in values.items()}
        module.load_state_dict(state, strict=False)
        tower = tuning.plain_weights(module.student.model.visual)
        return all(
            torch.allclose(exported[f"visual.{name}"], value, atol=1e-6, rtol=1e-5)
            for name, value in tower.items()
        )

    steps = [{name: value.double().numpy() for name, value in step.items()} for step in weights]
    average = steps[0]
    for step in steps[1:]:
        average = {name: 0.6 * average[name] + 0.4 * value for name, value in step.items()}
    assert is_exported(average)
    assert not is_exported(steps[-1])
    base = load_file(hub_folder / "open_clip_model.safetensors")
    frozen = [name for name in base if not name.startswith("visual")]
    assert all(torch.equal(exported[name], base[name]) for name in frozen)


def test_no_epoch_repeats_the_views_of_another(
    recorded: tuple[Path, Finetuning, list[list[Tensor]], list[dict[str, Tensor]]],
) -> None:
    _, _, batches, _ = recorded
    epochs = [
        [torch.cat(parts) for parts in zip(*batches[i : i + 2], strict=True)] for i in (0, 2, 4)
    ]
    orders = [index.tolist() for _, _, index in epochs]
    assert orders[0] != orders[1] != orders[2]
    for photo in range(8):
        rows = [order.index(photo) for order in orders]
        clean, views = (
            [epoch[part][row] for epoch, row in zip(epochs, rows, strict=True)] for part in (0, 1)
        )
        assert torch.equal(clean[0], clean[1])
        assert torch.equal(clean[0], clean[2])
        assert not any(torch.equal(a, b) for a, b in combinations(views, 2))


@pytest.mark.usefixtures("without_figures")
def test_it_lowers_the_shift_and_is_compared_with_its_base(
    hub_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = configured(
        hub_folder,
        "tolerance=1",
        "data.val.limit=4",
        "trainer.check_val_every_n_epoch=2",
        "evaluation=['data=sample','data.limit=4','aug=[noise,blur,flip]','metric=cosine_similarity',"
        "'prompts=none']",
    )
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
    assert "4 of these 4 photos chose the weights" in page
    assert "mean of held out" in capsys.readouterr().out
    # The curve's start is what the evaluation finds on the same photos.
    compared = pd.read_csv(tmp_path / "comparison.csv")
    cosine = compared[compared["measure"] == "cosine_similarity"].set_index("augmentation")
    shift = 1 - cosine.loc[["noise", "blur"], "mean_a"].mean()
    assert shift == pytest.approx(curve["shift"].iloc[0], rel=1e-4)
    assert 1 - cosine.loc["mean of trained on", "mean_a"] == pytest.approx(shift)


@pytest.mark.usefixtures("without_page", "without_figures")
def test_a_control_has_the_same_training_on_clean_views_and_is_compared_as_well(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for after the training: that is not repeated."""
    steps: list[tuple[Path, list[Tensor]]] = []

    def record(self: Finetuning, _: object, batch: list[Tensor], __: int) -> None:
        steps.append((Path(self.trainer.default_root_dir), batch))

    monkeypatch.setattr(Finetuning, "on_train_batch_end", record)
    monkeypatch.setattr("clipshift.cli.train.choose_alpha", lambda *_: 1.0)
    more = ("objective=tecoa", "alphas=[0,1]", "trainer.max_epochs=2", "data.val.limit=2")
    finetune(configured(hub_folder, *more), tmp_path)
    weights = (tmp_path / "model/open_clip_model.safetensors").read_bytes()
    measured = (
        "['data=sample','data.limit=6','aug=[noise,blur,flip]','metric=cosine_similarity',"
        "'save.embeddings=true','prompts=none']"
    )
    finetune(configured(hub_folder, *more, "control=true", f"evaluation={measured}"), tmp_path)

    own, control = steps[:4], steps[4:]
    assert {folder for folder, _ in own} == {tmp_path}
    assert {folder for folder, _ in control} == {tmp_path / "control_training"}
    for (_, robust), (_, other) in zip(own, control, strict=True):
        assert torch.equal(robust[2], other[2])  # the same photos in the same order
        assert torch.equal(robust[0], other[0])
        assert torch.equal(other[1][:, 0], other[0])
        assert not torch.equal(robust[1][:, 0], robust[0])

    folders = {"control": tmp_path / "control_training/model", "robust": tmp_path / "model"}
    base = load_encoder(f"local-dir:{hub_folder}")
    found = {name: load_encoder(f"local-dir:{folder}") for name, folder in folders.items()}
    assert len({e.weights_sha256 for e in (base, *found.values())}) == 3
    assert (tmp_path / "model/open_clip_model.safetensors").read_bytes() == weights
    for name, trained_on in (("control", []), ("robust", ["noise", "blur"])):
        assert trained_augmentations(str(folders[name])) == trained_on
        facts = json.loads((tmp_path / name / "run.json").read_text())
        assert facts["model"]["weights_sha256"] == found[name].weights_sha256

    table = pd.read_csv(tmp_path / "comparison.csv")
    table = table[table["measure"] == "cosine_similarity"]
    of_pair = table.groupby(["model_a", "model_b"], sort=False)
    rows = {pair: group.set_index("augmentation")["difference"] for pair, group in of_pair}
    kinds = ["tiny", "tiny_control", "tiny_robust"]
    assert list(rows) == list(combinations(kinds, 2))
    assert all("mean of trained on" in group.index for group in rows.values())
    of_control, of_robust, net = rows.values()
    pd.testing.assert_series_equal(of_control + net, of_robust)
    outcome = pd.read_csv(tmp_path / "outcome.csv")
    for before, change in (("base", "change"), ("control", "net")):
        np.testing.assert_allclose(outcome[change], outcome["robust"] - outcome[before], atol=1e-7)
    outcome = outcome.set_index(["measure", "augmentation"])
    for group, value in net[["mean of trained on", "mean of held out"]].items():
        row = outcome.loc[("cosine_similarity", group)]
        assert row["net"] == pytest.approx(-value)
        assert row["net_low"] < -value < row["net_high"]
    distances = outcome.loc[("distance_to_others", "clean")]
    runs = [
        json.loads((tmp_path / n / "run.json").read_text()) for n in ("base", "control", "robust")
    ]
    assert distances[["base", "control", "robust"]].tolist() == pytest.approx(
        [run["spread"] for run in runs], rel=1e-5
    )
    assert distances["net_low"] < distances["net"] < distances["net_high"]
    card = (tmp_path / "model/README.md").read_text()
    page = (tmp_path / "comparison.html").read_text()
    for text in (card, page):
        assert all(
            name in text for name in ("robust − control", "effective rank", "mean of held out")
        )
    for a, b in combinations(kinds, 2):
        assert re.search(rf"{b}\b[^<]* against {a}\b", page)
    assert "noise (trained on)" in page
    assert "tiny_control had the same training on clean views alone" in page


def test_photos_without_labels_choose_weights_by_the_shift_alone(
    hub_folder: Path, tmp_path: Path
) -> None:
    finetune(configured(hub_folder, "data.val.limit=2", "alphas=[0,1]"), tmp_path)
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert list(curve) == ["alpha", "shift"]
    chosen = json.loads((tmp_path / "model" / "provenance.json").read_text())["alpha"]
    assert chosen == curve.loc[curve["shift"].idxmin(), "alpha"]


def test_the_control_of_consistency_is_the_base(hub_folder: Path, tmp_path: Path) -> None:
    """Its student already has clean views where the base has them."""
    more = ("control=true", "alphas=[0,1]", "trainer.max_epochs=1", "data.val.limit=1")
    finetune(configured(hub_folder, *more), tmp_path)
    base, control, robust = (
        load_file(folder / "open_clip_model.safetensors")
        for folder in (hub_folder, tmp_path / "control_training/model", tmp_path / "model")
    )
    assert all(torch.equal(control[name], value) for name, value in base.items())
    assert any(not torch.equal(robust[name], value) for name, value in base.items())


def test_started_again_it_ends_as_if_uninterrupted(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a moving average, early stopping and LoRA, all of which must be taken up again."""
    cfg = configured(
        hub_folder, "tune=lora", "ema=0.9", "patience=3", "trainer.precision=bf16-mixed",
        "alphas=[0,1]", "data.val.limit=2", "trainer.max_epochs=3",
    )  # fmt: skip
    finetune(cfg, tmp_path / "whole")
    start = Finetuning.on_train_epoch_start

    def breaks(self: Finetuning) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    monkeypatch.setattr(Finetuning, "on_train_epoch_start", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        finetune(cfg, tmp_path / "stopped")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"other options \(seed\)"):
        finetune(OmegaConf.merge(cfg, {"seed": 1}), tmp_path / "stopped")
    finetune(cfg, tmp_path / "stopped")
    whole, stopped = (
        load_file(tmp_path / name / "model/open_clip_model.safetensors")
        for name in ("whole", "stopped")
    )
    for name, value in whole.items():
        assert torch.equal(stopped[name], value), name
    (tmp_path / "stopped/last.ckpt").write_bytes(b"half of it")
    with pytest.raises(UserError, match="is damaged"):
        finetune(cfg, tmp_path / "stopped")
    record = tmp_path / "stopped/model/provenance.json"
    assert trained_augmentations(str(record.parent)) == list(cfg.train_aug)
    record.write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        trained_augmentations(str(record.parent))


class Noisy(Consistency):
    """Draws from torch's own generator, as dropout does."""

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        return torch.rand(()) * super().__call__(view, clean, texts, target)


@pytest.fixture(scope="module")
def uninterrupted(
    hub_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DictConfig, bytes]:
    """A training of two epochs with four steps each, and its outcome."""
    cfg = configured(
        hub_folder, "data.batch_size=2", "data.val.limit=2", "trainer.max_epochs=2", "ema=0.9",
        "alphas=[0,1]", "tolerance=1",
    )  # fmt: skip
    cfg.objective.loss._target_ = f"{__name__}.Noisy"
    folder = tmp_path_factory.mktemp("uninterrupted")
    finetune(cfg, folder)
    return cfg, outcome(folder)


def outcome(folder: Path) -> bytes:
    """Exported weights, those of the last step, and their moving average."""
    stored = torch.load(folder / LAST, weights_only=True)
    states = (stored[name].values() for name in ("state_dict", "current_model_state"))
    exported = (folder / "model/open_clip_model.safetensors").read_bytes()
    return exported + b"".join(value.numpy().tobytes() for state in states for value in state)


def stopped_in_step(
    cfg: DictConfig, folder: Path, step: int, stop: Callable[[], None], error: type[BaseException]
) -> BaseException:
    """A training that ends in its nth step, by a signal or an error."""
    training_step = Finetuning.training_step

    def stopped(self: Finetuning, batch: list[Tensor], index: int) -> Tensor:
        assert not self.training  # which Lightning sets at an epoch's start, and not within
        if self.trainer.global_step == step:
            stop()
        return training_step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "training_step", stopped)
        with pytest.raises(error) as raised:
            finetune(cfg, folder)
    return raised.value


def power_cut() -> None:
    raise RuntimeError("power cut")


@pytest.mark.parametrize(("step", "workers", "kept"), [(2, 0, (0, 2)), (6, 2, (1, 2))])
def test_killed_within_an_epoch_it_ends_with_the_same_weights(
    uninterrupted: tuple[DictConfig, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    workers: int,
    kept: tuple[int, int],
) -> None:
    cfg, expected = uninterrupted
    cfg = OmegaConf.merge(cfg, {"data": {"num_workers": workers}})
    monkeypatch.setattr(resuming, "SAVE_SECONDS", 0)
    stopped_in_step(cfg, tmp_path, step, power_cut, RuntimeError)
    place = torch.load(tmp_path / LAST, weights_only=True)["clipshift"]
    assert (place["epoch"], place["batch"]) == kept
    finetune(cfg, tmp_path)
    assert outcome(tmp_path) == expected


def test_a_signal_stops_it_after_a_step_and_says_what_is_kept(
    uninterrupted: tuple[DictConfig, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    cfg, expected = uninterrupted
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    monkeypatch.setattr(interruption, "_received", [])
    try:
        interruption.stop_on_signals()
        terminate = partial(signal.raise_signal, signal.SIGTERM)
        ended = stopped_in_step(cfg, tmp_path, 5, terminate, SystemExit)
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
    assert isinstance(ended, SystemExit)
    assert ended.code == 130
    said = capsys.readouterr().err.strip().splitlines()[-2:]
    assert said == [
        "SIGTERM: stopping after this step or validation (again: at once)",
        f"stopped early: 6 steps are kept in {tmp_path}. The same command goes on after them",
    ]
    interruption._received.clear()
    finetune(cfg, tmp_path)
    assert outcome(tmp_path) == expected


def test_the_best_weights_are_kept_where_the_folder_is_moved(
    uninterrupted: tuple[DictConfig, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, _ = uninterrupted
    stopped_in_step(cfg, tmp_path / "here", 4, power_cut, RuntimeError)
    best = (tmp_path / "here" / BEST).read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    step = Finetuning.training_step
    monkeypatch.setattr(Finetuning, "training_step", lambda *given: step(*given) * math.nan)
    finetune(cfg, tmp_path / "there")
    assert (tmp_path / "there" / BEST).read_bytes() == best


def test_a_checkpoint_of_any_other_shape_is_one_line(
    uninterrupted: tuple[DictConfig, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, _ = uninterrupted
    monkeypatch.setattr(resuming, "SAVE_SECONDS", 0)
    stopped_in_step(cfg, tmp_path, 2, power_cut, RuntimeError)
    stored = torch.load(tmp_path / LAST, weights_only=True)
    place, optimizer = stored["clipshift"], stored["optimizer_states"][0]
    moments = {i: s | {"exp_avg": torch.zeros(3)} for i, s in optimizer["state"].items()}
    for part in (
        {"clipshift": {}}, {"clipshift": place | {"batch": -1}}, {"global_step": "2"},
        {"clipshift": place | {"best": "0"}}, {"callbacks": {"WeightAveraging": 1}},
        {"loops": {}}, {"optimizer_states": []}, {"optimizer_states": [optimizer | {"state": {}}]},
        {"lr_schedulers": []}, {"lr_schedulers": [0]},
        {"optimizer_states": [optimizer | {"state": moments}]},
    ):  # fmt: skip
        torch.save(stored | part, tmp_path / LAST)
        with pytest.raises(UserError, match=r"is damaged: last\.ckpt is not whole") as error:
            finetune(cfg, tmp_path)
        assert "\n" not in str(error.value)


def test_a_training_goes_on_from_its_own_whole_checkpoints_alone(
    hub_folder: Path, tmp_path: Path
) -> None:
    cfg = configured(
        hub_folder, "tune=layernorm", "trainer.max_epochs=1", "alphas=[0,1]", "data.val.limit=2"
    )
    finetune(cfg, tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in (LAST, BEST, SETTINGS)}

    def refused(name: str) -> None:
        with pytest.raises(UserError, match=f"is damaged: {name} is not whole") as error:
            finetune(cfg, tmp_path)
        assert "\n" not in str(error.value)
        (tmp_path / name).write_bytes(kept[name])

    for name in (LAST, BEST):
        (tmp_path / name).write_bytes(kept[name][: len(kept[name]) // 2])
        refused(name)
        stored = torch.load(tmp_path / name, weights_only=True)
        weight = stored["state_dict"]["student.model.visual.ln_pre.weight"].numpy().tobytes()
        flipped = bytearray(kept[name])
        flipped[kept[name].index(weight) + 1] ^= 1
        (tmp_path / name).write_bytes(flipped)
        changed = torch.load(tmp_path / name, weights_only=True)  # torch itself does not notice
        assert any(
            not torch.equal(value, stored["state_dict"][key])
            for key, value in changed["state_dict"].items()
        )
        refused(name)
        alone = {"state_dict": stored["state_dict"]}
        for content in ([1, 2], stored["state_dict"], alone, stored | {"state_dict": [1]}):
            torch.save(content, tmp_path / name)
            refused(name)
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"is damaged: {name} is not whole"):
            finetune(cfg, tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=f"is damaged: {name} is not whole"):
            finetune(cfg, tmp_path)
        (tmp_path / name).rmdir()
        (tmp_path / name).write_bytes(kept[name])
    for content in ("[]", "{", "[" * 10**5):
        (tmp_path / SETTINGS).write_text(content)
        refused(SETTINGS)
    (tmp_path / SETTINGS).write_text(json.dumps(json.loads(kept[SETTINGS]) | {"more": 1}))
    with pytest.raises(UserError, match=r"other options \(more\)"):
        finetune(cfg, tmp_path)
    (tmp_path / SETTINGS).write_bytes(kept[SETTINGS])
    other = {key: value[:1] for key, value in stored["state_dict"].items()}
    for name in (LAST, BEST):  # of another model
        torch.save(stored | {"state_dict": other}, tmp_path / name)
        refused(name)
    finetune(cfg, tmp_path)


@pytest.fixture(scope="module")
def starts() -> list[tuple[Callable[[DictConfig, Path], None], DictConfig]]:
    """What loads a model: an evaluation and a training."""
    training = ["experiment=robustify_demo", "logger=none"]
    return [
        (evaluate, compose_config("evaluate", ["logger=none"])),
        (finetune, compose_config("train", training)),
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(
    starts: list[tuple[Callable[[DictConfig, Path], None], DictConfig]],
    hub_folder: Path,
    tmp_path: Path,
    number: float,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    weights["visual.ln_post.bias"][3] = number
    save_file(weights, file)
    for start, composed in starts:
        cfg: Any = OmegaConf.merge(composed, {"model": {"checkpoint": str(folder)}})
        with pytest.raises(UserError, match=r"NaN or infinite, in 1 of .*\.ln_post\.bias") as error:
            start(cfg, tmp_path / "run")
        assert str(folder) in str(error.value)
        assert not any((tmp_path / "run").glob("*.parquet"))


def test_the_best_epoch_is_exported_and_not_the_last(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate rises until it destroys the model; early stopping ends that soon."""
    epochs: list[tuple[float, dict[str, Tensor]]] = []

    def record(self: Finetuning) -> None:
        if not self.trainer.sanity_checking:
            shift = self.trainer.callback_metrics["val/shift"].item()
            epochs.append((shift, tuning.plain_weights(self.student.model.visual)))

    monkeypatch.setattr(Finetuning, "on_validation_end", record)
    cfg = configured(
        hub_folder, "patience=2", "optimization.lr=1", "trainer.max_epochs=20", "alphas=[0,1]",
        "tolerance=1", "data.val.limit=3",
    )  # fmt: skip
    finetune(cfg, tmp_path)
    shifts = [shift for shift, _ in epochs]
    assert len(shifts) < 20
    assert shifts.index(min(shifts)) == len(shifts) - 3  # two more, without a smaller shift
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert curve["shift"].iloc[1] == pytest.approx(min(shifts), rel=1e-5)
    assert json.loads((tmp_path / "model/provenance.json").read_text())["alpha"] == 1
    exported = load_file(tmp_path / "model/open_clip_model.safetensors")
    for name, value in epochs[-3][1].items():
        torch.testing.assert_close(exported[f"visual.{name}"], value)


@pytest.mark.parametrize("objective", ["tecoa", "contrastive", "consistency_tecoa"])
def test_objectives_with_texts(hub_folder: Path, tmp_path: Path, objective: str) -> None:
    more = (
        f"objective={objective}", "tune=layernorm", "+trainer.accumulate_grad_batches=2",
        "trainer.max_epochs=2", "alphas=[0,1]", "data.val.limit=2",
    )  # fmt: skip
    finetune(configured(hub_folder, *more), tmp_path)
    curve = pd.read_csv(tmp_path / "interpolation.csv")
    assert curve["shift"].iloc[-1] != curve["shift"].iloc[0]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert (tmp_path / "model/open_clip_model.safetensors").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("alphas=[0.5,1]", r"alphas=\[0.5, 1\] is out of range: it must be .* 0 first"),
        ("ema=2", "ema=2 is out of range"),
        ("severities=[matched]", "a list of paper and 1 to 5"),
        ("train_aug.noise.std=[2,1]", r"train_aug.noise.std: \[2, 1\] is out of range"),
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
        hub_folder,
        "objective=tecoa",
        "data@data.train=folder",
        f"data.train.root={tmp_path}/photos",
        "data.train.skip=0",
    )
    with pytest.raises(UserError, match="needs photos with labels or captions"):
        finetune(cfg, tmp_path / "run")


def test_two_devices_learn_what_one_learns(hub_folder: Path, tmp_path: Path) -> None:
    """The whole batch's loss, also of an objective that contrasts photos on different devices."""
    options = [
        "objective=contrastive", "data.val.limit=2", "aug@train_aug=[noise,flip]",
        "trainer.max_epochs=2", "alphas=[0,1]", "tolerance=1", "ema=0.99",
    ]  # fmt: skip
    finetune(configured(hub_folder, *options), tmp_path / "one")
    command = [
        "experiment=robustify_demo", *options, "logger=none", f"model.checkpoint={hub_folder}",
        "data.train.skip=6", "data.train.limit=8", "data.batch_size=4", "optimization.lr=1e-3",
        "trainer.precision=32-true", "trainer.devices=2", "+trainer.strategy=ddp",
        "trainer.check_val_every_n_epoch=1",
        "evaluation=['data=sample','data.limit=2','aug=noise','metric=cosine_similarity','trainer=cpu',"
        "'prompts=none']",
        f"hydra.run.dir={tmp_path}/two",
    ]  # fmt: skip
    done = run_script("train.py", *command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "2 photos, paired" in done.stdout
    base, one, two = (
        load_file(folder / "open_clip_model.safetensors")
        for folder in (hub_folder, tmp_path / "one/model", tmp_path / "two/model")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-3)
    assert any(not torch.equal(base[name], one[name]) for name in base)


def test_vit_b32_takes_steps_of_lora_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real image tower with two of its twelve layers, a small text tower and random weights.

    `test_docs.py` trains it whole.
    """
    monkeypatch.setattr(encoder_module, "ENCODE_BATCH", 1)
    whole = open_clip.get_model_config("ViT-B-32-quickgelu")
    text = {"layers": 1, "width": 64, "heads": 1}  # is not trained
    short = {
        "vision_cfg": whole["vision_cfg"] | {"layers": 2},
        "text_cfg": whole["text_cfg"] | text,
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", whole | short)
    cfg = compose_config(
        "train",
        [
            "experiment=robustify_vit_b32", "logger=none", "model.pretrained=null", "trainer=cpu",
            "data@data.train=sample", "data@data.val=sample", "data.train.limit=2",
            "data.val.limit=1", "data.batch_size=1", "data.num_workers=0", "alphas=[0,1]",
            "aug@train_aug=[noise]", "prompts=none", "evaluation=null", "trainer.max_epochs=1",
            "+trainer.num_sanity_val_steps=0", "+trainer.enable_progress_bar=false",
            "trainer.precision=32-true", "tolerance=1",
        ],
    )  # fmt: skip
    finetune(cfg, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    tuned = load_encoder(f"local-dir:{tmp_path}/model")
    assert tuned.trained
    assert len(tuned.model.visual.transformer.resblocks) == 2
    assert tuned.model.visual.conv1.weight.shape == (768, 3, 32, 32)
