"""A run's report: its figures and page, its W&B run, and its last words."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from clipshift.augment import Variant, augment
from clipshift.data import ViewDataset, collate
from clipshift.report import figures, page, terminal, tracking, words
from clipshift.results import Measured, Tables, extreme_photos

SHOWN_PHOTOS = 3
MOVED_PHOTOS = 20


def report_run(
    cfg: DictConfig,
    run_folder: Path,
    measured: Measured,
    variants: Mapping[str, Variant],
    dataset: ViewDataset,
    tables: Tables,
    logger: Logger | None,
    notes: list[str],
) -> None:
    """Draw the figures, write the report, track it, and say the last words in the terminal.

    Args:
        cfg: The run's configuration.
        run_folder: The run's folder.
        measured: What was measured.
        variants: Augmentations at severities, by view name.
        dataset: The photos, of which some are shown.
        tables: The run's tables.
        logger: The run's logger.
        notes: What limits the numbers, a sentence each.
    """
    model, data = tables.facts["model"], tables.facts["data"]
    photos = words.counted(data["photos"], "photo")
    title = f"Embedding shift of {words.model_in_words(model)} on {photos}"
    notes += words.model_notes(model)
    notes += words.few_photos(data["photos"])
    notes += words.alike_photos(tables.facts["intraclass_correlation"])
    if tables.facts["collapsed"]:
        notes.append(
            "This model is collapsed: it gives all photos the same embedding, so that a shift of 0 "
            "means nothing."
        )
    gaze = words.gaze_in_words(model["gaze"]) if model["gaze"] else "none"
    if not model["gaze"] and "attention_similarity" in cfg.metric:
        notes.append(
            f"Gaze is not available for {model['architecture']}: measures of it are left out."
        )
    if data["skipped"]:
        notes.append(
            f"{words.counted(data['skipped'], 'photo')} could not be read: see skipped.csv."
        )
    source = f"{title}; seed {cfg.seed}, {cfg.precision}"
    drawn = figures.draw_figures(tables, galleries(measured, variants, dataset), source)
    if len(tables.ranking):
        for moved in moved_photos(tables.shift, dataset, variants):
            drawn[f"moved_{moved.side}"] = figures.draw_moved(moved)
            figures.sign(drawn[f"moved_{moved.side}"], source)
    files = figures.save_figures(drawn, run_folder / "figures")
    facts = {
        "model": f"{model['name']}: {model['architecture']}, {words.weights_in_words(model)}",
        "weights (SHA-256)": model["weights_sha256"],
        "gaze": gaze,
        "photos": f"{data['photos']} measured, {data['skipped']} skipped",
        "gallery of retained": words.counted(tables.facts["gallery"], "photo"),
        "data (SHA-256)": data["fingerprint"],
        "strengths": ", ".join(f"{k} {v:.4g}" for k, v in tables.facts["strengths"].items()),
        "seed": cfg.seed,
        "precision, device": f"{cfg.precision}, {tables.facts['device']}",
        "command": shlex.join(tables.facts["command"]),
        "started": tables.facts["started"],
        "machine": f"{tables.facts['processor']}, {tables.facts['system']}",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in tables.facts["seconds"].items()),
        "versions": ", ".join(
            f"{k} {v}"
            for k, v in {"python": tables.facts["python"], **tables.facts["versions"]}.items()
        ),
    }
    clean = page.clean_accuracy(tables.summary)
    ranked = {
        str(severity): page.ranked_table(summary, tables.columns, model["trained_on"] or [])
        for severity, summary in tables.summary.groupby("severity", sort=False)
    }
    shown = [tables.columns[m] for m in figures.shown_measures(tables.summary, tables.columns)]
    report = page.write_report(run_folder, title, facts, notes, ranked, shown, clean, files)
    places = [f"zero-shot on the clean views: {clean}"] if clean else []
    places += [f"gaze: {gaze}", f"report: {report}"]
    if isinstance(logger, WandbLogger):
        tracking.track_results(logger, tables, files, run_folder)
        places.append(tracking.run_place(logger))
    terminal.print_summary(title, ranked, notes, places)


def galleries(
    measured: Measured, variants: Mapping[str, Variant], dataset: ViewDataset
) -> dict[str, figures.Gallery]:
    """The first photos under the variants of each severity."""
    ids = [photo.id for photo in dataset.photos]
    names: dict[str, dict[str, str]] = {}
    for name, variant in variants.items():
        names.setdefault(variant.severity, {})[name] = variant.name
    return {
        severity: figures.gallery_of(measured, ids, SHOWN_PHOTOS, own)
        for severity, own in names.items()
    }


def moved_photos(
    shift: pd.DataFrame, dataset: ViewDataset, variants: Mapping[str, Variant]
) -> Iterator[figures.Moved]:
    """The photos that moved most and least. Their views are made once more: they are keyed."""
    index = {photo.id: place for place, photo in enumerate(dataset.photos)}
    by_key = {(variant.name, variant.severity): variant for variant in variants.values()}
    cosines = shift.set_index(["photo", "augmentation", "severity"])["cosine_similarity"]
    for side, chosen in extreme_photos(shift, MOVED_PHOTOS).items():
        moved = figures.Moved(side, [], [], [])
        for key in chosen:
            batch = collate([dataset[index[key[0]]]])
            if not len(batch.index):
                continue  # it has gone since it was measured
            variant = by_key[key[1:]]
            draws = batch.draws[variant.name]
            view = augment(variant.augmentation, batch.clean, draws, variant.strength)
            moved.titles.append(f"{key[0][-22:]}\n{' '.join(key[1:])}\ncos {cosines[key]:.3f}")
            moved.clean.append(batch.clean[0].numpy())
            moved.views.append(view[0].numpy())
        if moved.titles:
            yield moved
