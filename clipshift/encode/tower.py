"""Image towers: what can be read inside a model during a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from clipshift.encode.gaze import GazeProbe, gaze_probe
from clipshift.encode.layers import prefix_tokens, tower_blocks


@dataclass
class Tower:
    """The readable parts of an image tower; all are optional.

    Attributes:
        blocks: The blocks from input to output. Each returns tokens, (B, tokens, width), or a
            feature map, (B, width, h, w), perhaps as the first part of a tuple.
        class_token: Whether the first token is the class token.
        prefix: The number of tokens before the patches: class token and registers.
        probe: Reads the gaze; None where the embedding has none.
        nhwc: Whether feature maps have their channels last: (B, h, w, width).
    """

    blocks: Sequence[nn.Module] = ()
    class_token: bool = False
    prefix: int = 0
    probe: GazeProbe | None = None
    nhwc: bool = False


def image_tower(module: nn.Module) -> Tower:
    """The readable parts of an image tower of open_clip; of others there are none."""
    return Tower(tower_blocks(module), *prefix_tokens(module), gaze_probe(module))
