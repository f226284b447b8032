"""The report of a paired comparison: its answer in sentences, a terminal table, and a page."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipshift.comparison.notes import pair_notes, spread_change
from clipshift.comparison.outcome import OUTCOME, outcome_contents, outcome_table
from clipshift.comparison.pair import COMPARED_MEASURES, Pair, compare_pair, trained_on_of
from clipshift.data.dataset import ViewDataset
from clipshift.data.files import read_json
from clipshift.errors import UserError, from_here
from clipshift.report import terminal, words
from clipshift.report.charts.comparison import draw_differences, draw_interpolation
from clipshift.report.charts.vega import save_figures
from clipshift.report.explorer import explorer_data
from clipshift.report.page import COMPARISON, Figure, Page, Section, write_page
from clipshift.report.prose import make_section
from clipshift.report.shift import COSINE, as_shift, headline_measure, shift_name
from clipshift.report.tables import Column, marked
from clipshift.results.files import file_name, write_csv
from clipshift.results.paired import GROUPS
from clipshift.results.rebuild import rebuild_views
from clipshift.results.runs import Run, misfits, read_run
from clipshift.severities import PAPER, leading_severity

PAINTED = 0.35
"""The tint of a difference whose interval excludes 0."""
FILE = "comparison.csv"
INTERPOLATION = "interpolation.csv"
PROVENANCE = "provenance.json"
"""What a fine-tune's folder has beside its runs: the curve of α, and its model's record."""
CURVE_HEADS = {"alpha": "α", "clean_top1": "clean top-1", "top1": "top-1 under them"}
GROUP_NAMES = dict(
    zip(
        GROUPS,
        ("the augmentations trained on", "the held-out augmentations", "generated corruptions"),
        strict=True,
    )
)


@misfits("the comparison")
def compare_runs(
    runs: Sequence[str], seed: int, folder: Path, notes: Sequence[str] = (), fetch: bool = False
) -> Path:
    """Compare finished runs photo by photo, every two of them: ``compare=[RUN_A,RUN_B]``.

    The page shows the curve of ``interpolation.csv`` as well, where the folder has one.

    Args:
        runs: Run folders: two, or those of base, control and robust model.
        seed: Seed of the bootstrap.
        folder: Where ``comparison.csv`` and ``comparison.html`` go, and ``outcome.csv``, where the
            last model is fine-tuned.
        notes: What else a reader must know.
        fetch: Whether photos behind an address are read again, for their pictures.

    Returns:
        The page's path.

    Raises:
        UserError: If a folder holds no finished run, or two measured different photos or views.
    """
    compared = [read_run(Path(path).expanduser()) for path in runs]
    trained_on = trained_on_of(compared)
    pairs = [
        Pair(a, b, trained_on, compare_pair(a, b, seed, trained_on))
        for a, b in combinations(compared, 2)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / FILE, pd.concat([pair.table for pair in pairs], ignore_index=True))
    if compared[-1].trained_on:
        write_csv(folder / OUTCOME, outcome_table(pairs, seed))
    of_pairs = (note for pair in pairs for note in pair_notes(pair.a, pair.b))
    every_note = dict.fromkeys([*notes, *of_pairs])
    photos = None
    try:
        photos = rebuild_views(compared[0], fetch)
    except UserError as error:
        every_note[f"Photos are listed without pictures: {error}."] = None
    report = write_comparison(folder, compared, pairs, list(every_note), photos)
    console = terminal.make_console()
    for pair in pairs:
        print(pair_lines(pair))
        terminal.print_text(console, " ".join(pair_answer(pair)))
    for note in every_note:
        print(f"note: {note}")
    print(f"report: {from_here(report)}")
    return report


def pair_titles(a: Run, b: Run) -> list[str]:
    """What two runs are called beside each other."""
    names = [words.run_title(run) for run in (a, b)]
    return names if names[0] != names[1] else [f"{names[0]} (A)", f"{names[1]} (B)"]


def pair_lines(pair: Pair) -> str:
    """The rows of a paired comparison for the terminal, in the headline measure if there is one."""
    table = pair.table
    photos = words.counted(int(table["n"].max()), "photo")
    before, after = pair_titles(pair.a, pair.b)
    measure = headline_measure(table, "difference")
    lines = [f"{after} against {before}, {photos}, paired:"]
    lines += [
        f"  {row.augmentation:20} {row.severity:8} {row.measure} "
        f"{row.mean_a:.4f} → {row.mean_b:.4f}{shift_change(row)}  difference "
        f"{words.with_interval(row.difference, row.ci_low, row.ci_high, '+.4f')}  "
        f"improved {row.improved:.1%} of photos  p (Holm) {words.p_value(row.p_holm)}"
        for row in (table[table["measure"] == measure] if measure else table).itertuples()
    ]
    return "\n".join(lines)


def shift_change(row: Any) -> str:
    """By how much the shift of a comparison's row changes, in per cent of A's."""
    if row.measure == "relative_shift" and row.mean_a > 0:
        return f" ({row.mean_b / row.mean_a - 1:+.0%})"
    if row.measure == COSINE and row.mean_a != 1:
        return f" (1 − cosine {(1 - row.mean_b) / (1 - row.mean_a) - 1:+.0%})"
    return ""


def write_comparison(
    folder: Path,
    runs: Sequence[Run],
    pairs: Sequence[Pair],
    notes: Sequence[str],
    photos: ViewDataset | None,
) -> Path:
    """Write the page of a comparison: the last run against the first, then every other two.

    Args:
        folder: Where to.
        runs: The runs.
        pairs: Every two of them.
        notes: What a reader must know.
        photos: The photos, for their pictures; None where they cannot be read.
    """
    main = pairs[len(runs) - 2]
    others = [pair for pair in pairs if pair is not main]
    a, b = (words.run_title(run) for run in (main.a, main.b))
    views = [m for m in main.measures if main.a.columns[m].space != "photo"]
    forests = [forest(main, measure) for measure in views]
    sections = [
        *outcome_sections(folder),
        pair_section("differences", main, main.measures, forests[1:], a=a, b=b, file=FILE),
        *map(other_pair, reversed(others)),
        *curve_sections(folder),
        explorer_section(main, photos),
    ]
    names = ["A", *(run.folder.name for run in runs[1:-1]), "B"]
    facts = {
        name: f"{words.run_title(run)}: {run.folder}; {words.weights_in_words(run.info.model)}"
        for name, run in zip(names, runs, strict=True)
    }
    for pair in pairs:
        if spread := spread_change(pair.a, pair.b):
            titles = f", {words.run_title(pair.a)} → {words.run_title(pair.b)}"
            of_pair = "" if pair is main else titles
            facts[f"mean distance between different photos{of_pair}"] = spread
    severities = [severity for severity in main.table["severity"].unique() if severity]
    number = words.counted(int(main.table["n"].max()), "photo")
    page = Page(
        title=f"{b} against {a}, photo by photo",
        answer=pair_answer(main),
        measured=f"The same views of {number} with both models: A is {a}, B is {b}.",
        notes=notes,
        lead=forests[0] if forests else None,
        sections=sections,
        facts=facts,
        severities=severities if len(severities) > 1 else [],
        severity=leading_severity(severities) if severities else "",
        about="What is compared",
    )
    save_figures(page.charts, folder / "figures", f"{b} minus {a}, {number}; clipshift")
    return write_page(folder / COMPARISON, page)


def forest(pair: Pair, measure: str) -> Figure:
    """The paired differences in one measure as a figure: trained on first, held out below."""
    rows = pair.table[pair.table["measure"] == measure]
    facts = pair.a.columns[measure]
    if pair.trained_on:
        trained = rows["augmentation"].isin([*pair.trained_on, GROUPS[0]])
        rows = rows.assign(group=trained.map({True: "trained on", False: "held out"}))
        rows = pd.concat([rows[trained], rows[~trained]])
    caption = f"{words.capitalised(facts.label)}: B minus A."
    if facts.better:
        caption += f" {words.capitalised(facts.better)} is better."
    labels = [marked(name, pair.trained_on) for name in rows["augmentation"]]
    chart = draw_differences(rows.assign(label=labels), facts)
    return Figure(f"difference_{measure}", chart, caption)


def pair_answer(pair: Pair) -> list[str]:
    """What the second model changes, in sentences.

    They tell the models apart where a difference in the headline measure, at the leading severity,
    has a p below 0.05 after Holm's correction: the one beside them in terminal and table.
    """
    first, second = (f"`{title}`" for title in pair_titles(pair.a, pair.b))
    measure = headline_measure(pair.table, "p_holm")
    rows = pair.table[pair.table["measure"] == measure].dropna(subset="p_holm")
    if measure is None or rows.empty:
        return [f"{second} and {first} have no shift in common that two photos have a value of."]
    severity = leading_severity(rows["severity"].unique())
    rows = as_shift(rows[rows["severity"] == severity])
    groups = rows["augmentation"].isin(GROUPS)
    rows = rows[groups] if groups.any() else rows
    rows = rows.assign(apart=rows["p_holm"] < words.SIGNIFICANT)
    name = shift_name(measure)
    level = "at the 95 % level" + ("" if severity == PAPER else f" and severity {severity}")
    if groups.any():
        changed = (f"{_changed(r)} under {GROUP_NAMES[r.augmentation]}" for r in rows.itertuples())
        change = f"The {name} of {second} against {first}, {level}: {'; '.join(changed)}."
        return [change, *_clean_accuracy(pair)]
    changed = np.sign(rows["difference"]).where(rows["apart"], 0)
    signs = {-1: f"less than {first}", 1: f"more than {first}", 0: ""}
    under = {
        signs[sign]: f"under {words.listed(list(names), len(names))} ({len(names)} of {len(rows)})"
        for sign, names in rows["augmentation"].groupby(changed)
    }
    alike = under.pop("", "")
    changes = " and ".join(" ".join(change) for change in under.items())
    answer = [f"{second} shifts {changes} {level} ({name})."] if changes else []
    if alike:
        answer.append(f"{first} and {second} are not distinguishable {alike} {level} ({name}).")
    return [*answer, *_clean_accuracy(pair)]


def _changed(row: Any) -> str:
    """How a mean shift changed, in words."""
    if not row.apart:
        return f"not distinguishable ({words.short(row.mean_a)} and {words.short(row.mean_b)})"
    by = words.short(row.difference, row.ci_low, row.ci_high)
    size = f"{abs(row.difference / row.mean_a):.0%} " if row.mean_a else ""
    return f"{size}{'higher' if row.difference > 0 else 'lower'} ({by})"


def _clean_accuracy(pair: Pair) -> list[str]:
    """What it costs or gains on clean photos; empty where that was not measured."""
    clean = pair.table[pair.table["measure"] == "zero_shot_top1_clean"].dropna(subset="difference")
    if clean.empty:
        return []
    row = clean.iloc[0]
    points, low, high = 100 * row[["difference", "ci_low", "ci_high"]]
    change = words.with_interval(points, low, high, "+.1f")
    classes = pair.a.info.data.classes
    among = f" over {len(classes):,} classes" if classes else ""
    alike = "" if row["p"] < words.SIGNIFICANT else ", not distinguishable at the 95 % level"
    top1 = f"{row['mean_a']:.1%} → {row['mean_b']:.1%}, {change} points{alike}"
    return [f"Clean zero-shot top-1{among}: {top1}."]


def outcome_sections(folder: Path) -> list[Section]:
    """The outcome of a fine-tuning; empty where the folder has none."""
    if not (folder / OUTCOME).exists():
        return []
    table = pd.read_csv(folder / OUTCOME, dtype={"severity": str}).fillna({"severity": ""})
    return [make_section("outcome", {}, [outcome_contents(table)], file=OUTCOME)]


def curve_sections(folder: Path) -> list[Section]:
    """The curve between base and tuned weights; empty where the folder has none."""
    try:
        curve = pd.read_csv(folder / INTERPOLATION)
        chosen = read_json(folder / "model" / PROVENANCE)
        chart = draw_interpolation(curve, chosen["alpha"], chosen["config"]["tolerance"])
    except (OSError, ValueError, LookupError, TypeError):
        return []
    forms = {"alpha": ".3g"}
    columns = [Column(CURVE_HEADS.get(n, n), n, form=forms.get(n, ".4f")) for n in curve]
    charts, tables = {"interpolation": chart}, [(curve, columns)]
    values = {"alpha": chosen["alpha"], "file": INTERPOLATION}
    return [make_section("interpolation", charts, tables, **values)]


def other_pair(pair: Pair) -> Section:
    """Two more runs of a comparison, as a robust model and its control."""
    measures = [*COMPARED_MEASURES, *pair.table["measure"]]
    figure = forest(pair, next(m for m in measures if m in set(pair.table["measure"])))
    folders = pair.a.folder.name, pair.b.folder.name
    figure.name = file_name(f"difference_{'_'.join(folders)}")
    a, b = (words.run_title(run) for run in (pair.a, pair.b))
    section = pair_section("other_pair", pair, COMPARED_MEASURES, [figure], a=a, b=b, file=FILE)
    return replace(section, name="-".join(folders))


def pair_section(
    name: str, pair: Pair, measures: Sequence[str], figures: Sequence[Figure], **values: str
) -> Section:
    """A section of two runs' paired differences, see `pair_table` and `make_section`."""
    section = make_section(name, {}, [pair_table(pair, measures)], **values)
    return replace(section, figures=figures)


def explorer_section(pair: Pair, photos: ViewDataset | None) -> Section:
    """The photo explorer with both models."""
    runs = dict(zip(pair_titles(pair.a, pair.b), (pair.a, pair.b), strict=True))
    about = "Every photo with both models, sorted by the change from A to B."
    return replace(make_section("photos", about=about), explorer=explorer_data(runs, photos))


def pair_table(pair: Pair, measures: Sequence[str]) -> pd.DataFrame:
    """A paired comparison's rows for people.

    Args:
        pair: The comparison.
        measures: Of which measures, in their order.
    """
    order = {measure: place for place, measure in enumerate(measures)}
    rows = pair.table[pair.table["measure"].isin(order)]
    rows = rows.sort_values("measure", key=lambda names: names.map(order), kind="stable")
    clear = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    return rows.assign(
        augmentation=[marked(name, pair.trained_on) for name in rows["augmentation"]],
        label=[pair.a.columns[measure].short for measure in rows["measure"]],
        b_in_words=[f"{row.mean_b:.4f}{shift_change(row)}" for row in rows.itertuples()],
        tint=PAINTED * clear,
    )
