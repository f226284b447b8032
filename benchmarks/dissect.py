"""What ``dissect=true`` costs: CPU seconds with and without it, in turn, in one process.

The weights are random, from one seed; cached features are not used. ``python benchmarks/dissect.py
PHOTOS``, with a folder of photos.
"""

import argparse
import time
from pathlib import Path

import torch
from speed import prepared_run

from clipshift.versions import environment

RUNS = {
    "plain": ["dissect=false"],
    "dissect": ["dissect=true", "patching.photos=0", "faithfulness.photos=0"],
    "patching": ["dissect=true", "patching.photos=1", "faithfulness.photos=0"],
    "faithfulness": ["dissect=true", "patching.photos=0", "faithfulness.photos=1"],
}


def seconds(architecture: str, photos: Path, count: int, *overrides: str) -> float:
    """Return the CPU seconds of a run up to its tables."""
    with prepared_run(architecture, photos, count, *overrides) as carry_out_run:
        start = time.process_time()
        carry_out_run()
        return time.process_time() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--models", nargs="*", default=["builtin:tiny", "ViT-B-32-quickgelu"])
    parser.add_argument("--count", type=int, default=32, help="how many photos (32)")
    given = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{environment()['processor']}, {threads}, {given.count} photos\n")
    print("| model | plain, s | dissect | a photo patched, s | a photo's faithfulness, s |")
    print("| --- | --- | --- | --- | --- |")
    for model in given.models:
        seconds(model, given.photos, 4)  # warm up
        spent = {n: seconds(model, given.photos, given.count, *o) for n, o in RUNS.items()}
        plain, dissected, *more = spent.values()
        cells = (
            f"{plain:.1f}",
            f"{dissected / plain:.2f} ×",
            *(f"{s - dissected:.1f}" for s in more),
        )
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
