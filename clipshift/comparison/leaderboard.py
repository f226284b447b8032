"""Models ranked on the photos that they share, as a table for pages, papers and other programs."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from clipshift.comparison.pair import class_groups
from clipshift.comparison.sweep import HEADS, Sweep, line_means, same_views
from clipshift.measure.facts import Facts
from clipshift.report.shift import COSINE, headline_measure
from clipshift.report.tables import Column, markdown_table, side_by_side, with_ranks
from clipshift.results.compatibility import incomparable
from clipshift.results.files import write_csv, write_whole
from clipshift.results.intervals import share_interval, studentize
from clipshift.results.ranking import pairs_of, rank_intervals, told_apart, with_differences
from clipshift.severities import ALL

FILE = "leaderboard.csv"
SHIFT = "shift"
"""The name of the mean of 1 − cosine, as in ``ranking.csv``: a column of cosines it is not."""
SHOWN = {SHIFT if measure == COSINE else measure: head for measure, head in HEADS.items()}
"""`HEADS` by the columns of a leaderboard."""
BEST = 0.6
"""The tint of a mean that is better than all others at the 95 % level."""
LATEX = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"−": "$-$", "–": "--", "µ": r"$\mu$"}
)
MARKDOWN = str.maketrans({"|": r"\|", "<": "&lt;", "\\": r"\\"})


def rank_means(
    values: pd.DataFrame, facts: Facts, seed: int, groups: np.ndarray | None = None
) -> pd.DataFrame:
    """Means over photos from the best to the worst, with the intervals of means and ranks.

    Ranks are those of `clipshift.results.ranking.rank_augmentations`: a rank is at least 1 + the
    number of lines that are significantly better, by differences on the same photos, at a level
    that holds for all pairs at once. So all ranks are in their intervals together with at least
    95 %, also that of a line which was chosen because it came first.

    Args:
        values: One row per photo and one column per line: a photo's value, or its mean over
            augmentations. NaN where it has none.
        facts: What they are.
        seed: Seed of the resampling.
        groups: The group of each photo, integers: they are resampled whole.

    Returns:
        One row per ``line``: ``mean``, ``ci_low``, ``ci_high`` (`share_interval` of shares, else
        `mean_interval`), ``rank`` (1: the best), ``rank_low``, ``rank_high``, and ``n``, the
        number of photos with a value.
    """
    sign = 1 if facts.better == "higher" else -1
    lines = (sign * values.mean()).sort_values(ascending=False, kind="stable").index
    matrix = values[lines].to_numpy()
    size = len(lines)
    errors = studentize(matrix, seed, with_differences, groups)
    ends = np.array(errors[:size].interval())
    if facts.is_share:
        ends = np.transpose([share_interval(column, groups) for column in matrix.T])
    ranks = rank_intervals(size, pairs_of(size), sign * told_apart(errors[size:]))
    low, high = np.clip(ends, facts.low, facts.high)
    columns = {"line": lines, "mean": errors.mean[:size], "ci_low": low, "ci_high": high}
    columns |= {"rank": np.arange(1, size + 1), "rank_low": ranks[0], "rank_high": ranks[1]}
    return pd.DataFrame(columns | {"n": values[lines].count().to_numpy()})


def rank_lines(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    """`rank_means` of the lines in some rows of a sweep's grid: see `line_means`."""
    runs, facts = list(sweep.runs.values()), sweep.facts(rows["measure"].iloc[0])
    return rank_means(line_means(sweep, rows), facts, runs[0].info.seed, class_groups(runs))


def rank_measures(sweep: Sweep) -> pd.DataFrame:
    """The lines of a sweep, ranked by each measure's means over augmentations: `rank_lines`.

    A mean is over all augmentations of a severity, and of lines that were measured under all of
    them, on the same views. Measures that were taken in another way in one of the runs
    (`incomparable`) are left out.

    Returns:
        The rows of each ``severity`` and ``measure``; empty where no two lines can be ranked.
    """
    runs = list(sweep.runs.values())
    lost = tuple({name for run in runs[1:] for name in incomparable(runs[0], run)})
    parts = []
    for (severity, measure), rows in sweep.grid.groupby(["severity", "measure"], sort=False):
        augmentations = rows["augmentation"].nunique()
        rows = rows.groupby("line").filter(lambda part, every=augmentations: len(part) == every)
        if measure.startswith(lost) or rows["line"].nunique() < 2 or not same_views(sweep, rows):
            continue
        parts.append(rank_lines(sweep, rows).assign(severity=severity, measure=measure))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def copies_found(sweep: Sweep) -> Iterator[pd.DataFrame]:
    """Of lines of one run, how well it finds the same photo among all others: `HEADS` as measures.

    Nothing where runs have other photos in their galleries.
    """
    runs, lines = list(sweep.runs.values()), list(sweep.lines.values())
    if any("retained" in incomparable(runs[0], run) for run in runs[1:]):
        return
    for run, line in zip(runs, lines, strict=True):
        if len(table := run.thresholds) and lines.count(line) == 1:
            whole = table["augmentation"].eq(ALL) & table["impostors"].eq(ALL)
            table = table[whole & table["measure"].isin(HEADS)]
            yield table.rename(columns={"value": "mean"}).assign(line=line)


def make_leaderboard(sweep: Sweep) -> pd.DataFrame:
    """The ranking of a sweep's models by their shift, with all that one chooses a model by.

    Returns:
        One row per ``severity`` and ``model``, by its ``rank`` in the shift, with ``rank_low`` and
        ``rank_high``; the mean of each measure of `SHOWN` over augmentations, under its name, with
        ``_low``, ``_high`` and ``_best``, whether it is better than all others at the 95 % level;
        ``photos_per_second``, the mean of its runs, on their ``device``, and ``image_parameters``,
        NaN where they are unknown. Empty where no two models can be ranked.
    """
    ranked = rank_measures(sweep)
    shift = headline_measure(ranked) if len(ranked) else None
    if shift is None:
        return pd.DataFrame()
    keys = ["severity", "line"]
    ranks = ranked.loc[ranked["measure"] == shift, [*keys, "rank", "rank_low", "rank_high"]]
    means = side_by_side(pd.concat([ranked, *copies_found(sweep)]), "measure", index=keys)
    best = ranked.assign(best=ranked["rank_high"] == 1)
    best = best.pivot(index=keys, columns="measure", values="best").eq(True).add_suffix("_best")
    measures = [measure for measure in HEADS if measure in means]
    means = means[[*keys, *(f"{one}{end}" for one in measures for end in ("", "_low", "_high"))]]
    jobs = pd.DataFrame(
        {
            "line": line,
            "photos_per_second": run.info.data.photos / (run.info.seconds.get("photos") or np.nan),
            "device": run.info.processor if run.info.device == "cpu" else run.info.device,
            "image_parameters": run.info.model.image_parameters or np.nan,
        }
        for line, run in zip(sweep.lines.values(), sweep.runs.values(), strict=True)
    )
    every = {
        "photos_per_second": "mean",
        "device": lambda used: ", ".join(sorted({*used})),
        "image_parameters": "first",
    }
    facts = jobs.groupby("line").agg(every)
    table = ranks.merge(means, on=keys).merge(facts, on="line").merge(best, on=keys)
    return table.rename(columns=lambda name: name.replace(COSINE, SHIFT)).rename(
        columns={"line": "model"}
    )


def shown_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Column]]:
    """What pages, papers and the terminal show of a leaderboard: its texts, and the columns."""
    millions = table["image_parameters"].div(1e6)
    tints = {f"{one}_best": table.get(f"{one}_best", 0) * BEST for one in SHOWN if one in table}
    millions = millions.map("{:.1f} M".format).where(millions.notna(), "")
    data = with_ranks(table).assign(millions=millions, **tints)
    means = [Column(h, m, m, tint=f"{m}_best") for m, h in SHOWN.items() if m in table]
    return data, [
        Column("model", "model"),
        Column("rank", "rank", text="ranks"),
        *means,
        Column("image parameters", "image_parameters", text="millions"),
        Column("photos/s", "photos_per_second", form=".1f"),
        Column("device", "device"),
    ]


def write_leaderboard(folder: Path, table: pd.DataFrame, severity: str) -> None:
    """Write a leaderboard as ``leaderboard.csv``, and a severity of it as ``.md`` and ``.tex``.

    In these a mean is bold where it is better than all others at the 95 % level. LaTeX requires the
    package booktabs.
    """
    write_csv(folder / FILE, table)
    data, columns = shown_columns(table[table["severity"] == severity])
    best = pd.DataFrame({c.head: data.get(f"{c.value}_best", 0) for c in columns}) > 0
    texts = pd.DataFrame({column.head: column.texts(data) for column in columns}, data.index)

    def escaped(escapes: dict[int, str], bold: str) -> pd.DataFrame:
        cells = texts.map(lambda text: text.translate(escapes))
        marked = cells.mask(best, cells.map(lambda cell: re.sub(r"^[^ ]+", bold, cell)))
        return marked.rename(columns=lambda head: head.translate(escapes))

    paper = escaped(LATEX, r"\\textbf{\g<0>}")
    latex = paper.to_latex(index=False, escape=False, column_format="l" + "r" * (len(columns) - 1))
    table = escaped(MARKDOWN, r"**\g<0>**")
    align = [":--", *["--:"] * (len(columns) - 1)]
    markdown = markdown_table([table.columns, *table.to_numpy()], align)
    for ending, text in ((".tex", latex), (".md", markdown)):
        file = (folder / FILE).with_suffix(ending)
        write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))
