"""What limits a run's numbers, one sentence each."""

from collections.abc import Iterator

from clipshift.report.words import counted, resampled
from clipshift.results.info import ModelInfo, RunInfo
from clipshift.results.intervals import DESIGN_EFFECT
from clipshift.results.runs import Run

FEW_PHOTOS = 30
"""Below this many, pages and the terminal say how few photos there are."""
ALIKE = 0.1
"""Above this intraclass correlation they say that photos of one label shift alike, of runs of
earlier versions, which do not say by how much intervals over photos are too narrow."""


def run_notes(run: Run) -> list[str]:
    """All that limits a run's numbers."""
    info = run.info
    architecture, skipped = info.model.architecture, info.data.skipped
    notes = [
        *info.notes,
        *model_notes(info.model),
        *floor_notes(run),
        *few_photos(info.data.photos),
        *alike_photos(info),
        *collapsed_notes(run),
    ]
    if not info.model.gaze and "attention_similarity" in info.config.metric:
        notes.append(f"Gaze is not available for {architecture}: measures of it are left out.")
    if info.config.inside and len(run.layers) and run.outliers.empty:
        notes.append(
            f"{architecture} has no patch tokens of one number in all layers: outlier tokens are "
            "left out."
        )
    if skipped:
        notes.append(f"{counted(skipped, 'file')} of the source not measured: see skipped.csv.")
    return notes


def model_notes(model: ModelInfo) -> list[str]:
    """What a reader must know of a model before its numbers, one sentence each."""
    weights = f"The weights of {model.name} are random (untrained)"
    return [] if model.trained else [f"{weights}: its numbers say nothing about CLIP."]


def collapsed_notes(run: Run) -> list[str]:
    """A warning where a model gives all photos the same embedding; empty where it does not."""
    meaning = "it gives all photos the same embedding, so that a shift of 0 means nothing."
    return [f"{run.info.model.name} is collapsed: {meaning}"] if run.info.collapsed else []


def few_photos(count: int) -> list[str]:
    """What a reader must know of numbers over so few photos; empty where they are enough."""
    note = "intervals over so few are wide, and only roughly 95 %."
    return [f"Only {counted(count, 'photo')}: {note}"] if count < FEW_PHOTOS else []


def floor_notes(run: Run) -> Iterator[str]:
    """What half precision costs; empty for a run in float32."""
    floors = run.info.floor
    if not floors:
        return
    worst = {name: max(one.p95 for one in of.values()) for name, of in floors.items()}
    photos = max(int(one.photos) for of in floors.values() for one in of.values())
    precision = run.info.precision
    listed_errors = ", ".join(f"{p95:.1g} under {name}" for name, p95 in worst.items())
    yield (
        f"Precision error of {precision}, over {counted(photos, 'photo')}: 95 % of cosines differ "
        f"from float32’s by at most {listed_errors}."
    )
    if below := sorted({name for name, _ in run.below_floor}):
        yield (
            f"Shifts below the precision error of {precision} may be rounding: "
            f"{', '.join(below)}. Use precision=fp32 to find out."
        )


def alike_photos(info: RunInfo) -> Iterator[str]:
    """What a reader must know where photos of one label shift alike; empty where they do not."""
    correlation = info.intraclass_correlation
    effect = info.resampled.design_effect if info.resampled else None
    how_much = "" if correlation is None else f" (intraclass correlation {correlation:.2f})"
    alike = effect > DESIGN_EFFECT if effect is not None else (correlation or 0) > ALIKE
    if info.by_class:
        yield (
            f"Intervals take classes as drawn at random, not photos: {resampled(info)}{how_much}. "
            "Correlations, and p-values within a run, take photos as independent."
        )
    elif alike:
        yield (
            f"Photos of one label shift alike{how_much}: they say less than as many of different "
            "labels, and the intervals, which take photos as independent, are too narrow."
        )
