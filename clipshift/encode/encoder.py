"""Encoders: models that turn views into features in one forward pass."""

import hashlib
import json
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from open_clip.model import get_input_dtype
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit_length

from clipshift.choices import SENTENCES
from clipshift.data.dataset import clean_view
from clipshift.data.photos import as_rgb
from clipshift.encode.components import ComponentProbe, component_probe
from clipshift.encode.gaze import AttentionProbe
from clipshift.encode.last_block import only_class_token
from clipshift.encode.layers import LayerProbe, is_convolutional
from clipshift.encode.stages import StageProbe, stage_probe
from clipshift.encode.tower import Tower, image_tower
from clipshift.errors import UserError

ENCODE_BATCH = 32
"""Number of views in a forward pass. The rounding of matrix products may depend on the number of
rows, so every pass has this many, padded if fewer are left: an embedding then does not depend on
the other views of its batch."""
SLACK = 1e-3
"""Views may exceed [0, 1] by this much, as they do after interpolation."""

Tokenizer = Callable[[list[str]], Tensor]
"""Turns texts into what a model's ``encode_text`` takes."""
Picture = Image.Image | np.ndarray
"""A Pillow image, or its pixels, uint8, shape (H, W, 3)."""


@dataclass
class Features:
    """The output of an encoder for B views.

    Attributes:
        embedding: Before normalisation, float32, shape (B, D).
        gaze: The tower's gaze, at least 0, float32, shape (B, h, w): attention over patches or
            contribution of locations, see `GazeProbe.kind` of the encoder's probe; None where the
            tower has none.
        layers: If requested, class token (NaN where the tower has none) and mean patch token after
            each block, float32, shape (B, 2, width).
        norms: With ``layers``, the lengths of all patch tokens after each block, float32, shape
            (B, layers, patches); None where the tower has no tokens, or changes their number.
        heads: If requested, the gaze of each attention head, float32, shape (B, heads, h, w); None
            where the gaze is not attention.
        components: If requested, what heads and MLPs wrote, float64, see `ComponentProbe.read`;
            None where the embedding is not the sum of their contributions.
        by_token: If requested, what heads gathered of each token, see
            `ComponentProbe.read_by_token`; None where that is not known.
    """

    embedding: Tensor
    gaze: Tensor | None
    layers: list[Tensor] | None = None
    norms: Tensor | None = None
    heads: Tensor | None = None
    components: Tensor | None = None
    by_token: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """The features of several parts, one behind the other."""
        if len(parts) == 1:
            return parts[0]

        def join(values: list[Any]) -> Any:
            if isinstance(values[0], list):
                return [torch.cat(layer) for layer in zip(*values, strict=True)]
            return None if values[0] is None else torch.cat(values)

        return cls(*(join([getattr(of, one.name) for of in parts]) for one in fields(cls)))

    def split(self, count: int) -> list["Features"]:
        """Split into parts of ``count`` views."""
        rows = [slice(i, i + count) for i in range(0, len(self.embedding), count)]
        return [apply_to_collection(self, Tensor, operator.itemgetter(part)) for part in rows]


class Encoder(nn.Module):
    """Wraps a model that turns views into features; see `load_encoder` and `as_encoder`.

    What every loader gives, whatever library a model is of:

    Args:
        model: A module whose ``encode_image`` turns normalised pixels, (B, 3, H, W) in the size of
            ``preprocessing`` and the type of ``precision``, into embeddings, (B, D). With texts it
            has ``encode_text`` and perhaps ``logit_scale``, the logarithm of the factor on cosines.
            If it has ``visual``, that is its image tower; otherwise it is one itself.
        preprocessing: Its preprocessing as in open_clip: ``size``, ``mean``, ``std``,
            ``interpolation``, ``resize_mode``; and ``resize_size`` where photos are resized to
            another side than ``size``, to which their centre is then cropped.
        config: Everything else that determines its features, as JSON: its architecture, and
            what `pooling` chooses.
        trained: Whether its weights were trained, not drawn at random.
        precision: open_clip's name of its precision; None for that of its weights.
        tokenizer: Creates the text tower's tokenizer; None where the model has no text side.
        text: The texts that it was trained with: ``sentences``, or only ``names`` of classes.
        pooling: What the embedding is: ``projection``, ``class_token``, ``mean_of_patches``,
            ``attention_pool``, ``pooled`` (the model's own pooled features), or ``own`` (as a
            user's code returns it).
        tower: The parts of the image tower that are read; by default those of `image_tower`.
        sha256: The hash of weights that are not in the model's ``state_dict``.

    Attributes:
        kind: The kind of model, a key of `clipshift.encode.kinds.KINDS`.
        fill: Whether every pass is padded to `ENCODE_BATCH` views. Otherwise few views are encoded
            faster, but numbers depend on the rest of the batch in the seventh digit.
        probe: Reads the gaze; None where the image tower has none.
        tokenizer: Creates the text tower's tokenizer; None where the model has no text side.
        cacheable: Whether `fingerprint` covers all of its code, so that other runs may reuse its
            features.
        weights_sha256: SHA-256 of the weights.
        fingerprint: SHA-256 of everything that determines its features: weights, architecture,
            precision and preprocessing. Models with the same weights may differ in the others.
    """

    model: Any
    mean: Tensor
    std: Tensor
    kind = "open_clip"
    cacheable = True
    fill = True

    def __init__(
        self,
        model: nn.Module,
        preprocessing: dict[str, Any],
        config: dict[str, Any],
        trained: bool,
        precision: str | None = None,
        tokenizer: Callable[[], Tokenizer] | None = None,
        text: str = SENTENCES,
        pooling: str = "projection",
        tower: Tower | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.text = text
        self.pooling = pooling
        self.model = model.eval().requires_grad_(False)
        self.trained = trained
        self.precision = precision or precision_of(model)
        self.preprocessing = preprocessing
        self.weights_sha256 = sha256 or weights_sha256(model)
        facts = [self.weights_sha256, config, self.precision, self.preprocessing]
        facts_json = json.dumps(facts, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(facts_json.encode()).hexdigest()
        self.input_dtype = get_input_dtype(self.precision) or torch.float32
        tower = tower or image_tower(self._tower)
        if is_convolutional(tower.blocks):
            # Up to 1.6 times faster on a CPU. A layer's outputs have the format of its weights.
            self._tower.to(memory_format=torch.channels_last)
        self.probe, self.layer_probe, self._parts = tower.probe, LayerProbe(tower), tower
        self.tokenizer = tokenizer and cache(tokenizer)
        size = self.preprocessing["size"]
        self.input_size = (size, size) if isinstance(size, int) else tuple(size)
        for name in ("mean", "std"):
            values = torch.tensor(self.preprocessing[name], dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def _tower(self) -> Any:
        return getattr(self.model, "visual", self.model)

    def forward(
        self,
        views: Tensor | Picture | Sequence[Picture],
        layers: bool = False,
        heads: bool = False,
    ) -> Features:
        """Encode views or pictures after checking them.

        Args:
            views: See `as_views`.
            layers: Whether to return `Features.layers` and `Features.norms` as well.
            heads: Whether to return `Features.heads` as well.

        Raises:
            TypeError, ValueError: If they are neither views nor pictures.
        """
        return self.encode_views(as_views(views).to(self.mean.device), layers, heads)

    def encode_views(
        self,
        views: Tensor,
        layers: bool = False,
        heads: bool = False,
        components: bool = False,
        by_token: bool = False,
    ) -> Features:
        """Encode views without checking their range, which would make a GPU wait.

        Args:
            views: In [0, 1], float32, shape (B, 3, H, W).
            layers: Whether to return `Features.layers` and `Features.norms` as well.
            heads: Whether to return `Features.heads` as well.
            components: Whether to return `Features.components` as well.
            by_token: Whether to return, with them, `Features.by_token` as well.
        """
        probe = self.components if components else None
        read = probe.reading(by_token) if probe else nullcontext()
        self.layer_probe.wanted = layers
        with only_class_token(self._tower, patches=layers), read:
            parts = [self._encode(part, heads, components) for part in views.split(ENCODE_BATCH)]
        self.layer_probe.wanted = False  # otherwise `embed` would keep tokens that nobody reads
        return Features.joined(parts)

    @cached_property
    @torch.inference_mode()
    def components(self) -> ComponentProbe | None:
        """Reads heads and MLPs; None where the embedding is not the sum of theirs."""
        noise = torch.rand(1, 3, *self.input_size, generator=torch.Generator().manual_seed(0))
        view = noise.to(self.mean.device)
        parts = self._parts
        return component_probe(self._tower, parts.blocks, parts.prefix, self.embed, view)

    @cached_property
    @torch.inference_mode()
    def patchable(self) -> ComponentProbe | StageProbe | None:
        """What can be patched: heads and MLPs, or the stages of a convolutional tower."""
        view = torch.zeros((1, 3, *self.input_size), device=self.mean.device)
        return self.components or stage_probe(self._parts.blocks, self.embed, view)

    @cached_property
    @torch.inference_mode()
    def layer_widths(self) -> list[int]:
        """The width of the tokens after each block."""
        view = torch.zeros((1, 3, *self.input_size), device=self.mean.device)
        return [layer.shape[2] for layer in self.encode_views(view, layers=True).layers or ()]

    @property
    def image_parameters(self) -> int | None:
        """How many weights its image tower has; None where they cannot be seen, as of ONNX."""
        tower = getattr(self._tower, "tower", self._tower)  # of transformers, beside its texts
        weights = tower.parameters() if isinstance(tower, nn.Module) else ()
        return sum(weight.numel() for weight in weights) or None

    @property
    def logit_scale(self) -> float:
        """The factor on cosines before a softmax over texts.

        The model's, or 100 if it has none: the upper limit in the training of CLIP.
        """
        learnt = getattr(self.model, "logit_scale", None)
        return float(learnt.exp()) if isinstance(learnt, Tensor) else 100.0

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings of texts.

        Args:
            texts: N texts; they are truncated to the text tower's length.

        Returns:
            float32, shape (N, D).

        Raises:
            UserError: If the model has no text side, or its tokenizer cannot be loaded.
        """
        tokenize = self._text_side()
        rows = []
        for start in range(0, len(texts), ENCODE_BATCH):
            part = texts[start : start + ENCODE_BATCH]
            tokens = tokenize(part + [""] * (ENCODE_BATCH - len(part)))
            rows.append(self._unit_texts(tokens.to(self.mean.device))[: len(part)])
        return torch.cat(rows).float()

    def zero_shot_classifier(
        self, classes: list[str], templates: list[str], prompts: list[Tensor] | None = None
    ) -> Tensor:
        """A unit vector for each class: the mean over templates of its prompts' unit embeddings.

        Args:
            classes: Names of classes.
            templates: Prompts with ``{}`` in place of the name.
            prompts: Receives the prompts' embeddings, class by class, in batches of shape (B, D).

        Returns:
            float32, shape (D, C).

        Raises:
            UserError: If the model has no text side, or its tokenizer cannot be loaded.
        """

        def encode_text(tokens: Tensor, normalize: bool = True) -> Tensor:
            embeddings = self._unit_texts(tokens)
            if prompts is not None:
                prompts.append(embeddings)
            return embeddings

        return open_clip.build_zero_shot_classifier(
            SimpleNamespace(encode_text=encode_text),
            self._text_side(),
            classes,
            templates,
            device=self.mean.device,
            use_tqdm=len(classes) > 100 and sys.stderr.isatty(),
        ).float()

    def _text_side(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("the model has no text side, or has no tokenizer to read texts by")
        return self.tokenizer()

    def _unit_texts(self, tokens: Tensor) -> Tensor:
        return unit_length(self.model.encode_text(tokens), dim=-1)

    def embed(self, views: Tensor) -> Tensor:
        """Embeddings of views in one pass without padding, differentiable, for training.

        Args:
            views: In [0, 1], float32, shape (B, 3, H, W).

        Returns:
            Before normalisation, float32, shape (B, D).
        """
        if views.shape[-2:] != self.input_size:
            views = interpolate(views, self.input_size, mode="bilinear", antialias=True)
        inputs = (views - self.mean).div_(self.std).to(self.input_dtype)
        return self.model.encode_image(inputs).float()

    def _encode(self, views: Tensor, heads: bool, components: bool) -> Features:
        count = len(views)
        if self.fill and count < ENCODE_BATCH:
            views = torch.cat([views, views[:1].expand(ENCODE_BATCH - count, -1, -1, -1)])
        features = Features(self.embed(views.contiguous())[:count], gaze=None)
        if heads and isinstance(self.probe, AttentionProbe):
            features.heads = self.probe.read_heads()[:count]
            features.gaze = features.heads.mean(dim=1)
        elif self.probe:
            features.gaze = self.probe.read()[:count]
        if components and self.components:
            features.components = self.components.read()[:count]
            by_token = self.components.read_by_token()
            features.by_token = None if by_token is None else by_token[:count]
        features.layers, features.norms = self.layer_probe.read(count)
        return features


def as_views(images: Tensor | Picture | Sequence[Picture]) -> Tensor:
    """Check views, or turn pictures into views.

    Args:
        images: Views in [0, 1], floats, shape (B, 3, H, W), not normalised by a mean and std; or a
            Pillow image, an array of 8-bit pixels of shape (H, W, 3), or a list of them, which
            become clean views like the photos of a run: upright, RGB, and squashed to 224 × 224.

    Returns:
        float32, shape (B, 3, H, W).

    Raises:
        TypeError: If they are none of these.
        ValueError: If they have another shape, or values outside [0, 1].
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            raise ValueError(f"views have shape {tuple(images.shape)}: it must be (B, 3, H, W)")
        if not images.is_floating_point():
            raise TypeError(f"views are {images.dtype}: divide 8-bit pixels by 255")
        low, high = (bound.item() for bound in images.detach().aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):
            raise ValueError(
                f"views have values from {low:.4g} to {high:.4g}: they must be in [0, 1], 8-bit "
                "pixels divided by 255, not normalised by a mean and std"
            )
        return images.float()
    pictures = images if isinstance(images, (list, tuple)) else [images]
    if not pictures:
        raise ValueError("the list of images is empty")
    return torch.stack([_picture_view(picture) for picture in pictures])


def _picture_view(picture: Any) -> Tensor:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                f"an array of {picture.dtype} has shape {picture.shape}: it must be uint8, "
                "(H, W, 3)"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            "an encoder accepts views as one tensor (B, 3, H, W), or Pillow images or arrays, not "
            f"{type(picture).__name__}"
        )
    return clean_view(as_rgb(picture), "squash")


def best_precision(accelerator: str) -> str:
    """``bf16`` where the hardware computes in bfloat16, and ``fp32`` elsewhere.

    CPUs with AVX512-BF16 or AMX do, and NVIDIA's GPUs from compute capability 8 on.

    Args:
        accelerator: Lightning's name: ``cpu``, or any other, which means a GPU if there is one.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def precision_of(model: nn.Module) -> str:
    """open_clip's name of the precision that a model in memory is in."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over every weight's name and bytes, in the order of names, as loaded."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
