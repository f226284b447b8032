"""Seconds of one job with nine augmentations, and of a sweep with one job for each, in turn.

Each starts from an empty cache in its own process, and ends with its report.
``python benchmarks/sweep.py PHOTOS --logger=wandb``
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clipshift.cli.command import compose_config

ROOT = Path(__file__).parents[1]


def seconds(*options: str) -> float:
    """Return the seconds of an evaluation, from the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        here = [f"cache.folder={folder}/cache", f"sweeps={folder}", f"hydra.run.dir={folder}/run"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "evaluate.py"), *options, *here],
            check=True,
            capture_output=True,
            env=os.environ | {"WANDB_MODE": "offline"},
            cwd=folder,
        )
        return time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--counts", nargs="*", type=int, default=[100, 500], help="(100 and 500)")
    parser.add_argument("--rounds", type=int, default=3, help="(3): medians are shown")
    parser.add_argument("--model", default="tiny", help="(tiny)")
    parser.add_argument("--logger", default="none", help="(none); wandb is offline")
    given = parser.parse_args()
    names = list(compose_config("evaluate").aug)
    common = [f"model={given.model}", f"logger={given.logger}", "data=folder",
              f"data.root={given.photos.resolve()}"]  # fmt: skip
    print("| photos | one job, s | nine jobs, s | ratio | a job more, s |\n|" + " --- |" * 5)
    for count in given.counts:
        every = [*common, f"data.limit={count}"]
        rounds = [
            (seconds(*every), seconds("-m", f"aug={','.join(names)}", *every))
            for _ in range(given.rounds)
        ]
        one, nine = map(statistics.median, zip(*rounds, strict=True))
        more = (nine - one) / (len(names) - 1)
        print(f"| {count} | {one:.1f} | {nine:.1f} | {nine / one:.2f} | {more:.2f} |", flush=True)


if __name__ == "__main__":
    main()
