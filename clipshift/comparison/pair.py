"""Finished runs, compared photo by photo, every two of them."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipshift.data import ViewDataset, read_json
from clipshift.errors import UserError
from clipshift.report import terminal
from clipshift.report.charts.comparison import draw_differences, draw_interpolation
from clipshift.report.charts.vega import save_figures
from clipshift.report.explorer import explorer_data
from clipshift.report.page import Cell, Figure, Page, Section, Table, marked, write_page
from clipshift.report.words import (
    SIGNIFICANT,
    alike_photos,
    capitalised,
    collapsed_notes,
    counted,
    few_photos,
    headline_measure,
    listed,
    model_notes,
    p_value,
    run_title,
    short,
    weights_in_words,
    with_interval,
)
from clipshift.results import (
    GROUPS,
    Run,
    compare_photos,
    differing_views,
    file_name,
    incomparable,
    label_groups,
    labels_of,
    misfits,
    read_run,
    rebuild_views,
    with_group_means,
    write_csv,
)
from clipshift.severities import PAPER, leading_severity

COMPARED_MEASURES = (
    "relative_shift",
    "cosine_similarity",
    "retained",
    "zero_shot_top1_clean",
    "zero_shot_top1",
    "attention_similarity",
)
"""Measures of which a page shows the paired differences; the CSV has all."""
INTERPOLATION = "interpolation.csv"
PROVENANCE = "provenance.json"
"""What a fine-tune's folder has beside its runs: the curve of α, and its model's record."""
SPREAD_FALL = 0.1
"""How much closer together photos may lie before a comparison warns of it, as a fraction."""


@misfits("the comparison")
def compare_runs(
    runs: Sequence[str],
    seed: int,
    folder: Path,
    notes: Sequence[str] = (),
    fetch: bool = False,
) -> Path:
    """Compare finished runs photo by photo, every two of them: ``compare=[RUN_A,RUN_B]``.

    The page shows the curve of ``interpolation.csv`` as well, where the folder has one.

    Args:
        runs: Run folders.
        seed: Seed of the bootstrap.
        folder: Where ``comparison.csv`` and ``comparison.html`` go.
        notes: What else a reader must know.
        fetch: Whether photos behind an address are read again, for their pictures.

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
    photos = None
    try:
        photos = rebuild_views(compared[0], fetch)
    except UserError as error:
        notes.append(f"Photos are listed without pictures: {error}.")
    report = write_pairs(folder, compared, tables, trained_on, notes, photos)
    console = terminal.make_console()
    for (a, b), table in zip(pairs, tables, strict=True):
        print(pair_lines(a, b, table))
        terminal.print_text(console, " ".join(pair_answer(a, b, table)))
    for note in notes:
        print(f"note: {note}")
    print(f"report: {report}")
    return report


def trained_on_of(runs: Sequence[Run]) -> list[str]:
    """What the fine-tuned one of several models was trained on; the last one's where many were."""
    return next((run.trained_on for run in reversed(runs) if run.trained_on), [])


def compare_pair(a: Run, b: Run, seed: int, trained_on: Sequence[str]) -> pd.DataFrame:
    """`compare_photos` of two runs, without the measures that cannot be compared.

    Classes are resampled where they are in one of the two.

    Args:
        a: A run.
        b: Another, of the same views.
        seed: Seed of the bootstrap.
        trained_on: Augmentations, of which and of all others the mean is compared as well.

    Returns:
        The table, with the models' names in front: ``model_a`` and ``model_b``.
    """
    lost = [name for name in a.shift if name.startswith(tuple(incomparable(a, b)))]
    groups = None
    if a.info.by_class or b.info.by_class:
        labels = labels_of(a.rows)
        groups = pd.Series(label_groups(list(labels)), labels.index)
    table = compare_photos(
        with_group_means(a.shift.drop(columns=lost), trained_on),
        with_group_means(b.shift, trained_on),
        a.columns,
        seed,
        groups,
    )
    table.insert(0, "model_a", a.info.model.name)
    table.insert(1, "model_b", b.info.model.name)
    return table


def pair_titles(a: Run, b: Run) -> list[str]:
    """What two runs are called beside each other."""
    names = [run_title(run) for run in (a, b)]
    return names if names[0] != names[1] else [f"{names[0]} (A)", f"{names[1]} (B)"]


def pair_lines(a: Run, b: Run, table: pd.DataFrame) -> str:
    """A paired comparison in the headline measure, row by row, for the terminal."""
    photos = counted(int(table["n"].max()), "photo")
    before, after = pair_titles(a, b)
    measure = headline_measure(table, "difference")
    lines = [f"{after} against {before}, {photos}, paired:"]
    lines += [
        f"  {row.augmentation:20} {row.severity:8} {row.measure} "
        f"{row.mean_a:.4f} → {row.mean_b:.4f}{shift_change(row)}  difference "
        f"{with_interval(row.difference, row.ci_low, row.ci_high, '+.4f')}  "
        f"improved {row.improved:.1%} of photos  p (Holm) {p_value(row.p_holm)}"
        for row in (table[table["measure"] == measure] if measure else table).itertuples()
    ]
    return "\n".join(lines)


def as_shift(rows: pd.DataFrame) -> pd.DataFrame:
    """A comparison's rows of cosines as those of the shift 1 − cosine; others as they are."""
    if not rows["measure"].eq("cosine_similarity").all():
        return rows
    return rows.assign(
        mean_a=1 - rows["mean_a"],
        mean_b=1 - rows["mean_b"],
        difference=-rows["difference"],
        ci_low=-rows["ci_high"],
        ci_high=-rows["ci_low"],
    )


def shift_change(row: Any) -> str:
    """By how much the shift of a comparison's row changes, in per cent of A's."""
    if row.measure == "relative_shift" and row.mean_a > 0:
        return f" ({row.mean_b / row.mean_a - 1:+.0%})"
    if row.measure == "cosine_similarity" and row.mean_a != 1:
        return f" (1 − cosine {(1 - row.mean_b) / (1 - row.mean_a) - 1:+.0%})"
    return ""


def spread_change(a: Run, b: Run) -> str:
    """The mean distances between different photos in A and in B; empty where one has none."""
    before, after = (run.info.spread for run in (a, b))
    return f"{before:.3f} → {after:.3f}" if before and after else ""


def pair_notes(a: Run, b: Run) -> list[str]:
    """What one must know before reading a paired comparison's numbers."""
    compared = {
        "precision": (a.info.precision, b.info.precision),
        "device": (a.info.device, b.info.device),
    }
    notes = [
        f"{name} differs: {of_a} and {of_b}. Part of the difference is this."
        for name, (of_a, of_b) in compared.items()
        if of_a != of_b
    ]
    notes += software_notes([a, b])
    lost = incomparable(a, b)
    for cause in dict.fromkeys(lost.values()):
        measures = [measure for measure in lost if lost[measure] == cause]
        notes.append(f"Left out: {', '.join(measures)} ({cause}).")
    return notes + notes_on_runs([a, b])


def software_notes(runs: Sequence[Run]) -> list[str]:
    """Whether runs were made by different versions of packages, or of clipshift's own code."""
    made_by = [run.info.versions | {"python": run.info.python} for run in runs]
    names = dict.fromkeys(name for versions in made_by for name in versions)
    found = {name: dict.fromkeys(v.get(name, "none") for v in made_by) for name in names}
    other = [f"{name} ({', '.join(seen)})" for name, seen in found.items() if len(seen) > 1]
    if len({run.info.code_sha256 for run in runs}) > 1:
        other.append("clipshift's own code")
    if not other:
        return []
    return [
        f"The runs were made by different versions: {'; '.join(other)}. Part of the difference may "
        "be this."
    ]


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


def write_pairs(
    folder: Path,
    runs: Sequence[Run],
    tables: Sequence[pd.DataFrame],
    trained_on: Sequence[str],
    notes: Sequence[str],
    photos: ViewDataset | None,
) -> Path:
    """Write the page of a comparison: the last run against the first, then every other two.

    Args:
        folder: Where to.
        runs: The runs.
        tables: From `compare_pair`, of every two of them.
        trained_on: What the fine-tuned model was trained on.
        notes: What a reader must know.
        photos: The photos, for their pictures; None where they cannot be read.
    """
    a, b = runs[0], runs[-1]
    pairs = list(zip(combinations(runs, 2), tables, strict=True))
    main = len(runs) - 2
    table = tables[main]
    known = set(table.dropna(subset="difference")["measure"])
    measures = [measure for measure in COMPARED_MEASURES if measure in known]
    of_views = [measure for measure in measures if a.columns[measure].space != "photo"]
    drawn = [forest(table, measure, a, trained_on) for measure in of_views]
    severities = [s for s in table["severity"].unique() if s]
    sections = [Section(
        "differences",
        "What changed",
        [f"Mean differences over the same photos, B minus A, with 95 % intervals. A is "
         f"{run_title(a)}, B is {run_title(b)}. Hollow: may be no difference."],
        drawn[1:],
        [pair_table(table[table["measure"].isin(measures)], a, trained_on)],
    )]  # fmt: skip
    sections += [
        other_pair(one, other, of_pair, trained_on)
        for index, ((one, other), of_pair) in reversed(list(enumerate(pairs)))
        if index != main
    ]
    sections += curve_sections(folder)
    sections.append(pair_photos(a, b, photos))
    names = ["A", *(run.folder.name for run in runs[1:-1]), "B"]
    facts = {
        name: f"{run_title(run)}: {run.folder}; {weights_in_words(run.info.model)}"
        for name, run in zip(names, runs, strict=True)
    }
    for index, (pair, _) in enumerate(pairs):
        if spread := spread_change(*pair):
            of_pair = "" if index == main else f", {' → '.join(map(run_title, pair))}"
            facts[f"mean distance between different photos{of_pair}"] = spread
    number = counted(int(table["n"].max()), "photo")
    made = Page(
        title=f"{run_title(b)} against {run_title(a)}, photo by photo",
        answer=pair_answer(a, b, table),
        measured=f"The same views of {number} with both models: A is {run_title(a)}, B is "
        f"{run_title(b)}.",
        notes=notes,
        lead=drawn[0] if drawn else None,
        sections=sections,
        facts=facts,
        severities=severities if len(severities) > 1 else [],
        severity=leading_severity(severities) if severities else "",
        about="What is compared",
    )
    source = f"{run_title(b)} minus {run_title(a)}, {photos}; clipshift"
    save_figures(made.saved, folder / "figures", source)
    return write_page(folder / "comparison.html", made)


def forest(table: pd.DataFrame, measure: str, a: Run, trained_on: Sequence[str]) -> Figure:
    """The paired differences in one measure as a figure: trained on first, held out below.

    Args:
        table: From `compare_pair`.
        measure: Which.
        a: One of the runs.
        trained_on: What the fine-tuned model was trained on.
    """
    rows = table[table["measure"] == measure]
    facts = a.columns[measure]
    kinds = {True: "trained on", False: "held out"}
    trained = rows["augmentation"].isin([*trained_on, GROUPS[0]])
    if trained_on:
        rows = rows.assign(group=trained.map(kinds))
        rows = pd.concat([rows[trained], rows[~trained]])
    caption = f"{capitalised(facts.label)}: B minus A."
    if facts.better:
        caption += f" {capitalised(facts.better)} is better."
    rows = rows.assign(label=[marked(name, trained_on) for name in rows["augmentation"]])
    return Figure(f"difference_{measure}", draw_differences(rows, facts), caption)


def pair_answer(a: Run, b: Run, table: pd.DataFrame) -> list[str]:
    """What the second model changes, in sentences.

    They tell the models apart where a difference in the headline measure, at the leading severity,
    has a p below 0.05 after Holm's correction: the one beside them in terminal and table.
    """
    first, second = pair_titles(a, b)
    measure = headline_measure(table, "p_holm")
    rows = as_shift(table[table["measure"] == measure]).dropna(subset="p_holm")
    if rows.empty:
        return [f"{second} and {first} have no shift in common that two photos have a value of."]
    severity = leading_severity(list(rows["severity"].unique()))
    rows = rows[rows["severity"] == severity]
    groups = rows["augmentation"].isin(GROUPS)
    rows = rows[groups] if groups.any() else rows
    rows = rows.assign(apart=rows["p_holm"] < SIGNIFICANT)
    name = "relative shift" if measure == "relative_shift" else "1 − cosine"
    level = "at the 95 % level" + ("" if severity == PAPER else f" and severity {severity}")
    if groups.any():
        told = [f"{_changed(row)} under {_OF_GROUP[row.augmentation]}" for row in rows.itertuples()]
        return [
            f"The {name} of {second} against {first}, {level}: {'; '.join(told)}.",
            *_kept(a, b, table),
        ]
    less, more = rows["apart"] & (rows["difference"] < 0), rows["apart"] & (rows["difference"] > 0)
    told = [
        f"{word} under {listed(list(rows.loc[those, 'augmentation']))}"
        for word, those in ((f"less than {first}", less), (f"more than {first}", more))
        if those.any()
    ]
    answer = [f"{second} is shifted {' and '.join(told)} {level} ({name})."] if told else []
    if not rows["apart"].all():
        alike = listed(list(rows.loc[~rows["apart"], "augmentation"]))
        answer.append(f"{first} and {second} are not distinguishable under {alike} {level}.")
    return [*answer, *_kept(a, b, table)]


_OF_GROUP = dict(
    zip(GROUPS, ("the augmentations trained on", "the held-out augmentations"), strict=True)
)


def _changed(row: Any) -> str:
    """How a mean shift changed, in words."""
    if not row.apart:
        return f"not distinguishable ({short(row.mean_a)} and {short(row.mean_b)})"
    by = short(row.difference, row.ci_low, row.ci_high)
    size = f"{abs(row.difference / row.mean_a):.0%} " if row.mean_a else ""
    return f"{size}{'higher' if row.difference > 0 else 'lower'} ({by})"


def _kept(a: Run, b: Run, table: pd.DataFrame) -> list[str]:
    """What it costs or gains on clean photos; empty where that was not measured."""
    clean = table[(table["measure"] == "zero_shot_top1_clean")]
    if clean.empty:
        return []
    row = clean.iloc[0]
    change = with_interval(
        100 * row["difference"], 100 * row["ci_low"], 100 * row["ci_high"], "+.1f"
    )
    classes = a.info.data.classes
    of = f" over {len(classes):,} classes" if classes else ""
    alike = "" if row["p"] < SIGNIFICANT else ", not distinguishable at the 95 % level"
    return [
        f"Clean zero-shot top-1{of}: {row['mean_a']:.1%} → {row['mean_b']:.1%}, {change} points"
        f"{alike}."
    ]


def curve_sections(folder: Path) -> list[Section]:
    """The curve between base and tuned weights; empty where the folder has none."""
    try:
        curve = pd.read_csv(folder / INTERPOLATION)
        chosen = read_json(folder / "model" / PROVENANCE)
        drawn = draw_interpolation(curve, chosen["alpha"], chosen["config"]["tolerance"])
    except (OSError, ValueError, LookupError, TypeError):
        return []
    rows = [
        [Cell(f"{value:.3g}" if name == "alpha" else f"{value:.4f}", value)
         for name, value in row.items()]
        for row in curve.to_dict("records")
    ]  # fmt: skip
    head = [{"alpha": "α", "clean_top1": "clean top-1", "top1": "top-1 under them"}.get(n, n)
            for n in curve]  # fmt: skip
    return [
        Section(
            "interpolation",
            "Between base and fine-tuned weights",
            ["Shift and accuracy of the validation photos along the line from the base’s weights "
             "(α 0) to the fine-tuned ones (α 1)."],
            [Figure("interpolation", drawn, f"Chosen: α {chosen['alpha']:g}. Dashed: the least "
                    "accuracy accepted.")],
            [Table(head, rows, "The curve of α", file=INTERPOLATION, folded=True)],
        )
    ]  # fmt: skip


def other_pair(a: Run, b: Run, table: pd.DataFrame, trained_on: Sequence[str]) -> Section:
    """Two more runs of a comparison, as a robust model and its control."""
    shown = table[table["measure"].isin(COMPARED_MEASURES)]
    measure = next(m for m in (*COMPARED_MEASURES, *table["measure"]) if m in set(table["measure"]))
    drawn = forest(table, measure, a, trained_on)
    names = [run_title(run) for run in (a, b)]
    drawn.name = file_name(f"difference_{a.folder.name}_{b.folder.name}")
    return Section(
        f"{a.folder.name}-{b.folder.name}",
        f"{names[1]} against {names[0]}",
        [f"Here A is {names[0]}, and B is {names[1]}."],
        [drawn],
        [pair_table(shown, a, trained_on)],
    )


def pair_photos(a: Run, b: Run, photos: ViewDataset | None) -> Section:
    """The photo explorer with both models."""
    found = explorer_data(dict(zip(pair_titles(a, b), (a, b), strict=True)), photos)
    text = "Every photo with both models, sorted by the change from A to B."
    return Section("photos", "Photos", [text], explorer=found)


def pair_table(
    rows: pd.DataFrame, a: Run, trained_on: Sequence[str], file: str = "comparison.csv"
) -> Table:
    """A paired comparison's rows for people.

    Args:
        rows: Of `compare_pair`.
        a: One of the runs.
        trained_on: What the fine-tuned model was trained on.
        file: Where all rows are.
    """
    order = {measure: index for index, measure in enumerate(COMPARED_MEASURES)}
    rows = rows.sort_values("measure", key=lambda names: names.map(order), kind="stable")
    head = ["augmentation", "measure", "A", "B", "difference", "improved", "worsened", "p (Holm)"]
    several = rows["severity"].replace("", np.nan).nunique() > 1
    cells = [
        [
            Cell(marked(row.augmentation, trained_on)),
            Cell(a.columns[row.measure].short),
            Cell(f"{row.mean_a:.4f}", row.mean_a),
            Cell(f"{row.mean_b:.4f}{shift_change(row)}", row.mean_b),
            Cell(
                with_interval(row.difference, row.ci_low, row.ci_high, "+.4f"),
                row.difference,
                0.35 if row.ci_low > 0 or row.ci_high < 0 else 0,
            ),
            Cell(f"{row.improved:.1%}", row.improved),
            Cell(f"{row.worsened:.1%}", row.worsened),
            Cell(p_value(row.p_holm), row.p_holm if np.isfinite(row.p_holm) else None),
        ]
        for row in rows.itertuples()
    ]
    return Table(
        head,
        cells,
        "Paired differences",
        list(rows["severity"]) if several else [],
        file,
        "Differences are B minus A, of the same views of the same photos, with 95 % intervals; "
        "painted where the row’s own interval excludes 0. Improved and worsened: shares of photos. "
        f"p: from the interval, after Holm’s correction over all rows of {file}.",
    )
