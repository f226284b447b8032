"""Layers: the tokens after each block of an image tower, from the pass that makes the embedding."""

from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn


class LayerProbe:
    """Reads the tokens after each block of an image tower, after each of its forward passes.

    Args:
        tower: ``model.visual`` of an open_clip model.
    """

    def __init__(self, tower: nn.Module) -> None:
        self._outputs: list[Tensor] = []
        self.wanted = False
        for block in tower_blocks(tower):
            block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self.wanted:
            self._outputs.append(output)

    def read(self) -> list[Tensor]:
        """The tokens of the last forward pass, if it was made while ``wanted`` was set.

        Returns:
            A tensor a block, float32: shape (B, tokens, width), the class token first where there
            is one; of convolutional towers, the pixels of a stage's feature map are the tokens.
        """
        outputs, self._outputs = self._outputs, []
        return [
            (output.flatten(2).transpose(1, 2) if output.ndim == 4 else output).float()
            for output in outputs
        ]


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, or the stages of a convolutional tower, from input to output."""
    if isinstance(tower, VisionTransformer):
        return list(tower.transformer.resblocks)
    if isinstance(tower, ModifiedResNet):
        return [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    if isinstance(tower, TimmModel):
        trunk: Any = tower.trunk
        return list(trunk.blocks if hasattr(trunk, "blocks") else getattr(trunk, "stages", ()))
    return []
