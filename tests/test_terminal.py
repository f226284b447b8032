"""What a run says in the terminal: that it fits, and says what the tables say."""

import io
import re
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from support.columns import all_columns
from support.runs import run_info

from clipshift import progress
from clipshift.cli.command import SweepComparison
from clipshift.report import terminal
from clipshift.results.runs import Run

MEASURES = {
    "relative_shift": (0.4, 0.36, 0.45),
    "cosine_similarity": (0.61, 0.55, 0.66),
    "retained": (0.95, 0.9, 1.0),
    "gaze_divergence_aligned": (0.2, 0.18, 0.21),
    "l2_distance": (10.3, 9.8, 10.9),
    "gaze_entropy_change": (-0.2, -0.31, 0.05),
    "edge_preservation": (0.8, 0.79, 0.81),
}
NAMES = ["noise", "brightness_contrast", "coarse_dropout"]


def made_run(severities: list[str]) -> Run:
    summary = pd.DataFrame(
        [
            {"augmentation": name, "severity": severity, "measure": measure,
             "mean": mean * (1 - 0.1 * place), "ci_low": low * (1 - 0.1 * place),
             "ci_high": high * (1 - 0.1 * place), "n": 50}
            for severity in severities
            for place, name in enumerate(NAMES)
            for measure, (mean, low, high) in MEASURES.items()
        ]
    )  # fmt: skip
    ranking = pd.DataFrame(
        [
            {"severity": severity, "augmentation": name, "shift": shift}
            for severity in severities
            for name, shift in (("coarse_dropout", 0.5), ("noise", 0.4), ("flip", 0.3))
        ]
    )
    model = {"trained_on": ["noise"], "checkpoint": "/home/me/model"}
    info = run_info(model=model, data={"photos": 50}, spread=0.975)
    return Run(Path("/x"), info, all_columns(), pd.DataFrame(), summary, ranking=ranking)


def said_in(
    columns: int, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(terminal, "LOG_WIDTH", columns)
    terminal.print_run(
        run, "A run", ["It is `noise` that moves it: 0.42 [0.39, 0.46]."], ["A note."], ["x"]
    )
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("severities", [["paper"], ["paper", "matched"], list("12345")])
def test_tables_fit_the_terminal(
    columns: int,
    severities: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = said_in(columns, made_run(severities), monkeypatch, capsys)
    lines = said.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("In the report"))]
    assert max(map(len, table)) <= columns
    assert "…" not in said
    for name in NAMES:
        assert sum(line.startswith(name) for line in lines) == (
            1 if len(severities) > 2 else len(severities)
        )
    assert "noise *" in said
    assert "* trained on" in said
    assert "It is noise that moves it: 0.42 [0.39, 0.46]." in said


def test_eighty_columns_have_the_leading_measures_and_name_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_in(80, made_run(["paper"]), monkeypatch, capsys)
    [row] = [line for line in said.splitlines() if line.startswith("noise")]
    assert re.findall(r"\S+ \S+–\S+", row.removeprefix("noise *").strip()) == [
        "0.40 .36–.45",
        "0.39 .34–.45",
        "0.95 .90–1.00",
        "0.20 .18–.21",
    ]
    assert "In the report and summary.csv as well: L2, gaze entropy, edge" in said
    wide = said_in(200, made_run(["paper"]), monkeypatch, capsys)
    [row] = [line for line in wide.splitlines() if line.startswith("noise")]
    assert "0.390 .340–.450" in row  # 1 − cosine: the ends of the interval change places
    assert "-0.200 -.310 to .050" in row
    assert "In the report" not in wide


def test_a_ladder_is_one_table_of_one_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_in(80, made_run(list("12345")), monkeypatch, capsys)
    [row] = [line for line in said.splitlines() if line.startswith("coarse_dropout")]
    assert row.split() == ["coarse_dropout", *["0.32"] * 5]
    assert "(summary.csv has the intervals)" in said
    wide = said_in(120, made_run(list("12345")), monkeypatch, capsys)
    [row] = [line for line in wide.splitlines() if line.startswith("coarse_dropout")]
    assert row.split() == ["coarse_dropout", *["0.32", ".29–.36"] * 5]


def test_a_sweeps_table_is_its_grid_with_the_longer_side_down() -> None:
    rows = pd.DataFrame(
        {"line": line, "augmentation": name, "mean": mean, "ci_low": 0.1, "ci_high": 0.5}
        for line, name, mean in [("b", "noise", 0.4), ("a", "blur", 0.2), ("a", "noise", 0.3)]
    )
    order = {"augmentation": ["noise", "blur"], "line": ["a", "b"]}
    table = terminal.grid_table(rows, order, 80)
    assert [[cell.strip() for cell in row] for row in table] == [
        ["model", "noise", "blur"],
        ["a", "0.30 .10–.50", "0.20 .10–.50"],
        ["b", "0.40 .10–.50", ""],
    ]


def test_a_sweep_counts_its_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

    def config(num: int, *overrides: str) -> object:
        launcher = {"_target_": "of.another.Launcher"}
        job = {"job": {"num": num}, "overrides": {"task": overrides}, "launcher": launcher}
        return OmegaConf.create({"hydra": job})

    callback = SweepComparison()
    callback.on_job_start(config(0, "aug=noise"))  # of a single run
    assert capsys.readouterr().out == ""
    callback.on_multirun_start(config(0, "aug=noise,blur,flip", "seed=range(0,6)", "data=sample"))
    callback.on_job_start(config(2, "aug=noise", "seed=2", "data=sample"))
    assert capsys.readouterr().out.strip() == "job 3 of 18: aug=noise seed=2"


def test_a_log_file_gets_a_line_every_so_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    for photo in progress.tracked(range(1, 4), "Measuring photos", "photos"):
        if photo == 3:
            time.sleep(0.3)
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(r"Measuring photos: 2 of 3, \S+ photos/s, 0 s\n", said.err)
    assert 1 <= said.err.count("\n") <= 6
    time.sleep(0.1)
    assert capsys.readouterr().err == ""  # it has ended


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = partial(Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console())
    with progress.Progress("Training", 80, "steps", before=10) as shown:
        shown.tasks[0].start_time -= 400  # so long that a busy machine's pause changes nothing
        shown.show(50, ", loss 0.5")
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"Training ━.* 50 of 80, (0\.1|0\.10|0\.09\d*) steps/s, loss 0.5 ", text)


def test_a_line_below_the_bar_counts_a_part_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress.counted("ab", "Patching views", 9, before=0)) == ["a", "b"]
    screen = io.StringIO()
    console = partial(Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console())
    with progress.Progress("Measuring photos", 80, "photos") as shown:
        shown.show(32)
        assert list(progress.counted("abc", "Patching views", 9, before=3)) == ["a", "b", "c"]
        assert [line.description for line in shown.tasks] == ["Measuring photos"]
        for _ in progress.counted("abc", "Patching views", 9, before=6):
            shown.refresh()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"Measuring photos ━.* 32 of 80, .*\n?.*Patching views +━.* 8 of 9 ", text)
