"""Measures of distortion that strengths can be matched by, and rankings by two of them."""

import sys
from pathlib import Path

import numpy as np
import piq
import pytest
import torch
from kornia.filters import gaussian_blur2d
from scipy.stats import kendalltau
from support.augmentations import augmentations_named
from torch import Tensor
from torch.utils.data import default_collate
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanAbsoluteError

from clipshift import measure_shift
from clipshift.api import Result
from clipshift.augment.keyed import augment, draw
from clipshift.comparison.sweep import Sweep
from clipshift.comparison.sweep_report import equaliser_sections
from clipshift.data.dataset import ViewDataset, clean_view, collate
from clipshift.data.photos import decode
from clipshift.data.sources import folder, sample
from clipshift.errors import UserError
from clipshift.evaluate.calibration import calibrate, distortion_of
from clipshift.measure.functional import ssim
from clipshift.measure.perceptual import Perceptual

CHOSEN = ("noise", "blur", "perspective")


class PixelError(MeanAbsoluteError):
    """Of pixels."""

    space = "pixels"


@pytest.mark.parametrize("kind", ["gmsd", "mdsi", "haarpsi", "vsi"])
def test_perceptual_measures_are_piqs_and_know_a_clean_view(kind: str, views: Tensor) -> None:
    clean = views[:3, :, ::2, ::2]
    view = gaussian_blur2d(clean, (5, 5), (1.0, 1.0))
    measure, theirs = Perceptual(kind), getattr(piq, kind)
    expected = [theirs(*pair).item() for pair in zip(view.split(1), clean.split(1), strict=True)]
    assert measure(view, clean).tolist() == expected
    assert measure.measure(view[1:2], clean[1:2]).item() == expected[1]
    same = measure.measure(clean, clean)
    torch.testing.assert_close(same, torch.full((3,), float(measure.facts.unchanged or 0)))
    worse = measure.measure(gaussian_blur2d(clean, (13, 13), (2.0, 2.0)), clean).mean()
    assert (worse > np.mean(expected)) == (measure.facts.better == "lower")


@pytest.mark.parametrize("kind", ["gmsd", "haarpsi"])
def test_the_target_is_the_median_at_an_ssim_of_07_and_is_reached(kind: str) -> None:
    photos, chosen = sample()[:3], augmentations_named("noise", "blur")
    clean = torch.stack([clean_view(decode(photo.read()), "squash") for photo in photos])

    def mean(name: str, strength: float) -> float:
        draws = default_collate([draw(chosen[name], 3, p.id, name, 224) for p in photos])
        view = augment(chosen[name], clean, draws, strength)
        return getattr(piq, kind)(view, clean, reduction="none").mean().item()

    by_ssim = calibrate(photos, chosen, "ssim", 0.7, 3, "squash", {})
    assert all(match.reached for match in by_ssim.matches.values())
    median = np.median([mean(name, match.strength) for name, match in by_ssim.matches.items()])
    made = calibrate(photos, chosen, kind, None, 3, "squash", {})
    assert made.target == pytest.approx(median, rel=5e-3)
    assert made.undistorted == {"gmsd": 0, "haarpsi": 1}[kind]
    for name, match in made.matches.items():
        assert match.reached
        assert mean(name, match.strength) == pytest.approx(made.target, rel=6e-3)


@pytest.fixture(scope="module")
def results(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Runs of the same photos, matched by SSIM, and by a measure of one's own."""
    top, photos = tmp_path_factory.mktemp("runs"), [photo.file for photo in sample()[:8]]
    measures = {"cosine_similarity": "cosine_similarity", "mine": PixelError()}
    return {
        name: measure_shift(
            photos, hub_folder, list(CHOSEN), "matched", measures=measures, folder=top / name,
            matching_distortion=name, matching_photos=3, progress=False,
        )
        for name in ("ssim", "mine")
    }  # fmt: skip


def test_ones_own_measure_is_matched_and_its_file_is_of_no_other(
    results: dict[str, Result], hub_folder: Path, tmp_path: Path
) -> None:
    run = results["mine"].run
    assert run.info.matching is not None
    assert run.matched_by == "mine"
    target = run.info.matching.target
    realised = run.ranking.set_index("augmentation")["distortion"]
    assert (realised / target - 1).abs().max() < 0.5  # of five other photos
    file = run.folder / "calibration.json"
    options = {"matching_file": str(file), "folder": tmp_path / "run", "progress": False}
    photos = [photo.file for photo in sample()[:8]]
    for measures, words in (
        (
            {"mine": PeakSignalNoiseRatio(1.0)},
            "matching.distortion=mine is not a measure of pixels",
        ),
        ("ssim", "matching.distortion=mine is not a measure of pixels"),
        ({"mine": Perceptual("gmsd")}, "calibration.json was made with another mine"),
    ):
        with pytest.raises(UserError, match=words):
            measure_shift(photos, hub_folder, list(CHOSEN), "matched", measures=measures, **options)


def test_a_sweep_shows_both_rankings_side_by_side(results: dict[str, Result]) -> None:
    runs = {str(job): result.run for job, result in enumerate(results.values())}
    overrides = {str(job): {"matching.distortion": name} for job, name in enumerate(results)}
    [section] = equaliser_sections(Sweep(Path(), overrides, runs))
    [figure] = section.figures
    means = [run.ranking.set_index("augmentation")["shift"].sort_index() for run in runs.values()]
    tau = kendalltau(*means).statistic
    assert f"Kendall’s τ between the two: {tau:.2f} [" in figure.caption
    drawn = next(iter(figure.drawn["datasets"].values()))
    assert {(row["severity"], row["augmentation"]): row["rank"] for row in drawn} == {
        (name, row.augmentation): row.rank
        for name, run in zip(results, runs.values(), strict=True)
        for row in run.ranking.itertuples()
    }
    assert equaliser_sections(Sweep(Path(), {"0": overrides["0"]}, {"0": runs["0"]})) == []


def test_a_distortion_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cosine_similarity", "beauty", "full", "../aug/noise"):
        with pytest.raises(UserError, match=f"matching.distortion={name} is not a measure of pix"):
            distortion_of(name)
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(UserError, match=r"gmsd requires piq: pip install 'clipshift\[piq\]'"):
        distortion_of("gmsd")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # without weights
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nor a network
    for name, weights in (("lpips", "alexnet"), ("dists", "vgg16")):
        with pytest.raises(UserError, match=rf"weights of {name}: .*{weights}.*{tmp_path}"):
            distortion_of(name)


@pytest.mark.photos
def test_a_shift_by_one_pixel_costs_as_much_ssim_as_a_visible_blur(photos_root: Path) -> None:
    dataset = ViewDataset(folder(str(photos_root / "imagenet-sample"))[:60], {}, 0, "squash")
    clean = collate([dataset[index] for index in range(60)]).clean
    moved = torch.cat([clean[..., :1], clean[..., :-1]], dim=-1)
    blurred = gaussian_blur2d(clean, (13, 13), (1.5, 1.5))
    assert abs(ssim(moved, clean).mean() - ssim(blurred, clean).mean()) < 0.02
