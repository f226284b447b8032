"""How soon commands answer, before and after: ``python benchmarks/start.py BEFORE AFTER``.

BEFORE and AFTER are two checkouts, run in turn by this Python; one alone is listed alone. Prints a
table: of each command the seconds to its first line, to its end, and of processors, the least of
some repetitions. Below it, whether the aims are met: two photos within 1.35 times the four imports
and their own measuring, and three quarters of the time of 100 photos in measuring. On an idle
machine of two cores it takes about seven minutes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTS = "import torch, open_clip, pytorch_lightning, torchmetrics; print()"
QUICK, LONG = 3, 2
"""Repetitions of a command that takes a second, and of one that takes more."""
RUN = "evaluate logger=none cache=off"
COMMANDS = {
    "import torch, open_clip, pytorch_lightning, torchmetrics": (IMPORTS, LONG),
    "clipshift --help": ("--help", QUICK),
    "evaluate --help": ("evaluate --help", QUICK),
    "evaluate sede=3 (a mistake)": ("evaluate sede=3", QUICK),
    "compare a b (missing)": ("compare a b", QUICK),
    "models": ("models", QUICK),
    "evaluate, 2 photos": (f"{RUN} data.limit=2 hydra.run.dir=lite", LONG),
    "evaluate model=tiny, 2 photos": (f"{RUN} data.limit=2 model=tiny hydra.run.dir=tiny", 1),
    "report RUN": ("report lite", LONG),
    "compare RUN_A RUN_B": ("compare lite tiny hydra.run.dir=pair", LONG),
    "leaderboard RUN_A RUN_B": ("leaderboard lite tiny out=ranked", LONG),
    "evaluate, 100 photos": (
        f"{RUN} data=folder data.root=PHOTOS data.limit=100 hydra.run.dir=many",
        1,
    ),
}
"""By name: what is typed after ``clipshift``, or code, and how often."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one command: to its first line, to its end, and of processors."""

    first: float
    end: float
    cpu: float


def run(tree: Path, typed: str, folder: Path) -> Timing:
    """Time one command in a new process, as a user of that checkout would run it."""
    code = ["-c", typed] if typed == IMPORTS else ["-m", "clipshift", *typed.split()]
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *code], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    first = time.perf_counter() - started
    rest = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    end = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) and not line.startswith("error:"):
        raise SystemExit(f"{typed}: {line}{rest}")
    return Timing(first, end, used.ru_utime + used.ru_stime)


def timings(trees: list[Path], photos: Path, folder: Path) -> Iterator[tuple[str, list[Timing]]]:
    """The least of each command's seconds, by tree; trees take turns."""
    for name, (typed, count) in COMMANDS.items():
        rows: list[list[Timing]] = [[] for _ in trees]
        for _ in range(count):
            for index, tree in enumerate(trees):
                place = folder / str(index)
                place.mkdir(exist_ok=True)
                if typed.startswith("evaluate") and "hydra.run.dir=" in typed:
                    shutil.rmtree(place / typed.rpartition("=")[2], ignore_errors=True)
                rows[index].append(run(tree, typed.replace("PHOTOS", str(photos)), place))
        yield (
            name,
            [
                Timing(
                    *(min(getattr(one, part) for one in each) for part in ("first", "end", "cpu"))
                )
                for each in rows
            ],
        )


def measuring(folder: Path) -> float:
    """Seconds that a run spent on its photos, from its ``run.json``."""
    return float(json.loads((folder / "run.json").read_text("utf-8"))["seconds"]["photos"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", type=Path, nargs="+", help="checkouts, the one before first")
    parser.add_argument(
        "--photos", type=Path, default=ROOT.parent / "shared/photos/imagenet-sample",
        help="a folder of 100 photographs or more",
    )  # fmt: skip
    given = parser.parse_args()
    trees = [tree.resolve() for tree in given.trees]
    heads = [f"{tree.name}: {part}" for tree in trees for part in ("first line", "end", "CPU")]
    print(f"| command | {' | '.join(heads)} |\n| --- |{' --- |' * len(heads)}")
    ends: dict[str, list[Timing]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command, rows in timings(trees, given.photos.resolve(), folder):
            ends[command] = rows
            cells = [f"{v:.2f}" for row in rows for v in (row.first, row.end, row.cpu)]
            print(f"| {command} | {' | '.join(cells)} |", flush=True)
        imports = next(iter(ends.values()))
        for index, tree in enumerate(trees):
            two, many = (measuring(folder / str(index) / run) for run in ("lite", "many"))
            ratio = (ends["evaluate, 2 photos"][index].end - two) / imports[index].end
            share = many / ends["evaluate, 100 photos"][index].end
            print(
                f"\n{tree.name}: 2 photos take {ratio:.2f} times the imports, beside {two:.1f} s "
                f"of measuring (aim: 1.35); {share:.0%} of 100 photos is measuring (aim: 75 %)"
            )


if __name__ == "__main__":
    main()
