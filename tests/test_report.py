"""What people read says what the tables say: words, pages, figures, column dictionary."""

import json
import platform
import re
import subprocess
import sys
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import MEASURED, ROOT

from clipshift.measure.facts import Facts
from clipshift.report import figures, page, words
from clipshift.report.tracking import run_name


class Tables(HTMLParser):
    """The tables of a page: rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

        self.in_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.tables[-1][-1][-1] += data


def summary_of(values: dict[str, dict[str, tuple[float, float, float]]]) -> pd.DataFrame:
    """A summary of (mean, low, high) by augmentation and measure."""
    return pd.DataFrame(
        [
            {"augmentation": name, "severity": "paper", "measure": measure, "mean": mean,
             "std": 0.1, "ci_low": low, "ci_high": high, "n": 50}
            for name, row in values.items() for measure, (mean, low, high) in row.items()
        ]
    )  # fmt: skip


# --- models and numbers in words -----------------------------------------------------------------

MODEL = {"name": "m", "architecture": "ViT-B-32", "checkpoint": None, "pretrained": None,
         "trained": True}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "weights", "untrained"),
    [
        ({"architecture": "builtin:tiny"}, "weights of its own, inside clipshift", False),
        ({"architecture": "local-dir:/x/model"}, "weights of /x/model", False),
        ({"architecture": "hf-hub:a/b"}, "weights of a/b", False),
        ({"pretrained": "openai"}, "weights openai", False),
        ({"pretrained": "openai", "checkpoint": "/x/robust.pt"}, "/x/robust.pt", False),
        ({"trained": False}, "random weights", True),
    ],
)
def test_what_is_said_of_weights_is_true(facts: dict, weights: str, untrained: bool) -> None:
    model = MODEL | facts
    assert words.weights_in_words(model) == weights
    assert ("UNTRAINED" in words.model_in_words(model)) == untrained
    assert bool(words.model_notes(model)) == untrained


def test_wandb_names_carry_no_paths() -> None:
    given = ["data.root=/data/photos", "compare=[runs/a,runs/b]", "aug=noise", "logger=none"]
    assert run_name(given, "else") == "data.root=photos compare=[a,b] aug=noise"


# --- the column dictionary -----------------------------------------------------------------------


def test_every_column_of_every_table_is_explained(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    explained = json.loads((folder / "columns.json").read_text())
    columns = {"shift.parquet": pq.read_schema(folder / "shift.parquet").names}
    for file in folder.glob("*.csv"):
        if not file.name.startswith("distances"):  # one column per augmentation
            columns[file.name] = list(pd.read_csv(file).columns)
    assert {name: list(found) for name, found in explained.items()} == columns
    for found in explained.values():
        assert all(column["definition"] for column in found.values())
    cosine = explained["shift.parquet"]["cosine_similarity"]
    assert (cosine["low"], cosine["high"], cosine["better"]) == (-1, 1, "higher")


# --- pages ---------------------------------------------------------------------------------------


def test_the_page_says_what_the_summary_says(finished: tuple[Path, str]) -> None:
    """Every cell of its table, read back, is a row of ``summary.csv`` to three digits."""
    folder, said = finished
    text = (folder / "report.html").read_text()
    [table] = Tables(text).tables
    summary = pd.read_csv(folder / "summary.csv").set_index(["augmentation", "measure"])
    facts, columns = json.loads((folder / "columns.json").read_text())["shift.parquet"], {}
    for name, column in facts.items():
        columns[column.get("short", name)] = name
    assert [row[0] for row in table[1:]] == list(
        summary.xs("cosine_similarity", level="measure")["mean"].sort_values().index
    )
    for row in table[1:]:
        for head, cell in zip(table[0][1:], row[1:], strict=True):
            expected = summary.loc[(row[0], columns[head])]
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", cell)]
            known = expected[["mean", "ci_low", "ci_high"]].astype(float).dropna()
            np.testing.assert_allclose(numbers, known, atol=5.1e-4, err_msg=f"{row[0]} {head}")
    assert "±" not in text
    assert "random weights" not in text
    assert "5 photos" in text
    assert "Only 5 photos" in said


def test_a_page_warns_of_unequal_severities_only_where_they_are_the_papers() -> None:
    assert "unequally strong" in page.caption("ranking", ["paper"])
    assert "unequally strong" in page.caption("ranking@paper", ["paper", "matched"])
    for name, severities in [("ranking", ["3"]), ("ranking@matched", ["paper", "matched"])]:
        assert "unequally strong" not in page.caption(name, severities)


def test_run_json_says_how_it_was_made(finished: tuple[Path, str]) -> None:
    facts = json.loads((finished[0] / "run.json").read_text())
    assert facts["command"][0] == "evaluate.py"
    assert "data.limit=5" in facts["command"]
    assert datetime.fromisoformat(facts["started"]).tzinfo is not None
    assert facts["python"] == platform.python_version()
    assert platform.system() in facts["system"]
    assert facts["processor"]
    if (ROOT / ".git").exists():
        git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        assert facts["commit"].startswith(head)
    assert facts["model"]["gaze"] == "attention"
    assert "gaze: attention (of the query" in finished[1]
    shift = pd.read_parquet(finished[0] / "shift.parquet")
    means = shift.groupby("augmentation")[["rmse", "ssim"]].mean()
    for name, row in means.iterrows():
        assert facts["distortion"][name]["paper"] == pytest.approx(dict(row))


# --- figures -------------------------------------------------------------------------------------


def test_an_augmentations_colour_does_not_depend_on_the_others() -> None:
    alone, together = figures.colors(["blur"]), figures.colors(["noise", "blur", "zoom", "flip"])
    assert alone["blur"] == together["blur"]
    all_known = figures.colors(list(figures.SHADES))
    assert len(set(all_known.values())) == len(figures.SHADES)


def harm_of(measure: str, rows: list[tuple[float, float, float]]) -> list[float]:
    summary = summary_of({f"a{i}": {measure: row} for i, row in enumerate(rows)})
    ends = [summary.set_index("augmentation")[column] for column in ("mean", "ci_low", "ci_high")]
    return figures._harm(*ends, MEASURED[measure]).tolist()


def test_a_heatmap_paints_no_difference_that_is_noise() -> None:
    assert harm_of("cosine_similarity", [(0.4, 0.3, 0.5), (0.7, 0.6, 0.8)]) == pytest.approx(
        [1, 0.5]
    )
    nearly = harm_of("cosine_similarity", [(0.998, 0.997, 0.999), (1, 1, 1)])
    assert nearly == pytest.approx([0.02, 0])  # of a twentieth of the range, 0.1
    may_be_none = harm_of("gaze_entropy_change", [(0.5, -0.1, 1.1), (-0.8, -0.9, -0.7)])
    assert may_be_none == pytest.approx([0, 1])


def test_what_a_figure_shows_of_measures_follows_from_their_facts() -> None:
    lost = Facts("lost detail", "lost", "what is gone", "pixels", "lower", 0, 1, 0)
    columns = MEASURED | {"lost": lost}
    row = dict.fromkeys(("lost", "cosine_similarity", "brightness", "retained"), (0.5, 0.4, 0.6))
    shown = figures.shown_measures(summary_of({"noise": row}), columns)
    assert shown == ["cosine_similarity", "retained", "lost"]
    assert [figures.is_preserved(columns[name]) for name in shown] == [True, True, False]
    table = page.ranked_table(summary_of({"noise": row}), columns, ["noise"])
    assert table[0] == ["augmentation", "cosine", "retained", "lost"]
    assert table[1][:2] == ["noise (trained on)", "0.500 [0.400, 0.600]"]


def test_nothing_heavy_is_imported_for_measures_facts() -> None:
    code = (
        "import sys, clipshift.measure.facts; print('wandb' in sys.modules, 'hydra' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
