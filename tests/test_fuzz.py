"""Damaged files without end: each is read, or ends in one line, and in time.

``CLIPSHIFT_FUZZ`` says how many photos are damaged, and ``CLIPSHIFT_FUZZ_SEED`` how: `make fuzz`.
"""

import io
import json
import os
import signal
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs
from support.models import VIT, write_hub_folder

from clipshift.augment.matching import Calibration, CalibrationPhoto, Match
from clipshift.data.dataset import Skipped, View, ViewDataset, pixels_of
from clipshift.data.listing import opened_endings
from clipshift.data.photos import Photo, as_rgb, keyed_order, photo_id
from clipshift.data.shards import shards
from clipshift.data.sources import captions, folder
from clipshift.encode.kinds import load_encoder
from clipshift.errors import UserError, one_line
from clipshift.evaluate.calibration import load_calibration
from clipshift.train.resuming import BEST, LAST, SETTINGS, last_checkpoint

COUNT = int(os.environ.get("CLIPSHIFT_FUZZ", "300"))
SEED = int(os.environ.get("CLIPSHIFT_FUZZ_SEED", "0"))
SECONDS = 20
"""How long one file may take: far more than it does, for a slow machine."""

CAT = Image.fromarray(photographs.chelsea()[40:200, 120:320]).resize((40, 32))
MODES = ("RGB", "L", "P", "1", "CMYK", "RGBA", "I;16", "F")


class HangError(BaseException):
    """Not an exception that a decoder's wrapper catches."""


@contextmanager
def in_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, most of them near the beginning; a stretch of them cut out, or repeated."""
    content = bytearray(whole)
    for near in (len(content), min(len(content), 200), min(len(content), 2000)):
        for position in rng.integers(near, size=rng.integers(0, 6)):
            content[position] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    start, end = sorted(rng.integers(len(content), size=2))
    match rng.integers(8):
        case 0:
            del content[start:]
        case 1:
            del content[start:end]
        case 2:
            content[start:start] = content[start:end]
    return bytes(content)


def ends_well(call: Callable[[], Any]) -> Any:
    """What a call returns; None where it ends in one line for the user."""
    with in_time():
        try:
            return call()
        except UserError as error:
            said = str(error)
    assert "\n" not in said
    assert one_line(said).isprintable(), ascii(said)
    return None


def all_are_read_or_skipped(photos: list[Photo]) -> list[View | Skipped]:
    dataset = ViewDataset(photos, {}, 0, "squash")
    items = []
    for index in range(len(photos)):
        with in_time():
            items.append(dataset[index])
    reasons = [item.reason for item in items if isinstance(item, Skipped)]
    assert all(reason and reason.isprintable() for reason in reasons)
    assert all(photo.id.isprintable() for photo in photos)
    return items


# --- photos --------------------------------------------------------------------------------------


def written() -> dict[str, list[bytes]]:
    """The photograph in every format that Pillow writes and reads here, in several modes."""
    Image.init()
    exif = Image.Exif()
    exif[274], exif[296] = 6, 2  # orientation, so that it is transposed, and resolution unit
    files: dict[str, list[bytes]] = {}
    for kind in sorted(Image.SAVE.keys() & (Image.OPEN.keys() | {"MPO"}) - {"EPS"}):
        for mode in MODES:
            stream = io.BytesIO()
            image = CAT.convert("L").convert("I").convert(mode) if mode == "I;16" else CAT
            try:
                image.convert(mode).save(stream, kind, exif=exif)
            except (OSError, ValueError, TypeError, KeyError):  # not in this mode, or not at all
                continue
            files.setdefault(kind, []).append(stream.getvalue())
    return files


WRITTEN = written()
ENDINGS = {kind: ending for ending, kind in sorted(Image.registered_extensions().items())}


def test_pillow_writes_many_formats_here() -> None:
    assert WRITTEN.keys() >= {"BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP"}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
def test_damaged_photos_are_measured_or_listed(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, *kind.encode()])
    count = max(4, round(COUNT / len(WRITTEN)))
    for number in range(count):
        content = damaged(rng.choice(np.array(WRITTEN[kind], dtype=object)), rng)
        (tmp_path / f"{number:05}{ENDINGS.get(kind, '.png')}").write_bytes(content)
    photos = folder(str(tmp_path))
    assert len(photos) == count
    items = all_are_read_or_skipped(photos)
    assert any(isinstance(item, Skipped) for item in items)
    assert all(item.pixels.isfinite().all() for item in items if isinstance(item, View))


# --- shards --------------------------------------------------------------------------------------


def shard(form: int) -> bytes:
    """Photos with labels, of which one has a long name and one is stored by a link."""
    long = "sub/" * 30 + "é" * 40
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for number, (kind, name) in enumerate([("JPEG", "0"), ("PNG", long), ("WEBP", "2")]):
            for ending, content in ((kind.lower(), WRITTEN[kind][0]), ("cls", b"%d" % number)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("3.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0.jpeg"
        tar.addfile(link)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_damaged_shards_are_measured_or_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, 1])
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["a", "b", "c"]}))
    whole = [shard(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    headers = [n for n in range(0, len(whole[0]), 512) if whole[0][n + 257 : n + 262] == b"ustar"]
    read = 0
    for number in range(COUNT // 3):
        content = bytearray(damaged(whole[number % 3], rng))
        if number % 3 == 0 and len(content) == len(whole[0]):  # a header that is true to its sum
            at = rng.choice(headers)
            content[at : at + 512] = whole[0][at : at + 512]
            field = at + rng.choice([0, 124, 124, 156, 157, 257])
            content[field] = rng.integers(256)
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = f"{sum(content[at : at + 512]):06o}\0 ".encode()
        (tmp_path / "x.tar").write_bytes(content)
        photos = ends_well(lambda: shards(tmp_path))
        if photos is not None:
            all_are_read_or_skipped(photos)
            read += 1
    assert 0 < read < COUNT // 3


# --- tables and other texts ----------------------------------------------------------------------


def test_damaged_captions_are_read_or_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, 2])
    for name in ("a.png", "b.png", "ü.png"):
        CAT.save(tmp_path / name)
    rows = ["image,caption", 'a.png,"one, two"', "b.png,three", "ü.png,vier", "a.png,five"] * 2
    whole = "\n".join(rows).encode()
    for _ in range(COUNT // 3):
        (tmp_path / "captions.csv").write_bytes(damaged(whole, rng))
        photos = ends_well(lambda: captions(str(tmp_path / "captions.csv")))
        all_are_read_or_skipped(photos or [])


def test_damaged_class_lists_are_read_or_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, 3])
    (tmp_path / "x.tar").write_bytes(shard(tarfile.GNU_FORMAT))
    whole = json.dumps({"names": ["cat", "dog", "é"], "wnids": ["n0", "n1", "n2"]}, indent=1)
    for _ in range(COUNT // 3):
        (tmp_path / "classes.json").write_bytes(damaged(whole.encode(), rng))
        photos = ends_well(lambda: shards(tmp_path)) or []
        assert all(photo.label is None or photo.label.isprintable() for photo in photos)


def test_damaged_calibrations_are_read_or_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, 4])
    parameters = {"noise": {"_target_": "clipshift.augment.Noise", "std": [0.44, 0.88]}}
    used = [CalibrationPhoto("a", "00" * 32, 7), CalibrationPhoto("b", "11" * 32, 8)]
    matches = {"noise": Match(0.125, 0.701, True)}
    calibration = Calibration("ssim", 0.7, 0, "squash", parameters, used, matches)
    whole = json.dumps(calibration.as_json(), indent=2).encode()
    file = tmp_path / "calibration.json"
    for _ in range(COUNT // 3):
        file.write_bytes(damaged(whole, rng))
        read = ends_well(lambda: load_calibration(file, parameters, "squash", {}))
        assert read is None or 2**-10 <= read.matches["noise"].strength <= 2**12


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["open_clip_config.json", "open_clip_model.safetensors", "m.pt"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_models_are_loaded_or_told_of(part: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, *part.encode()])
    small = VIT | {"image_size": 32, "layers": 1, "width": 32}
    hub = write_hub_folder(tmp_path / "hub", small)
    torch.save(load_encoder(f"local-dir:{hub}").model.state_dict(), hub / "m.pt")
    checkpoint = str(hub / "m.pt") if part == "m.pt" else None
    whole = (hub / part).read_bytes()
    for _ in range(COUNT // 10):
        (hub / part).write_bytes(damaged(whole, rng))
        ends_well(lambda: load_encoder(f"local-dir:{hub}", checkpoint=checkpoint))


@pytest.mark.parametrize("part", [LAST, BEST, SETTINGS])
def test_damaged_trainings_go_on_whole_or_not_at_all(part: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, *part.encode()])
    options = {"data": {"root": "photos"}, "seed": 0}
    last_checkpoint(tmp_path, options)
    weights = {"weight": torch.arange(2000.0)}
    stored = {
        "state_dict": weights,
        "loops": {},
        "callbacks": {},
        "global_step": 1,
        "optimizer_states": [{"state": {0: {}}}],
        "lr_schedulers": [{}],
        "clipshift": {"epoch": 0, "batch": 0, "best": None},
    }
    for name in (LAST, BEST):
        torch.save(stored, tmp_path / name)
    assert last_checkpoint(tmp_path, options) == tmp_path / LAST
    whole = (tmp_path / part).read_bytes()
    for _ in range(COUNT // 3):
        (tmp_path / part).write_bytes(damaged(whole, rng))
        if ends_well(lambda: last_checkpoint(tmp_path, options)) and part != SETTINGS:
            read = torch.load(tmp_path / part, weights_only=True)["state_dict"]
            assert torch.equal(read["weight"], weights["weight"])


# --- properties ----------------------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 47} & {*name})
"""What Linux takes for the name of a file."""


def spelled(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@given(NAMES)
def test_an_id_is_printed_stored_and_read_again_as_it_is(name: bytes) -> None:
    id_ = photo_id(spelled(name))
    assert photo_id(id_) == id_
    assert not {"Cc", "Cs", "Zl", "Zp"} & {*map(unicodedata.category, id_)}
    table = io.BytesIO(pd.DataFrame({"photo": [id_], "n": [1]}).to_csv(index=False).encode())
    assert list(pd.read_csv(table, keep_default_na=False, dtype=str)["photo"]) == [id_]


@given(NAMES, NAMES)
@example(b"\xff", b"\xfe")
@example(b"\x85", "\x85".encode())
def test_different_names_have_different_ids(one: bytes, other: bytes) -> None:
    assume(b"\\" not in one + other and not {one, other} & {b".", b".."})
    forms = {unicodedata.normalize("NFC", spelled(name)) for name in (one, other)}
    assert len({photo_id(spelled(one)), photo_id(spelled(other))}) == len(forms)


@given(st.lists(st.text(max_size=9), unique=True, max_size=20), st.text(max_size=5), st.randoms())
def test_a_keyed_order_is_a_permutation_that_knows_no_order(
    names: list[str], key: str, random: Any
) -> None:
    photos = [Photo(photo_id(f"{name}.jpg"), Path()) for name in names]
    assume(len({photo.id for photo in photos}) == len(photos))
    order = keyed_order(photos, photo_id(key))
    assert sorted(order) == list(range(len(photos)))
    mixed = random.sample(photos, len(photos))
    again = [mixed[index].id for index in keyed_order(mixed, photo_id(key))]
    assert again == [photos[index].id for index in order]


SIDES = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 223, 224, 225, 1000]))
READ_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16")


@given(SIDES, SIDES, st.sampled_from(READ_MODES), st.sampled_from(["squash", "crop"]))
def test_images_of_every_size_and_mode_become_views(
    width: int, height: int, mode: str, resize: str
) -> None:
    """Black in every mode, and so is the view; in CMYK and a few others, 0 is another colour."""
    view = pixels_of(as_rgb(Image.new(mode, (width, height))), resize)
    assert (view.shape, view.dtype) == ((3, 224, 224), torch.uint8)
    assert (view == view[:, :1, :1]).all()
    if mode in ("1", "L", "RGB", "I", "I;16"):
        assert view.max() == 0


@given(st.sets(st.tuples(NAMES, st.sampled_from([".jpg", ".PNG", ".heic", ".txt", ""]))))
def test_every_file_of_a_folder_is_measured_or_listed(
    tmp_path_factory: pytest.TempPathFactory, names: set[tuple[bytes, str]]
) -> None:
    root = tmp_path_factory.mktemp("names")
    files = {name + ending.encode() for name, ending in names} - {b".", b".."}
    for name in files:
        (root / os.fsdecode(name)).write_bytes(b"")
    photos = ends_well(lambda: folder(str(root)))
    if photos is None:
        assert not any(name.lower().endswith((b".jpg", b".png")) for name in files if name[0] != 46)
        return
    counted = [p.left_out for p in photos if p.left_out and p.left_out.startswith("not images")]
    others = sum(int(words.split()[2]) for words in counted)
    assert len(photos) - len(counted) + others == len(files)
    for photo in photos:
        assert photo.left_out or Path(photo.file).suffix.lower() in opened_endings()
