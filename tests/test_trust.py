"""A run's folder may come from a stranger: what is read back is data, on all four roads.

Every part of every file is replaced by what could do harm: names of code, interpolations, paths
that leave the folder, links, devices, wrong shapes. Then nothing has run (a canary file), nothing
has gone out (a canary server on loopback, a canary in the environment), nothing is written outside
of the run's folder, and what is wrong is told in one line.
"""

import copy
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.commands import run_script

import clipshift
from clipshift.cli.report import remake_report
from clipshift.comparison import compare_runs, compare_sweep
from clipshift.data.files import typed
from clipshift.data.sources import sample
from clipshift.errors import UserError
from clipshift.evaluate.calibration import load_calibration
from clipshift.results.files import file_name
from clipshift.results.info import RUN_INFO
from clipshift.results.kept import read_kept, read_nearest
from clipshift.results.rebuild import rebuild_views
from clipshift.results.records import Records
from clipshift.results.runs import read_run

SECRET = "canary-in-the-environment"


@pytest.fixture(scope="module", autouse=True)
def charts_drawn_once() -> Iterator[None]:
    """A chart that was drawn before is not drawn again: most of a damaged run's page stays."""
    drawn = vl_convert.vegalite_to_svg
    svg = cache(lambda chart, options: drawn(json.loads(chart), **json.loads(options)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vl_convert,
            "vegalite_to_svg",
            lambda chart, **options: svg(json.dumps(chart), json.dumps(options)),
        )
        patch.setattr(vl_convert, "svg_to_png", cache(vl_convert.svg_to_png))
        yield


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of three photos in a folder, with its page."""
    photos = tmp_path_factory.mktemp("photos")
    for photo, label in zip(sample()[:3], ("cat", "dog", "cat"), strict=True):
        (photos / label).mkdir(exist_ok=True)
        shutil.copy(photo.file, photos / label / photo.id)
    folder = tmp_path_factory.mktemp("stranger") / "run"
    clipshift.measure_shift(
        photos, model="tiny", augmentations=["noise", "blur"], severities=["paper", 2],
        measures=["cosine_similarity", "ssim"], layers=True, folder=folder, progress=False,
    )  # fmt: skip
    remake_report(folder, fetch=False)
    return folder


class Canary:
    """What must not change: a folder outside of the run's, and a server that nobody asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        (folder / "kept.txt").write_text("kept")
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def check(self) -> None:
        assert {f.name: f.read_text() for f in self.folder.iterdir()} == {"kept.txt": "kept"}
        assert self.asked == []


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    made = Canary(tmp_path_factory.mktemp("outside") / "canary")
    os.environ["CLIPSHIFT_SECRET"] = SECRET
    yield made
    del os.environ["CLIPSHIFT_SECRET"]
    made.server.shutdown()


def harms(canary: Canary) -> list[Any]:
    """What stands in the place of a value."""
    made = f"{canary.folder}/made"
    call = {"_target_": "os.mkdir", "path": made}
    return [
        call, [call], {"_target_": "os.system", "_args_": [f"touch {made}"]},
        {"_target_": "clipshift.data.files.os.mkdir", "path": made}, "os.mkdir",
        "${evil}", "${oc.env:CLIPSHIFT_SECRET}", f"{canary.address}/x.tar",
        f"{canary.address}/${{oc.env:CLIPSHIFT_SECRET}}/x.tar", made, f"../../../../{made}",
        "../../../made", "/dev/zero",
        "/dev/stdin", "a\0b", "\n", "", "🙂" * 600, None, True, -1, 2**70, 1e308, float("nan"),
        [], {}, [[]], {"": {}},
    ]  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a JSON content."""
    if path:
        yield path
    parts = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content if isinstance(content, list) else ())
    )
    for key, part in list(parts):
        yield from places(part, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any, how: str) -> Any:
    """The content with another value there, or another key, or one more."""
    changed = copy.deepcopy(content)
    *way, last = path
    part = changed
    for key in way:
        part = part[key]
    if how == "value" or isinstance(part, list):
        part[last] = value
    elif how == "name":
        part[value if isinstance(value, str) else json.dumps(value)] = part.pop(last)
    else:
        part["evil"] = value
    return changed


@contextmanager
def one_line() -> Iterator[None]:
    """Ends well, or in one line that does not hold the secret."""
    said = ""
    try:
        yield
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert SECRET not in said


def signed(folder: Path) -> None:
    """Let ``run.json`` give the digests of the tables as they are now."""
    facts = json.loads((folder / "run.json").read_text())
    for name in facts["sha256"]:
        facts["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(facts))


def copied(stranger: Path, tmp: Path) -> Path:
    folder = tmp / "run"
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(stranger, folder)


def read_all(folder: Path) -> None:
    """All that the four roads read."""
    with one_line():
        run = read_run(folder)
        with one_line():
            rebuild_views(run)
        with one_line():
            read_kept(folder)
        with one_line():
            read_nearest(folder)
    with one_line():
        clipshift.load_run(folder)


HOW = st.sampled_from(["value", "name", "more"])


def test_any_part_of_run_json_is_data(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    facts = json.loads((stranger / "run.json").read_text())
    folder = copied(stranger, tmp_path)
    ways = [way for way in places(facts) if way[0] != "sha256"]

    @settings(max_examples=150)
    @given(st.sampled_from(ways), st.sampled_from(harms(canary)), HOW)
    def holds(way: tuple[Any, ...], value: Any, how: str) -> None:
        changed = replaced(facts, way, value, how)
        changed["evil"] = {"_target_": "os.mkdir", "path": f"{canary.folder}/made"}
        if how != "more":
            del changed["evil"]
        (folder / "run.json").write_text(json.dumps(changed))
        read_all(folder)
        canary.check()

    holds()


def test_pages_of_any_run_json(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    """Some of the same, drawn and compared: what is read is shown as text."""
    facts = json.loads((stranger / "run.json").read_text())
    ways = [way for way in places(facts) if way[0] not in ("sha256", "config")]
    folder = copied(stranger, tmp_path)

    @settings(max_examples=10)
    @given(st.sampled_from(ways), st.sampled_from([v for v in harms(canary) if type(v) is str]))
    def holds(way: tuple[Any, ...], value: str) -> None:
        (folder / "run.json").write_text(json.dumps(replaced(facts, way, value, "value")))
        with one_line():
            remake_report(folder, fetch=False)
        with one_line():
            compare_runs([str(folder), str(stranger)], 0, tmp_path / "compared")
        canary.check()

    holds()


@pytest.mark.parametrize("part", ["data", "aug"])
def test_every_option_of_a_part_is_typed(
    stranger: Path, canary: Canary, tmp_path: Path, part: str
) -> None:
    """These are what objects are made of: each place, with each harm."""
    facts = json.loads((stranger / "run.json").read_text())
    run = read_run(stranger)
    for way in places(facts["config"][part]):
        for value in harms(canary):
            for how in ("value", "more"):
                config = facts["config"] | {part: replaced(facts["config"][part], way, value, how)}
                try:
                    run.info = typed(RUN_INFO, json.dumps(facts | {"config": config}))
                except ValueError:
                    continue  # refused before anything is rebuilt
                with one_line():
                    rebuild_views(run)
    canary.check()


def test_interpolations_are_text(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    """The hole that was: the check saw text, and what was resolved after it was code."""
    folder = copied(stranger, tmp_path)
    facts = json.loads((folder / "run.json").read_text())
    facts["config"]["data"]["root"] = "${evil}"
    facts["config"]["evil"] = {"_target_": "os.mkdir", "path": f"{canary.folder}/made"}
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"no folder or file \$\{evil\}"):
        remake_report(folder, fetch=False)
    canary.check()


@pytest.mark.parametrize(
    "source",
    [
        {"_target_": "clipshift.data.shards", "pattern": "*.tar", "split": "test"},
        {"_target_": "clipshift.data.shards", "stream": True},
        {"_target_": "clipshift.data.folder"},
    ],
)
def test_the_network_is_asked_only_with_consent(
    stranger: Path, canary: Canary, tmp_path: Path, source: dict[str, Any]
) -> None:
    folder = copied(stranger, tmp_path)
    facts = json.loads((folder / "run.json").read_text())
    root = f"{canary.address}/${{oc.env:CLIPSHIFT_SECRET}}"
    facts["config"]["data"] = {"resize": "squash", "root": root} | source
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="add fetch=true if you trust it"):
        remake_report(folder, fetch=False)
    canary.check()
    if "pattern" in source:
        with pytest.raises(UserError):
            rebuild_views(read_run(folder), fetch=True)
        asked, canary.asked[:] = list(canary.asked), []
        assert asked, "with consent it is asked"
        assert not any(SECRET in path for path in asked), "of what the file says, not what it hides"


def test_a_data_set_of_the_hub_counts_as_an_address(stranger: Path, tmp_path: Path) -> None:
    run = read_run(stranger)
    run.info.config.data.update(
        _target_="clipshift.data.huggingface", dataset=str(tmp_path), resize="squash"
    )
    with pytest.raises(UserError, match="add fetch=true"):
        rebuild_views(run)


def tables(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.csv"))


def test_any_cell_of_a_table_is_data(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    folder = copied(stranger, tmp_path)
    whole = clipshift.load_run(stranger)
    every = {name: pd.read_csv(stranger / name, dtype=str) for name in tables(stranger)}
    filled = [name for name, table in every.items() if len(table)]
    texts = [json.dumps(v) if not isinstance(v, str) else v for v in harms(canary)] + [
        "nan",
        "-inf",
    ]

    @settings(max_examples=60)
    @given(st.sampled_from(filled), st.integers(0, 10**6), st.sampled_from(texts), HOW)
    def holds(name: str, place: int, text: str, how: str) -> None:
        table = every[name].copy()
        column = table.columns[place % len(table.columns)]
        if how == "value":
            table.loc[place % len(table), column] = text
        elif how == "name":
            table = table.rename(columns={column: text})
        else:
            table = table.drop(columns=column)
        table.to_csv(folder / name, index=False)
        signed(folder)
        read_all(folder)
        with one_line():
            if place % 5:
                clipshift.compare(whole, folder)
            else:  # with its page and figures
                compare_runs([str(stranger), str(folder)], 0, tmp_path / "compared")
        shutil.copy(stranger / name, folder / name)
        canary.check()

    holds()


def test_any_cell_of_the_rows_is_data(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    folder = copied(stranger, tmp_path)
    rows = pq.read_table(stranger / "shift.parquet")
    told = json.loads(rows.schema.metadata[b"clipshift.columns"])
    ways = list(places(told))

    @settings(max_examples=60)
    @given(st.sampled_from(ways), st.sampled_from(harms(canary)), HOW, st.integers(0, 10**6))
    def holds(way: tuple[Any, ...], value: Any, how: str, place: int) -> None:
        table = rows
        if how == "name":  # a column of other values, or without some rows
            name = rows.column_names[place % len(rows.column_names)]
            values = [str(value)] * len(rows)
            index = rows.column_names.index(name)
            table = rows.set_column(index, name, pa.array(values)).slice(place % 2)
        metadata = {
            **rows.schema.metadata,
            b"clipshift.columns": json.dumps(replaced(told, way, value, how)).encode(),
        }
        pq.write_table(table.replace_schema_metadata(metadata), folder / "shift.parquet")
        signed(folder)
        read_all(folder)
        canary.check()

    holds()


def test_gazes_and_nearest_classes_have_their_shapes(
    stranger: Path, canary: Canary, tmp_path: Path
) -> None:
    folder = copied(stranger, tmp_path)
    gaze = load_file(stranger / "gaze.safetensors")
    ids = json.dumps([photo.id for photo in rebuild_views(read_run(stranger)).photos])
    first = next(iter(gaze))
    for name, maps, metadata in [
        (first, gaze[first][:1], {"photos": ids}),
        (first, gaze[first].ravel(), {"photos": ids}),
        (first, gaze[first] * np.nan, {"photos": ids}),
        (first, gaze[first], {"photos": "{"}),
        (first, gaze[first], {"photos": '{"a": 1}'}),
        (first, gaze[first], None),
    ]:
        save_file(gaze | {name: np.ascontiguousarray(maps)}, folder / "gaze.safetensors", metadata)
        with pytest.raises(UserError, match=r"cannot read .*gaze\.safetensors"):
            read_kept(folder)
    for content in ("[]", '{"a": 1}', '{"a": {"clean": [["x"]]}}', "[" * 10**5, "\xff", ""):
        (folder / "nearest.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot read .*nearest\.json"):
            read_nearest(folder)


@pytest.mark.parametrize(
    "place", ["run.json", "summary.csv", "shift.parquet", "gaze.safetensors", "nearest.json"]
)
def test_devices_and_pipes_are_not_read(stranger: Path, tmp_path: Path, place: str) -> None:
    folder = copied(stranger, tmp_path)
    for special in ("/dev/zero", "pipe"):
        file = folder / place
        file.unlink(missing_ok=True)
        if special == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to(special)
        read = {"gaze.safetensors": read_kept, "nearest.json": read_nearest}.get(place, read_run)
        with pytest.raises(UserError, match="not a regular file"):
            read(folder)


def test_only_the_tables_of_a_run_are_hashed(stranger: Path, tmp_path: Path) -> None:
    folder = copied(stranger, tmp_path)
    for name in ("/dev/zero", "../run.json", "calibration.json", "a/../summary.csv"):
        facts = json.loads((stranger / "run.json").read_text())
        facts["sha256"][name] = "00" * 32
        (folder / "run.json").write_text(json.dumps(facts))
        with pytest.raises(UserError, match="is not a table of a run"):
            read_run(folder)


def renamed(folder: Path, names: dict[str, str]) -> None:
    """Call augmentations otherwise, in all files alike."""
    facts = json.loads((folder / "run.json").read_text())
    for old, new in names.items():
        facts["config"]["aug"][new] = facts["config"]["aug"].pop(old)
        facts["distortion"][new] = facts["distortion"].pop(old)
        facts["strengths"] = {
            key.replace(old, new): value for key, value in facts["strengths"].items()
        }
    (folder / "run.json").write_text(json.dumps(facts))
    for file in folder.glob("*.csv"):
        file.write_text(pd.read_csv(file, dtype=str).replace(names).to_csv(index=False))
        if file.stem.startswith("distances"):
            table = pd.read_csv(file, dtype=str)
            for old, new in names.items():
                table = table.rename(columns=lambda c, o=old, n=new: c.replace(o, n))
                table["augmentation"] = table["augmentation"].str.replace(old, new)
            table.to_csv(file, index=False)
    gaze = load_file(folder / "gaze.safetensors")
    with safe_open(folder / "gaze.safetensors", "np") as stored:
        metadata = stored.metadata()
    for old, new in names.items():
        gaze = {view.replace(old, new): maps for view, maps in gaze.items()}
    save_file(gaze, folder / "gaze.safetensors", metadata)
    rows = pq.read_table(folder / "shift.parquet")
    column = [names.get(name, name) for name in rows["augmentation"].to_pylist()]
    place = rows.column_names.index("augmentation")
    rows = rows.set_column(place, rows.schema.field(place), pa.array(column))
    pq.write_table(rows, folder / "shift.parquet")
    signed(folder)


def test_a_run_of_an_earlier_version_is_reported_and_compared(
    stranger: Path, tmp_path: Path
) -> None:
    """It has fewer facts and columns."""
    folder = copied(stranger, tmp_path)
    ranking = pd.read_csv(folder / "ranking.csv", dtype=str)
    ranking.drop(columns=[c for c in ranking if c.startswith("distortion")]).to_csv(
        folder / "ranking.csv", index=False
    )
    signed(folder)
    facts = json.loads((folder / "run.json").read_text())
    del facts["resampled"], facts["data"]["shown_sha256"]
    (folder / "run.json").write_text(json.dumps(facts))
    remake_report(folder, fetch=False)
    page = (folder / "report.html").read_text()
    assert "shift" in page
    compare_runs([str(stranger), str(folder)], 0, tmp_path / "compared")


def everything(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_names_that_climb_stay_in_the_runs_folder(
    stranger: Path, canary: Canary, tmp_path: Path
) -> None:
    folder = copied(stranger, tmp_path)
    renamed(folder, {"noise": f"{canary.folder}/made", "blur": "../../../made"})
    before = everything(tmp_path)
    remake_report(folder, fetch=False)
    outside = {name for name in everything(tmp_path) - before if not name.startswith("run/")}
    assert outside == set()
    assert (folder / "report.html").stat().st_mtime > (stranger / "report.html").stat().st_mtime
    canary.check()


@pytest.mark.parametrize("name", ["figures", "clip_benchmark"])
def test_folders_that_are_links_are_refused(
    stranger: Path, canary: Canary, tmp_path: Path, name: str
) -> None:
    folder = copied(stranger, tmp_path)
    shutil.rmtree(folder / name)
    (folder / name).symlink_to(canary.folder)
    with pytest.raises(UserError, match=f"{name} is not a folder but a link"):
        remake_report(folder, fetch=False)
    canary.check()


def test_files_that_are_links_are_replaced(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    folder = copied(stranger, tmp_path)
    for name in ("report.html", ".report.html.partial", "figures/ranking@paper.svg",
                 "eval_results.yaml", "clip_benchmark/clean.json"):  # fmt: skip
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(canary.folder / "kept.txt")
    remake_report(folder, fetch=False)
    assert "<html" in (folder / "report.html").read_text()
    assert not (folder / "report.html").is_symlink()
    canary.check()


def test_the_commands_end_in_one_line(
    stranger: Path, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``report=`` and ``compare=`` as they are typed; the roads above are theirs."""
    folder = copied(stranger, tmp_path)
    facts = json.loads((folder / "run.json").read_text())
    facts["config"]["data"] |= {"_target_": "os.mkdir", "path": f"{canary.folder}/made"}
    (folder / "run.json").write_text(json.dumps(facts))
    done = run_script("evaluate.py", f"report={folder}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "which is not clipshift's" in done.stderr
    done = run_script("evaluate.py", f"compare=[{folder},{stranger}]", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: Photos are listed without pictures" in done.stdout
    compare_runs([str(stranger), str(folder)], 0, tmp_path / "compared")
    printed = capsys.readouterr().out
    assert "tiny (B) against tiny (A)" in printed
    assert "note: Photos are listed without pictures" not in printed, "the first run has them"
    canary.check()


@given(st.text(max_size=300), st.text(max_size=300))
def test_file_names_stay_in_their_folder(first: str, second: str) -> None:
    name = file_name(first)
    assert name == Path(name).name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255
    assert (name == file_name(second)) == (first == second)


def test_calibrations_are_typed(stranger: Path, canary: Canary, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    told = {
        "distortion": "ssim",
        "target": 0.7,
        "seed": 0,
        "resize": "squash",
        "parameters": {"noise": {"_target_": "clipshift.augment.Noise", "std": [0.1, 0.2]}},
        "photos": [{"id": "a.png", "sha256": "00" * 32, "length": 7}],
        "matches": {"noise": {"strength": 1.0, "realised": 0.7, "reached": True}},
    }
    file.write_text(json.dumps(told))
    kept = load_calibration(file, told["parameters"], "squash", {})
    assert kept.matches["noise"].strength == 1
    ways = list(places(told))

    @settings(max_examples=150)
    @given(st.sampled_from(ways), st.sampled_from(harms(canary)), HOW)
    def holds(way: tuple[Any, ...], value: Any, how: str) -> None:
        file.write_text(json.dumps(replaced(told, way, value, how)))
        with one_line():
            load_calibration(file, told["parameters"], "squash", {})
        canary.check()

    holds()


def test_options_of_an_interrupted_run_are_compared_and_no_more(
    canary: Canary, tmp_path: Path
) -> None:
    for value in harms(canary):
        records = Records(tmp_path)
        records.begin({"seed": 0}, restart=True)
        (records.folder / "000000000.safetensors").write_bytes(b"")
        (records.folder / "options.json").write_text(json.dumps(value))
        records.begin({"seed": 0}, restart=False)
        (records.folder / "options.json").write_text(json.dumps({"seed": value}))
        (records.folder / "000000000.safetensors").write_bytes(b"")
        assert records.begin({"seed": 0}, restart=False) == ["seed"] or value == 0
    canary.check()


def test_a_sweeps_files_are_text(
    stranger: Path, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its jobs' folders lie below ``multirun/``, where anybody may have put some."""
    made = f"{canary.folder}/made"
    overrides = [
        f"!!python/object/apply:os.mkdir [{made}]", f"- !!python/object/apply:os.mkdir [{made}]",
        f"- aug=${{oc.env:CLIPSHIFT_SECRET}}\n- x={made}", "- {a: 1}", "[" * 10**5, "\0", "",
    ]  # fmt: skip
    for job, content in enumerate(overrides):
        folder = shutil.copytree(stranger, tmp_path / "sweep" / str(job))
        (folder / ".hydra").mkdir()
        (folder / ".hydra/overrides.yaml").write_text(content)
    (tmp_path / "sweep/6/run.json").write_text("{}")
    (tmp_path / "sweep/6/error.txt").write_text("two\nlines \x1b[2J ${oc.env:CLIPSHIFT_SECRET}")
    assert not compare_sweep(tmp_path / "sweep", {}), "the last job has failed"
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "\x1b" not in said.err
    canary.check()
