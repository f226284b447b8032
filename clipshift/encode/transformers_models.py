"""Encoders from transformers: by name on the hub, from a folder, or from a model in memory.

What the embedding is, is chosen by ``pooling``; the default is the first that the model has:

==================================================  ============================================
model                                               poolings
==================================================  ============================================
CLIP, and others with a ``visual_projection``       projection, class_token, mean_of_patches
SigLIP, SigLIP 2 (of fixed resolution, and NaFlex)  attention_pool, mean_of_patches
ViT, DeiT, DINOv2 (with registers or without),      class_token, mean_of_patches, pooled
DINOv3, the image tower of CLIP alone
ConvNeXt (V1, V2, DINOv3), ResNet, RegNet           pooled, mean_of_patches
other models with an image side                     must be chosen, where there are several
==================================================  ============================================

``class_token`` is taken after the final layer norm. ``mean_of_patches`` is the mean over the
patches of ``last_hidden_state``, without class token and registers; CLIP and ConvNeXt V1 and V2
return these before their final layer norm, the others after it. ``pooled`` is ``pooler_output``:
of ConvNeXt the average over locations and then a layer norm, of ViT a layer on the class token.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
from transformers.image_utils import SizeDict
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches
from transformers.utils import logging

from clipshift.data.dataset import native_resize, pixels_of
from clipshift.encode import gaze
from clipshift.encode.encoder import Encoder, Tokenizer
from clipshift.encode.kinds import chosen_pooling
from clipshift.encode.modules import precision_of
from clipshift.encode.open_clip_models import LOAD_ERRORS, load_error
from clipshift.encode.tower import Tower
from clipshift.encode.weights import check_finite, hub_file
from clipshift.errors import UserError, one_line

PROJECTION, ATTENTION_POOL, CLASS_TOKEN = "projection", "attention_pool", "class_token"
POOLED, MEAN_OF_PATCHES = "pooled", "mean_of_patches"
WITH_CLASS_TOKEN = {"clip_vision_model", "metaclip_2_vision_model", "vit", "deit"}
WITH_CLASS_TOKEN |= {"dinov2", "dinov2_with_registers", "dinov3_vit"}
"""Types of towers that pool by their class token, and whose attention is the softmax of products of
queries and keys alone."""
AVERAGING = {"convnext", "convnextv2", "dinov3_convnext", "regnet", "resnet"}
"""Types of towers whose ``pooler_output`` is the average over locations, up to a layer norm."""
NAFLEX = "siglip2_vision_model"
"""The type of towers that take patches instead of pixels."""
ERRORS: tuple[type[Exception], ...] = (*LOAD_ERRORS, ImportError)
CONFIG = "config.json"
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
        self.locations = nn.Identity()  # its inputs are the features that a mean is taken of
        name, tower = type(model).__name__, self.tower
        self.model_type = tower.config.model_type
        try:
            with torch.inference_mode():
                output = self._output(torch.zeros(2, 3, *size, dtype=model.dtype))
            tokens = output.last_hidden_state
        except Exception as error:
            raise UserError(f"{name} has no image side: {one_line(str(error))[:160]}") from error
        self.grid: Any = ()  # unknown
        self.prefix = 0
        if tokens.ndim == 4:
            self.grid = tuple(tokens.shape[2:])
        elif patch := getattr(tower.config, "patch_size", None):
            self.grid = tuple(np.floor_divide(size, patch).tolist())
            self.prefix = tokens.shape[1] - math.prod(self.grid)
            if self.prefix < 0:
                self.grid, self.prefix = (), 0
        parameters = {parameter.rpartition(".")[2] for parameter, _ in tower.named_parameters()}
        has_token = not parameters.isdisjoint(("cls_token", "class_embedding"))
        self.class_token = bool(self.prefix) and has_token
        possible = {
            PROJECTION: hasattr(model, "visual_projection"),
            ATTENTION_POOL: hasattr(getattr(tower, "head", None), "probe"),
            CLASS_TOKEN: self.class_token,
            POOLED: output.get("pooler_output") is not None,
            MEAN_OF_PATCHES: bool(self.grid),
        }
        poolings = [key for key, is_possible in possible.items() if is_possible]
        self.is_known = self.model_type in WITH_CLASS_TOKEN | AVERAGING or not {
            PROJECTION,
            ATTENTION_POOL,
        }.isdisjoint(poolings)
        if pooling is None and not self.is_known and len(poolings) > 1:
            raise UserError(f"{name}: set model.pooling to one of {', '.join(poolings)}")
        self.pooling = chosen_pooling(pooling, poolings)

    @property
    def tower(self) -> Any:
        """The part of the model whose input is an image, without a head."""
        has_head = "For" in type(self.model).__name__  # as in ViTForImageClassification
        base = self.model.base_model if has_head else self.model
        return getattr(base, "vision_model", base)

    @property
    def logit_scale(self) -> Tensor | None:
        """The logarithm of the factor on cosines."""
        return getattr(self.model, "logit_scale", None)

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
            features = output.last_hidden_state
            if features.ndim == 3:
                features = features[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
            return self.locations(features).mean(dim=(-2, -1))
        if self.pooling == CLASS_TOKEN and not hasattr(self.tower, "post_layernorm"):
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _output(self, pixels: Tensor) -> Any:
        if self.model_type != NAFLEX:
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
        """What can be read in the tower; of types that are not known, only a mean's gaze."""
        lists = [part for part in self.tower.modules() if isinstance(part, nn.ModuleList)]
        blocks = list(lists[0]) if self.is_known else []
        return Tower(blocks, self.class_token, self.prefix, self._probe(blocks))

    def _probe(self, blocks: list[nn.Module]) -> gaze.GazeProbe | None:
        tower, depth = self.tower, len(blocks)
        if self.pooling == MEAN_OF_PATCHES:
            return gaze.ContributionProbe(self, self.locations, None, None)
        if self.pooling == POOLED and self.model_type in AVERAGING:
            blocks[-1].register_forward_hook(self._pass_on)
            norm = getattr(tower, "layernorm", None) or getattr(tower, "layer_norm", None)
            return gaze.ContributionProbe(self, self.locations, norm, None)
        if hasattr(getattr(tower, "head", None), "probe"):
            attention = tower.head.attention
            return gaze.AttentionProbe(attention, gaze.multihead_heads, self.grid, depth)
        if self.model_type in WITH_CLASS_TOKEN:
            attention = next(part for part in blocks[-1].modules() if hasattr(part, "k_proj"))
            return gaze.AttentionProbe(attention, projected_heads, self.grid, depth - 1)
        return None

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
def only_errors_logged() -> Iterator[None]:
    """Silence transformers' log and progress bars except for errors."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def load(
    repo: str | None = None,
    checkpoint: str | None = None,
    pooling: str | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> Encoder:
    """Load a model from a folder or the hub's cache, or download it.

    Code and pickled weights of a repository are refused: only its ``model.safetensors`` is read.

    Args:
        repo: ``organisation/name`` on the hub, or a folder that ``save_pretrained`` of the model
            and of its image processor wrote.
        checkpoint: Such a folder, in place of ``repo``.
        pooling: What the embedding is, see this module; None for the model's default.
        precision: open_clip's name; all weights and activations are in this type.
        seed: Without effect: all weights are loaded.

    Raises:
        UserError: If a file is missing or damaged, or weights are missing in it; if the model has
            no image side or not this pooling; or if it must be downloaded and there is no network.
    """
    source = str(checkpoint or repo or "")
    folder = find_file(source, [CONFIG]).parent
    weights = find_file(source, WEIGHTS)
    find_file(source, PROCESSORS)
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if weights.name == WEIGHTS[0]:
            for shard in sorted(set(json.loads(weights.read_text())["weight_map"].values())):
                find_file(source, [shard])
        with only_errors_logged():
            config = AutoConfig.from_pretrained(folder, **here)
            config._attn_implementation = None  # a stranger's could name code on the hub
            kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
            if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
                kind = AutoModel
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            processor = AutoImageProcessor.from_pretrained(folder, **here)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"it lacks {len(missing)} weights ({missing[0]} first)")
    except ERRORS as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{source} requires running remote code, which clipshift never does"
            ) from error
        raise UserError(load_error(source, "its configuration", error)) from error
    check_finite(model, source)

    def load_tokenizer() -> Tokenizer:
        for name in TOKENIZER:
            find_file(source, [name])
        try:
            with only_errors_logged():
                return text_tokenizer(model, AutoTokenizer.from_pretrained(folder, **here))
        except ERRORS as error:
            reason = one_line(str(error))[:160]
            raise UserError(f"cannot load the tokenizer of {source}: {reason}") from error

    return _encoder(model, processor, load_tokenizer, True, precision, pooling)


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
    tokenizer = tokenizer or getattr(preprocess, "tokenizer", None)
    if not hasattr(model, "get_text_features"):
        tokenizer = None
    if isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        tokenizer = text_tokenizer(model, tokenizer)
    processor = getattr(preprocess, "image_processor", preprocess)
    given = tokenizer and (lambda: tokenizer)
    return _encoder(model, processor, given, trained, precision_of(model), pooling)


def _encoder(
    model: Any,
    processor: Any,
    tokenizer: Callable[[], Tokenizer] | None,
    trained: bool,
    precision: str,
    pooling: str | None,
) -> Encoder:
    preprocessing = read_processor(processor)
    height, width = np.broadcast_to(preprocessing["size"], 2).tolist()
    images = TransformersModel(model.eval(), (height, width), pooling)
    model.config.name_or_path = ""
    config = model.config.to_dict() | {"transformers_version": None, "pooling": images.pooling}
    is_joint = images.pooling in (PROJECTION, ATTENTION_POOL)
    return Encoder(
        images.to(get_input_dtype(precision) or torch.float32),
        preprocessing,
        config,
        trained,
        precision,
        tokenizer if is_joint and hasattr(model, "get_text_features") else None,
        kind="transformers",
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

    Its factor on pixels of 8 bits, if not 1/255, is contained in ``mean`` and ``std``. Without
    ``resize_mode``, the processor's own views cannot be made.

    Raises:
        UserError: If it is not an image processor, or does not say the size of its images.
    """
    name = type(processor).__name__
    if not isinstance(processor, BaseImageProcessor):
        raise UserError(f"{name} is not an image processor: pass preprocess=AutoImageProcessor…")
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    box, crop = processor.size or SizeDict(), processor.crop_size or SizeDict()
    side, is_squashed = box.shortest_edge or box.height, not box.shortest_edge
    size = (side, box.width or side)
    if processor.do_center_crop:
        size = (crop.height, crop.width)
    elif box.shortest_edge and hasattr(processor, "crop_pct"):  # ConvNeXt
        is_squashed = side >= 384
        side = side if is_squashed else int(side / processor.crop_pct)
    elif hasattr(processor, "max_num_patches"):  # NaFlex
        size = (math.isqrt(processor.max_num_patches) * processor.patch_size,) * 2
    if not all(size):
        raise UserError(f"{name} does not say the size of its images: set its size or crop_size")
    settings = {
        "size": size[0] if size[0] == size[1] else size,
        "mean": (np.broadcast_to(mean, 3) / scale).tolist(),
        "std": (np.broadcast_to(std, 3) / scale).tolist(),
        "interpolation": Image.Resampling(processor.resample).name.lower(),
        "resize_mode": "squash" if is_squashed else "shortest",
        "resize_size": side,
    }
    for settings["backend"] in (processor.backend, "float"):
        if _are_native(processor, settings, scale / 255):
            return settings
    del settings["resize_mode"]
    return settings


def _are_native(processor: Any, settings: dict[str, Any], factor: float) -> bool:
    """Whether native views are a processor's, up to the rounding to 8 bits."""
    noise = np.random.default_rng(0)
    try:
        for shape in ((67, 90, 3), (151, 80, 3)):
            photo = Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8))
            pixels = processor(images=photo, do_normalize=False, return_tensors="pt").pixel_values
            view = pixels_of(photo, native_resize(settings))
            if not torch.allclose(pixels[0] / factor, view.float(), rtol=0, atol=0.501):
                return False
    except (UserError, ValueError, TypeError, RuntimeError):
        return False
    return True
