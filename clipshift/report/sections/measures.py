"""Every measure under every augmentation, errors under corruptions, and correlations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from clipshift.measure.facts import Facts
from clipshift.report.answer import corruption_error
from clipshift.report.charts import measures as charts
from clipshift.report.page import Figure, Section
from clipshift.report.prose import Contents, make_section
from clipshift.report.shift import COSINE, as_shift
from clipshift.report.tables import AUGMENTATION, Column, side_by_side, span, with_marks
from clipshift.results.change import normalized_change, shown_measures
from clipshift.results.corruptions import errors_by_corruption
from clipshift.results.runs import Run


def measure_section(run: Run) -> Section:
    """All measures under all augmentations, and what half precision costs of them."""
    floors = [
        {"augmentation": name, "severity": severity} | dict(floor)
        for name, by_severity in run.info.floor.items()
        for severity, floor in by_severity.items()
    ]
    table = measure_table(run.summary, run.columns, run.trained_on, run.below_floor)
    tables = [table, pd.DataFrame(floors)] if floors else [table]
    section = make_section("measures", {}, tables, precision=run.info.precision)
    if run.summary["augmentation"].nunique() > 1:
        chart = charts.draw_heatmap(run.summary, run.columns)
        section.tables[0].figure = Figure("heatmap", chart, section.tables[0].note)
    shown = [run.columns[measure] for measure in shown_measures(run.summary, run.columns)]
    section.definitions = {
        facts.short: facts.definition
        + (f", in {facts.unit}" if facts.unit and facts.unit != "share" else "")
        + (f". No change: {facts.unchanged:g}" if facts.unchanged is not None else "")
        for facts in shown
    }
    return section


def draw_section(run: Run) -> Section | None:
    """The worst of several draws, and how much of the variance of the shift is theirs."""
    if COSINE not in set(run.draws["measure"]):
        return None
    rows = run.draws[run.draws["measure"] == COSINE].rename(columns={"value": "mean"})
    worst = rows["statistic"] == "worst"
    means = run.summary[run.summary["measure"].isin([COSINE, "draw_radius"])]
    means = pd.concat([means.assign(statistic=means["measure"]), rows[worst]])
    table = side_by_side(pd.concat([as_shift(means), rows[~worst]]), "statistic")
    shares = rows[rows["statistic"].str.startswith("share_")]
    shares = shares.assign(component=shares["statistic"].str.removeprefix("share_"))
    between = span(shares[shares["component"] == "draw"], "mean")
    return make_section("draws", {}, [table, shares], span=between, draws=run.info.config.draws)


def measure_columns(measures: Sequence[str], heads: Mapping[str, str]) -> list[Column]:
    """The columns of a table of measures, for data from `ranked_means`.

    Args:
        measures: Which, in their order.
        heads: Their headers.
    """
    return [AUGMENTATION, *(Column(heads[m], m, m, tint=f"{m}_tint") for m in measures)]


def ranked_means(summary: pd.DataFrame, ascending: bool = True) -> pd.DataFrame:
    """The means of a summary side by side, the largest shift first at each severity.

    Args:
        summary: Means with intervals.
        ascending: Whether less is a larger shift, as of cosines.
    """
    means = side_by_side(summary, "measure")
    if COSINE not in means:
        return means
    groups = means.groupby("severity", sort=False)
    ranked = [group.sort_values(COSINE, ascending=ascending, kind="stable") for _, group in groups]
    return pd.concat(ranked)


def measure_table(
    summary: pd.DataFrame,
    columns: Mapping[str, Facts],
    trained_on: Sequence[str],
    below: Collection[tuple[str, str]] = (),
) -> Contents:
    """All means with intervals, painted as `clipshift.report.charts.measures.draw_heatmap` does.

    Args:
        summary: Means with intervals.
        columns: What the measures are.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.
        below: Augmentations and severities whose shift may be rounding, to be marked.
    """
    groups = summary.groupby("severity", sort=False)
    changes = {severity: normalized_change(group, columns) for severity, group in groups}
    tints = pd.concat(changes, names=["severity"]).add_suffix("_tint")
    data = ranked_means(summary).join(tints, on=["severity", "augmentation"])
    heads = {name: facts.short for name, facts in columns.items()}
    spec = measure_columns(shown_measures(summary, columns), heads)
    return with_marks(data, trained_on, below), spec


def ranked_table(
    summary: pd.DataFrame, columns: Mapping[str, Facts], trained_on: Sequence[str]
) -> pd.DataFrame:
    """The summary for people: one row per augmentation, the largest shift first.

    Args:
        summary: Means with intervals, of one severity.
        columns: What the measures are.
        trained_on: Augmentations that the model was fine-tuned on, to be marked.
    """
    data, spec = measure_table(summary, columns, trained_on)
    table = pd.DataFrame([column.texts(data) for column in spec]).T
    return table.set_axis([column.head for column in spec], axis="columns")


def corruption_section(run: Run) -> Section:
    """Errors under corruptions beside the shift."""
    errors = run.corruption_error
    data = errors_by_corruption(errors)
    percent = {share: 100 * data[share] for share in ("error", "relative_error")}
    shifted = errors["shift"].notna().any()
    drawn = {"corruption_error": charts.draw_corruption_error(errors)} if shifted else {}
    section = make_section("corruptions", drawn, [data.assign(**percent)])
    return replace(section, text=corruption_error(run))


def correlation_section(run: Run) -> Section | None:
    """What correlates with a large shift over photos."""
    rows = run.correlations.dropna(subset="rho")
    if rows.empty:
        return None
    labels = {facts.correlate: facts.correlate_label for facts in run.columns.values()}
    drawn = {"correlations": charts.draw_correlations(run.correlations, run.columns)}
    return make_section("correlations", drawn, [rows.assign(label=rows["with"].map(labels))])
