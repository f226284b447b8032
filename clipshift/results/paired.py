"""Two runs on the same views, photo by photo."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from clipshift.measure import Facts
from clipshift.results.table import KEYS, mean_interval

GROUPS = ("mean of trained on", "mean of held out")


def with_group_means(shift: pd.DataFrame, trained_on: Sequence[str]) -> pd.DataFrame:
    """A run's table with a photo's mean over augmentations that were trained on, and over others.

    Args:
        shift: From `clipshift.results.shift_table`.
        trained_on: Names of augmentations.

    Returns:
        The table and, behind it, its rows of "mean of trained on" and "mean of held out"; only the
        table where one of the two would be empty.
    """
    group = (
        shift["augmentation"].isin(trained_on).map(dict(zip((True, False), GROUPS, strict=True)))
    )
    if group.nunique() < 2:
        return shift
    measures = shift.columns.difference(KEYS, sort=False)
    means = shift.groupby(["photo", group, "severity"], sort=False)[list(measures)].mean()
    return pd.concat([shift, means.reset_index()], ignore_index=True)


def compare_photos(
    a: pd.DataFrame, b: pd.DataFrame, columns: Mapping[str, Facts], seed: int
) -> pd.DataFrame:
    """The paired difference of two runs, b − a, in every measure under every variant.

    Args:
        a: A run's table, from `clipshift.results.shift_table`.
        b: Another's, of the same photos, augmentations and severities.
        columns: What the measures are. Those of pixels are left out: they do not depend on the
            model.
        seed: Seed of the bootstrap.

    Returns:
        One row per (augmentation, severity, measure), and one for each measure of the clean views,
        under the augmentation ``clean``: ``mean_a``, ``mean_b``; the mean ``difference``
        with its 95 % percentile bootstrap interval over photos ``ci_low``, ``ci_high``;
        ``improved`` and ``worsened``, the shares of photos on which b is better or worse than a;
        ``p``, of Wilcoxon's two-sided signed-rank test (1945; 1 where no photo differs);
        ``p_holm``, that after Holm's correction over all rows (1979); and ``n``. Photos without a
        value in either run are left out.
    """
    keys = ["photo", "augmentation", "severity"]
    joined = a.merge(b, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    measures = [
        name
        for name in a.columns.intersection(b.columns, sort=False).intersection(list(columns))
        if columns[name].better and columns[name].space != "pixels"
    ]
    of_clean = [name for name in measures if columns[name].space == "photo"]
    groups = list(joined.groupby(["augmentation", "severity"], sort=False))
    rows = []
    for (name, severity), group, chosen in [
        (("clean", ""), groups[0][1], of_clean),
        *((key, group, [m for m in measures if m not in of_clean]) for key, group in groups),
    ]:
        for measure in chosen:
            pair = group[[f"{measure}_a", f"{measure}_b"]].dropna().to_numpy(float)
            change = pair[:, 1] - pair[:, 0]
            gain = columns[measure].gain(pair[:, 0], pair[:, 1])
            low, high = mean_interval(change, seed)
            rows.append(
                {
                    "augmentation": name,
                    "severity": severity,
                    "measure": measure,
                    "mean_a": pair[:, 0].mean() if len(pair) else np.nan,
                    "mean_b": pair[:, 1].mean() if len(pair) else np.nan,
                    "difference": change.mean() if len(pair) else np.nan,
                    "ci_low": low,
                    "ci_high": high,
                    "improved": (gain > 0).mean() if len(pair) else np.nan,
                    "worsened": (gain < 0).mean() if len(pair) else np.nan,
                    "p": wilcoxon(change).pvalue if change.any() else 1.0,
                    "n": len(pair),
                }
            )
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("n"), "p_holm", holm(table["p"].to_numpy()))  # type: ignore[arg-type]
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the i-th smallest of m p-values times m − i + 1, never falling.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    adjusted = np.empty_like(raised)
    adjusted[order] = raised
    return adjusted
