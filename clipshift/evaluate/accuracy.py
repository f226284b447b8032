"""Zero-shot classification of photos as they are, without augmentations."""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl

from clipshift.data import Batch, ViewDataset
from clipshift.encode import Encoder, ZeroShot
from clipshift.evaluate.loading import ViewData
from clipshift.measure.functional import unit
from clipshift.measure.zero_shot import zero_shot_hit
from clipshift.results import CLEAN, Measured, Records


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


class Classification(pl.LightningModule):
    """Names the clean view of every photo; what it finds of a batch goes to the records at once.

    Args:
        encoder: The encoder.
        zero_shot: The classifier, and the photos' classes.
        records: Where what is measured goes.
    """

    def __init__(self, encoder: Encoder, zero_shot: ZeroShot, records: Records) -> None:
        super().__init__()
        self.encoder, self.zero_shot, self.records = encoder, zero_shot, records

    def test_step(self, batch: Batch) -> None:
        if not len(batch.index) and not batch.skipped:
            return
        measured = Measured(skipped=batch.skipped)
        if len(batch.index):
            embedding = self.encoder.encode_views(batch.clean).embedding
            classifier = self.zero_shot.classifier.to(self.device)
            target = self.zero_shot.targets[batch.index.cpu()].to(self.device)
            cosines = unit(embedding) @ classifier.double()
            own = cosines.gather(1, target.clamp(min=0)[:, None])[:, 0]
            values = {
                "zero_shot_top1": zero_shot_hit(embedding, classifier, target, k=1),
                "cosine_with_class": own.masked_fill(target < 0, float("nan")),
            }
            measured.index = batch.index.cpu().numpy()
            measured.values = {(CLEAN, n): v.double().cpu().numpy() for n, v in values.items()}
        self.records.add(measured)


def measure_accuracy(
    encoder: Encoder,
    zero_shot: ZeroShot,
    views: ViewDataset,
    records: Records,
    trainer: pl.Trainer,
    *,
    batch_size: int,
    num_workers: int | None,
) -> CleanAccuracy | None:
    """Classify photos that the records do not hold yet, and take the means over all.

    Args:
        encoder: The model.
        zero_shot: The classifier, and the photos' classes.
        views: The photos' clean views; nothing need be drawn for them.
        records: Where what is measured goes, so that a run that is stopped can go on.
        trainer: Carries it out.
        batch_size: Photos at once. The numbers do not depend on it.
        num_workers: Processes that read photos, see `ViewData`. Nor on this.

    Returns:
        The means; None on other processes than the first.
    """
    module = Classification(encoder, zero_shot, records)
    trainer.test(module, ViewData(views, batch_size, num_workers, records), verbose=False)
    records.gather()
    if not trainer.is_global_zero:
        return None
    values = records.read("values").values
    hits = values.get((CLEAN, "zero_shot_top1"), np.empty(0))
    known = np.isfinite(hits)
    if not known.any():
        return CleanAccuracy(float("nan"), float("nan"), 0)
    cosines = values[CLEAN, "cosine_with_class"]
    return CleanAccuracy(float(hits[known].mean()), float(cosines[known].mean()), int(known.sum()))
