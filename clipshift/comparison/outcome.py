"""The outcome of a fine-tuning: what the robust model gains and loses, net of its control."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from clipshift.comparison.pair import Pair, class_groups
from clipshift.measure.embeddings import effective_rank
from clipshift.report.shift import COSINE, as_shift, shift_name
from clipshift.report.tables import AUGMENTATION, PHOTOS, Column
from clipshift.report.words import WHITE_BOX
from clipshift.results.intervals import pair_values, studentize
from clipshift.results.kept import EMBEDDINGS
from clipshift.results.measured import CLEAN
from clipshift.results.paired import GROUPS
from clipshift.results.runs import Run
from clipshift.results.table import by_photo
from clipshift.severities import PAPER, view_name

OUTCOME = "outcome.csv"
OF_VIEWS = (COSINE, "relative_shift", "retained", "zero_shot_top1", "neighbour_top1")
OF_CLEAN = ("zero_shot_top1_clean", "neighbour_top1_clean", "distance_to_others", "effective_rank")
"""The measures of an outcome: of views, and of the clean photos, which must not collapse."""
RANK = "effective rank"
KEYS = ["measure", "augmentation", "severity"]
ENDS = {"difference": "", "ci_low": "_low", "ci_high": "_high"}


def outcome_table(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
    """What a fine-tuning has changed, of which a control shows what the augmentations did.

    Args:
        pairs: Base and robust model; or base and control, base and robust model, and control and
            robust model.
        seed: Seed of the bootstrap.

    Returns:
        One row per measure of `OF_VIEWS` (the cosine as 1 − cosine) and group of augmentations, or
        each of them where there are no groups, and one per measure of `OF_CLEAN`: ``base``,
        ``control`` and ``robust``, their means; ``change``, robust minus base, and ``net``, robust
        minus control, with 95 % intervals, paired over photos; and ``n`` photos. The effective
        rank is there where runs keep their embeddings, and has no interval.
    """
    with_control = len(pairs) > 1
    table = _differences(pairs[1 if with_control else 0], seed, "base", "change")
    if with_control:
        net = _differences(pairs[2], seed, "control", "net").drop(columns=["robust", "n"])
        table = table.merge(net, "left", KEYS)
    columns = [f"{kind}{end}" for kind in ("change", "net") for end in ENDS.values()]
    return table.reindex(columns=[*KEYS, "base", "control", "robust", *columns, "n"])


def outcome_contents(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Column]]:
    """An outcome for readers: its data, and the columns of a table that shows them."""
    labels = [RANK if m == "effective_rank" else shift_name(m) for m in table["measure"]]
    keys = zip(table["augmentation"], table["severity"].fillna(""), strict=True)
    names = [view_name(name, None if step == PAPER else step) for name, step in keys]
    means = [Column(name, name) for name in ("base", "control", "robust")]
    differences = {"robust − base": "change", "robust − control": "net"}
    changes = [Column(head, name, ends=name, form="+.3f") for head, name in differences.items()]
    with_control = table["control"].notna().any()
    columns = [*means, *changes] if with_control else [means[0], means[2], changes[0]]
    data = table.assign(label=labels, augmentation=names)
    return data, [Column("measure", "label"), AUGMENTATION, *columns, PHOTOS]


def outcome_cells(table: pd.DataFrame) -> list[list[str]]:
    """The heads of `outcome_contents`, and the texts of its rows."""
    data, columns = outcome_contents(table)
    rows = zip(*(column.texts(data) for column in columns), strict=True)
    return [[column.head for column in columns], *map(list, rows)]


def _differences(pair: Pair, seed: int, before: str, kind: str) -> pd.DataFrame:
    """Two models' rows, the first one's under the name ``before``."""
    rows = pair.table
    if rows["augmentation"].isin(GROUPS).any():
        rows = rows[rows["augmentation"].isin([*GROUPS, CLEAN, WHITE_BOX])]
    rows = as_shift(pd.concat([rows, *_of_all_photos(pair, seed)], ignore_index=True))
    rows = rows[rows["measure"].isin([*OF_VIEWS, *OF_CLEAN])]
    order = [*OF_VIEWS, *OF_CLEAN].index
    rows = rows.sort_values("measure", key=lambda names: names.map(order), kind="stable")
    names = {"mean_a": before, "mean_b": "robust"}
    names |= {column: f"{kind}{end}" for column, end in ENDS.items()}
    return rows.rename(columns=names)[[*KEYS, *names.values(), "n"]]


def _of_all_photos(pair: Pair, seed: int) -> list[pd.DataFrame]:
    """Whether photos come to lie closer together, or in fewer dimensions."""
    if not all("distance_to_others" in run.rows for run in (pair.a, pair.b)):
        return []
    of_both = [_distances(run) for run in (pair.a, pair.b)]
    influence = np.stack([pair_values(one) for one in of_both])
    change = (influence[1] - influence[0])[:, None]
    low, high = studentize(change, seed, groups=class_groups([pair.a, pair.b])).interval()
    values = {"distance_to_others": ([one.mean() for one in of_both], low[0], high[0])}
    files = [run.folder / EMBEDDINGS for run in (pair.a, pair.b)]
    if all(file.exists() for file in files):
        ranks = [effective_rank(load_file(file)[CLEAN]) for file in files]
        values["effective_rank"] = ranks, np.nan, np.nan
    rows = [
        {"measure": measure, "augmentation": CLEAN, "severity": "", "mean_a": of_a, "mean_b": of_b}
        | {"difference": of_b - of_a, "ci_low": low, "ci_high": high, "n": len(change)}
        for measure, ((of_a, of_b), low, high) in values.items()
    ]
    return [pd.DataFrame(rows)]


def _distances(run: Run) -> np.ndarray:
    return by_photo(run.rows, "distance_to_others").iloc[:, 0].to_numpy()
