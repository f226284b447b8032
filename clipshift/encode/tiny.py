"""The image tower of the built-in model ``tiny``: a small ViT with a convolutional stem."""

from typing import Any

from timm.layers import ConvNormAct, HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, downsample_conv
from timm.models.vision_transformer import VisionTransformer
from torch import nn

default_cfgs = generate_default_cfgs(  # timm's register_model looks for this name
    {"vit_clipshift_tiny.untrained": {"input_size": (3, 64, 64), "num_classes": 0}}
)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    shortcut = downsample_conv(inputs, outputs, kernel_size=1, stride=2)
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride=2, downsample=shortcut), BasicBlock(outputs, outputs)
    )


def _patches(img_size: int, embed_dim: int, output_fmt: str | None = None, **_: Any) -> HybridEmbed:
    stem = nn.Sequential(
        ConvNormAct(3, 32, kernel_size=3, stride=2), _stage(32, 64), _stage(64, 128)
    )
    return HybridEmbed(
        stem, img_size, embed_dim=embed_dim, output_fmt=output_fmt, strict_img_size=False
    )


@register_model
def vit_clipshift_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A ViT of 4 layers, 192 wide, with a class token, on an 8x8 grid of a 64-px image.

    The patch embedding is a convolutional stem (three halvings, as residual blocks) instead of one
    8-px convolution: Xiao et al., "Early Convolutions Help Transformers See Better", 2021
    (arXiv:2106.14881). Other image sizes that 8 divides are accepted; the position embedding is
    resampled to their grid.

    Args:
        pretrained: Only ``False``: open_clip loads the weights by ``local-dir:``, not timm.
        kwargs: Further arguments of timm's ``VisionTransformer``.

    Raises:
        RuntimeError: If ``pretrained`` is true.
    """
    settings: dict[str, Any] = {"img_size": 64, "embed_dim": 192, "depth": 4, "num_heads": 3}
    settings |= {"mlp_ratio": 3.0, "dynamic_img_size": True, "embed_layer": _patches}
    model = build_model_with_cfg(
        VisionTransformer, "vit_clipshift_tiny", pretrained, **(settings | kwargs)
    )
    for block in model.blocks:
        # With 65 tokens on a CPU, the fused kernel's backward pass is 3 times slower than this.
        block.attn.fused_attn = False  # type: ignore[union-attr]
    return model
