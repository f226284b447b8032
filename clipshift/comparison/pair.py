"""Finished runs, compared photo by photo, every two of them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.errors import UserError
from clipshift.report import page
from clipshift.report.figures import draw_differences, save_figures, sign
from clipshift.report.words import (
    alike_photos,
    counted,
    few_photos,
    model_notes,
    p_value,
    run_title,
    weights_in_words,
    with_interval,
)
from clipshift.results import (
    Run,
    compare_photos,
    differing_views,
    incomparable,
    read_run,
    with_group_means,
    write_csv,
)

LEADING = (
    "cosine_similarity",
    "relative_shift",
    "retained",
    "zero_shot_top1_clean",
    "zero_shot_top1",
    "attention_similarity",
)
"""Measures of which a page shows the paired differences; the CSV has all."""
SPREAD_FALL = 0.1
"""How much closer together photos may lie before a comparison warns of it, as a fraction."""


def compare_runs(
    runs: Sequence[str],
    seed: int,
    folder: Path,
    figures: Mapping[str, Path] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Compare finished runs photo by photo, every two of them: ``compare=[RUN_A,RUN_B]``.

    Args:
        runs: Run folders.
        seed: Seed of the bootstrap.
        folder: Where ``comparison.csv`` and ``comparison.html`` go.
        figures: More figures for the page, by name.
        notes: What else a reader must know.

    Returns:
        The page's path.

    Raises:
        UserError: If a folder holds no finished run, or two measured different photos or views.
    """
    compared = [read_run(Path(path).expanduser()) for path in runs]
    pairs = list(combinations(compared, 2))
    for a, b in pairs:
        if differences := differing_views(a, b):
            raise UserError(
                f"{a.folder} and {b.folder} cannot be compared photo by photo: "
                f"they differ in {', '.join(differences)}"
            )
    trained_on = trained_on_of(compared)
    tables = [compare_pair(a, b, seed, trained_on) for a, b in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "comparison.csv", pd.concat(tables, ignore_index=True))
    notes = list(dict.fromkeys([*notes, *(note for pair in pairs for note in pair_notes(*pair))]))
    report = write_pairs(folder, compared, tables, trained_on, figures or {}, notes)
    for (a, b), table in zip(pairs, tables, strict=True):
        shown = table[table["measure"] == "cosine_similarity"]
        print(pair_lines(a, b, shown if len(shown) else table))
    for note in notes:
        print(f"note: {note}")
    print(f"report: {report}")
    return report


def trained_on_of(runs: Sequence[Run]) -> list[str]:
    """What the fine-tuned one of several models was trained on; the last one's where many were."""
    return next((run.trained_on for run in reversed(runs) if run.trained_on), [])


def compare_pair(a: Run, b: Run, seed: int, trained_on: Sequence[str]) -> pd.DataFrame:
    """`compare_photos` of two runs, without the measures that cannot be compared.

    Args:
        a: A run.
        b: Another, of the same views.
        seed: Seed of the bootstrap.
        trained_on: Augmentations, of which and of all others the mean is compared as well.

    Returns:
        The table, with the models' names in front: ``model_a`` and ``model_b``.
    """
    lost = [name for name in a.shift if name.startswith(tuple(incomparable(a, b)))]
    table = compare_photos(
        with_group_means(a.shift.drop(columns=lost), trained_on),
        with_group_means(b.shift, trained_on),
        a.columns,
        seed,
    )
    table.insert(0, "model_a", a.facts["model"]["name"])
    table.insert(1, "model_b", b.facts["model"]["name"])
    return table


def pair_lines(a: Run, b: Run, table: pd.DataFrame) -> str:
    """A paired comparison in the terminal's words."""
    photos = counted(int(table["n"].max()), "photo")
    lines = [f"{run_title(b)} against {run_title(a)}, {photos}, paired:"]
    lines += [
        f"  {row.augmentation:20} {row.severity:8} {row.measure} "
        f"{row.mean_a:.4f} → {row.mean_b:.4f}{shift_change(row)}  difference "
        f"{with_interval(row.difference, row.ci_low, row.ci_high, '+.4f')}  "
        f"improved {row.improved:.1%} of photos  p {p_value(row.p_holm)}"
        for row in table.itertuples()
    ]
    return "\n".join(lines)


def shift_change(row: Any) -> str:
    """By how much the shift (1 − cosine) of a comparison's row changes, in per cent of A's."""
    if row.measure != "cosine_similarity" or row.mean_a == 1:
        return ""
    return f" (shift {(1 - row.mean_b) / (1 - row.mean_a) - 1:+.0%})"


def spread_change(a: Run, b: Run) -> str:
    """The mean distances between different photos in A and in B; empty where one has none."""
    before, after = (run.facts.get("spread") for run in (a, b))
    return f"{before:.3f} → {after:.3f}" if before and after else ""


def pair_notes(a: Run, b: Run) -> list[str]:
    """What one must know before reading a paired comparison's numbers."""
    notes = [
        f"{name} differs: {a.facts[name]} and {b.facts[name]}. Part of the difference is this."
        for name in ("precision", "device")
        if a.facts[name] != b.facts[name]
    ]
    notes += software_notes([a, b])
    lost = incomparable(a, b)
    for cause in dict.fromkeys(lost.values()):
        measures = [measure for measure in lost if lost[measure] == cause]
        notes.append(f"Left out: {', '.join(measures)} ({cause}).")
    return notes + notes_on_runs([a, b])


def software_notes(runs: Sequence[Run]) -> list[str]:
    """Whether runs were made by different versions of packages, or of clipshift's own code."""
    made_by = [run.facts["versions"] | {"python": run.facts["python"]} for run in runs]
    names = dict.fromkeys(name for versions in made_by for name in versions)
    found = {name: dict.fromkeys(v.get(name, "none") for v in made_by) for name in names}
    other = [f"{name} ({', '.join(seen)})" for name, seen in found.items() if len(seen) > 1]
    if len({run.facts["code_sha256"] for run in runs}) > 1:
        other.append("clipshift's own code")
    if not other:
        return []
    return [
        f"The runs were made by different versions: {'; '.join(other)}. Part of the difference may "
        "be this."
    ]


def notes_on_runs(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of runs: random weights, photos that are few, alike or close."""
    notes = [note for run in runs for note in model_notes(run.facts["model"])]
    notes += few_photos(min(run.facts["data"]["photos"] for run in runs))
    notes += alike_photos(max(run.facts["intraclass_correlation"] or 0 for run in runs))
    first = runs[0]
    for run in runs[1:]:
        photos = [one.facts["data"].get("fingerprint") for one in (first, run)]
        change = spread_change(first, run) if photos[0] == photos[1] else ""
        if change and run.facts["spread"] < (1 - SPREAD_FALL) * first.facts["spread"]:
            notes.append(
                f"With {run_title(run)} all photos lie closer together than with "
                f"{run_title(first)} (mean distance {change}): a part of the smaller shift is "
                "this. Look at relative_shift and retained."
            )
    return list(dict.fromkeys(notes))


def write_pairs(
    folder: Path,
    runs: Sequence[Run],
    tables: Sequence[pd.DataFrame],
    trained_on: list[str],
    more: Mapping[str, Path],
    notes: Sequence[str],
) -> Path:
    """Write the page of a paired comparison: tables of every two runs, figures of first and last.

    Args:
        folder: Where to.
        runs: The runs.
        tables: From `compare_pair`, of every two of them.
        trained_on: Augmentations to be marked.
        more: More figures, by name.
        notes: What a reader must know.
    """
    first, last = runs[0], runs[-1]
    letters = "ABCDEFGH"[: len(runs)]
    pairs = list(zip(combinations(runs, 2), combinations(letters, 2), tables, strict=True))
    shown: dict[str, list[list[str]]] = {}
    for measure in LEADING:
        for (a, b), ends, table in pairs:
            rows = table[table["measure"] == measure]
            if rows.empty:
                continue
            of_pair = f": {run_title(b)} against {run_title(a)}" if len(pairs) > 1 else ""
            shown[measure + of_pair] = pair_table(mark_trained(rows, trained_on), *ends)
    drawn = {}
    outer = mark_trained(tables[len(runs) - 2], trained_on)
    for measure in (name for name in LEADING if name in set(outer["measure"])):
        rows = outer[outer["measure"] == measure]
        figure = draw_differences(rows, first.columns[measure])
        photos = counted(int(outer["n"].max()), "photo")
        sign(figure, f"{run_title(last)} minus {run_title(first)}, {photos}")
        drawn[f"difference@{measure}"] = figure
    facts = {
        letter: f"{run_title(run)}: {run.folder}; {weights_in_words(run.facts['model'])}"
        for letter, run in zip(letters, runs, strict=True)
    }
    for (a, b), ends, _ in pairs:
        if spread := spread_change(a, b):
            of_pair = f", {' → '.join(ends)}" if len(pairs) > 1 else ""
            facts[f"mean distance between different photos{of_pair}"] = spread
    title = f"{run_title(last)} against {' and '.join(map(run_title, runs[:-1]))}, photo by photo"
    figures = {**more, **save_figures(drawn, folder / "figures")}
    return page.write_comparison(folder, title, facts, notes, shown, figures)


def mark_trained(table: pd.DataFrame, trained_on: list[str]) -> pd.DataFrame:
    """A table with a mark at the augmentations that a model was trained on."""
    return table.assign(
        augmentation=[page.marked(name, trained_on) for name in table["augmentation"]]
    )


def pair_table(rows: pd.DataFrame, a: str = "A", b: str = "B") -> list[list[str]]:
    """A paired comparison's rows for people, header first.

    Args:
        rows: Of one measure, from `compare_pair`.
        a: What to call the first run.
        b: What to call the second.
    """
    header = ["augmentation", "severity", a, b, "difference (95 % interval)", "improved",
              "worsened", "p (Holm)"]  # fmt: skip
    return [header] + [
        [
            row.augmentation,
            row.severity,
            f"{row.mean_a:.4f}",
            f"{row.mean_b:.4f}{shift_change(row)}",
            with_interval(row.difference, row.ci_low, row.ci_high, "+.4f"),
            f"{row.improved:.1%}",
            f"{row.worsened:.1%}",
            p_value(row.p_holm),
        ]
        for row in rows.itertuples()
    ]
