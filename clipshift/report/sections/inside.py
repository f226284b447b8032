"""Inside the image tower: the shift after each layer, the gaze, and outlier tokens."""

from dataclasses import replace

from clipshift.report.charts.curves import LAYERS, draw_layers
from clipshift.report.charts.gaze import draw_faithfulness, draw_gaze
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import first_and_last, leading_rows, side_by_side, span
from clipshift.report.words import faithful_in_words, gaze_in_words, short
from clipshift.results.runs import Run


def layer_section(run: Run) -> Section | None:
    """How alike view and clean view still are after each layer."""
    layers = run.layers
    measured = [c for c in ("cosine", "patch_cosine", "cka") if layers[c].notna().any()]
    if not measured:
        return None
    drawn = {f"layers_{column}": draw_layers(layers, column) for column in measured}
    column = measured[0] if "cosine" in measured else measured[-1]  # mean patch tokens are alike
    measure, ends = LAYERS[column]
    rows = leading_rows(layers.dropna(subset=column))
    rows = rows.sort_values(["layer", column], ascending=[True, False], kind="stable")
    lowest = rows["augmentation"].iloc[-1]  # after the last layer
    ends_of_course = first_and_last(rows[rows["augmentation"] == lowest])[[column, *ends, "layer"]]
    course = [f"{short(*one)} after layer {at:.0f}" for *one, at in ends_of_course.to_numpy()]
    found = {"measure": measure, "augmentation": lowest, "course": ", ".join(course)}
    return make_section("layers", drawn, [layers], **found)


def gaze_section(run: Run) -> Section | None:
    """How far the gaze on views is from the gaze on clean views."""
    measures = {"gaze_divergence", "gaze_divergence_aligned"} & set(run.summary["measure"])
    kind = run.info.model.gaze
    if not measures or kind is None:
        return None
    caption = (
        "Circles: has the model looked elsewhere on the photo? Its gaze is moved back with the "
        "pixels first. Squares: compared in the view, where a gaze that follows its object moves "
        "too."
        if len(measures) == 2
        else "How far the gaze on the view is from the gaze on the clean view."
    )
    drawn = {"gaze": draw_gaze(run.summary)}
    return make_section("gaze", drawn, kind=gaze_in_words(kind), caption=caption)


def faithfulness_section(run: Run) -> Section:
    """Whether the gaze names the patches that the embedding depends on."""
    index = "severity", "augmentation", "map"
    table = side_by_side(run.faithfulness, "measure", index=index)
    table = table[~table["map"].isin(["random", "occlusion"])]  # 0 and 1 by definition
    curves = run.faithfulness_curves
    drawn = {name: draw_faithfulness(curves, name) for name in ("deletion", "insertion")}
    has_rollout = table["map"].eq("rollout").any()
    words = {
        "faithful": faithful_in_words(run),
        "photos": f"{run.faithfulness['n'].max():.0f}",
        "rollout": " Rollout follows attention through all layers." if has_rollout else "",
    }
    return make_section("faithfulness", drawn, [table], **words)


def outlier_section(run: Run) -> Section | None:
    """How many patch tokens are outliers, and how much of the gaze is on them."""
    rows, layer = run.outliers, run.info.model.gaze_layer
    if not run.info.config.inside:
        return None
    if not rows["tokens"].any():
        return replace(make_section("outliers", span=""), finding="There are none, in any layer.")
    most = rows.sort_values("tokens").drop_duplicates(["severity", "augmentation"], keep="last")
    found = {"layer": layer, "span": span(most, "tokens")}
    seen = rows[rows["layer"] == layer]
    tables = [seen] if seen["gaze_share"].notna().any() else []
    return make_section("outliers", {"outliers": draw_layers(rows, "tokens")}, tables, **found)
