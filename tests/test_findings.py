"""The docs' numbers are written by benchmarks/findings.py, for the shipped models."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.terminal import ROOT

from clipshift.encode.kinds import load_encoder
from clipshift.results.files import file_sha256

SPEC = importlib.util.spec_from_file_location("findings", ROOT / "benchmarks" / "findings.py")
findings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(findings)

CITED = re.compile(r"\b(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,64}\b")
"""A hash, or its beginning; commits are cited by seven digits."""
MARKERS = re.compile(r"<!-- (/?)findings:(.*?) -->")


def block(name: str, content: str) -> str:
    return f"<!-- findings:{name} -->\n{content}<!-- /findings:{name} -->"


def test_every_hash_in_the_docs_is_of_a_model_that_is_shipped() -> None:
    folders = [file.parent for file in (ROOT / "clipshift/models").glob("*/*.safetensors")]
    shipped = {load_encoder(f"builtin:{folder.name}").weights_sha256 for folder in folders}
    shipped |= {file_sha256(folder / "open_clip_model.safetensors") for folder in folders}
    cited = {
        (digest, page.name)
        for page in findings.PAGES
        for line in page.read_text("utf-8").splitlines()
        for digest in CITED.findall(line)
        if f"`{digest}…`, no longer shipped" not in line
    }
    assert len(shipped) == 4
    assert "lite.md" in {page for _, page in cited}
    of_shipped = {one for one in cited if any(digest.startswith(one[0]) for digest in shipped)}
    assert cited - of_shipped == set()


def test_every_block_of_the_docs_is_closed_known_and_written() -> None:
    written = set()
    for page in findings.PAGES:
        text = page.read_text("utf-8")
        blocks = findings.MARKED.findall(text)
        assert len(MARKERS.findall(text)) == 2 * len(blocks), page
        assert [name for _, name, content, _ in blocks if not content.strip()] == [], page
        written |= {name for _, name, _, _ in blocks}
    assert written <= set(findings.BLOCKS)
    unused = set(findings.BLOCKS) - written
    assert unused == {"command-builtin"}  # nobody has to be told to type `clipshift evaluate`


def test_blocks_are_written_again_and_again_to_the_same_page() -> None:
    page = f"before\n{block('caption', 'old')}\nbetween\n{block('ranks', 'kept')}\nafter\n"
    once = findings.with_blocks(page, {"caption": "| a |\n| --- |", "ladders": "not here"})
    assert once == page.replace("old", "\n| a |\n| --- |\n\n")
    assert findings.with_blocks(once, {"caption": "| a |\n| --- |"}) == once
    assert findings.with_blocks(once, {}) == once
    with pytest.raises(KeyError, match="no-such-block"):
        findings.with_blocks(block("no-such-block", ""), {})


NAMES = ["noise", "blur", "flip"]


@pytest.fixture
def run() -> SimpleNamespace:
    """A run's tables, made up: noise leads, blur and flip do not differ."""
    values = {
        "relative_shift": [0.5, 0.2, 0.1],
        "cosine_similarity": [0.5, 0.8, 0.9],
        "edge_preservation": [0.7, 0.9, 0.8],
        "ssim": [0.1, 0.7, 0.71],
    }
    summary = pd.DataFrame(
        {"augmentation": name, "severity": "paper", "measure": measure, "mean": mean,
         "ci_low": mean - 0.05, "ci_high": mean + 0.05}
        for measure, row in values.items() for name, mean in zip(NAMES, row, strict=True)
    )  # fmt: skip
    ranking = pd.DataFrame(
        {"severity": "paper", "augmentation": NAMES, "shift": [0.5, 0.2, 0.1],
         "ci_low": 0.05, "ci_high": 0.6, "rank_low": [1, 2, 2], "rank_high": [1, 3, 3],
         "different": [True, False, False]}
    )  # fmt: skip
    cka = np.array([[0.9, 0.8, 0.1], [0.2, 0.5, 0.8], [0.9, 0.9, 0.88]])
    layers = pd.DataFrame(
        {"severity": "paper", "augmentation": name, "layer": layer, "cka": value,
         "cka_low": value - 0.05, "cka_high": value + 0.05}
        for name, row in zip(NAMES, cka, strict=True) for layer, value in enumerate(row, 1)
    )  # fmt: skip
    strengths = {f"{name}@paper": 1.0 for name in NAMES}
    return SimpleNamespace(
        summary=summary, ranking=ranking, layers=layers, info=SimpleNamespace(strengths=strengths)
    )


def test_the_table_of_clips_models_awaits_the_run_that_fills_it(run: SimpleNamespace) -> None:
    """README names the models before they are measured, with the columns of what fills it."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "`make findings ARGS=clip`" in readme
    assert set(findings.DOWNLOADED) == {"clip", "dissect_clip"}
    (waiting,) = [
        content for _, name, content, _ in findings.MARKED.findall(readme) if name == "clip"
    ]
    models = next(a for a in findings.RUNS["clip"] if a.startswith("model=")).partition("=")[2]
    head, _, *rows = [line for line in waiting.splitlines() if line.startswith("|")]
    assert [row.split("`")[1] for row in rows] == models.split(",")
    extra = run.summary[run.summary["measure"] == "ssim"]
    top1 = [extra.assign(measure=m) for m in ("zero_shot_top1", "zero_shot_top1_clean")]
    run.summary = pd.concat([run.summary, *top1], ignore_index=True)
    run.info.model, run.info.data = SimpleNamespace(name="clip"), SimpleNamespace(photos=400)
    run.info.commit, run.info.versions, run.info.started = None, {"clipshift": "1"}, "2026-11-29"
    filled = findings.clip_table([run]).splitlines()
    assert filled[0] == head
    mean = "0.267 | `noise` 0.500 [0.450, 0.550] | 10.0 [5.0, 15.0] % | 50.3 %"
    assert filled[2] == f"| `clip` | {mean} |"


def test_a_table_of_layers_names_only_what_rises_or_falls_beyond_its_intervals(
    run: SimpleNamespace,
) -> None:
    *rows, _, sentence = findings.layer_table(run).splitlines()
    assert rows[2] == "| `noise` | 0.900 | 0.800 | 0.100 |"
    assert sentence.startswith(
        "Between the first and the last layer, CKA rises under `blur` and falls under `noise` ("
    )


def test_a_ranking_names_the_neighbours_that_do_not_differ(run: SimpleNamespace) -> None:
    for measure in ("retained", "zero_shot_top1", "gaze_divergence", "gaze_divergence_aligned",
                    "detail_preservation"):  # fmt: skip
        extra = run.summary[run.summary["measure"] == "ssim"].assign(measure=measure)
        run.summary = pd.concat([run.summary, extra], ignore_index=True)
    *rows, _, sentence = findings.shift_table(run, "paper").splitlines()
    assert sentence == "Neighbours that do not differ significantly: `blur` and `flip`."
    assert [row.split(" | ")[:3] for row in rows[2:]] == [
        ["| `noise`", "0.5000 [0.0500, 0.6000]", "1"],
        ["| `blur`", "0.2000 [0.0500, 0.6000]", "2–3"],
        ["| `flip`", "0.1000 [0.0500, 0.6000]", "2–3"],
    ]


def test_a_claim_across_augmentations_has_its_correlation_and_interval(
    run: SimpleNamespace,
) -> None:
    claim = findings.across_augmentations(run, "paper", "ssim")
    assert claim == "+1.00 [+1.00, +1.00] (n = 3)"
    edges = run.summary["measure"] == "edge_preservation"
    more = run.summary.assign(augmentation=run.summary["augmentation"] + "2")
    more.loc[edges, "mean"] = [0.95, 0.85, 0.75]  # cosine 0.5, 0.8, 0.9 once more
    run.summary = pd.concat([run.summary, more], ignore_index=True)
    # ranks 1.5 1.5 3.5 3.5 5.5 5.5 against 1 5 3 6 4 2: covariance −0.2 ÷ √(16 · 17.5)
    x, y = [1.5, 3.5, 5.5, 1.5, 3.5, 5.5], [1, 5, 3, 6, 4, 2]
    rho = np.corrcoef(x, y)[0, 1]
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / 3)
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    expected = f"{rho:+.2f} [{low:+.2f}, {high:+.2f}] (n = 6)".replace("-", "−")
    assert findings.across_augmentations(run, "paper", "edge_preservation") == expected


def test_a_run_is_current_only_with_its_options_code_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not findings.is_current("lite", tmp_path, None)
    stamp = {"options": findings.options_of("lite", None), "sources": findings.sources_sha256()}
    findings.write_json(tmp_path / findings.STAMP, stamp)
    assert findings.is_current("lite", tmp_path, None)
    assert not findings.is_current("lite", tmp_path, 20)
    assert not findings.is_current("tiny", tmp_path, None)
    monkeypatch.setattr(findings, "sources_sha256", lambda: "of other code or weights")
    assert not findings.is_current("lite", tmp_path, None)
