"""Encoders from transformers: by name on the hub, from a folder, or from a model in memory.

What the embedding is, is chosen by ``pooling``; the default is the first that the model has:

==================================================  ============================================
model                                               poolings
==================================================  ============================================
CLIP, and others with a ``visual_projection``       projection, class_token, mean_of_patches
ViT, DeiT, DINOv2 (with registers or without),      class_token, mean_of_patches, pooled
DINOv3, the image tower of CLIP alone
SigLIP, SigLIP 2 (of fixed resolution, and NaFlex)  attention_pool, mean_of_patches
ConvNeXt (V1, V2, DINOv3), ResNet, RegNet, others   pooled
==================================================  ============================================

``class_token`` is taken after the final layer norm. ``mean_of_patches`` is the mean over the
patches of ``last_hidden_state``, without class token and registers; CLIP returns these before its
final layer norm, the others after it. ``pooled`` is ``pooler_output``: of ConvNeXt the average over
locations and then a layer norm, of ViT a layer on the class token.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from open_clip.model import get_input_dtype
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches
from transformers.utils import logging

from clipshift.data.dataset import native_resize, pixels_of
from clipshift.encode import gaze
from clipshift.encode.encoder import Encoder, Tokenizer
from clipshift.encode.kinds import chosen_pooling
from clipshift.encode.tower import Tower
from clipshift.encode.weights import check_finite, hub_file, loading
from clipshift.errors import UserError, one_line

PROJECTION, ATTENTION_POOL, MEAN_OF_PATCHES = "projection", "attention_pool", "mean_of_patches"
CLASS_TOKEN, POOLED = "class_token", "pooled"
TOKENS = {"clip_vision_model": 1, "metaclip_2_vision_model": 1, "vit": 1, "deit": 2}
TOKENS |= {"dinov2": 1, "dinov2_with_registers": 1, "dinov3_vit": 1}
TOKENS |= {"siglip_vision_model": 0, "siglip2_vision_model": 0}
"""Types of ViTs, and the number of their tokens before the patches without registers: where there
are any, the first is the class token, otherwise the embedding is that of an attention pool."""
AVERAGING = {"convnext", "convnextv2", "dinov3_convnext", "regnet", "resnet"}
"""Types of towers whose ``pooler_output`` is the average over locations, up to a layer norm."""
WEIGHTS = ["model.safetensors.index.json", "model.safetensors"]
PROCESSORS = ["processor_config.json", "preprocessor_config.json"]
TOKENIZER = ["tokenizer_config.json", "tokenizer.json"]


class TransformersModel(nn.Module):
    """A transformers model as an image tower that returns an embedding of each view.

    Args:
        model: A model with an image side.
        size: Height and width of its pixels.
        pooling: What the embedding is; None for the model's default.

    Raises:
        UserError: If the model has no image side, or not this pooling.
    """

    def __init__(self, model: Any, size: tuple[int, int], pooling: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = getattr(model, "logit_scale", None)
        self.locations = nn.Identity()  # its inputs are the features that a mean is taken of
        config = self.tower.config
        self.family, self.grid, self.prefix = config.model_type, (0, 0), 0
        if is_vit := self.family in TOKENS:
            self.grid = (size[0] // config.patch_size, size[1] // config.patch_size)
            self.prefix = TOKENS[self.family] + getattr(config, "num_register_tokens", 0)
        try:
            with torch.inference_mode():
                output = self._output(torch.zeros(2, 3, *size, dtype=model.dtype))
            is_pooled = output.pooler_output is not None
        except Exception as error:
            name, reason = type(model).__name__, one_line(str(error))[:160]
            raise UserError(f"{name} has no image side with pooler_output: {reason}") from error
        possible = {
            PROJECTION: hasattr(model, "visual_projection"),
            CLASS_TOKEN: self.prefix > 0,
            ATTENTION_POOL: is_vit and is_pooled and not self.prefix,
            MEAN_OF_PATCHES: is_vit,
            POOLED: is_pooled,
        }
        self.pooling = chosen_pooling(
            pooling, [name for name, can_be in possible.items() if can_be]
        )

    @property
    def tower(self) -> Any:
        """The part of the model whose input is an image, without a head."""
        has_head = "For" in type(self.model).__name__  # as in ViTForImageClassification
        base = self.model.base_model if has_head else self.model
        return getattr(base, "vision_model", base)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embeddings of normalised pixels: (B, 3, H, W) → (B, D)."""
        return self(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embeddings of the tokens of texts: (B, length) → (B, D)."""
        return self.model.get_text_features(input_ids=tokens).pooler_output

    def forward(self, pixels: Tensor) -> Tensor:
        output = self._output(pixels)
        if self.pooling == PROJECTION:
            return self.model.visual_projection(output.pooler_output)
        if self.pooling == MEAN_OF_PATCHES:
            patches = output.last_hidden_state[:, self.prefix :].transpose(1, 2)
            return self.locations(patches.unflatten(2, self.grid)).mean(dim=(2, 3))
        if self.pooling == CLASS_TOKEN and not hasattr(self.tower, "post_layernorm"):
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _output(self, pixels: Tensor) -> Any:
        if self.family != "siglip2_vision_model":
            return self.tower(pixel_values=pixels)
        side = self.tower.config.patch_size
        patches = torch.stack([convert_image_to_patches(view, side) for view in pixels])
        sides = torch.tensor(pixels.shape[2:], device=pixels.device) // side
        return self.tower(
            pixel_values=patches,
            pixel_attention_mask=torch.ones_like(patches[..., 0], dtype=torch.int32),
            spatial_shapes=sides.expand(len(pixels), 2),
        )

    def parts(self) -> Tower:
        """What can be read in the tower: of families that are not known, nothing."""
        if self.family not in TOKENS and self.family not in AVERAGING:
            return Tower()
        tower: Any = self.tower
        lists = (part for part in tower.modules() if isinstance(part, nn.ModuleList))
        blocks: list[Any] = list(next(lists))
        probe: gaze.GazeProbe
        if self.family in AVERAGING:
            blocks[-1].register_forward_hook(self._pass_on)
            norm = getattr(tower, "layernorm", None) or getattr(tower, "layer_norm", None)
            probe = gaze.ContributionProbe(self, self.locations, norm)
        elif self.pooling == MEAN_OF_PATCHES:
            probe = gaze.ContributionProbe(self, self.locations)
        elif self.prefix:
            attention = next(part for part in blocks[-1].modules() if hasattr(part, "k_proj"))
            last = len(blocks) - 1
            probe = gaze.AttentionProbe(attention, projected_heads, self.grid, last)
        else:
            attention = tower.head.attention
            probe = gaze.AttentionProbe(attention, gaze.multihead_heads, self.grid, len(blocks))
        return Tower(blocks, self.prefix > 0, self.prefix, probe)

    def _pass_on(self, block: nn.Module, inputs: tuple[Any, ...], features: Tensor) -> None:
        self.locations(features)


def projected_heads(
    layer: Any,
    hidden_states: Tensor,
    *_: Any,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **__: Any,
) -> gaze.Heads:
    """The first query and all keys of transformers' self-attention.

    ``position_embeddings`` rotate the keys of patches; the first token is not a patch.
    """
    heads = layer.q_proj.out_features // layer.head_dim
    keys = gaze.split(layer.k_proj(hidden_states), heads)
    if position_embeddings is not None:
        _, keys = apply_rotary_pos_emb(keys, keys, *position_embeddings)
    return gaze.split(layer.q_proj(gaze.first(hidden_states)), heads), keys


@contextmanager
def silenced() -> Iterator[None]:
    """Silence transformers' log and progress bars."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def load(repo: str, pooling: str | None = None, precision: str = "fp32", seed: int = 0) -> Encoder:
    """Load a model from a folder or the hub's cache, or download it.

    Code and pickled weights of a repository are refused: only its ``model.safetensors`` is read.

    Args:
        repo: ``organisation/name`` on the hub, or a folder that ``save_pretrained`` of the model
            and of its image processor wrote.
        pooling: What the embedding is, see this module; None for the model's default.
        precision: open_clip's name; all weights and activations are in this type.
        seed: Without effect: all weights are loaded.

    Raises:
        UserError: If a file is missing or damaged, or weights are missing in it; if the model has
            no image side or not this pooling; or if it must be downloaded and there is no network.
    """
    folder = find_file(repo, ["config.json"]).parent
    weights = find_file(repo, WEIGHTS)
    find_file(repo, PROCESSORS)
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

    @cache
    def tokenizer() -> Tokenizer:
        for name in TOKENIZER:
            find_file(repo, [name])
        with loading(f"the tokenizer of {repo}", "its configuration"), silenced():
            return text_tokenizer(model, AutoTokenizer.from_pretrained(folder, **here))

    with loading(repo, "its configuration"), silenced():
        if weights.name == WEIGHTS[0]:
            for shard in sorted(set(json.loads(weights.read_text())["weight_map"].values())):
                find_file(repo, [shard])
        config = AutoConfig.from_pretrained(folder, **here)
        config._attn_implementation = None  # a stranger's could name code on the hub
        kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            kind = AutoModel
        options = {"config": config, "use_safetensors": True, "output_loading_info": True}
        model, report = kind.from_pretrained(folder, dtype=torch.float32, **options)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"it lacks {len(missing)} weights ({missing[0]} first)")
        check_finite(model, repo)
        model.to(get_input_dtype(precision) or torch.float32)
        processor = AutoImageProcessor.from_pretrained(folder, **here)
        return wrap(model, processor, lambda texts: tokenizer()(texts), True, pooling)


def find_file(source: str, names: list[str]) -> Path:
    """The first file that a model has, in its folder, in the hub's cache, or on the hub.

    Raises:
        UserError: If it has none, or is not cached and the hub cannot be reached.
    """
    folder = Path(source)
    if not source or not folder.is_dir():
        if source.count("/") != 1 or source.startswith((".", "/", "~")):
            raise UserError(
                f"no folder {source!r}: set model.repo to a name on the hub, such as "
                "facebook/dinov2-small, or to a folder"
            )
        return hub_file(source, names)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"no {names[-1]} in {source}: save the model and its processor there by save_pretrained "
        "(pickled weights are refused)"
    )


def wrap(
    model: Any, preprocess: Any, tokenizer: Any, trained: bool, pooling: str | None
) -> Encoder:
    """An encoder of a model with its processor (of images, or of images and texts).

    Args:
        model: A model of transformers.
        preprocess: Its processor.
        tokenizer: Its tokenizer; None for that of the processor.
        trained: Whether the weights were trained.
        pooling: What the embedding is, see this module; None for the model's default.

    Raises:
        UserError: If the model has no image side or not this pooling, or the processor is missing.
    """
    preprocessing = read_processor(getattr(preprocess, "image_processor", preprocess))
    height, width = np.broadcast_to(preprocessing["size"], 2).tolist()
    images = TransformersModel(model.eval(), (height, width), pooling)
    has_texts = images.pooling in (PROJECTION, ATTENTION_POOL)
    has_texts = has_texts and hasattr(model, "get_text_features")
    tokenizer = (tokenizer or getattr(preprocess, "tokenizer", None)) if has_texts else None
    if isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        tokenizer = text_tokenizer(model, tokenizer)
    model.config.name_or_path = ""
    config = model.config.to_dict() | {"transformers_version": None, "pooling": images.pooling}
    return Encoder(
        images,
        preprocessing,
        config,
        trained,
        tokenizer=tokenizer and (lambda: tokenizer),
        pooling=images.pooling,
        tower=images.parts(),
    )


def text_tokenizer(model: Any, tokenizer: Any) -> Tokenizer:
    """From texts to tokens, (N, length), padded to the length of the model's, as in its training.

    SigLIP was trained without a mask of the padding, and CLIP does not look at it.
    """
    length = model.config.text_config.max_position_embeddings
    padded = partial(tokenizer, padding="max_length", truncation=True, max_length=length)
    return lambda texts: padded(texts, return_tensors="pt").input_ids


def read_processor(processor: Any) -> dict[str, Any]:
    """The preprocessing that an image processor describes, in the keys of `native_resize`.

    Its factor on pixels of 8 bits, if not 1/255, is contained in ``mean`` and ``std``. How it
    resizes is found on two photos of noise: of the ways that its size can mean, the one that gives
    its pixels up to the rounding to 8 bits. Without one, there is no ``resize_mode``.

    Raises:
        UserError: If it is not an image processor, or gives images of several sizes.
    """
    name = type(processor).__name__
    if not isinstance(processor, BaseImageProcessor):
        raise UserError(f"{name} is not an image processor: pass preprocess=AutoImageProcessor…")
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    noise, factor = np.random.default_rng(0), scale / 255
    shapes = ((67, 90, 3), (151, 80, 3))
    photos = [Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    pixels = [
        processor(images=photo, do_normalize=False, return_tensors="pt").pixel_values[0] / factor
        for photo in photos
    ]
    height, width = pixels[0].shape[-2:]
    if hasattr(processor, "max_num_patches"):  # NaFlex
        height = width = math.isqrt(processor.max_num_patches) * processor.patch_size
    elif pixels[0].shape != pixels[1].shape:
        raise UserError(f"{name} gives images of several sizes: set its size or crop_size")
    settings: dict[str, Any] = {
        "size": height if height == width else (height, width),
        "mean": (np.broadcast_to(mean, 3) / scale).tolist(),
        "std": (np.broadcast_to(std, 3) / scale).tolist(),
        "interpolation": Image.Resampling(processor.resample).name.lower(),
    }
    side = (processor.size and processor.size.shortest_edge) or height
    sides = (side, int(side / getattr(processor, "crop_pct", 1)))
    for mode, side, backend in product(("shortest", "squash"), sides, (processor.backend, "float")):
        resizing = {"resize_mode": mode, "resize_size": side, "backend": backend}
        views = (pixels_of(photo, native_resize(settings | resizing)).float() for photo in photos)
        if height == width and all(
            of.shape == view.shape and torch.allclose(of, view, rtol=0, atol=0.501)
            for of, view in zip(pixels, views, strict=True)
        ):
            return settings | resizing
    return settings
