"""The charts of pages, files and notebooks, in Altair: one specification for all of them.

Each function takes plain tables of a run and returns a chart. Where a table has several severities,
the chart has a parameter ``severity`` that chooses one of them.
"""

from clipshift.report.charts.comparison import draw_differences, draw_interpolation
from clipshift.report.charts.corruptions import draw_corruption_error
from clipshift.report.charts.gaze import draw_gaze, draw_pictures
from clipshift.report.charts.geometry import draw_against, draw_distances, draw_undone
from clipshift.report.charts.layers import draw_layers
from clipshift.report.charts.measures import (
    draw_correlations,
    draw_distribution,
    draw_heatmap,
    draw_severity,
)
from clipshift.report.charts.ranking import draw_agreement, draw_ranking
from clipshift.report.charts.sweep import draw_curves, draw_parallel

__all__ = [
    "draw_against",
    "draw_agreement",
    "draw_correlations",
    "draw_corruption_error",
    "draw_curves",
    "draw_differences",
    "draw_distances",
    "draw_distribution",
    "draw_gaze",
    "draw_heatmap",
    "draw_interpolation",
    "draw_layers",
    "draw_parallel",
    "draw_pictures",
    "draw_ranking",
    "draw_severity",
    "draw_undone",
]
