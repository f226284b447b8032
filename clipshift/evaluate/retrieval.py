"""Whether captions still find the photo that they describe, and photos their captions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from clipshift.measure.embeddings import RANKS, recall_hits
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import share_interval
from clipshift.results.measured import CLEAN
from clipshift.results.table import PhotoSample


def retrieval_table(sample: PhotoSample, captions: Sequence[Tensor]) -> pd.DataFrame:
    """Recall@k from captions to photos and back, clean and under each variant.

    Photos and captions are those of the gallery's photos that have captions. A k that is not below
    the number of candidates is left out: everything is found.

    Args:
        sample: What was measured, the gallery's embeddings among it.
        captions: The embeddings of every photo's captions, shape (captions, D) each.

    Returns:
        One row per (augmentation, severity, task, k); empty for fewer than two such photos.
        Intervals are over photos, whose captions are drawn together (`share_interval`).
    """
    gallery, ordered = sample.measured.gallery, sample.measured.index[sample.order]
    places = [p for p, i in enumerate(ordered) if i in gallery.get(CLEAN, ()) and len(captions[i])]
    chosen, photos = ordered[places], np.arange(len(places))
    rows: list[tuple[object, ...]] = []
    if len(places) < 2:
        return pd.DataFrame(rows, columns=list(DEFINITIONS["retrieval"]))
    groups = photos if sample.groups is None else sample.groups[places]
    texts = np.concatenate([captions[index].cpu().numpy() for index in chosen])
    owners = np.repeat(photos, [len(captions[index]) for index in chosen])
    for view, name, severity in sample.views:
        images = np.stack([gallery[view][index] for index in chosen])
        for task, queries, candidates, wanted, of in (
            ("text-to-image", texts, images, owners, photos),
            ("image-to-text", images, texts, photos, owners),
        ):
            every = recall_hits(queries, candidates, wanted, of)
            for k, hits in zip(RANKS, every, strict=True):
                found, of_photo = hits[~np.isnan(hits)], wanted[~np.isnan(hits)]
                if not len(found) or k >= len(candidates):
                    continue
                # where all are alike, captions of one photo would count as independent ones
                first = np.unique(groups[of_photo], return_index=True)[1]
                used = slice(None) if np.ptp(found) else first
                ends = share_interval(found[used], groups[of_photo][used])
                n = len(np.unique(of_photo))
                rows.append((name, severity, task, k, len(candidates), found.mean(), *ends, n))
    return pd.DataFrame(rows, columns=list(DEFINITIONS["retrieval"]))
