"""What happens inside the space of embeddings, as sections of a run's page."""

import numpy as np
import pandas as pd

from clipshift.encode import NAMES
from clipshift.report import words
from clipshift.report.charts.curves import draw_layers
from clipshift.report.charts.geometry import draw_against, draw_distances, draw_undone
from clipshift.report.page import WIDE, Cell, Figure, Section, Table, number, probability
from clipshift.report.words import SIGNIFICANT
from clipshift.results import Run
from clipshift.results.columns import DEFINITIONS
from clipshift.severities import view_name

SHOWN_TEXTS = 3
"""How many texts a row of the page names, of those that a view gains or loses."""


def inside_sections(run: Run) -> list[Section]:
    """The sections; none where a run has not looked inside."""
    made = [direction_section, undone_section, neighbourhood_section, named_section]
    tables = [run.directions, run.undone, run.neighbourhoods, run.named]
    return [section(run) for section, table in zip(made, tables, strict=True) if len(table)]


def direction_section(run: Run) -> Section:
    """Whether all photos are moved the same way, and which augmentations push alike."""
    # Earlier runs have fewer columns.
    rows = run.directions.reindex(columns=list(DEFINITIONS["directions"]))
    drawn = [
        Figure(
            "directions",
            draw_against(
                rows.rename(columns={"direction": "value", "null": "reference"}),
                "length of the mean unit displacement",
            ),
            "1: every photo is moved the same way; 0: at random. Bars are 95 % intervals. A point "
            "left of its tick may be chance: so long is a direction in 5 % of the cases where "
            "each photo could as well have been moved the opposite way. Displacements are taken "
            "perpendicular to the photos’ mean embedding; their part along it is the contraction.",
        )
    ]
    matrices = cosine_matrices(run)
    if matrices:
        cosines, low, high = matrices
        drawn.append(
            Figure(
                "direction_cosines",
                draw_distances(
                    cosines,
                    low,
                    high,
                    description="1 − cosine between the mean displacements of augmentations, and "
                    "the tree of their Ward linkage.",
                ),
                "Who pushes the same way: 1 − cosine between mean displacements (0: the same way, "
                "1: at right angles, 2: the opposite way), of the augmentations that have a "
                "direction. Those that join early push alike.",
            )
        )
    table = Table(
        [
            "augmentation",
            "direction",
            "chance, 95 %",
            "p (Holm)",
            "share of the shift",
            "contraction",
            "photos",
        ],
        [
            [
                Cell(row.augmentation),
                number(row.direction, row.ci_low, row.ci_high),
                number(row.null),
                probability(row.p_holm),
                number(row.share, row.share_low, row.share_high),
                number(row.contraction, row.contraction_low, row.contraction_high),
                Cell(str(row.n), row.n),
            ]
            for row in rows.itertuples()
        ],
        "The direction of each augmentation",
        list(rows["severity"]),
        "directions.csv",
        "“Share of the shift”: how much of the mean squared displacement is the same for all "
        "photos, and would be gone if it were subtracted. “Contraction”: how much nearer views "
        "come to the other clean photos, as a share of the mean distance between these. Negative: "
        "they move away, as views that move at random do.",
    )
    text = (
        "Is every photo moved the same way? A common direction is a bias that can be subtracted; "
        "without one, each photo goes its own way."
    )
    return Section("directions", "Shift direction", [text], drawn, [table])


def cosine_matrices(run: Run) -> list[pd.DataFrame]:
    """1 − cosine of directions and the ends of its intervals, as matrices by view name.

    Of augmentations whose direction is told from chance at a severity and that have a mean
    displacement, where there are several.
    Empty where there are none.
    """
    told = (run.directions["p_holm"] < SIGNIFICANT) & (run.directions["share"] > 0)
    known = run.directions[told]
    views = [view_name(row.augmentation, row.severity) for row in known.itertuples()]
    made = [
        pd.DataFrame(np.where(np.eye(len(views)) > 0, 0.0, np.nan), views, views) for _ in range(3)
    ]
    for row in run.direction_cosines.dropna(subset="cosine").itertuples():
        pair = [view_name(name, row.severity) for name in (row.augmentation, row.other)]
        if not set(pair) <= set(views):
            continue
        for matrix, cosine in zip(made, (row.cosine, row.ci_high, row.ci_low), strict=True):
            matrix.loc[pair[0], pair[1]] = matrix.loc[pair[1], pair[0]] = 1 - cosine
    return made if known["severity"].duplicated().any() else []


def undone_section(run: Run) -> Section:
    """How much of the shift is lost, and how much was only moved."""
    rows = run.undone
    wide = rows.pivot(index=["severity", "augmentation"], columns="method")
    methods = list(rows["method"].unique())
    cells, severities = [], []
    for severity, name in dict.fromkeys(zip(rows["severity"], rows["augmentation"], strict=True)):
        own = wide.loc[(severity, name)]
        ends = [[own[column, m] for column in ("r_squared", "ci_low", "ci_high")] for m in methods]
        cells.append([Cell(name), *(number(*end) for end in ends)])
        severities.append(severity)
    table = Table(
        ["augmentation", *methods], cells, "How much of the clean embedding is recovered",
        severities, "undone.csv",
        "R² of the clean embedding, estimated by maps made of other photos; its interval takes the "
        "maps as they are. A richer map can do worse: it is made of few photos.",
    )  # fmt: skip
    text = (
        "What a simple map can undo was only moved; the rest is lost, as far as such maps can "
        "tell. R² 1: the clean embedding is recovered; 0: no better than the photos’ mean, to "
        "which ridge may shrink."
    )
    caption = (
        "R² of the clean embedding from the view’s, on photos that the maps were not made of: as "
        "it is (none), with the mean displacement subtracted (mean), turned (orthogonal), and by "
        "a linear map (ridge). Bars are 95 % intervals."
    )
    return Section(
        "undone", "Can it be undone?", [text],
        [Figure("undone", draw_undone(rows), caption)], [table],
    )  # fmt: skip


def neighbourhood_section(run: Run) -> Section:
    """What becomes of photos' neighbours, and of how embeddings fill their space."""
    rows = run.neighbourhoods
    kept = rows[rows["measure"] == "neighbours_kept"]
    figure = Figure(
        "neighbours_kept",
        draw_against(kept, "share of the 10 nearest photos that stay nearest"),
        "Of a photo’s ten nearest photos, how many are still nearest when all are augmented. Bars "
        "are 95 % intervals among these photos; the tick is chance.",
    )
    labels = {
        "neighbours_kept": "neighbours kept",
        "alignment": "alignment",
        "uniformity": "uniformity",
        "uniformity_change": "change of uniformity",
        "effective_rank": "effective rank",
        "hubness": "hubness",
    }
    table = Table(
        ["augmentation", "measure", "views", "clean, or chance"],
        [
            [
                Cell(row.augmentation),
                Cell(labels[row.measure]),
                number(row.value, row.ci_low, row.ci_high),
                number(row.reference),
            ]
            for row in rows.itertuples()
        ],
        "Neighbourhoods",
        list(rows["severity"]),
        "neighbourhoods.csv",
        "Effective rank and hubness have no interval: resampled photos would be their own "
        "neighbours.",
        folded=True,
    )
    text = (
        "A shift that leaves neighbours together does little harm to search and grouping. If all "
        "views crowd together, uniformity rises and the effective rank falls."
    )
    return Section(
        "neighbourhoods", "Neighbourhoods", [text], [figure], [table],
        definitions={
            "alignment": "mean squared distance of view and clean view on the unit sphere",
            "uniformity": "logarithm of the mean of exp(−2 × squared distance) between different "
            "photos; lower: more even; 0: all the same",
            "effective rank": "exponential of the entropy of the singular values: how many "
            "dimensions are used",
            "hubness": "skewness of how often a photo is among others’ ten nearest",
        },
    )  # fmt: skip


def named_section(run: Run) -> Section:
    """The classes, and looks of photos, that views move towards, and away from."""
    named = run.named.reindex(columns=list(DEFINITIONS["named"]))  # earlier runs have fewer
    named["vocabulary"] = named["vocabulary"].fillna("classes")
    keys = ["severity", "augmentation", "vocabulary"]
    rows, severities = [], []
    for (severity, name, vocabulary), own in named.groupby(keys, sort=False):
        known = own[own["p_holm"] < SIGNIFICANT]
        by_change = known.sort_values("change", ascending=False, kind="stable")
        gained = by_change[by_change["change"] > 0].head(SHOWN_TEXTS)
        lost = by_change[by_change["change"] < 0].tail(SHOWN_TEXTS)[::-1]
        rows.append([Cell(name), Cell(vocabulary), Cell(_texts(gained)), Cell(_texts(lost))])
        severities.append(severity)
    table = Table(
        ["augmentation", "list", "nearer to", "farther from"], rows, "What views move towards",
        severities, "named.csv",
        "Mean change of the cosine between image and text, with 95 % intervals: the three that "
        "gain and lose most, of those whose change is significant after Holm’s correction.",
    )  # fmt: skip
    whole = Table(
        ["augmentation", "list", "text", "cosine", "p (Holm)", "probability", "p (Holm)"],
        [
            [
                Cell(row.augmentation),
                Cell(row.vocabulary),
                Cell(row.text),
                number(row.change, row.ci_low, row.ci_high, "+.3f"),
                probability(row.p_holm),
                number(row.softmax_change, row.softmax_low, row.softmax_high, "+.3f"),
                probability(row.softmax_p_holm),
            ]
            for row in named.itertuples()
        ],
        "The ten texts that gain most, and the ten that lose most",
        list(named["severity"]),
        "named.csv",
        "Changes of the cosine, by which they are chosen, and of the text’s probability: the "
        "softmax over its list at the model’s own scale.",
        folded=True,
    )
    without = (
        " The attributes (how a photo can look) are left out: this model’s text side knows only "
        "names."
        if run.info.model.text == NAMES
        else ""
    )
    text = (
        "What does the model see more of, and less of? A text can gain because it is seen, or "
        "because all photos move towards it a little; its probability gains only if it gains more "
        f"than the other texts of its list.{without}"
    )
    return Section("named", "Texts gained and lost", [text], [], [table, whole])


def outlier_sections(run: Run) -> list[Section]:
    """Outlier tokens: how many tokens are outliers, and how much of the gaze is on them."""
    rows, layer = run.outliers, run.info.model.gaze_layer
    if rows.empty or not run.info.config.inside:
        return []
    text = [
        "Large ViTs turn some patches of little content into outlier tokens, in which they keep "
        "what concerns the whole picture (“registers”): patch tokens more than three times as long "
        "as the view’s median one. A gaze on them says little of what is seen there."
    ]
    if not rows["tokens"].any():
        return [Section("outliers", "Outlier tokens", [*text, "There are none, in any layer."])]
    figure = Figure(
        "outliers",
        draw_layers(rows, "tokens"),
        "Outlier tokens of a view after each layer: means over photos with 95 % intervals.",
        least=WIDE,
    )
    seen = rows[rows["layer"] == layer]
    tables = []
    if seen["gaze_share"].notna().any():
        tables = [
            Table(
                ["augmentation", "outlier tokens", "of all patches", "share of the gaze", "photos"],
                [
                    [
                        Cell(row.augmentation),
                        number(row.tokens, row.ci_low, row.ci_high),
                        number(row.share),
                        number(row.gaze_share, row.gaze_low, row.gaze_high),
                        Cell(str(row.n), row.n),
                    ]
                    for row in seen.itertuples()
                ],
                "The gaze on outlier tokens",
                list(seen["severity"]),
                "outliers.csv",
                f"After layer {layer}, whose tokens the gaze looks at.",
            )
        ]
    return [Section("outliers", "Outlier tokens", text, [figure], tables)]


def _texts(rows: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.text} {words.with_interval(row.change, row.ci_low, row.ci_high, '+.3f')}"
        for row in rows.itertuples()
    )
