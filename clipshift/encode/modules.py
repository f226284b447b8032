"""Models in memory as encoders: those of a library, any module with ``encode_image``, functions."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipshift.encode import kinds
from clipshift.encode.encoder import Encoder, Tokenizer
from clipshift.encode.preprocessing import checked_preprocessing, preprocessing_of
from clipshift.errors import UserError, one_line
from clipshift.versions import source_sha256

PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class ImageModel(nn.Module):
    """A model without a text side, in the form that `Encoder` takes.

    Args:
        visual: The image tower.
        embed: Makes embeddings, (B, D), from the tower and normalised pixels, (B, 3, H, W).
    """

    def __init__(self, visual: nn.Module, embed: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.visual = visual
        self.embed = embed

    def encode_image(self, pixels: Tensor) -> Tensor:
        """The embeddings of normalised pixels."""
        return self.embed(self.visual, pixels)


def as_encoder(
    model: Any,
    preprocess: Mapping[str, Any] | Any = None,
    tokenizer: Tokenizer | None = None,
    trained: bool = True,
    pooling: str | None = None,
) -> Encoder:
    """Make an encoder from a copy of a model in memory.

    Args:
        model: An open_clip model, or any module whose ``encode_image`` turns normalised views,
            (B, 3, H, W), into embeddings, floats of shape (B, D). If it has ``encode_text``, which
            turns the tokenizer's output into embeddings of the same D, texts are measured too. Gaze
            and layers are read if ``model.visual`` is an image tower of open_clip. An encoder is
            returned as it is.
        preprocess: The preprocessing of views: a mapping with ``size`` (a side, or height and
            width), ``mean`` and ``std`` of pixels in [0, 1]; or a torchvision ``Compose``, such as
            ``open_clip.create_model_and_transforms`` returns. None uses that of an open_clip model.
            Only the size of its resizing is used: views of 224 × 224 are resized to it bilinearly.
        tokenizer: Turns a list of texts into one tensor. Without it, measures with text are left
            out.
        trained: Whether the weights were trained, which the model does not tell.
        pooling: What the embedding is, where the model's kind leaves a choice.

    Raises:
        UserError: If the model has no ``encode_image`` or returns no embeddings; if its
            preprocessing is missing or has unknown steps; or if a view's embedding depends on the
            other views.

    Example:
        >>> class Colours(nn.Module):
        ...     def encode_image(self, images):
        ...         return images.mean(dim=(2, 3))
        >>> unchanged = {"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}
        >>> encoder = as_encoder(Colours(), unchanged)
        >>> encoder(torch.full((2, 3, 224, 224), 0.5)).embedding.shape
        torch.Size([2, 3])
    """
    if isinstance(model, Encoder):
        return model
    name = getattr(model, "__name__", type(model).__name__)
    loader = kinds.KINDS[kinds.kind_of(model)].module
    try:
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).cpu()
        encoder = loader.wrap(model, preprocess, tokenizer, trained, pooling)
        encoder.cacheable = False
        _try(encoder, name)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} fails: {type(error).__name__}: {one_line(str(error))}") from error
    return encoder


def wrap(
    model: Any,
    preprocess: Any,
    tokenizer: Tokenizer | None,
    trained: bool,
    pooling: str | None,
    kind: str = "module",
) -> Encoder:
    """An encoder of a module with ``encode_image``: see `as_encoder`."""
    name = type(model).__name__
    if tokenizer is not None and not callable(getattr(model, "encode_text", None)):
        raise UserError(f"{name} has no encode_text: define it, or pass no tokenizer")
    if preprocess is None:
        preprocess = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if preprocess is None:
        raise UserError(
            f"the preprocessing of {name} is required: pass preprocess=dict(size=…, mean=…, "
            "std=…), with the mean and std of pixels in [0, 1]"
        )
    declared = kinds.chosen_pooling(pooling, ["projection" if kind == "open_clip" else "own"])
    return Encoder(
        model,
        checked_preprocessing(preprocessing_of(preprocess)),
        code_facts(model),
        trained,
        precision_of(model),
        tokenizer and (lambda: tokenizer),
        kind=kind,
        pooling=declared,
    )


def code_facts(model: nn.Module) -> dict[str, Any]:
    """Names and source of the classes of a model in memory, as part of its fingerprint."""
    classes = {type(module) for module in model.modules()}
    return {
        "classes": sorted(f"{one.__module__}.{one.__qualname__}" for one in classes),
        "source": source_sha256(one.__module__ for one in classes),
    }


def precision_of(model: nn.Module) -> str:
    """open_clip's name of the precision that a model in memory is in."""
    return PRECISIONS.get(next((p.dtype for p in model.parameters()), torch.float32), "fp32")


@torch.inference_mode()
def _try(encoder: Encoder, name: str) -> None:
    """Check the output of a model for a bright and a dark view of noise."""
    views = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    views[0] /= 8
    inputs = ((views - encoder.mean) / encoder.std).to(encoder.input_dtype)
    output = encoder.model.encode_image(inputs)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        raise UserError(f"{name} returns {shape} for 2 views: it must return (2, D)")
    if not output.is_floating_point():
        raise UserError(f"{name} returns {output.dtype}: it must return floats")
    if encoder.probe:
        encoder.probe.read()
    in_batch, alone = output[1:].float(), encoder.model.encode_image(inputs[1:]).float()
    if not (in_batch - alone).norm() <= 0.01 * in_batch.norm():
        raise UserError(
            f"the embeddings of {name} change with the other views of the batch, or from call to "
            "call: numbers would depend on the batch"
        )
    if encoder.tokenizer is not None:
        texts = encoder.model.encode_text(encoder.tokenizer()(["a photo", "a dog"]))
        if tuple(texts.shape) != shape:
            raise UserError(
                f"{name}.encode_text returns {tuple(texts.shape)} for 2 texts, not {shape}"
            )
