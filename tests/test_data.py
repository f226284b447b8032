"""Photos in: sources, and every kind of image that a user's folder may hold."""

import hashlib
import io
import json
import re
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy import stats
from skimage import data as photographs
from support.terminal import ROOT
from torch.utils.data import Dataset

from clipshift.cli.build import load_photos
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.cli.train import comparison_notes, compose_evaluations
from clipshift.data.dataset import GONE, Skipped, View, ViewDataset
from clipshift.data.memory import photos_of
from clipshift.data.photos import Photo, UnreadablePhotoError, decode, keyed_order
from clipshift.data.selection import without_copies
from clipshift.data.sources import captions, folder, sample
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError
from clipshift.evaluate.loading import GPU_WORKERS, ViewData
from clipshift.results.records import Records

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


def unreadable(content: bytes) -> str:
    """Why bytes are no photo; empty if they are one."""
    try:
        assert decode(content).mode == "RGB"
    except UnreadablePhotoError as error:
        return str(error) or "no reason"
    return ""


def test_a_decoder_may_raise_anything() -> None:
    """A whole JPEG whose EXIF has text for its resolution unit: Pillow raises ``struct.error``."""
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "jpeg", exif=exif)
    content = file.getvalue()
    start = content.index(b"Exif\0\0") + 6
    text = b"II*\0\x08\0\0\0\x02\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    text += b"\x28\x01\x02\0\x02\0\0\0ab\0\0" + b"\0\0\0\0"
    length = 2 + 6 + len(text)
    app1 = b"\xff\xe1" + length.to_bytes(2, "big") + b"Exif\0\0" + text
    old = 2 + int.from_bytes(content[start - 8 : start - 6], "big")
    damaged = content[: start - 10] + app1 + content[start - 10 + old :]
    assert unreadable(damaged)


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
    assert items[3].reason == GONE
    single = items[2].clean
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
        ("*.txt", None),
    ]


def test_captions_gather_by_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(encoded(CAT, "png"))
    table = tmp_path / "captions.csv"
    table.write_text('image,caption\nb.png,a cat\na.png,"one, two"\nb.png,the cat\n')
    photos = captions(str(table))
    assert [(p.id, p.captions) for p in photos] == [
        ("b.png", ("a cat", "the cat")),
        ("a.png", ("one, two",)),
    ]
    assert photos[0].file == str(tmp_path / "images" / "b.png")
    table.write_text("file,caption\nx,y\n")
    with pytest.raises(UserError, match="must have the columns image and caption"):
        captions(str(table))
    table.write_text("image,caption\n")
    with pytest.raises(UserError, match="no rows"):
        captions(str(table))
    table.write_text("image,caption\na.png,one\nb.png\n")
    with pytest.raises(UserError, match=r"line 3: a row must have an image and a caption"):
        captions(str(table))


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder "):
        folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no images in folder "):
        folder(str(tmp_path))
    with pytest.raises(UserError, match=r"no file "):
        captions(str(tmp_path / "nowhere.csv"))


def test_sample_is_there_with_captions_and_classes_of_imagenet() -> None:
    photos = sample()
    assert len(photos) == 14
    assert sum(photo.label in open_clip.IMAGENET_CLASSNAMES for photo in photos) == 5
    for photo in photos:
        assert photo.captions
        assert min(decode(photo.read()).size) >= 224


# --- ids -----------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_spellings_of_one_path_are_one_photo_with_all_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(CAT, "png"))
    rows = ["./a.png,1", "sub//a.png,2", "gone/../b.png,3", "a.png,4", "sub/./a.png,5", "b.png,6"]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    photos = captions(str(tmp_path / "captions.csv"))
    assert [(p.id, p.captions) for p in photos] == [
        ("a.png", ("1", "4")),
        ("sub/a.png", ("2", "5")),
        ("b.png", ("3", "6")),
    ]
    assert all(photo.read() == encoded(CAT, "png") for photo in photos)


@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("in_csv", [COMPOSED, DECOMPOSED])
def test_an_id_does_not_depend_on_how_unicode_is_spelled(
    tmp_path: Path, on_disk: str, in_csv: str
) -> None:
    images = tmp_path / "images"
    (images / on_disk).mkdir(parents=True)
    (images / on_disk / f"{on_disk}.png").write_bytes(encoded(CAT, "png"))
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption\n{in_csv}/{in_csv}.png,a cat\n", encoding="utf-8")
    for photo in (captions(str(table))[0], folder(str(images))[0]):
        assert photo.id == f"{COMPOSED}/{COMPOSED}.png"
        assert photo.read() == encoded(CAT, "png")
    assert folder(str(images))[0].label == COMPOSED


def test_two_files_with_one_id_are_told_of(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / f"{name}.png").write_bytes(b"")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system knows both names as one")
    with pytest.raises(UserError, match=r"two photos have the id café\.png") as error:
        folder(str(tmp_path))
    assert "\n" not in str(error.value)
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption\n{COMPOSED}.png,a\n{DECOMPOSED}.png,b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"would have the same id, café\.png"):
        captions(str(table))
    table.write_text(f"image,caption\n{DECOMPOSED}.png,b\n", encoding="utf-8")
    assert Path(captions(str(table))[0].file).name == f"{DECOMPOSED}.png"


# --- classes called by WordNet ids ---------------------------------------------------------------


def test_wordnet_ids_get_their_names() -> None:
    names = {
        "n01440764": "tench",
        "n02123045": "tabby cat",
        "n02504458": "African bush elephant",
        "n02012849": "crane bird",
        "n03126707": "construction crane",
        "n03773504": "missile",
        "n04008634": "projectile, missile",
        "n15075141": "toilet paper",
        "n00007846": "person, individual, someone, somebody, mortal, soul",  # of ImageNet-21k
    }
    assert {label: class_name(label) for label in names} == names
    for other in ("n99999999", "n0144076", "tench", "n01440764x"):
        assert class_name(other) == other


def test_no_two_wordnet_ids_have_one_name() -> None:
    from timm.data import ImageNetInfo

    ids = {i for kind in ("1k", "21k-goog") for i in ImageNetInfo(f"imagenet-{kind}").label_names()}
    assert len({class_name(label).lower() for label in ids}) == len(ids) > 21_800


def test_folders_called_by_wordnet_ids_have_named_labels(tmp_path: Path) -> None:
    for name in ("n01440764/a.jpg", "n99999999/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    assert [(p.id, p.label) for p in folder(str(tmp_path))] == [
        ("n01440764/a.jpg", "tench"),
        ("n99999999/b.jpg", "n99999999"),
    ]


def test_the_report_says_that_the_model_was_asked_for_an_id(
    hub_folder: Path, tmp_path: Path
) -> None:
    for label, photo in zip(("n01440764", "n99999999"), sample(), strict=False):
        (tmp_path / "photos" / label).mkdir(parents=True)
        shutil.copy(photo.file, tmp_path / "photos" / label)
    cfg = compose_config(
        "evaluate",
        [
            "logger=none",
            "trainer=cpu",
            "cache=off",
            f"model.checkpoint={hub_folder}",
            "data=folder",
            f"data.root={tmp_path}/photos",
            "data.num_workers=0",
            "aug=noise",
            "metric=cosine_similarity",
            "prompts.templates=['a photo of a {}']",
        ],
    )
    evaluate(cfg, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "have no known name: 1 of 2. The model was asked for “a photo of a n99999999”." in page


@pytest.mark.photos
def test_names_are_those_that_the_shared_photographs_have(photos_root: Path) -> None:
    """Two other lists of names; a list off by one would share a word in a few of a hundred."""
    listed = folder(str(photos_root / "imagenet-sample"))
    pairs = [(Path(photo.file).stem, photo.label) for photo in listed]
    content = json.loads((photos_root / "tiny-imagenet" / "classes.json").read_text())
    pairs += zip(content["wnids"], content["names"], strict=True)

    def words(name: str) -> set[str]:
        return set(re.findall("[a-z]+", name.lower()))

    alike = [bool(words(class_name(label)) & words(name)) for label, name in pairs]
    assert len(pairs) == 700
    assert np.mean(alike) > 0.9


# --- sampling ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes_in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 classes of 50 files; nothing opens them."""
    root = tmp_path_factory.mktemp("classes")
    for label in range(20):
        (root / f"{label:02}").mkdir()
        for number in range(50):
            (root / f"{label:02}" / f"{number:02}.jpg").touch()
    return root


def chosen(root: Path, **options: int) -> list[str]:
    data = OmegaConf.load(ROOT / "conf" / "data" / "folder.yaml")
    photos, _ = load_photos(OmegaConf.merge(data, {"root": str(root)}, options))
    return [photo.id for photo in photos]


def test_samples_are_nested_and_in_the_lists_order(classes_in_turn: Path) -> None:
    everything = chosen(classes_in_turn)
    few, many = (chosen(classes_in_turn, sample=count) for count in (50, 200))
    assert (len(few), len(many)) == (50, 200)
    assert set(few) < set(many)
    assert many == sorted(many)
    others = chosen(classes_in_turn, skip_sample=50, sample=150)
    assert set(others) == set(many) - set(few)
    assert chosen(classes_in_turn, skip_sample=50) == [i for i in everything if i not in set(few)]
    assert chosen(classes_in_turn, sample=5000) == everything
    within = chosen(classes_in_turn, skip=100, limit=300, sample=50)
    assert set(within) == set(sorted(everything[100:400], key=by_hash)[:50])
    with pytest.raises(UserError, match=r"data\.skip_sample: 300 leaves none of the 300 photos"):
        chosen(classes_in_turn, limit=300, skip_sample=300)


def by_hash(name: str) -> str:
    return hashlib.blake2b(b"sample\x00" + name.encode()).hexdigest()


def test_a_sample_does_not_depend_on_the_lists_order() -> None:
    photos = [Photo(f"{number}.jpg", Path()) for number in range(100)]
    expected = sorted((photo.id for photo in photos), key=by_hash)
    for order in (photos, photos[::-1], photos[50:] + photos[:50]):
        assert [order[index].id for index in keyed_order(order, "sample")] == expected
    assert [photos[index].id for index in keyed_order(photos, "other")] != expected


def test_a_sample_has_its_share_of_every_class(classes_in_turn: Path) -> None:
    """Counts of classes are multivariate hypergeometric; the first 200 photos are 4 classes."""
    labels = [name[:2] for name in chosen(classes_in_turn, sample=200)]
    counts = np.array([labels.count(f"{label:02}") for label in range(20)])
    variance = 200 / 20 * (1000 - 200) / (1000 - 1)  # of a count, times 20/19
    chi2 = ((counts - 10) ** 2 / variance).sum()
    assert 0.001 < stats.chi2(19).sf(chi2) < 0.999


@pytest.mark.parametrize(
    ("options", "validated"),
    [(["data.val.sample=100"], 100), (["data.val.limit=200", "data.val.sample=null"], 200)],
)
def test_a_training_is_judged_and_compared_on_different_photos(
    classes_in_turn: Path, options: list[str], validated: int
) -> None:
    root = f"data.train.root={classes_in_turn}"
    cfg = compose_config(
        "train", ["experiment=robustify", root, f"data.val.root={classes_in_turn}", *options]
    )
    judged, _ = load_photos(cfg.data.val)
    evaluations = compose_evaluations(cfg, Path("run"))
    measured, _ = load_photos(evaluations[Path("run/base")].data)
    assert (len(judged), len(measured)) == (validated, 1000 - validated)
    assert not {photo.id for photo in judged} & {photo.id for photo in measured}
    assert comparison_notes(evaluations, [], judged) == []


def test_photos_are_known_again_below_another_root(classes_in_turn: Path) -> None:
    root = classes_in_turn
    cfg = compose_config(
        "train", ["experiment=robustify", f"data.train.root={root}", f"data.val.root={root}"]
    )
    cfg.evaluation = ["data=folder", f"data.root={root}/03"]
    trained, _ = load_photos(cfg.data.train)
    notes = comparison_notes(compose_evaluations(cfg, Path("run")), trained, [])
    assert [note[:38] for note in notes] == ["50 of these 50 photos were trained on:"]


@pytest.mark.usefixtures("without_page")
def test_the_gallery_is_a_random_sample_whatever_order_and_batches(
    hub_folder: Path, tmp_path: Path
) -> None:
    for photo in sample():
        shutil.copy(photo.file, tmp_path)
    ids = [photo.id for photo in sample()]
    shifts = []
    for run, order, batch in (("a", ids, 14), ("b", ids[7:] + ids[6::-1], 3)):
        table = tmp_path / f"{run}.csv"
        table.write_text("\n".join(["image,caption", *(f"{name},a photo" for name in order)]))
        cfg = compose_config(
            "evaluate",
            [
                "logger=none",
                "trainer=cpu",
                "cache=off",
                f"model.checkpoint={hub_folder}",
                "data=captions",
                f"data.csv_file={table}",
                f"data.batch_size={batch}",
                "data.num_workers=0",
                "gallery=6",
                "aug=noise",
                "metric=cosine_similarity",
            ],
        )
        evaluate(cfg, tmp_path / run)
        shift = pd.read_parquet(tmp_path / run / "shift.parquet").set_index("photo")["retained"]
        shifts.append(shift.dropna())
    assert set(shifts[0].index) == set(sorted(ids, key=by_hash)[:6])
    pd.testing.assert_series_equal(shifts[1], shifts[0])


class Unread(Dataset):
    """As many photos as wanted, of which none is read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Skipped:
        return Skipped(index, "")


def test_copies_are_left_out_whatever_the_order(tmp_path: Path) -> None:
    """Photos of one length and with the same middle are read, and are no copies for that."""
    middle = b"m" * 100
    contents = {
        "b/photo": b"1" + middle + b"2",
        "a/other": b"2" + middle + b"2",
        "c/copy": b"1" + middle + b"2",
        "a/again": b"1" + middle + b"2",
        "d/longer": b"1" + middle + b"22",
        "e/empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "shard").open("wb") as shard:
        shard.write(b"000" + contents["b/photo"] + contents["a/other"])
    photos = [Photo(name, tmp_path / name) for name in contents] + [
        Photo("x/0", tmp_path / "shard", 3, 102),
        Photo("x/1", tmp_path / "shard", 105, 102),
        Photo("x/2", tmp_path / "shard", 105, 103),  # cut
        Photo("gone", tmp_path / "gone"),
        Photo("left", tmp_path / "b/photo", left_out="for a reason"),
    ]
    copies = {"b/photo": "a/again", "c/copy": "a/again", "x/0": "a/again", "x/1": "a/other"}
    expected = {name: f"the same file as {first}" for name, first in copies.items()}
    for listed in (photos, photos[::-1]):
        selected = without_copies(listed)
        assert sorted(photo.id for photo in selected) == sorted(photo.id for photo in photos)
        kept = [photo for photo in selected if photo.left_out is None]
        assert selected[: len(kept)] == [photo for photo in listed if photo in kept]
        left_out = {photo.id: photo.left_out for photo in selected[len(kept) :]}
        assert left_out == expected | {"left": "for a reason"}


def test_photos_that_differ_are_not_read_to_look_for_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / name).write_bytes(rng.bytes(1000))
    monkeypatch.setattr(Photo, "read", lambda photo: pytest.fail(f"{photo.id} was read"))
    photos = [Photo(name, tmp_path / name) for name in "abc"]
    assert without_copies(photos) == photos


def test_copies_are_found_among_photos_in_memory() -> None:
    pixels = np.stack([np.asarray(CAT), np.asarray(CAT)[:, ::-1], np.asarray(CAT)])
    assert [photo.left_out for photo in without_copies(photos_of(pixels))] == [
        None,
        None,
        "the same file as 0",
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("count", [1, 7, 501])
def test_every_photo_is_seen_once_whatever_ranks_and_workers(
    count: int, ranks: int, workers: int, tmp_path: Path
) -> None:
    shares = []
    for rank in range(ranks):
        data = ViewData(Unread(count), 32, workers, Records(tmp_path))  # type: ignore[arg-type]
        data.left = list(range(count))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
        shares.append([one.index for batch in data.test_dataloader() for one in batch.skipped])
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("device", "workers"), [("cpu", 0), ("cuda", GPU_WORKERS)])
def test_processes_read_for_a_gpu_and_not_for_a_cpu(
    device: str, workers: int, tmp_path: Path
) -> None:
    data = ViewData(Unread(3), 2, None, Records(tmp_path))  # type: ignore[arg-type]
    data.left = [0, 1, 2]
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, strategy=strategy
    )
    assert data.test_dataloader().num_workers == workers


@pytest.mark.photos
def test_shared_captions(photos_root: Path) -> None:
    photos = captions(str(photos_root / "captions" / "captions.csv"))
    assert len(photos) == 80
    assert all(len(photo.captions) == 5 for photo in photos)
    assert all(Path(photo.file).is_file() for photo in photos)
