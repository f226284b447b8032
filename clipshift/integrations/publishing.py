"""Results and model cards in the formats of leaderboards and of the Hugging Face hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import yaml

from clipshift.data.classes import class_keys, class_of
from clipshift.options import is_source
from clipshift.report.page import template
from clipshift.report.tables import markdown_table, marked
from clipshift.report.words import counted, listed, with_interval
from clipshift.results.files import file_name, subfolder, write_json, write_whole
from clipshift.results.measured import CLEAN
from clipshift.results.runs import EVAL_RESULTS, LEADERBOARD, Run
from clipshift.results.table import by_photo, labels_of
from clipshift.severities import split_view_name, view_name

TASK = "zeroshot_classification"
"""What CLIP_benchmark calls zero-shot classification."""
HUB = re.compile(r"https://huggingface\.co/datasets/([^/]+/[^/]+)")
"""The address of a data set on the hub, and its id."""


def zero_shot_rows(run: Run) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy of a run's clean views and of its views under every variant.

    As CLIP_benchmark defines them: ``acc1`` and ``acc5`` are means over photos of
    ``zero_shot_top1`` and ``zero_shot_top5``, ``mean_per_class_recall`` is the mean over classes
    that have photos of the class's own mean of ``zero_shot_top1``, which is scikit-learn's balanced
    accuracy. Photos without a value are left out, and so is ``acc5`` of five classes or fewer.

    Returns:
        The metrics, in [0, 1], by ``clean`` or the name of the variant; empty where a run has no
        zero-shot accuracy.
    """
    if "zero_shot_top1" not in run.rows:
        return {}
    classes, prompts = run.info.data.classes, run.info.prompts
    positions = {name: index for index, name in enumerate(class_keys(classes, prompts))}
    classes_of = labels_of(run.rows).map(lambda name: class_of(name, positions), na_action="ignore")
    measures = [f"zero_shot_top{k}{ending}" for k in (1, 5) for ending in ("", "_clean")]
    hits = {name: by_photo(run.rows, name) for name in measures if name in run.rows}
    variants = hits["zero_shot_top1"].columns
    several = len(variants.unique("severity")) > 1
    views = [(CLEAN, variants[0], "_clean")] if len(variants) else []
    views += [(view_name(n, s if several else None), (n, s), "") for n, s in variants]
    rows = {}
    for name, variant, ending in views:
        top1 = hits[f"zero_shot_top1{ending}"][variant]
        metrics = {"acc1": top1.mean()}
        if f"zero_shot_top5{ending}" in hits:
            metrics["acc5"] = hits[f"zero_shot_top5{ending}"][variant].mean()
        metrics["mean_per_class_recall"] = top1.groupby(classes_of).mean().mean()
        if np.isfinite(metrics["acc1"]):
            rows[name] = {metric: float(value) for metric, value in metrics.items()}
    return rows


def dataset_of(options: Mapping[str, Any]) -> tuple[str, str | None]:
    """What a data set is called, without its path; and its id on the hub, where it is known.

    A data set of CLIP_benchmark's on the hub has the name that CLIP_benchmark gives it.

    Args:
        options: ``data`` of a configuration.

    Example:
        >>> dataset_of({"_target_": "clipshift.data.folder", "root": "/photos/birds"})
        ('birds', None)
        >>> address = "https://huggingface.co/datasets/clip-benchmark/wds_cars/tree/main"
        >>> dataset_of({"_target_": "clipshift.data.shards", "root": address})
        ('wds/cars', 'clip-benchmark/wds_cars')
    """
    named = [options.get(name) or "" for name in ("root", "csv_file", "dataset")]
    named = [name if isinstance(name, str) else "" for name in named]  # a list of files
    given = next(filter(None, named), "")
    address = HUB.match(given)
    hub = address[1] if address else None
    if given == named[2] and given.count("/") == 1 and not Path(given).exists():
        hub = given
    if hub:
        return re.sub("^clip-benchmark/wds_", "wds/", hub), hub
    return (Path(given).name or f"{options['_target_'].rpartition('.')[2]} of clipshift"), None


def trained_sources(train: Mapping[str, Any]) -> list[str]:
    """What `dataset_of` calls the one source of ``data.train``, or each of several."""
    several = [one for one in train.values() if is_source(one)]
    return [dataset_of(one)[0] for one in several or [train]]


def clip_benchmark(run: Run) -> dict[str, dict[str, Any]]:
    """The zero-shot rows as LAION's CLIP_benchmark writes its results, one file each.

    Returns:
        Contents by ``clean`` or the name of the variant, whose data set is then called
        ``NAME (VARIANT)``. ``clip_benchmark build FILES`` makes one table of them.
    """
    name, _ = dataset_of(run.info.config.data)
    model = run.info.model
    weights = model.pretrained or Path(model.checkpoint or "").name
    return {
        view: {
            "dataset": name if view == CLEAN else f"{name} ({view})",
            "model": model.architecture.rpartition("/")[2],
            "pretrained": weights if model.trained else "",
            "task": TASK,
            "metrics": metrics,
            "language": "en",
        }
        for view, metrics in zero_shot_rows(run).items()
    }


def eval_results(run: Run) -> list[dict[str, Any]]:
    """The zero-shot rows as the hub reads them from ``.eval_results/*.yaml`` of a model.

    Returns:
        One entry per view: the data set's id (where it is not known to be on the hub, its name),
        the task, the top-1 accuracy in [0, 1], the date, and in ``notes`` what view it is of, the
        95 % interval and the number of photos.
    """
    name, hub = dataset_of(run.info.config.data)
    several = run.summary["severity"].nunique() > 1
    entries = []
    for view, metrics in zero_shot_rows(run).items():
        measure = "zero_shot_top1_clean" if view == CLEAN else "zero_shot_top1"
        rows = run.summary[run.summary["measure"] == measure]
        augmentation, severity = split_view_name(view)
        if view != CLEAN:
            rows = rows[rows["augmentation"] == augmentation]
            rows = rows[rows["severity"] == severity] if several else rows
        row = rows.iloc[0]
        accuracy = with_interval(row["mean"], row["ci_low"], row["ci_high"])
        what = "clean views" if view == CLEAN else f"views under {view}"
        over = f"{counted(int(row['n']), 'photo')}; clipshift {run.info.versions['clipshift']}"
        notes = f"top-1 accuracy of the {what}: {accuracy} (95 % interval) over {over}"
        data = {"id": hub or name, "task_id": TASK if view == CLEAN else f"{TASK}_{view}"}
        value, date = round(metrics["acc1"], 6), run.info.started
        entries.append({"dataset": data, "value": value, "date": date, "notes": notes})
    return entries


def write_published(run: Run) -> None:
    """Write ``clip_benchmark/`` and ``eval_results.yaml``, where photos have labels."""
    contents = clip_benchmark(run)
    folder = subfolder(run.folder, LEADERBOARD, empty=True)
    if not contents:
        folder.rmdir()
        return
    for view, content in contents.items():
        write_json(folder / f"{file_name(view)}.json", content)
    name, hub = dataset_of(run.info.config.data)
    text = yaml.safe_dump(eval_results(run), sort_keys=False, allow_unicode=True, width=1000)
    if hub is None:
        text = f"# The hub's id of the data set {name!r} is not known: fill it in.\n{text}"
    path = run.folder / EVAL_RESULTS
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def base_on_hub(base: Mapping[str, Any]) -> str | None:
    """The hub's id of a base model; None where it is not known to be there.

    Args:
        base: Its ``architecture``, ``pretrained`` and ``checkpoint``.

    Example:
        >>> base_on_hub({"architecture": "ViT-B-32", "pretrained": "openai", "checkpoint": None})
        'timm/vit_base_patch32_clip_224.openai'
    """
    schema, _, name = base["architecture"].rpartition(":")
    if base["checkpoint"]:
        return None
    if schema == "hf-hub":
        return str(name)
    import open_clip

    weights = open_clip.get_pretrained_cfg(base["architecture"], base["pretrained"] or "")
    return str(weights.get("hf_hub") or "").strip("/") or None


def license_of(base: Mapping[str, Any]) -> str:
    """The licence of a fine-tuned model, as the hub calls it: that of ``lite`` alone is known."""
    is_lite = base["architecture"] == "builtin:lite" and not base["checkpoint"]
    return "apache-2.0" if is_lite else "unknown"


def model_card(
    provenance: Mapping[str, Any],
    base: Run | None = None,
    tuned: Run | None = None,
    comparison: pd.DataFrame | None = None,
    outcome: Sequence[Sequence[str]] = (),
) -> "huggingface_hub.ModelCard":
    """The card of a fine-tuned model: its ``README.md`` on the hub.

    Args:
        provenance: What its ``provenance.json`` holds.
        base: A run of the base model, once there is one.
        tuned: A run of this model on the same views.
        comparison: Their paired differences, from ``comparison.csv``.
        outcome: What the training changed: a table's heads, and its rows.
    """
    config, source = provenance["config"], provenance["base"]
    name = f"{config['model']['name']}_{'robust' if provenance['trained_on'] else 'control'}"
    data = huggingface_hub.ModelCardData(
        license=license_of(source),
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        base_model=base_on_hub(source),
        tags=["clip", "clipshift", "robustness"],
        model_name=name,
        eval_results=(_results(tuned) or None) if tuned else None,
    )
    if data.eval_results is None:
        data.model_name = None  # which the hub knows as part of results alone
    weights = source["pretrained"] or Path(source["checkpoint"] or "").name
    compared = None
    if base and tuned and comparison is not None:
        compared = _compared(base, tuned, comparison)
    text = template("clipshift.integrations", "model_card.md.jinja").render(
        provenance=provenance,
        name=name,
        base=f"`{source['architecture']}`" + (f" (`{weights}`)" if weights else ""),
        photos=counted(provenance["photos"]["count"], "photo"),
        source=listed(trained_sources(config["data"]["train"])),
        augmentations=listed(provenance["trained_on"]),
        compared=compared,
        outcome=markdown_table(outcome, ["---"] * len(outcome[0])) if outcome else "",
        control=bool(outcome) and "control" in outcome[0],
    )
    return huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _results(run: Run) -> "list[huggingface_hub.EvalResult]":
    """A run's leading numbers for the card's metadata."""
    name, hub = dataset_of(run.info.config.data)
    clean = run.summary[run.summary["measure"] == "zero_shot_top1_clean"][:1]
    moved = run.summary[run.summary["measure"] == "relative_shift"]
    scores = [("accuracy", "zero-shot top-1, clean views", row.mean) for row in clean.itertuples()]
    for row in moved.itertuples():
        words = f"mean relative shift, {row.augmentation}, severity {row.severity}"
        scores.append(("relative_shift", words, row.mean))
    return [
        huggingface_hub.EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=hub or name,
            dataset_name=name,
            metric_type=kind,
            metric_name=words,
            metric_value=round(float(value), 6),
        )
        for kind, words, value in scores
        if np.isfinite(value)
    ]


def _compared(base: Run, tuned: Run, comparison: pd.DataFrame) -> dict[str, Any]:
    """What the fine-tune changed: its ``photos`` and ``source``, and a ``table`` in Markdown."""
    names = [run.info.model.name for run in (base, tuned)]
    measures = ["relative_shift", "zero_shot_top1_clean"]
    of_them = (comparison[["model_a", "model_b"]] == names).all(axis=1)
    rows = [["measure", "augmentation", "severity", "base", "this model", "difference"]]
    rows += [
        [
            tuned.columns[row.measure].short,
            marked(row.augmentation, tuned.trained_on),
            "" if pd.isna(row.severity) else row.severity,
            f"{row.mean_a:.3f}",
            f"{row.mean_b:.3f}",
            with_interval(row.difference, row.ci_low, row.ci_high, "+.3f"),
        ]
        for row in comparison[of_them & comparison["measure"].isin(measures)].itertuples()
    ]
    return {
        "photos": counted(tuned.info.data.photos, "photo"),
        "source": dataset_of(tuned.info.config.data)[0],
        "table": markdown_table(rows, [*["---"] * 3, *["---:"] * 3]),
    }
