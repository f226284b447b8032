"""Augmentations against numpy, scipy, torchvision and skimage, and their draws."""

import math
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from scipy import ndimage, stats
from skimage.transform import ProjectiveTransform, warp
from support.augmentations import EXTENDED, PAPER, augmentation_named, draws_of

from clipshift.augment.geometric import Elastic, Perspective, ShiftScaleRotate
from clipshift.augment.keyed import Augmentation, MovingAugmentation, augment, draw, keyed_generator
from clipshift.augment.pixel import (
    JPEG,
    Blur,
    BrightnessContrast,
    CoarseDropout,
    ColorJitter,
    Grayscale,
    MotionBlur,
    Noise,
    Pixelate,
    adjust_contrast,
)
from clipshift.errors import UserError

SIZE = 224
DRAWS = 2000
INNER = np.s_[..., 24:-24, 24:-24]  # away from where interpolation meets the border


def looks_uniform(values: torch.Tensor, low: float, high: float) -> bool:
    spread = stats.uniform(low, high - low)
    return stats.kstest(values.flatten().numpy(), spread.cdf).pvalue > 1e-3


def equally_often(values: np.ndarray, choices: list[int]) -> bool:
    counts = [(values == choice).sum() for choice in choices]
    return sum(counts) == len(values) and stats.chisquare(counts).pvalue > 1e-3


# --- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameter", "low", "high"),
    [
        ("noise", "std", 0.44, 0.88),
        ("blur", "sigma", 0.5, 3.0),
        ("color_jitter", "brightness", 0.8, 1.2),
        ("color_jitter", "contrast", 0.8, 1.2),
        ("color_jitter", "saturation", 0.8, 1.2),
        ("color_jitter", "hue", -0.2, 0.2),
        ("shift_scale_rotate", "shift", -0.0625, 0.0625),
        ("shift_scale_rotate", "scale", 0.9, 1.1),
        ("shift_scale_rotate", "rotation", -15, 15),
        ("perspective", "scale", 0.05, 0.1),
        ("brightness_contrast", "brightness", -0.2, 0.2),
        ("brightness_contrast", "contrast", -0.2, 0.2),
    ],
)
def test_uniform_parameters(name: str, parameter: str, low: float, high: float) -> None:
    size = 8 if name == "noise" else SIZE
    assert looks_uniform(draws_of(name, DRAWS, size=size)[parameter], low, high)


@pytest.mark.parametrize("name", ["blur", "coarse_dropout", "jpeg", "pixelate", "flip"])
def test_what_is_counted_is_dithered_uniformly(name: str) -> None:
    all_draws = [draw(augmentation_named(name), 0, f"{i}.jpg", name, 32) for i in range(400)]
    offsets = torch.cat([draws["turn" if name == "flip" else "offset"] for draws in all_draws])
    assert looks_uniform(offsets, 0, 1)


@pytest.mark.parametrize(
    ("kind", "parameters", "least", "most"),
    [
        (Noise, [[0, 1]], {0: [-0.01, 1]}, {0: [0, math.inf]}),
        (Blur, [[1, 3], [0.001, 1]], {0: [0], 1: [0, 1]}, {0: [1, 2]}),
        (Blur, [[3], [1, 1]], {0: [-1]}, {0: [3.0]}),
        (Blur, [[3], [1, 1]], {0: []}, {0: 3}),
        (
            ColorJitter,
            [[0, 1], [0, 1], [0, 1], [-0.5, 0.5]],
            {0: [-0.1, 1], 1: [-0.1, 1], 2: [-0.1, 1], 3: [-0.51, 0]},
            {3: [0, 0.51]},
        ),
        (BrightnessContrast, [[-1, 1], [-1, 9]], {0: [-1.1, 0], 1: [-1.1, 0]}, {0: [0, 1.1]}),
        (CoarseDropout, [[0, 0], 1], {0: [-1, 2], 1: 0}, {0: [2, 1], 1: 225}),
        (CoarseDropout, [[2, 3], 224], {0: [2]}, {0: [2, 3.0]}),
        (JPEG, [[1, 100]], {0: [0.9, 50]}, {0: [50, 100.1]}),
        (Pixelate, [[1, 224]], {0: [0.9, 4]}, {0: [4, 225]}),
        (MotionBlur, [[0, 224]], {0: [-0.1, 4]}, {0: [4, 225]}),
        (Grayscale, [[0, 1]], {0: [-0.1, 1]}, {0: [0, 1.1]}),
        (
            ShiftScaleRotate,
            [[-1, 1], [0.01, 100], [-360, 360]],
            {0: [-1.1, 0], 1: [0, 1], 2: [-361, 0]},
            {0: [0, 1.1], 1: [1, 101], 2: [0, 361]},
        ),
        (Elastic, [0.1, 224], {0: 0, 1: 0}, {1: 225}),
        (Perspective, [[0, 0.45]], {0: [-0.01, 0.1]}, {0: [0, 0.46]}),
    ],
)
def test_parameters_end_where_they_have_no_meaning(
    kind: Callable[..., Augmentation], parameters: list, least: dict, most: dict
) -> None:
    kind(*parameters)
    for position, value in (*least.items(), *most.items()):
        with pytest.raises(UserError):
            kind(*(value if position == i else given for i, given in enumerate(parameters)))


@pytest.mark.parametrize("name", EXTENDED)
def test_without_a_strength_it_is_what_was_drawn(name: str, views: torch.Tensor) -> None:
    augmentation, draws = augmentation_named(name), draws_of(name, 2)
    if name == "grayscale":
        draws = {"amount": torch.tensor([[0.2], [0.4]])}  # of which twice as much is not all
    for change in ("apply", *["move_back"] * isinstance(augmentation, MovingAugmentation)):
        function = getattr(augmentation, change)
        assert torch.equal(function(views[:2], draws), function(views[:2], draws, 1.0))
    whole = augmentation.apply(views[:2], draws, 1.0).clamp(0, 1)
    assert torch.equal(augment(augmentation, views[:2], draws), whole)


def test_discrete_parameters() -> None:
    assert equally_often(draws_of("blur", DRAWS)["side"].numpy().ravel(), [3, 5, 7])
    dropout = draws_of("coarse_dropout", DRAWS, size=32)
    assert equally_often(dropout["count"].numpy().ravel(), [6, 7, 8])
    orders = draws_of("color_jitter", DRAWS)["order"].numpy()
    assert equally_often(orders @ [64, 16, 4, 1], sorted(set(orders @ [64, 16, 4, 1])))
    assert len(set(map(tuple, orders))) == math.factorial(4)


def test_holes_lie_anywhere_and_are_square() -> None:
    draws = draws_of("coarse_dropout", 300)
    untouched = torch.full((300, 3, SIZE, SIZE), -1.0)
    mask = (augmentation_named("coarse_dropout").apply(untouched, draws) >= 0)[:, 0].numpy()
    covered = mask.mean(axis=(1, 2)) * SIZE**2 / 16**2
    assert covered.max() <= 8
    assert covered.min() > 3  # overlaps are rare
    lone = [m for m in mask if ndimage.label(m)[1] >= 6]
    for labels, count in (ndimage.label(m) for m in lone[:50]):
        boxes = ndimage.find_objects(labels, count)
        sides = [(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes]
        assert sides.count((16, 16)) >= 4
    fill = draws_of("coarse_dropout", 3)["fill"]
    assert looks_uniform(fill, 0, 1)


def test_noise_is_standard_normal_and_independent() -> None:
    field = draws_of("noise", 8)["field"].numpy()
    assert stats.kstest(field[0].ravel(), stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(field[0, 0].ravel(), field[0, 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(field[0, :, :, :-1].ravel(), field[0, :, :, 1:].ravel())[0, 1]) < 0.02


def test_perspective_moves_are_half_normal() -> None:
    draws = draws_of("perspective", DRAWS)
    normalised = (draws["inward"] / draws["scale"][..., None]).numpy().ravel()
    assert stats.kstest(normalised, stats.halfnorm.cdf).pvalue > 1e-3


def test_elastic_displacement_is_smoothed_noise() -> None:
    """Against scipy's Gaussian filter, and the closed form of the standard deviation it leaves."""
    rng = np.random.default_rng(3)
    elastic = augmentation_named("elastic")
    got = elastic.sample(np.random.default_rng(3), SIZE)["displacement"].numpy()
    noise = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    expected = 30 * np.stack(
        [ndimage.gaussian_filter(n.astype(float), 60, mode="constant", truncate=3) for n in noise]
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)
    centre = draws_of("elastic", 400)["displacement"][:, :, SIZE // 2, SIZE // 2]
    assert centre.std().item() == pytest.approx(30 / (2 * math.sqrt(math.pi) * 60), rel=0.15)


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PAPER if n != "flip"])
def test_draws_depend_on_the_key_alone(name: str) -> None:
    augmentation = augmentation_named(name)

    def drawn(seed: int, photo: str, as_name: str) -> torch.Tensor:
        drawn = draw(augmentation, seed, photo, as_name, SIZE)
        return torch.cat([drawn[key].flatten().double() for key in sorted(drawn)])

    first = drawn(5, "a.jpg", name)
    np.random.rand(10)
    torch.rand(10)
    assert torch.equal(first, drawn(5, "a.jpg", name))
    for other in (drawn(6, "a.jpg", name), drawn(5, "b.jpg", name), drawn(5, "a.jpg", "else")):
        assert not torch.equal(first, other)
    assert not torch.equal(first, drawn(5 + 2**32, "a.jpg", name))


@pytest.mark.parametrize("between", ["", " ", "/", "@", ","])
def test_seed_photo_and_augmentation_do_not_run_into_each_other(between: str) -> None:
    def drawn(seed: int, photo: str, name: str) -> list[float]:
        return keyed_generator(seed, photo, name).random(4).tolist()

    assert drawn(0, f"a{between}b", "c") != drawn(0, "a", f"b{between}c")
    assert drawn(12, "3.jpg", "c") != drawn(1, "23.jpg", "c")


def test_keys_have_128_random_bits() -> None:
    """Every bit of the generator's key is set for about half of the photos, and no two go together.

    With 32 of them, two of some tens of thousands of photos would share all random numbers.
    """
    photos = [keyed_generator(0, f"{i}.jpg", "noise").bit_generator for i in range(400)]
    keys = np.stack([photo.state["state"]["key"] for photo in photos])  # type: ignore[call-overload]
    bits = np.unpackbits(keys.view(np.uint8), axis=1)
    assert bits.shape == (400, 128)
    assert (np.abs(bits.mean(axis=0) - 0.5) < 0.125).all()  # five standard deviations
    assert np.abs(np.corrcoef(bits.T) - np.eye(128)).max() < 0.3  # six


@pytest.mark.parametrize(
    ("one", "other", "alike"), [(18045, 148026, slice(4)), (54486, 81434, slice(-4, None))]
)
def test_photos_that_share_32_bits_of_their_hash_share_no_draws(
    one: int, other: int, alike: slice
) -> None:
    """The first two of 0.jpg, 1.jpg, … whose hashes agree in four bytes."""
    hashes = [
        blake2b(f"0\0{i}.jpg\0noise".encode(), digest_size=16).digest()[alike] for i in (one, other)
    ]
    assert hashes[0] == hashes[1]
    drawn = [keyed_generator(0, f"{i}.jpg", "noise").random(4).tolist() for i in (one, other)]
    assert drawn[0] != drawn[1]


def test_a_stronger_noise_is_the_same_noise_stronger() -> None:
    noise = augmentation_named("noise")
    weak, strong = type(noise)((0.1, 0.1)), type(noise)((0.3, 0.3))
    one, other = (draw(a, 0, "a.jpg", "noise", SIZE) for a in (weak, strong))
    assert torch.equal(one["field"], other["field"])


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
def test_views_do_not_depend_on_the_batch_or_the_threads(name: str, views: torch.Tensor) -> None:
    draws = draws_of(name, len(views))
    together = augment(augmentation_named(name), views, draws)
    assert together.min() >= 0
    assert together.max() <= 1
    assert not torch.equal(together, views)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row in range(len(views)):
            alone = {key: value[row : row + 1] for key, value in draws.items()}
            view = augment(augmentation_named(name), views[row : row + 1], alone)
            assert torch.equal(view[0], together[row])
    finally:
        torch.set_num_threads(threads)


def applied(name: str, views: torch.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    draws = draws_of(name, len(views))
    got = augment(augmentation_named(name), views, draws).numpy()
    return got, {key: value.numpy() for key, value in draws.items()}


def test_noise_flip_brightness_contrast_and_dropout_by_their_formulas(views: torch.Tensor) -> None:
    x = views.numpy()
    got, d = applied("noise", views)
    expected = np.clip(x + d["std"].reshape(-1, 1, 1, 1) * d["field"], 0, 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    got, _ = applied("flip", views)
    np.testing.assert_array_equal(got, x[..., ::-1])
    got, d = applied("brightness_contrast", views)
    a, b = d["contrast"].reshape(-1, 1, 1, 1), d["brightness"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(got, np.clip(x * (1 + a) + b, 0, 1), atol=1e-6)
    got, d = applied("coarse_dropout", views)
    hole = np.zeros(x.shape, bool)
    for photo, corners, count in zip(hole, d["corners"], d["count"], strict=True):
        for top, left in corners[: int(count[0])].astype(int):
            photo[:, top : top + 16, left : left + 16] = True
    np.testing.assert_array_equal(got[hole], d["fill"][hole])
    np.testing.assert_array_equal(got[~hole], x[~hole])


def test_blur_is_a_truncated_gaussian(views: torch.Tensor) -> None:
    got, d = applied("blur", views)
    for row, (sigma, side) in enumerate(zip(d["sigma"].ravel(), d["side"].ravel(), strict=True)):
        offsets = np.arange(side) - side // 2
        weights = np.exp(-(offsets**2) / (2 * sigma**2))
        expected = views[row].double().numpy()
        for axis in (1, 2):
            expected = ndimage.convolve1d(expected, weights / weights.sum(), axis, mode="mirror")
        np.testing.assert_allclose(got[row], expected, atol=2e-6)


def test_color_jitter_is_torchvisions(views: torch.Tensor) -> None:
    got, d = applied("color_jitter", views)
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    names = ("brightness", "contrast", "saturation", "hue")
    for row in range(len(views)):
        expected = views[row]
        for step in d["order"][row]:
            expected = steps[step](expected, float(d[names[step]][row]))
        # torchvision's luma weights end at four digits, and hue amplifies the difference
        assert np.abs(got[row] - expected.numpy()).mean() < 1e-3


def test_a_contrast_far_above_one_is_cut_off_before_the_next_step(views: torch.Tensor) -> None:
    contrasted = adjust_contrast(views, torch.full((8,), 3.0))
    torch.testing.assert_close(contrasted, TF.adjust_contrast(views, 3.0), atol=1e-3, rtol=0)


def test_shift_scale_rotate_by_an_affine_map(views: torch.Tensor) -> None:
    got, d = applied("shift_scale_rotate", views)
    centre = np.array([(SIZE - 1) / 2] * 2)
    for row in range(len(views)):
        angle = np.deg2rad(d["rotation"][row])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = turn * d["scale"][row][None]  # x → R · diag(scale) · (x − c) + c + shift
        inverse = np.linalg.inv(forward)
        offset = centre - inverse @ (centre + d["shift"][row] * SIZE)
        swap = np.s_[::-1]  # scipy indexes rows first
        expected = np.stack(
            [
                ndimage.affine_transform(
                    channel, inverse[swap, swap], offset[swap], order=1, mode="grid-constant"
                )
                for channel in views[row].double().numpy()
            ]
        )
        assert np.abs(got[row] - expected)[INNER].max() < 1e-3
        assert (got[row] == 0).mean() == pytest.approx((expected == 0).mean(), abs=0.02)


def test_elastic_by_map_coordinates(views: torch.Tensor) -> None:
    got, d = applied("elastic", views)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for row in range(len(views)):
        x, y = d["displacement"][row]
        expected = np.stack(
            [
                ndimage.map_coordinates(c, [rows + y, columns + x], order=1, mode="grid-constant")
                for c in views[row].double().numpy()
            ]
        )
        np.testing.assert_allclose(got[row], expected, atol=1e-4)


def test_perspective_by_a_homography(views: torch.Tensor) -> None:
    got, d = applied("perspective", views)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    for row in range(len(views)):
        inner = (corners + d["inward"][row] * (1 - 2 * corners)) * (SIZE - 1)
        to_inner = ProjectiveTransform()
        assert to_inner.estimate(corners * (SIZE - 1), inner)
        image = views[row].permute(1, 2, 0).double().numpy()
        expected = warp(image, to_inner, order=1).transpose(2, 0, 1)
        assert np.abs(got[row] - expected)[INNER].max() < 2e-3


def test_a_line_longer_than_the_photo_ends_at_its_mirrored_border() -> None:
    """The mean along the line is still within the photo's values."""
    images = torch.rand(1, 3, 16, 16)
    draws = {"length": torch.tensor([[30.0]]), "angle": torch.tensor([[0.4]])}
    view = MotionBlur((30.0, 30.0)).apply(images, draws, strength=50.0)
    assert images.min() <= view.min() <= view.max() <= images.max()
