"""Photos per CPU second of groups of augmentations: their views alone, and whole runs, in turn.

``python benchmarks/augmentations.py PHOTOS paper internet corruptions@3``: a folder of photos, and
groups of ``conf/aug``, each at severity ``paper`` or at that after ``@``. One thread, no workers;
values are medians of three rounds, and CPU seconds, which other work does not change.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

from clipshift.api import measure_shift
from clipshift.augment.keyed import augment
from clipshift.augment.variants import make_variants, strengths_of
from clipshift.choices import read_choice
from clipshift.data.dataset import ViewDataset, collate
from clipshift.data.sources import folder
from clipshift.parts import make_augmentations

ROUNDS = 3


def seconds_of_views(photos: Path, group: str, severity: str, count: int) -> tuple[float, int]:
    """Seconds to read photos and make their views, clean ones included; and the views of one."""
    parts, ladders = make_augmentations(read_choice("aug", group))
    variants = make_variants(parts, ladders, [severity], {})
    listed = [photo for photo in folder(str(photos)) if photo.left_out is None][:count]
    views = ViewDataset(listed, parts, 0, "squash", strengths=strengths_of(variants.values()))
    start = time.process_time()
    for index in range(0, count, 8):
        batch = collate([views[row] for row in range(index, min(count, index + 8))])
        for variant in variants.values():
            augment(variant.augmentation, batch.clean, batch.draws[variant.name], variant.strength)
    return time.process_time() - start, len(variants)


def seconds_of_run(photos: Path, group: str, severity: str, count: int) -> float:
    """Seconds of a whole run with ``lite`` and all measures."""
    start, asked = time.process_time(), int(severity) if severity.isdigit() else severity
    measure_shift(photos, "lite", group, asked, limit=count, num_workers=0, progress=False)
    return time.process_time() - start


def main() -> None:
    """Measure the groups in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("groups", nargs="+")
    parser.add_argument("--count", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    del sys.path[0]  # where coverage.py hides the package that numba imports
    groups = [(group, *group.partition("@")[::2]) for group in args.groups]
    views: dict[str, list[tuple[float, int]]] = {group: [] for group in args.groups}
    runs: dict[str, list[float]] = {group: [] for group in args.groups}
    for _ in range(ROUNDS):
        for group, name, severity in groups:
            asked = args.photos, name, severity or "paper", args.count
            views[group].append(seconds_of_views(*asked))
            runs[group].append(seconds_of_run(*asked))
    names = "views", "ms a view", "views alone, photos/s", "whole run, photos/s"
    print(f"| `aug=` | {' | '.join(names)} |")
    print("| --- | --- | --- | --- | --- |")
    for group in args.groups:
        spent, count = median(s for s, _ in views[group]), views[group][0][1]
        each = 1000 * spent / args.count / count
        speeds = args.count / spent, args.count / median(runs[group])
        print(f"| `{group}` | {count} | {each:.1f} | {speeds[0]:.3g} | {speeds[1]:.3g} |")


if __name__ == "__main__":
    main()
