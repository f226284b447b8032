"""The figures of a report, each readable alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.hierarchy import dendrogram
from scipy.stats import gaussian_kde

from clipshift.measure.functional import augmentation_linkage
from clipshift.results import CLEAN, Measured, pivot, write_whole

matplotlib.rcParams.update(
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

CLUSTER_CUT = 0.7
"""Clusters are cut at this share of the dendrogram's highest merge."""

LABELS = {
    "cosine_similarity": "cosine similarity of embeddings (1: no shift)",
    "l2_distance": "L2 distance of embeddings (0: no shift)",
    "attention_similarity": "attention similarity (1: same gaze)",
    "patch_similarity": "patch similarity (1: same pixels)",
    "patch_similarity_uint8": "patch similarity, the paper's wrapped variant",
    "edge_preservation": "edge preservation (1: same edges)",
    "detail_preservation": "detail preservation (1: same detail)",
    "rmse": "RMSE of pixels (0: same pixels)",
    "ssim": "SSIM of pixels (1: same pixels)",
}
SHORT = {
    "cosine_similarity": "cosine",
    "l2_distance": "L2",
    "attention_similarity": "attention",
    "patch_similarity": "patch",
    "edge_preservation": "edge",
    "detail_preservation": "detail",
    "rmse": "RMSE",
    "ssim": "SSIM",
    "zero_shot_top1": "top-1",
    "zero_shot_top5": "top-5",
    "patch_similarity_uint8": "patch (uint8)",
}
PAPER = ("cosine", "L2", "attention", "patch", "edge", "detail", "top-1")
LOWER_IS_BETTER = {"l2_distance", "rmse"}
RADAR = set(LABELS) - LOWER_IS_BETTER - {"patch_similarity_uint8"}


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


def gallery_of(measured: Measured, ids: list[str], count: int) -> Gallery:
    """The first photos of a run for `draw_gallery`.

    Args:
        measured: What was measured, with at least ``count`` photos' views and gazes kept.
        ids: The ids of the run's photos.
        count: How many photos.
    """
    kept = measured.views.get(CLEAN, {})
    indices = sorted(kept)[:count]
    rows = [measured.index.index(photo) for photo in indices]
    return Gallery(
        photos=[ids[photo] for photo in indices],
        views={
            name: np.stack([views[i] for i in indices]) for name, views in measured.views.items()
        },
        gazes={
            name: np.stack([gazes[i] for i in indices]) for name, gazes in measured.gazes.items()
        },
        cosines={
            augmentation: np.array(values)[rows]
            for (augmentation, measure), values in measured.values.items()
            if measure == "cosine_similarity"
        },
    )


def draw_figures(
    shift: pd.DataFrame,
    summary: pd.DataFrame,
    distances: pd.DataFrame,
    gallery: Gallery,
    source: str,
) -> dict[str, Figure]:
    """All figures that the run's measures allow, by name.

    Args:
        shift: A row a photo and augmentation.
        summary: Means with intervals.
        distances: Distances between augmentations, K × K.
        gallery: Photos for the gallery.
        source: Model, data and number of photos: stands below every figure.
    """
    measures = set(summary["measure"])
    figures: dict[str, Figure] = {}
    if "cosine_similarity" in measures:
        figures["ranking"] = draw_ranking(summary)
        figures["cosine_distribution"] = draw_distributions(shift, "cosine_similarity", bars=True)
    if "l2_distance" in measures:
        figures["l2_distribution"] = draw_distributions(shift, "l2_distance", bars=False)
    figures["heatmap"] = draw_heatmap(summary)
    if len(measures & RADAR) >= 3:
        figures["radar"] = draw_radar(summary)
    if len(distances) >= 2:
        figures["distances"] = draw_distances(distances)
    if gallery.photos:
        figures["gallery"] = draw_gallery(gallery)
    for figure in figures.values():
        figure.supxlabel(source, x=0.01, ha="left", fontsize=8, color="0.4")
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Write figures as PNG, by name."""
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_whole(paths[name], lambda p, f=figure: f.savefig(p, dpi=130, format="png"))  # type: ignore[misc]
    return paths


def colors(names: list[str]) -> dict[str, tuple[float, ...]]:
    """A colour for each augmentation, the same in every figure of a run."""
    palette = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(index % palette.N) for index, name in enumerate(names)}


def draw_ranking(summary: pd.DataFrame) -> Figure:
    """Bars of the mean shift, 1 − cosine, with 95 % intervals, the largest first."""
    rows = summary[summary["measure"] == "cosine_similarity"].sort_values("mean", ascending=False)
    shade = colors(list(summary["augmentation"].unique()))
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.6))
    axes = figure.subplots()
    means = 1 - rows["mean"].to_numpy()
    errors = np.stack([rows["ci_high"] - rows["mean"], rows["mean"] - rows["ci_low"]])
    axes.barh(
        rows["augmentation"],
        means,
        xerr=np.nan_to_num(errors.clip(min=0)),
        color=[shade[name] for name in rows["augmentation"]],
        error_kw={"capsize": 3, "lw": 1},
    )
    reach = (means + np.nan_to_num(errors[1])).max(initial=0) or 1
    for row, (mean, error) in enumerate(zip(means, np.nan_to_num(errors[1]), strict=True)):
        axes.text(mean + error + 0.01 * reach, row, f"{mean:.3g}", va="center", fontsize=9)
    axes.set(
        title="How far each augmentation moves the embedding",
        xlabel="mean of 1 − cosine similarity, with 95 % bootstrap interval over photos",
        xlim=(0, 1.12 * reach),
    )
    return figure


def draw_distributions(shift: pd.DataFrame, measure: str, bars: bool) -> Figure:
    """Distribution of a measure over photos: a panel an augmentation, histogram and KDE."""
    groups = {name: g[measure].dropna() for name, g in shift.groupby("augmentation", sort=False)}
    shade = colors(list(groups))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.1 * rows + 0.9))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    low, high = (
        min(g.min() for g in groups.values()),
        max(g.max() for g in groups.values()),
    )
    margin = 0.03 * (high - low) or 0.01
    bound = 1.0 if measure == "cosine_similarity" else np.inf
    line = np.linspace(low - margin, min(high + margin, bound), 400)
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
        axes.set_title(f"{name}: mean {values.mean():.3f}", fontsize=9, fontweight="normal")
        axes.set_yticks([])
    for axes in grid.flat[len(groups) :]:
        axes.axis("off")
    figure.suptitle(
        f"{LABELS[measure][0].upper()}{LABELS[measure][1:]}\n"
        f"over photos: {'histogram and ' if bars else ''}kernel density; dashed: mean",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def draw_heatmap(summary: pd.DataFrame) -> Figure:
    """Measure × augmentation: means as numbers, coloured from best to worst within a measure."""
    means = pivot(summary)
    means = means[[measure for measure in means if measure in SHORT]]
    colour = means.copy()
    for measure in means:
        values = -means[measure] if measure in LOWER_IS_BETTER else means[measure]
        span = values.max() - values.min()
        colour[measure] = (values - values.min()) / span if span > 0 else 1.0
    figure = Figure(figsize=(1.05 * means.shape[1] + 3, 0.42 * len(means) + 1.9))
    axes = figure.subplots()
    axes.imshow(colour.fillna(0.5), cmap="RdYlGn", aspect="auto", vmin=-0.25, vmax=1.25, alpha=0.85)
    for (row, column), value in np.ndenumerate(means.to_numpy(float)):
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(
        range(means.shape[1]), [SHORT.get(m, m) for m in means], rotation=30, ha="right"
    )
    axes.set_yticks(range(len(means)), means.index)
    axes.set_title("Means over photos; green to red: best to worst augmentation in each measure")
    axes.spines[:].set_visible(False)
    return figure


def draw_radar(summary: pd.DataFrame) -> Figure:
    """A radar per augmentation over the measures that are 1 where nothing changed."""
    means = pivot(summary)
    means = means[[measure for measure in means if measure in RADAR]]
    shade = colors(list(means.index))
    angles = np.linspace(0, 2 * np.pi, means.shape[1], endpoint=False)
    columns = min(3, len(means))
    rows = -(-len(means) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * rows + 0.8))
    grid = figure.subplots(rows, columns, subplot_kw={"projection": "polar"}, squeeze=False)
    for axes, (name, values) in zip(grid.flat, means.iterrows(), strict=False):
        shown = values.clip(lower=0).to_numpy(float)
        ring = np.append(angles, angles[0])
        axes.plot(ring, np.append(shown, shown[0]), color=shade[str(name)], lw=1.5)
        axes.fill(ring, np.append(shown, shown[0]), color=shade[str(name)], alpha=0.25)
        axes.set_xticks(angles, [SHORT.get(m, m) for m in means], fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=7, color="0.5")
        axes.set_title(str(name), fontsize=10, loc="center")
    for axes in grid.flat[len(means) :]:
        axes.axis("off")
    figure.suptitle(
        "What each augmentation preserves (mean over photos; the rim, 1: unchanged)",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def draw_distances(distances: pd.DataFrame) -> Figure:
    """Distance matrix of augmentations, and the dendrogram of its Ward linkage."""
    names = list(distances.index)
    matrix = distances.to_numpy(float)
    tree = augmentation_linkage(matrix)
    figure = Figure(figsize=(0.62 * len(names) + 7.5, 0.45 * len(names) + 2.3))
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
    left.imshow(shown, cmap="viridis_r", vmin=0)
    middle = shown.max() / 2
    for (row, column), value in np.ndenumerate(shown):
        colour = "white" if value > middle else "black"
        left.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    left.set_xticks(range(len(names)), [names[i] for i in order], rotation=40, ha="right")
    left.set_yticks(range(len(names)), [names[i] for i in order])
    left.spines[:].set_visible(False)
    left.set_title("Mean 1 − cosine between views of one photo", fontsize=10)
    right.axvline(CLUSTER_CUT * tree[-1, 2], color="0.6", lw=1, ls="--")
    right.set_title("Ward linkage (dashed: where clusters are cut)", fontsize=10)
    right.set_xlabel("height of the merge", fontsize=9)
    right.spines["left"].set_visible(False)
    return figure


def draw_gallery(gallery: Gallery) -> Figure:
    """Photos clean and under each augmentation: the view, and below it the gaze on it."""
    names = list(gallery.views)
    gaze = bool(gallery.gazes)
    bands = len(gallery.photos) * (2 if gaze else 1)
    figure = Figure(figsize=(1.5 * len(names), 1.62 * bands + 0.9))
    grid = figure.subplots(bands, len(names), squeeze=False)
    for photo in range(len(gallery.photos)):
        for column, name in enumerate(names):
            pixels = gallery.views[name][photo].transpose(1, 2, 0)
            axes = grid[photo * bands // len(gallery.photos), column]
            axes.imshow(pixels)
            cosine = gallery.cosines.get(name)
            note = f"\ncos {cosine[photo]:.3f}" if cosine is not None else ""
            head = f"{gallery.photos[photo][-24:]}\n{name}" if name == CLEAN else f"{name}{note}"
            axes.set_title(head, fontsize=8, loc="center", fontweight="normal")
            if gaze:
                _show_gaze(grid[2 * photo + 1, column], pixels, gallery.gazes[name][photo])
    for axes in grid.flat:
        axes.axis("off")
    below = ", and the gaze on each (its own range, yellow: most)" if gaze else ""
    figure.suptitle(
        f"Clean and augmented views of {len(gallery.photos)} photos{below}",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def _show_gaze(axes: Axes, pixels: np.ndarray, gaze: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    smooth = Image.fromarray(gaze.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    axes.imshow(pixels.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    axes.imshow(np.asarray(smooth), cmap="inferno", alpha=0.6)
