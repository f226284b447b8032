"""Sentences that hold a verdict: each where it must be said, and where it must not be."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.columns import all_columns
from support.runs import run_info

from clipshift.augment.matching import Calibration, Match
from clipshift.comparison.notes import notes_on_runs, pair_notes
from clipshift.comparison.pair import COMPARED_MEASURES, Pair, compare_pair
from clipshift.comparison.pair_report import pair_answer, pair_lines, pair_table
from clipshift.comparison.sweep import Sweep, sweep_notes
from clipshift.comparison.sweep_answer import sweep_answer
from clipshift.evaluate.calibration import calibration_notes
from clipshift.evaluate.layers import carried_gaze
from clipshift.report import check, terminal
from clipshift.report.answer import answer as answer_of
from clipshift.report.answer import corruption_error
from clipshift.report.notes import run_notes
from clipshift.report.page import Table
from clipshift.report.prose import make_section
from clipshift.report.sections import inside, texts
from clipshift.report.sections.ranking import FAIR, UNEQUAL, ranking_figure, ranking_table
from clipshift.report.tables import make_table
from clipshift.results.change import normalized_change
from clipshift.results.ranking import rank_augmentations
from clipshift.results.runs import Run
from clipshift.results.table import summarize

PHOTOS = 40
NOISE = np.random.default_rng(0).normal(0, 0.03, (4, PHOTOS))
NOISE -= NOISE.mean(axis=1, keepdims=True)
FACTS = {"data": {"photos": PHOTOS, "classes": ["cat", "dog"]}, "config": {"inside": False}}
MODEL = {"gaze": "attention", "gaze_layer": 2}


def made(
    shifts: Mapping[str | tuple[str, str], float],
    facts: Mapping[str, Any] | None = None,
    top1: np.ndarray | None = None,
    photos: int = PHOTOS,
    **model: Any,
) -> Run:
    """A run of which the mean of 1 − cosine is known, by augmentation or (augmentation, severity).

    Photos differ by 0.03 (standard deviation), independently between up to four augmentations.
    """
    info = run_info(**FACTS | {"model": MODEL | model} | dict(facts or {}))
    rows, summary, ranking = tables(tuple(shifts.items()), info.spread, photos)
    rows = rows if top1 is None else rows.assign(zero_shot_top1_clean=np.resize(top1, len(rows)))
    return Run(Path("/run"), info, all_columns(), rows.copy(), summary.copy(), ranking=ranking)


@cache
def tables(
    shifts: tuple[tuple[str | tuple[str, str], float], ...], spread: float | None, photos: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A run's rows, summary and ranking."""
    parts = []
    for place, (key, mean) in enumerate(shifts):
        name, severity = key if isinstance(key, tuple) else (key, "paper")
        shift = mean + NOISE[place % 4, :photos]
        values = {
            "photo": [f"{i:02d}" for i in range(photos)],
            "label": None,
            "augmentation": name,
            "severity": severity,
            "cosine_similarity": 1 - shift,
            "relative_shift": shift / spread if spread else np.nan,
            "distance_to_others": spread or np.nan,
        }
        parts.append(pd.DataFrame(values))
    rows = pd.concat(parts, ignore_index=True)
    return rows, summarize(rows, all_columns(), seed=0), rank_augmentations(rows, seed=0)


APART, ALIKE = {"noise": 0.4, "blur": 0.3}, {"noise": 0.301, "blur": 0.3}
MATCHED = {("noise", "matched"): 0.2, ("blur", "matched"): 0.35}
AGREEMENT = {"paper_and_matched": {"tau": 1.0, "ci_low": 0.5, "ci_high": 1.0}}


def answer(shifts: Mapping[Any, float], **options: Any) -> str:
    return " ".join(answer_of(made(shifts, **options)))


def notes(**facts: Any) -> str:
    return " ".join(run_notes(made(APART, facts)))


def with_floor(p95: float, **facts: Any) -> dict[str, Any]:
    found = {"mean": p95, "p95": p95, "photos": 32}
    return {"precision": "bf16", "floor": {name: {"paper": found} for name in APART}} | facts


def printed(run: Run) -> str:
    console = terminal.make_console()
    with console.capture() as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "make_console", lambda: console)
        terminal.print_run(run, "A run", answer_of(run), run_notes(run), [])
    return said.get()


def compared(before: Run, after: Run, trained_on: Sequence[str] = ()) -> str:
    """What terminal and page say of two runs."""
    pair = Pair(before, after, trained_on, compare_pair(before, after, 0, trained_on))
    return pair_lines(pair) + " ".join(pair_answer(pair))


def changed(*shifts: float, trained_on: Sequence[str] = (), **options: Any) -> str:
    names = ("noise", "blur", "flip", "jitter")
    before = made(dict.fromkeys(names[: len(shifts)], 0.3), name="base")
    # other photos move far in this run: differences vary
    after = made(dict(zip(names, shifts, strict=False)), name="other", **options)
    rolled = after.rows.groupby("augmentation", sort=False)[["cosine_similarity", "relative_shift"]]
    after.rows[["cosine_similarity", "relative_shift"]] = rolled.transform(np.roll, 7)
    return compared(before, after, trained_on)


def closer(spread: float) -> tuple[Run, Run]:
    """A model, and one of which all photos and views lie closer together: no more robust."""
    before = made(APART, name="base")
    after = made(APART, {"spread": spread}, name="other")
    for columns, factor in ((["relative_shift"], 1.0), (["cosine_similarity"], spread / 0.5)):
        shift = before.rows[columns] if factor == 1 else 1 - factor * (1 - before.rows[columns])
        after.rows[columns] = shift
    return before, after


def accuracy(gained: int, classes: list[str] | None = None) -> str:
    data = {"data": FACTS["data"] | {"classes": classes}} if classes else {}
    hits = np.repeat([0.0, 1.0], PHOTOS // 2)
    after = np.where(np.arange(PHOTOS) < gained, 1.0, hits)
    return compared(made(ALIKE, data, hits, name="base"), made(ALIKE, data, after, name="other"))


def jobs(*shifts: Mapping[str, float], **facts: Any) -> str:
    """What is said of a sweep of models, one job each; ``facts`` are the last one's."""
    return said_of_jobs(json.dumps([shifts, facts]))


@cache
def said_of_jobs(asked: str) -> str:
    shifts, facts = json.loads(asked)
    runs = {
        str(job): made(shift, facts if job == len(shifts) - 1 else None, name="abcdefgh"[job])
        for job, shift in enumerate(shifts)
    }
    return " ".join(sweep_answer(Sweep(Path(), {job: {} for job in runs}, runs)))


LESS, MUCH_LESS = {"noise": 0.39, "blur": 0.3}, {"noise": 0.2, "blur": 0.1}
OTHER_SEED = FACTS["config"] | {"seed": 1}
OTHER_PHOTOS = {"data": FACTS["data"] | {"fingerprint": "0" * 64}}


def outliers(gaze_share: float, tokens: float = 2.0) -> pd.DataFrame:
    return pd.DataFrame(
        [{"augmentation": "noise", "severity": "paper", "layer": 2, "tokens": tokens, "ci_low": 1.0,
          "ci_high": 3.0, "share": 0.01, "gaze_share": gaze_share, "gaze_low": 0.1,
          "gaze_high": 0.2, "n": 9}]
    )  # fmt: skip


def whose_gaze(tokens: float) -> str:
    run = made(APART, {"config": FACTS["config"] | {"inside": True}})
    run.outliers = outliers(0.3, tokens)
    return inside.outlier_section(run).finding


def calibrated(reached: bool) -> str:
    match = Match(1.0, 0.7, reached)
    calibration = Calibration("ssim", 0.7, 0, "crop", {}, [], {"flip": match})
    return " ".join(calibration_notes(calibration, 0))


def towards(p: float) -> str:
    run = made(APART)
    run.named = pd.DataFrame(
        [{"augmentation": "noise", "severity": "paper", "vocabulary": "classes", "text": "carpet",
          "change": 0.1, "ci_low": 0.05, "ci_high": 0.15, "p": p, "p_holm": p,
          "softmax_change": 0.0, "softmax_low": 0.0, "softmax_high": 0.0, "softmax_p": 1.0,
          "softmax_p_holm": 1.0, "n": 9}]
    )  # fmt: skip
    section = texts.text_section(run)
    [row] = section.tables[0].rows
    return f"{row[2].text} {section.finding}"


def corruptions(mce: float | None) -> str:
    ends = {"mce_low": 0.6, "mce_high": 0.8, "ci_low": None, "ci_high": None}
    run = made(APART, {"corruption_error": {"mce": mce, **ends, "rho": None}})
    run.corruption_error = pd.DataFrame(
        {"augmentation": ["fog"] * 5, "severity": list("12345"), "alexnet_error": 0.8}
    )
    return " ".join(corruption_error(run))


def checked(within: str) -> str:
    return check.verdict(pd.DataFrame({"within": [within]}))


def names_in_terminal(below: float, trained_on: list[str]) -> str:
    return printed(made(APART, with_floor(below), trained_on=trained_on))


def marks(below: float, trained_on: list[str]) -> str:
    run = made(APART, with_floor(below), trained_on=trained_on)
    table = make_table(*ranking_table(run), name="")
    return " ".join(cell.text for row in table.rows for cell in row)


Text = Callable[[], str]
VERDICTS: list[tuple[str, list[Text], list[Text]]] = [
    # the answer: page and terminal
    ("shifts m most", [lambda: answer(APART)], [lambda: answer(ALIKE)]),
    ("`noise` ranks first at the 95 % level", [lambda: answer(APART)], [lambda: answer(ALIKE)]),
    ("is not distinguishable from `blur`", [lambda: answer(ALIKE)], [lambda: answer(APART)]),
    ("The mean shift of m is largest", [lambda: answer(ALIKE)], [lambda: answer(APART)]),
    ("under `blur` instead", [lambda: answer(APART | MATCHED)],
     [lambda: answer(APART), lambda: answer(APART | {("noise", "matched"): 0.4} |
                                            {("blur", "matched"): 0.3})]),
    ("under `noise` again",
     [lambda: answer(APART | {("noise", "matched"): 0.4, ("blur", "matched"): 0.3})],
     [lambda: answer(APART), lambda: answer(APART | MATCHED)]),
    ("(1 = the mean distance", [lambda: answer(APART)],
     [lambda: answer(APART, facts={"spread": None})]),
    ("requires two photos", [lambda: answer(APART, photos=1)], [lambda: answer(APART)]),
    ("requires a measured cosine", [lambda: " ".join(answer_of(
        Run(Path(), run_info(), {}, pd.DataFrame())))], [lambda: answer(APART, photos=1)]),
    (UNEQUAL, [lambda: str(ranking_figure(made(APART)).notes)],
     [lambda: str(ranking_figure(made(MATCHED)).notes),
      lambda: str(ranking_figure(made({("noise", "paper"): 0.3, ("noise", "1"): 0.3})).notes)]),
    (FAIR, [lambda: str(ranking_figure(made(APART)).notes)],
     [lambda: str(ranking_figure(made(APART | MATCHED, AGREEMENT)).notes),
      lambda: str(ranking_figure(made(MATCHED)).notes)]),
    # notes of a run
    ("is collapsed", [lambda: notes(collapsed=True)], [notes]),
    ("Only 29 photos", [lambda: notes(data=FACTS["data"] | {"photos": 29})],
     [lambda: notes(data=FACTS["data"] | {"photos": 30})]),
    ("Photos of one label shift alike", [lambda: notes(intraclass_correlation=0.11)],
     [lambda: notes(intraclass_correlation=0.1), notes]),
    ("may be rounding: blur, noise", [lambda: notes(**with_floor(0.5))],
     [lambda: notes(**with_floor(0.35)), lambda: notes(**with_floor(1e-4)), notes]),
    ("say nothing about CLIP", [lambda: notes(model=MODEL | {"trained": False})], [notes]),
    ("Gaze is not available",
     [lambda: notes(model=MODEL | {"gaze": None},
                    config=FACTS["config"] | {"metric": {"attention_similarity": {}}})],
     [lambda: notes(model=MODEL | {"gaze": None}),
      lambda: notes(config=FACTS["config"] | {"metric": {"attention_similarity": {}}})]),
    ("see skipped.csv", [lambda: notes(data=FACTS["data"] | {"skipped": 1})], [notes]),
    ("Outlier tokens carry the gaze", [lambda: " ".join(carried_gaze(outliers(0.3), 2))],
     [lambda: " ".join(carried_gaze(outliers(0.25), 2)),
      lambda: " ".join(carried_gaze(outliers(0.3), None))]),
    ("There are none, in any layer", [lambda: whose_gaze(0)], [lambda: whose_gaze(0.1)]),
    ("Not reachable", [lambda: calibrated(False)], [lambda: calibrated(True)]),
    ("No mean corruption error", [lambda: corruptions(None)], [lambda: corruptions(0.7)]),
    ("carpet", [lambda: towards(0.049)], [lambda: towards(0.05)]),
    ("none beyond chance", [lambda: towards(0.05)], [lambda: towards(0.049)]),
    # marks
    ("(may be rounding)", [lambda: marks(0.5, [])], [lambda: marks(0.1, ["noise"])]),
    ("(trained on)", [lambda: marks(0.1, ["noise"])], [lambda: marks(0.5, ["flip"])]),
    ("° may be rounding", [lambda: names_in_terminal(0.35, [])],
     [lambda: names_in_terminal(0.1, ["noise"])]),
    ("* trained on", [lambda: names_in_terminal(0.1, ["noise"])],
     [lambda: names_in_terminal(0.5, []), lambda: names_in_terminal(0.1, ["flip"])]),
    # two runs: page and terminal
    ("`other` shifts less than `base` under `noise` (1 of 2) at the 95 % level (relative shift)",
     [lambda: changed(0.25, 0.3)],
     [lambda: changed(0.3, 0.3), lambda: changed(0.35, 0.3), lambda: compared(*closer(0.25)),
      lambda: changed(0.25, photos=1)]),
    ("shifts more than `base` under `noise`", [lambda: changed(0.35, 0.3)],
     [lambda: changed(0.25, 0.3), lambda: changed(0.3), lambda: changed(0.3, 0.35)]),
    ("not distinguishable under `noise` and `blur` (2 of 3)", [lambda: changed(0.3, 0.301, 0.4)],
     [lambda: changed(0.3, 0.35, 0.3), lambda: changed(0.25, 0.25)]),
    ("`other` shifts", [lambda: changed(0.316)],  # p 0.014: enough alone, and not as one of four
     [lambda: changed(0.316, 0.3, 0.3, 0.3), lambda: changed(0.3)]),
    ("% lower", [lambda: changed(0.25, 0.3, trained_on=["noise"])],
     [lambda: changed(0.3, 0.301, trained_on=["noise"]),
      lambda: changed(0.35, 0.3, trained_on=["noise"])]),
    ("% higher", [lambda: changed(0.35, 0.3, trained_on=["noise"])],
     [lambda: changed(0.25, 0.3, trained_on=["noise"])]),
    ("not distinguishable (0.60 and 0.60) under the held-out",
     [lambda: changed(0.25, 0.3, trained_on=["noise"])],
     [lambda: changed(0.25, 0.35, trained_on=["noise"])]),
    ("(1 − cosine -50%)", [lambda: page_table(*closer(0.25))], [lambda: compared(*closer(0.25))]),
    ("no shift in common", [lambda: changed(0.25, photos=1)], [lambda: changed(0.25)]),
    ("points, not distinguishable at the 95 % level", [lambda: accuracy(3)],
     [lambda: accuracy(12)]),
    ("top-1 over 2 classes", [lambda: accuracy(3)], [lambda: accuracy(3, ["a", "b", "c"])]),
    ("lie closer together", [lambda: " ".join(notes_on_runs(closer(0.44)))],
     [lambda: " ".join(notes_on_runs(closer(0.46)))]),
    ("is collapsed", [lambda: " ".join(notes_on_runs([made(APART, {"collapsed": True})] * 2))],
     [lambda: " ".join(notes_on_runs([made(APART)] * 2))]),
    ("precision differs",
     [lambda: " ".join(pair_notes(made(APART), made(APART, {"precision": "bf16"})))],
     [lambda: " ".join(pair_notes(made(APART), made(APART)))]),
    ("different versions",
     [lambda: " ".join(pair_notes(made(APART), made(APART, {"code_sha256": "b" * 64})))],
     [lambda: " ".join(pair_notes(made(APART), made(APART)))]),
    ("Left out: zero_shot", [lambda: left_out(["cat", "cow"])],
     [lambda: left_out(["cat", "dog"])]),
    # sweeps
    ("Over all 2 augmentations, `b` shifts least: 0.30, next 0.69 (`c`)",
     [lambda: jobs(APART, MUCH_LESS, LESS)],
     [lambda: jobs(APART, ALIKE, LESS), lambda: jobs(APART, MUCH_LESS, LESS, **OTHER_PHOTOS)]),
    ("Under `noise`, `b` shifts least: 0.78, next 0.80 (`a`)",  # as all photos agree
     [lambda: jobs(APART, LESS)], [lambda: jobs(APART, APART), lambda: jobs(APART)]),
    ("Under `noise`, 0.78 (`b`) and 0.80 (`a`) overlap",
     [lambda: jobs(APART, LESS, **OTHER_PHOTOS)], [lambda: jobs(APART, LESS)]),
    ("Under `blur`, 0.60 (`a`) and 0.60 (`b`) overlap", [lambda: jobs(APART, LESS)],
     [lambda: jobs(APART, MUCH_LESS)]),
    ("Under `noise`, `b` shifts least", [lambda: jobs(APART, MUCH_LESS, **OTHER_PHOTOS)],
     [lambda: jobs(APART, LESS, **OTHER_PHOTOS)]),
    ("0.60 (`a`), 0.60 (`b`), 0.60 (`c`) and 3 more overlap", [lambda: jobs(*[LESS] * 6)],
     [lambda: jobs(*[LESS] * 4)]),
    ("in the mean relative shift are not tested", [lambda: jobs(APART, LESS, **OTHER_PHOTOS),
                                    lambda: jobs(APART, LESS, config=OTHER_SEED)],
     [lambda: jobs(APART, LESS)]),
    ("in the mean relative shift are tested at the 95 % level",
     [lambda: jobs(APART, LESS)], [lambda: jobs(APART, LESS, **OTHER_PHOTOS), lambda: jobs(APART)]),
    ("`noise` shifts a most", [lambda: jobs(APART)], [lambda: jobs(ALIKE)]),
    ("1 of 1 job failed", [lambda: " ".join(sweep_notes(Sweep(Path(), {}, {}, {"0": "x"})))],
     [lambda: " ".join(sweep_notes(Sweep(Path(), {}, {"0": made(APART)})))]),
    # checks against what was published
    ("1 within tolerance", [lambda: checked(check.WITHIN)],
     [lambda: checked(check.OUTSIDE), lambda: checked(check.NOT_CHECKED)]),
    ("0 outside", [lambda: checked(check.WITHIN)], [lambda: checked(check.OUTSIDE)]),
]  # fmt: skip


def page_table(before: Run, after: Run) -> str:
    pair = Pair(before, after, [], compare_pair(before, after, 0, []))
    table = shown_pair(pair, COMPARED_MEASURES)
    return " ".join(cell.text for row in table.rows for cell in row)


def shown_pair(pair: Pair, measures: Sequence[str]) -> Table:
    section = make_section(
        "paired", {}, [pair_table(pair, measures)], a="A", b="B", noun="run", file="F"
    )
    return section.tables[0]


def left_out(classes: list[str]) -> str:
    other = made(APART, {"data": FACTS["data"] | {"classes": classes}})
    return " ".join(pair_notes(made(APART), other))


@pytest.mark.parametrize(
    ("phrase", "where", "elsewhere"), VERDICTS, ids=[phrase for phrase, *_ in VERDICTS]
)
def test_a_verdict_is_said_where_it_holds_and_nowhere_else(
    phrase: str, where: list[Text], elsewhere: list[Text]
) -> None:
    for text in where:
        assert phrase in text()
    for text in elsewhere:
        assert phrase not in text()


def test_terminal_and_page_say_the_same_of_a_model_that_brings_photos_closer() -> None:
    """1 − cosine falls by half in every photo, and the relative shift is what it was."""
    before, after = closer(0.25)
    table = compare_pair(before, after, 0, []).set_index(["measure", "augmentation"])
    assert table.loc[("cosine_similarity", "noise"), "improved"] == 1
    assert table.loc[("cosine_similarity", "noise"), "p_holm"] < 1e-10
    said = compared(before, after)
    assert "cosine" not in said
    assert "`base` and `other` are not distinguishable under `noise` and `blur` (2 of 2)" in said


def test_cells_are_painted_only_where_the_interval_excludes_no_change() -> None:
    before = made({"noise": 0.3}, name="base")
    for shift, painted in ((0.25, True), (0.3, False)):
        after = made({"noise": shift}, name="other")
        after.rows["relative_shift"] = np.roll(after.rows["relative_shift"], 7)
        pair = Pair(before, after, [], compare_pair(before, after, 0, []))
        [row] = shown_pair(pair, ["relative_shift"]).rows
        assert (row[4].tint > 0) == painted
    unmoved = normalized_change(made({"noise": 0.3, "blur": 0.0}).summary, all_columns())
    assert unmoved.loc["noise", "cosine_similarity"] > 0 == unmoved.loc["blur", "cosine_similarity"]
