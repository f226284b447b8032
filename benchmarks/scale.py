"""Cost of a table of many photos: ``python benchmarks/scale.py [PHOTOS]``, by default a million.

Writes synthetic records as an evaluation does, with nine augmentations and all measures, and makes
the run's tables of them. Prints wall-clock and processor seconds by step, and the peak memory.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clipshift import measure
from clipshift.augment.variants import make_variants
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.data.photos import Photo
from clipshift.evaluate import tables
from clipshift.evaluate.tables import make_run
from clipshift.measure.facts import COLUMNS, Facts
from clipshift.measure.metrics import PhotoMeasure
from clipshift.results.measured import CLEAN, KEPT, Measured
from clipshift.results.records import Records
from clipshift.results.runs import write_run
from clipshift.results.table import PhotoSample
from clipshift.versions import provenance

BATCH = 256
WIDTH = 64
"""Dimensions of synthetic embeddings."""
GALLERY = 1000
STEPS = (
    "write_shift", "summarize", "distance_tables", "rank_augmentations", "correlate",
    "label_correlation",
)  # fmt: skip
FACTS: dict[str, Any] = {
    "model": {
        "name": "none", "architecture": "none", "pretrained": None, "checkpoint": None,
        "trained": False, "weights_sha256": "0" * 64, "fingerprint": "0" * 64,
        "preprocessing": {"size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}, "gaze_layer": None,
    },
    "config": {
        "data": {"_target_": "none", "resize": "squash"}, "aug": {}, "metric": {}, "prompts": {},
        "logger": {}, "seed": 0, "sweeps": "", "dashboard": False,
    },
    "job": None, "precision": "fp32", "complete": True, "data": {}, "seed": 0, "device": "none",
    "floor": {}, "seconds": {}, "started": "", "notes": [], **provenance(),
}  # fmt: skip
"""What else ``run.json`` says: nothing was measured."""


def measured_columns() -> dict[str, Facts]:
    """Return the package's measures with one number per photo, by name."""
    configured = compose_config("evaluate", ["metric=full"]).metric
    classes = {name: node["_target_"].rpartition(".")[2] for name, node in configured.items()}
    metrics: dict[str, type[PhotoMeasure]] = {
        n: getattr(measure, kind) for n, kind in classes.items()
    }
    return {name: kind.facts for name, kind in metrics.items()}


def batch(index: np.ndarray, views: list[str], measures: list[str]) -> Measured:
    """Draw synthetic measurements of some photos: skewed numbers in [0, 1]."""
    rng = np.random.default_rng(index[0])
    size = len(index)
    embeddings = rng.normal(size=(1 + len(views), size, WIDTH)).astype(np.float32)
    kept = {i: row for row, i in enumerate(index.tolist()) if i < GALLERY}
    pairs = len(views) * (len(views) - 1) // 2
    return Measured(
        index=index,
        values={
            (view, name): 1 - np.minimum(rng.lognormal(-3 + 0.1 * k, 1, size), 1)
            for k, view in enumerate(views)
            for name in measures
        },
        digests=rng.integers(256, size=(size, 32)).astype(np.uint8),
        distances=rng.random((size, pairs), np.float32),
        embeddings={CLEAN: embeddings[0]},
        gallery={
            view: {photo: embeddings[k, row] for photo, row in kept.items()}
            for k, view in enumerate([CLEAN, *views])
        }
        if kept
        else {},
    )


@contextmanager
def timed_step(step: str) -> Iterator[None]:
    """Print the time of a step, and the peak memory so far."""
    start, begun = time.perf_counter(), time.process_time()
    yield
    spent, busy = time.perf_counter() - start, time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {step} | {spent:.1f} | {busy:.1f} | {peak:.0f} |", flush=True)


def timed(name: str) -> Any:
    """Wrap a function of `clipshift.evaluate.tables` to print its time."""
    function = getattr(tables, name)

    def run(*args: Any) -> Any:
        with timed_step(name):
            return function(*args)

    return run


def main() -> None:
    """Print a Markdown table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    names = list(plain(compose_config("evaluate", ["aug=paper"]).aug))
    variants = make_variants(dict.fromkeys(names), {}, ["paper"], {})  # type: ignore[arg-type]
    columns = measured_columns()
    for step in STEPS:
        setattr(tables, step, timed(step))
    print("| step | seconds | of the processor | peak so far, MB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        records = Records(folder)
        records.begin({}, restart=True)
        with timed_step(f"write the records of {count:,} photos"):
            for start in range(0, count, BATCH):
                index = np.arange(start, min(start + BATCH, count))
                records.add(batch(index, names, list(columns)))
        with timed_step("list the photos"):
            photos = [
                Photo(f"{i % 1000:03d}/{i:07d}.jpg", folder, label=f"class {i % 1000}")
                for i in range(count)
            ]
        with timed_step("all after the last photo"):
            with timed_step("read what is kept"):
                measured = records.read("digests", "distances", *KEPT)
            run = make_run(
                folder,
                PhotoSample(measured, photos, variants, 0),
                records,
                columns | COLUMNS,
                FACTS,
            )
            write_run(run)
        print(run.ranking.head(3).to_string())


if __name__ == "__main__":
    main()
