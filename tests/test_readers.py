"""The layouts in which others keep photos, made by the formats' own libraries."""

import contextlib
import hashlib
import http.server
import importlib
import io
import os
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import open_clip
import pandas as pd
import pytest
import webdataset
from PIL import Image
from support.runs import run_info
from torch.utils.data import DataLoader

from clipshift import parts
from clipshift.cli.build import load_photos
from clipshift.cli.command import compose_config
from clipshift.cli.config import check_paths, plain
from clipshift.data import download as downloads
from clipshift.data.dataset import GONE, Skipped, ViewDataset, collate
from clipshift.data.photos import Photo, decode
from clipshift.data.shards import shards
from clipshift.data.sources import captions, folder, sample
from clipshift.data.wordnet import class_name
from clipshift.errors import UserError
from clipshift.results.rebuild import rebuild_views
from clipshift.results.runs import Run


def noise(seed: int, side: int = 12) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(seed: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    noise(seed).save(stream, kind)
    return stream.getvalue()


def write(file: Path, content: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def facts(photos: list[Photo]) -> list[tuple]:
    return [(p.id, p.label, p.captions, p.read()) for p in photos if p.left_out is None]


def said(call, *args: object, **kwargs: object) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- one photo, a list, a CSV, names of classes --------------------------------------------------


def test_one_photo_is_a_source(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "x.png", encoded(1))
    (photo,) = folder(str(file))
    assert (photo.id, photo.label, photo.read()) == ("x.png", None, encoded(1))
    cfg = compose_config("evaluate", ["data=folder", f"data.root={file}"])
    check_paths(cfg, "evaluate")
    assert facts(load_photos(cfg.data)[0]) == facts([photo])


def test_a_list_names_photos_below_its_folder(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "3.png"):
        write(tmp_path / name, encoded(0))
    list_file = write(
        tmp_path / "some.txt", f"dog/1.png\n\n./dog/../cat/2.png\n{tmp_path}/3.png\nno.png\n"
    )
    photos = folder(str(list_file))
    assert [(p.id, p.label) for p in photos if p.left_out is None] == [
        ("3.png", None),
        ("cat/2.png", "cat"),
        ("dog/1.png", "dog"),
    ]
    assert {p.id: p.left_out for p in photos if p.left_out} == {"no.png": "no such file"}
    shutil.move(tmp_path, tmp_path.with_name("elsewhere"))
    moved = tmp_path.with_name("elsewhere") / "some.txt"
    moved.write_text(made_text := moved.read_text().replace(str(tmp_path), str(moved.parent)))
    assert str(moved.parent) in made_text
    assert [p.id for p in folder(str(moved))] == [p.id for p in photos]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("/elsewhere/1.png\n", "names /elsewhere/1.png, which is not below its folder"),
        ("../1.png\n", "names ../1.png, which is not below its folder"),
        (b"\xff\xfe\x00", "neither an image nor a list of images"),
        ("\n", "no images in file"),
        ("no.png\n", "no images in file"),
    ],
)
def test_lists_that_cannot_be_used_end_in_a_line(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    assert reason in said(folder, str(write(tmp_path / "list.txt", content)))


def test_a_csv_gives_labels_captions_or_both(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name, encoded(0))
    table = tmp_path / "t.csv"
    table.write_text("label,image\nn01440764,a.png\ndog,b.png\n")
    photos = captions(str(table), str(tmp_path / "in"))
    assert [(p.id, p.label, p.captions) for p in photos] == [
        ("a.png", "tench", ()),
        ("b.png", "dog", ()),
    ]
    table.write_text(
        f"image,caption,label\n{tmp_path}/in/a.png,one,dog\na.png,two,dog\nb.png,three,\n"
    )
    photos = captions(str(table), str(tmp_path / "in"))
    assert [(p.id, p.label, p.captions) for p in photos] == [
        ("a.png", "dog", ("one", "two")),
        ("b.png", None, ("three",)),
    ]
    table.write_text("image,label\na.png,dog\na.png,cat\n")
    assert "line 3: a.png has two labels, dog and cat" in said(captions, str(table), str(tmp_path))
    table.write_text(f"image,label\n{tmp_path}/in/a.png,dog\nb.png,dog\n")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "b.png", encoded(0))
    photos = captions(str(table), str(tmp_path / "other"))
    assert [p.id for p in photos if p.left_out is None] == ["b.png"]
    assert "not below the folder of the images" in str(photos[1].left_out)


def test_a_file_names_the_classes_in_their_order_or_one_by_one(tmp_path: Path) -> None:
    for name in ("10/a.png", "9/b.png", "x/c.png", "d.png"):
        write(tmp_path / "photos" / name, encoded(0))
    names = tmp_path / "names.txt"

    def labels() -> list[str | None]:
        return [p.label for p in folder(str(tmp_path / "photos"), str(names))]

    names.write_text("tench, Tinca tinca\ndéjà vu\nred fox\n", encoding="utf-8")  # 10, 9, x
    assert labels() == ["tench, Tinca tinca", "déjà vu", None, "red fox"]
    for line in ("9,nine\n10,ten, or so\nx,ex\nunused,u\n", "9\tnine\nx\tex\n10\tten, or so\n"):
        names.write_text(line)
        assert labels() == ["ten, or so", "nine", None, "ex"]
    for content, reason in [
        ("a\nb\n", "2 names for 3 classes"),
        ("9,a\n10,b\n", "(x has no name)"),
        ("", "0 names for 3 classes"),
    ]:
        names.write_text(content)
        assert reason in said(folder, str(tmp_path / "photos"), str(names))
    names.write_bytes(b"\xff\n")
    assert "cannot read" in said(folder, str(tmp_path / "photos"), str(names))
    assert "no file" in said(folder, str(tmp_path / "photos"), str(tmp_path / "none.txt"))


def test_folders_called_by_the_ids_of_all_of_imagenet_have_open_clips_names(tmp_path: Path) -> None:
    """The four classes that share two names apart: open_clip's own list, by another's ids."""
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()
    for one in ids:
        write(tmp_path / one / "1.jpg", b"")
    labels = {p.id.split("/")[0]: p.label for p in folder(str(tmp_path))}
    for index, (one, name) in enumerate(zip(ids, open_clip.IMAGENET_CLASSNAMES, strict=True)):
        assert labels[one] == name or index in (657, 744, 836, 837)
    assert len(set(labels.values())) == 1000


# --- CLIP_benchmark's shards ---------------------------------------------------------------------

NAMES = ["cat", "dog", "red fox"]
SAMPLES = [("webp", 0), ("png", 1), ("jpg", 2), ("jpeg", 1), ("webp", 0)]


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """As `clip_benchmark.webdataset_builder` writes it, by webdataset's own writer."""
    root = tmp_path / "wds"
    (root / "test").mkdir(parents=True)
    sink = webdataset.ShardWriter(str(root / "test" / "%d.tar"), maxcount=2, verbose=0)
    for index, (kind, label) in enumerate(SAMPLES):
        photo = encoded(index, {"jpg": "jpeg"}.get(kind, kind))
        sink.write({"__key__": f"s{index:07d}", kind: photo, "cls": label})
    shards_made = sink.shard
    sink.close()
    (root / "test" / "nshards.txt").write_text(f"{shards_made}\n")
    (root / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    (root / "dataset_type.txt").write_text("classification\n")
    return root


def expected(root: Path) -> list[tuple]:
    """The same, read by webdataset itself."""
    expected_rows = []
    for number in range(3):
        for row in webdataset.WebDataset(
            str(root / "test" / f"{number}.tar"), shardshuffle=False, empty_check=False
        ):
            photo = next(row[kind] for kind in ("webp", "png", "jpg", "jpeg") if kind in row)
            label = NAMES[int(row["cls"])]
            expected_rows.append((f"test/{number}/{row['__key__']}", label, (), photo))
    return expected_rows


def test_shards_of_clip_benchmark_are_read_as_they_are(benchmark: Path) -> None:
    assert facts(shards(benchmark)) == expected(benchmark)
    assert len(expected(benchmark)) == len(SAMPLES)
    assert [p.id for p in shards(benchmark, "1.tar")] == ["test/1/s0000002", "test/1/s0000003"]
    write(benchmark / "test" / "9.tar", b"left over from another conversion")
    assert facts(shards(benchmark)) == expected(benchmark)


def test_shards_of_captions_need_no_classes(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
        sink.write({"__key__": "a", "jpg": encoded(0, "jpeg"), "txt": "one\n\n two \n"})
        sink.write({"__key__": "b", "png": encoded(1)})
        sink.write({"__key__": "README", "txt": "x" * 2**17})
    *photos, other = shards(tmp_path)
    assert [(p.id, p.label, p.captions) for p in photos] == [
        ("0/a", None, ("one", "two")),
        ("0/b", None, ()),
    ]
    assert (other.id, other.left_out) == ("*.txt", "not images: 1 other file")


def test_all_of_imagenets_classes_are_told_apart_in_shards(tmp_path: Path) -> None:
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()
    (tmp_path / "classnames.txt").write_text("\n".join(open_clip.IMAGENET_CLASSNAMES))
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
        for label in (657, 744):
            sink.write({"__key__": f"{label}", "png": encoded(0), "cls": label})
    assert [p.label for p in shards(tmp_path)] == [class_name(ids[657]), class_name(ids[744])]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "test/nshards.txt").write_text("many"), "must hold the number"),
        (lambda root: (root / "test/nshards.txt").write_text("9"), "is not a regular file"),
        (lambda root: (root / "test/nshards.txt").write_text("0"), "no shards *.tar"),
        (lambda root: (root / "classnames.txt").unlink(), "no classes.json or classnames.txt"),
        (lambda root: (root / "classnames.txt").write_text("cat\n"), "not an index of one of"),
        (lambda root: (root / "classnames.txt").write_bytes(b"\xff"), "classnames.txt is damaged"),
        (lambda root: (root / "test/1.tar").write_bytes(b"x" * 700), "not a tar file"),
        (lambda root: os.truncate(root / "test/1.tar", 1536), "unexpected end of data"),
    ],
)
def test_damaged_shards_of_clip_benchmark_end_in_a_line(
    benchmark: Path, damage, reason: str
) -> None:  # type: ignore[no-untyped-def]
    damage(benchmark)
    assert reason in said(shards, benchmark)


# --- over http -----------------------------------------------------------------------------------


class Server(http.server.SimpleHTTPRequestHandler):
    """A file server with ranges and ETags, which can be told to fail."""

    asked: list[tuple[str, str | None]]
    cuts: dict[str, int]
    """How many bytes of a file come before the connection breaks, once."""
    errors: dict[str, int]
    """How many times a file is answered with 503."""

    def do_GET(self) -> None:
        part = self.headers.get("Range")
        self.asked.append((self.path, part))
        if self.errors.get(self.path, 0):
            self.errors[self.path] -= 1
            self.send_error(503)
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start, _, end = part.removeprefix("bytes=").partition("-") if part else ("0", "", "")
        content = content[int(start) : int(end) + 1 if end else None]
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.end_headers()
        cut = self.cuts.pop(self.path, None)
        with contextlib.suppress(ConnectionError):  # a client that has it does not read it again
            if self.command == "GET":
                self.wfile.write(content[:cut])
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Server]]]:
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    handler = type("Handler", (Server,), {"asked": [], "cuts": {}, "errors": {}})
    http_server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(benchmark))
    )
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http_server.server_port}", handler
    http_server.shutdown()
    http_server.server_close()
    thread.join()


def test_over_http_photos_and_ids_are_those_of_the_disk(
    server: tuple[str, type[Server]], benchmark: Path, tmp_path: Path
) -> None:
    url, _ = server
    options = ["data=shards", f"data.root={url}/", f"data.download={tmp_path}/kept"]
    cfg = compose_config("evaluate", options)
    check_paths(cfg, "evaluate")
    photos, classes = load_photos(cfg.data)
    assert facts(photos) == expected(benchmark)
    assert classes == NAMES
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("*.tar")}
    assert len(kept) == 3
    assert facts(shards(url, download=str(tmp_path / "kept"))) == expected(benchmark)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    # what has changed over there is another file
    with webdataset.TarWriter(str(benchmark / "test" / "2.tar")) as sink:
        sink.write({"__key__": "new", "png": encoded(9), "cls": 2})
    assert facts(shards(url, download=str(tmp_path / "kept"))) == [
        *expected(benchmark)[:4],
        ("test/2/new", "red fox", (), encoded(9)),
    ]


def test_a_broken_connection_goes_on_where_it_broke(
    server: tuple[str, type[Server]], benchmark: Path, tmp_path: Path
) -> None:
    url, handler = server
    handler.cuts["/test/1.tar"] = 1000
    handler.errors.update({"/test/0.tar": 2, "/classnames.txt": 1})
    assert facts(shards(url, download=str(tmp_path / "kept"))) == expected(benchmark)
    assert ("/test/1.tar", "bytes=1000-") in handler.asked
    assert not list((tmp_path / "kept").glob("*.part"))


def test_what_cannot_be_had_over_http_ends_in_a_line(
    server: tuple[str, type[Server]], benchmark: Path, tmp_path: Path
) -> None:
    url, handler = server
    kept = {"download": str(tmp_path / "kept")}
    assert "shards at an address must have the layout" in said(shards, url, split="train", **kept)
    (benchmark / "test" / "2.tar").unlink()
    assert f"cannot read {url}/test/2.tar: 404" in said(shards, url, **kept)
    handler.errors["/test/0.tar"] = 5
    assert f"cannot read {url}/test/0.tar: 503" in said(shards, url, **kept)
    assert handler.errors["/test/0.tar"] == 0  # five tries
    (benchmark / "test" / "0.tar").write_bytes(b"x" * 700)
    assert "is not a tar file" in said(shards, url, **kept)
    write(tmp_path / "file", "")
    assert "cannot create" in said(shards, url, download=str(tmp_path / "file" / "x"))
    assert "cannot read http://127.0.0.1:1" in said(shards, "http://127.0.0.1:1", **kept)


def test_a_download_takes_no_memory_of_its_own(
    server: tuple[str, type[Server]], benchmark: Path, tmp_path: Path
) -> None:
    url, _ = server
    large = benchmark / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(2**26)
    tracemalloc.start()
    file = downloads.fetch(f"{url}/large.bin", tmp_path / "kept")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size == 2**26
    assert peak < 2**26 + 2**24, "the server's own copy, and a few chunks"


def test_streamed_photos_are_those_of_the_disk(
    server: tuple[str, type[Server]], benchmark: Path, tmp_path: Path
) -> None:
    url, handler = server
    handler.errors["/test/0.tar"] = 3  # its HEAD, the GET that asks why, and one try more
    kept = tmp_path / "kept"
    photos = shards(url, download=str(kept), stream=True)
    assert not list(kept.glob("*.tar"))
    handler.cuts["/test/1.tar"] = 7
    handler.errors["/test/2.tar"] = 2
    assert facts(photos) == expected(benchmark)
    asked = len(handler.asked)
    options = ["data=shards", f"data.root={url}", f"data.download={kept}", "data.stream=true"]
    assert load_photos(compose_config("evaluate", options).data) == (photos, NAMES)
    parts = [part for path, part in handler.asked[asked:] if path.endswith(".tar") and part]
    assert parts == [], "what is in a shard is kept"
    loader = DataLoader(ViewDataset(photos, {}, 0, "squash"), 2, num_workers=2, collate_fn=collate)
    digests = [digest for batch in loader for digest in batch.digests]
    assert digests == [hashlib.sha256(row[-1]).digest() for row in expected(benchmark)]
    (benchmark / "test" / "2.tar").unlink()
    assert ViewDataset(photos, {}, 0, "squash")[4] == Skipped(4, GONE), "it may be there again"


def test_other_addresses_are_streamed(benchmark: Path, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(benchmark), "/bucket/wds", recursive=True)
    photos = shards("memory://bucket/wds", download=str(tmp_path))
    assert facts(photos) == expected(benchmark)
    assert "no memory://elsewhere/test/nshards.txt" in said(shards, "memory://elsewhere")
    assert "no folder" in said(shards, "filecache::memory://bucket/wds")
    files.rm("/bucket", recursive=True)


def test_a_shard_that_is_streamed_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    large = tmp_path / "test" / "0.tar"
    large.parent.mkdir()
    with tarfile.open(large, "w") as tar:
        for index in range(64):
            member = tarfile.TarInfo(f"{index:02}.png")
            member.size = 2**20
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "test" / "nshards.txt").write_text("1")
    tracemalloc.start()
    photos = shards(f"file://{tmp_path}", download=str(tmp_path / "kept"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(photos) == 64
    assert peak < 2**24, "a few parts of 4 MiB"


def test_pages_of_the_hub_are_read_from_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("clipshift.data.shards")
    asked: list[str] = []
    monkeypatch.setattr(module, "read_url", lambda url, limit: asked.append(url))
    said(shards, "https://huggingface.co/datasets/clip-benchmark/wds_food101/tree/main")
    assert asked == [
        "https://huggingface.co/datasets/clip-benchmark/wds_food101/resolve/main/test/nshards.txt"
    ]


def test_a_runs_file_does_not_say_where_files_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["data=shards", "data.root=http://x", "data.download=/elsewhere", "logger=none"]
    config = plain(compose_config("evaluate", options))
    seen = []

    def load(
        root: str, pattern: str, split: str, download: str | None, stream: bool
    ) -> list[Photo]:
        seen.append(download)
        return sample()

    monkeypatch.setitem(parts.SOURCES, "clipshift.data.shards", load)
    rebuild_views(Run(Path(), run_info(config=config), {}, pd.DataFrame()), fetch=True)
    assert seen == [None]


def test_every_photo_of_these_can_be_decoded(benchmark: Path) -> None:
    for index, photo in enumerate(shards(benchmark)):
        image = decode(photo.read())
        assert image.size == (12, 12)
        if SAMPLES[index][0] == "png":
            assert np.array_equal(np.asarray(image), np.asarray(noise(index)))
