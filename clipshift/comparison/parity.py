"""Parity: whether two encoders that ought to be one agree, and which step makes a difference."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from clipshift.choices import model_options
from clipshift.data.dataset import clean_view, native_resize
from clipshift.data.photos import Photo, UnreadablePhotoError, decode, keyed_order
from clipshift.encode import Encoder, as_encoder, load_encoder
from clipshift.encode.encoder import ENCODE_BATCH
from clipshift.encode.modules import model_name
from clipshift.errors import UserError
from clipshift.measure.embeddings import NEIGHBOURS, neighbours_kept, orthogonal_cosines
from clipshift.measure.functional import cosine_similarity, has_direction
from clipshift.report.prose import prose

OWN, SAME, MAPPED, KEPT = "cosine", "cosine_same_pixels", "cosine_mapped", "neighbours_kept"
"""Of A's and B's embeddings: their cosine, each with its own preprocessing; that of A's pixels with
both models; that after the best orthogonal map, of photos that it was not fitted to; and the share
of the ten nearest photos that is the same."""
SAME_PIXELS = 0.01
"""Largest difference of two pixels, in steps of 255, that counts as rounding."""
ROUNDINGS = 10
"""Largest multiple of one model's rounding error that still counts as rounding, because two
implementations round in different places."""


@dataclass(frozen=True)
class Stack:
    """A model with the preprocessing before it: from a photo to an embedding.

    Attributes:
        name: What it is called.
        encoder: The model, with the mean and std that come after the pixels.
        transform: Makes what the model takes of an RGB image, normalised, (3, H, W); None for the
            preprocessing that the encoder declares.
    """

    name: str
    encoder: Encoder
    transform: Callable[[Image.Image], Tensor] | None = None

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """The pixels of images after preprocessing, before mean and std, float32, (B, 3, H, W)."""
        if self.transform is None:
            resize = native_resize(self.encoder.preprocessing)
            return torch.stack([clean_view(image, resize) for image in images])
        normalised = torch.stack([self.transform(image) for image in images])
        return normalised * self.encoder.std.cpu() + self.encoder.mean.cpu()

    def embed(self, pixels: Tensor) -> Tensor:
        """The embeddings of pixels, float32, (B, D); those of another size are resized."""
        return self.encoder.encode_views(pixels.to(self.encoder.mean.device)).embedding.cpu()


def make_stack(given: Any, like: Encoder | None = None, precision: str = "fp32") -> Stack:
    """A model with its preprocessing.

    Args:
        given: What `clipshift.choices.model_options` takes, a name perhaps with options, as
            ``tiny,precision=bf16``; an object of `clipshift.encode.as_encoder`; or such an object
            and its preprocessing. That is one of `as_encoder`, or any function from an RGB image to
            what the model takes, (3, H, W). A function, a torchvision ``Compose`` and a processor
            of transformers are themselves applied to each photo.
        like: The other model, whose mean and std a function is taken to have: it does not tell.
        precision: Of a model by its name, without an option.

    Raises:
        UserError: If the model cannot be used.
    """
    named = isinstance(given, tuple) and isinstance(given[0], str)
    model, preprocess = given if isinstance(given, tuple) and not named else (given, None)
    if named or isinstance(model, str | Path | Mapping):
        model, *given = model.split(",") if isinstance(model, str) else [model]
        options = model_options(model) | dict(option.partition("=")[::2] for option in given)
        name = ",".join([options.pop("name"), *given])
        return Stack(name, load_encoder(**{"precision": precision} | options))
    name, processor = model_name(model), preprocess

    def transform(image: Image.Image) -> Tensor:
        if hasattr(processor, "image_processor") or hasattr(processor, "image_mean"):
            return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])
        return torch.as_tensor(processor(image)).float()

    try:
        encoder = as_encoder(model, preprocess)
    except UserError:
        if not callable(preprocess):
            raise
        size = list(transform(Image.new("RGB", (640, 480))).shape[-2:])
        known = like.preprocessing if like else {"mean": [0, 0, 0], "std": [1, 1, 1]}
        encoder = as_encoder(model, {"size": size, "mean": known["mean"], "std": known["std"]})
    return Stack(name, encoder, transform if callable(preprocess) else None)


@dataclass
class Parity:
    """How far two stacks agree on photos.

    Attributes:
        a: The one.
        b: The other.
        photos: The photos that could be read.
        table: One row for each: ``photo``; ``pixel_mean`` and ``pixel_max``, the absolute
            difference of the pixels after preprocessing, in 8-bit steps; `OWN`, `SAME`, `MAPPED`
            (of at least twice as many photos as dimensions) and `KEPT` (of twelve or more). NaN
            without a value.
        rounding: What rounding alone does, see `rounding_alone`.
        tolerance: The largest accepted 1 − cosine.
    """

    a: Stack
    b: Stack
    photos: Sequence[Photo]
    table: pd.DataFrame
    rounding: float
    tolerance: float

    @property
    def decisive(self) -> pd.Series:
        """The cosines that decide: `OWN`, −1 without a direction; `MAPPED` of two dimensions."""
        own = self.table[OWN]
        return own.fillna(-1) if own.notna().any() else self.table[MAPPED].dropna()

    @property
    def passed(self) -> bool:
        """Whether every photo is within the tolerance."""
        return len(self.decisive) > 0 and bool((1 - self.decisive <= self.tolerance).all())

    @property
    def verdict(self) -> list[str]:
        """Whether they agree, and which step makes a difference: in sentences."""
        declared, other = (
            stack.encoder.preprocessing | {"size": stack.encoder.input_size}
            for stack in (self.a, self.b)
        )
        differing = {
            name: f"{name} {value} and {other[name]}"
            for name, value in declared.items()
            if name in other and not np.array_equal(value, other[name])
        }
        largest = self.table["pixel_max"].max()
        same = largest <= SAME_PIXELS and not differing.keys() & {"mean", "std"}
        chosen = [
            "passed" if self.passed else "failed" if len(self.decisive) else "unknown",
            "other_sizes" if np.isnan(largest) else "same_pixels" if same else "other_pixels",
        ]
        distance = float(np.quantile(unit_distance(self.table[SAME]), 0.95))
        if distance <= ROUNDINGS * np.nan_to_num(self.rounding):
            chosen.append("rounding" if distance else "equal")
        elif distance >= 0:
            chosen.append("differ" if self.rounding >= 0 else "differ_unknown")
        if self.table[MAPPED].notna().any() and not self.passed:
            chosen.append("mapped")
        if self.table[KEPT].notna().any():
            chosen.append("neighbours")
        values = {
            "parity": self,
            "mean": self.table.mean(numeric_only=True),
            "largest": largest,
            "loss": 1 - self.decisive.min(),
            "distance": distance,
            "declared": f" ({'; '.join(differing.values())})" if differing else "",
        }
        sentences = prose()["parity"]["verdict"]
        return [sentences[name].format(**values) for name in chosen]

    def __str__(self) -> str:
        return "\n".join(self.verdict).replace("`", "")


@torch.inference_mode()
def measure_parity(a: Stack, b: Stack, photos: Sequence[Photo], tolerance: float) -> Parity:
    """Take photos through two stacks, and compare them step by step.

    Args:
        a: The one.
        b: The other.
        photos: The photos. Those that cannot be read are left out.
        tolerance: The largest accepted 1 − cosine.

    Raises:
        UserError: If fewer than two photos can be read.
    """
    read: list[Photo] = []
    batches: list[list[Tensor]] = []
    for start in range(0, len(photos), ENCODE_BATCH):
        images = []
        for photo in photos[start : start + ENCODE_BATCH]:
            with suppress(OSError, UnreadablePhotoError):
                images.append(decode(photo.read()))
                read.append(photo)
        if images:
            of_a, of_b = (stack.pixels(images) for stack in (a, b))
            difference = torch.full((len(images), 1), torch.nan)  # of two sizes
            if of_a.shape == of_b.shape:
                difference = 255 * (of_a - of_b).abs().flatten(1)
            if not batches:
                rounding = rounding_alone(a, b, of_a)
            first, second = a.embed(of_a), b.embed(of_b)
            same = second if torch.equal(of_a, of_b) else b.embed(of_a)
            batches.append([first, second, same, difference.mean(dim=1), difference.amax(dim=1)])
    if len(read) < 2:
        raise UserError(f"{len(read)} of {len(photos)} photos can be read: parity requires two")
    first, second, same, *pixels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    table = pd.DataFrame({"photo": [photo.id for photo in read]})
    table["pixel_mean"], table["pixel_max"] = (values.double().numpy() for values in pixels)
    for column, other in ((OWN, second), (SAME, same)):
        alike = first.shape == other.shape
        table[column] = cosine_similarity(other, first).numpy() if alike else np.nan
    rows = (has_direction(first) & has_direction(second)).numpy().nonzero()[0]
    pair = first.numpy()[rows], second.numpy()[rows]
    table[MAPPED] = table[KEPT] = np.nan
    if len(rows) > NEIGHBOURS + 1:  # of fewer, all others are among the nearest
        table.loc[rows, KEPT] = neighbours_kept(*pair)[0]
    if len(rows) >= 2 * max(first.shape[1], second.shape[1]):  # with fewer, no map is the best
        fitted = np.isin(np.arange(len(rows)), keyed_order([read[i] for i in rows], "parity")[::2])
        table.loc[rows, MAPPED] = orthogonal_cosines(*pair, fitted)
    return Parity(a, b, read, table, rounding, tolerance)


def unit_distance(cosines: Any) -> Any:
    r"""The distance of unit embeddings, :math:`\sqrt{2 (1 - \cos)}`: about their relative error."""
    return np.sqrt(np.maximum(2 - 2 * np.asarray(cosines, float), 0))


def rounding_alone(a: Stack, b: Stack, pixels: Tensor) -> float:
    """How far rounding alone moves unit embeddings: the 95th percentile over photos.

    Weights and activations of one model are cast: if A and B differ in precision, from float32 to
    the other's; if not, to float64.

    Args:
        a: The one.
        b: The other.
        pixels: Of some photos, (B, 3, H, W).

    Returns:
        A `unit_distance`; NaN where neither has weights that can be cast, as of two ONNX files.
    """
    dtypes = {stack.encoder.input_dtype for stack in (a, b)}
    for stack in sorted((a, b), key=lambda one: one.encoder.input_dtype != torch.float32):
        if any(weight.is_floating_point() for weight in stack.encoder.model.parameters()):
            cast = copy.deepcopy(stack.encoder)
            cast.input_dtype = next(iter(dtypes - {cast.input_dtype}), torch.float64)
            cast.model.to(cast.input_dtype)
            cosines = cosine_similarity(Stack("", cast).embed(pixels), stack.embed(pixels))
            return float(np.quantile(unit_distance(cosines), 0.95))
    return np.nan
