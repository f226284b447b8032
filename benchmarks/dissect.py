"""What ``dissect=true`` costs: CPU seconds with and without it, in turn, in one process.

The weights are random, from one seed; cached features are not used. ``python benchmarks/dissect.py
PHOTOS``, with a folder of photos.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from clipshift.cli.build import make_evaluation
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.trainer import trainer_maker
from clipshift.pipeline import carry_out, evaluation_trainer, prepare
from clipshift.results.records import Records
from clipshift.versions import environment

RUNS = {
    "plain": ["dissect=false"],
    "by component": ["dissect=true", "patching.photos=0"],
    "both": ["dissect=true", "patching.photos=1"],
}


def seconds(architecture: str, photos: Path, count: int, *overrides: str) -> float:
    """Return the CPU seconds of a run up to its tables."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"model.architecture={architecture}", "model.pretrained=null", "data=folder",
            f"data.root={photos}", f"data.limit={count}", "prompts=none", "trainer=cpu",
            "logger=none", "cache=off", *overrides,
        ]  # fmt: skip
        cfg = compose_config("evaluate", options)
        records = Records(Path(folder))
        records.begin({}, restart=True)
        make = trainer_maker(plain(cfg.trainer))
        trainer = evaluation_trainer(make, Path(folder), progress=False)
        evaluation = prepare(make_evaluation(cfg))
        start = time.process_time()
        carry_out(evaluation, records, trainer, Path(folder))
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
    print("| model | plain, s | by component | one photo patched, s |\n| --- | --- | --- | --- |")
    for model in given.models:
        seconds(model, given.photos, 4)  # warm up
        spent = {n: seconds(model, given.photos, given.count, *o) for n, o in RUNS.items()}
        plain_run, component, both = spent.values()
        cells = f"{plain_run:.1f}", f"{component / plain_run:.2f} ×", f"{both - component:.1f}"
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
