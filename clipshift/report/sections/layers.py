"""After which layers of the image tower the shift grows."""

from clipshift.report.charts.curves import draw_layers
from clipshift.report.page import Section
from clipshift.report.prose import make_section
from clipshift.report.tables import AUGMENTATION, COUNT, Column
from clipshift.report.words import p_value
from clipshift.results.columns import DEFINITIONS
from clipshift.results.runs import Run

COLUMNS = (
    AUGMENTATION,
    Column("layer", "layer", form=COUNT),
    Column("cosine", "cosine", "ci"),
    Column("cosine of patches", "patch_cosine", "patch"),
    Column("amplification", "amplification", "amplification"),
    Column("CKA", "cka", "cka"),
    Column("p at most", "cka_p", form=p_value),
)


def layer_section(run: Run) -> Section | None:
    """How alike view and clean view still are after each layer."""
    layers = run.layers.reindex(columns=list(DEFINITIONS["layers"]))  # earlier runs have fewer
    measured = [c for c in ("cosine", "patch_cosine", "cka") if layers[c].notna().any()]
    drawn = {f"layers_{column}": draw_layers(layers, column) for column in measured}
    return make_section("layers", drawn, [(layers, COLUMNS)]) if drawn else None
