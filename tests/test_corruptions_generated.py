"""Generated corruptions: the package's own pixels, under keyed seeds."""

import random
from pathlib import Path

import imagecorruptions
import numpy as np
import pytest
import torch
from imagecorruptions import get_corruption_names
from scipy.stats import ks_2samp
from support.commands import run_code
from torch import Tensor

from clipshift import measure_shift
from clipshift.augment import Flip
from clipshift.augment.corruptions import Corruption
from clipshift.augment.keyed import augment, draw
from clipshift.choices import read_choice
from clipshift.data.dataset import ViewDataset, collate
from clipshift.data.sources import folder, sample
from clipshift.errors import UserError
from clipshift.parts import make_augmentations
from clipshift.results.corruptions import ALEXNET_ERROR

NAMES = get_corruption_names("all")
LEVEL = {name: 1 + place % 5 for place, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def clean(views: Tensor) -> Tensor:
    """Two views of 96 × 96 pixels."""
    return views[:2, :, 60:156, 60:156]


def views_of(name: str, clean: Tensor, seeds: list[int]) -> np.ndarray:
    draws = {"seed": torch.tensor(seeds)[:, None]}
    return (augment(Corruption(name), clean, draws, LEVEL[name]) * 255).round().byte().numpy()


ELSEWHERE = """
import sys
import numpy as np, torch
from imagecorruptions import get_corruption_names
from clipshift.augment.corruptions import Corruption
clean, draws = torch.from_numpy(np.load("clean.npy")), {"seed": torch.tensor([[5], [2**63 - 1]])}
jobs = reversed(list(zip(get_corruption_names("all"), map(int, sys.argv[1:]), strict=True)))
views = {n: Corruption(n).apply(clean, draws, level).mul(255).byte().numpy() for n, level in jobs}
np.savez("views.npz", **views)
"""


def test_the_names_are_the_packages() -> None:
    assert list(ALEXNET_ERROR) == get_corruption_names("common")
    assert list(read_choice("aug", "corruptions")) == NAMES


def test_pixels_are_the_packages_under_the_same_seed(clean: Tensor) -> None:
    pixels = (clean * 255).byte().permute(0, 2, 3, 1).numpy()
    for name in NAMES:
        for level in range(1, 6):
            draws = {"seed": torch.tensor([[7], [2**62 + 1]])}
            views = augment(Corruption(name), clean, draws, level).permute(0, 2, 3, 1)
            for image, view, seed in zip(pixels, views, (7, 2**62 + 1), strict=True):
                random.seed(seed)
                np.random.seed([seed % 2**32, seed // 2**32])
                own = {"seed": seed} if name in ("glass_blur", "impulse_noise") else {}
                expected = imagecorruptions.corrupt(image, level, name, **own)
                assert np.array_equal(view.numpy() * 255, expected), (name, level)


def test_views_are_the_same_in_any_company_order_and_process(clean: Tensor, tmp_path: Path) -> None:
    together = {name: views_of(name, clean, [5, 2**63 - 1]) for name in NAMES}
    for name in reversed(NAMES):
        alone = views_of(name, clean[1:], [2**63 - 1])
        assert np.array_equal(alone[0], together[name][1]), name
    np.save(tmp_path / "clean.npy", clean)
    done = run_code(ELSEWHERE, *map(str, LEVEL.values()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    elsewhere = np.load(tmp_path / "views.npz")
    assert all(np.array_equal(elsewhere[name], views) for name, views in together.items())


def test_a_run_has_their_errors_and_refuses_other_severities() -> None:
    made, ladders = make_augmentations(read_choice("aug", "corruptions"))
    assert [(part.corruption, ladders[name]) for name, part in made.items()] == [
        (name, [1, 2, 3, 4, 5]) for name in NAMES
    ]
    fog = {"fog": made["fog"]}
    with pytest.raises(UserError, match=r"fog has no severity=paper: use severity=\[1,2,3,4,5\]"):
        measure_shift(None, "tiny", fog, limit=2)
    with pytest.raises(UserError, match="five levels and no strengths between"):
        measure_shift(None, "tiny", fog, "matched", limit=4)
    with pytest.raises(UserError, match="rain is out of range: it must be one of gaussian_noise"):
        Corruption("rain")
    fast = {name: Corruption("pixelate") for name in ALEXNET_ERROR}
    photos, labels = [photo.file for photo in sample()[:2]], ["cat", "rocket"]
    measures = {"labels": labels, "measures": "cosine_similarity"}
    run = measure_shift(photos, "tiny", fast, [1, 2, 3, 4, 5], **measures).run
    errors = run.corruption_error.pivot(index="augmentation", columns="severity", values="error")
    expected = [errors.loc[name].mean() / ALEXNET_ERROR[name] for name in ALEXNET_ERROR]
    assert run.info.corruption_error.mce == pytest.approx(np.mean(expected))
    beside = {"fog": Corruption("pixelate", level=2), "flip": Flip()}
    of_level = measure_shift(photos, "tiny", beside, **measures).run.summary
    keys = ["augmentation", "severity", "measure"]
    [at_level], [second] = (
        table.set_index(keys).loc[("fog", severity, "cosine_similarity"), ["mean"]]
        for table, severity in ((of_level, "paper"), (run.summary, "2"))
    )
    assert at_level == second


@pytest.mark.photos
@pytest.mark.slow
def test_the_views_are_distributed_as_the_packages(photos_root: Path) -> None:
    """Root mean square error to the clean view, and between a photo's draws: 60 photos × 5."""
    photos = folder(str(photos_root / "imagenet-sample"))[:60]
    dataset = ViewDataset(photos, {}, 0, "squash")
    clean = collate([dataset[index] for index in range(60)]).clean
    pixels = (clean * 255).byte().permute(0, 2, 3, 1).numpy()
    p = {}
    for name in NAMES:
        part, level = Corruption(name), LEVEL[name]
        values: list[list[np.ndarray]] = [[], [], [], []]
        before = [pixels, pixels]
        for seed in range(5):
            drawn = [draw(part, seed, photo.id, name, 224)["seed"] for photo in photos]
            views = augment(part, clean, {"seed": torch.stack(drawn)}, level)
            ours = (views * 255).round().byte().permute(0, 2, 3, 1).numpy()
            theirs = np.stack([imagecorruptions.corrupt(x, level, name) for x in pixels])
            for place, view in enumerate((ours, theirs)):
                values[place].append(error(view, pixels))
                values[2 + place].append(error(view, before[place]))
            before = [ours, theirs]
        to_clean, between = values[:2], [errors[1:] for errors in values[2:]]
        p[name] = [float(ks_2samp(*map(np.ravel, pair)).pvalue) for pair in (to_clean, between)]
        print(name, level, *np.round(p[name], 3), flush=True)
    assert min(map(min, p.values())) > 0.05 / (2 * len(NAMES)), p


def error(views: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square errors of uint8 pictures, (N, H, W, 3)."""
    return np.sqrt(((views.astype(np.float32) - others) ** 2).mean(axis=(1, 2, 3)))
