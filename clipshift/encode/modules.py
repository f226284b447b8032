"""Models in memory as encoders: those of a library, any module with ``encode_image``, functions."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import load_state_dict
from open_clip.model import get_input_dtype
from torch import Tensor, nn

from clipshift.encode import kinds
from clipshift.encode.encoder import Encoder, Tokenizer
from clipshift.encode.preprocessing import preprocessing_of
from clipshift.encode.weights import check_finite, loading, require_network
from clipshift.errors import UserError, failures_of
from clipshift.versions import source_sha256


class ImageModel(nn.Module):
    """A model without a text side, in the form that `Encoder` takes.

    Args:
        visual: Turns normalised pixels, (B, 3, H, W), into embeddings, (B, D): an image tower, or a
            function.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, pixels: Tensor) -> Tensor:
        """The embeddings of normalised pixels."""
        return self.visual(pixels)


def as_encoder(
    model: Any,
    preprocess: Mapping[str, Any] | Any = None,
    tokenizer: Tokenizer | None = None,
    trained: bool = True,
    pooling: str | None = None,
) -> Encoder:
    """Make an encoder from a copy of a model in memory.

    Args:
        model: A model of open_clip, timm, torchvision or transformers; a session of onnxruntime, or
            a program of ``torch.export``; a function from views in [0, 1], (B, 3, H, W), to
            embeddings, (B, D); or any module whose ``encode_image`` turns normalised views into
            embeddings, floats of shape (B, D). If it has ``encode_text``, which turns the
            tokenizer's output into embeddings of the same D, texts are measured too. Gaze and
            layers of such a module are read if ``model.visual`` is an image tower of open_clip. An
            encoder is returned as it is.
        preprocess: The preprocessing of views: a mapping with ``size`` (a side, or height and
            width), ``mean`` and ``std`` of pixels in [0, 1]; a torchvision ``Compose``, such as
            ``open_clip.create_model_and_transforms`` returns; ``weights.transforms()``; or a
            processor of transformers. None uses that of a model of open_clip or timm. Views of
            224 × 224 are resized to its size bilinearly.
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
    name = model_name(model)
    kind = kinds.kind_of(model)
    loader = kinds.KINDS[kind].module
    with failures_of(name):
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).cpu()
        encoder = loader.wrap(model, preprocess, tokenizer, trained, pooling)
        encoder.kind, encoder.cacheable = kind, False
        check_output(encoder, name)
    return encoder


def model_name(model: Any) -> str:
    """What a model in memory is called: after its function, or its class."""
    return getattr(model, "__name__", type(model).__name__)


def wrap(
    model: Any,
    preprocess: Any,
    tokenizer: Tokenizer | None,
    trained: bool,
    pooling: str | None,
    default: str = "own",
) -> Encoder:
    """An encoder of a module with ``encode_image``: see `as_encoder`."""
    name = type(model).__name__
    if tokenizer is not None and not callable(getattr(model, "encode_text", None)):
        raise UserError(f"{name} has no encode_text: define it, or pass no tokenizer")
    if preprocess is None:
        preprocess = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    return Encoder(
        model,
        preprocessing_of(preprocess, name),
        code_facts(model),
        trained,
        tokenizer=tokenizer and (lambda: tokenizer),
        pooling=kinds.chosen_pooling(pooling, [default]),
    )


def load_image_model(
    build: Callable[[str, str | None, str | None], tuple[Any, Any]],
    wrap: Callable[..., Encoder],
    architecture: str,
    precision: str,
    seed: int,
    pretrained: str | None = None,
    checkpoint: str | None = None,
    pooling: str | None = None,
) -> Encoder:
    """Build a model of a library by its name and load its weights, without a network if possible.

    Args:
        build: Makes the model of architecture, pretrained weights and checkpoint, with its
            preprocessing.
        wrap: Makes an encoder of it.
        architecture: The model's name.
        precision: open_clip's name. All weights and activations are in this type.
        seed: Seed of the random weights.
        pretrained: The name of its weights in the library. Without it, and without a checkpoint,
            the weights are random.
        checkpoint: A file with weights for the architecture, or a folder.
        pooling: What the embedding is.

    Raises:
        UserError: If the architecture, weights or file is unknown, the weights do not fit, or they
            must be downloaded and there is no network.
    """
    source = checkpoint or architecture
    with loading(source, architecture, seed):
        model, preprocess = build(architecture, pretrained, checkpoint)
    check_finite(model, source)
    model.to(get_input_dtype(precision) or torch.float32)
    trained = bool(pretrained or checkpoint or ":" in architecture)
    return wrap(model, preprocess, None, trained, pooling)


def load_weights(model: nn.Module, file: str, classifiers: list[str]) -> None:
    """Load all weights of a file but those of classifiers, which are not used.

    Raises:
        RuntimeError: If they are not this model's.
    """
    unused = tuple(f"{name}." for name in classifiers)
    own = {name: weight for name, weight in model.state_dict().items() if name.startswith(unused)}
    weights = {n: w for n, w in load_state_dict(file).items() if not n.startswith(unused)}
    model.load_state_dict(weights | own)


def require_download(address: str) -> Path:
    """Where torch keeps a download, after checking that it is there or can be downloaded.

    Raises:
        UserError: If it cannot.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name
    if not file.is_file():
        require_network(address)
    return file


def wrap_image_model(
    model: Any, preprocess: Any, tokenizer: Any, trained: bool, **facts: Any
) -> Encoder:
    """An encoder of a model without a text side.

    Args:
        model: The ``visual`` of `ImageModel`.
        preprocess: See `preprocessing_of`.
        tokenizer: None: there is no text side.
        trained: See `Encoder`.
        facts: ``pooling`` and more of `Encoder`.

    Raises:
        UserError: If there is a tokenizer, or the preprocessing is missing or out of range.
    """
    name = model_name(model)
    if tokenizer is not None:
        raise UserError(f"{name} has no text side: pass no tokenizer")
    preprocessing = preprocessing_of(preprocess, name)
    images = ImageModel(model)
    plain = (bool, int, float, str, tuple)
    settings = [
        {n: v for n, v in vars(m).items() if isinstance(v, plain)} for m in images.modules()
    ]
    config = {**code_facts(images), "name": name, "settings": settings, "pooling": facts["pooling"]}
    return Encoder(images, preprocessing, config, trained, **facts)


def code_facts(model: nn.Module) -> dict[str, Any]:
    """Names and source of the classes of a model in memory, as part of its fingerprint."""
    classes = {type(module) for module in model.modules()}
    return {
        "classes": sorted(f"{one.__module__}.{one.__qualname__}" for one in classes),
        "source": source_sha256(one.__module__ for one in classes),
    }


@torch.inference_mode()
def check_output(encoder: Encoder, name: str) -> None:
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
