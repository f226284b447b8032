"""Data sets of Hugging Face's `datasets`, made by itself, by pyarrow and by pandas."""

import io
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from clipshift.cli.build import load_photos
from clipshift.cli.command import compose_config
from clipshift.data.dataset import Skipped, ViewDataset, collate
from clipshift.data.huggingface import huggingface
from clipshift.data.photos import Photo, decode
from clipshift.errors import UserError

datasets = pytest.importorskip("datasets")

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), np.uint8)
LABELS = [1, 0, 1, -1, 0]
CAPTIONS = [["one", "two"], ["three"], [], ["four"], ["five"]]
NAMES = ["n01440764", "red fox"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        yield


@pytest.fixture(scope="module")
def made():  # type: ignore[no-untyped-def]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            "caption": datasets.List(datasets.Value("string")),
        }
    )
    content = {"image": list(map(Image.fromarray, PIXELS)), "label": LABELS, "caption": CAPTIONS}
    return datasets.Dataset.from_dict(content, features=features)


def expected(split: str) -> list[tuple]:
    names = {0: "tench", 1: "red fox", -1: None}
    return [
        (f"{split}/{row}", names[label], tuple(texts))
        for row, (label, texts) in enumerate(zip(LABELS, CAPTIONS, strict=True))
    ]


def check(photos: list[Photo], split: str) -> None:
    assert [(p.id, p.label, p.captions) for p in photos] == expected(split)
    for photo, pixels in zip(photos, PIXELS, strict=True):
        assert np.array_equal(np.asarray(decode(photo.read())), pixels)
        assert photo.length() == len(photo.read())


def said(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as error:
        huggingface(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value.within("data"))


@pytest.fixture(params=["saved", "saved splits", "parquet", "arrow"])
def root(request: pytest.FixtureRequest, made, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """The same data set in every form, its photos in the split test."""
    folder = tmp_path / "here"
    if request.param == "saved":
        datasets.Dataset.from_dict(made[:], made.features, split="test").save_to_disk(str(folder))
    elif request.param == "saved splits":
        both = {"train": made.select([0]), "test": made}
        datasets.DatasetDict(both).save_to_disk(str(folder))
    elif request.param == "parquet":
        (folder / "data").mkdir(parents=True)
        made.to_parquet(str(folder / "data" / "test-00000-of-00002.parquet"))
        made.select(range(2, 5)).to_parquet(str(folder / "data" / "test-00001-of-00002.parquet"))
        made.select(range(2)).to_parquet(str(folder / "data" / "test-00000-of-00002.parquet"))
        made.select([0]).to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    else:
        made.save_to_disk(str(tmp_path / "other"))
        folder.mkdir()
        (tmp_path / "other" / "data-00000-of-00001.arrow").rename(folder / "test.arrow")
    return folder


def test_every_form_is_the_same_photos_streamed_or_not(root: Path) -> None:
    check(huggingface(str(root)), "test")
    check(huggingface(str(root), split="test", rows=9), "test")
    assert [p.id for p in huggingface(str(root), rows=2)] == ["test/0", "test/1"]
    moved = root.rename(root.with_name("there"))
    check(huggingface(str(moved)), "test")


def test_workers_read_photos_by_their_rows(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made.save_to_disk(str(tmp_path / "saved"))
    options = ["data=huggingface", f"data.dataset={tmp_path}/saved"]
    photos, classes = load_photos(compose_config("evaluate", options).data)
    assert classes == ["red fox", "tench"]
    assert len(pickle.dumps(photos)) < 20_000, "photos go to workers by their place in the file"
    check(pickle.loads(pickle.dumps(photos)), "all")
    dataset = ViewDataset(photos, {}, 0, "squash")
    loader = DataLoader(
        dataset,
        2,
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )
    views = [view for batch in loader for view in batch.pixels]
    assert all(np.array_equal(view, dataset[i].pixels) for i, view in enumerate(views))  # type: ignore[union-attr]
    assert len(views) == 5


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    def png(pixels: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "png")
        return stream.getvalue()

    content = {"number": [0, 1, 1], "picture": list(map(png, PIXELS[:3])), "text": ["a", "b", "c"]}
    pd.DataFrame(content).to_parquet(tmp_path / "x.parquet")
    photos = huggingface(str(tmp_path))
    assert [(p.id, p.label, p.captions) for p in photos] == [
        ("train/0", None, ("a",)),
        ("train/1", None, ("b",)),
        ("train/2", None, ("c",)),
    ]
    assert np.array_equal(np.asarray(decode(photos[2].read())), PIXELS[2])
    names = tmp_path / "names.txt"
    names.write_text("red fox\nn01440764\n")
    options = {"label": "number", "classnames": str(names)}
    assert [p.label for p in huggingface(str(tmp_path), **options)] == ["red fox", "tench", "tench"]
    names.write_text("red fox\n")
    assert "1 in the column number is not one of the 1 classes" in said(str(tmp_path), **options)
    assert [p.label for p in huggingface(str(tmp_path), label="text")] == ["a", "b", "c"]
    assert "data.image: " in (line := said(str(tmp_path), image="pictures"))
    assert "did you mean 'picture'" in line
    assert "data.caption" in said(str(tmp_path), caption="number")
    assert "has the splits train: choose one, not test" in said(str(tmp_path), split="test")
    pd.DataFrame(content | {"second": content["picture"]}).to_parquet(tmp_path / "x.parquet")
    assert "has 2 columns that hold images (picture, second)" in said(str(tmp_path))
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "x.parquet")
    assert "has 0 columns that hold images" in said(str(tmp_path))


@pytest.mark.parametrize("rows", [None, 9])
def test_a_broken_photo_is_skipped_and_the_others_are_not(tmp_path: Path, rows: int | None) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(stream, "png")
    rows_made = [
        {"bytes": stream.getvalue(), "path": None},
        {"bytes": b"broken", "path": None},
        {"bytes": None, "path": "/etc/hostname"},
        None,
    ]
    features = datasets.Features({"image": datasets.Image()})
    data_set = datasets.Dataset.from_dict({"image": rows_made}, features=features)
    data_set.to_parquet(str(tmp_path / "x.parquet"))
    photos = huggingface(str(tmp_path), rows=rows)
    dataset = ViewDataset(photos, {}, 0, "squash")
    items = [dataset[index] for index in range(4)]
    reasons = {photos[i.index].id: i.reason for i in items if isinstance(i, Skipped)}
    assert reasons == {
        "train/1": "not an image",
        "train/2": "the row holds no bytes of an image",
        "train/3": "the row holds no bytes of an image",
    }


def test_damaged_data_sets_end_in_a_line(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    (tmp_path / "cut").mkdir()
    made.to_parquet(str(tmp_path / "cut" / "x.parquet"))
    whole = (tmp_path / "cut" / "x.parquet").read_bytes()
    (tmp_path / "cut" / "x.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for name in ("saved", "cut", "empty"):
        assert f"data.dataset: {tmp_path}/{name} cannot be read" in said(str(tmp_path / name))
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('code of a data set ran')")
    assert "cannot be read" in said(str(tmp_path / "script"))
