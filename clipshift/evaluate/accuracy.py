"""Zero-shot accuracy on clean views, of an evaluation without augmentations."""

from dataclasses import dataclass

import torch

from clipshift.encode.texts import ZeroShot
from clipshift.measure.functional import unit
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.results.measured import CLEAN
from clipshift.results.records import Records


@dataclass(frozen=True)
class CleanAccuracy:
    """How well a model names photos as they are.

    Attributes:
        top1: Share of the photos whose class has the highest cosine, in [0, 1].
        cosine: Mean cosine of a photo and its class, in [-1, 1].
        photos: Over how many photos: those that could be read and have a class.
    """

    top1: float
    cosine: float
    photos: int


def clean_accuracy(records: Records, zero_shot: ZeroShot) -> CleanAccuracy:
    """Classify the clean views that were embedded.

    Args:
        records: What a `ShiftEvaluation` measured.
        zero_shot: The classifier, and the photos' classes.
    """
    classifier = zero_shot.classifier.cpu()
    hits, cosines = [torch.empty(0)], [torch.empty(0, dtype=torch.double)]
    for batch in records.parts("embeddings"):
        embedding = torch.from_numpy(batch.embeddings[CLEAN])
        target = zero_shot.targets[batch.index]
        hits.append(zero_shot_hit(embedding, classifier, target, k=1))
        by_class = unit(embedding) @ classifier.double()
        cosines.append(by_class.gather(1, target.clamp(min=0)[:, None])[:, 0])
    has_class = torch.cat(hits).isfinite()
    top1, cosine = (
        float(torch.cat(values)[has_class].double().numpy().mean())
        if has_class.any()
        else float("nan")
        for values in (hits, cosines)
    )
    return CleanAccuracy(top1, cosine, int(has_class.sum()))
