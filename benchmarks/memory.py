"""Peak memory of an evaluation: ``python benchmarks/memory.py 1000 20000``, numbers of photos.

The photos are small noise images, the model is ``tiny``, the augmentation ``flip``. The peak is the
command's, with its loader processes' private memory, sampled four times per second.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
OPTIONS = ("model=tiny", "aug=flip", "prompts=none", "logger=none", "cache=off")


def make_photos(folder: Path, count: int) -> None:
    """Write photos of noise."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06}.jpg")


def memory_of(process: psutil.Process) -> int:
    """Return the bytes of a process, and its children's private bytes."""
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            total += child.memory_full_info().uss
    return total


def peak(photos: Path, count: int, folder: Path) -> tuple[float, float]:
    """Return the peak memory of an evaluation, in MB, and its seconds."""
    start, most = time.perf_counter(), 0
    where = ["data=folder", f"data.root={photos}", f"hydra.run.dir={folder}/{count}"]
    command = [sys.executable, str(ROOT / "evaluate.py"), *OPTIONS, *where, f"data.limit={count}"]
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            with suppress(psutil.Error):
                most = max(most, memory_of(running))
            time.sleep(0.25)
    if running.returncode:
        sys.exit(f"the evaluation of {count} photos ended with code {running.returncode}")
    return most / 1e6, time.perf_counter() - start


def main() -> None:
    """Print a Markdown table."""
    counts = [int(argument) for argument in sys.argv[1:]] or [1000, 20_000]
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        make_photos(photos, max(counts))
        print("| photos | peak of all processes, MB | seconds |\n| --- | --- | --- |")
        for count in counts:
            megabytes, seconds = peak(photos, count, Path(folder))
            print(f"| {count:,} | {megabytes:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
