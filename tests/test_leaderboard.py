"""Leaderboards: ranks against simulation and scipy, means against numpy, refusals, and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.columns import all_columns
from support.runs import run_info

import clipshift
from clipshift.comparison import rank_runs
from clipshift.comparison.leaderboard import make_leaderboard, rank_means, write_leaderboard
from clipshift.comparison.sweep import Sweep, read_runs
from clipshift.errors import UserError
from clipshift.results.columns import write_shift
from clipshift.results.runs import Run, write_run
from clipshift.results.table import summarize

SHIFT, TOP1 = all_columns()["relative_shift"], all_columns()["zero_shot_top1"]
PHOTOS = 40
HARD = np.random.default_rng(0).normal(0, 0.05, PHOTOS)
"""By how much each photo shifts more than others, with every model."""


def write(folder: Path, level: float, right: int = 20, seed: int = 1, **facts: Any) -> Run:
    """A run on the disk: photos shift by ``level`` under noise, and twice as far under blur."""
    rng = np.random.default_rng(seed)
    both = {name: by * level + HARD + rng.normal(0, 0.02, PHOTOS)
            for name, by in (("noise", 1), ("blur", 2))}  # fmt: skip
    hits = (np.arange(PHOTOS) < right).astype(float)
    parts = [
        pd.DataFrame({"photo": [f"{n:02d}" for n in range(PHOTOS)], "label": "cat",
                      "augmentation": name, "severity": severity,
                      "cosine_similarity": 1 - shift / 2, "relative_shift": shift,
                      "distance_to_others": 0.5, "zero_shot_top1": hits})
        for severity in ("paper", "matched") for name, shift in both.items()
    ]  # fmt: skip
    shift = pd.concat(parts).sort_values("photo", kind="stable", ignore_index=True)
    columns = {name: all_columns()[name] for name in shift if name in all_columns()}
    views = [f"{name}@{severity}" for severity in ("paper", "matched") for name in both]
    facts = {"strengths": dict.fromkeys(views, 1.0), "seconds": {"photos": 8.0}} | facts
    facts["config"] = {"aug": {name: {} for name in both}} | facts.get("config", {})
    folder.mkdir()
    write_shift(folder / "shift.parquet", [shift], columns)
    skipped = pd.DataFrame(columns=["photo", "reason"])
    run = Run(folder, run_info(**facts), columns, shift, summarize(shift, columns, 0))
    run.skipped = skipped
    found = {"impostors": "all", "measure": "recall5", "ci_low": 0.3, "ci_high": 0.7, "n": PHOTOS}
    run.thresholds = pd.DataFrame(
        found | {"augmentation": name, "severity": severity, "value": value}
        for severity in ("paper", "matched") for name, value in (("all", 1 - level), ("noise", 0.1))
    )  # fmt: skip
    write_run(run)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one model, which differ by chance, a third that shifts far, and one that fails.

    Another has another seed, and so other views.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name, level, right, model in (
        ("far", 0.4, 38, "vit_b|32"), ("first", 0.2, 10, "m"), ("second", 0.2, 10, "m"),
    ):  # fmt: skip
        facts = {"name": model, "image_parameters": 5_300_000 if model == "m" else None}
        write(folder / name, level, right, seed=len(name), model=facts)
    write(folder / "other", 0.1, model={"name": "n"}, config={"seed": 5})
    write(folder / "stopped", 0.1, complete=False)
    return folder


def test_true_ranks_are_in_their_intervals_and_clear_ones_alone() -> None:
    """Of 200 samples, with photos that differ alike for all models; two means are equal."""
    rng = np.random.default_rng(7)
    means = pd.Series({"a": 0.2, "b": 0.3, "c": 0.3, "d": 0.315})
    least, most = pd.Series({"a": 1, "b": 3, "c": 3, "d": 4}), pd.Series([1, 2, 2, 4], means.index)
    covered, first = [], []
    for seed in range(200):
        photos = rng.exponential(0.1, (50, 1)) + rng.exponential(0.05, (50, 4)) - 0.15
        table = rank_means(
            pd.DataFrame(photos + means.to_numpy(), columns=means.index), SHIFT, seed
        )
        ranks = table.set_index("line")[["rank_low", "rank_high"]].loc[means.index]
        covered.append((ranks["rank_low"] <= most).all() and (ranks["rank_high"] >= least).all())
        first.append(tuple(ranks.loc["a"]))
    assert np.mean(covered) >= 0.95
    assert np.mean([one == (1, 1) for one in first]) > 0.9


def test_two_models_are_told_apart_where_a_paired_test_does() -> None:
    rng = np.random.default_rng(3)
    told = {True: 0, False: 0}
    for seed in range(80):
        values = rng.normal(0.3, 0.1, (60, 1)) + rng.normal(0, 0.05, (60, 2)) + [0, seed / 2000]
        p = stats.ttest_rel(*values.T).pvalue
        if 0.01 < p < 0.1:  # there the bootstrap may differ from Student's t
            continue
        table = rank_means(pd.DataFrame(values, columns=["a", "b"]), SHIFT, seed)
        assert list(table["rank_high"]) == ([1, 2] if p < 0.05 else [2, 2])
        told[p < 0.05] += 1
    assert min(told.values()) > 10


def test_a_mean_is_over_photos_and_augmentations_and_higher_may_be_better(runs: Path) -> None:
    sweep = read_runs([str(runs)])
    table = make_leaderboard(sweep)
    matched = table[table["severity"] == "matched"].set_index("model")
    assert list(matched.index) == ["m (run first)", "m (run second)", "vit_b|32"]
    assert matched[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 2], [1, 2], [3, 3]]
    for line, row in matched.iterrows():
        run = sweep.runs[next(job for job, name in sweep.lines.items() if name == line)]
        by_photo = run.shift[run.shift["severity"] == "matched"].groupby("photo")
        means = by_photo[["relative_shift", "cosine_similarity", "zero_shot_top1"]].mean()
        assert row["relative_shift"] == pytest.approx(means["relative_shift"].mean())
        assert row["shift"] == pytest.approx(1 - means["cosine_similarity"].mean())
        assert "cosine_similarity" not in row
        wilson = stats.binomtest(int(means["zero_shot_top1"].sum()), PHOTOS).proportion_ci(
            method="wilson"
        )
        assert row[["zero_shot_top1_low", "zero_shot_top1_high"]].tolist() == pytest.approx(wilson)
    assert matched["zero_shot_top1_best"].tolist() == [False, False, True]
    assert not matched["relative_shift_best"].any()
    assert matched["recall5"].tolist() == pytest.approx([0.8, 0.8, 0.6])
    assert (matched["photos_per_second"] == 5).all()
    assert matched["image_parameters"].fillna(0).tolist() == [5.3e6, 5.3e6, 0]


def test_runs_of_other_views_and_stopped_ones_are_refused_with_the_reason(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not rank_runs([str(runs)], tmp_path / "out")
    said, error = capsys.readouterr()
    assert "3 of 5 runs compared" in said
    refused = error.splitlines()
    assert len(refused) == 2
    assert refused[0].startswith("refused: ")
    assert "stopped was interrupted" in refused[0]
    assert refused[1].endswith("far and it differ in seed (0 and 5)")
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Leaderboard of 5 runs" in page
    assert "far and it differ in seed" in page
    with pytest.raises(UserError, match=r"two runs of the same views; .*stopped"):
        read_runs([str(runs / "first"), str(runs / "stopped")])
    with pytest.raises(UserError, match="no finished run in"):
        read_runs([str(tmp_path / "none")])


def test_best_is_bold_only_where_it_is_told_apart_and_names_are_texts(
    runs: Path, tmp_path: Path
) -> None:
    write_leaderboard(tmp_path, make_leaderboard(read_runs([str(runs)])), "matched")
    head, rule, *rows = (tmp_path / "leaderboard.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row[1:-1].replace(r"\|", "¦").split("|")] for row in rows]
    assert {len(row) for row in cells} == {head.count("|") - 1} == {rule.count("|") - 1}
    assert [row[0] for row in cells] == ["m (run first)", "m (run second)", "vit_b¦32"]
    assert [cell for row in cells for cell in row if "**" in cell] == ["**0.950** [0.835, 0.986]"]
    latex = (tmp_path / "leaderboard.tex").read_text()
    assert r"\textbf{0.950} [0.835, 0.986]" in latex
    assert latex.count(r"\textbf") == 1
    assert r"vit\_b|32 & 3 &" in latex
    rows = [row for row in latex.splitlines() if row.endswith(r"\\")]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {head.count("|") - 2}
    assert [rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3


def test_results_are_ranked_in_python(runs: Path) -> None:
    table = clipshift.leaderboard([runs / "far", str(runs / "first")])
    assert list(table["model"]) == ["m", "vit_b|32"] * 2
    with pytest.raises(UserError, match="run 1: 0 and it differ in seed"):
        clipshift.leaderboard([runs / "far", runs / "other"])


def test_a_measure_that_some_models_lack_is_ranked_among_the_others(runs: Path) -> None:
    """As top-1 of an encoder without texts, whichever run comes first."""
    sweep = read_runs([str(runs)])
    for job in sweep.runs:
        chosen = {one: read_runs([str(runs)]).runs[one] for one in sweep.runs}
        without = chosen[job]
        without.summary = without.summary[without.summary["measure"] != "zero_shot_top1"]
        del without.columns["zero_shot_top1"]
        order = {job: without} | chosen
        table = make_leaderboard(Sweep(Path(), {one: {} for one in order}, order, noun="run"))
        assert table["zero_shot_top1"].isna().sum() == 2
