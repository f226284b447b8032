"""Severities: ladders, nested draws, the five more augmentations, and matched strengths."""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy import ndimage, stats
from skimage.color import rgb2gray
from support.augmentations import (
    EXTENDED,
    PAPER,
    augmentation_named,
    augmentations_named,
    choice_of_aug,
    draws_of,
    ladders,
)
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms.functional import adjust_hue

from clipshift.augment import pixel
from clipshift.augment.geometric import Flip
from clipshift.augment.keyed import Augmentation, MovingAugmentation, augment, dithered, draw
from clipshift.augment.matching import (
    Calibration,
    CalibrationPhoto,
    Match,
    displacement,
    match_strength,
)
from clipshift.augment.pixel import CoarseDropout, MotionBlur, Noise, Pixelate
from clipshift.augment.variants import make_variants
from clipshift.cli.build import make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.data.dataset import ViewDataset, clean_view, collate
from clipshift.data.files import typed
from clipshift.data.photos import Photo, decode
from clipshift.data.sources import folder, sample
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError
from clipshift.evaluate.calibration import (
    STORED,
    calibrate,
    calibration_for,
    calibration_notes,
    distortion_of,
    left_to_measure,
    matched_strengths,
    mirrored_photos,
    set_aside,
)
from clipshift.evaluate.elasticity import around_match, elasticities
from clipshift.measure.functional import rmse, ssim
from clipshift.options import EvaluateOptions, read_options
from clipshift.report import terminal
from clipshift.results.measured import Measured
from clipshift.results.runs import read_run


def test_extended_has_five_more() -> None:
    paper, paper_ladders = choice_of_aug("paper")
    extended, extended_ladders = choice_of_aug("extended")
    assert (tuple(paper), tuple(extended)) == (PAPER, EXTENDED)
    assert {name: extended_ladders[name] for name in paper} == paper_ladders


def severities_of(name: str, views: Tensor) -> list[Tensor]:
    draws = draws_of(name, len(views))
    return [augment(augmentation_named(name), views, draws, step) for step in ladders()[name]]


@pytest.mark.parametrize("name", EXTENDED)
def test_ssim_falls_from_severity_to_severity(name: str, views: Tensor) -> None:
    if name == "flip":  # flips a share of the photos: eight are too few to see every step
        views = views[:1, :, ::2, ::2].repeat(64, 1, 1, 1)
    means = [ssim(made, views).double().mean() for made in severities_of(name, views)]
    assert all(weaker > stronger for weaker, stronger in pairwise(means)), means


@pytest.mark.parametrize("name", EXTENDED)
def test_at_no_strength_nothing_changes(name: str, views: Tensor) -> None:
    made = augment(augmentation_named(name), views, draws_of(name, len(views)), 1e-7)
    # quality 100 still rounds, and an oblique line's soft edge touches the pixels beside it
    tolerance = {"jpeg": 6 / 255, "motion_blur": 0.02}.get(name, 2e-5)
    assert (made - views).abs().amax((1, 2, 3)).median() < tolerance
    assert rmse(made, views).max() < tolerance


def test_at_strength_zero_no_photo_is_mirrored(views: Tensor) -> None:
    """Not even the one whose number in [0, 1) is 0."""
    draws = {"turn": torch.zeros(8, 1)}
    assert torch.equal(Flip().apply(views, draws, 0.0), views)
    assert torch.equal(Flip().move_back(views, draws, 0.0), views)


@pytest.mark.parametrize("name", EXTENDED)
def test_what_moves_pixels_says_so_and_can_move_them_back(name: str) -> None:
    augmentation = augmentation_named(name)
    moved = displacement(augmentation, torch.zeros(4, 3, 224, 224), draws_of(name, 4), 1.0)
    assert augmentation.moves_pixels == isinstance(augmentation, MovingAugmentation)
    assert augmentation.moves_pixels == moved.any()


def test_a_severity_scales_the_same_draws(views: Tensor) -> None:
    noise, draws = augmentation_named("noise"), draws_of("noise", 8)
    weak, strong = (noise.apply(views, draws, strength) for strength in (1, 3))
    torch.testing.assert_close(strong - views, 3 * (weak - views), atol=1e-5, rtol=0)
    flips = [draws_of("flip", 400)["turn"] < share for share in (0.2, 0.6)]
    assert not (flips[0] & ~flips[1]).any()
    assert flips[1].float().mean() == pytest.approx(0.6, abs=0.08)
    holes = [made != views for made in severities_of("coarse_dropout", views)]
    for few, many in pairwise(holes):
        assert not (few & ~many).any()


def test_holes_are_128_at_the_most() -> None:
    """Single pixels of a large view, of which no two happen to be the same."""
    dropout = CoarseDropout((6, 8), 1)
    draws = default_collate([draw(dropout, 0, "photo", "coarse_dropout", 2000)])
    for strength, count in ((10.0, 10 * draws["count"].item()), (1e6, 128)):
        view = dropout.apply(torch.full((1, 3, 2000, 2000), -1.0), draws, strength)
        assert (view[:, 0] >= 0).sum() == count


def chart(size: int = 224) -> Tensor:
    """Every pixel's x and y, shape (1, 2, H, W)."""
    return torch.stack(torch.meshgrid(*2 * [torch.arange(float(size))], indexing="xy"))[None]


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_scale_is_to_the_power_of_the_strength(strength: float) -> None:
    """A chart of x and y tells where pixels came from: the scale is the inverse of its slope."""
    draws = {
        "shift": torch.zeros(1, 2),
        "scale": torch.tensor([[0.8, 1.25]]),
        "rotation": torch.zeros(1),
    }
    moved = augmentation_named("shift_scale_rotate").apply(chart(), draws, strength)[0]
    centre = slice(100, 124)  # which no scale here leaves without a source
    x, y = moved[0, 112, centre].diff(), moved[1, centre, 112].diff()
    torch.testing.assert_close(x, torch.full_like(x, 0.8**-strength), atol=1e-3, rtol=0)
    torch.testing.assert_close(y, torch.full_like(y, 1.25**-strength), atol=1e-3, rtol=0)


def test_corners_stay_apart_at_any_strength() -> None:
    """They move inward by 0.45 of the side at the most, so that a tenth of each side is left."""
    draws = {"inward": torch.full((1, 4, 2), 0.1)}
    moved = augmentation_named("perspective").apply(chart(), draws, 100.0)[0]
    for corner, expected in (
        ((0, 0), (0.45, 0.45)),
        ((-1, 0), (0.45, 0.55)),
        ((0, -1), (0.55, 0.45)),
    ):
        x, y = (moved[axis][corner].item() / 223 for axis in (0, 1))
        assert (x, y) == pytest.approx(expected, abs=1e-3)


def test_no_colour_factor_turns_negative(views: Tensor) -> None:
    """A factor of 0 at the least: black, then the mean luma, then luma; and half a turn of hue.

    A negative one would show the photo's negative, and become stronger without end.
    """
    jitter, neutral = augmentation_named("color_jitter"), {
        "brightness": torch.ones(8), "contrast": torch.ones(8), "saturation": torch.ones(8),
        "hue": torch.zeros(8), "order": torch.arange(4).expand(8, 4),
    }  # fmt: skip
    luma = (views * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    mean = luma.mean((2, 3), keepdim=True)
    for factor, expected in (("brightness", 0 * luma), ("contrast", mean), ("saturation", luma)):
        made = augment(jitter, views, neutral | {factor: torch.full((8,), 0.8)}, 20.0)
        torch.testing.assert_close(made, expected.expand_as(views), atol=1e-4, rtol=0)
    turned = augment(jitter, views, neutral | {"hue": torch.full((8,), 0.2)}, 20.0)
    torch.testing.assert_close(turned, adjust_hue(views, 0.5), atol=1e-3, rtol=0)
    flat = {"contrast": torch.full((8, 1), -0.2), "brightness": torch.full((8, 1), 0.01)}
    made = augment(augmentation_named("brightness_contrast"), views, flat, 20.0)
    torch.testing.assert_close(made, torch.full_like(views, 0.2))


def test_dithering_keeps_the_mean_and_whole_numbers() -> None:
    offset = torch.linspace(0, 1, 1001)[:-1]
    assert dithered(torch.tensor(2.3), offset).mean().item() == pytest.approx(2.3, abs=1e-3)
    assert dithered(torch.tensor(7.0), offset).unique().tolist() == [7.0]


def test_variants_are_named_by_severity_where_there_are_several() -> None:
    one = make_variants({"noise": Noise((0, 1))}, {"noise": [1, 2, 3, 4, 5]}, ["3"], {})
    assert {name: v.strength for name, v in one.items()} == {"noise": 3}
    two = make_variants({"noise": Noise((0, 1))}, {}, ["paper", "matched"], {"noise": 0.2})
    assert {n: v.strength for n, v in two.items()} == {"noise@paper": 1.0, "noise@matched": 0.2}


# --- the five more -------------------------------------------------------------------------------


def test_jpeg_is_libjpegs(views: Tensor) -> None:
    pixels = (views[:2] * 255).round() / 255
    draws = {"quality": torch.tensor([[40.0], [10.0]]), "offset": torch.zeros(2, 1)}
    made = augmentation_named("jpeg").apply(pixels, draws)
    for photo, view, quality in zip(pixels, made, (40, 10), strict=True):
        stream = io.BytesIO()
        array = (photo.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(stream, "jpeg", quality=quality)
        expected = np.asarray(Image.open(stream)).transpose(2, 0, 1) / 255
        assert np.abs(view.numpy() - expected).mean() < 1 / 255
    harder = augmentation_named("jpeg").apply(pixels[:1], {k: v[:1] for k, v in draws.items()}, 4.0)
    assert rmse(harder, made[1:] * 0 + pixels[:1]).item() > rmse(made[:1], pixels[:1]).item()


@pytest.mark.parametrize(
    ("quality", "strength"), [(80, 1.0), (80, 2.0), (95, 4.0), (60, 2.0), (40, 0.4), (40, 2.0)]
)
def test_strength_multiplies_jpegs_quantisation(
    quality: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the quantisation tables that Pillow's libjpeg writes at every quality."""

    def quantisation(quality: int) -> int:
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "jpeg", quality=quality)
        return sum(sum(table) for table in Image.open(stream).quantization.values())  # type: ignore[attr-defined]

    wanted = strength * quantisation(quality)
    expected = min(range(1, 101), key=lambda q: abs(quantisation(q) - wanted))
    used = []
    encode = pixel.encode_jpeg
    monkeypatch.setattr(pixel, "encode_jpeg", lambda p, q: used.append(q) or encode(p, q))
    draws = {"quality": torch.tensor([[float(quality)]]), "offset": torch.full((1, 1), 0.5)}
    augmentation_named("jpeg").apply(torch.zeros(1, 3, 8, 8), draws, strength)
    assert abs(used[0] - expected) <= 1


def test_jpeg_at_strength_one_has_the_quality_that_was_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []
    encode = pixel.encode_jpeg
    monkeypatch.setattr(pixel, "encode_jpeg", lambda p, q: used.append(q) or encode(p, q))
    draws = {"quality": torch.arange(1.0, 101)[:, None], "offset": torch.full((100, 1), 0.5)}
    augmentation_named("jpeg").apply(torch.zeros(100, 3, 8, 8), draws)
    assert used == list(range(1, 101))


def test_numbers_of_blocks_are_dithered() -> None:
    """Blocks of 5 px: 44.8 of them along a side of 224 on average, and not 45 for all."""
    noise = torch.rand(50, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(50.0)[:, None] / 50
    made = Pixelate((5, 5)).apply(noise, {"block": torch.full((50, 1), 5.0), "offset": offsets})
    blocks = 1 + (made[:, 0, 0].diff() != 0).sum(dim=1)
    assert blocks.unique().tolist() == [44, 45]
    assert blocks.float().mean().item() == pytest.approx(44.8, abs=0.02)


def test_pixelate_takes_means_of_blocks(views: Tensor) -> None:
    draws = {"block": torch.full((8, 1), 8.0), "offset": torch.zeros(8, 1)}
    made = Pixelate((8, 8)).apply(views, draws)
    means = views.unflatten(3, (28, 8)).unflatten(2, (28, 8)).mean((3, 5))
    torch.testing.assert_close(made, means.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_motion_blur_is_a_mean_along_a_line(views: Tensor) -> None:
    blur = MotionBlur((7, 7))
    for angle, axis in ((0.0, -1), (math.pi / 2, -2)):
        draws = {"length": torch.full((8, 1), 7.0), "angle": torch.full((8, 1), angle)}
        # half a pixel of the line lies on each end's pixel: 7 whole ones, and nothing of two more
        expected = ndimage.uniform_filter1d(views.numpy(), 7, axis=axis, mode="mirror")
        np.testing.assert_allclose(blur.apply(views, draws), expected, atol=1e-5)


def test_motion_blur_in_any_direction_keeps_the_mean() -> None:
    flat = torch.full((50, 3, 64, 64), 0.3)
    draws = draws_of("motion_blur", 50)
    torch.testing.assert_close(augmentation_named("motion_blur").apply(flat, draws), flat)
    assert (
        stats.kstest(
            draws_of("motion_blur", 1000)["angle"].numpy().ravel(), stats.uniform(0, math.pi).cdf
        ).pvalue
        > 1e-3
    )


def test_grayscale_is_luma(views: Tensor) -> None:
    made = augmentation_named("grayscale").apply(views, draws_of("grayscale", 8))
    for view, photo in zip(made, views, strict=True):
        weights = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(view[1], np.tensordot(weights, photo, 1), atol=1e-6)
        assert np.abs(view[0].numpy() - rgb2gray(photo.permute(1, 2, 0).numpy())).mean() < 0.06


def test_rotation_reaches_a_quarter_turn() -> None:
    assert draws_of("rotation", 2000)["rotation"].abs().max() == pytest.approx(90, abs=0.5)


# --- matching ------------------------------------------------------------------------------------


def test_match_is_where_the_curve_crosses_the_target() -> None:
    match = match_strength(lambda s: np.exp([-0.37 * s]), 0.7, math.inf)
    assert match.reached
    assert match.strength == pytest.approx(-math.log(0.7) / 0.37, rel=0.02)
    assert match.realised == pytest.approx(0.7, rel=0.005)


def test_a_match_ends_at_the_first_strength_within_a_quarter_of_a_per_cent() -> None:
    """Neither short of it nor beyond, for curves of many slopes."""
    for power in np.linspace(0.3, 3, 40):
        misses = []

        def distortion(strength: float, power: float = power, misses: list = misses) -> np.ndarray:
            misses.append(abs(strength**power / 0.7 - 1))
            return np.array([strength**power])

        assert match_strength(distortion, 0.7, math.inf).reached
        assert [miss <= 0.0025 for miss in misses].index(True) == len(misses) - 1, power


def test_a_target_out_of_reach_is_said_so() -> None:
    match = match_strength(lambda s: np.array([1 - 0.1 * s]), 0.7, strongest=1.0)
    assert (match.strength, match.reached) == (1.0, False)
    assert match.realised == pytest.approx(0.9)


@pytest.mark.parametrize("strength", [0.002, 3000.0])
def test_strengths_are_sought_far_below_and_above_what_was_chosen(strength: float) -> None:
    match = match_strength(lambda s: np.array([0.7 * s / strength]), 0.7, math.inf)
    assert match.reached
    assert match.strength == pytest.approx(strength, rel=0.005)


@pytest.mark.parametrize("distortion", ["ssim", "rmse"])
def test_all_reach_the_same_distortion(distortion: str) -> None:
    chosen = augmentations_named("noise", "blur", "perspective", "coarse_dropout")
    chosen["sharpen"] = choice_of_aug("sharpen")[0]["sharpen"]
    target = {"ssim": 0.7, "rmse": 0.08}[distortion]
    photos = sample()[:4]
    made = calibrate(photos, chosen, distortion, target, seed=3, resize="squash", parameters={})
    content = [Path(photo.file).read_bytes() for photo in photos]
    assert made.photos == [
        CalibrationPhoto(photo.id, hashlib.sha256(encoded).hexdigest(), len(encoded))
        for photo, encoded in zip(photos, content, strict=True)
    ]
    measure = {"ssim": ssim, "rmse": rmse}[distortion]
    clean = torch.stack([clean_view(decode(photo.read()), "squash") for photo in photos])
    for name, match in made.matches.items():
        part, strengths = {name: chosen[name]}, {name: [match.strength]}
        dataset = ViewDataset(photos, part, 3, "squash", strengths=strengths)
        draws = collate([dataset[index] for index in range(4)]).draws[name]
        realised = measure(augment(chosen[name], clean, draws, match.strength), clean)
        assert realised.mean().item() == pytest.approx(match.realised, rel=1e-4)
        assert match.reached == (abs(match.realised / target - 1) <= 0.005)
    assert all(match.reached for match in made.matches.values()), made.matches


def test_displacement_in_closed_form(views: Tensor) -> None:
    half = displacement(Flip(), views, {"turn": torch.zeros(8, 1)}, 1.0)
    torch.testing.assert_close(half, torch.full((8,), 112.0))  # mean of |2x − 223| over 0…223
    draws = draws_of("shift_scale_rotate", 8) | {
        "shift": torch.tensor([[0.05, 0.0]]).expand(8, 2),
        "scale": torch.ones(8, 2),
        "rotation": torch.zeros(8),
    }
    moved = displacement(augmentation_named("shift_scale_rotate"), views, draws, 1.0)
    torch.testing.assert_close(moved, torch.full((8,), 0.05 * 224), atol=0.01, rtol=0)
    elastic = draws_of("elastic", 8)
    expected = elastic["displacement"].norm(dim=1).mean((1, 2))
    moved = displacement(augmentation_named("elastic"), views, elastic, 3.0)
    torch.testing.assert_close(moved, 3 * expected, rtol=0.03, atol=0)
    assert displacement(augmentation_named("noise"), views, draws_of("noise", 8), 1.0).eq(0).all()


def test_photos_set_aside_do_not_depend_on_the_order() -> None:
    photos = [Photo(f"{i}.jpg", None) for i in range(40)]  # type: ignore[arg-type]
    chosen = {photo.id for photo in set_aside(photos, 10, seed=0)}
    assert chosen == {photo.id for photo in set_aside(photos[::-1], 10, seed=0)}
    assert len(chosen) == 10
    assert chosen != {photo.id for photo in set_aside(photos, 10, seed=1)}
    assert len(set_aside(photos[:7], 10, seed=0)) == 3


NOISE = {"noise": {"std": [0.44, 0.88]}}
NOISE_MATCH = {"strength": 0.1, "realised": 0.7, "reached": True}


def realised_ssim(mirrored: np.ndarray, ids: list[str], strength: float, seed: int) -> float:
    """The mean SSIM of photos of which those are mirrored that drew less than the strength."""
    drawn = [draw(Flip(), seed, photo, "flip", 224)["turn"].item() for photo in ids]
    return float(np.where(np.array(drawn) < strength, mirrored, 1).mean())


def test_flip_mirrors_just_the_share_that_was_matched(tmp_path: Path) -> None:
    """400 of 425 made-up photos, of five sizes of dots, are within 2 % of the target."""
    rng = np.random.default_rng(0)
    photos, mirrored = [], {}
    for size in range(5):
        blobs = ndimage.gaussian_filter(
            rng.normal(size=(48, 48, 3)), (1 + size / 8, 1 + size / 8, 0)
        )
        file = tmp_path / f"{size}.png"
        Image.fromarray(np.uint8(127 + 100 * blobs / np.abs(blobs).max())).save(file)
        view = clean_view(Image.open(file), "squash")[None]
        value = ssim(view.flip(-1), view).item()
        photos += [Photo(f"{i} of {size}", file) for i in range(85)]
        mirrored |= {photo.id: value for photo in photos[-85:]}
    for seed in range(2):
        chosen = set_aside(photos, 25, seed)
        made = calibrate(chosen, {"flip": Flip()}, "ssim", 0.7, seed, "squash", {})
        share = made.matches["flip"].strength
        expected = 0.3 / (1 - np.mean([mirrored[photo.id] for photo in chosen]))
        assert share == pytest.approx(expected, rel=0.005)
        ids = [photo.id for photo in photos if photo not in chosen]
        left = [Photo(photo, tmp_path) for photo in ids]
        strength = matched_strengths(made, {"flip": Flip()}, left, seed)["flip"]
        turned = [draw(Flip(), seed, photo, "flip", 224)["turn"].item() < strength for photo in ids]
        assert sum(turned) == round(share * 400)
        [told] = mirrored_photos(
            make_variants({"flip": Flip()}, {}, ["matched"], {"flip": strength}).values(), ids, seed
        ).values()
        assert told.tolist() == turned
        values = np.array([mirrored[photo] for photo in ids])
        assert realised_ssim(values, ids, strength, seed) == pytest.approx(0.7, rel=0.02)
        assert matched_strengths(made, {"flip": Flip()}, left[::-1], seed)["flip"] == strength


@pytest.mark.photos
def test_flip_is_at_its_target_on_photographs(photos_root: Path) -> None:
    """400 of ImageNet's, by the default calibration on another hundred."""
    photos = folder(str(photos_root / "imagenet-sample"))
    made = calibrate(set_aside(photos, 100, 0), {"flip": Flip()}, "ssim", 0.7, 0, "squash", {})
    left = left_to_measure(photos, made)
    assert len(left) == 400
    strength = matched_strengths(made, {"flip": Flip()}, left, 0)["flip"]
    total = 0.0
    for photo in left:
        turned = draw(Flip(), 0, photo.id, "flip", 224)["turn"].item() < strength
        view = clean_view(decode(photo.read()), "squash")[None] if turned else None
        total += ssim(view.flip(-1), view).item() if view is not None else 1
    assert total / 400 == pytest.approx(0.7, rel=0.02)


def test_at_other_severities_flip_stays_what_it_was() -> None:
    variants = make_variants({"flip": Flip()}, ladders(), ["paper", "1", "matched"], {"flip": 0.41})
    assert [v.strength for v in variants.values()] == [1.0, ladders()["flip"][0], 0.41]
    assert set(mirrored_photos(list(variants.values())[:2], ["a"], 0)) == set()


def test_elasticity_is_the_powers_ratio() -> None:
    """Shift ∝ s³ and 1 − SSIM ∝ s²: 1.5; flip's is 1, and so is one that cannot be told."""
    chosen = augmentations_named("noise", "flip", "blur")
    variants = make_variants(chosen, {}, ["paper", "matched"], dict.fromkeys(chosen, 0.5))
    rng = np.random.default_rng(0)
    shift, loss = rng.uniform(0.1, 0.3, (2, 9))
    rows = np.stack([shift, 1 - loss, 0.8**3 * shift, 1 - 0.8**2 * loss], axis=1)
    rows = np.vstack([rows, np.full(4, np.nan)])  # a photo without an embedding
    kept = {name: dict(enumerate(rows)) for name in ("noise@matched", "flip@matched")}
    kept |= {
        "blur@matched": {0: np.array([0, 0.7, 0, 0.8])},
        "noise@paper": {0: np.full(4, np.nan)},
    }
    found = elasticities(Measured(weaker=kept), variants, 1.0)
    assert found == pytest.approx({"noise": 1.5, "flip": 1.0, "blur": 1.0})


def test_shift_and_distortion_around_the_match(encoder: Encoder, views: Tensor) -> None:
    """Of two photos in turn, as encoded and disturbed one at a time."""
    chosen = augmentations_named("noise", "blur")
    variants = make_variants(chosen, {}, ["matched", "paper"], {"noise": 0.1, "blur": 2.0})
    draws = {name: draws_of(name, 2) for name in chosen}
    made = {"clean": views[:2]} | {
        name: augment(v.augmentation, views[:2], draws[v.name], v.strength)
        for name, v in variants.items()
    }
    with torch.inference_mode():
        embeddings = {name: encoder(view).embedding for name, view in made.items()}
        found = around_match(
            encoder, distortion_of("ssim")[0], variants, views[:2], embeddings, draws
        )
        assert found[2:].isnan().all()
        for place, (name, strength) in enumerate((("noise", 0.1), ("blur", 2.0))):
            for row in range(2):
                one = {key: value[row : row + 1] for key, value in draws[name].items()}
                for column, factor in ((0, 1.0), (2, 0.8)):
                    clean = views[row : row + 1]
                    view = augment(chosen[name], clean, one, factor * strength)
                    e, f = (encoder(v).embedding[0].double() for v in (clean, view))
                    expected = 1 - torch.cosine_similarity(e, f, dim=0)
                    assert found[place, row, column] == pytest.approx(expected.item(), abs=1e-6)
                    assert found[place, row, column + 1] == pytest.approx(
                        ssim(view, clean).item(), abs=1e-5
                    )


def calibration(*photos: CalibrationPhoto, strength: float = 0.1) -> Calibration:
    matches = {"noise": Match(strength, 0.7, True)}
    return Calibration("ssim", 0.7, 0, "squash", NOISE, list(photos), matches, undistorted=1.0)


@pytest.mark.parametrize("target", [0.0, 0.7, 2e4])
def test_a_calibration_is_read_back_as_it_was_written(target: float) -> None:
    """Also where no strength reaches the target: the nearest is then the weakest or strongest."""
    made = calibration(CalibrationPhoto("a", "00" * 32, 7), CalibrationPhoto("b", "11" * 32, 8))
    both = np.array([0.1, 0.2])
    match = match_strength(lambda strength: both + strength, target + 0.01, math.inf)
    assert match.reached == (target == 0.7)
    made = replace(made, target=target + 0.01, matches={"noise": match})
    assert typed(STORED, json.dumps(made.as_json())) == made


@cache
def composed() -> DictConfig:
    return compose_config("evaluate", ["logger=none", "aug=noise"])


def with_options(*options: str) -> DictConfig:
    """A configuration of its own: to compose one takes a quarter of a second."""
    return OmegaConf.merge(composed(), OmegaConf.from_dotlist(list(options)))  # type: ignore[return-value]


def with_file(file: Path, stored: dict[str, Any], *options: str) -> Calibration:
    file.write_text(json.dumps(stored))
    return calibrated(with_options(f"matching.file={file}", *options))


def calibrated(
    cfg: DictConfig,
    photos: Sequence[Photo] = (),
    augmentations: Mapping[str, Augmentation] | None = None,
) -> Calibration:
    config = plain(cfg)
    options = read_options(EvaluateOptions, config)
    return calibration_for(options, photos, augmentations or {}, config["aug"], "squash")


@pytest.mark.parametrize("strength", [0, -5, 1e300, 2**12 + 1, math.nan, math.inf])
def test_strengths_that_no_calibration_can_find_are_refused(
    tmp_path: Path, strength: float
) -> None:
    file = tmp_path / "calibration.json"
    stored = calibration(CalibrationPhoto("a"), strength=strength).as_json()
    with pytest.raises(UserError, match=r"calibration\.json is damaged: the strength of noise is"):
        with_file(file, stored)


@pytest.mark.parametrize(
    "change",
    [
        {"matches": {"noise": {"strength": 0.1, "realised": 0.9, "reached": True}}},
        {"matches": {"noise": {"strength": "much", "realised": 0.7, "reached": True}}},
        {"matches": [1]},
        {"matches": {"noise": NOISE_MATCH | {"distortions": [0.7, 0.7]}}},
        {"matches": {"noise": NOISE_MATCH | {"distortions": ["much"]}}},
        {"matches": {"noise": NOISE_MATCH | {"distortions": [math.nan]}}},
        {"distortion": "beauty"},
        {"photos": [{"id": 1, "sha256": "00", "length": 1}]},
        {"photos": [{"id": "a", "sha256": ["00"], "length": 1}]},
        {"photos": 3},
        {"parameters": {"noise": 1}},
        {"parameters": {}},
        {"target": None},
        {"target": -1},
        {"target": 0, "matches": {"noise": {"strength": 1, "realised": 0, "reached": True}}},
    ],
)
def test_a_calibration_of_any_other_shape_is_one_line(
    tmp_path: Path, change: dict[str, object]
) -> None:
    stored = calibration(CalibrationPhoto("a", "00" * 32, 7)).as_json() | change
    with pytest.raises(UserError, match=r"calibration\.json (is damaged|is not|lacks)") as error:
        with_file(tmp_path / "calibration.json", stored)
    assert "\n" not in str(error.value)


def test_a_calibration_is_a_file_of_json(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    cfg = with_options(f"matching.file={file}")
    for content in ("", "[]", "3", "[" * 10**6, '"text"'):
        file.write_text(content)
        with pytest.raises(UserError, match=r"is not a calibration\.json of clipshift"):
            calibrated(cfg)
    file.unlink()
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(file)
        with pytest.raises(UserError, match=r"is not a calibration\.json .*not a regular file"):
            calibrated(cfg)
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(UserError, match="no calibration"):
        calibrated(cfg)


def test_options_that_contradict_a_stored_calibration_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    made = calibration(CalibrationPhoto("a", "00" * 32, 7), CalibrationPhoto("b", "11" * 32, 8))
    stored = made.as_json()
    for same in ([], ["matching.target=0.7", "matching.distortion=ssim", "matching.photos=2"]):
        assert with_file(file, stored, *same) == made
    for other in ("target=0.5", "distortion=rmse", "photos=100"):
        with pytest.raises(UserError, match=rf"matching\.{other}, but .* was made with") as error:
            with_file(file, stored, f"matching.{other}")
        assert "\n" not in str(error.value)


def test_without_options_the_match_is_at_ssim_07(tmp_path: Path) -> None:
    cfg = with_options("severity=matched")
    augmentations, _ = make_augmentations(plain(cfg.aug))
    made = calibrated(cfg, sample()[:4], augmentations)
    assert (made.distortion, made.target, len(made.photos)) == ("ssim", 0.7, 2)
    cfg.matching.update({"distortion": "rmse", "target": 0.1, "photos": 1})
    made = calibrated(cfg, sample()[:4], augmentations)
    assert (made.distortion, made.target, len(made.photos)) == ("rmse", 0.1, 1)


def test_copies_of_calibration_photos_are_left_out_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    for name in ("a.jpg", "copies/b.jpg"):
        (tmp_path / name).write_bytes(b"calibrated on")
    (tmp_path / "c.jpg").write_bytes(b"as long as it")
    (tmp_path / "d.jpg").write_bytes(b"another")
    used = CalibrationPhoto("a.jpg", hashlib.sha256(b"calibrated on").hexdigest(), 13)
    photos = [*folder(str(tmp_path)), Photo("gone.jpg", tmp_path / "gone.jpg")]
    left = left_to_measure(photos, calibration(used))
    assert [photo.id for photo in left] == ["c.jpg", "d.jpg", "gone.jpg"]
    with pytest.raises(UserError, match="all 2 photos are calibration photos or copies"):
        left_to_measure([photos[0], *folder(str(tmp_path / "copies"))], calibration(used))


def test_calibrations_of_earlier_versions_know_ids_alone(tmp_path: Path) -> None:
    stored = calibration().as_json() | {"photos": ["chelsea.png", "coffee.png"]}
    made = with_file(tmp_path / "calibration.json", stored)
    left = left_to_measure(sample(), made)
    assert {photo.id for photo in sample()} - {photo.id for photo in left} == set(stored["photos"])
    assert any("earlier version" in note for note in calibration_notes(made, 2))
    new = calibration(CalibrationPhoto("a", "00" * 32, 7))
    assert not any("earlier version" in note for note in calibration_notes(new, 2))


@pytest.mark.usefixtures("without_figures")
def test_a_calibration_used_again_from_another_root_leaks_no_photo(
    hub_folder: Path, tmp_path: Path
) -> None:
    """With ``data.root`` one level lower, all ids are others."""
    for photo in sample()[:8]:
        (tmp_path / "photos" / "below").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo.file, tmp_path / "photos" / "below")
    options = [
        "logger=none", "trainer=cpu", "cache=off", f"model.checkpoint={hub_folder}",
        "aug=[noise,flip]", "metric=[cosine_similarity,ssim]", "severity=matched", "data=folder",
        "data.num_workers=0", "prompts=none",
    ]  # fmt: skip
    file = tmp_path / "first" / "calibration.json"
    for run, more in (
        ("first", [f"data.root={tmp_path}/photos"]),
        ("second", [f"data.root={tmp_path}/photos/below", f"matching.file={file}"]),
    ):
        evaluate(compose_config("evaluate", [*options, *more]), tmp_path / run)
    stored = json.loads(file.read_text())
    assert len(stored["photos"]) == 4
    used = {Path(photo["id"]).name for photo in stored["photos"]}
    for run in ("first", "second"):
        shift = pd.read_parquet(tmp_path / run / "shift.parquet")
        assert {Path(photo).name for photo in shift["photo"]} == {p.id for p in sample()[:8]} - used
        page = (tmp_path / run / "report.html").read_text()
        assert "are not measured: 4 here." in page
        made = read_run(tmp_path / run)
        summary = made.summary.set_index(["augmentation", "measure"])
        matching = made.info.matching
        assert (matching.distortion, matching.target, matching.photos) == ("ssim", 0.7, 4)
        assert matching.elasticity.keys() == {"noise", "flip"}
        for row in made.ranking.itertuples():
            realised = summary.loc[(row.augmentation, "ssim")]
            told = [row.distortion, row.distortion_low, row.distortion_high]
            assert told == realised[["mean", "ci_low", "ci_high"]].tolist()
            low, high = (f"{end:.3f}" for end in told[1:])
            assert f'>{row.distortion:.3f} <span class="ci">[{low}, {high}]</span></td><td' in page
        assert terminal.measure_table(made.summary, made, 80)[0][3] == "SSIM"
