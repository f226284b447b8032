"""A sweep's dashboard in Weights & Biases: needs the extra ``clipshift[dashboard]``."""

from typing import Any

import wandb_workspaces.reports.v2 as wr

from clipshift.integrations.tracking import key_of
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

    def bars(measure: str) -> wr.BarPlot:
        keys: list[Any] = [key_of(measure, name) for name in augmentations]
        return wr.BarPlot(title=words[measure], metrics=keys)

    def curve(name: str) -> wr.ScatterPlot:
        return wr.ScatterPlot(title=name, x="severity", y=key_of("shift", name))

    words = {name: capitalised(facts.label) for name, facts in COLUMNS.items()}
    words["shift"] = "Shift (1 − cosine)"
    leading = ("mean_relative_shift", "mean_shift", "clean_top1", "spread")
    return wr.Report(
        project=project,
        entity=entity,
        title=f"Embedding shift: {group}",
        description="Made by clipshift. Definitions: docs/protocol.md.",
        blocks=[
            wr.H2("Run by run"),
            wr.P("Means over augmentations; the runs' table has these first."),
            panels(*(wr.BarPlot(title=capitalised(HEADLINE[k]), metrics=[k]) for k in leading)),
            wr.H2("Ranking"),
            wr.P("Mean shift by augmentation and run: the longest bar moved furthest."),
            panels(bars("relative_shift"), bars("shift")),
            wr.H2("As augmentations grow stronger"),
            panels(*map(curve, augmentations)),
            wr.H2("Base against robust"),
            wr.P("What the views keep: zero-shot accuracy, and finding their own photo again."),
            panels(bars("zero_shot_top1"), bars("retained")),
        ],
    )
