"""Measures against second implementations in plain numpy, scipy and skimage."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.distance import cdist, cosine, jensenshannon, pdist, squareform
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from clipshift import measure
from clipshift.augment import ColorJitter, Noise, ShiftScaleRotate, augment
from clipshift.data.dataset import default_collate, draw
from clipshift.measure import (
    AugmentationDistance,
    CleanSpread,
    LayerShift,
    PhotoMeasure,
    functional,
)

METRICS = [
    metric
    for _, metric in inspect.getmembers(measure, inspect.isclass)
    if issubclass(metric, PhotoMeasure) and metric is not PhotoMeasure
]


@pytest.fixture(scope="module", params=["noise", "color_jitter", "shift_scale_rotate"])
def pair(request: pytest.FixtureRequest, views: Tensor) -> tuple[Tensor, Tensor]:
    """Augmented and clean views."""
    augmentation = {
        "noise": Noise((0.05, 0.5)),
        "color_jitter": ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.2, 0.2)),
        "shift_scale_rotate": ShiftScaleRotate((-0.06, 0.06), (0.9, 1.1), (-15, 15)),
    }[request.param]
    draws = default_collate([draw(augmentation, 0, str(i), "", 224) for i in range(len(views))])
    return augment(augmentation, views, draws), views


def each(function, view: Tensor, clean: Tensor) -> list[float]:  # type: ignore[no-untyped-def]
    pairs = zip(view.double().numpy(), clean.double().numpy(), strict=True)
    return [function(after, before) for after, before in pairs]


def luma(image: np.ndarray) -> np.ndarray:
    return np.tensordot([0.299, 0.587, 0.114], image, axes=1)


def close(got: Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(got.double().numpy(), expected, atol=1e-5, rtol=0)


def test_cosine_and_l2() -> None:
    generator = torch.Generator().manual_seed(0)
    view, clean = torch.randn(2, 16, 512, generator=generator)
    close(
        functional.cosine_similarity(view, clean), each(lambda a, b: 1 - cosine(a, b), view, clean)
    )
    expected = each(lambda a, b: np.sqrt(((a - b) ** 2).sum()), view, clean)
    np.testing.assert_allclose(functional.l2_distance(view, clean), expected, rtol=1e-5)
    assert functional.l2_distance(clean, clean).eq(0).all()


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (8, 8)])
def test_attention_similarity(grid: tuple[int, int]) -> None:
    view, clean = torch.rand(2, 5, *grid, generator=torch.Generator().manual_seed(0)).softmax(-1)

    def scaled(gaze: np.ndarray) -> np.ndarray:
        positions = [np.clip((np.arange(224) + 0.5) * n / 224 - 0.5, 0, n - 1) for n in gaze.shape]
        resized = map_coordinates(gaze, np.meshgrid(*positions, indexing="ij"), order=1)
        return (resized - resized.min()) / (resized.max() - resized.min())

    expected = each(lambda a, b: 1 / (1 + ((scaled(a) - scaled(b)) ** 2).mean()), view, clean)
    close(functional.attention_similarity(view, clean), expected)


CELLS = [np.s_[:, i : i + 56, j : j + 56] for i in range(0, 224, 56) for j in range(0, 224, 56)]


def test_patch_similarity(pair: tuple[Tensor, Tensor]) -> None:
    def similarity(after: np.ndarray, before: np.ndarray) -> float:
        return np.mean([1 / (1 + np.mean((after[c] - before[c]) ** 2)) for c in CELLS])

    close(functional.patch_similarity(*pair), each(similarity, *pair))


def test_patch_similarity_uint8_wraps_as_numpy_does(pair: tuple[Tensor, Tensor]) -> None:
    def similarity(after: np.ndarray, before: np.ndarray) -> float:
        a, b = (np.rint(image * 255).astype(np.uint8) for image in (after, before))
        return np.mean([1 / (1 + ((a[c] - b[c]) ** 2).mean() / 255**2) for c in CELLS])

    got = functional.patch_similarity_uint8(*pair)
    close(got, each(similarity, *pair))
    assert (got > 0.996).all()


def test_edge_preservation(pair: tuple[Tensor, Tensor]) -> None:
    def edges(image: np.ndarray) -> np.ndarray:
        down, right = np.gradient(luma(image))
        both = (abs(down) + abs(right)) / 2
        return both / both.max()

    expected = each(lambda a, b: 1 - abs(edges(a) - edges(b)).mean(), *pair)
    close(functional.edge_preservation(*pair), expected)


def test_detail_preservation(pair: tuple[Tensor, Tensor]) -> None:
    def preservation(after: np.ndarray, before: np.ndarray) -> float:
        ratios = []
        for i in range(0, 224, 28):
            for j in range(0, 224, 28):
                a, b = (np.std(255 * luma(x)[i : i + 28, j : j + 28]) for x in (after, before))
                if b >= 1e-6:
                    ratios.append(np.exp(-abs(np.log(a / b))))
        return np.mean(ratios)

    close(functional.detail_preservation(*pair), each(preservation, *pair))


def test_rmse_and_ssim(pair: tuple[Tensor, Tensor]) -> None:
    close(functional.rmse(*pair), each(lambda a, b: np.sqrt(((a - b) ** 2).mean()), *pair))

    def similarity(after: np.ndarray, before: np.ndarray) -> float:
        def smooth(channel: np.ndarray) -> np.ndarray:
            return gaussian_filter(channel, 1.5, truncate=3.5, mode="mirror")

        maps = []
        for x, y in zip(after, before, strict=True):
            mx, my = smooth(x), smooth(y)
            vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
            c1, c2 = 0.01**2, 0.03**2
            luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            maps.append(luminance * (2 * cov + c2) / (vx + vy + c2))
        return np.mean(maps)

    np.testing.assert_allclose(functional.ssim(*pair), each(similarity, *pair), atol=5e-5)


def test_augmentation_distance_and_its_tree() -> None:
    embeddings = torch.randn(5, 20, 32, generator=torch.Generator().manual_seed(0))
    vectors = embeddings.numpy()
    expected = np.array(
        [
            [np.mean([cosine(*ab) for ab in zip(u, v, strict=True)]) for v in vectors]
            for u in vectors
        ]
    )
    got = functional.augmentation_distance(embeddings).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (np.diag(got) == 0).all()
    metric = AugmentationDistance(list("abcde"))
    for part in embeddings.split(6, dim=1):
        metric.update(part)
    np.testing.assert_allclose(metric.compute(), expected, atol=1e-6)
    pair = [cosine(a, b) for a, b in zip(embeddings[1], embeddings[3], strict=True)]
    assert metric.half_width[1, 3].item() == pytest.approx(1.96 * stats.sem(pair), rel=1e-5)
    _, axes = metric.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcde")
    tree = functional.augmentation_linkage(got)
    upper = expected[np.triu_indices(5, 1)]
    np.testing.assert_allclose(tree, linkage(upper, "ward"), atol=1e-6)
    assert squareform(upper).shape == (5, 5)
    assert len(set(fcluster(tree, 0.7 * tree[-1, 2], "distance"))) >= 2


def test_flat_views_do_not_divide_by_zero() -> None:
    flat, other = torch.full((1, 3, 224, 224), 0.3), torch.rand(1, 3, 224, 224)
    assert functional.detail_preservation(other, flat).isnan().all()
    assert functional.detail_preservation(flat, other).eq(0).all()
    assert functional.edge_preservation(flat, flat).eq(1).all()
    gaze = torch.full((1, 7, 7), 1 / 49)
    assert functional.attention_similarity(gaze, gaze).eq(1).all()
    with pytest.raises(ValueError, match="equal cells"):
        functional.patch_similarity(torch.rand(1, 3, 30, 30), torch.rand(1, 3, 30, 30))


@pytest.mark.parametrize("function", [
    functional.patch_similarity, functional.patch_similarity_uint8, functional.edge_preservation,
    functional.detail_preservation, functional.rmse, functional.ssim,
])  # fmt: skip
def test_pixel_measures_do_not_depend_on_batch_or_threads(function, views: Tensor) -> None:  # type: ignore[no-untyped-def]
    changed = (views * 0.7 + 0.1).flip(-1)
    together = function(changed, views)
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        alone = torch.cat(
            [function(changed[i : i + 1], views[i : i + 1]) for i in range(len(views))]
        )
        assert torch.equal(alone, together)
    torch.set_num_threads(threads)


def inputs(metric: type[PhotoMeasure]) -> tuple[Tensor, Tensor]:
    shapes = {"embedding": (11, 16), "gaze": (11, 4, 4), "pixels": (11, 3, 32, 32)}
    shape = shapes[metric.facts.space]
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_running_means_of_their_functions(metric: type[PhotoMeasure]) -> None:
    view, clean = inputs(metric)
    expected = metric.measure(view, clean)
    running = metric()
    parts = [running(a, b) for a, b in zip(view.split(4), clean.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(parts), expected)
    assert running.compute() == pytest.approx(expected.double().mean().item(), rel=1e-6)
    states = sum(getattr(running, name).numel() for name in running._defaults)
    assert states == 2  # constant memory
    two = [metric(), metric()]  # as two ranks would
    two[0].update(view[:3], clean[:3])
    two[1].update(view[3:], clean[3:])
    both = two[0].total + two[1].total, two[0].count + two[1].count
    assert (both[0] / both[1]).item() == pytest.approx(running.compute().item())
    figure, _ = running.plot()
    assert figure is not None


def test_undefined_photos_are_left_out_of_the_mean() -> None:
    metric = measure.DetailPreservation()
    clean = torch.rand(3, 3, 16, 16)
    clean[1] = 0.5
    values = metric(clean / 2, clean)
    assert values.isnan().tolist() == [False, True, False]
    assert metric.compute().item() == pytest.approx(0.5)


def test_resizing_is_pillows() -> None:
    """The clean view: bilinear with antialiasing on 8-bit pixels, both ways of resizing."""
    from clipshift.data import clean_view

    pixels = np.random.default_rng(0).integers(0, 256, (448, 600, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    squashed = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(clean_view(image, "squash").permute(1, 2, 0), squashed, atol=1e-6)
    smaller = image.resize((300, 224), Image.Resampling.BILINEAR)
    cropped = smaller.crop((38, 0, 262, 224))
    got = clean_view(image, "crop").permute(1, 2, 0)
    np.testing.assert_allclose(got, np.asarray(cropped) / 255, atol=1e-6)


# --- beyond the paper ----------------------------------------------------------------------------


def gazes(seed: int) -> Tensor:
    return torch.rand(6, 7, 7, generator=torch.Generator().manual_seed(seed)).softmax(-1) / 8


def test_ssim_is_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    expected = structural_similarity_index_measure(*pair, reduction="none", data_range=1.0)
    np.testing.assert_allclose(functional.ssim(*pair), expected, atol=2e-5)


def test_gaze_divergence_and_entropy() -> None:
    view, clean = gazes(0), gazes(1)
    rows = (gaze.flatten(1).double().numpy() for gaze in (view, clean))
    flat = list(zip(*rows, strict=True))
    close(functional.gaze_divergence(view, clean), [jensenshannon(a, b, 2) ** 2 for a, b in flat])
    change = [stats.entropy(a, base=2) - stats.entropy(b, base=2) for a, b in flat]
    close(functional.gaze_entropy_change(view, clean), change)
    assert functional.gaze_divergence(view, 3 * view).max() < 1e-12


def test_relative_shift_and_spread() -> None:
    draw = np.random.default_rng(0)
    clean = draw.normal(1, 1, (60, 32))
    view = clean + draw.normal(0, 0.5, clean.shape)
    spread = pdist(clean, "cosine").mean()
    expected = [cosine(a, b) / spread for a, b in zip(view, clean, strict=True)]
    moved = functional.relative_shift(torch.tensor(view), torch.tensor(clean))
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    made = []
    for size in (17, 1, 60):
        metric = CleanSpread(32)
        for part in torch.tensor(clean).split(size):
            metric.update(part)
        metric.update(torch.tensor([[0.0] * 32, [np.nan] * 32]))  # without a direction
        made.append(metric.compute().item())
    assert made[0] == pytest.approx(spread, rel=1e-9)
    assert len(set(made)) == 1


@pytest.mark.parametrize("cone", [0.0, 3.0])
def test_relative_shift_of_independent_embeddings_is_one(cone: float) -> None:
    """However narrow the cone in which all embeddings lie."""
    view, clean = torch.randn(2, 3000, 64, generator=torch.Generator().manual_seed(0)) + cone
    assert functional.relative_shift(view, clean).mean().item() == pytest.approx(1, abs=0.02)


def test_what_did_not_move_has_a_cosine_of_exactly_one() -> None:
    """Rounding would count as a change for the better or the worse in a paired comparison."""
    clean = torch.randn(500, 128, generator=torch.Generator().manual_seed(0))
    assert functional.cosine_similarity(clean, clean.clone()).eq(1).all()
    nothing = torch.zeros(1, 128)
    assert functional.cosine_similarity(nothing, nothing).item() == 0


def test_embeddings_that_are_no_numbers_are_not_retained_nor_in_the_way() -> None:
    clean = torch.eye(3)
    view = clean.clone()
    view[0] = torch.nan
    clean[1] = torch.nan
    torch.testing.assert_close(
        functional.retained(view, clean), torch.tensor([torch.nan, torch.nan, 1]), equal_nan=True
    )


def test_retained_is_nearest_neighbour_recall() -> None:
    clean = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    view = clean + 1.5 * torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    cosines = 1 - cdist(view.numpy(), clean.numpy(), "cosine")
    expected = cosines.argmax(axis=1) == np.arange(200)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(functional.retained(view, clean), expected)


def test_a_collapsed_model_retains_by_chance() -> None:
    same = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).expand(50, 16)
    np.testing.assert_allclose(functional.retained(same, same), 1 / 50)
    assert functional.relative_shift(same, same).isnan().all()


def test_cka_is_that_of_full_gram_matrices() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(2, 1, (80, 12))
    y = x @ draw.normal(0, 1, (12, 9)) + draw.normal(0, 2, (80, 9))
    centre = np.eye(80) - 1 / 80
    k, g = (centre @ m @ m.T @ centre for m in (x, y))
    expected = (k * g).sum() / np.sqrt((k * k).sum() * (g * g).sum())
    assert functional.linear_cka(torch.tensor(y), torch.tensor(x)).item() == pytest.approx(expected)


def test_layer_shift_in_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(90, 2, 10, generator=generator) + 4
    views = clean + torch.randn(3, 90, 2, 10, generator=generator)
    metric = LayerShift(variants=3, width=10)
    for rows in (slice(0, 40), slice(40, 41), slice(41, 90)):
        metric.update(views[:, rows], clean[rows])
    made = metric.compute()
    for k in range(3):
        cosines = [1 - cosine(a, b) for a, b in zip(views[k, :, 0], clean[:, 0], strict=True)]
        assert made["cosine"][k].item() == pytest.approx(np.mean(cosines))
        assert made["cosine_error"][k].item() == pytest.approx(stats.sem(cosines), rel=1e-6)
        whole = functional.linear_cka(views[k, :, 1], clean[:, 1])
        assert made["cka"][k].item() == pytest.approx(whole.item())


def test_text_shift_is_the_mean_over_captions() -> None:
    draw = np.random.default_rng(0)
    view, clean = draw.normal(size=(2, 5, 8))
    captions = draw.normal(size=(5, 3, 8))
    expected = [
        np.mean([cosine(before, text) - cosine(after, text) for text in texts])
        for after, before, texts in zip(view, clean, captions, strict=True)
    ]
    units = captions / np.linalg.norm(captions, axis=2, keepdims=True)
    text = torch.tensor(units.mean(axis=1))
    close(functional.text_shift(torch.tensor(view), torch.tensor(clean), text), expected)
