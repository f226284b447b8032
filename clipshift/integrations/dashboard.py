"""A sweep's dashboard in Weights & Biases: needs the extra ``clipshift[dashboard]``."""

from typing import Any

import wandb_workspaces.reports.v2 as wr

from clipshift.integrations.tracking import OVER_AUGMENTATIONS, SHIFT, key_of
from clipshift.measure.facts import COLUMNS
from clipshift.report.headline import HEADLINE
from clipshift.report.words import capitalised


def sweep_dashboard(project: str, entity: str, group: str, augmentations: list[str]) -> wr.Report:
    """The report of a sweep: ranking, curves over severity, and zero-shot accuracy side by side.

    It is only built; ``save()`` publishes it, and needs a login.

    Args:
        project: The W&B project.
        entity: User or team.
        group: The sweep's group of runs.
        augmentations: Augmentations of the sweep.
    """
    runs = wr.Runset(
        project=project, entity=entity, name=group, filters=f"Metric('Group') == '{group}'"
    )

    def panels(*plots: Any) -> wr.PanelGrid:
        return wr.PanelGrid(runsets=[runs], panels=list(plots))

    def bar(title: str, *keys: str) -> wr.BarPlot:
        metrics: list[Any] = list(keys)
        return wr.BarPlot(title=capitalised(title), metrics=metrics)

    shifts = {name: key_of(SHIFT, name) for name in augmentations}
    leading = ("mean_relative_shift", "mean_shift", "clean_top1", "spread")
    return wr.Report(
        project=project,
        entity=entity,
        title=f"Embedding shift: {group}",
        description="Made by clipshift. Definitions: docs/protocol.md.",
        blocks=[
            wr.H2("Run by run"),
            wr.P("Means over augmentations; the runs' table has these first."),
            panels(*(bar(HEADLINE[key], key) for key in leading)),
            wr.H2("Ranking"),
            wr.P("Mean shift by augmentation and run: the longest bar moved furthest."),
            panels(bar(COLUMNS[SHIFT].label, *shifts.values())),
            wr.H2("As augmentations grow stronger"),
            panels(*(wr.ScatterPlot(title=n, x="severity", y=key) for n, key in shifts.items())),
            wr.H2("Base against robust"),
            wr.P("What the views keep: zero-shot accuracy, and finding their own photo again."),
            panels(*(bar(COLUMNS[name].label, f"mean_{name}") for name in OVER_AUGMENTATIONS)),
        ],
    )
