"""Layers: the tokens after each block of an image tower, read from the same forward pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import ResNet
from torch import Tensor, nn
from torchvision import models

if TYPE_CHECKING:
    from clipshift.encode.tower import Tower


class LayerProbe:
    """Reads the tokens after each block of an image tower in a forward pass.

    Args:
        tower: Its readable parts.
    """

    def __init__(self, tower: "Tower") -> None:
        self.tower = tower
        self._outputs: list[Tensor] = []
        self.wanted = False
        for block in tower.blocks:
            block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.wanted:
            self._outputs.append(output[0] if isinstance(output, tuple) else output)

    def read(self, count: int) -> tuple[list[Tensor] | None, Tensor | None]:
        """What the first views of the last forward pass have after each block.

        Args:
            count: How many views.

        Returns:
            `clipshift.encode.encoder.Features.layers`, None unless ``wanted`` was set during the
            pass, and its ``norms``. The patches of convolutional towers are the pixels of a stage's
            feature map.
        """
        outputs, self._outputs = self._outputs, []
        tokens = [self._tokens(output.float()) for output in outputs]
        layers = [pooled[:count] for pooled, _ in tokens] if self.wanted else None
        norms = [lengths[:count] for _, lengths in tokens if lengths is not None]
        alike = len(norms) == len(tokens) and len({lengths.shape for lengths in norms}) == 1
        return layers, torch.stack(norms, dim=1) if alike else None

    def _tokens(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class token and mean patch token, and the patch tokens' lengths; None of feature maps."""
        tower, tokens, is_map = self.tower, output, output.ndim == 4
        if is_map:
            tokens = output.flatten(1, 2) if tower.nhwc else output.flatten(2).transpose(1, 2)
        patches = tokens[:, tower.prefix :]
        mean = patches.mean(dim=1)
        first = tokens[:, 0] if tower.class_token else torch.full_like(mean, torch.nan)
        norms = None if is_map else torch.linalg.vector_norm(patches, dim=-1)
        return torch.stack([first, mean], dim=1), norms


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, or the stages of a convolutional tower, from input to output."""
    if isinstance(tower, VisionTransformer):
        return list(tower.transformer.resblocks)
    trunk: Any = tower.trunk if isinstance(tower, TimmModel) else tower
    if isinstance(trunk, (ModifiedResNet, ResNet, models.ResNet)):
        return [getattr(trunk, f"layer{stage}") for stage in (1, 2, 3, 4)]
    if isinstance(tower, TimmModel):
        return list(trunk.blocks if hasattr(trunk, "blocks") else getattr(trunk, "stages", ()))
    return []


def is_convolutional(blocks: Sequence[nn.Module]) -> bool:
    """Whether a tower's blocks contain convolutions, unlike those of a ViT."""
    return any(isinstance(layer, nn.Conv2d) for block in blocks for layer in block.modules())


def prefix_tokens(tower: nn.Module) -> tuple[bool, int]:
    """Whether the first token is the class token, and the number of tokens before the patches."""
    if isinstance(tower, VisionTransformer):
        return True, 1
    trunk: Any = tower.trunk if isinstance(tower, TimmModel) else tower
    return getattr(trunk, "cls_token", None) is not None, getattr(trunk, "num_prefix_tokens", 0)
