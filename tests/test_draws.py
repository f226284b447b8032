"""Several draws: their rows, the worst of them, their ball, and components of the variance."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.augmentations import augmentation_named, augmentations_named, choice_of_aug
from support.evaluation import measure

import clipshift
from clipshift.augment.keyed import Augmentation, augment, draw
from clipshift.augment.stored import Stored
from clipshift.comparison.pair import compare_pair
from clipshift.data.cache import Cache
from clipshift.data.dataset import clean_view
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.encode.feature_cache import FeatureCache
from clipshift.errors import UserError
from clipshift.measure.embeddings import ball_radius, units
from clipshift.measure.facts import COLUMNS
from clipshift.measure.metrics import CosineSimilarity, GazeEntropyChange, L2Distance
from clipshift.results.columns import ShiftFile
from clipshift.results.draws import component_values, draw_table, planning_values
from clipshift.results.intervals import label_groups, mean_interval
from clipshift.results.table import labels_of, mean_over_draws

DRAWS = 3
NAMES = ["noise", "blur", "flip", "crop"]
KEYS = ["photo", "augmentation", "severity"]


def augmentations() -> dict[str, Augmentation]:
    """Return those of `NAMES`: of views, and ``crop``, which acts on the file."""
    return augmentations_named(*NAMES[:3]) | choice_of_aug("crop")[0]


@pytest.fixture(scope="module")
def rows(encoder: Encoder) -> pd.DataFrame:
    return measure(encoder, sample()[:3], augmentations(), draws=DRAWS, gallery=range(3))[0]


@pytest.fixture(scope="module")
def result(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> clipshift.Result:
    folder = tmp_path_factory.mktemp("draws")
    photos = [decode(photo.read()) for photo in sample()]
    labels = [f"class {place % 6}" for place in range(len(photos))]
    return clipshift.measure_shift(
        photos, hub_folder, NAMES, labels=labels, draws=DRAWS, folder=folder, progress=False,
        measures=["cosine_similarity", "gaze_entropy_change", "ssim"],
    )  # fmt: skip


def test_first_draw_is_that_of_a_single_one(encoder: Encoder, rows: pd.DataFrame) -> None:
    single, *_ = measure(encoder, sample()[:3], augmentations(), gallery=range(3))
    assert "draw" not in single
    first = rows[rows["draw"] == 1].reset_index(drop=True)[list(single)]
    pd.testing.assert_frame_equal(first, single, check_exact=True)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (7, 2)])
def test_batch_size_and_workers_do_not_matter(
    encoder: Encoder, rows: pd.DataFrame, batch_size: int, num_workers: int
) -> None:
    settings = batch_size, num_workers
    table, *_ = measure(
        encoder, sample()[:3], augmentations(), *settings, draws=DRAWS, gallery=range(3)
    )
    pd.testing.assert_frame_equal(table, rows, check_exact=True)


def test_a_further_draw_is_keyed_by_its_number(encoder: Encoder, rows: pd.DataFrame) -> None:
    photo, noise = sample()[1], augmentation_named("noise")
    clean = clean_view(decode(photo.read()), "squash")[None]
    drawn = draw(noise, 0, photo.id, "noise#3", 224)
    view = augment(noise, clean, {name: value[None] for name, value in drawn.items()})
    before, after = (encoder.encode_views(of).embedding for of in (clean, view))
    row = rows[(rows["photo"] == photo.id) & (rows["augmentation"] == "noise") & (rows.draw == 3)]
    assert row["l2_distance"].item() == L2Distance()(after, L2Distance().prepare(before)).item()
    assert (
        rows.groupby(KEYS)["l2_distance"]
        .nunique()
        .loc[:, ["noise", "blur", "crop"]]
        .eq(DRAWS)
        .all()
    )
    assert rows.groupby(KEYS)["l2_distance"].nunique().loc[:, "flip"].eq(1).all()


def test_tables_hold_the_mean_over_draws_and_the_worst(result: clipshift.Result) -> None:
    shift = result.shift
    groups = shift.groupby(KEYS)
    summary = result.summary.set_index(["augmentation", "measure"])["mean"]
    worst = result.draws[result.draws["statistic"] == "worst"]
    worst = worst.set_index(["augmentation", "measure"])["value"]
    for measure_name, by_hand in (
        ("cosine_similarity", groups["cosine_similarity"].min()),
        ("relative_shift", groups["relative_shift"].max()),
        ("retained", groups["retained"].min()),
        ("gaze_entropy_change", groups["gaze_entropy_change"].apply(lambda v: max(v, key=abs))),
    ):
        for name in NAMES:
            of_all = groups[measure_name].mean().loc[:, name].mean()
            assert summary[name, measure_name] == pytest.approx(of_all, abs=1e-12)
            of_worst = by_hand.loc[:, name].mean()
            assert worst[name, measure_name] == pytest.approx(of_worst, abs=1e-12)
    shifts = 1 - groups["cosine_similarity"].mean().groupby("augmentation").mean()
    ranking = result.ranking.set_index("augmentation")["shift"]
    pd.testing.assert_series_equal(ranking.sort_index(), shifts, check_names=False)
    means = mean_over_draws(shift).set_index(KEYS)["ssim"]
    pd.testing.assert_series_equal(means, groups["ssim"].mean().reindex(means.index))
    assert not {"draw_radius", "brightness"} & set(worst.index.get_level_values("measure"))


@pytest.mark.parametrize("by_class", [False, True])
def test_planned_photos_count_by_class_where_classes_are_resampled(
    result: clipshift.Result, by_class: bool
) -> None:
    """14 photos, of two classes with three and four with two."""
    rows = result.run.rows
    assert isinstance(rows, ShiftFile)
    groups = label_groups(list(labels_of(rows))) if by_class else None
    table = draw_table(rows, result.run.columns, 0, groups=groups)
    table = table[table["measure"] == "cosine_similarity"]
    values = table.pivot(index="augmentation", columns="statistic", values="value")
    shift = 1 - result.shift.groupby("augmentation")["cosine_similarity"].mean()
    variance = values["variance_class"] * ((2 * 9 + 4 * 4) / 14 if by_class else 1)
    variance += values["variance_photo"] + values["variance_draw"] / 2
    known = values[["variance_class", "variance_photo"]].gt(0).all(axis=1)  # cut off at 0
    assert known.any()
    expected = 1.96**2 * variance / (0.1 * shift) ** 2
    np.testing.assert_allclose(values["photos_2"][known], expected[known], rtol=1e-4)


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_several_draws_is_read_and_shown(result: clipshift.Result) -> None:
    again = clipshift.load_run(result.run.folder)
    assert again.shift["draw"].max() == DRAWS
    pd.testing.assert_frame_equal(again.draws, result.draws)
    page = (result.save(result.run.folder) / "report.html").read_text(encoding="utf-8")
    assert f"drawn {DRAWS} times" in page
    shares = result.draws[result.draws["statistic"].str.startswith("share_")]
    flip = shares[shares["augmentation"] == "flip"].set_index("statistic")["value"]
    assert flip["share_draw"] == 0
    assert set(flip.index) == {"share_class", "share_photo", "share_draw"}


def test_runs_are_compared_by_the_means_of_their_draws(result: clipshift.Result) -> None:
    run = result.run
    table = compare_pair(run, run, 0, ["noise"]).set_index(["augmentation", "measure"])
    means = result.summary.set_index(["augmentation", "measure"])["mean"]
    for name in NAMES:
        row = table.loc[name, "cosine_similarity"]
        assert row["mean_a"] == pytest.approx(means[name, "cosine_similarity"], abs=1e-12)
        assert (row["difference"], row["n"]) == (0, len(sample()))
    config = run.info.config.model_copy(update={"draws": 1})
    other = replace(run, info=run.info.model_copy(update={"config": config}))
    with pytest.raises(UserError, match=r"they differ in draws \(3 and 1\)"):
        compare_pair(run, other, 0, [])


def test_a_worst_value_is_the_one_that_tells_of_most_harm() -> None:
    values = np.array([[0.2, -0.5, 0.4], [np.nan] * 3])
    expected = {"cosine_similarity": -0.5, "relative_shift": 0.4, "gaze_entropy_change": -0.5}
    facts = COLUMNS | {
        "cosine_similarity": CosineSimilarity.facts,
        "gaze_entropy_change": GazeEntropyChange.facts,
    }
    for name, worst in expected.items():
        of_photos = facts[name].worst(values)
        assert of_photos[0] == worst
        assert np.isnan(of_photos[1])


def circle(one: np.ndarray, two: np.ndarray, three: np.ndarray) -> float:
    """The radius of the smallest circle around three points, from the sides of their triangle."""
    *others, longest = sorted(
        np.linalg.norm(a - b) for a, b in ((one, two), (two, three), (three, one))
    )
    if longest**2 >= np.square(others).sum():
        return longest / 2
    half = (longest + sum(others)) / 2
    area = np.sqrt(half * (half - longest) * np.prod([half - side for side in others]))
    return longest * np.prod(others) / (4 * area)


def test_smallest_ball_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    towards = np.array([2.0, 0.0, 0.0])
    for count in (2, 3, 6):
        embeddings = towards + rng.standard_normal((40, count, 3))
        points = np.stack([units(rows) for rows in embeddings])
        in_half = (points.sum(axis=1, keepdims=True) * points).sum(axis=2).min(axis=1) > 0.1
        pairs = [
            np.linalg.norm(points[:, a] - points[:, b], axis=1) / 2
            for a, b in combinations(range(count), 2)
        ]
        # Helly: caps of a half sphere have a point in common where every three of them have
        triples = [
            [circle(*rows[list(three)]) for rows in points]
            for three in combinations(range(count), 3)
        ]
        expected = np.max([*pairs, *triples], axis=0)
        assert ball_radius(embeddings)[in_half] == pytest.approx(expected[in_half], rel=1e-9)
        assert in_half.sum() > 5
    same = np.ones((1, 4, 8), np.float32)
    assert ball_radius(same) == pytest.approx(0, abs=1e-12)
    assert np.isnan(ball_radius(np.zeros((1, 2, 3)))).all()
    opposite = np.array([[[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]]])
    assert ball_radius(opposite) == pytest.approx(1)


def nested(
    rng: np.random.Generator, sizes: list[int], draws: int, deviations: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Made-up values of photos in classes, and their classes."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    of_class, of_photo, of_draw = deviations
    values = 3 + of_class * rng.standard_normal(len(sizes))[classes, None]
    values = values + of_photo * rng.standard_normal((len(classes), 1))
    return values + of_draw * rng.standard_normal((len(classes), draws)), classes


def test_components_are_those_of_the_mean_squares() -> None:
    values, classes = nested(np.random.default_rng(1), [1, 2, 5, 3, 4], 4, (1, 2, 3))
    photos, draws = values.shape
    of_photos = values.mean(axis=1)
    of_classes = np.array([values[classes == one].mean() for one in classes])
    draw_squares = np.square(values - of_photos[:, None]).sum() / (photos * (draws - 1))
    photo_squares = draws * np.square(of_photos - of_classes).sum() / (photos - 5)
    class_squares = draws * np.square(of_classes - values.mean()).sum() / 4
    typical = (photos - (1 + 4 + 25 + 9 + 16) / photos) / 4
    parts = {name: of.mean() for name, of in component_values(values, classes).items()}
    assert parts["draw"] == pytest.approx(draw_squares)
    assert parts["photo"] == pytest.approx((photo_squares - draw_squares) / draws)
    assert parts["class"] == pytest.approx((class_squares - photo_squares) / (draws * typical))
    alone = {name: of.mean() for name, of in component_values(values, None).items()}
    assert alone["photo"] == pytest.approx(of_photos.var(ddof=1) - draw_squares / draws)


def test_known_components_are_found_and_intervals_cover() -> None:
    rng = np.random.default_rng(2)
    deviations, repeats = (1.0, 2.0, 1.0), 150
    runs = [nested(rng, [6] * 20, 3, deviations) for _ in range(repeats)]
    statistics = [
        planning_values(values.mean(axis=1), component_values(values, classes), 6.0)
        for values, classes in runs
    ]
    of_class, of_photo, of_draw = np.square(deviations)
    widths = {k: (1.96 / 0.1 / 3) ** 2 * (6 * of_class + of_photo + of_draw / k) for k in (1, 5)}
    known = {
        "variance_class": of_class, "variance_photo": of_photo, "variance_draw": of_draw,
        "share_class": 1 / 6, "share_photo": 4 / 6, "share_draw": 1 / 6,
        "photos_1": widths[1], "photos_5": widths[5],
    }  # fmt: skip
    for name, truth in known.items():
        values = np.stack([of[name] for of in statistics], axis=1)
        low, high = mean_interval(values, 0, runs[0][1])
        assert np.median(values.mean(axis=0)) == pytest.approx(truth, rel=0.12)
        assert ((low <= truth) & (truth <= high)).mean() > 0.88


def test_planned_photos_give_the_planned_interval() -> None:
    rng = np.random.default_rng(3)
    values, _ = nested(rng, [1] * 4000, 5, (0, 1, 2))
    planned = planning_values(values.mean(axis=1), component_values(values, None))
    for draws in (1, 2, 5):
        photos = round(planned[f"photos_{draws}"].mean())
        sampled, _ = nested(rng, [1] * photos, draws, (0, 1, 2))
        low, high = mean_interval(sampled.mean(axis=1), 0)
        assert (high - low) / 2 / 3 == pytest.approx(0.1, rel=0.12)


def test_a_sweep_over_draws_measures_the_new_ones_alone(
    encoder: Encoder, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    whole = FeatureCache.set

    def spied(self: FeatureCache, digests: list[bytes], tensors: dict) -> None:
        drawn.extend(digests)
        whole(self, digests, tensors)

    monkeypatch.setattr(FeatureCache, "set", spied)
    redraws = FeatureCache(Cache(str(tmp_path), 1), "draws of a sweep")
    options = {"gallery": range(3), "redraws": redraws}
    measure(encoder, sample()[:3], augmentations(), 2, draws=DRAWS - 1, **options)
    table, *_ = measure(encoder, sample()[:3], augmentations(), draws=DRAWS, **options)
    assert [int(key.split()[0]) for key in drawn] == [2] * 3 + [3] * 3
    pd.testing.assert_frame_equal(table, rows, check_exact=True)


def test_stored_corruptions_have_one_draw(tmp_path: Path) -> None:
    (tmp_path / "fog" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="fog is stored and is not drawn: use draws=1"):
        clipshift.measure_shift(
            [torch.zeros(3, 8, 8)], "tiny", {"fog": Stored(str(tmp_path), "fog", 1)}, draws=2
        )
