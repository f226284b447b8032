"""Embeddings of texts: the zero-shot classifier of the photos' classes, and their captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from clipshift.data.classes import OPENAI, class_names, class_of
from clipshift.data.photos import Photo
from clipshift.encode.encoder import Encoder

SINGLE_TEMPLATES = 8
"""The most templates, evenly spread over their list, whose own classifiers are kept as well."""


@dataclass
class ZeroShot:
    """A zero-shot classifier and the classes of photos.

    Attributes:
        classifier: A unit vector for each class, float32, shape (D, C).
        targets: The class of each photo in the list, −1 for none, int64, shape (N,).
        names: The name of each class in the prompts, C of them.
        single: Classifiers of single templates, by template, each as ``classifier``.
    """

    classifier: Tensor
    targets: Tensor
    names: tuple[str, ...] = ()
    single: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def top(self) -> tuple[int, ...]:
        """The k of the top-k accuracies: top-5 is meaningless for five classes or fewer."""
        return (1, 5) if self.classifier.shape[1] > 5 else (1,)


@dataclass
class Vocabulary:
    """Texts that views are compared with.

    Attributes:
        texts: The T texts.
        embeddings: Their unit embeddings, float64, shape (T, D).
        logit_scale: The model's factor on cosines before a softmax over texts.
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
    """The zero-shot classifier of labelled photos; None for fewer than two classes.

    Labels that differ only in case, underscores and spaces are one class. A photo whose label is
    not among the classes belongs to the class of ImageNet that has this label or WordNet lemma, if
    there is one.

    Args:
        encoder: The model.
        photos: The photos.
        classes: Labels or names of the classes.
        templates: Prompts with ``{}`` for the class; or `OPENAI`, which also uses open_clip's names
            of ImageNet's classes, so that the classifier of ``imagenet``'s 1,000 classes
            (`candidate_classes`) equals open_clip's. open_clip calls two classes "missile" and two
            "sunglasses": they remain two classes, and a photo of one of them counts as correct with
            a probability of one half.

    Raises:
        UserError: If the encoder's tokenizer cannot be loaded.
    """
    names = class_names(classes, templates)
    if len(names) < 2 or not templates:
        return None
    position = {key: index for index, key in enumerate(names)}
    classifier, single = _classifiers(
        encoder, tuple(names.values()), tuple(prompt_templates(templates))
    )
    targets = torch.tensor([class_of(photo.label, position) for photo in photos])
    return ZeroShot(classifier, targets, tuple(names.values()), single)


def prompt_templates(templates: Sequence[str] | str) -> list[str]:
    """Prompts with ``{}`` for the class.

    >>> len(prompt_templates(OPENAI)), prompt_templates(OPENAI)[0]
    (80, 'a bad photo of a {}.')
    """
    if templates == OPENAI:
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    return list(templates)


def each_caption(encoder: Encoder, photos: Sequence[Photo]) -> Sequence[Tensor]:
    """The unit embeddings of each photo's captions, N of shape (captions, D); none without any.

    Raises:
        UserError: If the encoder's tokenizer cannot be loaded.
    """
    texts = [text for photo in photos for text in photo.captions]
    if not texts:
        return []
    return _text_embeddings(encoder, tuple(texts)).split([len(p.captions) for p in photos])


def caption_embeddings(encoder: Encoder, photos: Sequence[Photo]) -> Tensor | None:
    """The mean of `each_caption` of a photo, (N, D); NaN for photos without captions.

    Returns:
        None if no photo has captions.

    Raises:
        UserError: If the encoder's tokenizer cannot be loaded.
    """
    rows = each_caption(encoder, photos)
    return torch.stack([of_photo.mean(dim=0) for of_photo in rows]) if rows else None


# Cached because the jobs of a sweep use the same texts.
@lru_cache(maxsize=2)
def _classifiers(
    encoder: Encoder, classes: tuple[str, ...], templates: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    prompts: list[Tensor] = []
    classifier = encoder.zero_shot_classifier(list(classes), list(templates), prompts)
    by_class = torch.cat(prompts).float().unflatten(0, (len(classes), len(templates)))
    chosen = range(0, len(templates), -(-len(templates) // SINGLE_TEMPLATES))
    return classifier, {templates[place]: by_class[:, place].T.clone() for place in chosen}


@lru_cache(maxsize=2)
def _text_embeddings(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    return encoder.encode_texts(list(texts))
