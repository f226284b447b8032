"""Sweeps and comparisons: paired differences, resuming, failed jobs, the cache."""

import html
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from support.columns import all_columns
from support.commands import FEW, run_evaluate, started
from support.evaluation import measure
from support.runs import run_info
from support.terminal import ROOT
from support.wandb_log import wandb_records
from torch import Tensor

from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.jobs import content_of, job_key
from clipshift.comparison.notes import notes_on_runs, pair_notes, software_notes, spread_change
from clipshift.comparison.pair import compare_pair
from clipshift.comparison.sweep import Sweep, sweep_notes
from clipshift.comparison.sweep_report import jobs_table
from clipshift.data import dataset
from clipshift.data.cache import Cache
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder, Features
from clipshift.encode.feature_cache import FeatureCache
from clipshift.errors import UserError
from clipshift.evaluate.evaluation import Evaluation
from clipshift.options import EvaluateOptions, read_options
from clipshift.report.charts.curves import draw_curves
from clipshift.report.charts.grid import draw_grid
from clipshift.report.notes import alike_photos
from clipshift.report.tables import make_table
from clipshift.report.words import resampled, run_title
from clipshift.results.compatibility import incomparable
from clipshift.results.intervals import mean_interval
from clipshift.results.paired import compare_photos, holm
from clipshift.results.runs import Run, read_run


def compared(a: pd.DataFrame, b: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    return compare_photos(a, b, all_columns(), seed)


def a_run(facts: dict[str, Any], shift: pd.DataFrame | None = None, **model: Any) -> Run:
    """A finished run as it is read back, with the facts that a comparison reads."""
    info = run_info(model={"name": "small"} | model, **facts)
    return Run(Path(), info, all_columns(), pd.DataFrame() if shift is None else shift)


def photos(values: np.ndarray, **more: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "photo": [f"{i:03d}" for i in range(len(values))],
            "label": None,
            "augmentation": "noise",
            "severity": "paper",
            "cosine_similarity": values,
            "distance_to_others": 0.5,
        }
        | more
    )


# --- paired comparison ---------------------------------------------------------------------------


def test_paired_differences_and_what_counts_as_better() -> None:
    rng = np.random.default_rng(0)
    base, robust = rng.uniform(0.5, 1, (2, 80))
    a = photos(base, l2_distance=base, brightness=base)
    b = photos(robust, l2_distance=robust, brightness=robust).sample(frac=1, random_state=1)
    table = compared(a, b).set_index("measure")
    assert list(table.index) == ["cosine_similarity", "l2_distance"]
    change = robust - base
    row = table.loc["cosine_similarity"]
    assert row["difference"] == pytest.approx(change.mean())
    assert row["p"] == pytest.approx(stats.ttest_rel(base, robust).pvalue, rel=0.2)
    assert (row["ci_low"], row["ci_high"]) == mean_interval(change, 0)
    assert row["improved"] == (change > 0).mean() == table.loc["l2_distance", "worsened"]
    assert row["n"] == 80


@pytest.mark.parametrize("measure", [
    "l2_distance", "relative_shift", "gaze_divergence", "gaze_divergence_aligned", "zero_shot_flip",
])  # fmt: skip
def test_less_is_better(measure: str) -> None:
    a, b = (photos(np.ones(3)).assign(**{measure: v}) for v in ([0.3, 0.2, 0.9], [0.1, 0.4, 0.7]))
    row = compared(a, b).set_index("measure").loc[measure]
    assert (row["improved"], row["worsened"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


@pytest.mark.parametrize("measure", [
    "cosine_similarity", "attention_similarity", "attention_similarity_aligned", "retained",
    "zero_shot_top1", "text_shift",
])  # fmt: skip
def test_more_is_better(measure: str) -> None:
    a, b = (photos(np.ones(3)).assign(**{measure: v}) for v in ([0.3, 0.2, 0.9], [0.1, 0.4, 0.7]))
    row = compared(a, b).set_index("measure").loc[measure]
    assert (row["improved"], row["worsened"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_a_gazes_entropy_that_changes_less_is_better_whatever_its_sign() -> None:
    before, after = [-1.0, 0.5, 0.2, 0.3], [0.5, -0.2, 0.9, -0.3]
    a, b = (photos(np.ones(4)).assign(gaze_entropy_change=v) for v in (before, after))
    row = compared(a, b).set_index("measure").loc["gaze_entropy_change"]
    assert (row["improved"], row["worsened"]) == (0.5, 0.25)


def test_a_run_against_itself_differs_by_exactly_nothing() -> None:
    a = photos(np.random.default_rng(0).uniform(0, 1, 30))
    row = compared(a, a).iloc[0]
    assert row[["difference", "ci_low", "ci_high", "improved", "worsened"]].eq(0).all()
    assert row["p"] == row["p_holm"] == 1


def test_a_known_difference_is_covered_as_often_as_promised() -> None:
    """Skewed differences, as of bounded measures, of 500 augmentations in 20 pairs of runs."""
    rng = np.random.default_rng(3)
    covered = []
    for seed in range(20):
        pairs = []
        for name in range(25):
            base = rng.beta(8, 2, 150)
            robust = base + 0.03 + (rng.exponential(0.05, 150) - 0.05)
            pairs.append([photos(x).assign(augmentation=f"{name}") for x in (base, robust)])
        rows = compared(*(pd.concat(side) for side in zip(*pairs, strict=True)), seed)
        assert len(rows) == 25
        covered += list((rows["ci_low"] <= 0.03) & (rows["ci_high"] >= 0.03))
    assert 0.92 <= np.mean(covered) <= 0.98


def test_what_the_models_cannot_differ_in_is_no_test() -> None:
    """Pixels do not depend on the model, and the clean views are the same under every variant."""
    rng = np.random.default_rng(0)

    def run() -> pd.DataFrame:
        hits = rng.integers(0, 2, 40).astype(float)
        parts = [
            photos(rng.uniform(0.5, 1, 40), rmse=np.full(40, 0.1), brightness=np.full(40, 0.4),
                   zero_shot_top1=hits, zero_shot_top1_clean=hits).assign(augmentation=name)
            for name in ("noise", "blur", "flip")
        ]  # fmt: skip
        return pd.concat(parts)

    table = compared(run(), run())
    assert [tuple(key) for key in table[["augmentation", "measure"]].to_numpy()] == [
        ("clean", "zero_shot_top1_clean"),
        *(
            (name, measure)
            for name in ("noise", "blur", "flip")
            for measure in ("cosine_similarity", "zero_shot_top1")
        ),
    ]
    smallest = table["p"].to_numpy().argmin()
    assert table["p_holm"][smallest] == pytest.approx(min(1, 7 * table["p"][smallest]))


@pytest.mark.parametrize(("after", "warned"), [(0.55, False), (0.3, True)])
def test_photos_that_close_up_are_told(after: float, warned: bool) -> None:
    runs = [a_run({"spread": spread}) for spread in (0.6, after)]
    assert spread_change(*runs) == f"0.600 → {after:.3f}"
    assert ("relative_shift" in "".join(notes_on_runs(runs))) == warned
    runs[1] = a_run({"spread": after, "data": {"fingerprint": "0" * 64}})
    assert notes_on_runs(runs) == []


def test_random_weights_are_marked_wherever_models_are_compared() -> None:
    trained, untrained = a_run({}), a_run({}, name="blank", trained=False)
    assert notes_on_runs([trained]) == []
    [note] = notes_on_runs([trained, untrained])
    assert "blank are random" in note
    assert "UNTRAINED" in run_title(untrained)
    assert "UNTRAINED" not in run_title(trained)


def test_a_sweep_warns_of_its_models_and_shows_their_relative_shift() -> None:
    """As `compare=` does: a small shift of random weights is not taken for robustness."""
    runs = {
        "0": a_run({"spread": 0.6}),
        "1": a_run({"spread": 0.6}, name="other"),
        "2": a_run({"spread": 0.1}, name="blank", trained=False),
    }
    sweep = Sweep(Path(), {job: {} for job in runs}, runs)
    weights, spread = sweep_notes(sweep)
    assert "weights of blank are random" in weights
    assert "closer together" in spread
    assert sweep_notes(Sweep(Path(), {}, runs, {"3": "no photos"}))[0] == "1 of 4 jobs failed."
    assert sweep_notes(Sweep(Path(), {}, {}, {"0": "no photos"})) == ["1 of 1 job failed."]
    means = [(0.5, 0.8), (0.7, 0.6), (0.9, 1.0)]
    for run, both in zip(runs.values(), means, strict=True):
        run.summary = pd.DataFrame(
            [
                {"augmentation": "noise", "severity": "paper", "measure": measure, "mean": mean,
                 "ci_low": mean - 0.1, "ci_high": mean + 0.1, "n": 40}
                for measure, mean in zip(("cosine_similarity", "relative_shift"), both,
                                         strict=True)
            ]
        )  # fmt: skip
    for job, run in runs.items():
        run.folder = Path(job)
    table = make_table(*jobs_table(sweep, Path()), name="")
    assert table.head == ["job", "model", "augmentation", "severity", "relative shift",
                          "1 − cosine", "photos"]  # fmt: skip
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[0] == ["0", "small", "noise", "paper", "0.800 [0.700, 0.900]",
                       "0.500 [0.400, 0.600]", "40"]  # fmt: skip
    assert [row[1] for row in rows[1:]] == ["other", "blank (UNTRAINED: random weights)"]
    assert [row[0].link for row in table.rows] == [f"./{job}/report.html" for job in runs]


def test_a_comparison_of_few_photos_or_of_photos_that_are_alike_says_so() -> None:
    few = a_run({"data": {"photos": 5}})
    [note] = notes_on_runs([few, few])
    assert "5 photos" in note
    assert notes_on_runs([a_run({}), a_run({})]) == []
    [note] = notes_on_runs([a_run({}), a_run({"intraclass_correlation": 0.3})])
    assert "0.30" in note


def test_a_run_says_what_its_intervals_take_as_drawn_at_random() -> None:
    facts = {"data": {"photos": 400}, "intraclass_correlation": 0.05}
    photos = {"unit": "photos", "units": 400, "alone": 0}
    classes = {"unit": "classes", "units": 40, "alone": 3, "design_effect": 3.7}
    old, apart, narrow, by_classes = (
        run_info(**facts, resampled=unit)
        for unit in (
            None,
            photos | {"design_effect": 1.05},
            photos | {"design_effect": 3.7},
            classes,
        )
    )
    assert resampled(old) == resampled(apart) == resampled(narrow) == "400 photos"
    assert resampled(by_classes) == "40 classes and 3 photos without one, of 400 photos"
    assert not [*alike_photos(old), *alike_photos(apart)]
    for info, told in ((narrow, "too narrow"), (by_classes, "classes as drawn at random")):
        [note] = alike_photos(info)
        assert told in note
    assert "too narrow" not in note


def test_two_runs_are_compared_over_classes_where_one_of_them_was() -> None:
    rng = np.random.default_rng(0)
    shift = photos(rng.uniform(0.4, 0.6, 40))
    better = photos(shift["cosine_similarity"] + np.repeat(rng.uniform(0, 0.1, 8), 5))
    labels = [f"class {place // 5}" for place in range(40)]
    by_class = {"unit": "classes", "units": 8, "alone": 0, "design_effect": None}
    runs = [
        a_run({"resampled": unit}, rows.assign(label=labels))
        for unit, rows in ((None, shift), (None, better), (by_class, better))
    ]
    over_photos, over_classes = (
        compare_pair(runs[0], other, 0, []).set_index("measure").loc["cosine_similarity"]
        for other in runs[1:]
    )
    assert over_photos["difference"] == over_classes["difference"]
    widths = [row["ci_high"] - row["ci_low"] for row in (over_photos, over_classes)]
    assert widths[1] > 1.8 * widths[0]


def test_other_versions_and_other_code_are_told() -> None:
    run = a_run({})
    assert not [*software_notes([run, run])]
    [note] = software_notes(
        [run, a_run({"versions": {"clipshift": "0", "torch": "2.8"}, "code_sha256": "b" * 64})]
    )
    assert "torch (2.9, 2.8)" in note
    assert "clipshift's own code" in note


def test_measures_taken_in_other_ways_are_left_out() -> None:
    """Another gallery, or other classes, would look like another model."""

    def run(gallery: list[int], classes: list[str]) -> Run:
        retained = np.full(9, np.nan)
        retained[gallery] = 1
        shift = photos(np.linspace(0.5, 1, 9), retained=retained, zero_shot_top1=np.ones(9),
                       neighbour_top1=retained, label=classes[0])  # fmt: skip
        return a_run({"data": {"classes": classes, "photos": 9}}, shift)

    base = run([0, 1, 2], ["cat", "dog"])
    assert {"retained", "zero_shot_top1", "neighbour_top1"} <= set(
        compare_pair(base, base, 0, [])["measure"]
    )
    for gallery in ([0, 1, 3], [0, 1]):
        table = compare_pair(base, run(gallery, ["cat", "cow"]), 0, [])
        assert list(table["measure"]) == ["cosine_similarity"]
        of_gallery = {"retained", "percentile_shift", "whitened_shift", "neighbour"}
        assert set(incomparable(base, run(gallery, ["cat", "dog"]))) == of_gallery
    assert incomparable(base, run([0, 1, 2], ["cow", "dog"]))["neighbour"] == "labels differ"


def test_gazes_of_different_kinds_are_not_compared() -> None:
    values = np.linspace(0.5, 1, 9)
    of_gaze = ["attention_similarity", "attention_similarity_aligned", "gaze_divergence",
               "gaze_divergence_aligned", "gaze_entropy_change"]  # fmt: skip
    shift = photos(values, **dict.fromkeys(of_gaze, values), l2_distance=values)

    def run(gaze: str | bool | None, shift: pd.DataFrame = shift) -> Run:
        return a_run({}, shift, gaze=gaze)

    attention, contribution = run("attention"), run("contribution")
    for same in ((attention, attention), (contribution, contribution), (run(True), attention)):
        assert incomparable(*same) == {}
        assert set(of_gaze) < set(compare_pair(*same, 0, [])["measure"])
    for pair in ((attention, contribution), (contribution, run(True))):
        assert sorted(incomparable(*pair)) == of_gaze
        table = compare_pair(*pair, 0, [])
        assert list(table["measure"]) == ["cosine_similarity", "l2_distance"]
        [note] = [note for note in pair_notes(*pair) if "gaze" in note]
        assert "attention in " in note
        assert "contribution in " in note
        assert all(measure in note for measure in of_gaze)
    assert incomparable(run(None, shift.drop(columns=of_gaze)), attention) == {}


def test_a_jobs_key_is_another_when_what_it_is_made_of_is(encoder: Encoder, tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.json"
    calibration.write_text("1")
    config = plain(compose_config("evaluate", ["logger=none", f"matching.file={calibration}"]))
    options = read_options(EvaluateOptions, config)
    chosen = sample()[:2]

    def key(**change: Any) -> str:
        photos = [chosen[0], replace(chosen[1], **change)]
        labels = ["cat", "dog"]
        evaluation = Evaluation(options, photos, labels, encoder, {}, {}, {}, [], config)
        return job_key(evaluation, content_of(photos))

    keys = [key(), key(label="cat"), key(captions=("a cat",))]
    calibration.write_text("2")
    keys.append(key())
    assert len(set(keys)) == 4
    calibration.write_text("1")
    assert key() == keys[0]


def test_curves_of_jobs_with_other_options_are_lines_of_their_own() -> None:
    jobs = [("seed=0", 0.9), ("seed=1", 0.8)]
    rows = pd.DataFrame(
        {"options": options, "augmentation": "noise", "severity": severity, "mean": mean,
         "measure": "cosine_similarity",
         "ci_low": mean, "ci_high": mean}
        for options, mean in jobs for severity in ("1", "2", "3")
    )  # fmt: skip
    drawn = draw_curves(rows).to_dict()
    [data] = drawn["datasets"].values()
    for job, mean in jobs:
        own = [row for row in data if row["line"] == f"noise ({job})"]
        assert [row["severity"] for row in own] == [1, 2, 3]
        assert [row["mean"] for row in own] == pytest.approx([1 - mean] * 3)
    assert len(data) == 6


def test_holm_by_the_book() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])


@pytest.fixture(scope="module")
def sweep(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    done = run_evaluate(
        "-m", "aug=noise,flip", "severity=1,3", f"model.checkpoint={hub_folder}", "trainer=cpu",
        "data.limit=4", f"hydra.sweep.dir={folder}", f"sweeps={folder}", "logger.project=test",
        *FEW,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 of 4 jobs finished" in done.stdout
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_two_runs_are_compared_on_the_command_line(sweep: Path, tmp_path: Path) -> None:
    done = run_evaluate(f"compare=[{sweep}/0,{sweep}/0]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "comparison.csv")
    assert (table["difference"] == 0).all()
    assert "photo by photo" in (tmp_path / "comparison.html").read_text()


def test_runs_of_other_views_are_refused(sweep: Path, tmp_path: Path) -> None:
    done = run_evaluate(f"compare=[{sweep}/0,{sweep}/2]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "they differ in aug" in done.stderr
    done = run_evaluate(f"compare=[{sweep}/0,{sweep}/nothing]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "no finished run" in done.stderr
    assert done.stderr.count("\n") == 1


def test_folders_that_hold_no_run_are_refused(sweep: Path, tmp_path: Path) -> None:
    copytree(sweep / "0", tmp_path, dirs_exist_ok=True)
    facts = json.loads((tmp_path / "run.json").read_text())
    for content, said in [
        (facts | {"complete": False}, "interrupted"),
        ([], "no finished run in .*: Input should be an object"),
        ({}, "no finished run in .*: job: Field required"),
    ]:
        (tmp_path / "run.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=said):
            read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="no finished run"):
        read_run(tmp_path)


def summary(cosines: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"augmentation": name, "severity": "paper", "measure": measure, "mean": mean,
         "ci_low": mean, "ci_high": mean, "n": 9}
        for name, cosine in cosines.items()
        for measure, mean in (("cosine_similarity", cosine), ("retained", 1 - cosine))
    )  # fmt: skip


def sweep_of(*jobs: tuple[dict[str, str], str, dict[str, float]]) -> Sweep:
    """A sweep of jobs: what their command lines set, their models, and cosines by augmentation."""
    sweep = Sweep(Path("/sweep"), {})
    for job, (overrides, model, cosines) in enumerate(jobs):
        run = a_run({}, photos(np.linspace(0, 1, 9)), name=model)
        run.summary = summary(cosines)
        sweep.overrides[f"{job}"], sweep.runs[f"{job}"] = overrides, run
    return sweep


def test_lines_of_a_sweep_are_named_by_what_tells_them_apart() -> None:
    def lines(*jobs: tuple[dict[str, str], str]) -> list[str]:
        return list(sweep_of(*((*job, {"noise": 0.5}) for job in jobs)).lines.values())

    both = [{"model": model, "seed": seed} for model in "ab" for seed in "01"]
    assert lines(*((given, given["model"]) for given in both[::2])) == ["a", "b"]
    assert lines(*((given, given["model"]) for given in both)) == [
        "a seed=0", "a seed=1", "b seed=0", "b seed=1"
    ]  # fmt: skip
    paths = [({"model.checkpoint": f"/home/me/{name}.pt"}, "m") for name in "xy"]
    assert lines(*paths) == ["model.checkpoint=x.pt", "model.checkpoint=y.pt"]
    twice = [({"aug": names}, "m") for names in ("noise", "[noise,blur]")]
    assert lines(*twice) == ["m (job 0)", "m (job 1)"]


def test_a_grids_darkest_cell_has_lost_most_and_its_longer_side_is_down() -> None:
    table = pd.DataFrame(
        {"line": line, "augmentation": name, "severity": "paper", "mean": mean, "ci_low": np.nan,
         "ci_high": np.nan}
        for line, name, mean in [("a", "noise", 0.2), ("b", "noise", 0.8), ("c", "noise", 1.0)]
    )  # fmt: skip
    order = {"augmentation": ["noise"], "line": ["a", "b", "c"]}
    strengths = {}
    for name in ("relative_shift", "retained"):
        drawn = draw_grid(table, all_columns()[name], order).to_dict()
        [data] = drawn["datasets"].values()
        strengths[name] = [row["strength"] for row in data]
        encoding = drawn["layer"][0]["encoding"]
        assert (encoding["x"]["field"], encoding["y"]["field"]) == ("augmentation", "line")
    assert strengths == {"relative_shift": [0.2, 0.8, 1], "retained": [1, 0.25, 0]}


# --- sweeps --------------------------------------------------------------------------------------


def test_a_sweep_ends_in_one_comparison(sweep: Path) -> None:
    table = pd.read_csv(sweep / "comparison.csv")
    assert set(table["job"]) == {0, 1, 2, 3}
    assert set(zip(table["augmentation"], table["severity"], strict=True)) == {
        ("noise", 1),
        ("noise", 3),
        ("flip", 1),
        ("flip", 3),
    }
    for job in range(4):
        own = pd.read_csv(sweep / str(job) / "summary.csv")
        assert table.loc[table["job"] == job, "mean"].tolist() == own["mean"].tolist()
        measured = pd.read_parquet(sweep / str(job) / "shift.parquet")["augmentation"]
        assert set(measured) == {("noise", "flip")[job // 2]}
    page = (sweep / "comparison.html").read_text()
    assert "Sweep of 4 jobs" in page
    sentences = re.findall(r'<p class="answer">(.*?)</p>', page)
    *_, answer, last = (sweep / "stdout.txt").read_text().splitlines()
    assert answer == html.unescape(" ".join(re.sub("<.*?>", "", text) for text in sentences))
    assert last.startswith("4 of 4 jobs finished")
    assert (sweep / "figures/intervals@3.svg").exists()
    for job in range(4):
        assert "../comparison.html" in (sweep / f"{job}/report.html").read_text()
    [file] = (sweep / "wandb").glob("offline-run-*/*.wandb")
    runs = [r.run for r in wandb_records(file.read_bytes()) if r.HasField("run")]
    assert {run.job_type for run in runs} == {"comparison"}
    names = set()
    for job in range(4):
        [file] = (sweep / str(job) / "wandb").glob("offline-run-*/*.wandb")
        for record in wandb_records(file.read_bytes()):
            if record.HasField("run"):
                names.add(record.run.display_name)
                assert record.run.run_group == runs[0].run_group
                assert record.run.job_type == "evaluate"
    assert len(names) == 4
    assert any("aug=noise severity=3" in name for name in names)


def test_a_job_that_fails_is_named_and_the_others_finish(hub_folder: Path, tmp_path: Path) -> None:
    done = run_evaluate(
        "-m", f"model.checkpoint={hub_folder},{tmp_path}/none.pt", "aug=flip", "data.limit=2",
        f"hydra.sweep.dir={tmp_path}/sweep", *FEW,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no checkpoint" in done.stderr
    assert "1 of 2 jobs finished" in done.stdout
    assert "none.pt" in (tmp_path / "sweep/comparison.html").read_text()
    assert set(pd.read_csv(tmp_path / "sweep/comparison.csv")["job"]) == {0}
    for job, code in enumerate((0, 1)):
        [file] = (tmp_path / f"sweep/{job}/wandb").glob("offline-run-*/*.wandb")
        records = wandb_records(file.read_bytes())
        assert [r.exit.exit_code for r in records if r.HasField("exit")] == [code]
        assert {r.run.run_group for r in records if r.HasField("run")} == {f"{tmp_path}/sweep"}


def test_a_killed_sweep_goes_on_where_it_was(hub_folder: Path, tmp_path: Path) -> None:
    def command(sweep: str) -> list[str]:
        return [
            "-m", "aug=noise,flip,blur", f"model.checkpoint={hub_folder}", "data.limit=2",
            "logger=none", "trainer=cpu", f"sweeps={tmp_path}/{sweep}", *FEW,
            f"hydra.sweep.dir={tmp_path}/{sweep}/now",
        ]  # fmt: skip

    whole = run_evaluate(*command("whole"))
    assert whole.returncode == 0, whole.stderr
    with started("evaluate.py", *command("killed")) as process:
        first = tmp_path / "killed/now/0/report.html"
        while not first.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finished = len(list((tmp_path / "killed/now").glob("*/report.html")))
    assert 1 <= finished < 3
    again = run_evaluate(*command("killed"))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reusing results from") == finished
    tables = [(tmp_path / s / "now/comparison.csv").read_text() for s in ("whole", "killed")]
    assert tables[0] == tables[1]

    rerun = run_evaluate(*command("killed"), "rerun=true", "aug=noise")
    assert "reusing results from" not in rerun.stdout


def test_a_wandb_sweep_file_runs_the_command_as_it_is(tmp_path: Path, hub_folder: Path) -> None:
    for file in (ROOT / "conf/sweep").glob("*.yaml"):
        sweep = yaml.safe_load(file.read_text())
        assert sweep["method"] in ("grid", "random", "bayes")
        assert sweep["command"][-1] == "${args_no_hyphens}"
        arguments = [
            f"{name}={option['values'][0]}" for name, option in sweep["parameters"].items()
        ]
        done = run_evaluate(
            *arguments,
            f"model.checkpoint={hub_folder}",
            "data.limit=2",
            "logger=none",
            f"hydra.run.dir={tmp_path}",
            *FEW,
        )
        assert done.returncode == 0, done.stderr


def test_jobs_may_run_side_by_side(hub_folder: Path, tmp_path: Path, sweep: Path) -> None:
    """By joblib's launcher: two processes share the cache and have workers; rows are the same."""
    done = run_evaluate(
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "aug=noise,flip", "severity=1",
        f"model.checkpoint={hub_folder}", "trainer=cpu", "data.limit=4", "logger=none",
        "data.num_workers=1", *FEW,
        f"hydra.sweep.dir={tmp_path}", f"sweeps={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 2 jobs finished" in done.stdout
    alone = pd.read_csv(sweep / "comparison.csv")
    together = pd.read_csv(tmp_path / "comparison.csv")
    alone = alone[alone["severity"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone[together.columns[3:]], together[together.columns[3:]])


# --- the cache -----------------------------------------------------------------------------------


def test_what_comes_from_the_cache_is_the_same(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(str(tmp_path), gigabytes=0.1)
    features = FeatureCache(cache, "features test")
    names = ["noise", "flip"]
    plain, *_ = measure(encoder, sample()[:4], names)
    first, *_ = measure(encoder, sample()[:4], names, cache=cache, features=features)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(dataset, "decode", refuse)
    counted = []
    encode = Encoder._encode

    def count(self: Encoder, views: Tensor, *parts: bool) -> Features:
        counted.append(len(views))
        return encode(self, views, *parts)

    monkeypatch.setattr(Encoder, "_encode", count)
    second, *_ = measure(encoder, sample()[:4], names, cache=cache, features=features)
    pd.testing.assert_frame_equal(plain, first, check_exact=True)
    pd.testing.assert_frame_equal(plain, second, check_exact=True)
    assert sum(counted) == 4 * len(names)  # and no clean view


def test_run_json_names_the_job_of_a_sweep(sweep: Path) -> None:
    keys = {json.loads((sweep / str(job) / "run.json").read_text())["job"] for job in range(4)}
    assert len(keys) == 4
    assert None not in keys
