"""The worst case: attacks stay in their ball, reach known optima, and are the same to the bit."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.models import VIT, write_hub_folder
from torch import Tensor

import clipshift
from clipshift.api import Result
from clipshift.augment.keyed import augment, draw
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.comparison.notes import pair_notes
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.modules import as_encoder
from clipshift.encode.packing import packed_weights
from clipshift.errors import UserError
from clipshift.evaluate.attack import ATTACK, Attack
from clipshift.measure.functional import cosine_similarity
from clipshift.options import AttackOptions
from clipshift.report.sections.ranking import attack_section, ranking_figure
from clipshift.results.intervals import mean_interval

EPSILON = 4.0


def attacked(encoder: Encoder, clean: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Clean views' starts and what an attack makes of them."""
    attack = Attack(AttackOptions(**options), encoder)
    drawn = [draw(attack, 0, str(photo), ATTACK, clean.shape[-1]) for photo in range(len(clean))]
    starts = torch.stack([one["starts"] for one in drawn])
    with torch.inference_mode():
        views = augment(attack, clean, {"starts": starts}, EPSILON)
    return (clean + EPSILON / 255 * starts[:, 0]).clamp(0, 1), views


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_attack_stays_in_its_ball_and_ends_further_than_it_starts(
    hub_folder: Path, views: Tensor, precision: str
) -> None:
    encoder = load_encoder(f"local-dir:{hub_folder}", precision=precision)
    clean = views[:2].clone()
    clean[:, :, :20], clean[:, :, 20:40] = 0, 1
    with packed_weights(encoder):  # as while a run measures
        starts, worst = attacked(encoder, clean, steps=3, restarts=2)
    assert 0 <= worst.min() <= worst.max() <= 1
    assert (worst.double() - clean.double()).abs().max() <= EPSILON / 255  # to the last bit
    unmoved, at_start, at_end = (encoder(one).embedding for one in (clean, starts, worst))
    moved = 1 - cosine_similarity(at_end, unmoved)
    assert (moved > 1 - cosine_similarity(at_start, unmoved)).all()


def test_of_a_linear_encoder_the_optimum_is_reached() -> None:
    """A pixel without a weight stays where it started."""
    weights = torch.randn(3 * 224 * 224, generator=torch.Generator().manual_seed(0)) / 300
    weights[::7] = 0

    def linear(pixels: Tensor) -> Tensor:
        moved = (pixels - 0.5).flatten(1) @ weights
        return torch.stack([torch.ones_like(moved), moved], dim=1)

    start, worst = attacked(as_encoder(linear), torch.full((1, 3, 224, 224), 0.5), steps=10)
    assert torch.allclose(worst.flatten()[::7], start.flatten()[::7], atol=1e-6)
    moved = weights != 0
    side = (worst - 0.5).flatten()[moved] / weights[moved].sign() * 255 / EPSILON
    assert torch.allclose(side, side.sign().median().expand_as(side), atol=1e-4)
    farthest = 1 - 1 / math.hypot(1, EPSILON / 255 * weights.double().norm(p=1).item())
    cosine = cosine_similarity(linear(worst), torch.tensor([[1.0, 0.0]]))
    assert 1 - cosine.item() == pytest.approx(farthest, rel=1e-5)


def run(folder: Path, model: Any, **options: Any) -> Result:
    return clipshift.measure_shift(
        model=model,
        augmentations="flip",
        measures=["cosine_similarity", "ssim"],
        limit=8,
        folder=folder,
        progress=False,
        **{"attack_epsilon": [1, 4], "attack_steps": 2, "attack_photos": 5, "batch_size": 7}
        | options,
    )


@pytest.fixture(scope="module")
def result(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(tmp_path_factory.mktemp("attack"), encoder)


def test_a_run_has_the_means_of_its_attacked_photos(result: Result) -> None:
    photos = result.run.attack_photos
    assert len(photos) == 10
    assert photos["relative_shift"].to_numpy() == pytest.approx(
        (1 - photos["cosine_similarity"]).to_numpy() / result.run.info.spread
    )
    means = photos.groupby("epsilon")[["cosine_similarity", "relative_shift", "ssim"]].mean()
    table = result.attack.pivot(index="epsilon", columns="measure", values="mean")
    pd.testing.assert_frame_equal(table[means.columns], means, check_names=False)
    assert means["cosine_similarity"].is_monotonic_decreasing
    read = clipshift.load_run(result.run.folder)
    pd.testing.assert_frame_equal(read.attack, result.attack, rtol=1e-8, check_dtype=False)


def test_attacked_photos_are_only_a_part_of_the_unit_of_the_relative_shift(result: Result) -> None:
    photos, info = result.run.attack_photos, result.run.info
    others = result.run.shift.drop_duplicates("photo")["distance_to_others"]
    assert others.mean() == pytest.approx(info.spread)
    for at in photos["epsilon"].unique():
        of = photos[photos["epsilon"] == at]
        relative, own = of["relative_shift"].to_numpy(), of["distance_to_others"].to_numpy()
        part = len(of) / len(others)
        assert part < 1
        unit = info.spread + part * (own.mean() - info.spread)
        values = relative - 2 * relative.mean() * part * (own - own.mean()) / unit
        row = result.attack.query("measure == 'relative_shift' and epsilon == @at").iloc[0]
        ends = np.clip(mean_interval(values, info.seed), 0, None)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(ends)


def test_an_attack_is_the_same_for_any_batch(
    result: Result, encoder: Encoder, tmp_path: Path
) -> None:
    one = run(tmp_path, encoder, batch_size=1, attack_epsilon=[4])
    expected = result.run.attack_photos.query("epsilon == 4").reset_index(drop=True)
    pd.testing.assert_frame_equal(one.run.attack_photos, expected, check_exact=True)


@pytest.mark.usefixtures("without_page")
def test_an_interrupted_attack_goes_on_to_the_same_numbers(
    result: Result, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"model.checkpoint={hub_folder}", "data.limit=8", "aug=flip", "trainer=cpu"]
    given += ["metric=[cosine_similarity,ssim]", "attack.epsilon=[1,4]", "attack.steps=2"]
    given += ["attack.photos=5", "data.batch_size=2", "logger=none", "cache=off"]
    config, calls, apply = compose_config("evaluate", given), [], Attack.apply

    def interrupted(attack: Attack, *inputs: Any) -> Tensor:
        calls.append(len(inputs[0]))
        if len(calls) == 3:
            raise SystemExit
        return apply(attack, *inputs)

    monkeypatch.setattr(Attack, "apply", interrupted)
    with pytest.raises(SystemExit):
        evaluate(config, tmp_path)
    assert not json.loads((tmp_path / "run.json").read_text())["complete"]
    evaluate(config, tmp_path)
    assert calls[3:] == [2, 2, 1, 1]  # of what was left: three photos, under two bounds
    files = [folder / "attack_photos.csv" for folder in (tmp_path, result.run.folder)]
    assert files[0].read_text() == files[1].read_text()


def test_two_models_are_compared_under_attacks_of_their_own(result: Result, tmp_path: Path) -> None:
    other = run(tmp_path, load_encoder(f"local-dir:{write_hub_folder(tmp_path / 'b', VIT, 1)}"))
    table = clipshift.compare(result, other)
    rows = table[table["augmentation"] == "attack (white-box)"].set_index(["severity", "measure"])
    shift = [of.run.attack_photos.set_index(["epsilon", "photo"]) for of in (result, other)]
    for epsilon in (1, 4):
        before, after = (of.loc[epsilon, "cosine_similarity"] for of in shift)
        row = rows.loc[(f"ε = {epsilon} of 255", "cosine_similarity")]
        assert row["difference"] == pytest.approx((after - before).mean())
        assert row["n"] == 5
    clean = table[table["augmentation"] == "clean"]
    assert not clean["measure"].duplicated().any()
    assert any("white-box" in note for note in pair_notes(result.run, other.run))
    unlike = replace(other.run, attack_photos=pd.DataFrame())
    assert "attack (white-box)" not in set(clipshift.compare(unlike, result)["augmentation"])


def test_a_page_shows_the_attack_as_what_it_is(result: Result) -> None:
    section = attack_section(result.run)
    assert section is not None
    assert "white-box" in section.text[0]
    assert [row[0].text for row in section.tables[0].rows] == ["1", "4"]
    drawn = json.dumps(ranking_figure(result.run).drawn, ensure_ascii=False)
    assert "attack (white-box), ε = 4/255" in drawn


def detached(pixels: Tensor) -> Tensor:
    return pixels.detach().mean(dim=(2, 3))


def by_numpy(pixels: Tensor) -> Tensor:
    return torch.from_numpy(np.mean(pixels.numpy(), axis=(2, 3)))


def rounded(pixels: Tensor) -> Tensor:
    return pixels.round().mean(dim=(2, 3))


@pytest.mark.parametrize("model", [detached, by_numpy, rounded])
def test_a_model_without_gradients_is_refused_before_anything_is_measured(
    model: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^attack\.epsilon requires embeddings with a gradient \(.+\)"
    ):
        run(tmp_path, model)
    assert not list(tmp_path.rglob("*.safetensors"))
