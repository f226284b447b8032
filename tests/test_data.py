"""Photos in: sources, and every kind of image that a user's folder may hold."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from clipshift.data import (
    Skipped,
    UnreadablePhotoError,
    UnrepeatedSampler,
    View,
    ViewDataset,
    captions,
    decode,
    folder,
    sample,
)
from clipshift.data.shards import class_names
from clipshift.errors import UserError

CAT = Image.fromarray(photographs.chelsea()).resize((120, 80))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def difference(image: Image.Image, other: Image.Image) -> float:
    assert image.mode == "RGB"
    assert image.size == other.size
    return float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean())


def test_cmyk_palette_grey_and_alpha_become_rgb() -> None:
    assert difference(decode(encoded(CAT.convert("CMYK"), "jpeg", quality=95)), CAT) < 6
    assert difference(decode(encoded(CAT.quantize(256), "png")), CAT) < 6
    grey = CAT.convert("L")
    assert difference(decode(encoded(grey, "png")), grey.convert("RGB")) == 0
    transparent = CAT.convert("RGBA")
    transparent.putalpha(0)
    assert difference(decode(encoded(transparent, "png")), CAT) == 0


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    grey = np.asarray(CAT.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert difference(decode(encoded(deep, kind)), Image.fromarray(grey).convert("RGB")) == 0


def test_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    lying = CAT.transpose(Image.Transpose.ROTATE_90)
    assert difference(decode(encoded(lying, "png", exif=exif)), CAT) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a text file", "not an image"),
        (b"", "not an image"),
        (encoded(CAT, "jpeg")[:1000], "truncated"),
        (encoded(CAT, "png")[:1000], "."),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "tiff"), "floating-point"),
    ],
)
def test_what_is_no_photo_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePhotoError, match=reason) as caught:
        decode(content)
    assert str(caught.value)


def test_a_bad_photo_is_skipped_and_the_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(CAT, "jpeg"))
    (tmp_path / "b.jpg").write_text("not a photo")
    (tmp_path / "c.png").write_bytes(encoded(CAT.resize((1, 1)), "png"))
    (tmp_path / "d.jpg").symlink_to(tmp_path / "a.jpg")
    dataset = ViewDataset(folder(str(tmp_path)), {}, 0, "squash")
    (tmp_path / "d.jpg").unlink()
    items = [dataset[index] for index in range(4)]
    assert [type(item) for item in items] == [View, Skipped, View, Skipped]
    assert items[1].reason == "not an image"
    assert items[3].reason == "No such file or directory"
    single = items[2].pixels
    assert single.shape == (3, 224, 224)
    assert single.std(dim=(1, 2)).max() == 0


def test_folder_names_are_labels_and_order_is_fixed(tmp_path: Path) -> None:
    for name in ("dog/2.JPG", "dog/1.png", "cat/x.webp", "top.bmp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(CAT, "png"))
    photos = folder(str(tmp_path))
    assert [(p.id, p.label) for p in photos] == [
        ("cat/x.webp", "cat"),
        ("dog/1.png", "dog"),
        ("dog/2.JPG", "dog"),
        ("top.bmp", None),
    ]


def test_captions_gather_by_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").write_bytes(encoded(CAT, "png"))
    table = tmp_path / "captions.csv"
    table.write_text('image,caption\nb.png,a cat\na.png,"one, two"\nb.png,the cat\n')
    photos = captions(str(table))
    assert [(p.id, p.captions) for p in photos] == [
        ("b.png", ("a cat", "the cat")),
        ("a.png", ("one, two",)),
    ]
    assert photos[0].file == tmp_path / "images" / "b.png"
    table.write_text("file,caption\nx,y\n")
    with pytest.raises(UserError, match=r"no column \['image'\]"):
        captions(str(table))
    table.write_text("image,caption\n")
    with pytest.raises(UserError, match="no rows"):
        captions(str(table))
    table.write_text("image,caption\na.png,one\nb.png\n")
    with pytest.raises(UserError, match=r"line 3: a row needs an image and a caption"):
        captions(str(table))


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*data\.root"):
        folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no images in folder .*data\.root"):
        folder(str(tmp_path))
    with pytest.raises(UserError, match=r"no file .*data\.csv_file"):
        captions(str(tmp_path / "nowhere.csv"))


def test_damaged_class_lists_of_shards(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"wnids": []}'):
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(UserError, match=r"classes\.json is damaged"):
            class_names(tmp_path)


def test_sample_is_there_labelled_and_captioned() -> None:
    photos = sample()
    assert len(photos) == 14
    for photo in photos:
        assert photo.label
        assert photo.captions
        assert min(decode(photo.read()).size) >= 224


@pytest.mark.parametrize(("count", "ranks"), [(7, 2), (5, 3), (2, 4)])
def test_ranks_share_photos_without_repeating_any(count: int, ranks: int) -> None:
    shares = [list(UnrepeatedSampler(count, rank, ranks)) for rank in range(ranks)]
    assert sorted(index for share in shares for index in share) == list(range(count))


@pytest.mark.photos
def test_shared_captions(photos_root: Path) -> None:
    photos = captions(str(photos_root / "captions" / "captions.csv"))
    assert len(photos) == 80
    assert all(len(photo.captions) == 5 for photo in photos)
    assert all(photo.file.is_file() for photo in photos)
