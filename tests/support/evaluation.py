"""An evaluation in this process, without files of a run."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from clipshift.augment.keyed import Augmentation
from clipshift.augment.variants import Variant, make_variants
from clipshift.data.cache import Cache
from clipshift.data.dataset import ViewDataset
from clipshift.data.photos import Photo
from clipshift.encode.encoder import Encoder
from clipshift.encode.texts import caption_embeddings
from clipshift.evaluate.gallery import add_of_gallery, gallery_values
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.module import RecordOptions, ShiftEvaluation
from clipshift.measure.metrics import (
    SSIM,
    AttentionSimilarity,
    AttentionSimilarityAligned,
    CosineSimilarity,
    DetailPreservation,
    EdgePreservation,
    GazeDivergenceAligned,
    L2Distance,
    PatchSimilarity,
    PhotoMeasure,
)
from clipshift.results.measured import Measured
from clipshift.results.records import Records
from clipshift.results.table import shift_table
from support.augmentations import augmentations_named, ladders

MEASURES = {
    "cosine_similarity": CosineSimilarity,
    "l2_distance": L2Distance,
    "attention_similarity": AttentionSimilarity,
    "attention_similarity_aligned": AttentionSimilarityAligned,
    "gaze_divergence_aligned": GazeDivergenceAligned,
    "patch_similarity": PatchSimilarity,
    "edge_preservation": EdgePreservation,
    "detail_preservation": DetailPreservation,
    "ssim": SSIM,
}


def run_module(
    encoder: Encoder,
    variants: dict[str, Variant],
    measures: dict[str, PhotoMeasure],
    dataset: ViewDataset,
    batch_size: int,
    num_workers: int = 0,
    keep: RecordOptions | None = None,
    layers: bool = False,
    **inputs: Any,
) -> tuple[Records, ShiftEvaluation]:
    """Run the Lightning module; return its records and the module."""
    records = Records(Path(tempfile.mkdtemp()))
    records.begin({}, restart=True)
    module = ShiftEvaluation(
        encoder, variants, measures, records, keep or RecordOptions(), layers=layers, **inputs
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ViewData(dataset, batch_size, num_workers, records, layers)
    trainer.test(module, data, verbose=False)
    return records, module


def measure(
    encoder: Encoder,
    photos: list[Photo],
    augmentations: Sequence[str] | dict[str, Augmentation],
    batch_size: int = 64,
    num_workers: int = 0,
    seed: int = 0,
    severities: Sequence[str] = ("paper",),
    cache: Cache | None = None,
    gallery: Collection[int] = (),
    captions: bool = False,
    draws: int = 1,
    **inputs: Any,
) -> tuple[pd.DataFrame, ShiftEvaluation, Measured]:
    """Measure photos under augmentations; return the table, the module and all that it measured."""
    chosen = augmentations
    if not isinstance(chosen, dict):
        chosen = augmentations_named(*augmentations)
    variants = make_variants(chosen, ladders(), severities, {})
    records, module = run_module(
        encoder,
        variants,
        {name: kind() for name, kind in MEASURES.items()},
        ViewDataset(photos, chosen, seed, "squash", cache, draws=draws),
        batch_size,
        num_workers,
        RecordOptions(photos={"gallery": gallery}),
        texts=caption_embeddings(encoder, photos) if captions else None,
        draws=draws,
        **inputs,
    )
    measured = records.read()
    add_of_gallery(measured, gallery_values(measured, photos))
    return shift_table(measured, photos, variants), module, measured
