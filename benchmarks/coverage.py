"""Coverage of each kind of interval, by simulation: docs/protocol.md, "Coverage".

``python benchmarks/coverage.py [RUN/shift.parquet]`` prints a Markdown table. With a run's table,
the shifts of its augmentations are populations too, drawn with replacement.
"""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from scipy import stats

from clipshift.encode.texts import ZeroShot
from clipshift.evaluate.decisions import geometry_table
from clipshift.evaluate.inside import Views, directions_table
from clipshift.evaluate.layers import cka_intervals
from clipshift.measure.embeddings import percentile_shift
from clipshift.measure.functional import linear_cka, pairwise_distances
from clipshift.measure.probing import probe_values, ridge_predictions
from clipshift.measure.whitening import whitened_shift
from clipshift.measure.zero_shot import predicted_flips
from clipshift.results.confidence import VALUES, confidence_table
from clipshift.results.draws import component_values, planning_values
from clipshift.results.intervals import (
    mean_interval,
    pair_values,
    ratio_values,
    relative_shift_values,
    share_difference,
    share_interval,
    spearman_interval,
    studentize,
    unit_interval,
)
from clipshift.results.matching import Matching
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.ranking import rank_augmentations, ranking_agreement
from clipshift.results.table import PhotoSample

SIZES = (10, 30, 100)
SAMPLES = 2000
"""Simulated runs of each size; `RANKINGS` of ranks, CKA and directions."""
RANKINGS = 300
WIDTH = 16
"""Dimensions of simulated embeddings."""
Rng = np.random.Generator
Draw = Callable[[Rng, int], np.ndarray]
"""Draws a number of values from a population."""
Coverage = Callable[[Rng, int], float]
"""Returns the coverage of a kind of interval at n photos."""


def covers(ends: tuple[np.ndarray, np.ndarray] | tuple[float, float], truth: float) -> float:
    """Return the share of intervals that contain the truth, up to rounding."""
    low, high = ends
    return float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))


def of_means(draw: Draw, truth: float) -> Coverage:
    """Return the coverage of a population's mean."""

    def coverage(rng: Rng, n: int) -> float:
        values = draw(rng, n * SAMPLES).reshape(n, SAMPLES)
        return covers(mean_interval(values, seed=n), truth)

    return coverage


def of_p(draw: Draw, truth: float, level: float) -> Coverage:
    """Return how often p of a paired difference from its true mean is not below a level."""

    def coverage(rng: Rng, n: int) -> float:
        values = draw(rng, n * SAMPLES).reshape(n, SAMPLES) - truth
        return float(np.mean(studentize(values, seed=n).p_values() >= level))

    return coverage


def of_classes(icc: float, resample: bool) -> Coverage:
    """Return the coverage of a mean of n classes of ten photos, over classes or photos."""

    def coverage(rng: Rng, n: int) -> float:
        groups = np.repeat(np.arange(n), 10)
        alike = np.repeat(rng.normal(size=(n, SAMPLES)), 10, axis=0)
        values = np.sqrt(icc) * alike + np.sqrt(1 - icc) * rng.normal(size=alike.shape)
        return covers(mean_interval(values, n, groups if resample else None), 0)

    return coverage


def of_shares_of_classes(share: float, icc: float) -> Coverage:
    """Return the coverage of a share over n classes of ten photos each."""

    def coverage(rng: Rng, n: int) -> float:
        groups = np.repeat(np.arange(n), 10)
        chance = rng.beta(share * (1 / icc - 1), (1 - share) * (1 / icc - 1), (SAMPLES, n, 1))
        hits = (rng.random((SAMPLES, n, 10)) < chance).reshape(SAMPLES, -1)
        ends = np.array([share_interval(values, groups) for values in hits])
        return covers((ends[:, 0], ends[:, 1]), share)

    return coverage


def lognormal(sigma: float) -> tuple[Draw, float]:
    """Draw skewed shifts: most photos move little, a few far."""
    return lambda rng, size: rng.lognormal(0, sigma, size), float(np.exp(sigma**2 / 2))


def mostly_zero(rng: Rng, size: int) -> np.ndarray:
    """Draw shifts of which 70 % are zero, as when a share of the photos is mirrored."""
    return rng.gamma(4, 0.1, size) * (rng.random(size) < 0.3)


def few_far(rng: Rng, size: int) -> np.ndarray:
    """Draw shifts of which a tenth is ten times the others; small samples often have none."""
    return rng.lognormal(0, 0.3, size) * np.where(rng.random(size) < 0.1, 10, 1)


def paired_lognormal(rng: Rng, size: int) -> np.ndarray:
    """Draw shifts of the same photos in two models, the second smaller by a tenth on average."""
    photo = rng.normal(0, 0.8, size)
    before, after = np.exp(photo + rng.normal(0, 0.6, (2, size)))
    return 0.9 * after - before


def embeddings(rng: Rng, size: int, cone: float) -> np.ndarray:
    """Draw unit embeddings of photos: the larger ``cone``, the closer to each other."""
    vectors = rng.normal(size=(size, WIDTH))
    vectors[:, 0] += cone
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def shifts_of(rng: Rng, unit: np.ndarray) -> np.ndarray:
    """Draw 1 − cosine of each photo, skewed, larger for photos that are far from the others."""
    return 0.02 * (1.2 - unit[:, 0]) * rng.lognormal(0, 0.5, len(unit))


def of_relative_shift(cone: float) -> Coverage:
    """Return the relative shift's coverage; embeddings and shifts are drawn for every run."""
    rng = np.random.default_rng(0)
    many = embeddings(rng, 1_000_000, cone)
    truth = shifts_of(rng, many).mean() / (1 - np.square(many.mean(axis=0)).sum())

    def coverage(rng: Rng, n: int) -> float:
        columns = []
        for _ in range(SAMPLES):
            unit = embeddings(rng, n, cone)
            others = 1 - ((unit @ unit.T).sum(axis=1) - 1) / (n - 1)
            columns.append(relative_shift_values(shifts_of(rng, unit) / others.mean(), others))
        return covers(mean_interval(np.stack(columns, axis=1), seed=n), truth)

    return coverage


def disturbed(rng: Rng, size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw embeddings of clean views in unequal dimensions, and of views that moved from them."""
    spread = np.arange(1, WIDTH + 1) ** -0.5
    clean = rng.normal(size=(size, WIDTH)) * spread + 1.5 * np.eye(WIDTH)[0]
    strength = noise * rng.exponential(size=(size, 1))
    return clean, clean + strength * rng.normal(size=clean.shape) * spread


def of_percentile(noise: float) -> Coverage:
    """Return the coverage of the percentile shift; the gallery is drawn for every run."""
    clean, view = disturbed(np.random.default_rng(0), 10_000, noise)
    truth = percentile_shift(view, clean).mean()

    def coverage(rng: Rng, n: int) -> float:
        pairs = [disturbed(rng, n, noise) for _ in range(SAMPLES)]
        ends = np.array([share_interval(percentile_shift(*pair[::-1])) for pair in pairs])
        return covers((ends[:, 0], ends[:, 1]), truth)

    return coverage


def of_whitened(noise: float) -> Coverage:
    """Return the coverage of the whitened shift that a gallery of n photos has on average."""

    def coverage(rng: Rng, n: int) -> float:
        def shifts() -> np.ndarray:
            clean, view = disturbed(rng, n, noise)
            return whitened_shift([view], clean, np.arange(n))[0]

        truth = np.mean([shifts().mean() for _ in range(SAMPLES)])
        values = np.stack([shifts() for _ in range(SAMPLES)], axis=1)
        return covers(mean_interval(values, seed=n), float(truth))

    return coverage


def of_confidence(measure: str, power: float) -> Coverage:
    """Return a measure's coverage where a photo of confidence c is right with probability c^p."""

    def draw(rng: Rng, size: int) -> np.ndarray:
        sure = rng.beta(4, 1.5, size)
        return np.stack([sure, rng.random(size) < sure**power])

    truth = VALUES[measure](*draw(np.random.default_rng(0), 1_000_000)).mean()

    def coverage(rng: Rng, n: int) -> float:
        covered = []
        names = ["confidence", "zero_shot_top1", "confidence_clean", "zero_shot_top1_clean"]
        keys = {"photo": [f"{photo:03d}" for photo in range(n)], "augmentation": "a"}
        for _ in range(RANKINGS):
            columns = dict(zip(names, np.concatenate([draw(rng, n), draw(rng, n)]), strict=True))
            shift = pd.DataFrame(keys | {"severity": "paper"} | columns)
            table = confidence_table(shift, n, None)
            rows = table[table["measure"] == measure].dropna()
            covered += [covers((r.ci_low, r.ci_high), truth) for r in rows.itertuples()]
        return float(np.mean(covered))

    return coverage


def of_components(statistic: str, draw: Draw, per_class: int = 1) -> Coverage:
    """Return the coverage of a row of draws.csv, of photos of three draws, or of n classes of them.

    Class, photo and draw vary alike; without classes, photo and draw do.
    """

    def coverage(rng: Rng, n: int) -> float:
        groups = np.repeat(np.arange(n), per_class) if per_class > 1 else None
        columns = []
        for _ in range(SAMPLES):
            values = (
                3 + draw(rng, n * per_class)[:, None] + draw(rng, 3 * n * per_class).reshape(-1, 3)
            )
            if groups is not None:
                values += draw(rng, n)[groups, None]
            components = component_values(values, groups)
            columns.append(planning_values(values.mean(axis=1), components)[statistic])
        known = {
            "variance": 1.0,
            "share": 1 / len(components),
            "photos": len(components) / 9 * 384.15,
        }
        ends = mean_interval(np.stack(columns, axis=1), n, groups)
        return covers(ends, known[statistic.partition("_")[0]])

    return coverage


def gamma(rng: Rng, size: int) -> np.ndarray:
    """Draw skewed values of mean 0 and variance 1."""
    return (rng.gamma(2, size=size) - 2) / np.sqrt(2)


def of_shares(share: float) -> Coverage:
    """Return the exact coverage of a share, over all numbers of hits."""

    def coverage(rng: Rng, n: int) -> float:
        hits = np.arange(n + 1)
        held = [covers(share_interval(np.arange(n) < k), share) for k in hits]
        return float(np.dot(held, stats.binom.pmf(hits, n, share)))

    return coverage


def of_share_differences(gained: float, lost: float) -> Coverage:
    """Return the coverage of a paired difference of shares, with photos gained and lost."""

    def coverage(rng: Rng, n: int) -> float:
        chances = [gained, lost, 1 - gained - lost]
        changes = rng.choice([1, -1, 0], size=(SAMPLES, n), p=chances)
        ends = np.array([share_difference(change)[:2] for change in changes])
        return covers((ends[:, 0], ends[:, 1]), gained - lost)

    return coverage


def of_spearman(r: float) -> Coverage:
    """Return the coverage of Spearman's ρ of a normal pair with correlation r."""
    truth = float(6 / np.pi * np.arcsin(r / 2))

    def coverage(rng: Rng, n: int) -> float:
        x = rng.normal(size=(SAMPLES, n))
        y = r * x + np.sqrt(1 - r**2) * rng.normal(size=(SAMPLES, n))
        ranks = [stats.rankdata(values, axis=1) - (n + 1) / 2 for values in (x, y)]
        rho = (ranks[0] * ranks[1]).sum(axis=1) / (n * (n**2 - 1) / 12)
        ends = np.array([spearman_interval(float(value), n) for value in rho])
        return covers((ends[:, 0], ends[:, 1]), truth)

    return coverage


def of_views(spread: float, layer: bool) -> Coverage:
    """Return the coverage of the mean distance of two views, or of a layer's mean cosine."""

    def draw(rng: Rng, size: int) -> np.ndarray:
        photo = embeddings(rng, size, cone=2)
        strength = spread * rng.lognormal(0, 0.5, (2, size, 1))
        views = photo + strength * rng.normal(size=(2, size, WIDTH)) / np.sqrt(WIDTH)
        if layer:
            return torch.cosine_similarity(*torch.tensor(np.stack([photo, views[0]]))).numpy()
        return pairwise_distances(torch.tensor(views))[:, 0, 1].numpy()

    truth = draw(np.random.default_rng(0), 1_000_000).mean()
    return of_means(draw, truth)


def of_displacements(measure: str, common: float = 0.3) -> Coverage:
    """Return the coverage of a direction, a contraction or a part of the shift.

    Args:
        measure: A column of ``directions.csv``, or a part of ``geometry.csv``.
        common: How far all photos are moved the same way, beside their own ways.
    """

    def draw(rng: Rng, size: int) -> dict[str, np.ndarray]:
        clean = embeddings(rng, size, cone=4)
        step = rng.normal(size=clean.shape) / 4 + common * np.eye(WIDTH)[1]
        return {CLEAN: clean, "view": clean + 0.5 * rng.lognormal(0, 0.5, (size, 1)) * step}

    variants = {"view": SimpleNamespace(name="view", severity="paper")}
    classes = ZeroShot(torch.eye(WIDTH)[:, :6], torch.empty(0))
    names = {"direction": ("ci_low", "ci_high")}
    names |= {"contraction": ("contraction_low", "contraction_high")}

    def row(rng: Rng, n: int) -> list[float]:
        views = Views(draw(rng, n), PhotoSample(Measured(), [], variants, seed=n))
        if measure in names:
            return directions_table(views).iloc[0][[measure, *names[measure]]].tolist()
        parts = geometry_table(views, classes).set_index("part")
        return parts.loc[measure.partition(" ")[0], ["share", "ci_low", "ci_high"]].tolist()

    truth = row(np.random.default_rng(0), 50_000 if measure in names else 400_000)[0]

    def coverage(rng: Rng, n: int) -> float:
        _, low, high = np.transpose([row(rng, n) for _ in range(RANKINGS)])
        return covers((low, high), truth)

    return coverage


def of_probes(measure: str) -> Coverage:
    """Return the coverage of a cross-validated R² or AUROC.

    The truth is what the probes that were fitted come to on 4,000 new photos, their mean over
    folds.
    """

    def both(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
        clean, drawn = embeddings(rng, size, 0), rng.normal(size=(size, 1))
        push = (0.5 + 0.5 * drawn) * np.eye(WIDTH)[1]
        return np.stack([clean, clean + push + 0.1 * rng.normal(size=clean.shape)]), drawn

    def values(views: np.ndarray, drawn: np.ndarray, folds: np.ndarray) -> list[np.ndarray]:
        """What photos add to the AUROC; or their errors, and those of the mean."""
        if measure == "AUROC":
            order = np.tile([[0], [1]], len(drawn))[None]
            return [probe_values(views, order, folds)[1][0, 1]]
        return [np.square(drawn - of[0]) for of in ridge_predictions(views[1], drawn[None], folds)]

    def run(rng: Rng, n: int) -> tuple[np.ndarray, float]:
        views, drawn = both(rng, n)
        folds, sums = np.arange(n) % 5, []
        new, drawn_anew = both(rng, 4000)
        for fold in range(5):
            fitted = folds != fold
            together = np.concatenate([views[:, fitted], new], axis=1)
            is_new = np.repeat([0, 1], [fitted.sum(), 4000])
            parts = values(together, np.concatenate([drawn[fitted], drawn_anew]), is_new)
            sums.append([part[is_new == 1].mean() for part in parts])
        of_photos, truth = values(views, drawn, folds), np.mean(sums, axis=0)
        if measure == "AUROC":
            return of_photos[0], truth[0]
        return 1 - ratio_values(*of_photos)[:, 0], 1 - truth[0] / truth[1]

    def coverage(rng: Rng, n: int) -> float:
        columns, truths = zip(*(run(rng, n) for _ in range(2 * RANKINGS)), strict=True)
        interval = mean_interval if measure == "R²" else unit_interval
        low, high = interval(np.stack(columns, axis=1), n)
        return covers((low - truths, high - truths), 0)

    return coverage


def of_predicted_flips(slope: float) -> Coverage:
    """Return the coverage of the predicted flips where changes fall with the clean margin."""

    def draw(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
        margin = rng.gamma(2, size=size)
        return margin, -slope * margin + rng.normal(-0.2, 0.5, size)

    truth = predicted_flips(*draw(np.random.default_rng(0), 1_000_000)).mean()

    def coverage(rng: Rng, n: int) -> float:
        values = [pair_values(predicted_flips(*draw(rng, n))) for _ in range(SAMPLES)]
        return covers(unit_interval(np.stack(values, axis=1), seed=n), truth)

    return coverage


def of_cka(noise: float, skew: float = 0, common: float = 0) -> Coverage:
    """Return the coverage of debiased CKA, in dimensions of unequal variance.

    Args:
        noise: Standard deviation of the noise in each dimension.
        skew: Its logarithm varies so much between photos.
        common: How far photos are moved in one direction: lognormal with σ 0.5, times this.
    """
    spread = np.linspace(2, 0.5, WIDTH)
    push = np.full(WIDTH, WIDTH**-0.5)

    def tokens(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
        clean = rng.normal(size=(size, WIDTH)) * spread
        strength = noise * rng.lognormal(0, skew, (size, 1))
        moved = common * rng.lognormal(0, 0.5, (size, 1)) * push
        return clean, clean + strength * rng.normal(size=clean.shape) + moved

    # ‖cov(x, y)‖² / (‖cov(x)‖ ‖cov(y)‖), as the population has them
    x = np.diag(spread**2)
    variance = common**2 * (np.exp(0.25) - 1) * np.exp(0.25)
    y = x + noise**2 * np.exp(2 * skew**2) * np.eye(WIDTH) + variance * np.outer(push, push)
    truth = float(np.linalg.norm(x) / np.linalg.norm(y))

    def coverage(rng: Rng, n: int) -> float:
        covered = []
        for _ in range(RANKINGS):
            clean, view = tokens(rng, n)
            cka = linear_cka(torch.from_numpy(clean), torch.from_numpy(view)).numpy()
            both = {CLEAN: clean, "view": view}
            ends = cka_intervals(both, [WIDTH], cka.reshape(1, 1), n, seed=n)
            covered.append(covers(ends, truth))
        return float(np.mean(covered))

    return coverage


def shift_table(rng: Rng, n: int, means: dict[str, np.ndarray]) -> pd.DataFrame:
    """Draw a run's table: skewed shifts of the same photos, with a mean for each augmentation."""
    photo = rng.lognormal(-0.125, 0.5, (n, 1))
    parts = []
    for severity, centre in means.items():
        shift = centre * photo * rng.lognormal(-0.18, 0.6, (n, len(centre)))
        parts.append(
            pd.DataFrame(
                {
                    "photo": np.repeat(np.arange(n), len(centre)),
                    "augmentation": [f"a{k}" for _ in range(n) for k in range(len(centre))],
                    "severity": severity,
                    "cosine_similarity": 1 - shift.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def of_matched(elasticity: float) -> Coverage:
    """Return the coverage of a mean shift at a strength matched on as many photos.

    The shift grows with a power of the strength, and the distortion with the strength itself.
    """

    def sensitivities(rng: Rng, size: int) -> np.ndarray:
        shared = rng.normal(size=size)
        return np.exp(0.5 * (shared + rng.normal(size=(2, size))))

    shift, distortion = sensitivities(np.random.default_rng(0), 1_000_000).mean(axis=1)
    truth = float(shift / distortion**elasticity)

    def coverage(rng: Rng, n: int) -> float:
        calibrated = sensitivities(rng, n * SAMPLES)[1].reshape(n, SAMPLES)
        measured = sensitivities(rng, n * SAMPLES)[0].reshape(n, SAMPLES)
        mean = calibrated.mean(axis=0)
        students = studentize(measured / mean**elasticity, seed=n)
        variants = [(str(run), "matched") for run in range(SAMPLES)]
        columns = elasticity * (calibrated / mean - 1).T
        relative = {name: of for (name, _), of in zip(variants, columns, strict=True)}
        return covers(
            Matching(relative).widened(students, students.mean, variants, n).interval(), truth
        )

    return coverage


def of_matched_flip(rng: Rng, n: int) -> float:
    """Return the same under flip, whose strength is the share of mirrored photos."""
    target, means = 0.3, np.array([0.7, 0.2])

    def mirrored(size: int) -> np.ndarray:
        shared = rng.normal(size=size)
        spread = np.array([[0.2], [0.6]]) * (0.6 * shared + 0.8 * rng.normal(size=(2, size)))
        return means[:, None] * np.exp(spread - np.array([[0.02], [0.18]]))

    calibrated = mirrored(n * SAMPLES)[0].reshape(n, SAMPLES)
    changed = np.arange(n)[:, None] < np.round(target / calibrated.mean(axis=0) * n)
    measured = mirrored(n * SAMPLES)[1].reshape(n, SAMPLES) * changed
    variants = [(str(run), "matched") for run in range(SAMPLES)]
    relative, exact = (
        {name: of for (name, _), of in zip(variants, columns.T, strict=True)}
        for columns in (calibrated / calibrated.mean(axis=0) - 1, changed)
    )
    matching = Matching(relative, exact)
    students = studentize(matching.stratified(measured, variants), seed=n)
    ends = matching.widened(students, students.mean, variants, n).interval()
    return covers(ends, target / means[0] * means[1])


SPACED = np.array([0.1, 0.15, 0.2, 0.3, 0.4, 0.6])
CLOSE = 0.3 + 0.003 * np.arange(6)
EQUAL = np.full(6, 0.3)
TIED = np.array([0.1, 0.1, 0.2, 0.2, 0.6, 0.6])


def of_ranks(means: np.ndarray, leader: bool = False) -> Coverage:
    """Return the joint coverage of all ranks, or how often no leader is falsely declared."""
    first = 1 + (means[:, None] < means).sum(axis=1)
    last = (means[:, None] <= means).sum(axis=1)

    def coverage(rng: Rng, n: int) -> float:
        held = []
        for seed in range(RANKINGS):
            ranks = rank_augmentations(shift_table(rng, n, {"paper": means}), seed)
            rows = ranks.set_index("augmentation").sort_index()
            if leader:
                led = rows.index[rows["rank_low"] == 1]
                held.append(len(led) > 1 or last[rows.index.get_loc(led[0])] == 1)
            else:
                held.append(((rows["rank_low"] <= first) & (last <= rows["rank_high"])).all())
        return float(np.mean(held))

    return coverage


def of_agreement(first: np.ndarray, second: np.ndarray) -> Coverage:
    """Return the coverage of τ between two rankings."""
    truth = float(stats.kendalltau(first, second).statistic)

    def coverage(rng: Rng, n: int) -> float:
        ends = []
        for seed in range(RANKINGS):
            table = shift_table(rng, n, {"paper": first, "matched": second})
            ends.append(ranking_agreement(table, ("paper", "matched"), seed)[1:])
        low, high = np.transpose(ends)
        return covers((low, high), truth)

    return coverage


def populations(run: str | None) -> Iterator[tuple[str, str, Coverage]]:
    """Yield each kind of interval with the populations that it is tested on."""
    yield "mean", "normal", of_means(lambda rng, size: rng.normal(size=size), 0)
    yield "mean", "beta(8, 2)", of_means(lambda rng, size: rng.beta(8, 2, size), 0.8)
    yield "mean", "gamma, 70 % zeros", of_means(mostly_zero, 0.12)
    yield "mean", "a tenth moves far", of_means(few_far, 1.9 * float(np.exp(0.045)))
    for sigma in (1, 1.5):
        yield "mean", f"lognormal, σ {sigma}", of_means(*lognormal(sigma))
    if run:
        for name, rows in pd.read_parquet(run).groupby("augmentation", sort=False):
            shift = 1 - rows["cosine_similarity"].to_numpy()
            draw = lambda rng, size, shift=shift: rng.choice(shift, size)  # noqa: E731
            yield "mean", f"1 − cosine under `{name}`", of_means(draw, shift.mean())
    for icc in (0.3, 0.0):
        population = f"n classes of ten, ICC {icc}"
        yield "mean, over classes", population, of_classes(icc, resample=True)
        yield "mean, over photos", population, of_classes(icc, resample=False)
    for share in (0.1, 0.5):
        population = f"{share:.0%}, n classes of ten, ICC 0.3"
        yield "share, over classes", population, of_shares_of_classes(share, 0.3)
    for share in (0.02, 0.1, 0.5, 0.9, 0.98):
        yield "share", f"{share:.0%}", of_shares(share)
    for cone in (0, 3):
        yield "relative shift", f"photos {'close' if cone else 'apart'}", of_relative_shift(cone)
    for noise in (0.1, 0.4, 1.0):
        yield "percentile shift", f"noise {noise}", of_percentile(noise)
        yield "whitened shift", f"noise {noise}", of_whitened(noise)
    for measure in ("ece", "aurc", "auroc"):
        for power, name in ((1, "calibrated"), (2.5, "too sure")):
            yield f"`{measure}`", name, of_confidence(measure, power)
    for name, draw in (("normal", lambda rng, size: rng.normal(size=size)), ("skewed", gamma)):
        for statistic in ("variance_draw", "variance_photo", "share_draw", "photos_1"):
            yield f"`{statistic}`", f"{name}, three draws", of_components(statistic, draw)
        for statistic in ("variance_class", "share_class"):
            population = f"{name}, n classes of five, three draws"
            yield f"`{statistic}`", population, of_components(statistic, draw, 5)
    for elasticity in (0.5, 1, 2.5):
        yield "shift at matched severity", f"elasticity {elasticity}", of_matched(elasticity)
    yield "shift at matched severity", "`flip`", of_matched_flip
    skewed = of_means(paired_lognormal, -0.1 * float(np.exp(0.5)))
    yield "paired difference of means", "lognormal, correlated", skewed
    for gained, lost in ((0.02, 0.01), (0.1, 0.05), (0.3, 0.2)):
        population = f"{gained:.0%} gained, {lost:.0%} lost"
        yield "paired difference of shares", population, of_share_differences(gained, lost)
    kind = "p of a paired difference, not below 0.01"  # at 0.05 it is the interval's coverage
    yield kind, "lognormal, correlated", of_p(paired_lognormal, -0.1 * np.exp(0.5), 0.01)
    yield kind, "lognormal, σ 1", of_p(*lognormal(1), 0.01)
    for name, means in (("apart", SPACED), ("close", CLOSE), ("equal", EQUAL)):
        yield "all ranks together", f"means {name}", of_ranks(means)
    yield "no false leader", "means equal", of_ranks(EQUAL, leader=True)
    yield "no false leader", "two tied for the first place", of_ranks(TIED, leader=True)
    yield "Kendall's τ", "means apart", of_agreement(SPACED, SPACED[[1, 0, 2, 3, 5, 4]])
    yield "Kendall's τ", "means close", of_agreement(CLOSE, CLOSE[[1, 0, 2, 3, 5, 4]])
    for r in (0.0, 0.6, 0.9):
        yield "Spearman's ρ", f"normal, r {r}", of_spearman(r)
    yield "distance between augmentations", "small", of_views(0.2, layer=False)
    yield "distance between augmentations", "large", of_views(1.0, layer=False)
    yield "a layer's cosine", "small shift", of_views(0.2, layer=True)
    yield "a layer's cosine", "large shift", of_views(1.0, layer=True)
    yield "debiased CKA", "small shift", of_cka(0.2)
    yield "debiased CKA", "large shift", of_cka(2.0)
    yield "debiased CKA", "hardly related", of_cka(20.0)
    for skew in (0.5, 1.0):
        yield "debiased CKA", f"noise of lognormal scale, σ {skew}", of_cka(0.5, skew)
    for common in (1.0, 3.0):
        yield "debiased CKA", f"skewed common displacement, {common:.0f}", of_cka(0.1, 0, common)
    yield "direction", "photos in a cone", of_displacements("direction")
    yield "contraction", "photos in a cone", of_displacements("contraction")
    for common, name in ((0, "at random"), (0.3, "partly common")):
        for part in ("contraction part", "common", "own", "class_span"):
            yield f"`{part.partition(' ')[0]}`", name, of_displacements(part, common)
    for slope in (0, 0.3):
        yield "`predicted_flips`", f"margins gamma, slope {slope}", of_predicted_flips(slope)
    for measure in ("R²", "AUROC"):
        yield f"{measure} of a probe", "n photos", of_probes(measure)


def main() -> None:
    """Print the table."""
    print("| interval | population |", " | ".join(f"n = {n}" for n in SIZES), "|")
    print("| --- | --- |", " | ".join("---" for _ in SIZES), "|")
    for kind, population, coverage in populations(sys.argv[1] if len(sys.argv) > 1 else None):
        rng = np.random.default_rng(0)
        cells = " | ".join(f"{100 * coverage(rng, n):.1f}" for n in SIZES)
        print(f"| {kind} | {population} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
