"""Texts that belong to photos: the zero-shot classifier of their classes, and their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clipshift.data import Photo, imagenet_name
from clipshift.encode.encoder import Encoder


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


def make_zero_shot(
    encoder: Encoder, photos: Sequence[Photo], classes: Sequence[str], templates: Sequence[str]
) -> ZeroShot | None:
    """The zero-shot classifier of labelled photos; None where there is nothing to tell apart.

    Labels that read alike, but for case, underscores and spaces, are one class: the model is asked
    the same. A photo whose label is not among the classes is of the class of ImageNet that WordNet
    calls by its label, or else of none.

    Raises:
        UserError: If the encoder's tokenizer cannot be had.
    """
    names: dict[str, str] = {}
    for label in classes:
        names.setdefault(_reading(label), label.replace("_", " "))
    if len(names) < 2 or not templates:
        return None
    position = {reading: index for index, reading in enumerate(names)}
    return ZeroShot(
        _classifier(encoder, tuple(names.values()), tuple(templates)),
        torch.tensor([_target(photo.label, position) for photo in photos]),
        tuple(names.values()),
    )


def _target(label: str | None, position: dict[str, int]) -> int:
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
