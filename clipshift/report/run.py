"""A run's report, made from its files: figures and page."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from clipshift.data import ViewDataset
from clipshift.report import page, words
from clipshift.report.charts import vega
from clipshift.report.charts.curves import draw_layers, draw_severity
from clipshift.report.charts.gaze import draw_gaze
from clipshift.report.charts.geometry import draw_distances
from clipshift.report.charts.measures import (
    draw_correlations,
    draw_corruption_error,
    draw_distribution,
    draw_heatmap,
)
from clipshift.report.charts.ranking import draw_agreement, draw_ranking
from clipshift.report.explorer import explorer_data
from clipshift.report.inside import inside_sections, outlier_sections
from clipshift.report.page import WIDE, Figure, Page, Section, Table
from clipshift.results import Run, errors_by_corruption, shown_measures
from clipshift.results.columns import DEFINITIONS
from clipshift.severities import PAPER, ladder_steps, leading_severity

UNEQUAL = (
    "The paper’s augmentations are unequally strong: this ranking mixes the model’s sensitivity "
    "with their strength."
)


def write_report(run: Run, dataset: ViewDataset) -> tuple[Page, Path, dict[str, Path]]:
    """Write ``report.html`` and ``figures/``.

    Args:
        run: The run.
        dataset: Its photos, of which some are shown; those that are gone are left out.

    Returns:
        What the page says, its path, and the figures by name.
    """
    made = report_page(run, dataset)
    files = vega.save_figures(made.saved, run.folder / "figures", source_of(run))
    return made, page.write_page(run.folder / "report.html", made), files


def title_of(run: Run) -> str:
    """What was run."""
    photos = words.counted(run.info.data.photos, "photo")
    return f"Embedding shift of {words.model_in_words(run.info.model)} on {photos}"


def source_of(run: Run) -> str:
    """What a figure was made from, to stand below it."""
    return f"{title_of(run)}; seed {run.info.seed}, {run.info.precision}; clipshift"


def report_page(run: Run, dataset: ViewDataset) -> Page:
    """What ``report.html`` says.

    Args:
        run: The run.
        dataset: Its photos.
    """
    severities = list(run.summary["severity"].unique())
    sections = [
        *ranking_sections(run),
        measures_section(run),
        *corruption_sections(run),
        *layer_sections(run),
        *inside_sections(run),
        *gaze_sections(run),
        *outlier_sections(run),
        *alike_sections(run),
        *correlation_sections(run),
        photos_section(run, dataset),
    ]
    return Page(
        title=title_of(run),
        answer=words.answer(run),
        measured=measured_in_words(run),
        notes=run_notes(run),
        lead=ranking_figure(run) if len(run.ranking) else None,
        sections=sections,
        facts=facts_of(run),
        severities=severities if len(severities) > 1 else [],
        severity=leading_severity(severities),
        citation=citation(run),
        methods=methods(run),
    )


def ranking_figure(run: Run) -> Figure:
    """The ranking; of the paper's strengths, which are unequal, with a note that they are."""
    at_paper = run.ranking["severity"].eq(PAPER).sum()
    return Figure(
        "ranking",
        draw_ranking(run.ranking, run.summary),
        "Mean shift with 95 % intervals, and the interval of each rank: all of them "
        "hold together at the 95 % level.",
        {PAPER: UNEQUAL} if at_paper > 1 else {},
    )


def measured_in_words(run: Run) -> str:
    """What was measured, in a sentence."""
    info = run.info
    names = words.counted(run.summary["augmentation"].nunique(), "augmentation")
    severities = list(run.summary["severity"].unique())
    at = f"severity {severities[0]}" if len(severities) == 1 else (
        f"severities {', '.join(severities[:-1])} and {severities[-1]}"
    )  # fmt: skip
    photos = words.counted(info.data.photos, "photo")
    spread = info.spread
    apart = (
        f" Different photos are {spread:.2f} apart on average (1 − cosine): that is a relative "
        "shift of 1."
        if spread
        else ""
    )
    clean = page.clean_accuracy(run.summary)
    accuracy = f" Zero-shot accuracy on the clean views: {clean}." if clean else ""
    return (
        f"Each of {photos} was compared with itself under {names} at {at}, as "
        f"{words.model_in_words(info.model)} sees them.{apart}{accuracy}"
    )


def ranking_sections(run: Run) -> list[Section]:
    """The ranking and how sure it is; the curves where severities are steps of a ladder."""
    drawn = []
    if run.agreement:
        tau = words.short(*run.agreement)
        drawn.append(
            Figure(
                "agreement",
                draw_agreement(run.ranking),
                "Sensitivity or strength? The ranks, with intervals that hold together at the 95 % "
                "level, at the strengths that the paper set, and where all augmentations distort "
                f"equally. Kendall’s τ between the two: {tau}.",
                least=WIDE,
            )
        )
    measure = words.headline_measure(run.summary)
    if measure:
        drawn.append(
            Figure(
                "distribution",
                draw_distribution(run.rows, measure, run.columns[measure]),
                "How the shift spreads over photos: the median, the middle half of the photos "
                "(bar) and the middle 90 % (line).",
            )
        )
    sections = []
    if drawn or len(run.ranking):
        tables = (
            [
                page.ranking_table(
                    run.ranking,
                    run.summary,
                    run.trained_on,
                    run.below_floor,
                    run.columns[run.matched_by].short if run.matched_by else "",
                )
            ]
            if len(run.ranking)
            else []
        )
        sections.append(Section("ranking", "Ranking", figures=drawn, tables=tables))
    if measure and len(ladder_steps(run.summary["severity"])) > 1:
        curves = draw_severity(run.summary, measure, run.columns[measure])
        caption = (
            "The same draws, stronger: each photo’s curve is paired with itself. Bars are 95 % "
            "intervals; point at a curve to see it alone."
        )
        sections.append(
            Section("severity", "As augmentations grow stronger",
                    figures=[Figure("severity", curves, caption, least=WIDE)])
        )  # fmt: skip
    return sections


def measures_section(run: Run) -> Section:
    """All measures under all augmentations."""
    table = page.measure_table(run.summary, run.columns, run.trained_on, run.below_floor)
    if run.summary["augmentation"].nunique() > 1:
        drawn = draw_heatmap(run.summary, run.columns)
        table.figure = Figure("heatmap", drawn, table.note)
    shown = [run.columns[m] for m in shown_measures(run.summary, run.columns)]
    return Section(
        "measures",
        "All measures",
        tables=[table, *floor_tables(run)],
        definitions={
            facts.short: facts.definition
            + (f", in {facts.unit}" if facts.unit and facts.unit != "share" else "")
            + (f". No change: {facts.unchanged:g}" if facts.unchanged is not None else "")
            for facts in shown
        },
    )


def corruption_sections(run: Run) -> list[Section]:
    """Errors under stored corruptions beside the shift; empty where there are none."""
    errors = run.corruption_error
    if errors.empty:
        return []
    drawn = []
    if errors["shift"].notna().any():
        drawn.append(
            Figure(
                "corruption_error",
                draw_corruption_error(errors),
                "Does the shift predict the error? Each point is a corruption at a severity, which "
                "its number tells; bars are 95 % intervals of the error.",
                least=WIDE,
            )
        )
    rows = [
        [
            page.Cell(row.augmentation),
            page.number(100 * row.error),
            page.number(100 * row.relative_error),
            page.number(row.shift),
            page.Cell(str(row.severities), row.severities),
        ]
        for row in errors_by_corruption(errors).itertuples()
    ]
    table = Table(
        ["corruption", "error, %", "of AlexNet’s, %", "1 − cosine", "severities"], rows,
        "Errors by corruption", file="corruption_error.csv",
        note="Means over severities. The mean corruption error is the mean of “of AlexNet’s” over "
        "the fifteen corruptions of ImageNet-C.",
    )  # fmt: skip
    return [
        Section(
            "corruptions", "Errors under stored corruptions", words.corruption_error(run),
            drawn, [table],
        )
    ]  # fmt: skip


def floor_tables(run: Run) -> list[Table]:
    """What half precision costs; empty for a run in float32."""
    rows, severities = [], []
    for augmentation, by_severity in run.info.floor.items():
        for severity, found in by_severity.items():
            numbers = [page.Cell(f"{value:.1e}", value) for value in (found.mean, found.p95)]
            photos = page.Cell(str(found.photos), found.photos)
            rows.append([page.Cell(augmentation), *numbers, photos])
            severities.append(severity)
    if not rows:
        return []
    return [
        Table(
            ["augmentation", "mean |Δ cosine|", "95th percentile", "photos"], rows,
            f"The floor of {run.info.precision}", severities, "run.json",
            "By how much the cosine of view and clean view differs from float32’s, over the first "
            "photos of the run. A shift below the 95th percentile may be rounding.",
            folded=True,
        )
    ]  # fmt: skip


def layer_sections(run: Run) -> list[Section]:
    """Where in the network the shift starts; empty where layers were not measured."""
    captions = {
        "cosine": "Class tokens after each layer: mean cosine of view and clean view, 95 % "
        "intervals.",
        "patch_cosine": "Mean patch tokens after each layer: the same cosine. What all photos have "
        "in common keeps it high.",
        "cka": "Mean patch tokens after each layer: debiased linear CKA over photos; 1 is the same "
        "geometry, and shuffled photos give 0 on average. Bars, where drawn, are 95 % intervals.",
    }
    layers = run.layers.reindex(columns=list(DEFINITIONS["layers"]))  # earlier runs have fewer
    drawn = [
        Figure(f"layers_{column}", draw_layers(layers, column), caption, least=WIDE)
        for column, caption in captions.items()
        if layers[column].notna().any()
    ]
    if not drawn:
        return []
    return [
        Section(
            "layers",
            "Shift by layer",
            ["How alike view and clean view still are after each layer of the image tower."],
            drawn,
            [layer_table(layers)],
        )
    ]


def layer_table(layers: pd.DataFrame) -> Table:
    """``layers.csv`` for people."""
    rows = [
        [
            page.Cell(row.augmentation),
            page.Cell(str(row.layer), row.layer),
            page.number(row.cosine, row.ci_low, row.ci_high),
            page.number(row.patch_cosine, row.patch_low, row.patch_high),
            page.number(row.amplification, row.amplification_low, row.amplification_high),
            page.number(row.cka, row.cka_low, row.cka_high),
            page.probability(row.cka_p),
        ]
        for row in layers.itertuples()
    ]
    head = [
        "augmentation", "layer", "cosine", "cosine of patches", "amplification", "CKA", "p at most",
    ]  # fmt: skip
    return Table(
        head, rows, "The shift after each layer", list(layers["severity"]), "layers.csv",
        "Cosines: of class tokens, and of mean patch tokens. Amplification: the relative shift "
        "of the class tokens over that of the layer before; above 1 the shift grows. p: of a CKA "
        "as large where the photos are shuffled.",
        folded=True,
    )  # fmt: skip


def gaze_sections(run: Run) -> list[Section]:
    """Whether the model looks elsewhere; empty where the gaze was not measured."""
    measures = {"gaze_divergence", "gaze_divergence_aligned"} & set(run.summary["measure"])
    kind = run.info.model.gaze
    if not measures or kind is None:
        return []
    both = len(measures) == 2
    caption = (
        "Circles: has the model looked elsewhere on the photo? Its gaze is moved back with the "
        "pixels first. Squares: compared in the view, where a gaze that follows its object moves "
        "too."
        if both
        else "How far the gaze on the view is from the gaze on the clean view."
    )
    return [
        Section(
            "gaze",
            "Gaze",
            [f"Where the model looks: {words.gaze_in_words(kind)}. Bars are 95 % intervals."],
            [Figure("gaze", draw_gaze(run.summary), caption)],
        )
    ]


def alike_sections(run: Run) -> list[Section]:
    """Which augmentations take a photo to the same place; empty where there is one alone."""
    if run.summary["augmentation"].nunique() < 2 or run.distances.empty:
        return []
    drawn = draw_distances(run.distances, run.distances_low, run.distances_high)
    caption = (
        "Mean 1 − cosine between the views of one photo under two augmentations, and the tree of "
        "their Ward linkage: those that join early take a photo to the same place."
    )
    return [
        Section("alike", "Similarity of augmentations", (),
                [Figure("distances", drawn, caption)])
    ]  # fmt: skip


def correlation_sections(run: Run) -> list[Section]:
    """What goes with a large shift over photos; empty where that cannot be said."""
    known = run.correlations.dropna(subset=["rho"]) if len(run.correlations) else run.correlations
    if known.empty:
        return []
    drawn = draw_correlations(run.correlations, run.columns)
    caption = (
        "Spearman’s rank correlation of 1 − cosine with other measures over photos. Blue: large "
        "together; amber: one large where the other is small; blank: the 95 % interval includes 0."
    )
    labels = {facts.correlate: facts.correlate_label for facts in run.columns.values()}
    rows = [
        [
            page.Cell(row.augmentation),
            page.Cell(labels[row.other]),
            page.Cell(words.with_interval(row.rho, row.ci_low, row.ci_high, "+.2f"), row.rho),
            page.Cell(words.p_value(row.p_holm), row.p_holm),
            page.Cell(str(row.n), row.n),
        ]
        for row in known.rename(columns={"with": "other"}).itertuples()
    ]
    table = Table(
        ["augmentation", "with", "Spearman’s ρ", "p (Holm)", "photos"], rows,
        "What goes with the shift", list(known["severity"]), "correlations.csv",
        folded=True,
    )  # fmt: skip
    return [
        Section(
            "correlations",
            "Correlations with the shift",
            ["Which photos move far? What goes with a large shift need not be its cause."],
            [Figure("correlations", drawn, caption)],
            [table],
        )
    ]


def photos_section(run: Run, dataset: ViewDataset) -> Section:
    """The photo explorer."""
    found = explorer_data({words.model_in_words(run.info.model): run}, dataset)
    pictured = sum(bool(shown["pictures"]) for shown in found["shown"].values())
    text = (
        f"All {words.counted(run.info.data.photos, 'photo')}, by how far they move; "
        f"{pictured} with pictures: those that moved most, those that moved least, and some "
        "between. Choose one to see its views, where the model looks, and its numbers."
    )
    if found["unlisted"]:
        text += f" {found['unlisted']:,} between the most and the least moved are not listed."
    return Section("photos", "Photos", [text], explorer=found)


def facts_of(run: Run) -> dict[str, Any]:
    """What a reader must know to repeat the run, by name."""
    info = run.info
    model, data = info.model, info.data
    versions = {"python": info.python, **info.versions}
    return {
        "model": f"{model.name}: {model.architecture}, {words.weights_in_words(model)}",
        "weights (SHA-256)": model.weights_sha256,
        "gaze": words.gaze_in_words(model.gaze) if model.gaze else "none",
        "photos": f"{data.photos} measured, {data.skipped} skipped",
        "gallery of retained": words.counted(info.gallery, "photo"),
        "intervals over": words.resampled(info),
        "data (SHA-256)": data.fingerprint,
        **(
            {"stored corruptions (SHA-256)": data.stored_fingerprint}
            if data.stored_fingerprint
            else {}
        ),
        "strengths": ", ".join(f"{k} {v:.4g}" for k, v in info.strengths.items()),
        "seed": info.seed,
        "precision, device": f"{info.precision}, {info.device}",
        "command": shlex.join(info.command),
        "started": info.started,
        "commit": info.commit or "none",
        "machine": f"{info.processor}, {info.system}",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in info.seconds.items()),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
    }


def citation(run: Run) -> str:
    """A BibTeX entry of the software that made the run."""
    info = run.info
    commit = f", commit {info.commit.removesuffix('+changes')[:12]}" if info.commit else ""
    fields = {
        "author": "{The clipshift founders}",
        "title": "clipshift: measure how CLIP embeddings shift when the picture is messed with",
        "version": info.versions["clipshift"] + commit,
        "year": info.started[:4],
    }
    return f"@software{{clipshift, {', '.join(f'{k} = {{{v}}}' for k, v in fields.items())}}}"


def methods(run: Run) -> str:
    """A sentence on the run for a paper's methods section."""
    info = run.info
    model, data = info.model, info.data
    severities = ", ".join(run.summary["severity"].unique())
    return (
        f"The shift of image embeddings was measured with clipshift "
        f"{info.versions['clipshift']} for {model.architecture} "
        f"({words.weights_in_words(model)}, SHA-256 {model.weights_sha256[:12]}) on "
        f"{words.counted(data.photos, 'photograph')} (SHA-256 {data.fingerprint[:12]}) under "
        f"{words.counted(run.summary['augmentation'].nunique(), 'augmentation')} (severity "
        f"{severities}; seed {info.seed}, {info.precision}); intervals are 95 % intervals "
        f"over {words.resampled(info)}, by bootstrap-t or, of shares, Wilson’s."
    )


def run_notes(run: Run) -> list[str]:
    """What limits a run's numbers, a sentence each."""
    model, data = run.info.model, run.info.data
    notes = [*run.info.notes, *words.model_notes(model), *words.floor_notes(run)]
    notes += words.few_photos(data.photos)
    notes += words.alike_photos(run.info)
    notes += words.collapsed_notes(run)
    if not model.gaze and "attention_similarity" in run.info.config.metric:
        notes.append(
            f"Gaze is not available for {model.architecture}: measures of it are left out."
        )
    if run.info.config.inside and len(run.layers) and run.outliers.empty:
        notes.append(
            f"{model.architecture} has no patch tokens of one number in all layers: outlier "
            "tokens are left out."
        )
    if data.skipped:
        notes.append(
            f"{words.counted(data.skipped, 'file')} of the source not measured: see skipped.csv."
        )
    return notes
