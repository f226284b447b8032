"""A photograph that the user drags in, measured under every augmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clipshift.augment.variants import Variant, strengths_of
from clipshift.data.dataset import View, ViewDataset, collate
from clipshift.data.memory import photos_of
from clipshift.data.photos import Photo
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.encode.texts import ZeroShot, make_zero_shot
from clipshift.errors import UserError
from clipshift.evaluate.module import RecordOptions, ShiftEvaluation
from clipshift.measure.metrics import CleanSpread, CosineSimilarity
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.records import Records

RESIZE = "squash"
UNLABELLED = Photo("", Path())
"""A photograph whose class is not known, as those that are dragged in."""


@dataclass(frozen=True)
class Model:
    """A model of the demo.

    Attributes:
        name: What it is called.
        encoder: The model.
        zero_shot: Its classifier; None where it reads no text.
        spread: The mean 1 − cosine between the built-in photographs, a relative shift of 1.
        trained_on: The augmentations that it was fine-tuned on.
    """

    name: str
    encoder: Encoder
    zero_shot: ZeroShot | None
    spread: float
    trained_on: Sequence[str] = ()


def make_model(
    name: str,
    encoder: Encoder,
    classes: Sequence[str],
    templates: Sequence[str] | str,
    trained_on: Sequence[str] = (),
) -> Model:
    """A model with the classes that it is to choose among.

    Args:
        name: What it is called.
        encoder: The model.
        classes: Their names.
        templates: Prompts, see `clipshift.encode.texts.make_zero_shot`.
        trained_on: The augmentations that it was fine-tuned on.
    """
    try:
        zero_shot = make_zero_shot(encoder, [UNLABELLED], classes, templates)
    except UserError:  # its tokenizer is not available
        zero_shot = None
    return Model(name, encoder, zero_shot, clean_spread(encoder), trained_on)


@torch.inference_mode()
def clean_spread(encoder: Encoder) -> float:
    """The mean 1 − cosine between different built-in photographs, as ``spread`` in ``run.json``."""
    views = ViewDataset(sample(), {}, 0, RESIZE)
    clean = collate([views[index] for index in range(len(views))]).clean
    embeddings = encoder.encode_views(clean).embedding
    spread = CleanSpread(embeddings.shape[1], sync_on_compute=False)
    spread.update(embeddings)
    return float(spread.compute())


@torch.inference_mode()
def measure_photo(file: Path, model: Model, variants: Mapping[str, Variant], seed: int) -> Measured:
    """Measure a photograph: the numbers are those of `clipshift.measure_shift` on its file.

    Args:
        file: The photograph.
        model: The model.
        variants: Augmentations at a severity, by name.
        seed: Of every random draw.

    Returns:
        What was measured of it, its views and gazes, and the nearest classes. Its
        ``relative_shift`` is against the built-in photographs.

    Raises:
        UserError: If it cannot be read, or an augmentation cannot be applied at this severity.
    """
    photos = photos_of([file])
    augmentations = {variant.name: variant.augmentation for variant in variants.values()}
    strengths = strengths_of(variants.values())
    view = ViewDataset(photos, augmentations, seed, RESIZE, strengths=strengths)[0]
    if not isinstance(view, View):
        raise UserError(f"{photos[0].id} cannot be read: {view.reason}")
    module = ShiftEvaluation(
        model.encoder,
        variants,
        {"cosine_similarity": CosineSimilarity()},
        Records(file.parent),  # of which none are made
        RecordOptions(photos={kind: [0] for kind in ("views", "gazes", "nearest")}),
        zero_shot=model.zero_shot,
    )
    measured = module.measure_batch(collate([view]))
    for name in variants:
        shift = 1 - measured.values[name, "cosine_similarity"]
        measured.values[name, "relative_shift"] = shift / model.spread
    return measured


def nearest(measured: Measured, model: Model, view: str = CLEAN) -> list[tuple[str, float]]:
    """The names and cosines of the classes nearest to a photo's view; none without texts."""
    if model.zero_shot is None:
        return []
    kept = measured.nearest[view][0]
    return [(model.zero_shot.names[int(index)], float(cosine)) for index, cosine in kept]
