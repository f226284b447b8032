"""Run clipshift for the findings, and write the results into the docs.

``make findings`` makes every run that is missing or outdated, except for those in `DOWNLOADED`;
``ARGS="lite tiny"`` selects runs.
``ARGS=--limit=30`` is a trial on few photographs, whose pages are written beside its runs. `BLOCKS`
writes each part of README and docs between ``<!-- findings:NAME -->`` and
``<!-- /findings:NAME -->`` from the runs. A part whose runs are outdated stays as it is, and is
named at the end.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image
from scipy.stats import spearmanr

from clipshift.cli.command import compose_config
from clipshift.comparison.outcome import OUTCOME, outcome_cells
from clipshift.data.files import read_json
from clipshift.report.answer import answer
from clipshift.report.words import counted, ranks_in_words, short, with_interval
from clipshift.results.files import write_json
from clipshift.results.info import RunInfo
from clipshift.results.intervals import spearman_interval
from clipshift.results.paired import GROUPS
from clipshift.results.runs import Run, read_info, read_run
from clipshift.severities import ALL, MATCHED, PAPER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IMAGES = ROOT / "docs" / "images"
PHOTOS = "../shared/photos"
"""The folder of the photographs in the pages; `CLIPSHIFT_PHOTOS` may be their real folder."""
SAMPLE = ["data=folder", f"data.root={PHOTOS}/imagenet-sample"]
IMAGENET_V2 = "https://huggingface.co/datasets/clip-benchmark/wds_imagenetv2/tree/main"
PUBLIC = ["data=shards", f"data.root={IMAGENET_V2}", "data.sample=400"]
"""Photographs that need no account."""
RUNS = {
    "lite": ["evaluate", "experiment=inside", "model=lite", *SAMPLE],
    "tiny": ["evaluate", "experiment=inside", "model=tiny", *SAMPLE],
    "dissect_lite": ["evaluate", "experiment=dissect", "model=lite", *SAMPLE, "data.sample=200"],
    "dissect_tiny": ["evaluate", "experiment=dissect", "model=tiny", *SAMPLE, "data.sample=200"],
    "ladders": ["evaluate", "model=tiny", *SAMPLE, "data.sample=200", "prompts=none",
                "aug=extended", "metric=ssim", "severity=[1,2,3,4,5]"],
    "robustify_lite": ["train", "experiment=robustify_lite"],
    "robustify_tiny": ["train", "experiment=robustify_tiny", "control=true",
                       "data.train.pattern=train-000.tar"],
    "builtin": ["evaluate"],
    "clip": ["evaluate", "-m", "model=vit_b32_openai,vit_b16_openai,vit_l14_openai,siglip2_b16",
             *PUBLIC],
    "dissect_clip": ["evaluate", "experiment=dissect", "model=vit_b32_openai", *PUBLIC],
}  # fmt: skip
"""Arguments of ``clipshift``, by name of the run."""
DOWNLOADED = ("clip", "dissect_clip")
"""Runs whose weights and photographs are downloaded: they are made only when they are named."""
MADE = [name for name in RUNS if name not in DOWNLOADED]
DEMO = ["model=lite"]
BESIDE = "tiny"
"""What the demo's picture shows beside `DEMO`."""
STAMP = "findings.json"
"""The file of a finished run that records its options and sources."""
MARKED = re.compile(r"(<!-- findings:([\w-]+) -->\n)(.*?)(<!-- /findings:\2 -->)", re.DOTALL)
NAMED = ("noise", "perspective", "shift_scale_rotate")
"""The most drastic augmentations in the paper's abstract."""
SECOND = ("noise", "blur", "coarse_dropout", "color_jitter")
"""The strongest augmentations in summaries of the paper."""
UNDONE = ("undone", "undone_low", "undone_high")
MILD = ("flip", "brightness_contrast")
"""The mild augmentations in summaries of the paper."""
SIGNIFICANT = 0.05
WIDTH = 118
"""Columns of prose in the pages."""


@dataclass
class Training:
    """A fine-tuning: the comparison of its models, photo by photo, and the curve of α."""

    info: RunInfo
    """The base's ``run.json``."""
    trained_on: list[str]
    comparison: pd.DataFrame
    interpolation: pd.DataFrame
    outcome: pd.DataFrame


# --- runs ----------------------------------------------------------------------------------------


@cache
def sources_sha256() -> str:
    """Return a SHA-256 over everything that determines a run's numbers: code, options, weights."""
    digest = hashlib.sha256()
    kinds = {".py", ".yaml", ".json", ".safetensors"}
    files = (file for folder in ("clipshift", "conf") for file in (ROOT / folder).rglob("*"))
    for file in sorted(file for file in files if file.suffix in kinds):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def photos_folder() -> str:
    """Return the folder of the photographs."""
    return os.environ.get("CLIPSHIFT_PHOTOS", str(ROOT / PHOTOS))


def arguments_of(name: str, limit: int | None) -> list[str]:
    """Return the arguments of ``clipshift`` for a run, on a limited number of photographs."""
    arguments = [argument.replace(PHOTOS, photos_folder()) for argument in RUNS[name]]
    if limit and "train" in arguments:
        evaluation = OmegaConf.to_container(compose_config("train", arguments[1:]).evaluation)
        options = ",".join(f"'{option}'" for option in [*evaluation, f"data.sample={limit}"])
        arguments += [f"data.train.sample={4 * limit}", f"data.val.sample={limit}",
                      "trainer.max_epochs=1", f"evaluation=[{options}]"]  # fmt: skip
    elif limit and name != "builtin":
        arguments.append(f"data.sample={limit}")
    return arguments


def is_current(name: str, folder: Path, limit: int | None) -> bool:
    """Whether a folder holds a run of the same options, code and weights."""
    try:
        stamp = read_json(folder / STAMP)
    except (OSError, ValueError):
        return False
    return bool(
        stamp["sources"] == sources_sha256() and stamp["options"] == options_of(name, limit)
    )


def options_of(name: str, limit: int | None) -> list[str]:
    """Return what identifies a run, independent of the photographs' folder."""
    return [*RUNS[name], f"limit={limit}"]


def make(name: str, folder: Path, limit: int | None) -> None:
    """Make a run, unless it is current; continue an interrupted one."""
    if is_current(name, folder, limit):
        print(f"{name}: current, in {folder}")
        return
    if (folder / STAMP).exists():
        shutil.rmtree(folder)
    print(f"{name}: {command_of(name)}", flush=True)
    start = time.perf_counter()
    place = "sweep" if "-m" in RUNS[name] else "run"
    done = subprocess.run(
        [sys.executable, "-m", "clipshift", *arguments_of(name, limit),
         f"hydra.{place}.dir={folder}", "logger=none"],
        cwd=ROOT, check=False, env=os.environ | {"CLIPSHIFT_PHOTOS": photos_folder()},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"findings: {name} failed; the same command goes on, or remove {folder}")
    seconds = round(time.perf_counter() - start)
    stamp = {"options": options_of(name, limit), "sources": sources_sha256(), "seconds": seconds}
    write_json(folder / STAMP, stamp)


def load(folder: Path) -> Run | Training | list[Run]:
    """Read a finished run of `RUNS`; of a sweep, all of its runs in the order of its jobs."""
    if (folder / "run.json").exists():
        return read_run(folder)
    if jobs := [read_run(file.parent) for file in sorted(folder.glob("[0-9]/run.json"))]:
        return jobs
    return Training(
        read_info(folder / "base"),
        read_run(folder / "robust").trained_on,
        pd.read_csv(folder / "comparison.csv", dtype={"severity": str}),
        pd.read_csv(folder / "interpolation.csv"),
        pd.read_csv(folder / OUTCOME, dtype={"severity": str}),
    )


# --- cells ---------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, low: float = np.nan, high: float = np.nan, digits: str = ".3f") -> str:
    """Format a number with its interval and a typographic minus sign; NaN is empty."""
    return "" if np.isnan(value) else with_interval(value, low, high, digits).replace("-", "−")


def percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """Format a share in per cent."""
    return number(100 * value, 100 * low, 100 * high, ".1f") + " %"


def code(name: str) -> str:
    """Format an augmentation's name as code, and words in italics."""
    return f"*{name}*" if " " in name else f"`{name}`"


def ends(row: Any, value: str, low: str = "ci_low", high: str = "ci_high") -> list[float]:
    """Return a row's number and its interval."""
    return [float(row[column]) for column in (value, low, high)]


def command_of(name: str) -> str:
    """Return a run's command as a reader types it."""
    return shlex.join(["clipshift", *RUNS[name]])


def means(run: Run, severity: str, measure: str) -> pd.DataFrame:
    """Return ``mean``, ``ci_low`` and ``ci_high`` of a measure, by augmentation."""
    rows = run.summary
    rows = rows[(rows["severity"] == severity) & (rows["measure"] == measure)]
    return rows.set_index("augmentation")[["mean", "ci_low", "ci_high"]]


def ranking(run: Run, severity: str) -> pd.DataFrame:
    """Return the rows of ``ranking.csv`` at a severity, by augmentation."""
    return run.ranking[run.ranking["severity"] == severity].set_index("augmentation")


# --- blocks --------------------------------------------------------------------------------------


def command_block(name: str) -> str:
    """Return a code block with the command of a run."""
    line = command_of(name)
    broken = textwrap.wrap(line, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "```sh\n" + " \\\n    ".join(broken) + "\n```"


def weights_of(run: Run | Training) -> str:
    """Name a model with the beginning of its weights' SHA-256."""
    model = run.info.model
    return f"`{model.name}` (weights SHA-256 `{model.weights_sha256[:8]}…`)"


def version_of(run: Run | Training) -> str:
    """Return the version, commit and date of a run."""
    info = run.info
    digits, plus, _ = (info.commit or "unknown").partition("+")
    commit = digits[:7] + (" with changes" if plus else "")
    return f"clipshift {info.versions['clipshift']} at commit {commit}, {info.started[:10]}"


def provenance(run: Run | Training) -> str:
    """Return model, photographs, seed, precision and version of a section's run."""
    info = run.info
    photos = counted(info.data.photos, "photograph")
    return (
        f"Model {weights_of(run)}, {photos}, seed {info.seed}, {info.precision}, {version_of(run)}."
    )


def demo_provenance(lite: Run, tiny: Run) -> str:
    """Return the models and the version of the demo's picture."""
    return f"In the picture: {weights_of(lite)} and {weights_of(tiny)}, {version_of(lite)}."


def headline(run: Run) -> str:
    """Return a run's own summary, and the agreement of its two rankings."""
    tau = number(*run.agreement, ".2f") if run.agreement else ""
    name = run.info.model.name
    return " ".join(
        [*answer(run), f"Kendall's τ between the two rankings of `{name}`: {tau}."]
    ).replace("[-", "[−")


def summary(lite: Run, tiny: Run) -> str:
    """Return the summary at the top of the page."""
    runs = (lite, tiny)
    paper = "at the paper's strengths"
    rows = [
        [f"largest, {paper}", *(leader(run, PAPER) for run in runs)],
        [
            f"smallest, {paper}",
            *(f"`{smallest(run)}`: {shift(run, smallest(run))}" for run in runs),
        ],
        ["largest, at equal distortion", *(leader(run, MATCHED) for run in runs)],
        ["Kendall's τ between the two rankings", *(number(*run.agreement, ".2f") for run in runs)],
        [f"three largest, {paper}", *(in_words(ranking(run, PAPER).index[:3]) for run in runs)],
    ]
    head = "relative shift (1 = the mean distance between two different photographs)"
    clean = means(lite, PAPER, "zero_shot_top1_clean").iloc[0]
    under = means(lite, PAPER, "zero_shot_top1")
    worst = under["mean"].idxmin()
    classes = counted(len(lite.info.data.classes), "class name")
    lines = [
        f"- The paper's abstract names {in_words(NAMED)} among the most drastic augmentations of "
        "CLIP ViT-B/32.",
        f"- Zero-shot top-1 of `lite` over {classes}: {percent(*clean)} on clean photographs. At "
        f"the paper's strengths it is lowest under `{worst}`: {percent(*under.loc[worst])}.",
    ]
    return "\n".join(
        [table([head, *(f"`{run.info.model.name}`" for run in runs)], rows), "", *lines]
    )


def shift(run: Run, name: str, severity: str = PAPER) -> str:
    """Return the mean relative shift under an augmentation, to a few digits."""
    return short(*means(run, severity, "relative_shift").loc[name]).replace("-", "−")


def smallest(run: Run) -> str:
    """Return the augmentation with the smallest mean relative shift at the paper's strengths."""
    return str(means(run, PAPER, "relative_shift")["mean"].idxmin())


def leader(run: Run, severity: str) -> str:
    """Return the augmentation with the largest mean shift, and whether its rank is certain."""
    ranked = ranking(run, severity)
    first, *others = ranked.index[ranked["rank_low"] == 1]
    certain = f"not distinguishable from {in_words(others)}" if others else CERTAIN
    return f"`{first}`: {shift(run, first, severity)}; {certain}"


CERTAIN = "ranks first at the 95 % level"


def training_summary(training: Training) -> str:
    """Return a sentence about the effect of a fine-tuning."""
    before, after = training.info.model.name, training.comparison["model_b"].iloc[-1]
    pair = pair_of(training, before, after)
    changes = [change_in_words(pair, group) for group in GROUPS[:2]]
    line = (
        f"Fine-tuning `{before}` on {counted(len(training.trained_on), 'augmentation')} "
        f"changes its mean relative shift by {changes[0]} on those measured, and by {changes[1]} "
        f"on those held out, over {counted(int(pair['n'].max()), 'photograph')} it was not "
        "trained on"
    )
    if len(models_of(training)) == 3:
        control = pair_of(training, before, models_of(training)[1])
        changes = [change_in_words(control, group) for group in GROUPS[:2]]
        line += f"; the same training on clean views alone: {changes[0]} and {changes[1]}"
    return f"- {line}."


def shift_table(run: Run, severity: str) -> str:
    """Return a ranking with the measures, and the neighbours that do not differ significantly."""
    ranked = ranking(run, severity)
    columns = {
        "relative shift": ("relative_shift", ".3f"),
        "retained": ("retained", ".3f"),
        "top-1": ("zero_shot_top1", ".3f"),
        "gaze divergence": ("gaze_divergence", ".3f"),
        "aligned": ("gaze_divergence_aligned", ".3f"),
        "edge": ("edge_preservation", ".3f"),
        "detail": ("detail_preservation", ".3f"),
    }
    values = {head: means(run, severity, measure) for head, (measure, _) in columns.items()}
    ssim = means(run, severity, "ssim")
    matched = severity == MATCHED
    rows = []
    for name, row in ranked.iterrows():
        cells = [
            code(name),
            number(*ends(row, "shift"), ".4f"),
            ranks_in_words(int(row["rank_low"]), int(row["rank_high"])),
            *(number(values[head].loc[name, "mean"]) for head in columns),
            number(*ssim.loc[name]) if matched else number(ssim.loc[name, "mean"]),
        ]
        strength = run.info.strengths[f"{name}@{severity}"]
        rows.append([*cells, *([f"{strength:.3g}"] if matched else [])])
    head = ["augmentation", "1 − cosine", "rank", *columns, "SSIM", *(["strength"] * matched)]
    names = list(ranked.index)
    alike = [
        f"`{first}` and `{second}`"
        for first, second in pairwise(names)
        if not ranked.loc[first, "different"]
    ]
    neighbours = f"Neighbours that do not differ significantly: {'; '.join(alike) or 'none'}."
    return f"{table(head, rows)}\n\n{neighbours}"


def ranks_table(lite: Run, tiny: Run) -> str:
    """Return the ranks of both models at both severities."""
    runs = [(run, severity) for run in (lite, tiny) for severity in (PAPER, MATCHED)]
    tables = [ranking(run, severity) for run, severity in runs]
    rows = [
        [
            code(name),
            *(
                ranks_in_words(*ranks.loc[name, ["rank_low", "rank_high"]].astype(int))
                for ranks in tables
            ),
        ]
        for name in tables[0].index
    ]
    head = [f"`{run.info.model.name}`, {severity}" for run, severity in runs]
    return table(["augmentation", *head], rows)


def gaze_sentence(lite: Run, tiny: Run) -> str:
    """Return a sentence about the effect of aligning the gaze under flip."""
    changes = []
    for run in (lite, tiny):
        plain_gaze, aligned = (
            number(means(run, PAPER, measure).loc["flip", "mean"])
            for measure in ("gaze_divergence", "gaze_divergence_aligned")
        )
        changes.append(f"from {plain_gaze} to {aligned} for `{run.info.model.name}`")
    return (
        "Moving the gaze back with the pixels changes its divergence under `flip` "
        f"{' and '.join(changes)}."
    )


def layer_table(run: Run) -> str:
    """Return debiased CKA after each layer at the paper's strengths, and where it changes."""
    rows = run.layers[run.layers["severity"] == PAPER]
    cka = rows.pivot(index="augmentation", columns="layer", values="cka")
    cka = cka.loc[ranking(run, PAPER).index]
    cka_table = table(
        ["augmentation", *map(str, cka.columns)],
        (
            [code(name), *map(number, row)]
            for name, row in zip(cka.index, cka.to_numpy(), strict=True)
        ),
    )
    low, high = (
        rows.pivot(index="augmentation", columns="layer", values=end).loc[cka.index]
        for end in ("cka_low", "cka_high")
    )
    first, last = cka.columns[0], cka.columns[-1]
    rises = list(cka.index[low[last] > high[first]])
    falls = list(cka.index[high[last] < low[first]])
    trend = (
        f"Between the first and the last layer, CKA rises under {in_words(rises)} and falls under "
        f"{in_words(falls)} (their 95 % intervals do not overlap)."
    )
    return f"{cka_table}\n\n{trend}"


def in_words(names: Sequence[str]) -> str:
    """List names in words; "none" if there are none."""
    quoted = [f"`{name}`" for name in names]
    return (
        ", ".join(quoted[:-1]) + " and " + quoted[-1]
        if len(quoted) > 1
        else "".join(quoted) or "none"
    )


def correlation_table(run: Run) -> str:
    """Return correlations with the shift over photos, at the paper's strengths."""
    rows = run.correlations[run.correlations["severity"] == PAPER]
    columns = list(dict.fromkeys(rows["with"]))
    by_name = rows.set_index(["augmentation", "with"])
    cells = []
    for name in ranking(run, PAPER).index:
        correlations = [by_name.loc[(name, column)] for column in columns]
        rhos = [number(row["rho"], digits="+.2f") for row in correlations]
        significant = [row["p_holm"] < SIGNIFICANT for row in correlations]
        cells.append(
            [code(name), *(f"**{t}**" if s else t for t, s in zip(rhos, significant, strict=True))]
        )
    return table(["augmentation", *(column.replace("_", " ") for column in columns)], cells)


def across_augmentations(run: Run, severity: str, measure: str) -> str:
    """Return Spearman's ρ of mean cosine similarity and another mean, over augmentations."""
    both = means(run, severity, "cosine_similarity")[["mean"]].join(
        means(run, severity, measure)[["mean"]], rsuffix="_other"
    )
    rho = float(spearmanr(both).statistic)
    return f"{number(rho, *spearman_interval(rho, len(both)), '+.2f')} (n = {len(both)})"


def within_augmentations(run: Run, severity: str, loss: str) -> str:
    """Return the range of ρ over photos of 1 − cosine and a loss, and the significant cases."""
    rows = run.correlations
    correlations = rows[(rows["severity"] == severity) & (rows["with"] == loss)]
    low, high = (
        number(end, digits="+.2f") for end in (correlations["rho"].min(), correlations["rho"].max())
    )
    significant = (correlations["p_holm"] < SIGNIFICANT).sum()
    return f"{low} to {high}; {significant} of {len(correlations)} significant"


def claims_table(lite: Run, tiny: Run) -> str:
    """Return the paper's claims, one by one, with the results of these runs."""
    runs = [(run, severity) for run in (lite, tiny) for severity in (PAPER, MATCHED)]

    def ranks(names: Sequence[str]) -> list[str]:
        rows = [ranking(run, severity).loc[list(names)] for run, severity in runs]
        ends = [zip(row["rank_low"], row["rank_high"], strict=True) for row in rows]
        return [
            "ranks " + ", ".join(ranks_in_words(int(i), int(j)) for i, j in row) for row in ends
        ]

    rows = [
        [f"{in_words(NAMED)} shift most (abstract)", *ranks(NAMED)],
        [f"{in_words(SECOND)} shift most (summaries)", *ranks(SECOND)],
        [f"{in_words(MILD)} shift little (summaries)", *ranks(MILD)],
    ]
    for kind in ("edge", "detail"):
        rows.append(
            [
                f"{kind} preservation correlates with embedding similarity: ρ across augmentations",
                *(across_augmentations(*run, f"{kind}_preservation") for run in runs),
            ]
        )
    for kind in ("edge", "detail"):
        rows.append(
            [
                f"the same over photos within one augmentation: ρ of {kind} loss and 1 − cosine",
                *(within_augmentations(*run, f"{kind}_loss") for run in runs),
            ]
        )
    head = [f"`{run.info.model.name}`, {severity}" for run, severity in runs]
    return table(["the paper's claim", *head], rows)


def inside_table(run: Run) -> str:
    """Return direction, recovery and neighbours, matched; the last row is the paper's noise."""
    keys = ["severity", "augmentation"]
    directions = run.directions.set_index(keys)
    undone = run.undone.set_index(["method", *keys])
    near = run.neighbourhoods.set_index(["measure", *keys])
    shown = [
        key
        for key in directions.sort_values("direction", ascending=False).index
        if key[0] == MATCHED
    ]
    contracts = "contraction" in directions
    rows = []
    for key in [*shown, (PAPER, "noise")]:
        row = directions.loc[key]
        chance = " n. s." if row["p_holm"] >= SIGNIFICANT else ""
        rows.append(
            [
                code(key[1]) + (" (paper's strength)" if key[0] == PAPER else ""),
                number(*ends(row, "direction"), ".2f") + chance,
                *([number(row["contraction"], digits="+.2f")] if contracts else []),
                number(*ends(row, "share", "share_low", "share_high"), ".2f"),
                *(
                    number(*ends(undone.loc[(m, *key)], "r_squared"), ".2f")
                    for m in ("none", "ridge")
                ),
                number(*ends(near.loc[("neighbours_kept", *key)], "value"), ".2f"),
                number(near.loc[("effective_rank", *key), "value"], digits=".0f"),
            ]
        )
    kept, rank = (
        near.loc[(m, MATCHED, shown[0][1]), "reference"]
        for m in ("neighbours_kept", "effective_rank")
    )
    head = [
        "augmentation",
        "direction",
        *(["contraction"] * contracts),
        "share",
        "R² without a map",
        "R² by ridge",
        "neighbours kept",
        "effective rank",
    ]
    note = (
        f"Neighbours kept by chance: {number(kept)}. Effective rank of the clean photos: "
        f"{number(rank, digits='.0f')}. n. s.: not significant after Holm's correction."
    )
    return f"{table(head, rows)}\n\n{note}"


def cosines_table(run: Run, count: int = 4) -> str:
    """Return the pairs with the most similar and most opposed mean displacements, matched."""
    rows = run.direction_cosines
    significant = rows[
        (rows["severity"] == MATCHED) & ((rows["ci_low"] > 0) | (rows["ci_high"] < 0))
    ]
    significant = significant.sort_values("cosine", ascending=False)
    against = significant[significant["cosine"] < 0].tail(count)
    shown = pd.concat([significant[significant["cosine"] > 0].head(count), against])
    return table(
        ["augmentation", "other", "cosine of the mean displacements"],
        (
            [code(row["augmentation"]), code(row["other"]), number(*ends(row, "cosine"), ".2f")]
            for _, row in shown.iterrows()
        ),
    )


def texts_table(run: Run) -> str:
    """Return the class that gains most and the one that loses most, matched."""
    rows = run.named[(run.named["severity"] == MATCHED) & (run.named["vocabulary"] == "classes")]
    significant = rows[rows["p_holm"] < SIGNIFICANT]

    def in_cell(row: Any) -> str:
        return f"*{row['text']}* {number(*ends(row, 'change'), '+.3f')}"

    cells = []
    for name in ranking(run, MATCHED).index:
        changes = significant[significant["augmentation"] == name].sort_values("change")
        gained, lost = changes[changes["change"] > 0], changes[changes["change"] < 0]
        cells.append(
            [
                code(name),
                in_cell(gained.iloc[-1]) if len(gained) else "",
                in_cell(lost.iloc[0]) if len(lost) else "",
            ]
        )
    return table(["augmentation", "class gained most", "class lost most"], cells)


def components_table(run: Run, count: int = 10) -> str:
    """Return the heads that carry most of the shift, with what patching says of them."""
    rows = run.components[run.components["augmentation"] == ALL]
    keys = ["layer", "component", "head"]
    patched = run.patching.groupby(keys, dropna=False)[["undone", "alone"]].mean()
    heads = rows[rows["component"] == "head"].nlargest(count, "share")
    patched = patched.reindex(pd.MultiIndex.from_frame(heads[keys]))
    cells = [
        [
            f"{row['layer']:.0f}",
            f"{row['head']:.0f}",
            percent(*ends(row, "share")),
            *(percent(of) if pd.notna(of) else "" for of in patched.loc[tuple(row[keys])]),
        ]
        for _, row in heads.iterrows()
    ]
    sums = rows.groupby("component")["share"].sum()
    head = ["layer", "head", "share of the shift", "undone by its clean output", "made by it alone"]
    note = (
        f"Attention carries {percent(sums['attention'])} of the shift, MLPs "
        f"{percent(sums['mlp'])}, and what is constant {percent(sums['constant'])}."
    )
    return f"{table(head, cells)}\n\n{note}"


def stages_table(run: Run) -> str:
    """Return what patching says of stages, where augmentations leave pixels in their places."""
    patched = run.patching.set_index(["augmentation", "layer"])
    rows = [
        [
            f"{layer:.0f}",
            *(
                f"{percent(*(patched.loc[(name, layer), part] for part in UNDONE))}; "
                f"{percent(patched.loc[(name, layer), 'alone'])}"
                for name in SECOND
            ),
        ]
        for layer in run.patching["layer"].unique()
    ]
    return table(["stage", *(code(name) for name in SECOND)], rows)


def parts_table(run: Run) -> str:
    """Return the parts of the shift, and with classes the flips that margins predict."""
    parts = run.geometry.set_index(["augmentation", "part"])
    names = list(ranking(run, PAPER).index)
    shown = [part for part in run.geometry["part"].unique() if part != "own"]
    margins = run.margins[run.margins["prompt"] == ALL] if len(run.margins) else run.margins
    margins = margins.set_index(["augmentation", "measure"])
    flips = ["predicted_flips", "flips"] if len(margins) else []
    rows = [
        [
            code(name),
            *(percent(*ends(parts.loc[name, part], "share")) for part in shown),
            *(percent(*ends(margins.loc[name, measure], "value")) for measure in flips),
        ]
        for name in names
    ]
    heads = {"class_span": "inside the span of the classes", "predicted_flips": "predicted flips"}
    text = table(["augmentation", *(heads.get(of, of) for of in [*shown, *flips])], rows)
    if "class_span" not in shown:
        return text
    at_random = percent(parts.xs("class_span", level="part")["reference"].iloc[0])
    return f"{text}\n\nRandom displacements would be inside the span of the classes by {at_random}."


def encoded_table(run: Run) -> str:
    """Return what draws predict, how views are told from clean ones, and what is retained."""
    rows = run.encoded.set_index(["augmentation", "measure"])
    retained = means(run, PAPER, "retained")
    cells = []
    for name in ranking(run, PAPER).index:
        measures = rows.loc[name]
        drawn = measures[measures.index.str.startswith("draw:")]
        best = drawn.loc[drawn["value"].idxmax()] if len(drawn) else None
        cells.append(
            [
                code(name),
                number(*ends(measures.loc["auroc"], "value")),
                number(*retained.loc[name]),
                "" if best is None else f"{best.name[5:]}: {number(*ends(best, 'value'), '.2f')}",
                number(*ends(measures.loc["predicted_by_draws"], "value"), ".2f")
                if "predicted_by_draws" in measures.index
                else "",
            ]
        )
    head = ["augmentation", "told from clean, AUROC", "retained", "best read draw, R²",
            "shift predicted by draws, R²"]  # fmt: skip
    return table(head, cells)


def faithfulness_table(run: Run) -> str:
    """Return the scores of maps on clean views, and their range over augmentations."""
    scores = run.faithfulness.pivot_table(
        index=["map", "augmentation"], columns="measure", values=["mean", "ci_low", "ci_high"]
    )
    measures = ["deletion", "insertion", "agreement", "shift_agreement"]
    cells = []
    for kind in dict.fromkeys(run.faithfulness["map"]):
        if kind in ("random", "occlusion"):
            continue
        of_map = scores.loc[kind]
        row = [kind]
        for measure in measures:
            views = of_map["mean"].reindex(columns=measures)[measure].drop("clean").dropna()
            low, high = (number(end, digits=".2f") for end in (views.min(), views.max()))
            clean = of_map.loc["clean"].unstack(0).reindex(measures).loc[measure]
            text = number(*ends(clean, "mean"), ".2f")
            row.append(f"{text}; {low} to {high}" if text else f"{low} to {high}")
        cells.append(row)
    head = ["map", "deletion", "insertion", "agreement with occlusion", "the same, of the shift"]
    return table(head, cells)


def ladder_table(run: Run) -> str:
    """Return strength and realised SSIM at each step of each ladder."""
    steps = sorted(run.summary["severity"].unique())
    realised = {step: means(run, step, "ssim")["mean"] for step in steps}
    strengths = run.info.strengths
    names = list(dict.fromkeys(run.summary["augmentation"]))
    rows = [
        [code(name), *(f"{strengths[f'{name}@{s}']:.3g} ({realised[s][name]:.3f})" for s in steps)]
        for name in names
    ]
    falls = all(np.all(np.diff([realised[step][name] for step in steps]) < 0) for name in names)
    if not falls:
        raise AssertionError("the mean SSIM of a ladder does not fall from step to step")
    return table(["augmentation", *steps], rows)


def models_of(training: Training) -> list[str]:
    """Return the models: base, control if there is one, robust."""
    names = training.comparison
    return list(dict.fromkeys([*names["model_a"], *names["model_b"]]))


def pair_of(training: Training, before: str, after: str) -> pd.DataFrame:
    """Return the paired comparison of two models."""
    rows = training.comparison
    return rows[(rows["model_a"] == before) & (rows["model_b"] == after)]


def change_in_words(pair: pd.DataFrame, augmentation: str) -> str:
    """Return the change of the relative shift in per cent of the first model's."""
    rows = pair[(pair["augmentation"] == augmentation) & (pair["measure"] == "relative_shift")]
    (row,) = rows.to_dict("records")
    change = 100 * np.array(ends(row, "difference")) / row["mean_a"]
    return number(*change, "+.0f") + " %"


def interpolation_table(training: Training) -> str:
    """Return the curve from base to tuned weights."""
    rows = training.interpolation
    head = [
        "α",
        "mean 1 − cosine, trained augmentations",
        "clean top-1",
        "top-1, trained augmentations",
    ]
    return table(
        head,
        (
            [f"{row.alpha:g}", number(row.shift), percent(row.clean_top1), percent(row.top1)]
            for row in rows.itertuples()
        ),
    )


def robust_table(training: Training) -> str:
    """Return the relative shift of base and robust model, by augmentation."""
    base, robust = models_of(training)[0], models_of(training)[-1]
    pair = pair_of(training, base, robust)
    rows = []
    for row in pair[pair["measure"] == "relative_shift"].to_dict("records"):
        name = row["augmentation"]
        trained = name in training.trained_on or name == GROUPS[0]
        rows.append(
            [
                code(name),
                "yes" if trained else "no",
                number(row["mean_a"]),
                number(row["mean_b"]),
                number(100 * (row["mean_b"] / row["mean_a"] - 1), digits="+.0f") + " %",
                number(*ends(row, "difference"), "+.5f"),
                number(100 * row["improved"], digits=".0f") + " %",
            ]
        )
    head = ["augmentation", "trained on", "base", "robust", "change", "paired difference",
            "photos improved"]  # fmt: skip
    return table(head, rows)


def outcome_table(training: Training) -> str:
    """Return what the fine-tuning changed, with the control if there is one."""
    head, *rows = outcome_cells(training.outcome)
    return table(head, ([re.sub(r"-(?=\d+\.)", "−", cell) for cell in row] for row in rows))


def caption(run: Run) -> str:
    """Return the caption of the picture in README and the docs' start page."""
    photos = counted(run.info.data.photos, "photograph")
    return f"*{headline(run)} Ranks with their 95 % intervals over {photos}.*"


def clip_table(runs: Sequence[Run]) -> str:
    """Return the leading numbers of CLIP's models, which lite and tiny stand for."""
    rows = []
    for run in runs:
        shifts, top1 = means(run, PAPER, "relative_shift"), means(run, PAPER, "zero_shot_top1")
        largest = ranking(run, PAPER).index[0]
        clean = means(run, PAPER, "zero_shot_top1_clean").iloc[0]
        rows.append(
            [
                code(run.info.model.name),
                number(shifts["mean"].mean()),
                f"{code(largest)} {number(*shifts.loc[largest])}",
                percent(*clean),
                percent(top1["mean"].mean()),
            ]
        )
    photos = counted(runs[0].info.data.photos, "photograph")
    line = f"{photos} of ImageNet-V2, measured by {version_of(runs[0])}."
    return "\n".join([table(CLIP_HEAD, rows), "", line])


CLIP_HEAD = ["model", "mean relative shift", "largest", "clean top-1", "top-1, mean"]

Block = tuple[Callable[..., str], tuple[str, ...]]
BLOCKS: dict[str, Block] = {
    "summary": (summary, ("lite", "tiny")),
    "caption": (caption, ("lite",)),
    "ranks": (ranks_table, ("lite", "tiny")),
    "gaze": (gaze_sentence, ("lite", "tiny")),
    "claims": (claims_table, ("lite", "tiny")),
    "ladders": (ladder_table, ("ladders",)),
    "clip": (clip_table, ("clip",)),
    "made-demo": (demo_provenance, ("builtin", "tiny")),
    "texts-lite": (texts_table, ("lite",)),
    "components-tiny": (components_table, ("dissect_tiny",)),
    "stages-lite": (stages_table, ("dissect_lite",)),
    **{f"command-{name}": (lambda *_, name=name: command_block(name), ()) for name in MADE},
    **{f"made-{name}": (provenance, (name,)) for name in MADE},
}
for _model in ("lite", "tiny"):
    BLOCKS |= {
        f"{_model}-{PAPER}": (partial(shift_table, severity=PAPER), (_model,)),
        f"{_model}-{MATCHED}": (partial(shift_table, severity=MATCHED), (_model,)),
        f"layers-{_model}": (layer_table, (_model,)),
        f"correlations-{_model}": (correlation_table, (_model,)),
        f"inside-{_model}": (inside_table, (_model,)),
        f"cosines-{_model}": (cosines_table, (_model,)),
        f"geometry-{_model}": (parts_table, (f"dissect_{_model}",)),
        f"encoded-{_model}": (encoded_table, (f"dissect_{_model}",)),
        f"faithfulness-{_model}": (faithfulness_table, (f"dissect_{_model}",)),
        f"training-summary-{_model}": (training_summary, (f"robustify_{_model}",)),
        f"interpolation-{_model}": (interpolation_table, (f"robustify_{_model}",)),
        f"robust-{_model}": (robust_table, (f"robustify_{_model}",)),
        f"outcome-{_model}": (outcome_table, (f"robustify_{_model}",)),
    }
"""The function that writes a block and the runs that it uses, by the markers' name."""


# --- pages ---------------------------------------------------------------------------------------


def wrapped(block: str) -> str:
    """Break prose into lines below 120 columns; tables and commands keep theirs."""
    if block.startswith("```"):
        return block
    lines = []
    for line in block.split("\n"):
        prose = textwrap.TextWrapper(
            WIDTH,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line] if line.startswith("|") or not line else prose.wrap(line)
    return "\n".join(lines)


def with_blocks(page: str, contents: Mapping[str, str]) -> str:
    """Return a page with new contents between its markers; other blocks stay as they are.

    Raises:
        KeyError: If a marker's name is none of `BLOCKS`.
    """

    def filled(match: re.Match[str]) -> str:
        start, name, old, end = match.groups()
        BLOCKS[name]  # a misspelt marker would never be written
        return start + (f"\n{wrapped(contents[name])}\n\n" if name in contents else old) + end

    return MARKED.sub(filled, page)


def take_pictures(runs: Mapping[str, Path], images: Path) -> None:
    """Take the pictures of README and docs that show runs; screenshots require Chromium."""
    images.mkdir(parents=True, exist_ok=True)
    if "lite" in runs:
        shutil.copy(runs["lite"] / "figures" / "agreement.png", images / "rankings.png")
    if "builtin" not in runs:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 860})
        take_report(tab, runs["builtin"], images)
        take_demo(tab, runs["builtin"], images)
        browser.close()


def take_report(tab: Any, run: Path, images: Path) -> None:
    """Take the first screen of a page, and an enlarged photo."""
    tab.goto((run / "report.html").resolve().as_uri())
    tab.wait_for_selector("#ranking svg")
    tab.screenshot(path=images / "report.png")
    tab.locator("#photo-find").fill("chelsea")
    tab.locator(".card").first.click()
    tab.locator("#photo-variant").select_option(label="shift_scale_rotate")
    tab.locator("#photo-dialog").screenshot(path=images / "photo.png")


def take_demo(tab: Any, folder: Path, images: Path) -> None:
    """Take the demo's views with gaze, and the demo of two models at severity 4."""
    command = [sys.executable, "-u", "-m", "clipshift", "demo", *DEMO]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as demo:
        try:
            addresses = (re.search(r"http://[\w.:]+", line) for line in demo.stdout or ())
            tab.goto(next(match[0] for match in addresses if match))
            with tab.expect_download() as saved:
                tab.get_by_text("Save all pictures").click()
            saved.value.save_as(folder / "views.png")
            tab.get_by_label("Beside it", exact=True).click()
            tab.get_by_role("option", name=BESIDE).click()
            tab.locator("input[type=range]").fill("4")
            tab.locator("#answer button", has_text="shift_").click()
            tab.locator("#answer h2", has_text="at severity 4").wait_for()
            tab.locator(".lead", has_text=f"rotate shifts {BESIDE}").wait_for()
            tab.screenshot(path=folder / "demo.png", full_page=True)
        finally:
            demo.send_signal(signal.SIGINT)
    Image.open(folder / "demo.png").save(images / "demo.webp", quality=85)
    with Image.open(folder / "views.png") as views:  # the clean one and the four that shift most
        views.crop((0, 0, views.width // 2, views.height)).save(images / "views.webp", quality=85)


def main() -> None:
    """Make the runs, and write their results into the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"(all that need no download): {', '.join(RUNS)}"
    )
    parser.add_argument(
        "--limit", type=int, help="the number of photographs of a trial: 24 or more"
    )
    given = parser.parse_args()
    if unknown := set(given.runs) - set(RUNS):
        parser.error(f"unknown run {unknown.pop()}; valid are {', '.join(RUNS)}")
    work = ROOT / "outputs" / ("findings_trial" if given.limit else "findings")
    for name in given.runs or MADE:
        make(name, work / name, given.limit)
    current = {n: work / n for n in RUNS if is_current(n, work / n, given.limit)}
    loaded = {name: load(folder) for name, folder in current.items()}
    writable = {name: block for name, block in BLOCKS.items() if set(block[1]) <= set(loaded)}
    contents = {n: write(*(loaded[run] for run in of)) for n, (write, of) in writable.items()}
    for page in PAGES:
        text = page.read_text("utf-8")
        place = work / "pages" / page.relative_to(ROOT) if given.limit else page
        if MARKED.search(text):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(with_blocks(text, contents), "utf-8")
            print(f"written: {place}")
    take_pictures(current, work / "pages" / "images" if given.limit else IMAGES)
    if outdated := [name for name in BLOCKS if name not in contents]:
        print(f"not written, because their runs are outdated: {', '.join(outdated)}")


if __name__ == "__main__":
    main()
