"""What several draws of each augmentation tell: their worst, and what the shift varies with."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.results.columns import VARIANT, ShiftFile
from clipshift.results.intervals import FEW_CLASSES, Z, label_groups, mean_interval, ratio_values
from clipshift.results.matching import UNMATCHED, Matching
from clipshift.results.table import labels_of, summarize

PLANNED_DRAWS = (1, 2, 5)
"""The numbers of draws for which the photos are counted that an interval needs."""
PLANNED_WIDTH = 0.1
"""Half the width of that interval, as a share of the mean shift."""


class FirstDraws(ShiftFile):
    """A run's ``shift.parquet``, of which each photo's first draw counts, not the mean."""

    def fold(self, measure: str, values: np.ndarray) -> np.ndarray:
        return values[:, 0]


class WorstDraws(ShiftFile):
    """A run's ``shift.parquet``, of which each photo's worst draw counts, not the mean."""

    def fold(self, measure: str, values: np.ndarray) -> np.ndarray:
        return np.asarray(self.facts[measure].worst(values))


def draw_table(
    shift: ShiftFile,
    columns: Mapping[str, Facts],
    seed: int,
    matching: Matching = UNMATCHED,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """The mean of photos' worst draws in each measure, and the shift's variance components.

    Photos are nested in classes where there are `FEW_CLASSES` or more, with two labelled photos or
    more in the mean: then classes are resampled, and photos without a label left out.

    Args:
        shift: A run's rows.
        columns: What the measured columns are.
        seed: Seed of the resampling.
        matching: What intervals of the shift at severity ``matched`` hold as well.
        groups: The group of each photo, which is resampled whole; None where photos are.

    Returns:
        ``draws.csv``: one row per augmentation, severity, ``measure`` and ``statistic``; empty of a
        single draw.
    """
    if shift.draws == 1:
        return pd.DataFrame()
    of_draws = {n: f for n, f in columns.items() if f.space != "photo" and n != "draw_radius"}
    worst = summarize(WorstDraws(shift.path), of_draws, seed, matching, groups)
    worst = worst.rename(columns={"mean": "value"}).drop(columns="std")
    worst.insert(3, "statistic", "worst")
    if "cosine_similarity" not in shift:
        return worst
    labels = labels_of(shift)
    sizes = labels.value_counts()
    nested = len(sizes) >= FEW_CLASSES and sizes.mean() >= 2
    classes = label_groups(list(labels))
    of_class = float(np.square(sizes).sum() / sizes.sum()) if nested and groups is not None else 1.0
    usable = labels.notna().to_numpy() | (not nested)
    shifts = 1 - shift.by_draw("cosine_similarity")
    parts = []
    for place, variant in enumerate(shift.variants):
        chosen = np.isfinite(shifts[:, :, place]).all(axis=1) & usable
        of_photos = shifts[chosen, :, place]
        components = component_values(of_photos, classes[chosen] if nested else None)
        statistics = planning_values(of_photos.mean(axis=1), components, of_class)
        rows = np.full((len(chosen), len(statistics)), np.nan)
        rows[chosen] = np.stack(list(statistics.values()), axis=1)
        ends = mean_interval(rows, seed, classes if nested else groups)
        most = [1.0 if name.startswith("share") else np.inf for name in statistics]
        value, low, high = np.clip([rows[chosen].mean(axis=0), *ends], 0, most)
        keys = dict(zip(VARIANT, variant, strict=True)) | {"measure": "cosine_similarity"}
        of_variant = {"value": value, "ci_low": low, "ci_high": high, "n": chosen.sum()}
        parts.append(pd.DataFrame(keys | {"statistic": list(statistics)} | of_variant))
    return pd.concat([worst, *parts], ignore_index=True)


def component_values(values: np.ndarray, classes: np.ndarray | None) -> dict[str, np.ndarray]:
    r"""Components of the variance of draws in photos in classes, each as a mean over photos.

    .. math::
        y_{cpk} = \mu + a_c + b_{cp} + e_{cpk}

    with N photos of K draws each, and :math:`n_c` photos in each of J classes. The mean squares of
    a nested analysis of variance are set equal to their expectations (the method of moments;
    Searle, Casella and McCulloch, "Variance components", 1992, chapter 3), divided by K:

    .. math::
        \hat\sigma_e^2 = \frac{1}{N} \sum_p s_p^2, \quad
        \hat\sigma_b^2 = \frac{\sum_p (\bar y_p - \bar y_c)^2}{N - J} -
        \frac{\hat\sigma_e^2}{K}, \quad
        \hat\sigma_a^2 = \frac{1}{n_0} \Big(\frac{\sum_c n_c (\bar y_c - \bar y)^2}{J - 1} -
        \frac{\sum_p (\bar y_p - \bar y_c)^2}{N - J}\Big)

    with :math:`n_0 = (N - \sum_c n_c^2 / N) / (J - 1)`. Without classes, :math:`\bar y_c` is the
    mean of all photos, and J is 1.

    Args:
        values: Shape (N, K), finite.
        classes: The class of each photo, integers, shape (N,); None without.

    Returns:
        ``class`` (with classes), ``photo`` and ``draw``: shape (N,), whose means are the
        components. They can be below 0, by chance.

    Example:
        >>> parts = component_values(np.array([[0.0, 2.0], [4.0, 6.0]]), None)
        >>> {name: float(of.mean()) for name, of in parts.items()}
        {'photo': 7.0, 'draw': 2.0}
    """
    count, draws = values.shape
    means, of_draws = values.mean(axis=1), values.var(axis=1, ddof=1)
    members = np.unique(classes if classes is not None else np.zeros(count), return_inverse=True)[1]
    sizes = np.bincount(members)
    class_means = (np.bincount(members, means) / sizes)[members]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = np.square(means - class_means) * count / np.subtract(count, len(sizes))
        components = {"photo": within - of_draws / draws, "draw": of_draws}
        if classes is None:
            return components
        between = np.square(class_means - means.mean()) * count / (len(sizes) - 1)
        typical = (count - np.square(sizes).sum() / count) / (len(sizes) - 1)
        return {"class": (between - within) / typical} | components


def planning_values(
    means: np.ndarray, components: Mapping[str, np.ndarray], of_class: float = 1.0
) -> dict[str, np.ndarray]:
    r"""Components, their shares, and how many photos an interval needs, as means over photos.

    Half the width of the interval of a mean over N photos with K draws each is about
    :math:`1.96 \sqrt{V_K / N}`, so that ± a share h of the mean m takes

    .. math::
        N_K = \frac{1.96^2 V_K}{h^2 m^2}, \quad
        V_K = \bar n \sigma_a^2 + \sigma_b^2 + \sigma_e^2 / K

    photos, with :math:`\bar n = \sum_c n_c^2 / N` where classes are resampled (as many photos of
    each class, of more classes), and 1 where photos are. Shares and :math:`N_K` are linearised
    (`ratio_values`).

    Args:
        means: Of N photos' draws, shape (N,).
        components: From `component_values`.
        of_class: :math:`\bar n`.

    Returns:
        ``variance_photo``, ``share_photo`` and others, and ``photos_1`` for K = 1 of
        `PLANNED_DRAWS`, h being `PLANNED_WIDTH`.
    """
    total = np.sum(list(components.values()), axis=0)
    statistics = {f"variance_{name}": of for name, of in components.items()}
    statistics |= {f"share_{name}": ratio_values(of, total) for name, of in components.items()}
    mean = means.mean()
    for draws in PLANNED_DRAWS:
        of_classes = of_class * components.get("class", 0.0)
        one = of_classes + components["photo"] + components["draw"] / draws
        change = one - 2 * one.mean() * (means - mean) / mean
        statistics[f"photos_{draws}"] = (Z / PLANNED_WIDTH / mean) ** 2 * change
    return statistics
