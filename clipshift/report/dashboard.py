"""A sweep's dashboard in Weights & Biases: needs the extra ``clipshift[dashboard]``."""

from typing import Any

import wandb_workspaces.reports.v2 as wr


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

    def each(measure: str) -> list[Any]:
        return [f"{name}/{measure}" for name in augmentations]

    return wr.Report(
        project=project,
        entity=entity,
        title=f"Embedding shift: {group}",
        description="Made by clipshift. Definitions: docs/protocol.md.",
        blocks=[
            wr.H2("Ranking"),
            wr.P("Mean cosine to the clean view by run: the shortest bar moved furthest."),
            wr.PanelGrid(
                runsets=[runs],
                panels=[
                    wr.BarPlot(title=name, metrics=[f"{name}/cosine_similarity"])
                    for name in augmentations
                ],
            ),
            wr.H2("Shift against severity"),
            wr.PanelGrid(
                runsets=[runs],
                panels=[
                    wr.ScatterPlot(title=name, x="severity", y=f"shift/{name}")
                    for name in augmentations
                ],
            ),
            wr.H2("Base against robust"),
            wr.P("What the views keep: zero-shot accuracy, and finding their own photo again."),
            wr.PanelGrid(
                runsets=[runs],
                panels=[
                    wr.BarPlot(title="zero-shot top-1", metrics=each("zero_shot_top1")),
                    wr.BarPlot(title="retained", metrics=each("retained")),
                    wr.BarPlot(title="relative shift", metrics=each("relative_shift")),
                ],
            ),
        ],
    )
