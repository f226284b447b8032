"""Stages: what the residual blocks of a convolutional tower's stages add to the feature map.

A stage changes size and width of the feature map first, and then adds to it, block by block. What
it adds is the difference of the map after its last block and the map that the first of these blocks
reads. To put that, not the map, into another pass leaves there what came in before the stage. An
activation after a sum (ResNet's ReLU) counts as part of what is added.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, takewhile
from typing import Any

from torch import Tensor, nn

from clipshift.encode.components import Key, See, forward_calls
from clipshift.encode.hooks import within
from clipshift.encode.layers import is_convolutional


@dataclass(frozen=True, eq=False)
class StageProbe:
    """Watches what the stages of a convolutional tower add.

    Attributes:
        spans: First and last residual block by stage, from 0.
    """

    spans: dict[int, tuple[nn.Module, nn.Module]]
    heads = 1

    @contextmanager
    def watching(self, see: See) -> Iterator[None]:
        """Let a function see, and replace, what stages add, (B, …), inside a ``with`` block."""
        read: dict[Key, Tensor] = {}

        def before(key: Key, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            read[key] = inputs[0].clone()

        def after(key: Key, block: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            start = read.pop(key)
            added = see(key, output - start)
            return None if added is None else start + added

        hooks = []
        for index, (first, last) in self.spans.items():
            key = index, "stage"
            hooks.append(first.register_forward_pre_hook(partial(before, key)))
            hooks.append(last.register_forward_hook(partial(after, key)))
        with within(hooks):
            yield


def stage_probe(
    stages: Sequence[nn.Module], embed: Callable[[Tensor], Tensor], view: Tensor
) -> StageProbe | None:
    """The probe for a convolutional tower, or None if it has no residual blocks.

    Residual are the convolutional blocks at a stage's end that keep the feature map's shape.

    Args:
        stages: From input to output.
        embed: Makes the embeddings of views.
        view: Any view, shape (1, 3, H, W).
    """
    if not is_convolutional(stages):
        return None
    lists = [getattr(stage, "blocks", getattr(stage, "layers", stage)) for stage in stages]
    blocks = [list(of.children()) for of in lists]
    keeping = {
        block
        for block, before, after in forward_calls(chain(*blocks), embed, view)
        if before is not None and before == after and is_convolutional([block])
    }
    spans = {}
    for index, of in enumerate(blocks):
        residual = list(takewhile(keeping.__contains__, reversed(of)))
        if residual:
            spans[index] = residual[-1], residual[0]
    return StageProbe(spans) if spans else None
