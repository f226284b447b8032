"""Results as others read them: CLIP_benchmark's files, the hub's own parsers, model cards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from support.columns import all_columns
from support.runs import run_info

from clipshift.integrations.publishing import (
    base_on_hub,
    dataset_of,
    model_card,
    write_published,
    zero_shot_rows,
)
from clipshift.results.runs import Run, clear_results
from clipshift.results.table import summarize

LABELS = ["tabby_cat", "Tabby cat", "dog", "sea_lion", "zebra", None]
CLASSES = ["tabby cat", "dog", "sea lion", "zebra"]
PHOTOS = 60


def labelled_run(
    folder: Path,
    severities: list[str],
    source: dict[str, Any],
    name: str = "m",
    trained_on: list[str] | None = None,
) -> Run:
    """A run with zero-shot columns of chance, of photos of classes of unequal size."""
    random = np.random.default_rng(0)
    labels = random.choice(np.array(LABELS, object), PHOTOS, p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1])
    parts = []
    clean = random.integers(0, 2, PHOTOS).astype(float)
    for augmentation in ("noise", "flip"):
        for severity in severities:
            parts.append(
                pd.DataFrame(
                    {"photo": [f"{i}.jpg" for i in range(PHOTOS)], "label": labels,
                     "augmentation": augmentation, "severity": severity,
                     "cosine_similarity": random.uniform(0.5, 1, PHOTOS),
                     "zero_shot_top1": random.integers(0, 2, PHOTOS).astype(float),
                     "zero_shot_top1_clean": clean}
                )
            )  # fmt: skip
    shift = pd.concat(parts, ignore_index=True)
    unlabelled = shift["label"].isna()
    shift.loc[unlabelled, ["zero_shot_top1", "zero_shot_top1_clean"]] = np.nan
    shift["relative_shift"] = (1 - shift["cosine_similarity"]) / 0.5
    shift["distance_to_others"] = 0.5
    columns = all_columns()
    info = run_info(
        model={"pretrained": "openai", "trained_on": trained_on, "name": name},
        config={"data": source | {"resize": "squash"}},
        data={"classes": CLASSES, "prompts": ["a photo of a {}."], "photos": PHOTOS},
        started="2026-11-25T22:54:43+00:00",
        versions={"clipshift": "0.1.0"},
    )
    return Run(folder, info, columns, shift, summarize(shift, columns, seed=0))


HUB = {
    "_target_": "clipshift.data.shards",
    "root": "https://huggingface.co/datasets/clip-benchmark/wds_vtab-pets/tree/main",
}


def balanced_accuracy(rows: pd.DataFrame, column: str) -> float:
    """By hand: the mean over classes of the share of a class's photos that is right."""
    found: dict[str, list[float]] = {}
    for label, hit in zip(rows["label"], rows[column], strict=True):
        if isinstance(label, str):
            found.setdefault(label.replace("_", " ").lower(), []).append(hit)
    return sum(sum(hits) / len(hits) for hits in found.values()) / len(found)


def test_clip_benchmarks_files_hold_what_the_photos_say(tmp_path: Path) -> None:
    run = labelled_run(tmp_path, ["1", "3"], HUB)
    write_published(run)
    found = (tmp_path / "clip_benchmark").iterdir()
    files = {file.stem: json.loads(file.read_text()) for file in found}
    assert set(files) == {"clean", "noise@1", "noise@3", "flip@1", "flip@3"}
    for view, content in files.items():
        assert list(content) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
        assert content["task"] == "zeroshot_classification"
        assert content["model"] + " " + content["pretrained"] == "ViT-B-32 openai"
        name, _, severity = view.partition("@")
        rows = run.shift[
            (run.shift["augmentation"] == ("flip" if view == "clean" else name))
            & (run.shift["severity"] == (severity or "1"))
        ]
        column = "zero_shot_top1_clean" if view == "clean" else "zero_shot_top1"
        hits = [hit for hit in rows[column] if hit == hit]
        assert content["metrics"] == {  # of four classes, so without acc5
            "acc1": pytest.approx(sum(hits) / len(hits)),
            "mean_per_class_recall": pytest.approx(balanced_accuracy(rows, column)),
        }
    assert files["clean"]["dataset"] == "wds/vtab-pets"
    assert files["noise@3"]["dataset"] == "wds/vtab-pets (noise@3)"


def test_the_hub_reads_the_eval_results(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", minversion="1.4")
    run = labelled_run(tmp_path, ["paper"], HUB)
    write_published(run)
    text = (tmp_path / "eval_results.yaml").read_text()
    entries = hub.parse_eval_result_entries(yaml.safe_load(text))
    assert [entry.task_id for entry in entries] == [
        "zeroshot_classification",
        "zeroshot_classification_noise",
        "zeroshot_classification_flip",
    ]
    assert {entry.dataset_id for entry in entries} == {"clip-benchmark/wds_vtab-pets"}
    clean = run.shift.drop_duplicates("photo")["zero_shot_top1_clean"].dropna()
    assert entries[0].value == pytest.approx(clean.mean(), abs=1e-6)
    assert f"over {len(clean)} photos" in entries[0].notes
    assert not text.startswith("#")


def test_a_data_set_of_ones_own_is_named_without_its_path(tmp_path: Path) -> None:
    run = labelled_run(tmp_path, ["paper"], {"_target_": "clipshift.data.folder", "root": "/me/x"})
    write_published(run)
    text = (tmp_path / "eval_results.yaml").read_text()
    assert text.startswith("# The hub's id of the data set 'x' is not known")
    assert "/me" not in text + (tmp_path / "clip_benchmark/clean.json").read_text()
    assert dataset_of({"_target_": "clipshift.data.sample"}) == ("sample of clipshift", None)
    files = {"_target_": "clipshift.data.folder", "root": ["/me/a.jpg", "/me/b.jpg"]}
    assert dataset_of(files) == ("folder of clipshift", None)
    hub = {"_target_": "clipshift.data.huggingface", "dataset": "uoft-cs/cifar10"}
    assert dataset_of(hub) == ("uoft-cs/cifar10", "uoft-cs/cifar10")


def test_without_labels_there_is_nothing_to_publish_and_old_files_go(tmp_path: Path) -> None:
    run = labelled_run(tmp_path, ["paper"], HUB)
    write_published(run)
    clear_results(tmp_path)
    assert not list(tmp_path.rglob("*.json"))
    assert not (tmp_path / "eval_results.yaml").exists()
    write_published(run)
    run.rows = run.rows.drop(columns=["zero_shot_top1", "zero_shot_top1_clean"])
    assert zero_shot_rows(run) == {}
    write_published(run)
    assert not list(tmp_path.rglob("*.json"))


# --- model cards ---------------------------------------------------------------------------------


def provenance(trained_on: list[str], **base: Any) -> dict[str, Any]:
    return {
        "base": {"architecture": "ViT-B-32", "pretrained": "openai", "checkpoint": None} | base,
        "alpha": 0.5,
        "trained_on": trained_on,
        "photos": {"count": 1000, "ids": "f" * 64},
        "config": {"model": {"name": "m"}, "data": {"train": HUB}},
        "versions": {"clipshift": "0.1.0"},
    }


def test_a_cards_metadata_is_the_hubs(tmp_path: Path) -> None:
    card = model_card(provenance(["noise"]))
    read = ModelCard(str(card)).data
    assert read.base_model == "timm/vit_base_patch32_clip_224.openai"
    assert (read.library_name, read.pipeline_tag, read.license) == (
        "open_clip",
        "zero-shot-image-classification",
        "unknown",
    )
    assert read.eval_results is None
    assert "`noise`" in card.text
    assert "α = 0.5" in card.text
    assert "clean views alone" in model_card(provenance([])).text
    own = provenance(["noise"], architecture="builtin:lite", pretrained=None)
    assert ModelCard(str(model_card(own))).data.license == "apache-2.0"
    assert base_on_hub(own["base"]) is None
    local = provenance(["noise"], pretrained=None, checkpoint="/home/me/secret/w.pt")
    assert base_on_hub(local["base"]) is None
    assert "secret" not in str(model_card(local))


def test_a_card_has_the_comparisons_numbers(tmp_path: Path) -> None:
    base = labelled_run(tmp_path, ["paper"], HUB)
    tuned = labelled_run(tmp_path, ["paper"], HUB, "m_robust", ["noise"])
    rows = [
        ("noise", "paper", "relative_shift", 0.9, 0.4, -0.5, -0.6, -0.4),
        ("clean", np.nan, "zero_shot_top1_clean", 0.61, 0.6, -0.01, -0.03, 0.01),
    ]
    names = ["augmentation", "severity", "measure", "mean_a", "mean_b", "difference", "ci_low",
             "ci_high"]  # fmt: skip
    comparison = pd.DataFrame(rows, columns=names).assign(model_a="m", model_b="m_robust")
    other = comparison.assign(model_b="m_control", mean_b=0.123)
    card = model_card(provenance(["noise"]), base, tuned, pd.concat([comparison, other]))
    assert "| noise (trained on) | paper | 0.900 | 0.400 | -0.500 [-0.600, -0.400] |" in card.text
    assert "| clean |  | 0.610 | 0.600 | -0.010 [-0.030, +0.010] |" in card.text
    assert "0.123" not in card.text
    results = {result.metric_name: result for result in ModelCard(str(card)).data.eval_results}
    clean = results["zero-shot top-1, clean views"]
    assert clean.dataset_type == "clip-benchmark/wds_vtab-pets"
    known = tuned.shift.drop_duplicates("photo")["zero_shot_top1_clean"].mean()
    assert clean.metric_value == pytest.approx(known, abs=1e-6)
    moved = results["mean relative shift, noise, severity paper"].metric_value
    of_noise = tuned.shift[tuned.shift["augmentation"] == "noise"]
    assert moved == pytest.approx(of_noise["relative_shift"].mean(), abs=1e-6)
