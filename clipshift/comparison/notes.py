"""What limits a comparison's numbers, one sentence each."""

from collections.abc import Iterator, Sequence

from clipshift.comparison.pair import attacked_alike
from clipshift.report.notes import alike_photos, collapsed_notes, few_photos, model_notes
from clipshift.report.words import WHITE_BOX, run_title
from clipshift.results.compatibility import incomparable
from clipshift.results.runs import Run

SPREAD_FALL = 0.1
"""How much closer together photos may lie before a comparison warns of it, as a fraction."""


def spread_change(a: Run, b: Run) -> str:
    """Format the mean distances between different photos in A and B; empty if one is unknown."""
    of_a, of_b = a.info.spread, b.info.spread
    return f"{of_a:.3f} → {of_b:.3f}" if of_a and of_b else ""


def pair_notes(a: Run, b: Run) -> list[str]:
    """What one must know before reading a paired comparison's numbers."""
    notes = [*settings_notes([a, b])]
    if attacked_alike(a, b):
        notes.append(f"{WHITE_BOX}: each model under an adversary of its own, who sees that model.")
    elif len(a.attack) or len(b.attack):
        notes.append("Left out: attack (not both runs have one with the same options).")
    lost = incomparable(a, b)
    for cause in dict.fromkeys(lost.values()):
        measures = [measure for measure in lost if lost[measure] == cause]
        notes.append(f"Left out: {', '.join(measures)} ({cause}).")
    return notes + notes_on_runs([a, b])


def settings_notes(runs: Sequence[Run]) -> Iterator[str]:
    """Whether runs differ in precision, device or versions."""
    for name in ("precision", "device"):
        used = list(dict.fromkeys(getattr(run.info, name) for run in runs))
        if used[1:]:
            yield f"{name} differs: {' and '.join(used)}. Part of the difference is this."
    yield from software_notes(runs)


def software_notes(runs: Sequence[Run]) -> Iterator[str]:
    """Whether runs were made by different versions of packages, or of clipshift's own code."""
    versions = [run.info.versions | {"python": run.info.python} for run in runs]
    names = dict.fromkeys(name for packages in versions for name in packages)
    used = {name: dict.fromkeys(v.get(name, "none") for v in versions) for name in names}
    other = [f"{name} ({', '.join(seen)})" for name, seen in used.items() if len(seen) > 1]
    if len({run.info.code_sha256 for run in runs}) > 1:
        other.append("clipshift's own code")
    if other:
        versions_differ = f"The runs were made by different versions: {'; '.join(other)}"
        yield f"{versions_differ}. Part of the difference may be this."


def notes_on_runs(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of runs: random weights, photos that are few, alike or close."""
    notes = [note for run in runs for note in (*model_notes(run.info.model), *collapsed_notes(run))]
    notes += few_photos(min(run.info.data.photos for run in runs))
    most_alike = max((run.info for run in runs), key=lambda info: info.intraclass_correlation or 0)
    notes += alike_photos(most_alike)
    first = runs[0]
    for run in runs[1:]:
        before, after = first.info.spread, run.info.spread
        same_photos = run.info.data.fingerprint == first.info.data.fingerprint
        if same_photos and before and after and after < (1 - SPREAD_FALL) * before:
            notes.append(
                f"With {run_title(run)} all photos lie closer together than with "
                f"{run_title(first)} (mean distance {spread_change(first, run)}): that alone makes "
                "1 − cosine smaller. Compare relative_shift and retained."
            )
    return list(dict.fromkeys(notes))
