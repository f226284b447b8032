"""Which augmentations shift the embedding most, how certain that is, and at which severity."""

import numpy as np
import pandas as pd

from clipshift.report.charts.curves import draw_dose, draw_severity
from clipshift.report.charts.measures import draw_distribution
from clipshift.report.charts.ranking import draw_agreement, draw_ranking
from clipshift.report.page import Figure, Section
from clipshift.report.prose import Contents, make_figure, make_section
from clipshift.report.shift import COSINE, as_shift, headline_measure
from clipshift.report.tables import (
    AUGMENTATION,
    PHOTOS,
    Column,
    side_by_side,
    with_marks,
    with_ranks,
)
from clipshift.report.words import WHITE_BOX, counted, short
from clipshift.results.runs import Run
from clipshift.severities import PAPER, ladder_steps

UNEQUAL = (
    "The paper’s augmentations are unequally strong: this ranking mixes the model’s sensitivity "
    "with their strength."
)
FAIR = " `severity=[paper,matched]` ranks them at equal distortion as well."


def leading_figure(run: Run) -> Figure | None:
    """How the rankings at the paper's and at equal strengths agree, or else the ranking."""
    if not run.agreement:
        return ranking_figure(run) if len(run.ranking) else None
    matching, others = run.info.matching, counted(run.info.data.photos, "other photo")
    calibration = counted(matching.photos, "photo") if matching else "Some photos"
    words = {"tau": short(*run.agreement), "calibration": calibration, "others": others}
    return make_figure("ranking", "agreement", draw_agreement(run.ranking), **words)


def ranking_figure(run: Run) -> Figure:
    """The ranking; at the paper's strengths, which are unequal, with a note that they are."""
    figure = make_figure("ranking", "ranking", draw_ranking(run.ranking, run.summary, run.attack))
    if run.ranking["severity"].eq(PAPER).sum() > 1:
        figure.notes = {PAPER: UNEQUAL + ("" if run.agreement else FAIR)}
    return figure


def ranking_section(run: Run) -> Section | None:
    """The ranking, where another figure leads the page, and the shift's spread over photos."""
    measure = headline_measure(run.summary)
    tables = [ranking_table(run)] if len(run.ranking) else []
    drawn = {}
    if measure:
        drawn["distribution"] = draw_distribution(run.rows, measure, run.columns[measure])
    section = make_section("ranking", drawn, tables)
    if run.agreement:
        section.figures = [ranking_figure(run), *section.figures]
    return section if drawn or tables else None


def ranking_table(run: Run) -> Contents:
    """The ranking with the intervals of ranks, means and gaps."""
    columns = [
        AUGMENTATION,
        Column("rank", "rank", text="ranks"),
        Column("1 − cosine", "shift", "ci"),
        Column("relative shift", "mean", "relative"),
        Column("gap to next", "difference", "difference"),
        PHOTOS,
    ]
    if run.matched_by:
        distortion = Column(run.columns[run.matched_by].short, "distortion", "distortion")
        columns.insert(-1, distortion)
    keys = ["augmentation", "severity"]
    names = {"ci_low": "relative_low", "ci_high": "relative_high"}
    relative = run.summary[run.summary["measure"] == "relative_shift"].rename(columns=names)
    data = run.ranking.merge(relative[[*keys, "mean", *names.values()]], "left", keys)
    return with_marks(with_ranks(data), run.trained_on, run.below_floor), columns


def severity_section(run: Run) -> Section | None:
    """The shift against severity, where there are several steps of the ladder."""
    measure = headline_measure(run.summary)
    if not measure or len(ladder_steps(run.summary["severity"])) < 2:
        return None
    curves = draw_severity(run.summary, measure, run.columns[measure])
    return make_section("severity", {"severity": curves})


def dose_section(run: Run) -> Section:
    """The shift against the distortion that views have, over several severities."""
    thresholds, level = run.dose_thresholds, short(run.dose_thresholds["level"].iloc[0])
    distortion = run.columns[thresholds["measure"].iloc[0]].correlate_label
    columns = [Column(distortion, "distortion", "ci"), Column("what is missing", "reason"), PHOTOS]
    tables = [(thresholds, [AUGMENTATION, *columns])]
    lines = pd.concat([run.dose, attack_line(run, thresholds["measure"].iloc[0])])
    chart = draw_dose(lines.reset_index(drop=True), thresholds, distortion)
    return make_section("dose", {"dose": chart}, tables, distortion=distortion, level=level)


def attack_line(run: Run, measure: str) -> pd.DataFrame:
    """The shift under attack against the distortion, in the columns of ``dose.csv``."""
    if measure not in set(run.attack.get("measure", ())):
        return pd.DataFrame()
    rows = dict(list(as_shift(run.attack).groupby("measure")))
    distortion = np.abs(rows[measure]["mean"].to_numpy() - run.columns[measure].unchanged)
    return rows[COSINE].assign(augmentation=WHITE_BOX, distortion=distortion)


def attack_section(run: Run) -> Section:
    """What a bounded adversary who sees the model reaches."""
    measures = [m for m in run.attack["measure"].unique() if m in run.columns]
    columns = [Column(run.columns[measure].short, measure, measure) for measure in measures]
    table = side_by_side(run.attack, "measure", index=["epsilon"])
    shown = table, [Column("ε, in 1/255", "epsilon", form="g"), *columns]
    return make_section("attack", {}, [shown], photos=counted(run.attack["n"].max(), "photo"))
