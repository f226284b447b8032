"""What W&B is given, read back from the files of offline runs; and the dashboard made of it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.columns import all_columns
from support.commands import run_evaluate
from support.wandb_log import wandb_records

from clipshift.errors import UserError
from clipshift.integrations.dashboard import sweep_dashboard
from clipshift.integrations.tracking import PICTURED_ROWS, mlflow_logger, photo_table
from clipshift.report.charts.gaze import gaze_over_each
from clipshift.report.headline import HEADLINE
from clipshift.results.kept import read_kept


class Tracked:
    """An offline W&B run, read back."""

    def __init__(self, folder: Path) -> None:
        [file] = folder.rglob("offline-run-*/*.wandb")
        self.folder = file.parent
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: dict[str, set[str]] = {}
        self.files: dict[str, Path] = {}
        self.name = self.exit_code = None
        for record in wandb_records(file.read_bytes()):
            for item in record.summary.update:
                self.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            for item in (*record.config.update, *record.run.config.update):
                self.config[item.key or item.nested_key[0]] = json.loads(item.value_json)
            if record.history.item:
                row: dict[str, Any] = {}
                for item in record.history.item:
                    *outer, last = item.nested_key or [item.key]
                    inner = row
                    for key in outer:
                        inner = inner.setdefault(key, {})
                    inner[last] = json.loads(item.value_json)
                self.history.append(row)
            if record.HasField("artifact"):
                entries = record.artifact.manifest.contents
                self.files |= {entry.path: Path(entry.local_path) for entry in entries}
                self.artifacts[record.artifact.type] = {entry.path for entry in entries}
            if record.HasField("run"):
                self.name = record.run.display_name
            if record.HasField("exit"):
                self.exit_code = record.exit.exit_code

    def logged(self, key: str) -> Any:
        """The one value that was logged under a key."""
        [value] = [row[key] for row in self.history if key in row]
        return value

    def table(self, key: str) -> pd.DataFrame:
        """A table that was logged, from its artifact, which has its pictures as well."""
        assert self.logged(key)["_type"] == "table-file"
        content = json.loads(self.files[f"{key}.table.json"].read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])

    def scalars(self) -> list[str]:
        """The keys of all numbers that were logged, which W&B shows as charts."""
        return [
            key
            for row in self.history
            for key, value in row.items()
            if isinstance(value, int | float) and not key.startswith("_")
        ]


@pytest.fixture(scope="module")
def tracked(finished: tuple[Path, str]) -> Tracked:
    return Tracked(finished[0])


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_leads_with_the_numbers_that_compare_it(
    tracked: Tracked, finished: tuple[Path, str]
) -> None:
    """All made anew from ``shift.parquet``, photo by photo."""
    shift = pd.read_parquet(finished[0] / "shift.parquet")
    moved = (1 - shift["cosine_similarity"]).groupby(shift["augmentation"]).mean()
    relative = shift.groupby("augmentation")["relative_shift"].mean()
    worst = moved.idxmax()
    expected = {
        "severity": "paper", "mean_shift": moved.mean(), "mean_relative_shift": relative.mean(),
        "worst_augmentation": worst, "worst_relative_shift": relative[worst],
        "spread": moved[worst] / relative[worst], "photos": 5, "trained": True,
    }  # fmt: skip
    clean = shift.drop_duplicates("photo")["zero_shot_top1_clean"].mean()
    if np.isfinite(clean):
        expected["clean_top1"] = clean
    for key, value in expected.items():
        assert tracked.summary[key] == (
            pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        ), key
    assert {"model", "data", "aug", "seed"} <= set(tracked.config)
    assert tracked.exit_code == 0


def test_a_runs_summary_holds_few_numbers_and_its_tables_all(
    tracked: Tracked, finished: tuple[Path, str]
) -> None:
    """W&B draws a panel for each number: 200 of them hide those that lead."""
    shift = pd.read_parquet(finished[0] / "shift.parquet")
    assert tracked.scalars() == []
    numbers = {
        key
        for key in tracked.summary
        if not key.startswith(("_", "tables/", "figures/", "report/"))
    }
    names = set(shift["augmentation"])
    by_augmentation = {f"relative_shift/{name}" for name in names}
    assert numbers - set(HEADLINE) == {"mean_retained", "mean_zero_shot_top1"} | by_augmentation
    means = shift.groupby("augmentation").mean(numeric_only=True)
    for name in names:
        value = tracked.summary[f"relative_shift/{name}"]
        assert value == pytest.approx(means.loc[name, "relative_shift"], rel=1e-5)
    assert tracked.summary["mean_retained"] == pytest.approx(means["retained"].mean())
    known = pd.read_csv(finished[0] / "summary.csv").dropna(subset="mean")
    table = tracked.table("tables/summary").dropna(subset="mean")
    pd.testing.assert_frame_equal(
        table.set_index(["augmentation", "measure"])[["mean"]].astype(float),
        known.set_index(["augmentation", "measure"])[["mean"]],
        atol=1e-6,
    )


def test_a_runs_photos_have_pictures_gaze_and_numbers(
    tracked: Tracked, finished: tuple[Path, str]
) -> None:
    photos = tracked.table("tables/pictures")
    shift = pd.read_parquet(finished[0] / "shift.parquet")
    assert len(photos) == len(shift)
    joined = photos.merge(shift, on=["photo", "augmentation", "severity"], suffixes=("", "_known"))
    for measure in ("cosine_similarity", "relative_shift", "gaze_divergence"):
        np.testing.assert_allclose(joined[measure], joined[f"{measure}_known"], atol=5.1e-5)
    flipped = photos[photos["augmentation"] == "flip"].iloc[0]
    clean, view, looked = (
        np.asarray(Image.open(tracked.files[flipped[name]["path"]]).convert("RGB"), float)
        for name in ("clean", "view", "gaze on view")
    )
    assert np.abs(clean - view[:, ::-1]).mean() < 4  # they are JPEGs
    assert np.abs(clean - view).mean() > 10
    gazes = read_kept(finished[0])[flipped["photo"]]
    shown = Image.fromarray(view.astype(np.uint8))
    expected = gaze_over_each(dict.fromkeys(gazes, shown), gazes)["flip"]
    assert np.abs(looked - np.asarray(expected, float)).mean() < 4


def test_a_runs_page_is_an_artifact_and_a_panel(
    tracked: Tracked, finished: tuple[Path, str]
) -> None:
    page = (finished[0] / "report.html").read_text()
    assert (tracked.folder / "files" / tracked.logged("report")["path"]).read_text() == page
    assert tracked.artifacts["evaluation"] == {
        "report.html",
        "run.json",
        "shift.parquet",
        "summary.csv",
    }


def test_a_runs_name_has_no_path(tracked: Tracked) -> None:
    assert "data.limit=5" in tracked.name
    assert "/" not in tracked.name


def test_a_ladder_is_a_curve_and_its_summary_is_of_the_papers_strengths(
    hub_folder: Path, tmp_path: Path
) -> None:
    done = run_evaluate(
        f"model.checkpoint={hub_folder}", f"hydra.run.dir={tmp_path}", "trainer=cpu",
        "data.limit=3", "aug=[noise,flip]", "severity=[paper,1,3]", "metric=cosine_similarity",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B log of this run is incomplete" not in done.stderr
    tracked = Tracked(tmp_path)
    summary = pd.read_csv(tmp_path / "summary.csv", dtype={"severity": str})
    relative = summary[summary["measure"] == "relative_shift"]
    relative = relative.set_index(["augmentation", "severity"])["mean"]
    curves = [row for row in tracked.history if "severity" in row]
    assert [row["severity"] for row in curves] == [1, 3]
    assert tracked.summary["severity"] == "paper"
    for name in ("noise", "flip"):
        at = tracked.summary[f"relative_shift/{name}"]
        assert at == pytest.approx(relative[name, "paper"], abs=1e-6)
        for row in curves:
            known = relative[name, str(row["severity"])]
            assert row[f"relative_shift/{name}"] == pytest.approx(known, abs=1e-6)


def test_what_w_and_b_is_given_is_bounded() -> None:
    """However many photos and severities: a page that shows 100 photos under 70 variants."""
    variants = [[f"a{index % 14}", str(index // 14)] for index in range(70)]
    url = "data:image/webp;base64," + "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
    known = {"values": {"rmse": [0.5] * 70}, "gaze": None, "nearest": None}
    shown = {"part": "most", "pictures": [url] * 71, "models": [known]}
    names = [f"photo {index}" for index in range(100)]
    explorer = {
        "variants": variants,
        "measures": [["rmse", "RMSE"]],
        "photos": [{"id": name, "label": ""} for name in names],
        "shown": dict.fromkeys(names, shown),
    }
    table = photo_table(explorer)
    assert 0 < len(table.data) <= PICTURED_ROWS
    chosen = list(dict.fromkeys(row[0] for row in table.data))
    assert chosen == ["photo 0", "photo 33", "photo 66"]  # from the most moved to the least


# --- a sweep's dashboard -------------------------------------------------------------------------


def test_the_dashboard_shows_what_was_tracked(tracked: Tracked) -> None:
    """As far as the library goes without a login: the report is built, not published."""
    report = sweep_dashboard("clipshift", "team", "2026/now", ["noise", "blur"])
    panels = [panel for block in report.blocks for panel in getattr(block, "panels", ())]
    used = {metric for panel in panels for metric in getattr(panel, "metrics", ())}
    used |= {axis for panel in panels if hasattr(panel, "y") for axis in (panel.x, panel.y)}
    assert used - set(tracked.summary) == set()
    titles = {panel.title.lower() for panel in panels}
    assert {all_columns()[name].label.lower() for name in ("relative_shift", "retained")} <= titles
    assert "2026/now" in report.title


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
def test_without_mlflow_it_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'clipshift\[mlflow\]'"):
        mlflow_logger()
