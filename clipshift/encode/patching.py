"""Activation patching: one component's output of one view, put into the forward pass of another.

A head's output is what it gathers for all tokens, before the projection; an MLP's is what it adds
to them; a stage's is what its residual blocks add. Everything after it is computed anew. Source:
Vig et al., "Investigating gender bias in language models using causal mediation analysis", 2020
(arXiv:2004.12265); Heimersheim and Nanda, "How to use and interpret activation patching", 2024
(arXiv:2404.15255).
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipshift.encode.components import ComponentProbe, Key
from clipshift.encode.encoder import ENCODE_BATCH, Encoder
from clipshift.encode.stages import StageProbe


class Site(NamedTuple):
    """What is patched: an MLP, all heads of a layer, or one of them, from 0; or a stage."""

    layer: int
    component: str
    head: int = -1

    @property
    def place(self) -> Key:
        """The output that it is part of."""
        return self.layer, "attention" if self.component == "head" else self.component


def patched_sites(probe: ComponentProbe | StageProbe, by_head: int) -> list[Site]:
    """Attention and MLP of every layer, and each head of the last layers; or every stage.

    Args:
        probe: The encoder's.
        by_head: Of how many layers.
    """
    if isinstance(probe, StageProbe):
        return [Site(stage, "stage") for stage in probe.spans]
    depth = len(probe.layers)
    sites = [Site(layer, kind) for layer in range(depth) for kind in ("attention", "mlp")]
    last = range(max(0, depth - by_head), depth)
    return sites + [Site(layer, "head", head) for layer in last for head in range(probe.heads)]


def patched_shift(
    encoder: Encoder, probe: ComponentProbe | StageProbe, views: Tensor, sites: list[Site]
) -> Tensor:
    """The shift of a view, and with single components of another view.

    Every site has its own row of a forward pass, so that one pass patches as many as it has rows.

    Args:
        encoder: The encoder.
        probe: Its ``patchable``.
        views: The clean view and the perturbed one, shape (2, 3, H, W).
        sites: What is patched.

    Returns:
        1 − cosine with the clean view, float64, shape (1 + 2 · sites): of the perturbed view; of
        the same with each clean component; and of the clean view with each perturbed component.
    """
    kept: dict[Key, Tensor] = {}
    with probe.watching(lambda key, output: kept.update({key: output[:2].clone()})):
        units = [normalize(encoder.encode_views(views).embedding.double())]

    def put(source: int, part: list[Site], key: Key, output: Tensor) -> Tensor | None:
        heads = [(row, site.head) for row, site in enumerate(part) if site.place == key]
        output = output.clone() if heads else output
        size = output.shape[-1] // probe.heads
        for row, head in heads:
            columns = slice(None) if head < 0 else slice(head * size, (head + 1) * size)
            output[row, :, columns] = kept[key][source, :, columns]
        return output if heads else None

    for target in (1, 0):
        for start in range(0, len(sites), ENCODE_BATCH):
            part = sites[start : start + ENCODE_BATCH]
            with probe.watching(partial(put, 1 - target, part)):
                same = views[target].expand(len(part), -1, -1, -1)
                units.append(normalize(encoder.encode_views(same).embedding.double()))
    return 1 - (torch.cat([units[0][1:], *units[1:]]) * units[0][0]).sum(dim=1)
