"""Faults made to happen: signals, killed processes, full and small places, damaged files."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from support.augmentations import augmentations_named
from support.commands import FEW, run_evaluate, run_script, started
from support.terminal import ROOT, Started

from clipshift.cli import interruption
from clipshift.cli.command import compose_config, file_error
from clipshift.cli.evaluate import evaluate
from clipshift.cli.jobs import finished_job, reuse_results
from clipshift.cli.report import remake_report, report_run
from clipshift.data.cache import Cache
from clipshift.data.dataset import ViewDataset, collate
from clipshift.data.sources import sample
from clipshift.errors import UserError
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.module import ShiftEvaluation
from clipshift.pipeline import locked
from clipshift.results.columns import write_shift
from clipshift.results.files import write_whole
from clipshift.results.records import Records
from clipshift.results.runs import read_run

TABLES = ("summary", "distances", "distances_low", "distances_high", "ranking", "correlations",
          "layers", "skipped")  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small photos of two classes, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(40):
        file = folder / ("cat", "dog")[index % 2] / f"{index:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(file)
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG")
    return folder


EVALUATE = [sys.executable, str(ROOT / "evaluate.py")]


def options(
    photos: Path, model: Path, folder: Path, *more: str, measures: tuple[str, ...] = FEW
) -> list[str]:
    flags = [option for option in more if option == "-m"]
    more = tuple(option for option in more if option != "-m")
    return [
        *flags, f"model.checkpoint={model}", "data=folder", f"data.root={photos}",
        "data.batch_size=2", "data.num_workers=0", "aug=[noise,flip]", "trainer=cpu",
        "logger=none", "cache=off", f"hydra.run.dir={folder}", *measures, *more,
    ]  # fmt: skip


@contextmanager
def under_way(
    arguments: list[str],
    folder: Path,
    batches: int,
    script: str = "evaluate.py",
    written: str = "measured/[0-9]*",
) -> Iterator[Started]:
    """A run that has measured some batches, and is still at it."""
    with started(script, *arguments) as process:
        end = time.monotonic() + 120
        while len(list(folder.glob(written))) < batches:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        yield process


def contents(folder: Path) -> dict[str, bytes]:
    files = [f"{name}.csv" for name in TABLES]
    files += ["shift.parquet", "columns.json", "embeddings.safetensors", "gaze.safetensors"]
    return {name: (folder / name).read_bytes() for name in files}


def all_options(photos: Path, model: Path, folder: Path, *more: str) -> list[str]:
    """The options of runs whose tables are compared: all measures."""
    more = "layers=true", "save.embeddings=true", *more
    return options(photos, model, folder, *more, measures=())


@pytest.fixture(scope="module")
def whole(
    photos: Path, hub_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_evaluate(*all_options(photos, hub_folder, folder))
    assert done.returncode == 0, done.stderr
    return contents(folder)


def test_a_killed_run_goes_on_and_ends_as_if_uninterrupted(
    photos: Path, hub_folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    killed = tmp_path / "killed"
    with under_way(all_options(photos, hub_folder, killed), killed, batches=8) as process:
        os.killpg(process.pid, signal.SIGKILL)
    kept = {file.name: file.stat().st_mtime_ns for file in (killed / "measured").glob("[0-9]*")}
    summed = load_file(killed / "measured" / "sums-0.safetensors")["photos"].tolist()
    assert not (killed / "run.json").exists()
    refused = run_evaluate(*all_options(photos, hub_folder, killed, "seed=1"))
    assert refused.returncode == 1
    assert "interrupted run with other options (seed)" in refused.stderr
    with under_way(all_options(photos, hub_folder, killed), killed, 12) as process:
        again = {f.name: f.stat().st_mtime_ns for f in (killed / "measured").glob("[0-9]*")}
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    measured_twice = {name for name in kept if again.get(name) != kept[name]}
    assert measured_twice == {name for name in kept if int(Path(name).stem) not in summed}
    assert len(measured_twice) < len(kept)
    assert contents(killed) == whole
    assert not (killed / "measured").exists()
    assert (killed / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_signal_to_stop_keeps_what_was_measured(
    photos: Path, hub_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with under_way(options(photos, hub_folder, tmp_path, "layers=true"), tmp_path, 3) as process:
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{number.name}: stopping" in error
    found = re.search(r"stopped early: (\d+) of 41 photos are in .* goes on after them", error)
    assert found
    assert "Traceback" not in error
    facts = json.loads((tmp_path / "run.json").read_text())
    assert not facts["complete"]
    assert facts["data"]["photos"] + facts["data"]["skipped"] == int(found[1])
    assert len(pd.read_parquet(tmp_path / "shift.parquet")) == 2 * facts["data"]["photos"]


def test_a_training_that_is_told_to_stop_keeps_its_state(
    photos: Path, hub_folder: Path, tmp_path: Path
) -> None:
    """SIGTERM to all of its processes, as a cluster sends it: also to those that read photos."""
    arguments = [
        "experiment=robustify_demo", f"model.checkpoint={hub_folder}", "data@data.train=folder",
        f"data.train.root={photos}", "data.batch_size=2", "data.num_workers=2", "logger=none",
        "aug@train_aug=[noise]", "evaluation=null", "trainer.max_epochs=1000",
        f"hydra.run.dir={tmp_path}",
    ]  # fmt: skip
    with under_way(arguments, tmp_path, 1, "train.py", "last.ckpt") as process:
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.search(r"stopped early: (\d+) steps are kept in .* goes on after them", error)
    assert found, error
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == int(found[1])
    for noise in ("Traceback", "Error executing", "KeyboardInterrupt"):
        assert noise not in error


def test_the_signal_of_a_cluster_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_received", [])
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    try:
        interruption.stop_on_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR1)
        assert interruption.interrupted()
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def test_a_second_signal_ends_at_once(photos: Path, hub_folder: Path, tmp_path: Path) -> None:
    with under_way(options(photos, hub_folder, tmp_path), tmp_path, 2) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 130
    assert list((tmp_path / "measured").glob("[0-9]*"))


def test_a_sweep_that_is_stopped_ends_with_the_code_of_interruption(
    photos: Path, hub_folder: Path, tmp_path: Path
) -> None:
    job = tmp_path / "0"
    sweep = options(photos, hub_folder, job, "-m", f"hydra.sweep.dir={tmp_path}", "seed=0,1")
    with under_way(sweep, job, batches=2) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert (job / "shift.parquet").exists()
    assert not (tmp_path / "1").exists()


def test_a_killed_process_of_several_loses_nothing(
    photos: Path, hub_folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    two = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    arguments = all_options(photos, hub_folder, tmp_path, *two)
    with under_way(arguments, tmp_path, batches=6) as process:
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "evaluate.py"],
            capture_output=True,
            text=True,
            check=True,
        )
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode
    assert len(list((tmp_path / "measured").glob("[0-9]*"))) >= 6
    done = run_evaluate(*arguments)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == whole


def test_more_processes_than_photos(hub_folder: Path, tmp_path: Path) -> None:
    done = run_evaluate(
        f"model.checkpoint={hub_folder}", "data.limit=1", "aug=noise", "logger=none", *FEW,
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "shift.parquet")) == 1


HOLDER = """
import sys, time
from pathlib import Path
from clipshift.pipeline import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_dies(tmp_path: Path) -> None:
    with started("-c", HOLDER, str(tmp_path)) as holder:
        while not holder.output("stdout"):
            assert holder.poll() is None, holder.communicate()
            time.sleep(0.01)
        with pytest.raises(UserError, match="is in use by another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_runs_that_start_in_the_same_second_have_folders_of_their_own() -> None:
    folders = {
        run_evaluate("--cfg", "hydra", "-p", "hydra.run.dir", "--resolve").stdout.strip()
        for _ in range(3)
    }
    assert len(folders) == 3


def test_a_batch_needs_no_shared_memory_between_processes() -> None:
    dataset = ViewDataset(sample()[:3], augmentations_named("noise"), 0, "squash")
    batch = collate([dataset[index] for index in range(3)])
    sent = bytes(ForkingPickler.dumps(batch))
    assert len(sent) > batch.pixels.numel() + batch.draws["noise"]["field"].numel() * 4
    back = ForkingPickler.loads(sent)
    assert torch.equal(back.clean, batch.clean)
    assert torch.equal(back.draws["noise"]["field"], batch.draws["noise"]["field"])
    with Image.open(sample()[0].file) as image:  # of the protocol: bilinear, then 8 bits to [0, 1]
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(
        back.clean[0].numpy().transpose(1, 2, 0), pixels.astype(np.float32) / np.float32(255)
    )


def test_without_shared_memory_reading_processes_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock() -> None:
        raise FileNotFoundError(2, "No such file or directory")  # as without /dev/shm

    monkeypatch.setattr("multiprocessing.Lock", no_lock)
    views = ViewDataset(sample()[:2], {}, 0, "squash")
    for workers, refused in ((2, True), (0, False)):
        data = ViewData(views, 2, workers, Records(tmp_path))
        data.setup("test")
        expected = pytest.raises(UserError, match="without /dev/shm")
        with expected if refused else nullcontext():
            data.test_dataloader()


def test_wandbs_process_may_die(photos: Path, hub_folder: Path, tmp_path: Path) -> None:
    arguments = options(photos, hub_folder, tmp_path, "logger=wandb", "model.name='[/x]'")
    with under_way(arguments, tmp_path, batches=2) as process:
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid), "wandb-core"], check=True)
        said, error = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "warning: the W&B log of this run is incomplete" in error
    assert "[/x] on 40 photos" in said
    assert read_run(tmp_path).info.model.name == "[/x]"


def test_foreign_files_among_the_sweeps(photos: Path, hub_folder: Path, tmp_path: Path) -> None:
    for name, content in (("a", b"[]"), ("b", b"\xff"), ("c", b"[" * 100_000), ("d", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(content)
    (tmp_path / "e" / "run.json").mkdir(parents=True)
    done = run_evaluate(
        *options(photos, hub_folder, tmp_path, "-m", "seed=0", "data.limit=2", f"sweeps={tmp_path}")
    )
    assert done.returncode == 0, done.stderr


def test_paths_are_taken_as_people_type_them(hub_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My Photos (2024), it's best=ü"
    folder.mkdir()
    shutil.copy(sample()[0].file, folder)
    done = run_evaluate(
        "data=folder", f"data.root={folder}", "aug=noise", f"model.checkpoint={hub_folder}",
        "logger=none", f"hydra.run.dir={folder}/run", "trainer=cpu", *FEW,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", ["1e7", "~/nowhere", "Müll", "a b", "x=y", "true"])
def test_paths_that_are_not_there_are_named_as_they_were_typed(path: str, tmp_path: Path) -> None:
    done = run_script("evaluate.py", "data=folder", f"data.root={path}", cwd=tmp_path)
    assert done.stderr == f"error: data.root: no folder or file {path}\n"


def small_run(photos: Path, model: Path) -> DictConfig:
    return compose_config("evaluate", [
        f"model.checkpoint={model}", "data=folder", f"data.root={photos}", "data.limit=4",
        "data.num_workers=0", "aug=noise", "trainer=cpu", "logger=none", *FEW,
    ])  # fmt: skip


@pytest.mark.parametrize(
    "stopped_at", ["evaluate.evaluation.write_nearest", "cli.evaluate.report_run"]
)
def test_a_stop_while_results_are_written_measures_nothing_again(
    photos: Path, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    cfg = small_run(photos, hub_folder)
    cfg.prompts = compose_config("evaluate", ["prompts=plain"]).prompts  # for nearest.json

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"clipshift.{stopped_at}", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(cfg, tmp_path)
    written = "report" in stopped_at  # all but the report, which `clipshift report` makes as well
    assert (tmp_path / "run.json").exists() == written
    if not written:
        with pytest.raises(UserError, match="no finished run"):
            read_run(tmp_path)
    before = (tmp_path / "shift.parquet").read_bytes()
    monkeypatch.setattr(ShiftEvaluation, "measure_batch", stopped)
    evaluate(cfg, tmp_path)
    for file in ("run.json", "gaze.safetensors", "nearest.json", "report.html"):
        assert (tmp_path / file).exists()
    assert (tmp_path / "shift.parquet").read_bytes() == before


def test_a_job_that_is_taken_over_is_complete_last(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, write: Callable[[Path], Any]) -> None:
        if path.name == "run.json":
            raise KeyboardInterrupt
        write_whole(path, write)

    with monkeypatch.context() as patched:
        patched.setattr("clipshift.results.runs.write_whole", cut)
        with pytest.raises(KeyboardInterrupt):
            reuse_results(finished[0], tmp_path)
    written = {file.name for file in tmp_path.iterdir()}
    assert {"shift.parquet", "summary.csv", "gaze.safetensors", "report.html"} <= written
    reuse_results(finished[0], tmp_path)
    assert read_run(tmp_path).info.complete


# --- full and closed places ----------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may have more bytes, as by ``ulimit -f``."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


TABLE = pd.DataFrame({"photo": "a", "value": np.random.default_rng(0).random(50_000)})
WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: path.write_text("x" * 50_000),
    "csv": TABLE.to_csv,
    "parquet": lambda path: write_shift(path, [TABLE], {}),
    "numpy": lambda path: save_numpy({"x": np.zeros(50_000)}, path),
    "torch": lambda path: save_file({"x": torch.zeros(50_000)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_no_disk_holds_is_an_error_with_the_files_name(tmp_path: Path, kind: str) -> None:
    large = pytest.raises(OSError, match="File too large")
    with files_of_at_most(20_000), large as raised:
        write_whole(tmp_path / "results", WRITERS[kind])
    assert raised.value.filename == str(tmp_path / "results")
    assert list(tmp_path.iterdir()) == []
    assert file_error(raised.value) == (
        f"{tmp_path}/results: File too large (results go to hydra.run.dir=FOLDER)"
    )


def test_the_cache_keeps_what_a_file_may_hold(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), gigabytes=1)
    with files_of_at_most(20_000):
        cache.set("large", {"x": torch.zeros(50_000)})
        cache.set("small", {"x": torch.zeros(5)})
    assert cache.get("large") is None
    assert cache.get("small") is not None
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_a_full_disk_loses_nothing(photos: Path, hub_folder: Path, tmp_path: Path) -> None:
    cfg = small_run(photos, hub_folder)
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large") as raised:
        evaluate(cfg, tmp_path)
    assert f"{tmp_path}/" in str(file_error(raised.value))
    assert list((tmp_path / "measured").glob("[0-9]*"))
    evaluate(cfg, tmp_path)
    assert read_run(tmp_path).info.complete


FEW_FILES = 'ulimit -n 64; exec "$@"'
READ_ONLY = (
    "for place in {root} {prefix}; do mount --bind $place $place && "
    "mount -o remount,ro,bind $place || exit 1; done; "
    "mount -t tmpfs -o size=64k tmpfs /dev/shm && " + FEW_FILES
)


Unread = tuple[Path, subprocess.CompletedProcess[str], bool]


@pytest.fixture(scope="module")
def unread(photos: Path, hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Unread:
    """A run whose reader has left, with little of all else, and whether places were mounted.

    Nor can its user's home be written.
    """
    folder = tmp_path_factory.mktemp("unread")
    shell = READ_ONLY.format(root=ROOT, prefix=sys.prefix)
    prefix = ["unshare", "-m", "sh", "-c", shell, "sh"]
    mounted = shutil.which("unshare") and not subprocess.run([*prefix, "true"]).returncode
    if not mounted:
        prefix = ["sh", "-c", FEW_FILES, "sh"]
    arguments = options(photos, hub_folder, folder, "data.num_workers=2", "data.batch_size=16")
    arguments.remove("cache=off")
    home = {"HOME": "/dev/null", "XDG_CACHE_HOME": "", "CLIPSHIFT_CACHE": "~/.cache/clipshift"}
    home["MPLCONFIGDIR"] = str(Path.home() / ".cache/matplotlib")  # or it says that it has none
    reader, output = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*prefix, *EVALUATE, *arguments], stdout=output, stderr=subprocess.PIPE,
            text=True, timeout=200, cwd=folder, env=os.environ | home,
        )  # fmt: skip
    finally:
        os.close(output)
    return folder, done, bool(mounted)


def test_a_run_ends_well_though_its_reader_has_left(unread: Unread) -> None:
    folder, done, _ = unread
    loading = "clipshift: loading libraries to measure the shift of lite"  # within a second
    # kornia before 0.9 imports onnxruntime, which wants to write into the home folder
    said = [line for line in done.stderr.splitlines() if "onnxruntime" not in line]
    assert (done.returncode, said) == (0, [loading])
    assert read_run(folder).info.complete
    assert (folder / "report.html").exists()
    assert not (folder / "measured").exists()


def test_nothing_is_written_where_clipshift_is_installed(unread: Unread) -> None:
    folder, done, mounted = unread
    if not mounted:
        pytest.skip("mounting needs root")
    assert done.returncode == 0, done.stderr
    assert (folder / "run.json").exists()


def test_a_home_that_cannot_be_written_turns_the_cache_off(unread: Unread) -> None:
    folder, done, _ = unread
    assert done.returncode == 0, done.stderr
    assert any("The cache is off" in note for note in read_run(folder).info.notes)


def test_little_shared_memory_and_few_open_files_suffice(unread: Unread) -> None:
    """Two processes read the photos, with 64 open files and 64 KB that they share."""
    folder, done, _ = unread
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(folder / "shift.parquet")) == 80


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_at_a_full_device_is_one_line(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clipshift", "--help"], stdout=full, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


def test_python_without_docstrings_is_one_line() -> None:
    command = [sys.executable, "-OO", *EVALUATE[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: python -OO removes docstrings, which Altair needs: use -O\n"


# --- photos that are replaced --------------------------------------------------------------------


def test_a_photo_that_changed_since_is_not_shown_as_what_was_measured(
    photos: Path, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    changed = "cat/02.png"

    def replaced(*arguments: Any) -> None:
        shutil.copy(root / "cat" / "00.png", root / changed)
        report_run(*arguments)

    def pictured() -> dict[str, int]:
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        text = page.partition('id="photo-data">')[2].partition("</script>")[0]
        shown = json.loads(text)["shown"]
        return {photo: len(kept["pictures"]) for photo, kept in shown.items()}

    monkeypatch.setattr("clipshift.cli.evaluate.report_run", replaced)
    evaluate(small_run(root, hub_folder), tmp_path)
    expected = {"cat/00.png": 2, "cat/04.png": 2, "cat/06.png": 2, changed: 0}
    assert pictured() == expected
    assert changed in set(read_run(tmp_path).shift["photo"])  # its numbers stand
    remake_report(tmp_path, fetch=False)
    assert pictured() == expected


@pytest.mark.parametrize(
    ("content", "skipped", "found"),
    [("1", 0, True), ("2", 0, False), ("2", 1, True)],  # 2: replaced once the job had its key
)
def test_a_job_is_taken_over_if_it_measured_these_photos(
    finished: tuple[Path, str], tmp_path: Path, content: str, skipped: int, found: bool
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    facts = json.loads((folder / "run.json").read_text())
    facts["job"] = "key"
    facts["data"] |= {"skipped": skipped, "fingerprint": content * 64}
    (folder / "run.json").write_text(json.dumps(facts))
    assert finished_job([tmp_path], "key", "1" * 64) == (folder if found else None)


# --- files of ours ------------------------------------------------------------------------------


def test_pages_and_figures_can_be_made_anew(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(folder / "figures")
    (folder / "report.html").unlink()
    done = run_evaluate(f"report={folder}")
    assert done.returncode == 0, done.stderr
    for file in (
        "report.html",
        *(f"figures/{f.name}" for f in (finished[0] / "figures").iterdir()),
    ):
        assert (folder / file).read_bytes() == (finished[0] / file).read_bytes(), file


@pytest.mark.parametrize("code", ["os.mkdir", "clipshift.data.files.os.mkdir"])
def test_a_runs_file_names_no_code(finished: tuple[Path, str], tmp_path: Path, code: str) -> None:
    ignored = shutil.ignore_patterns("wandb")
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=ignored)
    facts = json.loads((folder / "run.json").read_text())
    facts["config"]["data"]["root"] = [{"_target_": code, "path": f"{tmp_path}/made"}]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"data\.root is not an option of clipshift\.data\.sample"):
        remake_report(folder, fetch=False)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [*(f"{table}.csv" for table in TABLES), "shift.parquet"])
def test_a_table_with_one_changed_byte_is_refused(
    finished: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    content = bytearray((folder / name).read_bytes())
    for position in np.random.default_rng(0).integers(len(content), size=5):
        damaged = content.copy()
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name} is not what the run wrote: measure it again"):
            read_run(folder)
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        read_run(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        read_run(folder)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"complete": true}', b"", b"\xff", b"[" * 10**5]
)
def test_a_foreign_run_json_is_no_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_run(tmp_path)
