"""Kinds of models: a table from a library to what loads its models, by name and as objects."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clipshift.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from clipshift.encode.encoder import Encoder


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        loader: The module of `clipshift.encode` with its ``load`` and ``wrap``:
            ``load(precision=…, seed=…, **options)`` makes an `Encoder` from the options of
            ``model``, and ``wrap(model, preprocess, tokenizer, trained, pooling)`` makes one of an
            object in memory, which it may change. Both raise `UserError`.
        package: The package that its objects' classes are of, and that must be installed; empty
            where it has no names, only objects.
        extra: The extra of clipshift that installs it; None of what clipshift always installs.
    """

    loader: str
    package: str = ""
    extra: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether its package is installed."""
        return not self.extra or find_spec(self.package) is not None

    @property
    def module(self) -> ModuleType:
        """The module with its ``load`` and ``wrap``, imported when it is first needed.

        Raises:
            UserError: If its package is not installed.
        """
        if not self.is_here:
            package = f"'clipshift[{self.extra}]'"
            raise UserError(f"{self.package} is not installed: pip install {package}")
        return import_module(f"clipshift.encode.{self.loader}")


KINDS = {
    "open_clip": Kind("open_clip_models", "open_clip"),
    "timm": Kind("timm_models", "timm"),
    "torchvision": Kind("torchvision_models", "torchvision"),
    "transformers": Kind("transformers_models", "transformers", "transformers"),
    "onnx": Kind("functions", "onnxruntime", "onnx"),
    "torch_export": Kind("functions", "torch.export"),
    "function": Kind("functions"),
    "module": Kind("modules"),
}


def load_encoder(
    architecture: str | None = None,
    pretrained: str | None = None,
    checkpoint: str | None = None,
    precision: str = "fp32",
    seed: int = 0,
    kind: str = "open_clip",
    **options: Any,
) -> "Encoder":
    """Build a model and load its weights, without a network if possible.

    Args:
        architecture: Its name in the library of its kind; of open_clip also ``builtin:NAME``,
            ``local-dir:FOLDER`` or ``hf-hub:ORGANISATION/NAME``, see
            `clipshift.encode.open_clip_models.load`.
        pretrained: The name of its weights in that library; without it and without a checkpoint the
            weights are random.
        checkpoint: A file, or a folder, with its weights.
        precision: open_clip's name: ``fp32``, ``bf16`` or ``fp16``; ``pure_bf16``, ``pure_fp16``.
        seed: Seed of the random weights.
        kind: The kind of model, a key of `KINDS`.
        options: Further options of ``model`` that this kind has.

    Returns:
        The encoder, in evaluation mode and without gradients.

    Raises:
        UserError: If the kind, architecture, weights or file is unknown, the weights do not fit, or
            they must be downloaded and there is no network.
    """
    names = [name for name, one in KINDS.items() if one.package]
    if kind not in names:
        raise UserError(
            f"unknown model.kind={kind}{did_you_mean(kind, names)} (there are: {', '.join(names)})"
        )
    options |= {"architecture": architecture, "pretrained": pretrained, "checkpoint": checkpoint}
    options |= {"precision": precision, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    load = KINDS[kind].module.load
    parameters = inspect.signature(load).parameters
    if unknown := given.keys() - parameters.keys():
        raise UserError(f"model.{min(unknown)} is not an option of model.kind={kind}")
    required = {name for name, one in parameters.items() if one.default is one.empty}
    if missing := required - given.keys():
        raise UserError(f"model.{min(missing)} is required by model.kind={kind}")
    encoder = load(**given)
    encoder.kind = kind
    return encoder


def kind_of(model: Any) -> str:
    """The kind of an object in memory, by the package of its class.

    Raises:
        UserError: If it is of none, with the code that would make it a model.
    """
    from torch import nn

    classes = [f"{one.__module__}." for one in type(model).__mro__]
    kinds = (
        name
        for name, kind in KINDS.items()
        if kind.package and any(one.startswith(f"{kind.package}.") for one in classes)
    )
    if callable(getattr(model, "encode_image", None)) and isinstance(model, nn.Module):
        return next(kinds, "module")
    is_function = callable(model) and not isinstance(model, (nn.Module, type))
    if kind := next(kinds, "function" if is_function else None):
        return kind
    raise UserError(
        f"{type(model).__name__} is not a model of a known kind ({', '.join(KINDS)}). If it turns "
        "normalised pixels, (B, 3, H, W), into embeddings, (B, D), these lines make it one: "
        "model.encode_image = model.forward; "
        'preprocess = {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}; '
        "clipshift.measure_shift(photos, model, preprocess=preprocess)"
    )


def chosen_pooling(pooling: str | None, possible: Sequence[str]) -> str:
    """What the embedding is: the choice of ``model.pooling``, or else the first that is possible.

    Raises:
        UserError: If it is not possible.
    """
    if pooling is None or pooling in possible:
        return pooling or possible[0]
    raise UserError(f"pooling={pooling} is not possible for this model: {', '.join(possible)}")
