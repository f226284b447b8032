"""Measures against second implementations in plain numpy, scipy and skimage."""

import inspect
import json
import re
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.distance import cdist, cosine, jensenshannon, pdist, squareform
from skimage.transform import ProjectiveTransform
from sklearn.neighbors import KNeighborsClassifier
from support.columns import all_columns
from support.terminal import ROOT
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils.data import default_collate
from torchmetrics.functional.image import structural_similarity_index_measure

from clipshift import measure
from clipshift.augment.geometric import Elastic, Flip, Perspective, ShiftScaleRotate
from clipshift.augment.keyed import Draws, MovingAugmentation, augment, draw
from clipshift.augment.pixel import ColorJitter, Noise
from clipshift.measure import embeddings, functional
from clipshift.measure.facts import Facts
from clipshift.measure.metrics import (
    AugmentationDistance,
    CleanSpread,
    LayerShift,
    OutlierTokens,
    PhotoMeasure,
)
from clipshift.measure.zero_shot import zero_shot_flip
from clipshift.results.clusters import cluster_views

METRICS = [
    metric
    for _, metric in inspect.getmembers(measure, inspect.isclass)
    if issubclass(metric, PhotoMeasure) and hasattr(metric, "facts")
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
    per_photo = torch.cat([metric(part) for part in embeddings.split(6, dim=1)])
    np.testing.assert_allclose(metric.compute(), expected, atol=1e-6)
    pair = [cosine(a, b) for a, b in zip(embeddings[1], embeddings[3], strict=True)]
    np.testing.assert_allclose(per_photo[:, 1, 3], pair, atol=1e-6)
    pytest.importorskip("matplotlib", reason="torchmetrics plots with it")
    _, axes = metric.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcde")
    tree = functional.augmentation_linkage(got)
    upper = expected[np.triu_indices(5, 1)]
    np.testing.assert_allclose(tree, linkage(upper, "ward"), atol=1e-6)
    assert squareform(upper).shape == (5, 5)
    assert len(set(fcluster(tree, 0.7 * tree[-1, 2], "distance"))) >= 2
    drawn = cluster_views(pd.DataFrame(got, list("abcde"), list("abcde")))[""]
    assert sorted(drawn.leaves) == list("abcde")
    corners = drawn.branches.sort_values(["branch", "step"])
    assert sorted(corners.loc[corners["height"] == 0, "leaf"]) == [0, 1, 2, 3, 4]
    heights = corners.groupby("branch")["height"].max()
    np.testing.assert_allclose(np.sort(heights), tree[:, 2])


def test_flat_views_do_not_divide_by_zero() -> None:
    flat, other = torch.full((1, 3, 224, 224), 0.3), torch.rand(1, 3, 224, 224)
    assert functional.detail_preservation(other, flat).isnan().all()
    assert functional.detail_preservation(flat, other).eq(0).all()
    assert functional.edge_preservation(flat, flat).eq(1).all()
    gaze = torch.full((1, 7, 7), 1 / 49)
    assert functional.attention_similarity(gaze, gaze).eq(1).all()
    with pytest.raises(ValueError, match="equal cells"):
        functional.patch_similarity(torch.rand(1, 3, 30, 30), torch.rand(1, 3, 30, 30))


def test_a_cell_is_flat_below_a_millionth_of_a_grey_level() -> None:
    stripes = (torch.arange(16) % 2).expand(1, 3, 16, 16) * 2e-6 / 255  # their deviation is 1e-6
    assert functional.detail_preservation(0.999 * stripes, 0.999 * stripes).isnan().all()
    assert functional.detail_preservation(1.001 * stripes, 1.001 * stripes).eq(1).all()


@pytest.mark.parametrize(
    "function",
    [
        functional.patch_similarity,
        functional.patch_similarity_uint8,
        functional.edge_preservation,
        functional.detail_preservation,
        functional.rmse,
        functional.ssim,
    ],
)
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


def inputs(metric: type[PhotoMeasure]) -> tuple[Tensor, Tensor, tuple]:
    """Of view and clean view, and what else the metric takes."""
    space = metric.facts.space
    shape = {"embedding": (11, 16), "pixels": (11, 3, 32, 32)}.get(space, (11, 4, 4))
    generator = torch.Generator().manual_seed(1)
    more = (lambda maps: maps.flip(-1),) if space == "aligned gaze" else ()
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator), more


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_running_means_of_their_functions(metric: type[PhotoMeasure]) -> None:
    view, clean, more = inputs(metric)
    expected = metric.measure(view, clean, *more)
    running = metric()
    parts = [running(a, b, *more) for a, b in zip(view.split(4), clean.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(parts), expected)
    assert running.compute() == pytest.approx(expected.double().mean().item(), rel=1e-6)
    states = sum(getattr(running, name).numel() for name in running._defaults)
    assert states == 2  # constant memory
    two = [metric(), metric()]  # as two ranks would
    two[0].update(view[:3], clean[:3], *more)
    two[1].update(view[3:], clean[3:], *more)
    both = two[0].total + two[1].total, two[0].count + two[1].count
    assert (both[0] / both[1]).item() == pytest.approx(running.compute().item())
    pytest.importorskip("matplotlib", reason="torchmetrics plots with it")
    figure, _ = running.plot()
    assert figure is not None


@pytest.mark.parametrize("metric", METRICS)
def test_an_unchanged_photo_has_the_value_that_the_facts_promise(
    metric: type[PhotoMeasure],
) -> None:
    _, clean, more = inputs(metric)
    values = metric.measure(clean.flip(-1) if more else clean, clean, *more)
    np.testing.assert_allclose(values, metric.facts.unchanged, atol=1e-6)


def test_columns_of_an_unchanged_photo_have_the_value_that_their_facts_promise() -> None:
    same = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))[[0, 0]]
    for name, values in (
        ("relative_shift", functional.relative_shift(*same)),
        ("retained", functional.retained(*same)),
        ("zero_shot_flip", zero_shot_flip(*same, torch.eye(8))),
        ("text_shift", functional.text_shift(*same, torch.eye(8)[:6])),
    ):
        assert values.eq(all_columns()[name].unchanged).all(), name


def test_facts_are_the_same_after_json() -> None:
    for facts in all_columns().values():
        stored = json.dumps(facts.as_json(), allow_nan=False)
        assert Facts.from_json(json.loads(stored)) == facts


def test_gain_is_positive_where_less_harm_is_done() -> None:
    for name, better, worse in [
        ("cosine_similarity", 0.9, 0.5),
        ("relative_shift", 0.1, 0.5),
        ("l2_distance", 1, 2),
        ("gaze_entropy_change", 0.1, -0.5),
        ("gaze_entropy_change", -0.1, 0.5),
        ("zero_shot_flip", 0, 1),
        ("text_shift", 0.1, -0.1),
        ("retained", 1, 0),
    ]:
        assert all_columns()[name].gain(np.array(worse), np.array(better)) > 0, name
        assert all_columns()[name].gain(np.array(better), np.array(worse)) < 0, name
    assert np.isnan(all_columns()["brightness"].gain(0.2, 0.4))


def test_losses_are_correlated_where_more_is_better() -> None:
    labels = {name: all_columns()[name].correlate_label for name in ("ssim", "rmse", "brightness")}
    assert labels == {"ssim": "1 − SSIM", "rmse": "RMSE", "brightness": "brightness of the photo"}


def test_metrics_carry_their_direction_and_range_as_torchmetrics_has_them() -> None:
    assert measure.CosineSimilarity.higher_is_better is True
    assert measure.L2Distance.higher_is_better is False
    assert measure.GazeEntropyChange.higher_is_better is None
    assert (
        measure.CosineSimilarity.plot_lower_bound,
        measure.CosineSimilarity.plot_upper_bound,
    ) == (-1, 1)
    assert (measure.L2Distance.plot_lower_bound, measure.L2Distance.plot_upper_bound) == (0, None)


def test_ranges_are_those_that_the_protocol_states() -> None:
    """Intervals are cut off at a measure's range, and axes end there."""
    stated = {"contrast": (0, 0.5)}  # half of the pixels black and half white: the most there is
    for line in (ROOT / "docs/protocol.md").read_text(encoding="utf-8").splitlines():
        names = [
            name for name in re.findall(r"`(\w+)`", line.split(" | ")[0]) if name in all_columns()
        ]
        if bounds := re.search(r"[(\[](\S+), ([^ \])]+)[)\]](?:, high|, low)? \|$", line):
            low, high = (float(b.replace("−", "-").replace("∞", "inf")) for b in bounds.groups())
            stated = dict.fromkeys(names, (low, high)) | stated
    entropy = {"gaze_entropy_change": (-np.inf, np.inf)}  # ± log₂ of however many patches
    accuracies = ("zero_shot_top1", "zero_shot_top5", "neighbour_top1", "neighbour10_top1")
    clean = {f"{name}_clean": (0, 1) for name in accuracies}
    ranges = {name: (facts.low, facts.high) for name, facts in all_columns().items()}
    assert ranges == stated | entropy | clean


def test_undefined_photos_are_left_out_of_the_mean() -> None:
    metric = measure.DetailPreservation()
    clean = torch.rand(3, 3, 16, 16)
    clean[1] = 0.5
    values = metric(clean / 2, clean)
    assert values.isnan().tolist() == [False, True, False]
    assert metric.compute().item() == pytest.approx(0.5)


def test_resizing_is_pillows() -> None:
    """The clean view: bilinear with antialiasing on 8-bit pixels, both ways of resizing."""
    from clipshift.data.dataset import clean_view

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
    spreads = []
    for size in (17, 1, 60):
        metric = CleanSpread(32)
        for part in torch.tensor(clean).split(size):
            metric.update(part)
        metric.update(torch.tensor([[0.0] * 32, [np.nan] * 32]))  # without a direction
        spreads.append(metric.compute().item())
    assert spreads[0] == pytest.approx(spread, rel=1e-9)
    assert len(set(spreads)) == 1
    to_others = metric.distance_to_others(torch.tensor(clean))
    others = cdist(clean, clean, "cosine").sum(axis=1) / (len(clean) - 1)
    np.testing.assert_allclose(to_others, others, rtol=1e-9)
    assert to_others.mean().item() == pytest.approx(spread, rel=1e-9)
    assert metric.distance_to_others(torch.tensor([[0.0] * 32, [np.nan] * 32])).isnan().all()


def test_the_spread_is_exact_up_to_eight_million_photos() -> None:
    """All but one of N are the same: 2 (N − 1) of the N (N − 1) pairs are at a right angle."""
    metric = CleanSpread(2)
    same = torch.tensor([[3.0, 0.0]]).expand(1_000_000, 2)
    for _ in range(8):
        metric.update(same)
    metric.update(torch.tensor([[0.0, 2.0]]))
    assert metric.compute().item() == pytest.approx(2 / 8_000_001, rel=1e-6)


@pytest.mark.parametrize("cone", [0.0, 3.0])
def test_relative_shift_of_independent_embeddings_is_one(cone: float) -> None:
    """However narrow the cone in which all embeddings lie."""
    view, clean = torch.randn(2, 3000, 64, generator=torch.Generator().manual_seed(0)) + cone
    assert functional.relative_shift(view, clean).mean().item() == pytest.approx(1, abs=0.02)


def test_what_did_not_move_has_a_cosine_of_exactly_one() -> None:
    """Rounding would count as a change for the better or the worse in a paired comparison."""
    clean = torch.randn(500, 128, generator=torch.Generator().manual_seed(0))
    assert functional.cosine_similarity(clean, clean.clone()).eq(1).all()
    for factor in (-1, 2):  # at 180° and at 0° rounding would leave [−1, 1]
        assert functional.cosine_similarity(factor * clean, clean).abs().le(1).all()


@pytest.mark.parametrize("nothing", [0.0, torch.nan, torch.inf])
def test_embeddings_without_a_direction_have_no_values_and_disturb_no_others(
    nothing: float,
) -> None:
    """Of five photos, the view of the first and the clean view of the second have none."""
    clean, view, text = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    view[0], clean[1] = nothing, nothing
    others = torch.arange(2, 5)
    for function in (functional.cosine_similarity, functional.relative_shift, functional.retained):
        values = function(view, clean)
        assert values[:2].isnan().all()
        gallery = clean[[0, 2, 3, 4]]
        expected = function(view[[0, 2, 3, 4]], gallery)[1:]
        torch.testing.assert_close(values[others], expected)
    shift = functional.text_shift(view, clean, text)
    assert shift.isnan().tolist() == [True, True, False, False, False]
    metric = AugmentationDistance(["a", "b"])
    metric.update(torch.stack([view, clean]))
    expected = functional.augmentation_distance(torch.stack([view, clean])[:, others])
    torch.testing.assert_close(metric.compute(), expected)
    torch.testing.assert_close(
        functional.augmentation_distance(torch.stack([view, clean])), expected
    )


def test_retained_is_nearest_neighbour_recall() -> None:
    clean = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    view = clean + 1.5 * torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    cosines = 1 - cdist(view.numpy(), clean.numpy(), "cosine")
    expected = cosines.argmax(axis=1) == np.arange(200)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(functional.retained(view, clean), expected)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_neighbours_vote_as_in_scikit_learn(k: int) -> None:
    """Its shares of votes with the photo left out: where classes tie at the top, 1 / m."""
    rng = np.random.default_rng(k)
    classes = rng.permutation(np.append(rng.integers(6, size=79), 6))  # and one photo alone
    clean = (np.eye(7)[classes] + 2 * rng.normal(size=(80, 7))).astype(np.float32)
    view = (clean + 0.5 * rng.normal(size=(80, 7))).astype(np.float32)
    view[3] = 0
    hits = embeddings.neighbour_hit(view, clean, classes, k)
    model = KNeighborsClassifier(k, algorithm="brute", metric="cosine")
    for photo, (label, hit) in enumerate(zip(classes, hits, strict=True)):
        if photo == 3 or label == 6:
            assert np.isnan(hit)
            continue
        others = np.arange(80) != photo
        model.fit(clean[others], classes[others])
        [votes] = np.rint(k * model.predict_proba(view[photo, None])).astype(int)
        leading = model.classes_[votes == votes.max()]
        assert hit == pytest.approx((label in leading) / len(leading))
    assert k == 1 or ((hits > 0) & (hits < 1)).any()


def test_neighbours_that_tie_share_the_last_places_whatever_their_order() -> None:
    """Photo 0 has one nearer photo of its class, and three at one distance for one more vote."""
    clean = np.array([[1, 0, 0], [1, 0.1, 0], [1, 1, 0], [1, -1, 0], [1, 0, 1]], np.float32)
    classes = np.array([0, 0, 1, 1, 2])
    for order in (np.arange(5), np.array([4, 2, 0, 3, 1])):
        hits = embeddings.neighbour_hit(clean[order], clean[order], classes[order], 2)
        assert hits[order == 0] == 1  # one vote against two thirds
    assert embeddings.neighbour_hit(clean[:1].repeat(4, 0), clean[:1].repeat(4, 0),
                                    np.array([0, 0, 1, 1]), 2).tolist() == [0, 0, 0, 0]  # fmt: skip


def test_a_collapsed_model_retains_by_chance() -> None:
    same = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).expand(50, 16)
    np.testing.assert_allclose(functional.retained(same, same), 1 / 50)
    assert functional.relative_shift(same, same).isnan().all()


def unbiased_hsic(k: np.ndarray, g: np.ndarray) -> float:
    """Song et al. (2012), from whole Gram matrices without their diagonals."""
    n = len(k)
    k, g = (m - np.diag(np.diag(m)) for m in (k, g))
    ones = np.ones(n)
    both = (ones @ k @ ones) * (ones @ g @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ g) + both - 2 / (n - 2) * (ones @ k @ g @ ones)) / (n * (n - 3))


def biased_hsic(k: np.ndarray, g: np.ndarray) -> float:
    centre = np.eye(len(k)) - 1 / len(k)
    return np.trace(centre @ k @ centre @ g)


def cka(hsic, x: np.ndarray, y: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    k, g = (m.astype(float) @ m.T.astype(float) for m in (x, y))
    return hsic(k, g) / np.sqrt(hsic(k, k) * hsic(g, g))


@pytest.mark.parametrize("n", [4, 80])
def test_cka_is_that_of_whole_gram_matrices(n: int) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(2, 1, (n, 12))
    y = x @ draw.normal(0, 1, (12, 9)) + draw.normal(0, 2, (n, 9))
    pair = torch.tensor(y), torch.tensor(x)
    assert functional.linear_cka(*pair).item() == pytest.approx(cka(unbiased_hsic, x, y))
    assert functional.linear_cka_biased(*pair).item() == pytest.approx(cka(biased_hsic, x, y))


@pytest.mark.parametrize("width", [192, 768])
def test_independent_features_of_few_photos_are_not_alike(width: int) -> None:
    """The biased CKA says width / (width + photos), as follows from the moments of a normal."""
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, 100, width, generator=generator) for _ in range(20)]
    values = [functional.linear_cka(*pair).item() for pair in pairs]
    assert np.mean(values) == pytest.approx(0, abs=0.01)
    assert np.abs(values).max() < 0.05  # a pair's standard deviation is √(2 / (100 · 99))
    for pair in pairs[:3]:
        biased = functional.linear_cka_biased(*pair).item()
        assert biased == pytest.approx(width / (width + 100), abs=0.01)


def test_cka_is_undefined_without_variation_or_with_few_photos() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    same = x[:1].expand(5, 7)
    assert functional.linear_cka(x, same).isnan()
    assert functional.linear_cka_biased(same, x).isnan()
    assert functional.linear_cka(x[:3], x[:3]).isnan()
    assert not functional.linear_cka(x[:4], x[:4]).isnan()
    metric = LayerShift(variants=2, width=7)
    rounding = same * (1 + 1e-7 * torch.arange(5)[:, None])  # as of a collapsed model
    for rows in (slice(0, 2), slice(2, 5)):
        layers = torch.stack([rounding, x])[:, rows, None].expand(-1, -1, 2, -1)
        metric.update(layers, x[rows, None].expand(-1, 2, -1))
    values = metric.compute()
    for name in ("cka", "cka_biased"):
        assert values[name].isnan().tolist() == [True, False]


@pytest.mark.parametrize(("share", "is_defined"), [(0.9e-6, False), (1.1e-6, True)])
def test_tokens_vary_from_a_millionth_of_their_means_squared_length_on(
    share: float, is_defined: bool
) -> None:
    """Forty tokens at the same distance from their mean, half of them on each side."""
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(20)
    tokens = torch.stack([torch.full_like(signs, 3.0), 3 * np.sqrt(share) * signs], dim=1)
    metric = LayerShift(variants=1, width=2)
    metric.update(tokens[None, :, None].expand(-1, -1, 2, -1), tokens[:, None].expand(-1, 2, -1))
    for name in ("cka", "cka_biased"):
        assert metric.compute()[name].isfinite().item() == is_defined


@pytest.mark.parametrize("offset", [4.0, 300.0])
def test_layer_shift_in_batches(offset: float) -> None:
    """Running sums against whole Gram matrices of what they were before a common offset."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(90, 2, 10, generator=generator)
    views = clean + torch.randn(3, 90, 2, 10, generator=generator)
    views[0, 5, 0] = torch.nan  # a photo without a class token
    metric = LayerShift(variants=3, width=10)
    batches = (slice(0, 40), slice(40, 41), slice(41, 90))
    shifted = views + offset, clean + offset
    per_photo = torch.cat(
        [metric(shifted[0][:, rows], shifted[1][rows]) for rows in batches], dim=1
    )
    means = metric.compute()
    for k, (token, name) in product(range(3), enumerate(("cosine", "patch_cosine"))):
        pairs = zip(views[k, :, token] + offset, clean[:, token] + offset, strict=True)
        cosines = [1 - cosine(a.double(), b.double()) for a, b in pairs if a.isfinite().all()]
        assert means[name][k].item() == pytest.approx(np.mean(cosines))
        values = per_photo[k, :, token]
        np.testing.assert_allclose(values[values.isfinite()], cosines, atol=1e-6)
        tokens = clean[:, 1].numpy(), views[k, :, 1].numpy()
        tolerance = {"abs": 1e-5 if offset > 100 else 1e-6}
        assert means["cka"][k].item() == pytest.approx(cka(unbiased_hsic, *tokens), **tolerance)
        biased = cka(biased_hsic, *tokens)
        assert means["cka_biased"][k].item() == pytest.approx(biased, **tolerance)


def test_the_spread_of_class_tokens_is_that_of_photos_with_one() -> None:
    clean = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(0))
    clean[3, 0] = torch.nan
    metric = LayerShift(variants=1, width=6)
    metric.update(clean[None], clean)
    tokens = clean[:, 0][torch.arange(9) != 3].double()
    pairs = combinations(tokens.numpy(), 2)
    expected = np.mean([cosine(a, b) for a, b in pairs])
    assert metric.compute()["spread"].item() == pytest.approx(expected, abs=1e-6)


def test_cka_without_a_photo_is_that_of_the_others() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(30, 5)) + 3
    y = x[:, :3] + draw.normal(size=(30, 3))
    x[4] *= 9
    left_out = functional.cka_left_out(torch.tensor(x), torch.tensor(y))
    expected = [
        cka(unbiased_hsic, np.delete(x, photo, axis=0), np.delete(y, photo, axis=0))
        for photo in range(30)
    ]
    np.testing.assert_allclose(left_out, expected, rtol=1e-9)


def test_outlier_tokens_and_the_gaze_on_them_are_numpys() -> None:
    draw = np.random.default_rng(0)
    norms = draw.uniform(5, 14, size=(2, 9, 3, 49))  # odd, so that the median is one of them
    norms[1, :, 2, :4] = draw.uniform(80, 120, size=(9, 4))
    norms[0, 4, 1, 7] = np.inf
    gaze = draw.uniform(size=(2, 9, 49))
    gaze[1, :, :4] += 20
    metric = OutlierTokens(views=2, layers=3)
    batches = [
        metric(torch.tensor(norms[:, rows]), torch.tensor(gaze[:, rows]))
        for rows in (slice(0, 5), slice(5, 9))
    ]
    per_photo = torch.cat(batches, dim=1).numpy()
    for k, photo, layer in product(range(2), range(9), range(3)):
        row = norms[k, photo, layer]
        if not np.isfinite(row).all():
            assert np.isnan(per_photo[k, photo, layer]).all()
            continue
        far = row > 3 * np.median(row)
        shares = far.mean(), gaze[k, photo][far].sum() / gaze[k, photo].sum()
        np.testing.assert_allclose(per_photo[k, photo, layer], [far.sum(), *shares], atol=1e-12)
    means = metric.compute()
    assert means["tokens"].tolist() == [[0, 0, 0], [0, 0, 4]]
    np.testing.assert_allclose(means["gaze_share"], np.nanmean(per_photo[..., 2], axis=1))
    assert OutlierTokens(2, 3)(torch.tensor(norms), None)[..., 2].isnan().all()


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


# --- gaze that follows what it looks at ----------------------------------------------------------

MOVING: dict[str, MovingAugmentation] = {
    "flip": Flip(),
    "rotation": ShiftScaleRotate((0, 0), (1, 1), (-90, 90)),
    "shift_scale_rotate": ShiftScaleRotate((-0.0625, 0.0625), (0.9, 1.1), (-15, 15)),
    "perspective": Perspective((0.05, 0.1)),
    "elastic": Elastic(3000, 60),
}


def moves(name: str, count: int) -> Draws:
    return default_collate([draw(MOVING[name], 0, str(i), name, 224) for i in range(count)])


def smooth_maps(count: int) -> Tensor:
    """Some smooth blobs a map, positive, (count, 1, 224, 224)."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(count, 224, 224))
    smooth = gaussian_filter(noise, (0, 20, 20), mode="mirror")
    return torch.tensor(np.exp(smooth / smooth.std(axis=(1, 2), keepdims=True))).float()[:, None]


@pytest.mark.parametrize("name", MOVING)
def test_moving_back_undoes_the_move(name: str) -> None:
    image, draws = smooth_maps(6), moves(name, 6)
    image = image / image.amax((-2, -1), keepdim=True)
    for strength in (1.0, 0.4):
        view = MOVING[name].apply(torch.cat([image, torch.ones_like(image)], 1), draws, strength)
        back = MOVING[name].move_back(view, draws, strength)
        whole = back[:, 1:] > 0.999  # neither left the view, nor lies beside what did
        assert whole.float().mean() > 0.6
        assert ((back[:, :1] - image) * whole).abs().max() < 4e-3  # interpolated twice


@pytest.mark.parametrize("pixels", [0.55, 41])
def test_pixels_beside_a_fold_are_found_and_those_in_it_are_not(pixels: float) -> None:
    """Only rows 96 to 127 of the right half are folded; each pixel is found or lost on its own."""
    displacement = torch.zeros(1, 2, 224, 224)
    displacement[0, 0, 96:128, 112:] = pixels * (-1) ** torch.arange(112.0)  # back and forth
    draws = {"displacement": displacement}
    image = smooth_maps(1)
    elastic = Elastic(1, 1)
    back = elastic.move_back(elastic.apply(image, draws), draws)
    still = (displacement == 0).all(dim=1, keepdim=True)
    torch.testing.assert_close(back[still], image[still])
    assert (back[..., 96:128, 112:] == 0).float().mean() > 0.5


def test_what_the_view_shows_is_what_numpy_says() -> None:
    """Zeros at pixels that left the view, for matrices made in other ways."""
    rows, columns = np.mgrid[:224, :224]
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    ones = torch.ones(4, 1, 224, 224)
    for name in ("shift_scale_rotate", "perspective"):
        draws = moves(name, 4)
        shown = MOVING[name].move_back(ones, draws)[:, 0].numpy() > 0.999
        for row in range(4):
            one = {key: value[row].double().numpy() for key, value in draws.items()}
            if name == "perspective":
                corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
                stretch = ProjectiveTransform()
                inner = corners + one["inward"] * (1 - 2 * corners)
                assert stretch.estimate(inner * 223, corners * 223)
                moved = stretch(points)
            else:
                angle = np.deg2rad(one["rotation"])
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                scaled = (points - 111.5) * one["scale"]
                moved = scaled @ turn.T + 111.5 + one["shift"] * 224
            inside = ((moved >= 0) & (moved <= 223)).all(axis=1).reshape(224, 224)
            assert 0.5 < inside.mean() < 1
            assert (shown[row] != inside).mean() < 1e-4


@pytest.mark.parametrize("name", MOVING)
def test_a_gaze_that_follows_the_photo_has_not_changed(name: str) -> None:
    """Gazes on 56 × 56 patches of maps that the augmentation itself has carried along."""
    augmentation, draws = MOVING[name], moves(name, 6)
    maps = smooth_maps(6)
    clean, view = (avg_pool2d(m, 4)[:, 0] for m in (maps, augmentation.apply(maps, draws)))

    def move_back(images: Tensor) -> Tensor:
        return augmentation.move_back(images, draws)

    aligned = functional.gaze_divergence_aligned(view, clean, move_back)
    assert aligned.max() < 1e-3
    apart = functional.gaze_divergence(view, clean)
    assert apart.min() > 0.01
    assert (apart > 100 * aligned).all()
    aligned = 1 - functional.attention_similarity_aligned(view, clean, move_back)
    assert aligned.max() < 1e-3
    apart = 1 - functional.attention_similarity(view, clean)
    assert (apart > 20 * aligned).all()


@pytest.mark.parametrize("grid", [7, 8, 14, 24])
def test_an_aligned_gaze_that_nothing_moved_is_the_gaze(grid: int) -> None:
    view, clean = torch.rand(2, 5, grid, grid, generator=torch.Generator().manual_seed(0))
    for move_back in (None, lambda maps: maps):
        got = functional.gaze_divergence_aligned(view, clean, move_back)
        assert torch.equal(got, functional.gaze_divergence(view, clean))
        got = functional.attention_similarity_aligned(view, clean, move_back)
        assert torch.equal(got, functional.attention_similarity(view, clean))


@pytest.mark.parametrize("grid", [7, 8, 14, 24])
def test_a_mirrored_gaze_is_mirrored_back(grid: int) -> None:
    view, clean = torch.rand(2, 5, grid, grid, generator=torch.Generator().manual_seed(0))
    draws = {"turn": torch.tensor([[0.1], [0.9], [0.3], [0.5], [0.7]])}

    def move_back(images: Tensor) -> Tensor:
        return Flip().move_back(images, draws, 0.6)

    turned = torch.stack([view[0].flip(-1), view[1], view[2].flip(-1), view[3].flip(-1), view[4]])
    got = functional.gaze_divergence_aligned(view, clean, move_back)
    assert torch.equal(got, functional.gaze_divergence(turned, clean))
    got = functional.attention_similarity_aligned(view, clean, move_back)
    torch.testing.assert_close(got, functional.attention_similarity(turned, clean))


def shifted_by(patches: float) -> tuple[Draws, ShiftScaleRotate]:
    """Three views, shifted to the right on a grid of 7 × 7 patches."""
    shift = torch.tensor([[patches / 7, 0.0]]).expand(3, 2)
    draws = {"shift": shift, "scale": torch.ones(3, 2), "rotation": torch.zeros(3)}
    return draws, ShiftScaleRotate((0, 1), (1, 1), (0, 0))


def test_what_left_the_view_is_left_out() -> None:
    """A view shifted by two patches: the clean gaze's last two columns against nothing."""
    view, clean = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    view[0, :, 2:] = clean[0, :, :5]
    draws, augmentation = shifted_by(2)

    def move_back(images: Tensor) -> Tensor:
        return augmentation.move_back(images, draws)

    shown = [
        (a[:, 2:].flatten().double(), b[:, :5].flatten().double())
        for a, b in zip(view, clean, strict=True)
    ]
    expected = [jensenshannon(a, b, 2) ** 2 for a, b in shown]
    assert expected[0] == 0
    close(functional.gaze_divergence_aligned(view, clean, move_back), expected)
    likeness = []
    for gazes in zip(view, clean, strict=True):
        a, b = (
            interpolate(g[None, None], (224, 224), mode="bilinear")[0, 0].numpy() for g in gazes
        )
        a, b = a[:, 64:], b[:, :160]
        a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
        likeness.append(1 / (1 + ((a - b) ** 2).mean()))
    close(functional.attention_similarity_aligned(view, clean, move_back), likeness)


def test_a_view_that_shows_nothing_of_the_photo_has_no_aligned_gaze() -> None:
    view, clean = torch.rand(2, 3, 7, 7)
    draws, augmentation = shifted_by(8)

    def move_back(images: Tensor) -> Tensor:
        return augmentation.move_back(images, draws)

    assert functional.gaze_divergence_aligned(view, clean, move_back).isnan().all()
    assert functional.attention_similarity_aligned(view, clean, move_back).isnan().all()


@pytest.mark.parametrize("name", MOVING)
def test_aligned_gazes_do_not_depend_on_batch_or_threads(name: str) -> None:
    view, clean = torch.rand(2, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    draws = moves(name, 5)

    def measured(rows: slice) -> Tensor:
        def move_back(images: Tensor) -> Tensor:
            return MOVING[name].move_back(images, {key: d[rows] for key, d in draws.items()})

        pair = view[rows], clean[rows]
        return torch.stack(
            [
                functional.gaze_divergence_aligned(*pair, move_back),
                functional.attention_similarity_aligned(*pair, move_back),
            ]
        )

    together = measured(slice(None))
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        alone = [measured(slice(row, row + 1)) for row in range(5)]
        assert torch.equal(torch.cat(alone, dim=1), together)
    torch.set_num_threads(threads)
