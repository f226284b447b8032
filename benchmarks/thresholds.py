"""Coverage of ``thresholds.csv`` by simulation, and the time it takes: docs/protocol.md.

``python benchmarks/thresholds.py`` prints coverage in per cent. With ``time 10000 20000`` it prints
how many seconds one augmentation takes for 10,000 and for 20,000 photos, in 128 dimensions as those
of ``tiny``: for all pairs of photos (20,000 photos at most), and for recall in the whole gallery.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from clipshift.evaluate.thresholds import INDEPENDENT, RECALL
from clipshift.measure.copy_detection import RATES, separate
from clipshift.measure.functional import recall
from clipshift.results.intervals import mean_interval

RUNS = 1000
WIDTH = 32
Rng = np.random.Generator
Drawn = tuple[np.ndarray, np.ndarray, None, np.ndarray | None]
"""Arguments of `separate`."""
Draw = Callable[[Rng, int], Drawn]
"""Draws views and clean views of a number of photos, and their groups."""


def uniform(rng: Rng, n: int) -> Drawn:
    """Draw directions that are uniform: all pairs of photos are independent."""
    clean = rng.normal(size=(n, WIDTH))
    return clean + 1.5 * rng.normal(size=(1, n, WIDTH)), clean, None, None


def cone(rng: Rng, n: int) -> Drawn:
    """Draw photos that have more or less of a direction in common: some are near many others."""
    clean = rng.normal(size=(n, WIDTH))
    clean[:, 0] += rng.gamma(4, 0.85, size=n)
    return clean + 1.5 * rng.normal(size=(1, n, WIDTH)), clean, None, None


def classes(rng: Rng, n: int) -> Drawn:
    """Draw classes of ten photos that are alike, which are resampled."""
    groups = np.arange(n) // 10
    clean = rng.normal(size=(n, WIDTH)) + 0.7 * rng.normal(size=(n, WIDTH))[groups]
    return clean + rng.normal(size=(1, n, WIDTH)), clean, None, groups


def truth_of(draw: Draw, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and AUROC of a population, from 40 million pairs."""
    runs = range(40_000_000 // n**2)
    results = [separate(*draw(np.random.default_rng([seed, 1]), n)) for seed in runs]
    cells = np.unique(np.concatenate([result.cells for result in results]))
    counts = sum(
        np.bincount(np.searchsorted(cells, r.cells), r.impostors, len(cells)) for r in results
    )
    above = counts.sum() - counts.cumsum()
    thresholds = cells[[np.argmax(above <= rate * counts.sum()) for rate in RATES]]
    return thresholds, np.mean([result.statistics[0] for result in results])


def print_coverage(name: str, draw: Draw, n: int, truth: tuple[np.ndarray, float]) -> None:
    """Print how often intervals of thresholds cover, and how many runs have a threshold."""
    groups = draw(np.random.default_rng(0), n)[3]
    reach = stats.t.ppf(0.975, (n if groups is None else len(np.unique(groups))) - 1)
    covered: list[list[bool]] = [[] for _ in RATES]
    auroc = []
    for seed in range(RUNS):
        found = separate(*draw(np.random.default_rng([seed, n]), n))
        low, high = mean_interval(found.values[:, 0], seed, groups)
        auroc.append(low <= truth[1] <= high)
        for place, (rate, error) in enumerate(zip(RATES, found.errors, strict=True)):
            enough = rate**2 >= INDEPENDENT * error**2 and rate * n * (n - 1) >= INDEPENDENT
            if enough and rate > reach * error:
                ends = [found.quantile(rate + sign * reach * error) for sign in (1, -1)]
                ends[0] = min(ends[0], found.thresholds[place])
                covered[place].append(ends[0] <= truth[0][place] <= ends[1])
    cells = [f"{100 * np.mean(of):.1f} (of {len(of)})" if of else "blank" for of in covered]
    print(f"| {name} | {n} | {' | '.join(cells)} | {100 * np.mean(auroc):.1f} |", flush=True)


def print_time(n: int) -> None:
    """Print the seconds of one augmentation, a fifth of whose views look like other photos."""
    clean = np.random.default_rng(0).normal(size=(n, 128)).astype(np.float32)
    view = clean + np.random.default_rng(1).normal(size=(1, n, 128)).astype(np.float32)
    view[:, : n // 5] = view[:, -(n // 5) :]
    both = torch.from_numpy(view[0]), torch.from_numpy(clean)
    for name, work in {
        "pairs": lambda: separate(view, clean),
        "recall": lambda: recall(*both, RECALL),
    }.items():
        start, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{n} photos, {name}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["time"]:
        for count in sys.argv[2:]:
            print_time(int(count))
    else:
        print("| population | photos | 1 in 100 | 1 in 1,000 | 1 in 10,000 | AUROC |")
        exact = np.array([2 * stats.beta(15.5, 15.5).isf(rate) - 1 for rate in RATES])
        of_uniform, of_cone = (exact, truth_of(uniform)[1]), truth_of(cone)
        for photos in (100, 300, 1000):
            print_coverage("uniform", uniform, photos, of_uniform)
            print_coverage("cone", cone, photos, of_cone)
        print_coverage("classes", classes, 600, truth_of(classes, 600))
