"""One evaluation by several machines, by the scripts of ``docs/guides/cluster.md`` as written.

``make test-cluster`` runs all of them; those of SLURM need Debian's ``slurm-wlm`` and ``munge``.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import shared_terminal
from support.slurm import PATH, free_port, jobs, missing, slurm, wait_until
from support.terminal import ROOT

from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate

COUNTS = (1, 7, 501)
TABLES = ("shift.parquet", "summary.csv")
PATIENCE = 900
"""Seconds after which a test is given up: many, for a machine that does other things as well."""
CPU = ("trainer.accelerator=cpu",)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photos of noise, as many as the largest count."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(max(COUNTS)):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="session")
def options(photos: Path) -> Callable[..., list[str]]:
    """The options of an evaluation of some photos."""

    def made(count: int, *more: str) -> list[str]:
        return [
            "data=folder", f"data.root={photos}", f"data.limit={count}", "data.num_workers=0",
            f"metric={'cosine_similarity' if count > 100 else 'full'}",  # which takes a minute less
            "model=tiny", "aug=[noise,flip]", "prompts=none", "logger=none", "cache=off", *more,
        ]  # fmt: skip

    return made


Tables = dict[str, bytes]


@pytest.fixture(scope="session")
def alone(
    options: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Tables]:
    """The tables of one process, by the number of photos."""

    @cache
    def measured(count: int) -> Tables:
        folder = tmp_path_factory.mktemp("alone")
        evaluate(compose_config("evaluate", options(count, "trainer=cpu")), folder)
        return tables(folder)

    return measured


def tables(folder: Path) -> Tables:
    return {name: (folder / name).read_bytes() for name in TABLES}


def records(folder: Path) -> list[Path]:
    return list((folder / "measured").glob("[0-9]*.safetensors"))


def children(process: int) -> list[int]:
    """torchrun gives its processes sessions of their own, so they do not die with it."""
    told = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=True)
    return list(map(int, told.stdout.split()))


def script(words: str) -> str:
    """The block of the docs' page in which these words are."""
    page = (ROOT / "docs/guides/cluster.md").read_text(encoding="utf-8")
    (found,) = [b for b in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if words in b]
    return found


# --- torchrun ------------------------------------------------------------------------------------


def forked(folder: Path) -> dict[str, str]:
    """The environment where ``torchrun`` and its processes are forks, with all imported."""
    python = shared_terminal().python
    (folder / "bin").mkdir()
    command = folder / "bin" / "torchrun"
    command.write_text(f'#!/bin/sh\nexec {python} -m torch.distributed.run "$@"\n')
    command.chmod(0o755)
    return {"PATH": f"{command.parent}:{PATH}", "PYTHON_EXEC": str(python)}


def nodes(
    folder: Path, arguments: list[str], disks: tuple[Path, ...] = (), **more: str
) -> list[subprocess.Popen[str]]:
    """Two machines that run the script of the docs; disks are private to the second."""
    env = os.environ | {"PATH": PATH, "HEAD": "127.0.0.1", "OMP_NUM_THREADS": "1"} | more
    port = free_port()
    text = script("torchrun").replace("29400", str(port))
    started = []
    for number in range(2):
        mounts = "".join(f"mount -t tmpfs tmpfs {d} && " for d in disks) if number else ""
        shell = ["unshare", "-m", "bash", "-c"] if mounts else ["bash", "-c"]
        log = (folder.parent / f"{folder.name}-node{number}.log").open("w")
        started.append(subprocess.Popen(
            [*shell, mounts + text, "bash", *arguments, *CPU], env=env, text=True,
            stdout=log, stderr=log, start_new_session=True,
        ))  # fmt: skip
    return started


def logs(folder: Path) -> str:
    found = sorted(folder.parent.glob(f"{folder.name}-node*.log"))
    return "\n".join(file.read_text() for file in found)


@pytest.mark.parametrize(
    "count", [7, *(pytest.param(c, marks=pytest.mark.cluster) for c in COUNTS if c != 7)]
)
def test_two_machines_by_torchrun_measure_what_one_process_does(
    count: int, options: Callable, alone: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    both = nodes(folder, options(count, f"hydra.run.dir={folder}"), **forked(tmp_path))
    assert [one.wait(timeout=PATIENCE) for one in both] == [0, 0], logs(folder)
    assert tables(folder) == alone(count)
    assert not (folder / "measured").exists()


@pytest.mark.cluster
@pytest.mark.parametrize("count", COUNTS)
def test_two_processes_measure_what_one_does(
    count: int, options: Callable, alone: Callable, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), "trainer=ddp", "trainer.devices=2", *CPU,
         *options(count, f"hydra.run.dir={tmp_path}")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path) == alone(count)


@pytest.mark.cluster
def test_a_machine_that_dies_loses_nothing(
    options: Callable, alone: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = options(501, f"hydra.run.dir={folder}", "data.batch_size=4")
    both = nodes(folder, arguments)
    wait_until(lambda: len(records(folder)) >= 6, PATIENCE)
    for process in (both[1].pid, *children(both[1].pid)):
        os.kill(process, signal.SIGKILL)
    assert both[0].wait(timeout=PATIENCE), logs(folder)
    kept = {file.name: file.stat().st_mtime_ns for file in records(folder)}
    assert len(kept) >= 6
    both = nodes(folder, arguments)
    assert [one.wait(timeout=PATIENCE) for one in both] == [0, 0], logs(folder)
    assert tables(folder) == alone(501)


@pytest.mark.cluster
def test_machines_may_have_disks_of_their_own(
    options: Callable, alone: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    mount = f"mount -t tmpfs tmpfs {folder}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no mounts can be made here")
    both = nodes(folder, options(7, f"hydra.run.dir={folder}"), disks=(folder,))
    assert [one.wait(timeout=PATIENCE) for one in both] == [0, 0], logs(folder)
    assert tables(folder) == alone(7)


# --- SLURM ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """SLURM's environment."""
    if absent := missing():
        pytest.skip(f"{', '.join(absent)}: not installed (apt-get install slurm-wlm munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    with slurm(folder) as env:
        yield env | {"OMP_NUM_THREADS": "1"}
    shutil.rmtree(folder)


def submit(folder: Path, arguments: list[str], env: dict[str, str], *more: str) -> str:
    """Submit the job script of the docs: the job's number, or with ``--wait`` when it has ended."""
    file = folder.parent / "evaluate.sh"
    file.write_text(script("#SBATCH"))
    done = subprocess.run(
        ["sbatch", "--parsable", *more, str(file), *arguments, f"hydra.run.dir={folder}", *CPU],
        env=env, cwd=folder.parent, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + said(folder)
    return done.stdout.strip()


def said(folder: Path) -> str:
    return "\n".join(file.read_text() for file in folder.parent.glob("shift-*.log"))


@pytest.mark.cluster
@pytest.mark.parametrize("count", COUNTS)
def test_a_job_of_two_nodes_measures_what_one_process_does(
    count: int, options: Callable, alone: Callable, cluster: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    submit(folder, options(count), cluster, "--wait")
    assert tables(folder) == alone(count)


@pytest.mark.cluster
@pytest.mark.parametrize("told", [["scancel", "--signal=USR1"], ["scontrol", "requeue"]])
def test_a_job_that_is_put_back_goes_on(
    told: list[str], options: Callable, alone: Callable, cluster: dict[str, str], tmp_path: Path
) -> None:
    """As SLURM does before a job's time is over, and for a job of higher priority."""
    folder = tmp_path / "run"
    number = submit(folder, options(501, "data.batch_size=4"), cluster)
    wait_until(lambda: len(records(folder)) >= 6, PATIENCE)
    subprocess.run([*told, number], env=cluster, check=True)
    wait_until(lambda: (folder / "run.json").exists(), PATIENCE)
    kept = {file.name: file.stat().st_mtime_ns for file in records(folder)}
    assert len(kept) >= 6
    assert tables(folder) != alone(501)
    wait_until(lambda: len(records(folder)) > len(kept) + 4, PATIENCE)
    now = {file.name: file.stat().st_mtime_ns for file in records(folder)}
    assert {name: now[name] for name in kept} == kept
    wait_until(lambda: (folder / "report.html").exists(), PATIENCE)
    assert tables(folder) == alone(501)


@pytest.mark.cluster
def test_a_cancelled_job_is_not_put_back(
    options: Callable, cluster: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    number = submit(folder, options(501, "data.batch_size=4"), cluster)
    wait_until(lambda: len(records(folder)) >= 6, PATIENCE)
    subprocess.run(["scancel", number], env=cluster, check=True)
    wait_until(lambda: number not in jobs(cluster), PATIENCE)
    assert (folder / "summary.csv").exists()


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ["submitit_local", "submitit_slurm"])
def test_a_sweeps_jobs_are_those_of_one_machine(
    engine: str, options: Callable, alone: Callable, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    env, told = dict(os.environ), list[str]()
    if engine == "submitit_slurm":
        env = request.getfixturevalue("cluster")
        told = [w for w in script(f"={engine}").split() if w.startswith("hydra.launcher.")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), "-m", f"hydra/launcher={engine}",
         *told, *options(7, f"hydra.sweep.dir={tmp_path}", "seed=0,1", "trainer=cpu")],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "0") == alone(7)
    assert (tmp_path / "comparison.csv").exists()
