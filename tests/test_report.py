"""What people read says what the tables say: words, pages, figures, column dictionary."""

import colorsys
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
from PIL import Image
from support.columns import all_columns
from support.runs import run_info
from support.terminal import ROOT

from clipshift.integrations.tracking import run_name
from clipshift.measure.facts import Facts
from clipshift.report import page, terminal, words
from clipshift.report.answer import answer
from clipshift.report.charts import look, marks, vega
from clipshift.report.charts.curves import draw_layers
from clipshift.report.charts.measures import draw_correlations, draw_distribution, draw_heatmap
from clipshift.report.notes import model_notes
from clipshift.report.sections import geometry, inside
from clipshift.report.sections.measures import ranked_table
from clipshift.report.tables import COUNT, Column, make_table
from clipshift.results.change import normalized_change, shown_measures
from clipshift.results.columns import DEFINITIONS
from clipshift.results.kept import read_kept, read_nearest
from clipshift.results.runs import Run


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
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
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
    model = run_info(model=facts).model
    assert words.weights_in_words(model) == weights
    assert ("UNTRAINED" in words.model_in_words(model)) == untrained
    assert bool(model_notes(model)) == untrained


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
    table = max(Tables(text).tables, key=lambda rows: len(rows[0]))
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


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    channels = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_an_augmentations_look_does_not_depend_on_the_others() -> None:
    alone, together = look.looks(["blur"]), look.looks(["noise", "blur", "zoom", "flip"])
    assert alone["blur"] == together["blur"]
    assert len(set(look.looks(list(look.LOOKS)).values())) == len(look.LOOKS)
    assert look.looks(["noise (trained on)"]) == {"noise (trained on)": look.LOOKS["noise"]}


def test_augmentations_can_be_told_without_their_hue() -> None:
    """On white and on a dark page by contrast, and from one another by dash and shape."""
    looks = look.LOOKS.values()
    for one in looks:
        for page_luminance in (1.0, luminance("#15171b")):
            light, dark = sorted([luminance(one.color), page_luminance], reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, one
        hue, saturation, _ = colorsys.rgb_to_hsv(*bytes.fromhex(one.color[1:]))
        assert saturation < 0.2 or not 70 < 360 * hue < 170, one  # no green
        assert saturation < 0.2 or 15 < 360 * hue < 340, one  # no red
    pairs = {(one.dash, one.shape) for one in looks}
    assert len(pairs) == len(looks)


def change_of(measure: str, rows: list[tuple[float, float, float]]) -> list[float]:
    summary = summary_of({f"a{i}": {measure: row} for i, row in enumerate(rows)})
    return normalized_change(summary, all_columns())[measure].tolist()


def test_a_heatmap_paints_no_difference_that_is_noise() -> None:
    assert change_of("cosine_similarity", [(0.4, 0.3, 0.5), (0.7, 0.6, 0.8)]) == pytest.approx(
        [1, 0.5]
    )
    nearly = change_of("cosine_similarity", [(0.998, 0.997, 0.999), (1, 1, 1)])
    assert nearly == pytest.approx([0.02, 0])  # of a twentieth of the range, 0.1
    may_be_none = change_of("gaze_entropy_change", [(0.5, -0.1, 1.1), (-0.8, -0.9, -0.7)])
    assert may_be_none == pytest.approx([0, 1])


def test_what_a_figure_shows_of_measures_follows_from_their_facts() -> None:
    lost = Facts("lost detail", "lost", "what is gone", "pixels", "lower", 0, 1, 0)
    columns = all_columns() | {"lost": lost}
    row = dict.fromkeys(("lost", "cosine_similarity", "brightness", "retained"), (0.5, 0.4, 0.6))
    shown = shown_measures(summary_of({"noise": row}), columns)
    assert shown == ["cosine_similarity", "retained", "lost"]
    table = ranked_table(summary_of({"noise": row}), columns, ["noise"])
    assert list(table) == ["augmentation", "cosine", "retained", "lost"]
    assert list(table.iloc[0, :2]) == ["noise (trained on)", "0.500 [0.400, 0.600]"]


def data_of(chart: vega.Chart) -> pd.DataFrame:
    """The one table that a chart draws."""
    [data] = chart.to_dict()["datasets"].values()
    return pd.DataFrame(data)


def test_correlations_that_may_be_none_stay_blank() -> None:
    rows = [("noise", 0.5, 0.2, 0.7), ("blur", 0.3, -0.1, 0.6), ("flip", -0.6, -0.8, -0.3)]
    table = pd.DataFrame(rows, columns=["augmentation", "rho", "ci_low", "ci_high"])
    table = table.assign(severity="paper", p_holm=0.1, n=9, **{"with": "rmse"})
    drawn = data_of(draw_correlations(table, all_columns())).set_index("augmentation")
    assert drawn["rho"].to_dict() == {"noise": 0.5, "blur": 0, "flip": -0.6}
    assert drawn["text"].to_dict() == {"noise": "+0.50", "blur": "", "flip": "-0.60"}
    assert not {"n", "ci_low", "ci_high"} & set(drawn)  # which no mark of the chart needs


def test_a_distribution_shows_quantiles_over_photos() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.lognormal(size=40) for name in ("noise", "blur")}
    shift = pd.concat(
        pd.DataFrame(
            {"photo": range(40), "augmentation": name, "severity": "paper", "rmse": column}
        )
        for name, column in values.items()
    )
    drawn = data_of(draw_distribution(shift, "rmse", all_columns()["rmse"]))
    for row in drawn.itertuples():
        expected = np.percentile(values[row.augmentation], [5, 25, 50, 75, 95])
        np.testing.assert_allclose([row.p5, row.p25, row.median, row.p75, row.p95], expected)


def test_all_marks_of_lines_share_an_axis_that_fits_them() -> None:
    ends = {"ci_low": 0.8, "ci_high": 0.95}
    rows = [{"augmentation": "noise", "severity": "paper", "layer": layer, "cosine": 0.9} | ends
            for layer in (1, 2)]  # fmt: skip
    chart = draw_layers(pd.DataFrame(rows), "cosine").to_dict()
    low, high = {tuple(layer["encoding"]["y"]["scale"]["domain"]) for layer in chart["layer"]}.pop()
    assert 0.7 < low < 0.8
    assert 1 < high < 1.1
    assert len({str(layer["encoding"]["y"]["scale"]) for layer in chart["layer"]}) == 1


def test_names_beside_lines_do_not_cover_one_another() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 9, 14):
        places = np.sort(rng.uniform(0, 0.1, count))
        moved = marks.spread(places, 0.05, 0, 1)
        assert (np.diff(moved) > 0.05 - 1e-9).all()  # and in the same order
        assert moved.min() >= 0
        assert moved.max() <= 1
    apart = np.array([0.9, 0.1, 0.5])
    np.testing.assert_allclose(marks.spread(apart, 0.05, 0, 1), apart)


def test_a_figure_is_saved_once_for_each_severity(tmp_path: Path) -> None:
    rows = [("noise", 0.9, 0.8, 1.0), ("blur", 0.5, 0.4, 0.6)]
    table = pd.DataFrame(rows, columns=["augmentation", "mean", "ci_low", "ci_high"])
    table = table.assign(measure="relative_shift", n=9)
    summary = pd.concat([table.assign(severity=s, mean=table["mean"] * int(s)) for s in "12"])
    chart = vega.spec_of(draw_heatmap(summary, all_columns()))
    paths = vega.save_figures({"heatmap": chart}, tmp_path / "figures", "five photos")
    assert set(paths) == {"heatmap@1", "heatmap@2"}
    assert all(Image.open(path).format == "PNG" for path in paths.values())
    for severity, shown, hidden in (("1", "0.50", "1.80"), ("2", "1.80", "0.50")):
        svg = (tmp_path / f"figures/heatmap@{severity}.svg").read_text()
        texts = re.findall(r">([^<>]+)</text>", svg)
        assert shown in texts
        assert hidden not in texts
        assert "five photos" in texts


def ranked_run(*severities: tuple[str, list[tuple[str, float, int, int]]]) -> Run:
    """A run of which only its ranking is known: (augmentation, shift, lowest rank, highest)."""
    ranking = pd.DataFrame(
        [
            {"severity": severity, "augmentation": name, "shift": shift, "ci_low": shift - 0.01,
             "ci_high": shift + 0.01, "rank": place + 1, "rank_low": low, "rank_high": high}
            for severity, rows in severities for place, (name, shift, low, high) in enumerate(rows)
        ]
    )  # fmt: skip
    parts = {
        "relative_shift": ranking.assign(
            mean=2 * ranking["shift"], ci_low=2 * ranking["ci_low"], ci_high=2 * ranking["ci_high"]
        ),
        "cosine_similarity": ranking.assign(mean=1 - ranking["shift"]),
    }
    summary = pd.concat(part.assign(measure=name) for name, part in parts.items())
    return Run(Path(), run_info(data={"photos": 50}), {}, pd.DataFrame(), summary, ranking=ranking)


def test_the_answer_says_what_leads_and_whether_that_is_sure() -> None:
    sure = [("noise", 0.2, 1, 1), ("blur", 0.1, 2, 2)]
    unit = "(1 = the mean distance between two different photos)"
    assert answer(ranked_run(("paper", sure))) == [
        f"`noise` shifts m most: relative shift 0.40 [0.38, 0.42] {unit}. The mean is smallest "
        "under `blur`: 0.20 [0.18, 0.22].",
        "`noise` ranks first at the 95 % level.",
    ]
    tied = [("noise", 0.2, 1, 2), ("blur", 0.1, 1, 2)]
    alike = "At the 95 % level `noise` is not distinguishable from `blur`."
    mean, which = answer(ranked_run(("paper", tied)))
    assert mean.startswith("The mean shift of m is largest under `noise`: relative shift 0.40")
    assert which == alike
    for other, said in (
        (
            tied[::-1],
            "`blur` instead: 0.20 [0.18, 0.22]. At the 95 % level `blur` is not "
            "distinguishable from `noise`.",
        ),
        (sure, "`noise` again: 0.40 [0.38, 0.42]. `noise` ranks first at the 95 % level."),
    ):
        made = answer(ranked_run(("paper", sure), ("matched", other)))
        assert made[2] == f"At equal distortion the mean is largest under {said}"
    ladder = answer(ranked_run(("1", tied), ("5", sure)))
    assert ladder[0].startswith("`noise` shifts m most at severity 5: relative shift 0.40")
    assert ladder[2].startswith("At severity 1 the mean is largest under `noise` again")
    assert ladder[2].endswith(alike)
    [alone] = answer(ranked_run(("paper", sure[:1])))
    assert alone == f"The mean shift of m under `noise`: relative shift 0.40 [0.38, 0.42] {unit}."


def test_a_collapsed_models_answer_is_in_cosines() -> None:
    run = ranked_run(("paper", [("noise", 0.2, 1, 1), ("blur", 0.1, 2, 2)]))
    run.summary.loc[run.summary["measure"] == "relative_shift", "mean"] = np.nan
    assert answer(run)[0].startswith("`noise` shifts m most: 1 − cosine 0.20 ")


def test_findings_say_between_which_augmentations_the_numbers_lie() -> None:
    """At the leading severity; of several maps, by the best one for each augmentation."""

    def rows(columns: str, *values: tuple) -> pd.DataFrame:
        table = pd.DataFrame(values, columns=["severity", "augmentation", *columns.split()])
        [value] = {"r_squared", "value", "cosine"} & set(table)
        return table.assign(ci_low=table[value] - 0.1, ci_high=table[value] + 0.05)

    run = ranked_run(("paper", [("noise", 0.2, 1, 1), ("blur", 0.1, 2, 2)]))
    run.undone = rows(
        "method r_squared",
        ("matched", "noise", "ridge", 0.1), ("paper", "noise", "none", -0.5),
        ("paper", "noise", "ridge", 0.2), ("paper", "blur", "none", 0.6),
        ("paper", "blur", "ridge", 0.5),
    )  # fmt: skip
    assert geometry.undone_section(run).finding == (
        "R² of the clean embedding that the best of the maps recovers: 0.20 [0.10, 0.25] "
        "under `noise` to 0.60 [0.50, 0.65] under `blur`."
    )
    run.neighbourhoods = rows(
        "measure value reference", ("paper", "noise", "neighbours_kept", 0.3, 0.25),
        ("paper", "noise", "hubness", 9.0, 1.0),
    )  # fmt: skip
    assert geometry.neighbourhood_section(run).finding == (
        "Share of the ten nearest photos that stay nearest (chance: 0.25): 0.30 [0.20, 0.35] "
        "under `noise`."
    )
    run.layers = rows(
        "layer cosine", ("paper", "noise", 1, 0.8), ("paper", "blur", 1, 0.7),
        ("paper", "noise", 2, 0.4), ("paper", "blur", 2, 0.6), ("matched", "blur", 2, 0.1),
    ).reindex(columns=list(DEFINITIONS["layers"]))  # fmt: skip
    assert inside.layer_section(run).finding == (
        "The mean cosine of class tokens is lowest under `noise`: 0.80 [0.70, 0.85] after layer 1, "
        "0.40 [0.30, 0.45] after layer 2."
    )


def test_a_table_has_one_spec_for_page_and_terminal(tmp_path: Path) -> None:
    """Numbers, intervals and p-values; a row of no severity, as of clean views, is always shown."""
    data = pd.DataFrame(
        {"name": ["noise", "clean"], "severity": ["paper", ""], "x": [0.5, np.nan],
         "x_low": [0.4, np.nan], "x_high": [0.6, np.nan], "p": [0.012, 1.0], "n": [3, 10]}
    )  # fmt: skip
    columns = [Column("augmentation", "name"), Column("x", "x", "x", ".2f"),
               Column("p", "p", form="p"), Column("photos", "n", form=COUNT)]  # fmt: skip
    table = make_table(data, columns, name="x of all")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["noise", "0.50 [0.40, 0.60]", "0.012", "3"], ["clean", "", "1", "10"],
    ]  # fmt: skip
    assert [row[1].value for row in table.rows] == [0.5, None]
    assert terminal.compact_rows(data, columns[:2], 2) == [
        ["augmentation", "x"], ["noise", "0.50 .40–.60"], ["clean", "    "],
    ]  # fmt: skip
    section = page.Section("all", "All", tables=[table])
    severities = ["paper", "matched"]
    made = page.Page("t", [], "m", [], None, [section], {}, severities, severities[0])
    text = page.write_page(tmp_path / "page.html", made).read_text()
    assert re.findall(r"<tr([^>]*)><th scope=.row.>(\w+)", text) == [
        (' data-severity="paper"', "noise"), ("", "clean"),
    ]  # fmt: skip


def test_json_in_a_page_ends_no_element_and_reads_back() -> None:
    content = {"</script><!--": ["<b>&", "\u2028", 0.5, None]}
    text = str(page.embedded_json(content))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == content


def test_classes_nearest_to_a_view_are_kept(finished: tuple[Path, str]) -> None:
    """A photo's own class is nearest to its clean view just where its accuracy is 1."""
    nearest = read_nearest(finished[0])
    shift = pd.read_parquet(finished[0] / "shift.parquet")
    assert set(nearest) == set(shift["photo"])
    for row in shift.itertuples():
        names, cosines = zip(*nearest[row.photo][row.augmentation], strict=True)
        assert list(cosines) == sorted(cosines, reverse=True)
        if row.label:
            assert (names[0] == row.label) == (row.zero_shot_top1 == 1)


def test_the_gaze_of_the_photos_shown_is_kept(finished: tuple[Path, str]) -> None:
    assert set(read_kept(finished[0])) == set(read_nearest(finished[0]))


def test_nothing_heavy_is_imported_for_measures_facts() -> None:
    code = (
        "import sys, clipshift.measure.facts; print('wandb' in sys.modules, 'hydra' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
