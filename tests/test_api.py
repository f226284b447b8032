"""The Python interface: the same numbers as the command's, for what a caller holds."""

import inspect
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import albumentations
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from kornia import augmentation as kornia
from PIL import Image
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist
from skimage import data as photographs
from support.models import VIT, write_hub_folder
from support.terminal import ROOT
from torch import nn
from torch.utils.data import Dataset
from torchmetrics.image import PeakSignalNoiseRatio
from torchvision import transforms as v1
from torchvision.transforms import v2

import clipshift
from clipshift.api import OTHER_DEFAULTS
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.data.dataset import ViewDataset
from clipshift.data.memory import photos_of
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.errors import UserError
from clipshift.options import EvaluateOptions, default_of, nested, options_of
from clipshift.report.charts.gaze import gaze_over, gaze_over_each
from clipshift.report.notes import run_notes
from clipshift.results.columns import ShiftFile
from clipshift.results.intervals import mean_interval

NAMES = {"cat": ["chelsea.png"], "sky": ["moon.png", "rocket.jpg"]}
ROTATION = v2.RandomRotation(30)
FAST = {"measures": ["cosine_similarity", "ssim"], "prompts": "none", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs in two class folders."""
    root = tmp_path_factory.mktemp("photos")
    source = Path(photographs.__file__).parent
    for label, names in NAMES.items():
        (root / label).mkdir()
        for name in names:
            (root / label / name).write_bytes((source / name).read_bytes())
    return root


@pytest.fixture(scope="module")
def result(folder: Path, hub_folder: Path) -> clipshift.Result:
    return clipshift.measure_shift(
        folder, hub_folder, ["noise", "flip"], ["paper", 2], layers=True,
        measures=["cosine_similarity", "gaze_divergence", "ssim"], prompts=["a {}"], progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(result: clipshift.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("saved") / "run")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("without_page")
def test_the_numbers_are_the_commands(
    result: clipshift.Result, folder: Path, hub_folder: Path, tmp_path: Path
) -> None:
    cfg = compose_config(
        "evaluate",
        [
            "data=folder", f"data.root={folder}", f"model.checkpoint={hub_folder}", "logger=none",
            "aug=[noise,flip]", "severity=[paper,2]", "layers=true", "trainer=cpu", "cache=off",
            "metric=[cosine_similarity,gaze_divergence,ssim]", "prompts.templates=['a {}']",
            "data.batch_size=2",
        ],
    )  # fmt: skip
    evaluate(cfg, tmp_path)
    pd.testing.assert_frame_equal(result.shift, ShiftFile(tmp_path / "shift.parquet").read())
    for table in ("summary", "ranking", "layers"):
        read = pd.read_csv(tmp_path / f"{table}.csv", dtype={"severity": str})
        pd.testing.assert_frame_equal(getattr(result, table), read, check_dtype=False)


def test_images_and_paths_are_the_photos_of_their_folder(folder: Path, hub_folder: Path) -> None:
    def rows(photos: object, **options: object) -> pd.DataFrame:
        return clipshift.measure_shift(
            photos, hub_folder, ["noise", "flip"], **FAST, **options
        ).shift

    expected = rows(folder)
    assert set(expected["label"]) == set(NAMES)
    pd.testing.assert_frame_equal(rows(files(folder)), expected)
    pd.testing.assert_frame_equal(rows([Image.open(f) for f in files(folder)]), expected)
    batched = rows([Image.open(f) for f in files(folder)], batch_size=2, num_workers=2)
    pd.testing.assert_frame_equal(batched, expected)


def test_arrays_tensors_and_data_sets_have_the_same_rows(folder: Path, hub_folder: Path) -> None:
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files(folder)]
    pixels = np.stack([np.array(image) for image in images])
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255

    class Labelled(Dataset):
        classes, targets = ("cat", "sky"), (0, 1, 1)

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return tensors[index], self.targets[index]

    labels = ["cat", "sky", "sky"]
    given = [(list(pixels), labels), (pixels, labels), (tensors, labels), (Labelled(), None)]
    first, *others = (
        clipshift.measure_shift(photos, hub_folder, "noise", labels=names, **FAST).shift
        for photos, names in given
    )
    assert list(first["photo"]) == ["0", "1", "2"]
    assert list(first["label"]) == labels
    for other in others:
        pd.testing.assert_frame_equal(other, first)


def test_a_hugging_face_data_set_has_the_rows_of_its_images(folder: Path, hub_folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "sky"])}
    )
    stored = [{"bytes": file.read_bytes(), "path": None} for file in files(folder)]
    loaded = datasets.Dataset.from_dict({"image": stored, "label": [0, 1, 1]}, features)
    found = photos_of(loaded)
    assert [photo.read() for photo in found] == [file.read_bytes() for file in files(folder)]
    rows = clipshift.measure_shift(loaded, hub_folder, "flip", **FAST).shift
    assert list(rows["label"]) == ["cat", "sky", "sky"]
    pixels = clipshift.measure_shift(folder, hub_folder, "flip", **FAST).shift  # no random numbers
    np.testing.assert_array_equal(rows["cosine_similarity"], pixels["cosine_similarity"])


def test_the_classes_are_those_of_all_photos_whatever_the_sample(
    folder: Path, hub_folder: Path, tmp_path: Path
) -> None:
    options = {"measures": "cosine_similarity", "prompts": ["a {}"], "progress": False}
    drawn = clipshift.measure_shift(folder, hub_folder, "flip", sample=1, **options)
    assert drawn.shift["photo"].nunique() == 1
    assert drawn.run.info.data.classes == ["cat", "sky"]


def alike(classes: int = 6) -> tuple[list[np.ndarray], list[str]]:
    """Three hardly different photographs of each class, and their classes."""
    pixels = [np.asarray(decode(photo.read()).resize((48, 48))) for photo in sample()[:classes]]
    brighter = [np.clip(one.astype(int) + step, 0, 255) for one in pixels for step in (0, 3, 6)]
    return [one.astype(np.uint8) for one in brighter], [f"c{k // 3}" for k in range(3 * classes)]


def test_classes_are_resampled_where_their_photos_shift_alike(hub_folder: Path) -> None:
    pixels, labels = alike()
    groups = np.repeat(np.arange(6), 3)
    for resample, expected in (("auto", groups), ("photos", None)):
        made = clipshift.measure_shift(
            pixels, hub_folder, "flip", labels=labels, resample=resample, **FAST
        )
        resampled = made.run.info.resampled
        assert resampled.unit == ("photos" if expected is None else "classes")
        assert resampled.design_effect > 2
        told = " ".join(run_notes(made.run))
        assert ("too narrow" in told) == (expected is None)
        assert ("6 classes, of 18 photos" in told) == (expected is not None)
        row = made.summary.set_index("measure").loc["cosine_similarity"]
        # photos are in the order of ids: 0, 1, 10, …
        values = made.shift["cosine_similarity"].to_numpy()
        order = made.shift["photo"].astype(int).to_numpy() // 3
        ends = mean_interval(values, 0, None if expected is None else order)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(np.clip(ends, -1, 1))
    with pytest.raises(UserError, match="resample=classes requires two classes"):
        clipshift.measure_shift(pixels, hub_folder, "flip", resample="classes", **FAST)


def test_identical_photos_make_no_collapsed_model(hub_folder: Path) -> None:
    run = clipshift.measure_shift([decode(sample()[0].read())] * 3, hub_folder, "noise", **FAST).run
    assert not run.info.collapsed
    assert "collapsed" not in " ".join(run_notes(run))


def test_numbers_say_among_how_many_and_over_which_photos(hub_folder: Path, tmp_path: Path) -> None:
    pixels, labels = alike(2)
    options = {"measures": "cosine_similarity", "prompts": ["a {}"], "progress": False,
               "save_embeddings": True, "folder": tmp_path}  # fmt: skip
    told = {}
    for name, given in (("all", labels), ("some", [None, *labels[1:]]), ("one", ["c0"] * 6)):
        run = clipshift.measure_shift(pixels, hub_folder, "flip", labels=given, **options).run
        told[name] = " ".join(run.info.notes)
        assert run.columns["retained"].short == "retained among 6"
        if name != "one":
            assert run.columns["zero_shot_top1_clean"].short == "top-1 clean of 2"
            counts = run.summary.set_index("measure")["n"]
            labelled = [index for index, label in enumerate(given) if label]
            assert counts["zero_shot_top1"] == counts["neighbour_top1"] == len(labelled)
            views = load_file(tmp_path / "embeddings.safetensors")
            for column, view in (("neighbour_top1", "flip"), ("neighbour_top1_clean", "clean")):
                distances = cdist(views[view][labelled], views["clean"][labelled], "cosine")
                np.fill_diagonal(distances, np.inf)
                of_nearest = np.array(given)[labelled][distances.argmin(axis=1)]
                values = run.shift.set_index("photo")[column].dropna()
                assert values.tolist() == (of_nearest == np.array(given)[labelled]).tolist()
        else:
            assert "neighbour_top1" not in run.shift
        assert "neighbour10_top1" not in run.shift  # there are no ten others
    assert "without a label: 1 of 6" in told["some"]
    assert "without a label" not in told["all"] + told["one"]
    assert "they require two classes, and the photos have one, c0" in told["one"]
    assert "require two classes" not in told["all"] + told["some"]


def test_photos_in_memory_lose_nothing(folder: Path) -> None:
    file = folder / "cat" / "chelsea.png"
    held, other = photos_of([Image.open(file), Image.open(folder / "sky" / "moon.png")])
    again = pickle.loads(pickle.dumps(held))
    for photo in (held, again):
        assert photo.id == "cat/chelsea.png"
        with Image.open(folder / "cat" / "chelsea.png") as image:
            width, height = image.size
            assert photo.read() == b"P6\n%d %d\n255\n" % (width, height) + image.tobytes()
    assert other.label == "sky"


@pytest.mark.parametrize(
    ("photos", "options", "words"),
    [
        ([], {}, "the list of photos is empty"),
        (3, {}, "int is not a list of photos"),
        (np.zeros((2, 8, 8, 3)), {"folder": "/proc/x"}, "cannot write to the folder /proc/x: No"),
        (["a.png", "./a.png"], {}, "a.png is listed 2 times"),
        (torch.rand(2, 3, 8, 8), {"labels": ["a"]}, "1 labels for 2 photos"),
        (torch.rand(2, 3, 8, 8) * 3, {}, "they must be in \\[0, 1\\]"),
        (np.full((2, 8, 8, 3), 255.0), {}, "an array has values from 255 to 255: they must be in"),
        ([np.zeros((3, 8, 8), int)], {}, "an array of int64 has shape \\(3, 8, 8\\): it must be"),
        ("nowhere/*.jpg", {}, "no file matches nowhere/\\*.jpg"),
        ((path for path in ["a.png"]), {}, "generator is not a list of photos: .* pass a list"),
        ([object()], {}, "not object"),
        ("nowhere", {}, "no folder or file nowhere"),
        (None, {"model": "lit"}, "did you mean 'lite'"),
        (None, {"augmentations": "nois"}, "did you mean 'noise'"),
        (None, {"severities": 7}, "severity=7 is out of range"),
        (None, {"measures": ["cosin"]}, "no 'cosin' in group metric"),
        (None, {"seed": -1}, "seed=-1 is out of range"),
        (None, {"model": nn.Identity()}, "encode_image"),
        (None, {"model": 5}, "int is not a model"),
        (None, {"model": ""}, "no model ''"),
        (None, {"labels": ["a"] * 14}, "labels are only for lists of photos"),
        (None, {"tokenizer": str}, "for a model in memory"),
        (None, {"galery": 3}, "no parameter 'galery'; did you mean 'gallery'"),
        (None, {"severity": 3}, "no parameter 'severity'; did you mean 'severities'"),
        (None, {"matching_target": -1}, "matching.target=-1 is out of range"),
        (None, {"layers": "yes"}, "layers=yes is out of range: it must be true or false"),
        (None, {"augmentations": []}, "aug is empty"),
        (None, {"augmentations": [3]}, "aug.int: int is not an augmentation"),
        (None, {"augmentations": [v2.RandomRotation]}, "RandomRotation is a class: pass an object"),
        (None, {"augmentations": [ROTATION, ROTATION]}, "two are called random_rotation"),
        (None, {"augmentations": {"a@2": ROTATION}}, "'a@2' is not a name"),
        (None, {"augmentations": {"clean": ROTATION}}, "'clean' is not a name"),
        (None, {"augmentations": {"mine": "paper"}}, "'paper' is 9 parts"),
        (None, {"augmentations": {"mine": "nois"}}, "did you mean 'noise'"),
        (None, {"augmentations": [ROTATION], "severities": 2}, "random_rotation has no ladder"),
        (None, {"measures": [PeakSignalNoiseRatio]}, "PeakSignalNoiseRatio is a class"),
        (None, {"measures": [abs]}, "metric.abs: .* is not a measure"),
        (None, {"device": "gpus"}, "device=gpus: .*; use cpu, cuda"),
        (
            None,
            {"device": "cuda:99"},
            "device=cuda:99: .*; use cpu, cuda",
        ),
        (None, {"measures": ()}, "metric is empty"),
        (None, {"prompts": ["a photo"]}, "prompts.templates=.* is out of range"),
    ],
)
def test_mistakes_are_told_in_one_line(
    photos: object, options: dict, words: str, hub_folder: Path
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        clipshift.measure_shift(
            photos, **{"model": hub_folder, "augmentations": "flip"} | FAST | options
        )
    assert "\n" not in str(raised.value)


def halves(photo: torch.Tensor) -> torch.Tensor:
    return photo / 2


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"augmentations": ROTATION}, ["random_rotation"]),
        ({"augmentations": [ROTATION]}, ["random_rotation"]),
        ({"augmentations": ["noise", ROTATION]}, ["noise", "random_rotation"]),
        ({"augmentations": {"noise": "noise", "mine": v2.GaussianBlur(9)}}, ["noise", "mine"]),
        ({"augmentations": {"other": "noise"}}, ["other"]),
        ({"augmentations": [v1.Compose([v1.RandomRotation(9)]), halves]}, ["compose", "halves"]),
        ({"augmentations": [lambda photo: photo.flip(2)]}, ["lambda"]),
        ({"augmentations": [kornia.RandomHorizontalFlip(p=1)]}, ["random_horizontal_flip"]),
        ({"augmentations": [albumentations.HorizontalFlip(p=1)]}, ["horizontal_flip"]),
        ({"measures": PeakSignalNoiseRatio(1.0)}, ["peak_signal_noise_ratio"]),
        ({"measures": [PeakSignalNoiseRatio(1.0), "ssim"]}, ["peak_signal_noise_ratio", "ssim"]),
        ({"measures": {"mine": PeakSignalNoiseRatio(1.0), "ssim": "ssim"}}, ["mine", "ssim"]),
        ({"model": lambda views: views.mean(dim=(2, 3))}, []),
        ({"device": "cpu"}, []),
        ({"device": torch.device("cpu")}, []),
        ({"inside": True}, []),
    ],
)
def test_calls_that_people_make(options: dict, names: list[str], hub_folder: Path) -> None:
    photos = np.random.default_rng(0).random((2, 32, 32, 3))
    fast = {"model": hub_folder, "augmentations": "flip", "measures": "cosine_similarity"}
    fast |= {"prompts": "none", "progress": False}
    made = clipshift.measure_shift(photos, **fast | options)
    if "augmentations" in options:
        assert list(made.shift["augmentation"].unique()) == names
        assert list(made.run.info.config.aug) == names
    else:
        assert set(names) <= set(made.shift)
        assert made.shift[names].notna().all(axis=None)
    assert made.run.info.device == "cpu" or "device" not in options


def test_a_transform_of_ones_own_is_keyed_by_its_name_alone(hub_folder: Path) -> None:
    photos = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    metrics = {"psnr": PeakSignalNoiseRatio(data_range=1.0), "rmse": "rmse"}

    def rows(augmentations: object, **options: object) -> pd.DataFrame:
        options = {"measures": metrics, "prompts": "none", "progress": False} | options
        made = clipshift.measure_shift(photos, hub_folder, augmentations, **options)
        return made.shift.set_index(["augmentation", "photo"]).sort_index()

    listed = rows(["noise", ROTATION], batch_size=1)
    named = rows({"random_rotation": v2.RandomRotation(30), "noise": "noise"}, num_workers=1)
    pd.testing.assert_frame_equal(listed, named)
    pd.testing.assert_frame_equal(listed.loc[["noise"]], rows("noise"))
    np.testing.assert_allclose(listed["psnr"], -20 * np.log10(listed["rmse"]), rtol=1e-4)
    assert listed.loc["random_rotation", "rmse"].nunique() == 3  # an angle for each photo


def test_patterns_single_photos_and_floats(folder: Path, hub_folder: Path) -> None:
    assert [p.id for p in photos_of(f"{folder}/*/*.*g")] == [p.id for p in photos_of(files(folder))]
    assert [p.id for p in photos_of(folder / "**" / "*.png")] == ["cat/chelsea.png", "sky/moon.png"]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    held = [pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)]
    held += [pixels / 255, (pixels / 255).astype(np.float32), held[2] / 255]
    contents = {photo.read() for one in held for photo in [*photos_of(one), *photos_of([one])]}
    assert contents == {b"P6\n5 6\n255\n" + pixels.tobytes()}
    assert len(photos_of(np.zeros((4, 6, 5), np.uint8))) == 4  # in grey


def test_a_model_and_transforms_in_memory(folder: Path, hub_folder: Path) -> None:
    transforms = {"invert": v2.RandomInvert(p=1), "jitter": v2.ColorJitter(brightness=0.5)}
    model = open_clip.create_model(f"local-dir:{hub_folder}")
    held = clipshift.measure_shift(folder, model, transforms, **FAST)
    stored = clipshift.measure_shift(folder, hub_folder, transforms, **FAST)
    pd.testing.assert_frame_equal(held.shift, stored.shift)
    assert set(held.shift["augmentation"]) == set(transforms)

    class Mean(nn.Module):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    unchanged = {"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}
    rows = clipshift.measure_shift(folder, Mean(), transforms, preprocess=unchanged, **FAST).shift
    clean = ViewDataset(photos_of(folder), {}, 0, "squash")
    means = {photo.id: clean[i].clean.mean((1, 2)) for i, photo in enumerate(clean.photos)}
    for row in rows[rows["augmentation"] == "invert"].itertuples():
        mean = means[row.photo]
        expected = torch.cosine_similarity(mean, 1 - mean, dim=0).item()
        assert row.cosine_similarity == pytest.approx(expected, abs=1e-5)


def test_a_result_shows_itself_and_its_figures(result: clipshift.Result) -> None:
    table = repr(result)
    assert "noise" in table
    shown = result._repr_html_()
    assert "<svg" in shown
    assert "severity 2" in shown
    first, folded = shown.partition("</table>")[0], shown.partition("<details>")[2]
    assert "gaze divergence" in folded.partition("</details>")[0]
    assert "gaze divergence" not in first
    most = result.table().loc["paper", "relative_shift"].max()
    assert re.search(rf"208,122,24[^>]*><b>{most:.3f}<", first)  # the largest shift is painted
    assert "http://" not in shown.replace("http://www.w3.org/", "")
    assert result.plot_ranking().to_dict()["datasets"]
    for photo in (0, "sky/moon.png"):
        pictures = next(iter(result.plot_gaze(photo).to_dict()["datasets"].values()))
        assert [row["name"] for row in pictures] == [
            "clean", "noise@paper", "flip@paper", "noise@2", "flip@2"
        ]  # fmt: skip
    for photo, words in (("sky/mon.png", "did you mean 'sky/moon.png'"), (3, "no photo '3 of 3'")):
        with pytest.raises(UserError, match=words):
            result.plot_gaze(photo)


def test_gaze_is_a_colour_over_the_picture_in_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    grey = pixels @ [0.299, 0.587, 0.114]
    half = (int("a5", 16) + int("cf", 16)) / 2  # red of the two colours in the middle
    for share, red, opacity in ((0.0, 0, 0.25), (0.1, half, 0.5), (0.2, 252, 0.75), (9, 252, 0.75)):
        seen = np.asarray(gaze_over(picture, np.full((2, 2), share), 0.2))
        expected = (1 - opacity) * grey + opacity * red
        np.testing.assert_allclose(seen[..., 0], expected, atol=2)
    gazes = {"clean": np.eye(2), "flip": np.ones((2, 2)), "dark": np.zeros((2, 2))}
    seen = gaze_over_each(dict.fromkeys(gazes, picture), gazes)  # shares 1/2 and 1/4
    assert list(seen) == ["clean", "flip"]
    assert seen["flip"] == gaze_over(picture, np.full((2, 2), 0.25), 0.5)


def test_a_saved_result_is_a_run(result: clipshift.Result, saved: Path) -> None:
    assert "noise" in (saved / "report.html").read_text()
    again = clipshift.load_run(saved)
    pd.testing.assert_frame_equal(again.shift, result.shift)
    assert len(again.plot_gaze(0).to_dict()["datasets"])
    figures = {file.name for file in (saved / "figures").iterdir()}
    assert {"ranking@paper.svg", "ranking@2.svg"} <= figures


def test_a_saved_result_finds_its_photos_or_names_those_that_are_missing(
    folder: Path, hub_folder: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(folder, tmp_path / "photos")
    paths = files(copied)[::-1]
    options = {"measures": "cosine_similarity", "prompts": "none", "progress": False}
    clipshift.measure_shift(paths, hub_folder, "flip", folder=tmp_path / "run", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = clipshift.load_run(tmp_path / "run")
    assert len(again.plot_gaze("sky/moon.png").to_dict()["datasets"])
    (copied / "sky" / "moon.png").unlink()
    with pytest.warns(UserWarning, match="1 of 3 photos are missing: sky/moon.png"):
        lacking = clipshift.load_run(tmp_path / "run")
    with pytest.raises(UserError, match="cannot be shown: it cannot be read any more"):
        lacking.plot_gaze("sky/moon.png")

    pixels = np.random.default_rng(0).random((2, 32, 32, 3))
    own = {"half": halves, "flip": "flip"}
    options |= {"save_views": 1, "save_gaze": 2, "folder": tmp_path / "held"}
    held = clipshift.measure_shift(pixels, hub_folder, own, **options)
    with pytest.warns(UserWarning, match="half is made by .*halves"):
        loaded = clipshift.load_run(tmp_path / "held", photos=pixels)
    assert loaded.plot_gaze(0).to_dict() == held.plot_gaze(0).to_dict()  # its views were kept
    with pytest.raises(UserError, match="half is made by"):
        loaded.plot_gaze(1)
    held = clipshift.measure_shift(pixels, hub_folder, "flip", **options)
    with pytest.warns(UserWarning, match="passed in memory: pass them again, load_run"):
        loaded = clipshift.load_run(tmp_path / "held")
    with pytest.raises(UserError, match="passed in memory"):
        loaded.plot_gaze(1)
    assert clipshift.load_run(tmp_path / "held", photos=pixels).plot_gaze(1)

    options |= {"save_views": 0, "save_gaze": 0}
    many = clipshift.measure_shift(np.concatenate([pixels] * 2), hub_folder, "flip", **options)
    assert many.plot_gaze(0)  # a photo of the page


def test_a_model_without_gaze_says_so(folder: Path) -> None:
    class Mean(nn.Module):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    unchanged = {"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}
    made = clipshift.measure_shift(folder, Mean(), "flip", preprocess=unchanged, **FAST)
    with pytest.raises(UserError, match="Mean has no gaze: its image tower pools neither"):
        made.plot_gaze(0)


def test_a_table_has_the_means_of_the_leading_measures(result: clipshift.Result) -> None:
    table = result.table()
    assert list(table) == [
        "relative_shift",
        "cosine_similarity",
        "retained",
        "zero_shot_top1",
        "ssim",
    ]
    means = result.shift.groupby(["severity", "augmentation"])[list(table)].mean()
    pd.testing.assert_frame_equal(table.sort_index(), means.sort_index(), check_names=False)
    assert table.loc["2", "cosine_similarity"].is_monotonic_increasing


def test_two_results_are_compared_photo_by_photo(
    result: clipshift.Result, folder: Path, hub_folder: Path, tmp_path: Path
) -> None:
    other = clipshift.measure_shift(
        folder, write_hub_folder(tmp_path, VIT, 1), ["noise", "flip"], ["paper", 2],
        measures=["cosine_similarity", "ssim"], prompts=["a {}"], progress=False,
    )  # fmt: skip
    table = clipshift.compare(result, other)
    mixed = clipshift.compare(str(result.run.folder), other.run)
    pd.testing.assert_frame_equal(mixed, table)
    for wrong, words in (("nowhere", "no finished run in nowhere"), (3, "int is not a run: pass")):
        with pytest.raises(UserError, match=words):
            clipshift.compare(result, wrong)
    rows = table[(table["measure"] == "cosine_similarity") & (table["augmentation"] == "noise")]
    keys = ["augmentation", "severity", "photo"]
    a, b = (one.shift.set_index(keys)["cosine_similarity"] for one in (result, other))
    for row in rows.itertuples():
        difference = (b - a).loc["noise", row.severity].mean()
        assert row.difference == pytest.approx(difference)
    less = clipshift.measure_shift(folder, hub_folder, "flip", sample=2, **FAST)
    with pytest.raises(UserError, match="cannot be compared photo by photo: they differ in"):
        clipshift.compare(result, less)


def test_every_option_of_an_evaluation_is_a_parameter() -> None:
    parameters = inspect.signature(clipshift.measure_shift).parameters
    described = {n: one for n, one in options_of(EvaluateOptions) if nested(one) is None}
    named_otherwise = {"severity": "severities", "zero_shot.classes": "classes"}
    for name, one in described.items():
        parameter = named_otherwise.get(name) or name.removeprefix("data.").replace(".", "_")
        default = OTHER_DEFAULTS.get(parameter, default_of(one))
        assert parameters[parameter].default == default, name
        assert f"\n        {parameter}: " in clipshift.measure_shift.__doc__
    assert all(one.kind is not one.VAR_KEYWORD for one in parameters.values())
    earlier = [
        "layers",
        "sample",
        "resample",
        "resize",
        "precision",
        "seed",
        "batch_size",
        "num_workers",
    ]
    assert {*earlier, "save_gaze", "matching_file"} <= set(parameters)


def test_a_run_records_what_the_command_would(saved: Path, folder: Path, hub_folder: Path) -> None:
    composed = compose_config(
        "evaluate",
        [
            "data=folder", f"data.root={folder}", "logger=none", "aug=[noise,flip]", "layers=true",
            "severity=[paper,2]", "metric=[cosine_similarity,gaze_divergence,ssim]",
            "prompts.templates=['a {}']", f"model.checkpoint={hub_folder}", "save.gaze=1000",
            f"model.name={hub_folder.name}", "data.num_workers=0",
        ],
    )  # fmt: skip
    expected = plain(composed)
    assert expected["data"].pop("classnames") is None
    facts = json.loads((saved / "run.json").read_text())
    assert facts["config"] == expected
    assert list(facts["config"]["aug"]) == ["noise", "flip"]


def test_any_option_can_be_set(folder: Path, hub_folder: Path, tmp_path: Path) -> None:
    made = clipshift.measure_shift(
        folder, hub_folder, "noise", ("paper", "matched"), matching_target=0.8, matching_photos=1,
        gallery=2, save_views=1, save_embeddings=True, folder=tmp_path, skip=0, **FAST,
    )  # fmt: skip
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["matching"]["target"] == 0.8
    assert facts["gallery"] == 2
    assert facts["config"]["severity"] == ["paper", "matched"]
    assert facts["config"]["matching"] == {
        "distortion": None,
        "target": 0.8,
        "photos": 1,
        "file": None,
    }
    assert (tmp_path / "embeddings.safetensors").exists()
    assert (tmp_path / "views.safetensors").exists()
    again = clipshift.measure_shift(
        folder, hub_folder, "noise", "matched", matching_file=tmp_path / "calibration.json", **FAST
    )
    matched = made.shift[made.shift["severity"] == "matched"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.shift[["photo", "ssim"]], matched[["photo", "ssim"]])


# --- the names that clipshift has ----------------------------------------------------------------


def test_the_public_names() -> None:
    names = ["Result", "UserError", "__version__", "check_budget", "compare", "leaderboard"]
    names += ["load_run", "measure_shift", "parity"]
    assert dir(clipshift) == names
    assert all(getattr(clipshift, name) for name in names)
    assert clipshift.UserError is UserError
    assert clipshift.__version__ == version("clipshift")
    with pytest.raises(AttributeError, match="no attribute 'mesure_shift'"):
        clipshift.mesure_shift()
    assert (Path(clipshift.__file__).parent / "py.typed").exists()


FOREIGN = (
    "PIL", "altair", "huggingface_hub", "hydra", "jinja2", "kornia", "lightning_utilities", "numpy",
    "omegaconf", "open_clip", "pandas", "pyarrow", "pydantic", "pytorch_lightning", "rich", "scipy",
    "skimage", "timm", "torch", "torchmetrics", "torchvision", "wandb", "yaml",
)  # fmt: skip
"""Packages that type checkers need minutes to read, and whose types clipshift's names need not."""


def test_type_checkers_see_the_public_names(tmp_path: Path) -> None:
    names = [name for name in dir(clipshift) if name != "__version__"]
    code = "".join(f"reveal_type(clipshift.{name})\n" for name in [*names, "__version__"])
    (tmp_path / "user.py").write_text(f"import clipshift\n{code}")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n"
        f"[mypy-{','.join(f'{package}.*' for package in FOREIGN)}]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}", "user.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == len(names) + 1, done.stdout
    assert "clipshift.api.Result" in done.stdout
    assert not any('"Any"' in line for line in revealed), done.stdout


def test_importing_clipshift_is_quick() -> None:
    code = "import sys, clipshift; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
