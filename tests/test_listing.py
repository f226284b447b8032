"""Every file of a source is measured, or left out with its reason, and has a name of its own."""

import errno
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image
from support.terminal import ROOT

from clipshift.cli.build import load_photos
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.data.dataset import GONE, Skipped, View, ViewDataset
from clipshift.data.photos import Photo, decode, keyed_order
from clipshift.data.shards import class_names, shards
from clipshift.data.sources import captions, folder
from clipshift.errors import UserError
from clipshift.evaluate.calibration import set_aside


def encoded(kind: str = "png", shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 30)).save(stream, kind)
    return stream.getvalue()


PHOTO = encoded()


def write(root: Path, *names: str | bytes, copies: bool = True) -> None:
    """The same photo under each name; with its name behind it, unless copies are meant."""
    for name in names:
        file = root / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PHOTO if copies else PHOTO + os.fsencode(name))


def ids(photos: list[Photo]) -> list[str]:
    return [photo.id for photo in photos if photo.left_out is None]


def left_out(photos: list[Photo]) -> dict[str, str]:
    return {photo.id: photo.left_out for photo in photos if photo.left_out is not None}


def said(call: Callable[..., object], *args: object) -> str:
    """The one line with which a call ends."""
    with pytest.raises(UserError) as error:
        call(*args)
    assert str(error.value).isprintable()
    return str(error.value)


# --- names ---------------------------------------------------------------------------------------

ODD = [
    b"a\xff.jpg",
    b"a\xfe.jpg",
    b"caf\xe9/x.png",
    b"caf\xe8/x.png",
    b"c\r.jpg",
    b"d\ne.jpg",
    b"f\x7f\x1b[2J.jpg",
    b"g\xc2\x85.jpg",
    b"h\x85.jpg",
    "i\u2028.jpg".encode(),
]
ESCAPED = [
    r"a\xff.jpg",
    r"a\xfe.jpg",
    r"caf\xe9/x.png",
    r"caf\xe8/x.png",
    r"c\r.jpg",
    r"d\ne.jpg",
    r"f\x7f\x1b[2J.jpg",
    r"g\u0085.jpg",
    r"h\x85.jpg",
    r"i\u2028.jpg",
]


@pytest.mark.usefixtures("without_page")
def test_names_that_are_no_text_get_ids_that_tables_hold(hub_folder: Path, tmp_path: Path) -> None:
    """Measured and skipped alike: both tables are read back as they were meant."""
    write(tmp_path / "photos", *ODD, copies=False)
    for name in ODD[::2]:
        (tmp_path / "photos" / os.fsdecode(name)).write_bytes(b"damaged")
    photos = folder(str(tmp_path / "photos"))
    assert set(ids(photos)) == set(ESCAPED)
    assert {photo.label for photo in photos} == {None, r"caf\xe9", r"caf\xe8"}
    options = [
        "logger=none",
        "trainer=cpu",
        "cache=off",
        f"model.checkpoint={hub_folder}",
        "aug=noise",
        "metric=cosine_similarity",
        "data=folder",
        f"data.root={tmp_path}/photos",
        "data.num_workers=0",
    ]
    evaluate(compose_config("evaluate", options), tmp_path / "run")
    shift = pd.read_parquet(tmp_path / "run" / "shift.parquet")
    skipped = pd.read_csv(tmp_path / "run" / "skipped.csv")
    assert set(shift["photo"]) == set(ESCAPED[1::2])
    assert set(skipped["photo"]) == set(ESCAPED[::2])


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:replace"}
"""The environment of a process whose file names and terminal are ASCII."""
LISTED_AND_MEASURED = """
import runpy, sys
from pathlib import Path
from clipshift.data import captions, folder, shards
root, script, *options = sys.argv[1:]
root = Path(root)
for photos in (folder(root / "photos"), captions(root / "captions.csv"), shards(root)):
    print(ascii([(p.id, p.label, len(p.read())) for p in photos]))
sys.argv[:] = [script, *options]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def in_ascii(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What one process with an ASCII locale prints of its listings, and the folder of its run."""
    folder = tmp_path_factory.mktemp("ascii")
    write(folder / "photos", "Müll/日本.jpg", b"caf\xe9/a\xff.jpg")
    write(folder, "é.jpg")
    (folder / "captions.csv").write_text("image,caption\né.jpg,un café\n", encoding="utf-8")
    (folder / "classes.json").write_text('{"names": ["é"]}', encoding="utf-8")
    members = {"é.jpg": PHOTO, os.fsdecode(b"a\xff.jpg"): PHOTO, "é.cls": b"0"}
    write_shard(folder / "ü.tar", members)
    names = ["chat/é.png", "chien/b.png", "chien/._b.png", "c.heic", "notes.txt"]
    write(folder / "measured", *names, copies=False)
    done = subprocess.run(
        [
            sys.executable, "-c", LISTED_AND_MEASURED, str(folder), str(ROOT / "evaluate.py"),
            f"model.checkpoint={hub_folder}", f"hydra.run.dir={folder}/run", "trainer=cpu",
            "logger=none", "cache=off", "aug=noise", "metric=cosine_similarity", "data=folder",
            f"data.root={folder}/measured", "data.num_workers=1",
        ],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | ASCII,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), folder / "run"


def test_ids_do_not_depend_on_the_locale(in_ascii: tuple[list[str], Path]) -> None:
    size = len(PHOTO)
    assert in_ascii[0][:3] == [
        ascii([("Müll/日本.jpg", "Müll", size), (r"caf\xe9/a\xff.jpg", r"caf\xe9", size)]),
        ascii([("é.jpg", None, size)]),
        ascii([("ü/é", "é", size), (r"ü/a\xff", None, size)]),
    ]


def test_a_root_whose_name_no_table_holds_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, b"caf\xe9/x.png", "two\nlines/x.png")
    for name in (os.fsdecode(b"caf\xe9"), "two\nlines"):
        assert "has characters that tables cannot hold" in (
            line := said(folder, str(tmp_path / name))
        )
        assert "rename it" in line
    assert "cannot be read (File name too long)" in said(folder, str(tmp_path / ("x" * 300)))
    assert "cannot be read" in said(folder, "~nobody-of-that-name/photos")


def test_two_names_with_one_id_are_both_named(tmp_path: Path) -> None:
    write(tmp_path, b"a\xff.jpg", r"a\xff.jpg")
    assert rf"id a\xff.jpg, in {tmp_path}/a\xff.jpg and in {tmp_path}/" in said(
        folder, str(tmp_path)
    )


def test_captions_may_name_files_in_several_lines(tmp_path: Path) -> None:
    write(tmp_path, "a\nb.png")
    (tmp_path / "captions.csv").write_text('image,caption\n"a\nb.png",one\n')
    (photo,) = captions(str(tmp_path / "captions.csv"))
    assert (photo.id, photo.read()) == (r"a\nb.png", PHOTO)


def test_shards_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        root = tmp_path / place
        for part in ("train", "test"):
            (root / part).mkdir(parents=True)
            write_shard(root / part / "x.0.tar", {"0.jpg": PHOTO})
        (root / "classes.json").write_text('{"names": []}')
        assert ids(shards(root, "*/*.tar")) == ["test/x.0/0", "train/x.0/0"]
        assert ids(shards(root, "**/*.tar")) == ["test/x.0/0", "train/x.0/0"]


# --- folders -------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write(tmp_path, "elsewhere/1.png", "elsewhere/deep/2.png", "photos/cat/3.png")
    for link, target in {
        "dog": tmp_path / "elsewhere",  # outside: followed
        "aardvark": root / "cat",  # read where it lies
        "cat/round": root / "cat",
        "cat/up": root,
        "cat/around": tmp_path,
        "cat/self": root / "cat" / "self",
        "zebra": tmp_path / "elsewhere",
        "cat/gone.jpg": tmp_path / "gone.jpg",
        "cat/4.png": tmp_path / "elsewhere" / "1.png",
    }.items():
        (root / link).symlink_to(target)
    photos = folder(str(root))
    assert ids(photos) == ["cat/3.png", "cat/4.png", "dog/1.png", "dog/deep/2.png"]
    assert left_out(photos) == {
        "aardvark": "the same folder as cat, where it is read",
        "cat/around": "a link to a folder that contains this one",
        "cat/gone.jpg": "a link to no file",
        "cat/round": "the same folder as cat, where it is read",
        "cat/self": "a link to no file",
        "cat/up": "the same folder as ., where it is read",
        "zebra": "the same folder as dog, where it is read",
    }


def test_folders_that_link_to_one_another_come_to_an_end(tmp_path: Path) -> None:
    """Followed without a memory, twelve folders with links to all are more than 12! paths."""
    write(tmp_path, *(f"{number}/{number}.png" for number in range(12)))
    for number in range(12):
        for other in range(12):
            (tmp_path / f"{number}" / f"to {other}").symlink_to(tmp_path / f"{other}")
    photos = folder(str(tmp_path))
    assert (len(ids(photos)), len(left_out(photos))) == (12, 144)


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_cannot_be_read_is_listed() -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        write(Path(top), "open/a.png", "shut/b.png")
        os.chmod(Path(top) / "shut", 0)
        with nobody():
            photos = folder(top)
            alone = said(folder, str(Path(top) / "shut"))
        os.chmod(Path(top) / "shut", 0o755)
    assert (ids(photos), left_out(photos)) == (["open/a.png"], {"shut": "Permission denied"})
    assert "no images in folder" in alone
    assert "Permission denied" in alone


def nest(top: Path, name: str, depth: int) -> None:
    """A photo below as many folders of one name, which may be more than a path can have."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        deeper = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(os.open("x.png", os.O_CREAT, dir_fd=at))
    os.close(at)


def test_folders_may_be_nested_as_deep_as_the_system_reads_them(tmp_path: Path) -> None:
    """Python calls 1,000 functions deep, and Linux opens no path of more than 4,096 characters."""
    nest(tmp_path, "a", 1100)
    nest(tmp_path, "b" * 250, 20)
    photos = folder(str(tmp_path))
    assert ids(photos) == ["a/" * 1100 + "x.png"]
    assert list(left_out(photos).values()) == [os.strerror(errno.ENAMETOOLONG)]
    subprocess.run(["rm", "-rf", str(tmp_path / "a"), str(tmp_path / ("b" * 250))], check=True)


def test_what_is_hidden_is_no_class_and_is_listed(tmp_path: Path) -> None:
    write(
        tmp_path,
        "cat/a.jpg",
        "cat/._a.jpg",
        "cat/.ipynb_checkpoints/a-checkpoint.jpg",
        ".git/objects/b.jpg",
        "cat/@eaDir/c.jpg/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/cat/._a.jpg",
    )
    photos = folder(str(tmp_path))
    assert ids(photos) == ["cat/a.jpg"]
    assert {photo.label for photo in photos if photo.left_out is None} == {"cat"}
    hidden = left_out(photos)
    assert list(hidden) == [
        ".git",
        "__MACOSX",
        "cat/._a.jpg",
        "cat/.ipynb_checkpoints",
        "cat/@eaDir",
    ]
    assert all(reason.startswith("hidden") for reason in hidden.values())
    assert ids(folder(str(tmp_path / ".git"))) == ["objects/b.jpg"]  # where it is asked for


def test_images_that_pillow_cannot_open_are_listed_and_other_files_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.jpg",
        "b.HEIC",
        "c.jxl",
        "d.nef",
        "e.svg",
        "f.ps",
        "g.txt",
        "cat/h.TXT",
        "i.tar.gz",
        "README",
        ".DS_Store",
    )
    os.mkfifo(tmp_path / "j.jpg")
    photos = folder(str(tmp_path))
    assert ids(photos) == ["a.jpg"]
    listed = left_out(photos)
    assert listed.pop("b.HEIC") == ".heic files cannot be opened here: save it as JPEG or PNG"
    assert [listed.pop(name).partition(" ")[0] for name in ("c.jxl", "d.nef", "e.svg", "f.ps")] == [
        ".jxl",
        ".nef",
        ".svg",
        ".ps",
    ]
    assert listed == {
        "*": "not images: 2 other files",
        "*.gz": "not images: 1 other file",
        "*.txt": "not images: 2 other files",
        "j.jpg": "not a regular file",
    }
    (tmp_path / "a.jpg").unlink()
    assert "(left out: *, not images" in said(folder, str(tmp_path))


def test_postscript_is_never_run() -> None:
    """Pillow would give it to Ghostscript, whatever the file is called."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(program)).format == "EPS"
    with pytest.raises(Exception, match=r"^not an image$"):
        decode(program)


def test_what_is_left_out_takes_no_photos_turn(tmp_path: Path) -> None:
    """Samples, limits, the gallery and the calibration photos are those of the photos alone."""
    data = OmegaConf.load(ROOT / "conf" / "data" / "folder.yaml")
    write(tmp_path / "plain", *(f"{n:02}.png" for n in range(20)))
    write(tmp_path / "more", *(f"{n:02}.png" for n in range(20)))
    write(tmp_path / "more", *(f"._{n:02}.png" for n in range(20)), *(f"{n}.heic" for n in "abc"))
    for options in ({}, {"limit": 5}, {"sample": 7}, {"skip": 3, "skip_sample": 5, "sample": 8}):
        plain, more = (
            load_photos(OmegaConf.merge(data, {"root": str(tmp_path / part)}, options))[0]
            for part in ("plain", "more")
        )
        assert ids(more) == ids(plain) == [photo.id for photo in plain]
        assert len(left_out(more)) == len(more) - len(plain) == 23
        galleries = [
            [photos[index].id for index in keyed_order(photos, "sample")[: len(plain)]]
            for photos in (plain, more)
        ]
        assert galleries[0] == galleries[1]
        used = [[photo.id for photo in set_aside(photos, 100, 0)] for photos in (plain, more)]
        assert used[0] == used[1]
        assert len(used[0]) == len(plain) // 2


def test_a_run_lists_what_it_left_out(in_ascii: tuple[list[str], Path]) -> None:
    """Under an ASCII locale, where the names of files and the terminal hold no other letters."""
    skipped = pd.read_csv(in_ascii[1] / "skipped.csv")
    assert list(skipped["photo"]) == ["*.txt", "c.heic", "chien/._b.png"]
    assert skipped["reason"].str.len().min() > 10
    shift = pd.read_parquet(in_ascii[1] / "shift.parquet")
    assert list(shift["photo"]) == ["chat/é.png", "chien/b.png"]


# --- photos that go ------------------------------------------------------------------------------


def test_photos_that_go_while_a_run_goes_on_say_so(tmp_path: Path) -> None:
    write(tmp_path, "photos/1.png", "photos/2.png", "photos/sub/3.png", "photos/4.png")
    write_shard(tmp_path / "x.tar", {"0.png": PHOTO, "1.png": PHOTO})
    (tmp_path / "classes.json").write_text('{"names": []}')
    photos = folder(str(tmp_path / "photos")) + shards(tmp_path)
    dataset = ViewDataset(photos, {}, 0, "squash")
    assert all(isinstance(dataset[index], View) for index in range(6))
    (tmp_path / "photos" / "1.png").unlink()
    (tmp_path / "photos" / "2.png").unlink()
    os.mkfifo(tmp_path / "photos" / "2.png")  # opened, it would wait for ever
    (tmp_path / "photos" / "4.png").unlink()
    (tmp_path / "photos" / "4.png").symlink_to("/dev/zero")  # without an end
    (tmp_path / "photos" / "sub" / "3.png").unlink()
    (tmp_path / "photos" / "sub").rmdir()
    (tmp_path / "photos" / "sub").write_bytes(b"")
    os.truncate(tmp_path / "x.tar", photos[5].offset + 10)
    items = [dataset[index] for index in range(6)]
    reasons = {photos[item.index].id: item.reason for item in items if isinstance(item, Skipped)}
    assert reasons == {
        "1.png": GONE,
        "2.png": "not a regular file",
        "4.png": "not a regular file",
        "sub/3.png": GONE,
        "x/1": "its shard has become shorter",
    }


# --- shards --------------------------------------------------------------------------------------


def write_shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text('{"names": ["cat", "dog"]}')
    return tmp_path / "x.tar"


def test_shards_hold_photos_of_all_formats_and_all_else_is_said(shard: Path) -> None:
    with tarfile.open(shard, "w") as tar:
        for name, content in [
            ("0.png", PHOTO),
            ("0.cls", b"1"),
            ("1.JPEG", encoded("jpeg")),
            ("2.webp", b"?"),
            ("3.jpg", PHOTO),
            ("3.png", encoded(shade=9)),
            ("3.cls", b"0"),
            ("3.cls", b"1"),
            ("0.png", encoded(shade=8)),
            ("4.heic", b"?"),
            ("._5.jpg", b"?"),
            ("0.json", b"{}"),
            ("1.json", b"{}"),
            ("sub/6.jpg", PHOTO),
            ("__MACOSX/7.jpg", b"?"),
            ("8", b"?"),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, kind in [
            ("9.jpg", tarfile.SYMTYPE),
            ("10.jpg", tarfile.LNKTYPE),
            ("11.jpg", tarfile.FIFOTYPE),
            ("sub", tarfile.DIRTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            tar.addfile(member)
    photos = shards(shard.parent)
    assert [(p.id, p.label) for p in photos if p.left_out is None] == [
        ("x/0", "dog"),
        ("x/1", None),
        ("x/2", None),
        ("x/3", "cat"),
        ("x/sub/6", None),
    ]
    assert photos[0].read() == photos[3].read() == PHOTO
    assert {name: reason[:30] for name, reason in left_out(photos).items()} == {
        "*": "not images: 1 other file",
        "*.json": "not images: 2 other files",
        "x/0.png": "0.png before it has the same k",
        "x/3.png": "3.jpg before it has the same k",
        "x/4.heic": ".heic files cannot be opened h",
        "x/._5.jpg": "hidden, like the files that pr",
        "x/9.jpg": "a link or special file in its ",
        "x/10.jpg": "a link or special file in its ",
        "x/11.jpg": "a link or special file in its ",
        "x/__MACOSX/7.jpg": "hidden, like the files that pr",
    }


def test_a_shard_that_is_not_whole_is_told_of(shard: Path) -> None:
    """tarfile takes a cut between members, and a damaged header after the first, for the end."""
    write_shard(shard, {f"{number}.png": PHOTO for number in range(4)})
    whole = shard.read_bytes()
    photos = shards(shard.parent)
    members = [photo.offset - 512 for photo in photos]
    for cut in members[1:]:
        shard.write_bytes(whole[:cut])
        with tarfile.open(shard) as tar:
            assert len(tar.getnames()) < 4
        assert f"truncated or damaged after {members.index(cut)} members" in said(
            shards, shard.parent
        )
    damaged = bytearray(whole)
    damaged[members[2] + 150] ^= 1  # in its checksum
    shard.write_bytes(damaged)
    assert "after 2 members" in said(shards, shard.parent)
    shard.write_bytes(whole + whole)
    assert "after 4 members" in said(shards, shard.parent)
    shard.write_bytes(whole[: members[3] + 512 + len(PHOTO) - 1])
    assert "not a tar file" in said(shards, shard.parent)
    shard.write_bytes(gzip.compress(whole))
    assert "not a tar file, or compressed" in said(shards, shard.parent)
    shard.write_bytes(b"")
    assert "not a tar file" in said(shards, shard.parent)
    shard.write_bytes(whole[: members[3] + 512 + 512 * -(-len(PHOTO) // 512) + 512])
    assert len(shards(shard.parent)) == 4  # one block of zeros will do


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"5"])
def test_sizes_below_zero_end_too(shard: Path, kind: bytes) -> None:
    """A header may say so in base 256, and tarfile then goes back (CVE-2025-8194)."""
    write_shard(shard, {"0.png": PHOTO, "1.png": PHOTO})
    damaged = bytearray(shard.read_bytes())
    start = 512 + 512 * -(-len(PHOTO) // 512)
    for size in (-512, -start - 512, -(2**40), 2**62):
        damaged[start + 124 : start + 136] = size.to_bytes(12, "big", signed=True)
        damaged[start + 124] |= 0x80
        damaged[start + 156 : start + 157] = kind
        damaged[start + 148 : start + 156] = b" " * 8
        checksum = sum(damaged[start : start + 512])
        damaged[start + 148 : start + 156] = f"{checksum:06o}\0 ".encode()
        shard.write_bytes(damaged)
        assert "x.tar" in said(shards, shard.parent)


def test_a_shard_is_a_file(shard: Path) -> None:
    os.mkfifo(shard)
    assert "not a regular file" in said(shards, shard.parent)
    shard.unlink()
    shard.mkdir()
    assert "not a regular file" in said(shards, shard.parent)
    shard.rmdir()
    write_shard(shard, {"0.txt": b"?", "1.heic": b"?"})
    assert "no photos in the shards *.tar" in said(shards, shard.parent)


def test_labels_are_short_files(shard: Path) -> None:
    for content, reason in [
        (b"2", "'2' is not an index of one of the 2 classes"),
        (b"-1", "'-1'"),
        (b"", "''"),
        (b"\xff", "'�'"),
        (b"1" * 33, "a short file"),
        ("²".encode(), "'²'"),
        (b"\x1b[2J", r"'\x1b[2J'"),
    ]:
        write_shard(shard, {"0.jpg": PHOTO, "0.cls": content})
        line = said(shards, shard.parent)
        assert f"{shard}: 0.cls" in line
        assert reason in line
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(shard, "w") as tar:
            for name in ("0.jpg", "0.cls"):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, name  # a link to itself
                tar.addfile(member)
        assert "0.cls must be a short file" in said(shards, shard.parent)


def test_class_lists_of_any_other_shape_are_damaged(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    for content in (
        "{",
        "[]",
        "3",
        '{"names": {"a": 0}}',
        '{"names": "cat"}',
        '{"names": [["a"]]}',
        '{"names": [1]}',
        '{"names": null}',
        "[" * 10**6,
        '{"names":' * 10**5,
        "\xff",
    ):
        file.write_text(content, encoding="latin-1")
        assert "classes.json is damaged" in said(class_names, tmp_path)
    file.write_text(r'{"names": ["two\nlines", "\ud800"]}')
    assert class_names(tmp_path) == [r"two\nlines", r"\ud800"]
    for target in ("/dev/zero", tmp_path):
        file.unlink()
        file.symlink_to(target)
        assert "classes.json is damaged" in said(class_names, tmp_path)
    file.unlink()
    os.mkfifo(file)
    assert "classes.json is damaged" in said(class_names, tmp_path)
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(2**36)
    assert "classes.json is damaged" in said(class_names, tmp_path)


# --- captions ------------------------------------------------------------------------------------


def test_captions_are_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "self.csv").symlink_to(tmp_path / "self.csv")
    for name in (
        tmp_path / "pipe.csv",
        tmp_path / "folder.csv",
        tmp_path / "self.csv",
        "/dev/zero",
    ):
        assert f"no file {name}" in said(captions, str(name))
    endless = tmp_path / "zeros.csv"
    with endless.open("wb") as stream:
        stream.truncate(2**36)
    assert "a line has more than" in said(captions, str(endless))


def test_photos_of_captions_that_are_not_there_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["gone.png", "a.png", "/dev/zero", "pipe.png", "x" * 300, "no/folder.png"]
    table = tmp_path / "captions.csv"
    table.write_text("\n".join(["image,caption", *(f"{name},words" for name in names)]))
    photos = captions(str(table))
    assert ids(photos) == ["a.png"]
    assert left_out(photos) == {
        "/dev/zero": "not a regular file",
        "gone.png": "no such file",
        "no/folder.png": "no such file",
        "pipe.png": "not a regular file",
        "x" * 300: "no such file",
    }
    table.write_text("image,caption\ngone.png,words\n")
    assert "none of the 1 photos of" in (line := said(captions, str(table)))
    assert "gone.png, no such file" in line
