"""Hold a finished run against a budget: what ``budget=FILE`` adds to the commands."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipshift.comparison.budget import Budget, judge
from clipshift.comparison.budget_report import report_budget
from clipshift.results.runs import read_run

EXIT_CODES = {"pass": 0, "fail": 4, "undecided": 5}
"""By verdict; a fault ends with 1."""


def judge_run(budget: Budget, folder: Path, compared: Sequence[str] | None) -> int:
    """Judge a run, print the verdicts, and write them to a folder.

    Args:
        budget: Limits on the run.
        folder: The run's folder, or the comparison's: ``budget.md`` and ``budget.xml`` go there.
        compared: The folders of the compared runs, of which the second is judged.

    Returns:
        The exit code.

    Raises:
        UserError: If a limit is on what was not measured, or its baseline cannot be compared.
    """
    run, paired = folder, None
    if compared:
        run = Path(compared[1]).expanduser()
        paired = pd.read_csv(folder / "comparison.csv", dtype={"severity": str})
        paired = paired.fillna({"severity": ""})  # of clean views
    judgement = judge(budget, read_run(run), paired)
    report_budget(judgement, folder)
    return EXIT_CODES[judgement.verdict]
