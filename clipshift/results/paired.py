"""Compare two runs on the same views photo by photo."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.results.columns import KEYS
from clipshift.results.intervals import holm, relative_shift_values, share_difference, studentize

GROUPS = ("mean of trained on", "mean of held out", "mean of corruptions")


def with_group_means(
    shift: pd.DataFrame, trained_on: Sequence[str], corruptions: Sequence[str] = ()
) -> pd.DataFrame:
    """A run's table with a photo's mean over augmentations that were trained on, and over others.

    Args:
        shift: From `clipshift.results.table.shift_table`.
        trained_on: Names of augmentations.
        corruptions: Names of generated corruptions.

    Returns:
        The table and, behind it, its rows of "mean of trained on" and "mean of held out"; only the
        table where one of the two would be empty. Corruptions have a mean of their own where other
        augmentations are held out beside them.
    """
    group = shift["augmentation"].isin(trained_on).map({True: GROUPS[0], False: GROUPS[1]})
    if group.nunique() < 2:
        return shift
    corrupted = shift["augmentation"].isin({*corruptions} - {*trained_on})
    apart = group.mask(corrupted, GROUPS[2])
    group = apart if apart.nunique() == len(GROUPS) else group
    measures = shift.columns.difference(list(KEYS), sort=False)
    means = shift.groupby(["photo", group, "severity"], sort=False)[list(measures)].mean()
    return pd.concat([shift, means.reset_index()], ignore_index=True)


def compare_photos(
    a: pd.DataFrame,
    b: pd.DataFrame,
    columns: Mapping[str, Facts],
    seed: int,
    groups: pd.Series | None = None,
) -> pd.DataFrame:
    """The paired difference of two runs, b − a, in every measure under every variant.

    Interval and p are one procedure, so that p is below 0.05 just where the interval excludes 0:
    `share_difference` for measures that are 0 or 1, and for all others the bootstrap-t of
    `clipshift.results.intervals.Studentized`. Both of ``relative_shift`` let the runs' spreads vary
    (`relative_shift_values`).

    Args:
        a: A run's table, from `clipshift.results.table.shift_table`.
        b: Another's, of the same photos, augmentations and severities.
        columns: What the measures are. Those of pixels are left out: they do not depend on the
            model.
        seed: Seed of the bootstrap.
        groups: The group of each photo by its id, integers: they are resampled whole.

    Returns:
        One row per (augmentation, severity, measure), and one for each measure of the clean views,
        under the augmentation ``clean``: ``mean_a``, ``mean_b``; the mean ``difference`` with its
        95 % interval ``ci_low``, ``ci_high``; ``improved`` and ``worsened``, the shares of photos
        on which b is better or worse than a; ``p``, two-sided, of no mean difference; ``p_holm``,
        that after Holm's correction over all rows; and ``n``. Photos without a value in either run
        are left out.
    """
    keys = ["photo", "augmentation", "severity"]
    joined = a.merge(b, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    measures = [
        name
        for name in a.columns.intersection(b.columns, sort=False).intersection(list(columns))
        if columns[name].better and columns[name].space != "pixels"
    ]
    of_clean = [name for name in measures if columns[name].space == "photo"]
    variants = list(joined.groupby(["augmentation", "severity"], sort=False))
    rows = []
    of_views = [m for m in measures if m not in of_clean]
    parts = [(("clean", ""), variants[0][1], of_clean)]
    for (name, severity), group, chosen in parts + [(*one, of_views) for one in variants]:
        differences = {m: (group[f"{m}_b"] - group[f"{m}_a"]).astype(float) for m in chosen}
        changes = pd.DataFrame(differences, group.index)  # NaN where either has no value
        of_photos = None if groups is None else group["photo"].map(groups).to_numpy()
        means = studentize(_influence(group, changes).to_numpy(), seed, groups=of_photos)
        of_means = zip(*means.interval(), means.p_values(), strict=True)
        for measure, (low, high, p) in zip(chosen, of_means, strict=True):
            before, after = group[[f"{measure}_a", f"{measure}_b"]].dropna().to_numpy(float).T
            change = changes[measure].dropna().to_numpy()
            gain = columns[measure].gain(before, after)
            if columns[measure].is_share and np.isin(change, (-1, 0, 1)).all():
                low, high, p = share_difference(changes[measure].to_numpy(), of_photos)
            rows.append(
                {
                    "augmentation": name,
                    "severity": severity,
                    "measure": measure,
                    "mean_a": before.mean() if len(gain) else np.nan,
                    "mean_b": after.mean() if len(gain) else np.nan,
                    "difference": change.mean() if len(gain) else np.nan,
                    "ci_low": low,
                    "ci_high": high,
                    "improved": (gain > 0).mean() if len(gain) else np.nan,
                    "worsened": (gain < 0).mean() if len(gain) else np.nan,
                    "p": p,
                    "n": len(gain),
                }
            )
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("n"), "p_holm", holm(table["p"].to_numpy()))  # type: ignore[arg-type]
    return table


def _influence(group: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The differences, of ``relative_shift`` with what each photo does to the spreads."""
    if "relative_shift" not in changes:
        return changes
    has_change = changes["relative_shift"].notna()
    before, after = (
        relative_shift_values(
            group[f"relative_shift_{run}"].where(has_change).to_numpy(float),
            group[f"distance_to_others_{run}"].to_numpy(float),
        )
        for run in ("a", "b")
    )
    return changes.assign(relative_shift=after - before)
