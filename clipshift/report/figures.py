"""The figures of a report, each readable alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.cluster.hierarchy import dendrogram
from scipy.stats import gaussian_kde

from clipshift.measure import Facts
from clipshift.measure.functional import augmentation_linkage
from clipshift.report.words import counted, with_interval
from clipshift.results import (
    CLEAN,
    Run,
    pivot,
    write_whole,
)

styled = matplotlib.rc_context(
    {
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
    }
)
"""Draws a figure in the report's style, and leaves matplotlib as it was."""

Drawn = Figure | Image.Image
"""A diagram, or photographs side by side."""
CLUSTER_CUT = 0.7
"""Clusters are cut at this share of the dendrogram's highest merge."""

SHADES = (
    "noise", "blur", "color_jitter", "shift_scale_rotate", "flip", "elastic", "perspective",
    "brightness_contrast", "coarse_dropout", "jpeg", "pixelate", "motion_blur", "rotation",
    "grayscale",
)  # fmt: skip
"""Augmentations that have a colour of their own, the same in every run."""
SIGNIFICANT = 0.05
FAINT = 0.05
"""A heatmap's strongest colour stands for at least this share of a measure's range, or of 1."""


@dataclass
class Gallery:
    """Some photos' views with what belongs to them.

    Attributes:
        photos: Ids.
        views: Pixels by view name, each (photos, 3, H, W) in [0, 1].
        gazes: Gaze by view name, each (photos, h, w); empty where the encoder has none.
        cosines: Cosine similarity by augmentation, each (photos,).
    """

    photos: list[str]
    views: dict[str, np.ndarray]
    gazes: dict[str, np.ndarray]
    cosines: dict[str, np.ndarray]


@dataclass
class Moved:
    """Photos that moved far or little, each with its clean view and the view that moved it most.

    Attributes:
        side: ``most`` or ``least``.
        titles: What to write above each view.
        clean: Clean views, each (3, H, W) in [0, 1].
        views: Augmented views.
    """

    side: str
    titles: list[str]
    clean: list[np.ndarray]
    views: list[np.ndarray]


def draw_figures(run: Run, galleries: Mapping[str, Gallery], source: str) -> dict[str, Drawn]:
    """All figures that the run's measures allow, by name; with ``@SEVERITY`` if there are several.

    Those that compare augmentations are left out where there is one.

    Args:
        run: The run.
        galleries: Photos for the gallery, by severity.
        source: Model, data and number of photos: stands below every figure.
    """
    measures = set(run.summary["measure"])
    severities = list(galleries)
    figures: dict[str, Drawn] = {}
    if run.agreement:
        figures["rankings"] = draw_rankings(run.ranking, run.agreement)
    steps = [severity for severity in severities if severity.isdigit()]
    if len(steps) > 1 and len(run.ranking):
        figures["severity"] = draw_severity(run.ranking, steps)
    for severity, gallery in galleries.items():
        end = f"@{severity}" if len(severities) > 1 else ""
        shift, summary, ranking, correlations, layers = (
            table[table["severity"] == severity] if len(table) else table
            for table in (
                run.shift, run.summary, run.ranking, run.correlations, run.layers,
            )
        )  # fmt: skip
        if len(ranking) > 1:
            figures[f"ranking{end}"] = draw_ranking(ranking, severity)
        for measure, name, bars in (
            ("cosine_similarity", "cosine_distribution", True),
            ("l2_distance", "l2_distribution", False),
        ):
            if measure in measures:
                figures[f"{name}{end}"] = draw_distributions(
                    shift, summary, measure, run.columns[measure], bars
                )
        if summary["augmentation"].nunique() > 1:
            figures[f"heatmap{end}"] = draw_heatmap(summary, run.columns)
        preserved = [
            m for m in shown_measures(summary, run.columns) if is_preserved(run.columns[m])
        ]
        if len(preserved) >= 3:
            figures[f"radar{end}"] = draw_radar(summary, preserved, run.columns)
        if len(layers):
            figures[f"layers{end}"] = draw_layers(layers)
        if correlations["rho"].notna().any() if len(correlations) else False:
            figures[f"correlations{end}"] = draw_correlations(correlations, run.columns)
        own = [name for name in run.distances.index if name.endswith(end)]
        if len(own) >= 2:
            titles = [name.removesuffix(end) for name in own]
            figures[f"distances{end}"] = draw_distances(
                *(
                    table.loc[own, own].set_axis(titles).set_axis(titles, axis=1)
                    for table in (run.distances, run.distances_low, run.distances_high)
                )
            )
        if gallery.photos:
            figures[f"gallery{end}"] = draw_gallery(gallery, run.facts["model"]["gaze"])
    for figure in figures.values():
        sign(figure, source)
    return figures


def sign(figure: Drawn, source: str) -> None:
    """Write below a figure what it was made from."""
    if isinstance(figure, Image.Image):
        corner = (8, figure.height - 10)
        ImageDraw.Draw(figure).text(corner, source, (102,) * 3, _font("DejaVuSans", 14), "ls")
    else:
        figure.supxlabel(source, x=0.01, ha="left", fontsize=8, color="0.4")


def save_figures(figures: Mapping[str, Drawn], folder: Path) -> dict[str, Path]:
    """Write figures by name: those of photographs as JPEG, all others as PNG."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, figure in figures.items():
        if isinstance(figure, Image.Image):
            paths[name] = folder / f"{name}.jpg"
            save = partial(figure.save, format="jpeg", quality=88)
        else:
            paths[name] = folder / f"{name}.png"
            options = {"compress_level": 1}
            save = partial(figure.savefig, dpi=130, format="png", pil_kwargs=options)
        write_whole(paths[name], save)
    return paths


def colors(names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """A colour for each augmentation, the same in every run; others follow by name."""
    palette = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    order = [*palette[::2], *palette[1::2]]
    others = sorted(set(names) - set(SHADES))
    index = {name: position for position, name in enumerate([*SHADES, *others])}
    return {name: order[index[name] % len(order)] for name in names}


def _shift_bars(axes: Axes, rows: pd.DataFrame, shade: dict[str, tuple[float, ...]]) -> None:
    means = rows["shift"].to_numpy()
    errors = np.stack([means - rows["ci_low"], rows["ci_high"] - means]).clip(min=0)
    axes.barh(
        rows["augmentation"],
        means,
        xerr=errors,
        color=[shade[name] for name in rows["augmentation"]],
        error_kw={"capsize": 3, "lw": 1},
    )
    reach = (means + errors[1]).max(initial=0) or 1
    for position, row in enumerate(rows.itertuples()):
        ranks = f"{row.rank_low}" + (f"–{row.rank_high}" if row.rank_high > row.rank_low else "")
        axes.text(
            row.shift + errors[1][position] + 0.01 * reach,
            position,
            f"{row.shift:.3g}  rank {ranks}",
            va="center",
            fontsize=8.5,
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * reach)


@styled
def draw_ranking(ranking: pd.DataFrame, severity: str) -> Figure:
    """Bars of the mean shift, 1 − cosine, with 95 % intervals of shift and rank, largest first.

    Args:
        ranking: One severity's rows of `clipshift.results.rank_augmentations`.
        severity: Which.
    """
    figure = Figure(figsize=(8, 0.45 * len(ranking) + 1.6))
    axes = figure.subplots()
    _shift_bars(axes, ranking, colors(sorted(ranking["augmentation"])))
    axes.set(
        title=f"How far each augmentation moves the embedding (severity: {severity})",
        xlabel="mean of 1 − cosine similarity and rank, with 95 % intervals over photos",
    )
    return figure


@styled
def draw_rankings(ranking: pd.DataFrame, agreement: tuple[float, float, float]) -> Figure:
    """The rankings at the paper's and at matched severities, side by side, joined by lines.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        agreement: Kendall's τ between the two, and its interval.
    """
    sides = [ranking[ranking["severity"] == severity] for severity in ("paper", "matched")]
    names = list(sides[0]["augmentation"])
    shade = colors(sorted(names))
    figure = Figure(figsize=(11, 0.42 * len(names) + 2.2))
    axes = figure.subplots(1, 3, width_ratios=[1, 0.22, 1])
    for half, rows, title in zip(
        (axes[0], axes[2]), sides, ("the paper's severities", "matched severities"), strict=True
    ):
        _shift_bars(half, rows, shade)
        half.set_title(title, fontsize=10)
        half.set_xlabel("mean of 1 − cosine", fontsize=9)
    order = list(sides[1]["augmentation"])
    for rank, name in enumerate(names):
        axes[1].plot([0, 1], [rank, order.index(name)], color=shade[name], lw=1.5)
    axes[1].set_ylim(axes[0].get_ylim())
    axes[1].axis("off")
    tau, low, high = agreement
    figure.suptitle(
        "Sensitivity or strength? The ranking as the paper set it, and with equal distortion\n"
        f"Kendall's τ {tau:.2f} [{low:.2f}, {high:.2f}]; bars and ranks: 95 % intervals",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


@styled
def draw_severity(ranking: pd.DataFrame, severities: list[str]) -> Figure:
    """Mean shift against severity, one line per augmentation, with 95 % intervals.

    Args:
        ranking: From `clipshift.results.rank_augmentations`.
        severities: The steps of the ladder, in order.
    """
    names = sorted(ranking["augmentation"].unique())
    shade = colors(names)
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name in names:
        rows = ranking[ranking["augmentation"] == name].set_index("severity").loc[severities]
        steps = [int(severity) for severity in severities]
        axes.plot(steps, rows["shift"], "o-", color=shade[name], label=name, ms=4)
        axes.fill_between(steps, rows["ci_low"], rows["ci_high"], color=shade[name], alpha=0.2)
    axes.set(
        title="How far the embedding moves as augmentations grow stronger",
        xlabel="severity",
        ylabel="mean of 1 − cosine, with 95 % interval",
        xticks=[int(severity) for severity in severities],
    )
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


@styled
def draw_layers(layers: pd.DataFrame) -> Figure:
    """Where in the network the shift starts: class-token cosine and CKA, layer by layer.

    Args:
        layers: One severity's rows of ``layers.csv``.
    """
    names = sorted(layers["augmentation"].unique())
    shade = colors(names)
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2, sharex=True)
    for name, rows in layers.groupby("augmentation"):
        left.plot(rows["layer"], rows["cosine"], "o-", ms=3, color=shade[str(name)], label=name)
        left.fill_between(
            rows["layer"], rows["ci_low"], rows["ci_high"], color=shade[str(name)], alpha=0.2
        )
        right.plot(rows["layer"], rows["cka"], "o-", ms=3, color=shade[str(name)], label=name)
    left.set_title("Class token: mean cosine, 95 % interval", fontsize=10)
    right.set_title("Mean patch token: debiased linear CKA", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("layer")
        axes.set_xticks(sorted(layers["layer"].unique()))
    if layers["cosine"].isna().all():
        left.text(0.5, 0.5, "no class token", transform=left.transAxes, ha="center")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


@styled
def draw_correlations(correlations: pd.DataFrame, columns: Mapping[str, Facts]) -> Figure:
    """What goes with the shift over photos: Spearman's ρ with its 95 % interval.

    Args:
        correlations: One severity's rows of `clipshift.results.correlate`.
        columns: What the run's measured columns are.
    """
    others = list(correlations["with"].unique())
    words = {facts.correlate: facts.correlate_label for facts in columns.values()}
    names = list(correlations["augmentation"].unique())
    rows = correlations.set_index(["augmentation", "with"])
    figure = Figure(figsize=(1.45 * len(others) + 2.4, 0.5 * len(names) + 2))
    axes = figure.subplots()
    matrix = correlations.pivot(index="augmentation", columns="with", values="rho")
    axes.imshow(matrix.loc[names, others], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", alpha=0.8)
    for row, name in enumerate(names):
        for column, other in enumerate(others):
            cell = rows.loc[(name, other)]
            if np.isfinite(cell["rho"]):
                text = f"{cell['rho']:+.2f}\n[{cell['ci_low']:+.2f}, {cell['ci_high']:+.2f}]"
                weight = "bold" if cell["p_holm"] < SIGNIFICANT else "normal"
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, weight=weight)
    labels = [words[other] for other in others]
    axes.set_xticks(range(len(others)), labels, rotation=25, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(
        "What goes with a large shift? Spearman's ρ over photos, 95 % interval\n"
        f"(bold: p < {SIGNIFICANT} after Holm's correction over all of these)"
    )
    axes.spines[:].set_visible(False)
    return figure


@styled
def draw_differences(rows: pd.DataFrame, facts: Facts) -> Figure:
    """Paired differences of two runs in one measure, with 95 % intervals; right of zero is more.

    Args:
        rows: One measure's rows of `clipshift.results.compare_photos`.
        facts: The measure's.
    """
    several = rows["severity"].nunique() > 1
    names = [
        f"{r.augmentation} {r.severity}" if several else r.augmentation for r in rows.itertuples()
    ]
    figure = Figure(figsize=(8, 0.38 * len(rows) + 1.6))
    axes = figure.subplots()
    errors = np.stack([rows["difference"] - rows["ci_low"], rows["ci_high"] - rows["difference"]])
    axes.errorbar(
        rows["difference"],
        range(len(rows)),
        xerr=np.nan_to_num(errors.clip(min=0)),
        fmt="o",
        capsize=3,
    )
    axes.axvline(0, color="0.5", lw=1, ls="--")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(
        title=f"{capitalised(facts.label)}: B minus A"
        + (f" ({facts.better} is better)" if facts.better else ""),
        xlabel="mean difference over photos, with 95 % interval",
    )
    return figure


@styled
def draw_interpolation(curve: pd.DataFrame, alpha: float, tolerance: float) -> Figure:
    """Shift against clean accuracy along the way from the base to the fine-tuned weights.

    Args:
        curve: One row per ``alpha``, 0 first, with ``shift`` and, where there are classes,
            ``clean_top1``.
        alpha: The chosen one.
        tolerance: How much accuracy may be lost, as a fraction.
    """
    figure = Figure(figsize=(6.5, 4.5))
    axes = figure.subplots()
    across = "clean_top1" if "clean_top1" in curve else "alpha"
    axes.plot(curve[across], curve["shift"], "o-", color="0.5", ms=5)
    for row in curve.itertuples():
        point = (getattr(row, across), row.shift)
        axes.annotate(f"α {row.alpha:g}", point, (8, -3), textcoords="offset points", fontsize=8)
    chosen = curve[curve["alpha"] == alpha]
    axes.plot(chosen[across], chosen["shift"], "o", color="tab:red", ms=10, label="chosen")
    if across == "clean_top1":
        least = curve["clean_top1"].iloc[0] - tolerance
        axes.axvline(least, color="0.6", lw=1, ls="--", label="least accuracy accepted")
        # Wide enough that a photo more or less does not look like a difference.
        ends = np.array([min(least, curve[across].min()), curve[across].max()])
        axes.set_xlim(ends + np.array([-1, 1]) * max(0.02, 0.15 * np.ptp(ends)))
    axes.set(
        title="From the base (α 0) to the fine-tuned weights (α 1)",
        xlabel="zero-shot top-1 on clean views" if across == "clean_top1" else "α",
        ylabel="mean of 1 − cosine under the trained augmentations",
    )
    axes.legend(frameon=False, fontsize=9)
    return figure


@styled
def draw_curves(rows: pd.DataFrame) -> Figure:
    """Mean shift against severity over a sweep's jobs: a line for other options, or augmentations.

    Args:
        rows: The cosine's rows of a sweep's ``comparison.csv`` at numbered severities, with a
            job's other ``options`` in words.
    """
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    shade = colors(sorted(rows["augmentation"].unique()))
    styles = dict(zip(rows["options"].unique(), ["-", "--", ":", "-."] * len(rows), strict=False))
    for (options, name), line in rows.groupby(["options", "augmentation"], sort=False):
        points = line.assign(step=line["severity"].astype(int)).sort_values("step")
        axes.plot(
            points["step"],
            1 - points["mean"],
            styles[options],
            marker="o",
            ms=4,
            color=shade[name],
            label=f"{name} ({options})" if options else name,
        )
        axes.fill_between(
            points["step"],
            1 - points["ci_high"],
            1 - points["ci_low"],
            color=shade[name],
            alpha=0.15,
        )
    axes.set(
        title="How far the embedding moves as augmentations grow stronger",
        xlabel="severity",
        ylabel="mean of 1 − cosine, with 95 % interval",
        xticks=sorted(rows["severity"].astype(int).unique()),
    )
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def draw_moved(moved: Moved) -> Image.Image:
    """The photos that moved most or least: clean above, and below the view that moved each most."""
    columns = min(10, len(moved.titles))
    rows: list[list[np.ndarray]] = []
    titles: list[list[str]] = []
    for start in range(0, len(moved.titles), columns):
        part = slice(start, start + columns)
        rows += [[_tile(view) for view in views[part]] for views in (moved.clean, moved.views)]
        titles += [moved.titles[part], []]
    size = "largest" if moved.side == "most" else "smallest"
    head = (
        f"{counted(len(moved.titles), 'photo')} of the {size} mean 1 − cosine over all views; "
        "below each: its view of the lowest cosine"
    )
    return _mosaic(rows, titles, head)


@styled
def draw_distributions(
    shift: pd.DataFrame, summary: pd.DataFrame, measure: str, facts: Facts, bars: bool
) -> Figure:
    """Distribution of a measure over photos, one panel per augmentation: histogram and KDE.

    Args:
        shift: One severity's rows of `clipshift.results.shift_table`.
        summary: Its means with intervals.
        measure: Which.
        facts: The measure's.
        bars: Whether to draw a histogram beside the density.
    """
    groups = {name: g[measure].dropna() for name, g in shift.groupby("augmentation", sort=False)}
    means = summary[summary["measure"] == measure].set_index("augmentation")
    shade = colors(sorted(groups))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.1 * rows + 0.9))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    low, high = (
        min(g.min() for g in groups.values()),
        max(g.max() for g in groups.values()),
    )
    margin = 0.03 * (high - low) or 0.01
    line = np.linspace(max(low - margin, facts.low), min(high + margin, facts.high), 400)
    edges = np.linspace(low, high + (0 if high > low else margin), 31)
    for axes, (name, values) in zip(grid.flat, groups.items(), strict=False):
        if bars:
            axes.hist(values, bins=edges, density=True, color=shade[name], alpha=0.35)
        if len(values) > 2 and values.std() > 1e-9:
            density = gaussian_kde(values)(line)
            axes.plot(line, density, color=shade[name], lw=1.5)
            if not bars:
                axes.fill_between(line, density, color=shade[name], alpha=0.25)
        axes.axvline(values.mean(), color="0.2", lw=1, ls="--")
        row = means.loc[name]
        mean = with_interval(row["mean"], row["ci_low"], row["ci_high"])
        axes.set_title(f"{name}: {mean}", fontsize=9, fontweight="normal")
        axes.set_yticks([])
    for axes in grid.flat[len(groups) :]:
        axes.axis("off")
    figure.suptitle(
        f"{capitalised(facts.label)} over photos ({facts.unchanged:g}: no change)\n"
        f"{'histogram and ' if bars else ''}kernel density; dashed: mean, [95 % interval]",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


@styled
def draw_heatmap(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> Figure:
    """Measure × augmentation: means as numbers, darker the farther from no change.

    A column's darkest colour is its farthest mean, or `FAINT` where all lie nearer. What cannot be
    told from no change stays white, and so does a measure that has no value for it.

    Args:
        summary: One severity's means with intervals.
        columns: What the measures are.
    """
    names = shown_measures(summary, columns)
    means, low, high = (pivot(summary, column)[names] for column in ("mean", "ci_low", "ci_high"))
    figure = Figure(figsize=(1.05 * len(names) + 3, 0.55 * len(means) + 1.9))
    axes = figure.subplots()
    colour = pd.DataFrame({m: _harm(means[m], low[m], high[m], columns[m]) for m in names})
    axes.imshow(colour, cmap="Blues", aspect="auto", vmin=0, vmax=1.6)
    for (row, column), value in np.ndenumerate(means.to_numpy(float)):
        ends = low.iat[row, column], high.iat[row, column]
        text = with_interval(value, *ends).replace(" [", "\n[")
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
    axes.set_xticks(range(len(names)), [columns[m].short for m in names], rotation=30, ha="right")
    axes.set_yticks(range(len(means)), means.index)
    axes.set_title("Means over photos with 95 % intervals; darker: farther from no change")
    axes.spines[:].set_visible(False)
    return figure


def _harm(mean: pd.Series, low: pd.Series, high: pd.Series, facts: Facts) -> pd.Series:
    """How far from no change, in shares of the farthest; 0 where it may be none."""
    if facts.unchanged is None:
        return pd.Series(0.0, mean.index)
    distance = (
        (mean - facts.unchanged)
        .abs()
        .where((low > facts.unchanged) | (high < facts.unchanged), 0.0)
    )
    span = facts.high - facts.low
    least = FAINT * (max(span, 1.0) if np.isfinite(span) else 1.0)
    return distance / max(distance.max(), least)


def shown_measures(summary: pd.DataFrame, columns: Mapping[str, Facts]) -> list[str]:
    """The measures of a summary that tell of a shift: of embeddings first, of pixels last."""
    spaces = ["embedding", "text", "gaze", "aligned gaze", "pixels"]
    measures = [m for m in summary["measure"].unique() if columns[m].space in spaces]
    return sorted(measures, key=lambda m: spaces.index(columns[m].space))


def is_preserved(facts: Facts) -> bool:
    """Whether a measure is 1 where nothing changed and well below where all did."""
    return facts.unchanged == 1 and facts.high == 1 and facts.low <= 0


def capitalised(words: str) -> str:
    """Words with the first letter as at the start of a sentence."""
    return words[:1].upper() + words[1:]


@styled
def draw_radar(
    summary: pd.DataFrame, measures: Sequence[str], columns: Mapping[str, Facts]
) -> Figure:
    """A radar per augmentation over the measures that are 1 where nothing changed.

    Args:
        summary: One severity's means with intervals.
        measures: Which measures, see `is_preserved`.
        columns: What they are.
    """
    means = pivot(summary)[list(measures)]
    bounds = [pivot(summary, end)[means.columns].fillna(means) for end in ("ci_low", "ci_high")]
    shade = colors(sorted(means.index))
    angles = np.linspace(0, 2 * np.pi, means.shape[1], endpoint=False)
    wide = min(3, len(means))
    high = -(-len(means) // wide)
    figure = Figure(figsize=(3.6 * wide, 3.3 * high + 0.8))
    grid = figure.subplots(high, wide, subplot_kw={"projection": "polar"}, squeeze=False)
    for axes, (name, values) in zip(grid.flat, means.iterrows(), strict=False):
        shown = values.clip(lower=0).to_numpy(float)
        ring = np.append(angles, angles[0])
        axes.plot(ring, np.append(shown, shown[0]), color=shade[str(name)], lw=1.5)
        least, most = (ends.loc[name].clip(lower=0).to_numpy(float) for ends in bounds)
        errors = np.stack([shown - least, most - shown]).clip(min=0)
        axes.errorbar(angles, shown, errors, fmt="none", ecolor="0.2", lw=1)
        axes.fill(ring, np.append(shown, shown[0]), color=shade[str(name)], alpha=0.25)
        axes.set_xticks(angles, [columns[m].short for m in means], fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=7, color="0.5")
        axes.set_title(str(name), fontsize=10, loc="center")
    for axes in grid.flat[len(means) :]:
        axes.axis("off")
    figure.suptitle(
        "What each augmentation preserves (mean over photos, 95 % interval; the rim, 1: unchanged)",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


@styled
def draw_distances(distances: pd.DataFrame, low: pd.DataFrame, high: pd.DataFrame) -> Figure:
    """Distance matrix of augmentations, and the dendrogram of its Ward linkage.

    Args:
        distances: Mean distances, K × K.
        low: Lower ends of their 95 % intervals, K × K.
        high: Upper ends.
    """
    names = list(distances.index)
    matrix = distances.to_numpy(float)
    tree = augmentation_linkage(matrix)
    figure = Figure(figsize=(0.95 * len(names) + 7.5, 0.45 * len(names) + 2.3))
    left, right = figure.subplots(1, 2, width_ratios=[1, 0.85])
    branches = dendrogram(
        tree,
        labels=names,
        orientation="right",
        ax=right,
        color_threshold=CLUSTER_CUT * tree[-1, 2],
        above_threshold_color="0.5",
    )
    order = branches["leaves"][::-1]
    shown = matrix[np.ix_(order, order)]
    lows, highs = (ends.to_numpy(float)[np.ix_(order, order)] for ends in (low, high))
    left.imshow(shown, cmap="viridis_r", vmin=0, aspect="auto")
    middle = shown.max() / 2
    for (row, column), value in np.ndenumerate(shown):
        colour = "white" if value > middle else "black"
        text = f"{value:.2f}"
        if row != column and np.isfinite(lows[row, column]):
            text += f"\n[{lows[row, column]:.2f}, {highs[row, column]:.2f}]"
        left.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    left.set_xticks(range(len(names)), [names[i] for i in order], rotation=40, ha="right")
    left.set_yticks(range(len(names)), [names[i] for i in order])
    left.spines[:].set_visible(False)
    left.set_title("Mean 1 − cosine between views of one photo, 95 % interval", fontsize=10)
    right.axvline(CLUSTER_CUT * tree[-1, 2], color="0.6", lw=1, ls="--")
    right.set_title("Ward linkage (dashed: where clusters are cut)", fontsize=10)
    right.set_xlabel("height of the merge", fontsize=9)
    right.spines["left"].set_visible(False)
    return figure


def draw_gallery(gallery: Gallery, gaze: str | None) -> Image.Image:
    """Photos clean and under each augmentation: the view, and below it the gaze on it.

    Args:
        gallery: The photos.
        gaze: The kind of gaze; None where the encoder has none.
    """
    rows: list[list[np.ndarray]] = []
    titles: list[list[str]] = []
    for photo, name in enumerate(gallery.photos):
        tiles = {view: _tile(pixels[photo]) for view, pixels in gallery.views.items()}
        rows.append(list(tiles.values()))
        notes = {
            view: f"{view}\ncos {cosine[photo]:.3f}" for view, cosine in gallery.cosines.items()
        }
        titles.append([f"{name[-24:]}\n{CLEAN}"] + [notes.get(v, v) for v in tiles if v != CLEAN])
        if gallery.gazes:
            rows.append([_gazed(tiles[view], gallery.gazes[view][photo]) for view in tiles])
            titles.append([])
    below = f", and the gaze on each ({gaze}; its own range, yellow: most)" if gaze else ""
    return _mosaic(
        rows, titles, f"Clean and augmented views of {counted(len(gallery.photos), 'photo')}{below}"
    )


def _tile(pixels: np.ndarray) -> np.ndarray:
    return np.round(255 * pixels.transpose(1, 2, 0)).astype(np.uint8)


def _gazed(tile: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    scaled = (gaze - gaze.min()) / (np.ptp(gaze) or 1)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        tile.shape[1::-1], Image.Resampling.BILINEAR
    )
    heat = matplotlib.colormaps["inferno"](np.asarray(smooth))[..., :3]
    return np.round(0.4 * tile.mean(axis=-1, keepdims=True) + 0.6 * 255 * heat).astype(np.uint8)


def _mosaic(rows: list[list[np.ndarray]], titles: list[list[str]], head: str) -> Image.Image:
    """Tiles pixel for pixel, with titles above those rows that have some.

    An image, because matplotlib takes seconds to lay out and draw so many.
    """
    side, gap, line, margin, foot_height = rows[0][0].shape[0], 8, 16, 8, 39
    above = [line * max((title.count("\n") + 1 for title in row), default=0) for row in titles]
    tops = 42 + np.cumsum([0] + [side + gap + lines for lines in above]) + np.array([*above, 0])
    columns = max(len(row) for row in rows)
    width = max(1170, columns * (side + gap) + 2 * margin)
    mosaic = Image.new("RGB", (width, int(tops[-1]) + foot_height), "white")
    writing = ImageDraw.Draw(mosaic)
    writing.text((margin, 10), head, "black", _font("DejaVuSans-Bold", 19))
    for top, row, told in zip(tops.tolist(), rows, titles, strict=False):
        for column, tile in enumerate(row):
            left = margin + column * (side + gap)
            mosaic.paste(Image.fromarray(tile), (left, top))
            if told:
                middle = (left + side / 2, top - 3)
                writing.text(middle, told[column], "black", _font("DejaVuSans", 13), "md",
                             align="center")  # fmt: skip
    return mosaic


@lru_cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / f"fonts/ttf/{name}.ttf", size)
