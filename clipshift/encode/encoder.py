"""Encoders: open_clip models that turn views into features in one forward pass."""

import hashlib
import json
import logging
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from open_clip.factory import load_state_dict, parse_model_name
from open_clip.model import get_input_dtype
from PIL import Image
from pydantic import JsonValue, TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit_length
from typing_extensions import NotRequired, TypedDict

from clipshift.data.dataset import clean_view
from clipshift.data.files import read_text, typed
from clipshift.data.photos import as_rgb
from clipshift.encode import tiny  # noqa: F401  (registers its image tower with timm)
from clipshift.encode.gaze import AttentionProbe, gaze_probe
from clipshift.encode.last_block import only_class_token
from clipshift.encode.layers import LayerProbe, is_convolutional
from clipshift.encode.weights import (
    CONFIG,
    check_finite,
    find_checkpoint,
    find_hub_folder,
    hub_file,
    tag_facts,
)
from clipshift.errors import UserError, did_you_mean

BUILTIN = "builtin:"
SENTENCES, NAMES = "sentences", "names"
"""The texts that a model was trained with: sentences, or only names of classes."""
MODELS = Path(__file__).parent.parent / "models"
ENCODE_BATCH = 32
"""Number of views in a forward pass. The rounding of matrix products may depend on the number of
rows, so every pass has this many, padded if fewer are left: an embedding then does not depend on
the other views of its batch."""
SLACK = 1e-3
"""Views may exceed [0, 1] by this much, as they do after interpolation."""

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
    """

    embedding: Tensor
    gaze: Tensor | None
    layers: list[Tensor] | None = None
    norms: Tensor | None = None
    heads: Tensor | None = None

    def split(self, count: int) -> list["Features"]:
        """Split into parts of ``count`` views."""
        rows = [slice(i, i + count) for i in range(0, len(self.embedding), count)]
        return [apply_to_collection(self, Tensor, operator.itemgetter(part)) for part in rows]


class HubModel(TypedDict):
    """The configuration of the image tower: open_clip checks the rest."""

    vision_cfg: NotRequired[dict[str, JsonValue]]


class HubConfig(TypedDict):
    """The keys of ``open_clip_config.json`` that may stand in a folder in the hub's format."""

    model_cfg: HubModel
    preprocess_cfg: NotRequired[dict[str, JsonValue]]
    text: NotRequired[str]


HUB_CONFIG: TypeAdapter[HubConfig] = TypeAdapter(HubConfig)


class Encoder(nn.Module):
    """Wraps a model that turns views into features; see `load_encoder` and `as_encoder`.

    Args:
        model: An open_clip model, or a module with ``encode_image`` and perhaps ``encode_text``.
        preprocessing: Its preprocessing as in open_clip: ``size``, ``mean``, ``std``, ….
        config: Everything else that determines its features, as JSON: its architecture.
        trained: Whether its weights were trained, not drawn at random.
        precision: open_clip's name of its precision.
        tokenizer: Creates the text tower's tokenizer.
        text: The texts that it was trained with: ``sentences``, or only ``names`` of classes.

    Attributes:
        fill: Whether every pass is padded to `ENCODE_BATCH` views. Otherwise few views are encoded
            faster, but numbers depend on the rest of the batch in the seventh digit.
        probe: Reads the gaze; None where the image tower has none.
        cacheable: Whether `fingerprint` covers all of its code, so that other runs may reuse its
            features.
        weights_sha256: SHA-256 of the weights.
        fingerprint: SHA-256 of everything that determines its features: weights, architecture,
            precision and preprocessing. Models with the same weights may differ in the others.
    """

    model: Any
    mean: Tensor
    std: Tensor
    cacheable = True
    fill = True

    def __init__(
        self,
        model: nn.Module,
        preprocessing: dict[str, Any],
        config: dict[str, Any],
        trained: bool,
        precision: str,
        tokenizer: Callable[[], Callable[[list[str]], Tensor]],
        text: str = SENTENCES,
    ) -> None:
        super().__init__()
        self.text = text
        self.model = model.eval().requires_grad_(False)
        self.trained = trained
        self.precision = precision
        self.preprocessing = preprocessing
        self.weights_sha256 = weights_sha256(model)
        facts = [self.weights_sha256, config, precision, self.preprocessing]
        facts_json = json.dumps(facts, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(facts_json.encode()).hexdigest()
        self.input_dtype = get_input_dtype(precision) or torch.float32
        tower = self._tower
        if is_convolutional(tower):
            # Up to 1.6 times faster on a CPU. A layer's outputs have the format of its weights.
            tower.to(memory_format=torch.channels_last)
        self.probe = gaze_probe(tower)
        self.layer_probe = LayerProbe(tower)
        self._tokenizer = tokenizer
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

    def encode_views(self, views: Tensor, layers: bool = False, heads: bool = False) -> Features:
        """Encode views without checking their range, which would make a GPU wait.

        Args:
            views: In [0, 1], float32, shape (B, 3, H, W).
            layers: Whether to return `Features.layers` and `Features.norms` as well.
            heads: Whether to return `Features.heads` as well.
        """
        self.layer_probe.wanted = layers
        with only_class_token(self._tower, patches=layers):
            parts = [self._encode(part, heads) for part in views.split(ENCODE_BATCH)]
        self.layer_probe.wanted = False  # otherwise `embed` would keep tokens that nobody reads

        def joined(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        tokens = [part.layers for part in parts if part.layers is not None]
        blocks = [torch.cat(layer) for layer in zip(*tokens, strict=True)] if layers else None
        gaze, norms, heads_gaze = map(joined, ("gaze", "norms", "heads"))
        return Features(joined("embedding"), gaze, blocks, norms, heads_gaze)

    @cached_property
    @torch.inference_mode()
    def layer_widths(self) -> list[int]:
        """The width of the tokens after each block."""
        view = torch.zeros((1, 3, *self.input_size), device=self.mean.device)
        return [layer.shape[2] for layer in self.encode_views(view, layers=True).layers or ()]

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
            UserError: If the model's tokenizer cannot be loaded.
        """
        tokenize = self._tokenizer()
        rows = []
        for start in range(0, len(texts), ENCODE_BATCH):
            part = texts[start : start + ENCODE_BATCH]
            tokens = tokenize(part + [""] * (ENCODE_BATCH - len(part)))
            rows.append(self._unit_texts(tokens.to(self.mean.device))[: len(part)])
        return torch.cat(rows).float()

    @torch.inference_mode()
    def zero_shot_classifier(self, classes: list[str], templates: list[str]) -> Tensor:
        """A unit vector for each class: the mean over templates of its prompts' unit embeddings.

        Args:
            classes: Names of classes.
            templates: Prompts with ``{}`` in place of the name.

        Returns:
            float32, shape (D, C).

        Raises:
            UserError: If the model's tokenizer cannot be loaded.
        """
        return open_clip.build_zero_shot_classifier(
            SimpleNamespace(encode_text=self._unit_texts),
            self._tokenizer(),
            classes,
            templates,
            device=self.mean.device,
            use_tqdm=len(classes) > 100 and sys.stderr.isatty(),
        ).float()

    def _unit_texts(self, tokens: Tensor, normalize: bool = True) -> Tensor:
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

    def _encode(self, views: Tensor, heads: bool = False) -> Features:
        count = len(views)
        if self.fill and count < ENCODE_BATCH:
            views = torch.cat([views, views[:1].expand(ENCODE_BATCH - count, -1, -1, -1)])
        features = Features(self.embed(views.contiguous())[:count], gaze=None)
        if heads and isinstance(self.probe, AttentionProbe):
            features.heads = self.probe.read_heads()[:count]
            features.gaze = features.heads.mean(dim=1)
        elif self.probe:
            features.gaze = self.probe.read()[:count]
        blocks = self.layer_probe.read()
        features.layers = [tokens.pooled[:count] for tokens in blocks]
        norms = [tokens.norms[:count] for tokens in blocks if tokens.norms is not None]
        if len(norms) == len(blocks) and len({lengths.shape for lengths in norms}) == 1:
            features.norms = torch.stack(norms, dim=1)
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


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Silence the root logger except for errors: open_clip logs every step of loading to it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


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


def load_encoder(
    architecture: str,
    pretrained: str | None = None,
    checkpoint: str | None = None,
    precision: str = "fp32",
    seed: int = 0,
    image_tower: str | None = None,
) -> Encoder:
    """Build an open_clip model and load its weights, without a network if possible.

    Args:
        architecture: A name in ``open_clip.list_models()``; ``builtin:NAME`` for a model that is
            part of clipshift; ``local-dir:FOLDER`` for a folder in the hub's format
            (``open_clip_config.json`` beside the weights); or ``hf-hub:ORGANISATION/NAME``.
        pretrained: A tag of open_clip's. Without it, and without a checkpoint, the weights are
            random.
        checkpoint: A ``.safetensors`` or ``.pt`` file with weights for the architecture, or a
            folder in the hub's format, which defines the architecture.
        precision: open_clip's name: ``fp32``, ``bf16`` or ``fp16`` (weights and activations, with
            layer norms in float32), ``pure_bf16``, ``pure_fp16``.
        seed: Seed of the random weights.
        image_tower: A file with weights of only the image tower, such as those of FARE and TeCoA,
            which replace those of the model.

    Returns:
        The encoder, in evaluation mode and without gradients.

    Raises:
        UserError: If the architecture, tag or file is unknown, the weights do not fit, or they must
            be downloaded and there is no network.
    """
    if checkpoint and Path(checkpoint).is_dir():
        architecture, pretrained, checkpoint = f"local-dir:{checkpoint}", None, None
    schema, name = parse_model_name(_open_clip_name(architecture))
    if schema == "hf-hub":
        schema, name = "local-dir", str(find_hub_folder(name))
    if schema == "local-dir":
        if not (Path(name) / CONFIG).is_file():
            raise UserError(f"no {CONFIG} in {name}: is it a folder in the hub's format?")
        architecture = f"local-dir:{name}"
    elif name not in open_clip.list_models():
        raise UserError(
            f"unknown model architecture {name!r}{did_you_mean(name, open_clip.list_models())}"
        )
    preprocessing = {}
    weights = checkpoint
    if image_tower and not Path(image_tower).is_file():
        raise UserError(f"no weights {image_tower}: set model.image_tower to a file")
    if pretrained and schema:
        raise UserError(
            f"model.pretrained={pretrained} cannot be used with {architecture}, which has weights "
            "already: set model.architecture as well, or choose model="
        )
    if checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"no checkpoint {checkpoint}: set model.checkpoint to a file or folder")
    if pretrained and not schema:
        # A checkpoint that was trained from a tag keeps the tag's preprocessing.
        if checkpoint:
            facts = tag_facts(name, pretrained)
        else:
            file, facts = find_checkpoint(name, pretrained)
            weights = str(file)
        keys = ("mean", "std", "interpolation", "resize_mode")
        preprocessing = {key: facts[key] for key in keys if key in facts}
    with only_errors_logged(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            text = trained_texts(Path(name)) if schema == "local-dir" else SENTENCES
            model = open_clip.create_model(
                architecture,
                pretrained=None if schema else weights,
                precision=precision,
                force_preprocess_cfg=preprocessing,
                pretrained_text=False,
                require_pretrained=bool(schema and not weights),
            )
            if schema and weights:
                open_clip.load_checkpoint(model, weights)
            if image_tower:
                weights = image_tower
                model.visual.load_state_dict(load_state_dict(image_tower))
        except LOAD_ERRORS as error:
            raise UserError(load_error(weights or name, architecture, error)) from error
    check_finite(model, weights or name)
    return Encoder(
        model,
        model.visual.preprocess_cfg,
        open_clip.get_model_config(architecture),
        bool(schema or weights),
        precision,
        partial(load_tokenizer, architecture),
        text,
    )


def trained_texts(folder: Path) -> str:
    """The texts that a model was trained with: ``text`` in its config in the hub's format.

    open_clip does not read it. Models without it were trained with sentences.

    Raises:
        ValueError: If the config has other keys or types, or names a tower on the hub.
    """
    config = typed(HUB_CONFIG, read_text(folder / CONFIG))
    tower = str(config["model_cfg"].get("vision_cfg", {}).get("timm_model_name", ""))
    if ":" in tower:
        raise ValueError(f"{CONFIG} names the image tower {tower}, which is not one of timm's own")
    return NAMES if config.get("text") == NAMES else SENTENCES


@only_errors_logged()
def load_tokenizer(architecture: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of an architecture's text tower.

    Raises:
        UserError: If it is on the hub and cannot be loaded, or requires running remote code.
    """
    text = open_clip.get_model_config(architecture)["text_cfg"]
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UserError(
            f"the tokenizer of {architecture} requires running remote code, which clipshift never "
            f"does: remove trust_remote_code from its {CONFIG} if the tokenizer works without it"
        )
    if repo := text.get("hf_tokenizer_name"):
        if find_spec("transformers") is None:
            raise UserError(f"the tokenizer {repo} requires the package transformers")
        hub_file(repo, ["tokenizer_config.json"])
        try:
            return open_clip.get_tokenizer(architecture, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"cannot load the tokenizer of {architecture}: {reason}") from error
    return open_clip.get_tokenizer(architecture)


@only_errors_logged()
def model_config(architecture: str, checkpoint: str | None = None) -> dict[str, Any]:
    """open_clip's configuration of a model that `load_encoder` loads."""
    if checkpoint and Path(checkpoint).is_dir():
        architecture = f"local-dir:{checkpoint}"
    return open_clip.get_model_config(_open_clip_name(architecture))


@only_errors_logged()
def model_outline(architecture: str) -> Any:
    """A model without its weights: its modules on torch's device ``meta`` occupy no memory.

    Args:
        architecture: A name in ``open_clip.list_models()``, or ``builtin:NAME``.
    """

    def create(device: str) -> Any:
        name = _open_clip_name(architecture)
        with torch.device(device):
            return open_clip.create_model(
                name, device=device, load_weights=False, pretrained_text=False
            )

    try:
        return create("meta")
    except RuntimeError:  # some towers of timm read numbers while they are built
        return create("cpu")


def _open_clip_name(architecture: str) -> str:
    """open_clip's name of an architecture."""
    if architecture.startswith(BUILTIN):
        return f"local-dir:{builtin_folder(architecture.removeprefix(BUILTIN))}"
    return architecture


def builtin_folder(name: str) -> Path:
    """The folder of a model that is part of clipshift, after checking the SHA-256 of its weights.

    Raises:
        UserError: If there is no such model, or its weights are damaged.
    """
    folder = MODELS / name
    record = folder / "open_clip_model.safetensors.sha256"
    if not record.is_file():
        names = [path.name for path in MODELS.iterdir() if path.is_dir()]
        raise UserError(f"no built-in model {name!r}{did_you_mean(name, names)}")
    expected, file = record.read_text().split()
    if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
        raise UserError(f"{folder / file} is damaged (its SHA-256 differs): reinstall clipshift")
    return folder


LOAD_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, LookupError, TypeError)
LOAD_ERRORS += (OSError, AttributeError, AssertionError, EOFError)
LOAD_ERRORS += (UnpicklingError, SafetensorError, StopIteration)
"""Errors that torch, safetensors and open_clip raise for weights that cannot be loaded."""


def load_error(source: str, architecture: str, error: Exception) -> str:
    """Explain in one line why weights could not be loaded into an architecture."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = next((line for line in lines if "size mismatch" in line), lines[-1] if lines else "")
    if isinstance(error, StopIteration):
        return f"{source} cannot be loaded: it holds no weights"
    mismatches = ("Missing key", "size mismatch", "width changed")
    is_other = any(mismatch in str(error) for mismatch in mismatches)
    problem = f"is not a checkpoint of {architecture}" if is_other else "cannot be loaded"
    return f"{source} {problem}: {detail[:160] or type(error).__name__}"


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over every weight's name and bytes, in the order of names, as loaded."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
