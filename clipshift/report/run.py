"""A run's report, made from its files: figures and page, its W&B run, and its last words."""

import shlex
from collections.abc import Iterable, Mapping

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger

from clipshift.augment import Variant, augment
from clipshift.data import View, ViewDataset, collate
from clipshift.report import figures, page, terminal, tracking, words
from clipshift.results import CLEAN, SHOWN_PHOTOS, Run, extreme_photos, read_gazes

MOVED_PHOTOS = 20


def report_run(run: Run, dataset: ViewDataset, logger: Logger | None = None) -> None:
    """Draw the figures, write the report, track it, and say the last words in the terminal.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown; those that are gone are left out.
        logger: The run's logger.
    """
    facts = run.facts
    model, data = facts["model"], facts["data"]
    photos = words.counted(data["photos"], "photo")
    title = f"Embedding shift of {words.model_in_words(model)} on {photos}"
    notes = run_notes(run)
    source = f"{title}; seed {facts['seed']}, {facts['precision']}"
    variants = variants_of(run, dataset)
    measured = set(run.shift["photo"])
    first = [photo.id for photo in dataset.photos if photo.id in measured][:SHOWN_PHOTOS]
    shown_photos = galleries(run, variants, views_of(dataset, first))
    drawn = figures.draw_figures(run, shown_photos, source)
    if len(run.ranking):
        for side, keys in extreme_photos(run.shift, MOVED_PHOTOS).items():
            if moved := moved_photos(run, variants, dataset, side, keys):
                drawn[f"moved_{side}"] = figures.draw_moved(moved)
                figures.sign(drawn[f"moved_{side}"], source)
    files = figures.save_figures(drawn, run.folder / "figures")
    gaze = words.gaze_in_words(model["gaze"]) if model["gaze"] else "none"
    shown_facts = {
        "model": f"{model['name']}: {model['architecture']}, {words.weights_in_words(model)}",
        "weights (SHA-256)": model["weights_sha256"],
        "gaze": gaze,
        "photos": f"{data['photos']} measured, {data['skipped']} skipped",
        "gallery of retained": words.counted(facts["gallery"], "photo"),
        "data (SHA-256)": data["fingerprint"],
        "strengths": ", ".join(f"{k} {v:.4g}" for k, v in facts["strengths"].items()),
        "seed": facts["seed"],
        "precision, device": f"{facts['precision']}, {facts['device']}",
        "command": shlex.join(facts["command"]),
        "started": facts["started"],
        "machine": f"{facts['processor']}, {facts['system']}",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in facts["seconds"].items()),
        "versions": ", ".join(
            f"{k} {v}" for k, v in {"python": facts["python"], **facts["versions"]}.items()
        ),
    }
    clean = page.clean_accuracy(run.summary)
    ranked = {
        str(severity): page.ranked_table(summary, run.columns, model["trained_on"] or [])
        for severity, summary in run.summary.groupby("severity", sort=False)
    }
    shown = [run.columns[m] for m in figures.shown_measures(run.summary, run.columns)]
    report = page.write_report(run.folder, title, shown_facts, notes, ranked, shown, clean, files)
    lines = [f"zero-shot on the clean views: {clean}"] if clean else []
    lines += [f"gaze: {gaze}", f"report: {report}"]
    if isinstance(logger, WandbLogger):
        with tracking.optional_tracking():
            notes += tracking.track_results(logger, run, files)
            lines.append(tracking.run_place(logger))
    elif logger is not None:
        logger.log_metrics(tracking.means(run))
    terminal.print_summary(title, ranked, notes, lines)


def run_notes(run: Run) -> list[str]:
    """What limits a run's numbers, a sentence each."""
    model, data = run.facts["model"], run.facts["data"]
    notes = [*run.facts["notes"], *words.model_notes(model), *words.few_photos(data["photos"])]
    notes += words.alike_photos(run.facts["intraclass_correlation"])
    if run.facts["collapsed"]:
        notes.append(
            "This model is collapsed: it gives all photos the same embedding, so that a shift of 0 "
            "means nothing."
        )
    if not model["gaze"] and "attention_similarity" in run.facts["config"]["metric"]:
        notes.append(
            f"Gaze is not available for {model['architecture']}: measures of it are left out."
        )
    if data["skipped"]:
        notes.append(
            f"{words.counted(data['skipped'], 'file')} of the source not measured: see skipped.csv."
        )
    return notes


def variants_of(run: Run, dataset: ViewDataset) -> dict[str, Variant]:
    """The variants of a run, by view name."""
    only = run.shift["severity"].iloc[0]
    variants = {}
    for view, strength in run.facts["strengths"].items():
        name, several, severity = view.partition("@")
        variants[view] = Variant(
            name, severity if several else only, dataset.augmentations[name], strength
        )
    return variants


def views_of(dataset: ViewDataset, photos: Iterable[str]) -> dict[str, View]:
    """The views of photos by their ids, of those that can still be read."""
    index = {photo.id: position for position, photo in enumerate(dataset.photos)}
    items = {photo: dataset[index[photo]] for photo in photos if photo in index}
    return {photo: item for photo, item in items.items() if isinstance(item, View)}


def galleries(
    run: Run, variants: Mapping[str, Variant], photos: Mapping[str, View]
) -> dict[str, figures.Gallery]:
    """Some photos under the variants of each severity."""
    gazes = read_gazes(run.folder)
    cosines = run.shift.set_index(["photo", "augmentation", "severity"]).get("cosine_similarity")
    made = {}
    for severity in run.shift["severity"].unique():
        own = {view: v for view, v in variants.items() if v.severity == severity}
        titles = {CLEAN: CLEAN} | {view: v.name for view, v in own.items()}
        gallery = figures.Gallery(list(photos), {}, {}, {})
        if photos:
            clean = [photo.clean.numpy() for photo in photos.values()]
            gallery.views = {CLEAN: np.stack(clean)} | {
                v.name: np.stack([made_view(v, photo) for photo in photos.values()])
                for v in own.values()
            }
        if photos and gazes.keys() >= photos.keys():
            gallery.gazes = {
                title: np.stack([gazes[photo][view] for photo in photos])
                for view, title in titles.items()
            }
        if cosines is not None:
            gallery.cosines = {
                v.name: np.array([cosines[photo, v.name, severity] for photo in photos])
                for v in own.values()
            }
        made[severity] = gallery
    return made


def moved_photos(
    run: Run,
    variants: Mapping[str, Variant],
    dataset: ViewDataset,
    side: str,
    keys: list[tuple[str, str, str]],
) -> figures.Moved | None:
    """The photos that moved most or least, from `extreme_photos`; None where all are gone."""
    by_key = {(variant.name, variant.severity): variant for variant in variants.values()}
    cosines = run.shift.set_index(["photo", "augmentation", "severity"])["cosine_similarity"]
    views = views_of(dataset, (photo for photo, _, _ in keys))
    keys = [key for key in keys if key[0] in views]
    if not keys:
        return None
    return figures.Moved(
        side,
        [f"{key[0][-22:]}\n{' '.join(key[1:])}\ncos {cosines[key]:.3f}" for key in keys],
        [views[key[0]].clean.numpy() for key in keys],
        [made_view(by_key[key[1:]], views[key[0]]) for key in keys],
    )


def made_view(variant: Variant, photo: View) -> np.ndarray:
    """A photo's view under a variant, as it was measured: (3, H, W) in [0, 1]."""
    batch = collate([photo])
    draws = batch.draws[variant.name]
    return augment(variant.augmentation, batch.clean, draws, variant.strength)[0].numpy()
