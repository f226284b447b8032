"""Budgets: verdicts against Student's intervals, what would decide, files, the fixture."""

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from junitparser import JUnitXml
from scipy import stats
from support.columns import all_columns
from support.commands import shared_terminal
from support.placeholders import Placeholders
from support.runs import run_info
from support.terminal import ROOT

import clipshift
from clipshift.cli.budget import EXIT_CODES, judge_run
from clipshift.comparison.budget import Judgement, judge, read_budget
from clipshift.comparison.budget_report import report_budget
from clipshift.errors import UserError
from clipshift.pytest_plugin import clipshift_budget  # noqa: F401, a fixture
from clipshift.results.intervals import limit_distance
from clipshift.results.runs import Run
from clipshift.results.table import summarize

GUIDE = ROOT / "docs/guides/guard-an-upgrade.md"
PHOTOS = 40
VALUES = stats.norm.ppf((np.arange(PHOTOS) + 0.5) / PHOTOS)
VALUES = 0.5 + 0.05 * np.random.default_rng(0).permutation(VALUES) / VALUES.std(ddof=1)
"""Of mean 0.5 and standard deviation 0.05, without skew: their interval is Student's."""
HALF = stats.t.ppf(0.975, PHOTOS - 1) * 0.05 / math.sqrt(PHOTOS)
AUGMENTATIONS, SEVERITIES = ("noise", "blur"), ("paper", "matched")


def a_run(values: np.ndarray = VALUES, name: str = "m", **facts: Any) -> Run:
    """A run of cosines: those of ``noise``; under ``blur`` 0.1 more; a clean accuracy of 0.75."""
    rows = [
        {"photo": f"{place:04d}", "label": None, "augmentation": augmentation,
         "severity": severity, "cosine_similarity": value + 0.1 * (augmentation == "blur"),
         "ssim": value, "zero_shot_top1_clean": float(place % 4 > 0)}
        for place, value in enumerate(values)
        for augmentation in AUGMENTATIONS
        for severity in SEVERITIES
    ]  # fmt: skip
    views = {f"{a}@{s}": 1.0 for a in AUGMENTATIONS for s in SEVERITIES}
    info = run_info(model={"name": name}, strengths=views, **facts)
    shift, columns = pd.DataFrame(rows), all_columns()
    return Run(Path("/run"), info, columns, shift, summarize(shift, columns, 0))


def judged(run: Run, **limit: Any) -> Judgement:
    given = {"measure": "cosine_similarity", "augmentation": "noise", "severity": "paper"} | limit
    return judge(read_budget({"limits": [given]}), run)


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "sign"), [("max", 1), ("min", -1)])
def test_a_limit_is_kept_broken_or_undecided_by_the_interval(bound: str, sign: int) -> None:
    run = a_run()
    distances = {1.1: "pass", 0.9: "undecided", 0: "undecided", -0.9: "undecided", -1.1: "fail"}
    for distance, verdict in distances.items():
        limit = 0.5 + sign * distance * HALF
        assert judged(run, **{bound: limit}).verdict == verdict, distance
    row = judged(run, **{bound: 0.5}).table.iloc[0]
    assert (row["value"], row["n"]) == (pytest.approx(0.5), PHOTOS)
    ends = (row["ci_low"], row["ci_high"])
    assert ends == pytest.approx((0.5 - HALF, 0.5 + HALF), rel=1e-2)


@pytest.mark.parametrize("bound", ["max", "min"])
def test_a_limit_at_a_runs_own_mean_is_undecided_and_never_a_pass(bound: str) -> None:
    for values in (VALUES, np.full(PHOTOS, 1 / 3)):  # the second has an interval of no length
        run = a_run(values)
        mean = run.summary["mean"].iloc[0]
        for limit in (mean, float(f"{mean:.9g}")):  # as in memory, and as in summary.csv
            judgement = judged(run, **{bound: limit})
            assert judgement.verdict == "undecided"
            [decision] = judgement.table["decision"]
            assert decision == "cannot be decided: the mean is at the limit"
    alike = a_run(np.full(PHOTOS, 1 / 3))
    assert judged(alike, max=0.334).verdict == "pass"
    assert judged(alike, max=0.333).verdict == "fail"
    assert judged(a_run(VALUES[:1]), max=0.9).table["decision"][0].startswith("fewer than two")


def test_one_undecided_limit_makes_the_budget_undecided_and_one_broken_makes_it_fail() -> None:
    run = a_run()
    limits = [{"measure": "cosine_similarity", "augmentation": "blur", "max": bound}
              for bound in (0.9, 0.6, 0.1)]  # fmt: skip
    for count, verdict in enumerate(("pass", "undecided", "fail"), 1):
        judgement = judge(read_budget({"limits": limits[:count]}), run)
        assert judgement.verdict == verdict
        assert len(judgement.table) == 2 * count  # at both severities
    assert str(judgement).splitlines()[0] == "budget: fail (2 fail, 2 undecided, 2 pass)"
    assert "fail: cosine_similarity: blur paper: 0.6000 [0.58" in str(judgement)


def test_a_limit_is_on_what_it_names_and_on_clean_views_once() -> None:
    run = a_run()
    limits = [
        {"measure": ["cosine_similarity", "ssim"], "severity": ["matched"], "max": 1, "min": 0},
        {"measure": "zero_shot_top1_clean", "severity": "paper", "min": 0.5},
    ]
    table = judge(read_budget({"limits": limits}), run).table
    assert len(table) == 2 * 2 * 2 + 1
    assert set(table["severity"]) == {"matched", ""}
    assert list(table.iloc[-1][["augmentation", "value", "verdict"]]) == ["clean", 0.75, "pass"]


def test_the_errors_of_a_budget_are_rare_however_many_limits_it_has() -> None:
    """Twenty limits at the true means: simulated by Student's intervals."""
    rng, n, limits, trials = np.random.default_rng(0), 30, 20, 4000
    values = rng.normal(size=(trials, limits, n))
    mean, error = values.mean(2), values.std(2, ddof=1) / math.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    ends, zero = np.stack([mean, mean - half, mean + half], axis=1), np.zeros(limits)
    distances = np.array([limit_distance(one, zero, one[0] > zero, n) for one in ends])
    fails = ((distances > 1) & (mean > 0)).any(axis=1)
    assert 0.015 < fails.mean() < 0.035  # not 0.4, as for twenty intervals: 1 − 0.975 ** 20
    passes = ((distances > 1) & (mean < 0)).mean()
    assert 0.02 < passes < 0.03  # of one limit; of all twenty at once it is far less


def test_the_correction_counts_limits_and_the_units_that_are_resampled() -> None:
    classes = {"unit": "classes", "units": 5, "alone": 0, "design_effect": 1.0}
    limits = [{"measure": "cosine_similarity", "augmentation": name, "severity": "paper",
               "max": mean - distance * HALF}
              for name, mean, distance in (("noise", 0.5, 1.2), ("blur", 0.6, 3))]  # fmt: skip
    one, both = (read_budget({"limits": limits[:count]}) for count in (1, 2))
    for facts, units in (({}, PHOTOS), ({"resampled": classes}, 5)):
        run = a_run(**facts)
        assert judge(one, run).verdict == "fail"
        longer = stats.t.ppf(1 - 0.025 / 2, units - 1) / stats.t.ppf(0.975, units - 1)
        verdict = "fail" if longer < 1.2 else "undecided"
        assert list(judge(both, run).table["verdict"]) == [verdict, "fail"]
    assert longer > 1.2  # of five classes


@pytest.mark.parametrize("distance", [0.5, -0.5])
def test_so_many_photos_as_it_says_would_decide(distance: float) -> None:
    limit = 0.5 + distance * HALF
    [decision] = judged(a_run(), max=limit).table["decision"]
    assert decision == "about 160 photos would decide"
    verdicts = [judged(a_run(np.tile(VALUES, times)), max=limit).verdict for times in (3, 5)]
    assert verdicts == ["undecided", "pass" if distance > 0 else "fail"]


# --- against a baseline --------------------------------------------------------------------------


def test_changes_are_paired_photo_by_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    better = VALUES + 0.01 + 0.002 * np.roll(VALUES - 0.5, 7) / 0.05
    base, run = a_run(), a_run(better, "other")
    monkeypatch.setattr("clipshift.comparison.budget.read_run", lambda folder: base)
    (tmp_path / "budget.yaml").write_text(
        "baseline: before\nlimits: [{measure: cosine_similarity, max_decrease: 0, max: 0.9}]"
    )
    budget = read_budget(tmp_path / "budget.yaml")
    assert budget.baseline == tmp_path / "before"
    judgement = judge(budget, run)
    assert judgement.verdict == "pass"
    changes = judgement.table[judgement.table["bound"] == "max_decrease"]
    assert changes["value"].to_numpy() == pytest.approx(0.01)
    assert (changes["ci_high"] - changes["ci_low"]).max() < 0.1 * HALF
    assert judged_change(run, max_increase=0.005).verdict == "fail"
    assert judged_change(run, max_increase=0.01).verdict == "undecided"
    assert judged_change(run, max_decrease=0.005).table["allowed"][0] == "change ≥ -0.005"
    assert judged_change(base, max_decrease=0).table["decision"][0].startswith("cannot be decided")
    with pytest.raises(UserError, match=r"they differ in .*photos"):
        judged_change(a_run(VALUES[:20], data={"fingerprint": "0" * 64}), max_increase=1)
    with pytest.raises(UserError, match=r"limits\.0: no measure 'ssim'"):  # of pixels alone
        judged_change(run, measure="ssim", max_increase=1)
    with pytest.raises(UserError, match="require a baseline"):
        judged(run, max_increase=1)


def judged_change(run: Run, **limit: Any) -> Judgement:
    given = {"measure": "cosine_similarity"} | limit
    return judge(read_budget({"limits": [given], "baseline": "before"}), run)


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("limits: [{measure: cosine_similarty, max: 1}]",
         "limits.0: no measure 'cosine_similarty'; did you mean 'cosine_similarity'?"),
        ("limits: [{measure: ssim, augmentation: nois, max: 1}]",
         "limits.0: no augmentation 'nois'; did you mean 'noise'?"),
        ("limits: [{measure: ssim, severity: 3, max: 1}]",
         "limits.0: no severity '3' (there are: paper, matched)"),
        ("limits: [{measure: zero_shot_top1_clean, augmentation: noise, max: 1}]",
         "limits.0: no augmentation 'noise' (there are: clean)"),
        ("limits: [{measure: ssim}]", "neither max, min, max_increase, max_decrease"),
        ("limits: [{measure: ssim, maximum: 1}]", "unknown key 'maximum'; did you mean 'max'?"),
        ("limits: [{measure: ssim, max: high}]", "limits.0.max: Input should be a valid number"),
        ("limits: [{max: 1}]", "limits.0.measure: Field required"),
        ("limits: []", "limits: List should have at least 1 item"),
        ("limit: [{measure: ssim, max: 1}]", "limits: Field required"),
        ("max: 1", "limits: Field required"),
        ("limits: [", "expected the node content"),
        ("baseline: gone\nlimits: [{measure: ssim, max_increase: 1}]", "no finished run in"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "budget.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        judge(read_budget(tmp_path / "budget.yaml"), a_run())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="No such file"):
        read_budget(tmp_path / "gone.yaml")


# --- files, exit codes, the fixture --------------------------------------------------------------


def test_junit_and_markdown_have_every_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = judge(
        read_budget({"limits": [
            {"measure": "cosine_similarity", "augmentation": "noise", "severity": "paper",
             "max": 0.5, "min": 0.2},
            {"measure": "zero_shot_top1_clean", "min": 0.99},
        ]}), a_run(),
    )  # fmt: skip
    report_budget(judgement, tmp_path)
    [suite] = JUnitXml.fromfile(str(tmp_path / "budget.xml"))
    assert (suite.name, suite.tests) == ("clipshift budget", 3)
    results = [case.result[0]._tag if case.result else "passed" for case in suite]
    assert results == ["skipped", "passed", "failure"]
    assert next(case.name for case in suite) == "noise paper ≤ 0.5"
    lines = (tmp_path / "budget.md").read_text("utf-8").splitlines()
    assert lines[0] == "### clipshift, budget: fail (1 fail, 1 undecided, 1 pass)"
    assert [line.count("|") for line in lines[2:]] == [8] * 5
    assert lines[-1].startswith("| fail | zero_shot_top1_clean | clean |  | 0.7500 [0.")
    printed = capsys.readouterr().out
    assert "cannot be decided: the mean is at the limit" in printed


def test_a_finished_run_is_judged_by_its_files(
    finished: tuple[Path, str],
    tmp_path: Path,
    clipshift_budget: Callable[[Any, Any], Judgement],  # noqa: F811
) -> None:
    folder = copytree(finished[0], tmp_path / "run")
    mean = clipshift.load_run(folder).summary.set_index("measure").loc["ssim", "mean"].iloc[0]
    for bound, verdict, code in ((1.1, "pass", 0), (float(mean), "undecided", 5), (-2, "fail", 4)):
        limits = [{"measure": "ssim", "augmentation": "noise", "max": bound}]
        (tmp_path / "budget.yaml").write_text(yaml.safe_dump({"limits": limits}))
        budget = read_budget(tmp_path / "budget.yaml")
        assert judge_run(budget, folder, None) == EXIT_CODES[verdict] == code
        if verdict == "pass":
            assert clipshift_budget(folder, tmp_path / "budget.yaml").verdict == "pass"
        else:
            with pytest.raises(pytest.fail.Exception, match=rf"(?s)^budget: .*{verdict}: ssim"):
                clipshift_budget(folder, {"limits": limits})


def test_the_guides_example_is_what_its_command_finds(tmp_path: Path) -> None:
    """The numbers of `measure_shift` are the command's, to the bit."""
    run = clipshift.measure_shift(
        model="tiny", augmentations=["noise", "blur", "jpeg"], measures="cosine_similarity",
        progress=False, save_gaze=0,
    )  # fmt: skip
    budget, *_ = blocks("yaml")
    judgement = clipshift.check_budget(run, yaml.safe_load(budget))
    assert blocks("console")[0].splitlines()[1] == str(judgement).splitlines()[0]
    report_budget(judgement, tmp_path)
    table = (tmp_path / "budget.md").read_text("utf-8").partition("\n\n")[2]
    assert f"\n\n{table}\n" in GUIDE.read_text("utf-8")


def test_the_guides_workflow_runs_and_ends_with_the_verdicts_code(tmp_path: Path) -> None:
    steps = yaml.safe_load(blocks("yaml")[2])
    [command] = [step["run"] for step in steps if "clipshift evaluate" in step.get("run", "")]
    Placeholders(tmp_path, lambda *_: None).need("PHOTOS")
    limits = "[{measure: cosine_similarity, augmentation: [flip], max: 0}]"
    (tmp_path / "budget.yaml").write_text(f"limits: {limits}")
    words = [*shlex.split(command), "aug=[flip]", "metric=cosine_similarity", "data.limit=3"]
    done = shared_terminal().run(words, tmp_path)
    assert done.returncode == EXIT_CODES["fail"], done.stderr
    assert "fail: cosine_similarity: flip paper" in done.stdout
    [summary] = [step["run"] for step in steps if "budget.md" in step.get("run", "")]
    env = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    subprocess.run(["bash", "-c", summary], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "summary").read_text("utf-8").startswith("### clipshift, budget: fail")
    (tmp_path / "budget.yaml").write_text(f"limits: {limits}".replace("cosine", "cosin"))
    done = shared_terminal().run(["clipshift", "report", "run", "budget=budget.yaml"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: budget: limits.0: no measure 'cosin_")
    assert (tmp_path / "run" / "report.html").is_file()
    [artifact] = [step["with"]["path"] for step in steps if "with" in step]
    assert len(JUnitXml.fromfile(str(tmp_path / artifact))) == 1


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


def test_the_plugin_costs_others_no_import_of_torch() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '[project.entry-points.pytest11]\nclipshift = "clipshift.pytest_plugin"\n' in project
    assert '"pytest' not in project.partition("[project.optional-dependencies]")[0]
    code = "import sys, clipshift.pytest_plugin; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
