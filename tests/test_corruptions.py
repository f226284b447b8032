"""Stored corruptions as views of their clean photographs, and the mean corruption error."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import albumentations
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import rankdata
from support.terminal import ROOT
from torchvision.transforms import CenterCrop, Compose, Resize

from clipshift.augment.keyed import augment
from clipshift.augment.stored import Stored
from clipshift.cli.build import make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.cli.report import remake_report
from clipshift.data.corrupted import imagenet_c
from clipshift.data.dataset import Skipped, View, ViewDataset, clean_view, collate
from clipshift.errors import UserError
from clipshift.report.answer import corruption_error
from clipshift.results.compatibility import differing_views
from clipshift.results.corruptions import (
    ALEXNET_ERROR,
    corruption_error_interval,
    corruption_errors,
    errors_by_corruption,
    mean_corruption_error,
    shift_and_error,
)
from clipshift.results.runs import read_run

CLASSES = ["n01440764", "n01443537", "n02123045"]
SIZES = [(300, 260), (260, 340), (224, 224)]


def corrupted(name: str, level: int) -> albumentations.BasicTransform:
    """Albumentations' own corruptions, one for each name of ImageNet-C."""
    amount = level / 5
    kinds = {
        "noise": lambda: albumentations.GaussNoise(std_range=(amount / 2, amount / 2), p=1),
        "blur": lambda: albumentations.GaussianBlur((0, 0), (2 * amount, 2 * amount), p=1),
        "snow": lambda: albumentations.RandomSnow(brightness_coeff=1 + amount, p=1),
        "frost": lambda: albumentations.Posterize(num_bits=7 - level, p=1),
        "fog": lambda: albumentations.RandomFog(fog_coef_range=(amount, amount), p=1),
        "brightness": lambda: albumentations.RandomBrightnessContrast((amount,) * 2, (0, 0), p=1),
        "contrast": lambda: albumentations.RandomBrightnessContrast((0, 0), (-amount,) * 2, p=1),
        "elastic": lambda: albumentations.ElasticTransform(alpha=40 * level, sigma=6, p=1),
        "pixelate": lambda: albumentations.Downscale((0.6 - amount / 2,) * 2, p=1),
        "jpeg": lambda: albumentations.ImageCompression(quality_range=(60 - 10 * level,) * 2, p=1),
    }
    return next(make() for part, make in kinds.items() if part in name)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ImageNet-C's layout, made as ``make_imagenet_c.py`` does; and the clean photographs."""
    from skimage import data

    top = tmp_path_factory.mktemp("stored")
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    cut = Compose([Resize(256), CenterCrop(224)])
    for index, (label, size) in enumerate(zip(CLASSES, SIZES, strict=True)):
        name = f"{label}/ILSVRC2012_val_{index:08d}.JPEG"
        clean = Image.fromarray(photos[index]).resize(size)
        (top / "val" / label).mkdir(parents=True)
        clean.save(top / "val" / name, quality=95)
        pixels = np.asarray(cut(Image.open(top / "val" / name).convert("RGB")))
        if size == (224, 224):
            pixels = np.asarray(Image.open(top / "val" / name))
        for corruption in ALEXNET_ERROR:
            for level in range(1, 6):
                transform = corrupted(corruption, level)
                transform.set_random_seed(index)
                file = top / "c" / corruption / str(level) / name
                file.parent.mkdir(parents=True)
                view = Image.fromarray(transform(image=pixels)["image"])
                view.save(file, quality=85, optimize=True)
    return top / "c", top / "val"


def made(corruptions: Path, *names: str, levels: object = (1, 5)) -> dict[str, Stored]:
    return {name: Stored(str(corruptions), name, levels) for name in names}  # type: ignore[arg-type]


def test_views_are_the_stored_photographs_of_the_same_class_and_name(
    stored: tuple[Path, Path],
) -> None:
    root, clean = stored
    photos = imagenet_c(str(root), str(clean))
    assert [p.id for p in photos] == sorted(str(f.relative_to(clean)) for f in clean.glob("*/*"))
    assert [p.label for p in photos] == ["tench", "goldfish", "tabby cat"]
    augmentations = made(root, "fog", "jpeg_compression")
    batch = collate([ViewDataset(photos, augmentations, 0, "crop")[i] for i in (2, 0, 1)])
    for name, augmentation in augmentations.items():
        for level in (1, 5):
            views = augment(augmentation, batch.clean, batch.draws[name], level)
            for view, index in zip(views, batch.index.tolist(), strict=True):
                file = root / name / str(level) / photos[index].id
                expected = torch.from_numpy(np.array(Image.open(file))) / 255
                assert torch.equal(view, expected.movedim(-1, 0))


def test_clean_views_are_cut_as_the_corrupted_ones_were(stored: tuple[Path, Path]) -> None:
    root, clean = stored
    cut = Compose([Resize(256), CenterCrop(224)])
    dataset = ViewDataset(imagenet_c(str(root), str(clean)), {}, 0, "crop")
    for index, photo in enumerate(dataset.photos):
        image = Image.open(clean / photo.id)
        expected = image if image.size == (224, 224) else cut(image)
        item = dataset[index]
        assert isinstance(item, View)
        assert torch.equal(item.clean, clean_view(expected, "crop"))
        assert photo.length() == len(photo.read())


def test_photographs_lie_as_they_did_when_they_were_corrupted(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    """The scripts that made the sets know no EXIF orientation."""
    root, clean = stored
    shutil.copytree(clean, tmp_path / "val")
    (file,) = (tmp_path / "val" / CLASSES[0]).iterdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    segment = exif.tobytes()
    head, rest = file.read_bytes()[:2], file.read_bytes()[2:]
    file.write_bytes(head + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + rest)
    assert Image.open(file).getexif()[0x0112] == 6
    turned, as_it_was = (
        ViewDataset(imagenet_c(str(root), str(val)), {}, 0, "crop")[0]
        for val in (tmp_path / "val", clean)
    )
    assert isinstance(turned, View)
    assert isinstance(as_it_was, View)
    assert torch.equal(turned.pixels, as_it_was.pixels)


def test_what_has_no_counterpart_or_is_broken_says_so(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    for place, name in zip(stored, ("c", "val"), strict=True):
        shutil.copytree(place, tmp_path / name)
    root, clean = tmp_path / "c", tmp_path / "val"
    ids = [str(f.relative_to(clean)) for f in sorted(clean.glob("*/*"))]
    (root / "fog" / "5" / ids[0]).write_bytes(b"broken")
    (root / "fog" / "5" / ids[1]).unlink()
    (clean / ids[2]).write_bytes(b"broken")
    shutil.copytree(clean / CLASSES[0], clean / "n02129165")  # no corruptions of it
    first = sorted(root.glob("*/1"))[0]
    (first / CLASSES[1] / "more.JPEG").write_bytes(b"")
    photos = imagenet_c(str(root), str(clean))
    dataset = ViewDataset(photos, made(root, "fog"), 0, "crop")
    items = [dataset[index] for index in range(len(photos))]
    reasons = {photos[i.index].id: i.reason for i in items if isinstance(i, Skipped)}
    assert reasons == {
        ids[0]: "its fog at severity 5: not an image",
        ids[1]: "its fog at severity 5: No such file or directory",
        ids[2]: "not an image",
        ids[0].replace(CLASSES[0], "n02129165"): "no corruption of it in brightness/1",
        f"{CLASSES[1]}/more.JPEG": "no clean photograph of it",
    }


def test_mistakes_end_in_a_line(stored: tuple[Path, Path], tmp_path: Path) -> None:
    root, clean = stored

    def said(*call: object) -> str:
        with pytest.raises(UserError) as error:
            call[0](*call[1:])  # type: ignore[operator]
        return str(error.value.within("part"))

    (tmp_path / "empty").mkdir()
    assert "part.root: " in said(imagenet_c, str(clean), str(clean))
    assert "part.clean: no folder" in said(imagenet_c, str(root), str(tmp_path / "none"))
    assert "part.clean: no images in" in said(imagenet_c, str(root), str(tmp_path / "empty"))
    assert "has the class folder and name" in said(imagenet_c, str(root), str(root / "fog"))
    assert "part.corruption: no folder" in said(Stored, str(root), "smog", 1)
    for levels in ("paper", [0], [6], [1, "matched"], [], [True]):
        assert "part.levels: " in said(Stored, str(root), "fog", levels)
    augmentation = Stored(str(root), "fog", 1)
    assert "not drawn" in said(augmentation.sample, np.random.default_rng(0), 224)


OPTIONS = ["logger=none", "trainer=cpu", "cache=off", "experiment=imagenet_c",
           "data.num_workers=0", "metric=cosine_similarity"]  # fmt: skip


def test_a_report_shows_stored_corruptions_as_generated_ones(
    hub_folder: Path,
    stored: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = [f"data.root={stored[0]}", f"data.clean={stored[1]}", f"model.checkpoint={hub_folder}"]
    cfg = compose_config("evaluate", [*OPTIONS, *where, "severity=[2,4]", "save.views=1"])
    cfg.aug = {name: cfg.aug[name] for name in ("fog", "snow")}
    evaluate(cfg, tmp_path)
    run = read_run(tmp_path)
    assert len(run.corruption_error) == 4
    assert run.info.corruption_error.mce is None
    assert set(run.ranking["severity"]) == {"2", "4"}
    said = capsys.readouterr().out
    assert "No mean corruption error (mCE)" in said
    assert "of which 0 are here" in said
    remake_report(tmp_path, fetch=False)
    page = (tmp_path / "report.html").read_text()
    assert "Errors under corruptions" in page
    assert (tmp_path / "figures" / "corruption_error.svg").is_file()
    columns = json.loads((tmp_path / "columns.json").read_text())
    assert set(columns["corruption_error.csv"]) == set(run.corruption_error.columns)


@pytest.mark.usefixtures("without_page")
def test_a_run_has_the_mean_corruption_error(stored: tuple[Path, Path], tmp_path: Path) -> None:
    where = [f"data.root={stored[0]}", f"data.clean={stored[1]}", "model=tiny"]
    evaluate(compose_config("evaluate", [*OPTIONS, *where]), tmp_path)
    run = read_run(tmp_path)
    accuracy = run.shift.groupby(["augmentation", "severity"])[
        ["zero_shot_top1", "cosine_similarity"]
    ].mean()
    errors = run.corruption_error.set_index(["augmentation", "severity"])
    assert len(errors) == 75
    for key, row in errors.iterrows():
        assert row["error"] == pytest.approx(1 - accuracy.loc[key, "zero_shot_top1"], abs=1e-8)
        assert row["shift"] == pytest.approx(1 - accuracy.loc[key, "cosine_similarity"], abs=1e-8)
    # by hand: AlexNet's errors as google-research/augmix lists them, in its order of corruptions
    by_hand = [
        ("gaussian_noise", 0.886428), ("shot_noise", 0.894468), ("impulse_noise", 0.922640),
        ("defocus_blur", 0.819880), ("glass_blur", 0.826268), ("motion_blur", 0.785948),
        ("zoom_blur", 0.798360), ("snow", 0.866816), ("frost", 0.826572), ("fog", 0.819324),
        ("brightness", 0.564592), ("contrast", 0.853204), ("elastic_transform", 0.646056),
        ("pixelate", 0.717840), ("jpeg_compression", 0.606500),
    ]  # fmt: skip
    mce = 0.0
    for name, alexnet in by_hand:
        summed = sum(
            1 - accuracy.loc[(name, str(level)), "zero_shot_top1"] for level in range(1, 6)
        )
        mce += summed / (5 * alexnet) / 15
    found = run.info.corruption_error
    assert found.mce == pytest.approx(mce, abs=1e-12)
    assert found.mce_low < mce < found.mce_high
    by_corruption = errors.groupby("augmentation").mean()
    ranks = [rankdata(by_corruption[column]) for column in ("error", "shift")]
    assert found.rho == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-12)
    assert found.ci_low < found.rho < found.ci_high
    assert found.n == 15
    relative = errors[["ci_low", "ci_high"]].div(errors["alexnet_error"], axis=0)
    np.testing.assert_allclose(errors[["relative_low", "relative_high"]], relative)
    assert run.info.data.prompts == "openai"
    (mean, correlated) = corruption_error(run)
    ends = f"[{100 * found.mce_low:.1f}, {100 * found.mce_high:.1f}]"
    assert mean.startswith(f"Mean corruption error (mCE): {100 * mce:.1f} {ends} %, of 15 of the ")
    assert correlated.startswith("Spearman’s ρ of shift and error over 15 corruptions")
    means = errors_by_corruption(run.corruption_error).set_index("augmentation")
    assert means["relative_error"].mean() == pytest.approx(mce)
    assert means["error"].is_monotonic_decreasing
    assert means.loc["fog", "error"] == pytest.approx(
        1 - accuracy.loc["fog", "zero_shot_top1"].mean()
    )
    # as written down: by photo the hash of its stored files' hashes, in the order of ids
    whole = hashlib.sha256()
    for photo in sorted(run.shift["photo"].unique()):
        files = [
            stored[0] / name / str(level) / photo for name in ALEXNET_ERROR for level in range(1, 6)
        ]
        hashes = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        whole.update(photo.encode() + b"\0" + hashlib.sha256(hashes).digest())
    assert run.info.data.stored_fingerprint == whole.hexdigest()
    data = run.info.data.model_copy(update={"stored_fingerprint": "0" * 64})
    other = replace(run, info=run.info.model_copy(update={"data": data}))
    assert differing_views(run, run) == []
    assert differing_views(run, other) == ["their stored corruptions"]


def test_the_mean_needs_all_corruptions_and_severities() -> None:
    full = {name: [0.5] * 5 for name in ALEXNET_ERROR}
    expected = sum(0.5 / error for error in ALEXNET_ERROR.values()) / 15
    assert mean_corruption_error(full) == pytest.approx(expected)
    assert mean_corruption_error(full | {"speckle_noise": [1.0] * 5}) == pytest.approx(expected)
    assert np.isnan(mean_corruption_error({n: e for n, e in full.items() if n != "fog"}))
    assert np.isnan(mean_corruption_error(full | {"fog": [0.5] * 4}))


def test_the_mean_corruption_errors_interval_is_over_photos() -> None:
    """As a plain bootstrap of photos has it, each under all 75 corruptions at once."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(250, 1, 1))
    wrong = hard + rng.normal(size=(250, 15, 5)) + np.linspace(-1, 1, 5) > 0
    names = pd.MultiIndex.from_product(
        [ALEXNET_ERROR, list("12345")], names=["augmentation", "severity"]
    )
    table = pd.DataFrame(1.0 - wrong.reshape(250, 75), columns=names)
    table.iloc[3] = np.nan  # a photo without a label
    shift = table.stack(["augmentation", "severity"], future_stack=True).rename("zero_shot_top1")
    low, high = corruption_error_interval(
        shift.rename_axis(["photo", *names.names]).reset_index(), 0
    )
    kept = np.delete(wrong, 3, axis=0)
    divisors = np.array(list(ALEXNET_ERROR.values()))
    drawn = [
        (kept[rng.integers(249, size=249)].mean(axis=(0, 2)) / divisors).mean() for _ in range(3000)
    ]
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.01)
    apart = np.sqrt((kept.var(axis=0) / 249 / divisors[:, None] ** 2).sum()) / 75
    assert high - low > 2 * 2 * 1.96 * apart  # as it were, had each corruption its own photos


def test_severities_of_one_corruption_are_no_corruptions_of_their_own() -> None:
    """ρ over corruptions is −1; over severities +1 for six, −1 for one; one has too few."""
    rows = [
        (f"c{k}", str(s), 0.1 * k + 0.01 * s, 0.5 - 0.05 * k + 0.02 * s)
        for k in range(6)
        for s in range(1, 6)
    ]
    rows += [("c6", str(s), 0.6 + 0.01 * s, 0.2 - 0.02 * s) for s in range(1, 4)]
    rows += [("c7", str(s), 0.7 + 0.01 * s, 0.1 - 0.02 * s) for s in range(1, 3)]
    table = pd.DataFrame(rows, columns=["augmentation", "severity", "error", "shift"])
    table["relative_error"] = np.nan
    found = shift_and_error(table, pd.DataFrame(), 0)
    assert (found["rho"], found["n"]) == pytest.approx((-1, 8))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((-1, -1))
    assert (found["rho_within"], found["n_within"]) == pytest.approx((5 / 7, 7))


def test_errors_without_labels_and_without_variation() -> None:
    rows = [
        ("fog", str(s), m, 0.5, 0.4, 0.7, 9)
        for s in range(1, 6)
        for m in ("zero_shot_top1", "cosine_similarity")
    ]
    columns = ["augmentation", "severity", "measure", "mean", "ci_low", "ci_high", "n"]
    summary = pd.DataFrame(rows, columns=columns)
    table = corruption_errors(summary, ["fog"])
    assert table[["error", "ci_low", "ci_high"]].to_numpy() == pytest.approx(
        np.tile([0.5, 0.3, 0.6], (5, 1))
    )
    assert shift_and_error(table, pd.DataFrame(), 0) == {
        "mce": None, "mce_low": None, "mce_high": None, "rho": None, "ci_low": None,
        "ci_high": None, "rho_within": None, "n": 1, "n_within": 0,
    }  # fmt: skip
    assert corruption_errors(summary[summary["measure"] == "cosine_similarity"], ["fog"]).empty
    assert corruption_errors(summary, []).empty


def test_the_configured_corruptions_are_those_that_are_published(
    stored: tuple[Path, Path],
) -> None:
    options = ["experiment=imagenet_c", f"data.root={stored[0]}", "data.clean=x", "severity=3"]
    augmentations, ladders = make_augmentations(plain(compose_config("evaluate", options).aug))
    assert set(augmentations) == set(ALEXNET_ERROR)
    assert all(name in str(a.folder) and a.levels == [3] for name, a in augmentations.items())  # type: ignore[attr-defined]
    assert set(map(tuple, ladders.values())) == {(1, 2, 3, 4, 5)}
    bar = yaml.safe_load((ROOT / "conf/aug/imagenet_c_bar.yaml").read_text())
    assert len(bar) == 10
    assert all(node["corruption"] == name for name, node in bar.items())
