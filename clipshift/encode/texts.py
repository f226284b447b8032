"""Texts that belong to photos: the zero-shot classifier of their classes, and their captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from clipshift.data import Photo, class_labels, imagenet_name, spoken_names
from clipshift.encode.encoder import Encoder

OPENAI = "openai"
"""Instead of templates: the 80 of Radford et al. (CLIP, 2021) and open_clip's names of classes."""


@dataclass
class ZeroShot:
    """A zero-shot classifier and what it should say.

    Attributes:
        classifier: A unit vector for each class, float32, shape (D, C).
        targets: The class of each photo in the list, −1 for none, int64, shape (N,).
        names: What the model is asked for of each class, C of them.
    """

    classifier: Tensor
    targets: Tensor
    names: tuple[str, ...] = ()

    @property
    def top(self) -> tuple[int, ...]:
        """The k of the accuracies: of five classes or fewer, top-5 would say nothing."""
        return (1, 5) if self.classifier.shape[1] > 5 else (1,)


@dataclass
class Vocabulary:
    """Texts that views are compared with.

    Attributes:
        texts: What they say, T of them.
        embeddings: Their unit embeddings, float64, shape (T, D).
        logit_scale: What the model multiplies cosines by before a softmax over texts.
    """

    texts: Sequence[str]
    embeddings: np.ndarray
    logit_scale: float


def make_zero_shot(
    encoder: Encoder,
    photos: Sequence[Photo],
    classes: Sequence[str],
    templates: Sequence[str] | str,
) -> ZeroShot | None:
    """The zero-shot classifier of labelled photos; None where there is nothing to tell apart.

    Labels that read alike, but for case, underscores and spaces, are one class: the model is asked
    the same. A photo whose label is not among the classes is of the class of ImageNet that has this
    label, or that WordNet calls by it, or else of none.

    Args:
        encoder: The model.
        photos: The photos.
        classes: Labels or names of the classes.
        templates: Prompts with ``{}`` for the class. Or `OPENAI`: then classes of ImageNet are
            asked for by open_clip's names as well, so that the classifier of ``imagenet``'s 1,000
            (`candidate_classes`) is open_clip's own. It calls two classes "missile" and two
            "sunglasses": they stay apart, and such a photo is right by chance, in half of the
            cases.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    names = class_names(classes, templates)
    if len(names) < 2 or not templates:
        return None
    position = {reading: index for index, reading in enumerate(names)}
    return ZeroShot(
        _classifier(encoder, tuple(names.values()), tuple(prompt_templates(templates))),
        torch.tensor([class_of(photo.label, position) for photo in photos]),
        tuple(names.values()),
    )


def class_names(classes: Sequence[str], templates: Sequence[str] | str) -> dict[str, str]:
    """What the model is asked for of each class, by how its labels read; see `make_zero_shot`."""
    spoken = spoken_names() if templates == OPENAI else {}
    names: dict[str, str] = {}
    for label in class_labels(classes) if spoken else classes:
        names.setdefault(_reading(label), spoken.get(label) or label.replace("_", " "))
    return names


def prompt_templates(templates: Sequence[str] | str) -> list[str]:
    """Templates as texts with ``{}`` for the class.

    >>> len(prompt_templates(OPENAI)), prompt_templates(OPENAI)[0]
    (80, 'a bad photo of a {}.')
    """
    if templates == OPENAI:
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    return list(templates)


def class_of(label: str | None, position: Mapping[str, int]) -> int:
    """The class of a label, by the positions of `class_names`; −1 for none."""
    if label is None:
        return -1
    reading = _reading(label)
    return position.get(reading, position.get(_reading(imagenet_name(reading) or ""), -1))


def caption_embeddings(encoder: Encoder, photos: Sequence[Photo]) -> Tensor | None:
    """For each photo the mean of its captions' unit embeddings, (N, D); NaN where it has none.

    None where no photo has captions.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    texts = [text for photo in photos for text in photo.captions]
    if not texts:
        return None
    parts = _embeddings(encoder, tuple(texts)).split([len(photo.captions) for photo in photos])
    return torch.stack([rows.mean(dim=0) for rows in parts])


def _reading(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()


# The jobs of a sweep have the same texts.
@lru_cache(maxsize=2)
def _classifier(encoder: Encoder, classes: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
    return encoder.zero_shot_classifier(list(classes), list(templates))


@lru_cache(maxsize=2)
def _embeddings(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    return encoder.encode_texts(list(texts))
