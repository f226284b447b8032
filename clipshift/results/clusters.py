"""Hierarchical clustering of augmentations by the distances between their views."""

from typing import NamedTuple

import pandas as pd
from scipy.cluster.hierarchy import dendrogram

from clipshift.measure.functional import augmentation_linkage
from clipshift.severities import split_view_name


class Tree(NamedTuple):
    """Views of one severity, clustered.

    Attributes:
        leaves: Views in the tree's order.
        branches: The tree's lines, each with four ``step`` s: ``branch``, ``leaf``, a position
            among the leaves, and the ``height`` there.
    """

    leaves: list[str]
    branches: pd.DataFrame


def cluster_views(distances: pd.DataFrame) -> dict[str, Tree]:
    """The Ward linkage of views, one tree for each severity that several views have.

    Args:
        distances: Mean distances, K × K, with names ``AUGMENTATION`` or ``AUGMENTATION@SEVERITY``.

    Returns:
        Trees by severity, ``""`` for names without one.

    Example:
        >>> names = ["blur", "flip", "noise"]
        >>> distances = pd.DataFrame([[0, 4, 1], [4, 0, 4], [1, 4, 0]], names, names)
        >>> cluster_views(distances)[""].leaves
        ['flip', 'blur', 'noise']
    """
    views_of: dict[str, list[str]] = {}
    for view in distances.index:
        views_of.setdefault(split_view_name(view)[1], []).append(view)
    trees = {}
    for severity, views in views_of.items():
        if len(views) < 2:
            continue
        linkage = augmentation_linkage(distances.loc[views, views].to_numpy(float))
        tree = dendrogram(linkage, no_plot=True)
        steps = [
            (branch, step, (x - 5) / 10, y)  # scipy's leaves lie at 5, 15, 25, …
            for branch, corners in enumerate(zip(tree["icoord"], tree["dcoord"], strict=True))
            for step, (x, y) in enumerate(zip(*corners, strict=True))
        ]
        branches = pd.DataFrame(steps, columns=["branch", "step", "leaf", "height"])
        trees[severity] = Tree([views[leaf] for leaf in tree["leaves"]], branches)
    return trees
