"""Two runs on the same views, compared photo by photo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipshift.errors import UserError
from clipshift.report.shift import HEADLINE_MEASURES
from clipshift.report.words import WHITE_BOX
from clipshift.results.compatibility import differing_views, incomparable
from clipshift.results.intervals import label_groups
from clipshift.results.paired import compare_photos, with_group_means
from clipshift.results.runs import Run
from clipshift.results.table import labels_of, mean_over_draws

CORRUPTION = "clipshift.augment.Corruption"
COMPARED_MEASURES = (
    *HEADLINE_MEASURES,
    "percentile_shift",
    "whitened_shift",
    "retained",
    "zero_shot_top1_clean",
    "zero_shot_top1",
    "neighbour_top1_clean",
    "neighbour_top1",
    "attention_similarity",
)
"""The measures of which a page shows the paired differences; the CSV has all."""


@dataclass(frozen=True)
class Pair:
    """Two runs and their paired comparison.

    Attributes:
        a: A run.
        b: Another, of the same views.
        trained_on: What the fine-tuned one of the compared models was trained on.
        table: From `compare_pair`.
    """

    a: Run
    b: Run
    trained_on: Sequence[str]
    table: pd.DataFrame

    @property
    def measures(self) -> list[str]:
        """Those of `COMPARED_MEASURES` in which the runs have a difference."""
        measured = set(self.table.dropna(subset="difference")["measure"])
        return [measure for measure in COMPARED_MEASURES if measure in measured]


def trained_on_of(runs: Sequence[Run]) -> list[str]:
    """What the fine-tuned one of several models was trained on; the last one's where many were."""
    return next((run.trained_on for run in reversed(runs) if run.trained_on), [])


def class_groups(runs: Sequence[Run]) -> np.ndarray | None:
    """The classes of runs' photos, in the order of ids, where one of them resampled classes."""
    if not any(run.info.by_class for run in runs):
        return None
    return label_groups(list(labels_of(runs[0].rows)))


def attacked_alike(a: Run, b: Run) -> bool:
    """Whether two runs were attacked, with the same options."""
    asked = [getattr(run.info.config, "attack", None) for run in (a, b)]
    return len(a.attack_photos) > 0 and asked[0] == asked[1]


def attacked_rows(run: Run) -> pd.DataFrame:
    """The values of attacked photos in the form of ``shift.parquet``, ε as severity."""
    photos = run.attack_photos.drop(columns="zero_shot_top1_clean").dropna(axis=1, how="all")
    severity = [f"ε = {epsilon:g} of 255" for epsilon in photos.pop("epsilon")]
    return photos.assign(augmentation=WHITE_BOX, severity=severity)


def compare_pair(a: Run, b: Run, seed: int, trained_on: Sequence[str]) -> pd.DataFrame:
    """`compare_photos` of two runs, without the measures that cannot be compared.

    Classes are resampled where they are in one of the two. Photos under attack are compared where
    both were attacked alike, each by an adversary of its own: Holm's correction is over their rows.

    Args:
        a: A run.
        b: Another.
        seed: Seed of the bootstrap.
        trained_on: Augmentations, of which and of all others the mean is compared as well.

    Returns:
        The table, with the models' names in front: ``model_a`` and ``model_b``.

    Raises:
        UserError: If they measured different photos or views.
    """
    if differences := differing_views(a, b):
        raise UserError(
            f"{a.folder} and {b.folder} cannot be compared photo by photo: "
            f"they differ in {', '.join(differences)}"
        )
    lost = [name for name in a.shift if name.startswith(tuple(incomparable(a, b)))]
    of_photos = class_groups([a, b])
    groups = None if of_photos is None else pd.Series(of_photos, labels_of(a.rows).index)
    nodes = a.info.config.aug.items()
    generated = [name for name, node in nodes if node.get("_target_") == CORRUPTION]
    shifts = (mean_over_draws(shift) for shift in (a.shift.drop(columns=lost), b.shift))
    of_a, of_b = (with_group_means(shift, trained_on, generated) for shift in shifts)
    tables = [compare_photos(of_a, of_b, a.columns, seed, groups)]
    if attacked_alike(a, b):
        attacked = [attacked_rows(run).drop(columns=lost, errors="ignore") for run in (a, b)]
        tables.append(compare_photos(attacked[0], attacked[1], a.columns, seed, groups))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "model_a", a.info.model.name)
    table.insert(1, "model_b", b.info.model.name)
    return table
