"""torchvision's classifiers: by name, from a file of weights, or from a model in memory.

By name, ``pretrained`` is the name of weights, as ``IMAGENET1K_V2``, or ``default``; the
preprocessing is theirs, or else that of the default weights.

The embedding is what the model gives to its last linear layer, the classifier: of ViTs the class
token, of other models what they pool.
"""

from functools import partial
from typing import Any

from torch import nn
from torchvision import models

from clipshift.encode import gaze, modules
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import chosen_pooling
from clipshift.encode.layers import tower_blocks
from clipshift.encode.tower import Tower
from clipshift.encode.weights import check_known
from clipshift.errors import UserError

WITH_FEATURES = (models.ConvNeXt, models.SwinTransformer, models.EfficientNet, models.MobileNetV3)
"""Models whose ``features`` are stages."""


def build(architecture: str, pretrained: str | None, checkpoint: str | None) -> tuple[Any, Any]:
    """A model with the weights that are asked for, and its preprocessing.

    Raises:
        UserError: If a name is unknown, or weights are not cached and cannot be downloaded.
    """
    check_known(architecture, models.list_models(module=models), "a classifier of torchvision")
    weights: Any = models.get_model_weights(architecture)
    name = "DEFAULT" if pretrained in (None, "default") else str(pretrained)
    check_known(name, weights.__members__, f"the name of weights of {architecture} in torchvision")
    weights, model = weights[name], models.get_model(architecture)
    if pretrained and not checkpoint:
        checkpoint = str(modules.require_download(weights.url))
        weights.get_state_dict(progress=False, weights_only=True)
    if checkpoint:
        modules.load_weights(model, checkpoint, [classifier_of(model)])
    return model, weights.transforms()


def wrap(model: Any, preprocess: Any, tokenizer: Any, trained: bool, pooling: Any) -> Encoder:
    """An encoder of a model in memory: see `clipshift.encode.modules.as_encoder`."""
    is_vit = isinstance(model, models.VisionTransformer)
    pooling = chosen_pooling(pooling, ["class_token" if is_vit else "pooled"])
    model.set_submodule(classifier_of(model), nn.Identity())
    facts = {"pooling": pooling, "tower": tower_of(model)}
    return modules.wrap_image_model(model, preprocess, tokenizer, trained, **facts)


load = partial(modules.load_image_model, build, wrap)


def classifier_of(model: nn.Module) -> str:
    """The name of a model's last linear layer.

    Raises:
        UserError: If it has none.
    """
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise UserError(f"{type(model).__name__} has no linear classifier")
    return linear[-1]


def tower_of(model: Any) -> Tower:
    """The readable parts of a model without its classifier."""
    if isinstance(model, models.VisionTransformer):
        blocks = list(model.encoder.layers)
        grid = (model.image_size // model.patch_size,) * 2
        attention = blocks[-1].self_attention
        probe = gaze.AttentionProbe(attention, gaze.multihead_heads, grid, len(blocks) - 1)
        return Tower(blocks, True, 1, probe)
    blocks = list(model.features) if isinstance(model, WITH_FEATURES) else tower_blocks(model)
    pool, contribution = getattr(model, "avgpool", None), None
    if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1)):
        layers = [layer for layer in model.modules() if not any(layer.children())]
        contribution = gaze.affine_probe(model, pool, layers[layers.index(pool) + 1 :])
    return Tower(blocks, probe=contribution, nhwc=isinstance(model, models.SwinTransformer))
