"""What views say of texts: those they gain and lose, zero-shot confidence, and captions."""

import pandas as pd

from clipshift.choices import NAMES
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import AUGMENTATION, Column, first_and_last, leading_rows, side_by_side
from clipshift.report.words import SIGNIFICANT, with_interval
from clipshift.results.runs import Run

SHOWN_TEXTS = 3
"""How many texts a row of the page names, of those that a view gains or loses."""


def text_section(run: Run) -> Section:
    """The classes, and looks of photos, that views move towards, and away from."""
    vocabulary = run.named["vocabulary"].fillna("classes")  # the only one of earlier runs
    named = run.named.assign(vocabulary=vocabulary)
    extremes = []
    keys = ["severity", "augmentation", "vocabulary"]
    for key, rows in named.groupby(keys, sort=False):
        significant = rows[rows["p_holm"] < SIGNIFICANT]
        ordered = significant.sort_values("change", ascending=False, kind="stable")
        gained = ordered[ordered["change"] > 0].head(SHOWN_TEXTS)
        lost = ordered[ordered["change"] < 0].tail(SHOWN_TEXTS)[::-1]
        extremes.append([*key, _in_words(gained), _in_words(lost)])
    table = pd.DataFrame(extremes, columns=[*keys, "gained", "lost"])
    without = (
        " The attributes (how a photo can look) are left out: this model’s text side knows only "
        "names."
        if run.info.model.text == NAMES
        else ""
    )
    changes = leading_rows(named[named["p_holm"] < SIGNIFICANT]).sort_values("change")
    changes["text"] += " under `" + changes["augmentation"] + "`"
    furthest = _in_words(first_and_last(changes)) or "none beyond chance"
    return make_section("named", {}, [table, named], without=without, furthest=furthest)


def confidence_section(run: Run) -> Section:
    """Whether zero-shot confidence can still be trusted."""
    return make_section("confidence", {}, [side_by_side(run.confidence, "measure")])


def retrieval_section(run: Run) -> Section:
    """Whether captions still find their photos, and photos their captions."""
    ranks = [f"{row.task} @{row.k}" for row in run.retrieval.itertuples()]
    columns = [AUGMENTATION, *(Column(rank, rank, rank) for rank in dict.fromkeys(ranks))]
    table = side_by_side(run.retrieval.assign(rank=ranks), "rank"), columns
    return make_section("retrieval", {}, [table])


def _in_words(rows: pd.DataFrame) -> str:
    """Texts with their changes."""
    return "; ".join(
        f"{row.text} {with_interval(row.change, row.ci_low, row.ci_high, '+.3f')}"
        for row in rows.itertuples()
    )
