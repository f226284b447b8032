"""An evaluation: what is measured, on which photos, with which model; and how it is carried out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from clipshift.augment import Augmentation, make_variants
from clipshift.augment.matching import Calibration
from clipshift.data import Cache, Photo, Resize, ViewDataset, is_wordnet_id, keyed_order
from clipshift.encode import (
    NAMES,
    Encoder,
    FeatureCache,
    Vocabulary,
    ZeroShot,
    caption_embeddings,
    make_zero_shot,
    prompt_templates,
)
from clipshift.errors import UserError
from clipshift.evaluate.calibration import DISTORTIONS, matched_strengths, save_calibration
from clipshift.evaluate.elasticity import ELASTICITY_PHOTOS
from clipshift.evaluate.floor import precision_floor
from clipshift.evaluate.inside import inside_tables
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.module import Keep, ShiftEvaluation
from clipshift.evaluate.tables import AUTO, make_run
from clipshift.measure import PhotoMeasure
from clipshift.results import (
    GAZED_PHOTOS,
    KEPT,
    ROWS,
    SHOWN_PHOTOS,
    Records,
    Run,
    clear_results,
    shown_photos,
    write_nearest,
    write_run,
    write_tensors,
)
from clipshift.versions import provenance

TOKEN_PHOTOS = 500
"""Of so many photos at random the mean patch tokens are kept, for the intervals of CKA."""


@dataclass
class Evaluation:
    """What is measured, on which photos, and with which model.

    Attributes:
        photos: The photos to measure.
        classes: The classes to choose among: those of all photos in their source, or others.
        encoder: The model.
        augmentations: By name.
        ladders: Strengths at severity 1 to 5, by augmentation.
        severities: ``paper``, ``1`` to ``5``, ``matched``.
        measures: By name.
        templates: Prompts with ``{}`` for the class, or ``openai``, see
            `clipshift.encode.make_zero_shot`; none leave zero-shot measures out.
        seed: Of every random draw.
        resize: How photos become views, see `clipshift.data.clean_view`.
        calibration: Where ``matched`` is among the severities.
        reference: The same model in float32, where the encoder's precision is lower: it encodes the
            first photos as well, to see what that costs.
        layers: Whether to measure the shift of every layer.
        inside: Whether to see what happens inside the space of embeddings, see
            `clipshift.evaluate.inside.inside_tables`.
        attributes: What views may look like, to name what they move towards.
        gallery: How many photos at random a view must find its own among.
        resample: What intervals take as drawn at random: ``photos``, ``classes``, or ``auto``, see
            `clipshift.evaluate.tables.resampling`.
        save_embeddings: Whether to write all embeddings.
        save_views: Of how many first photos to write the views.
        save_gaze: Of how many first photos to write the gazes.
        save_gaze_heads: Of how many first photos to write the gazes of each attention head.
        notes: What limits the numbers, a sentence each.
    """

    photos: Sequence[Photo]
    classes: Sequence[str]
    encoder: Encoder
    augmentations: Mapping[str, Augmentation]
    ladders: Mapping[str, Sequence[float]]
    severities: Sequence[str]
    measures: Mapping[str, PhotoMeasure]
    templates: Sequence[str] | str
    seed: int
    resize: Resize
    calibration: Calibration | None = None
    reference: Encoder | None = None
    layers: bool = False
    inside: bool = False
    attributes: Sequence[str] = ()
    gallery: int = 1000
    resample: str = AUTO
    save_embeddings: bool = False
    save_views: int = 0
    save_gaze: int = 0
    save_gaze_heads: int = 0
    notes: list[str] = field(default_factory=list)

    def views(self, cache: Cache | None = None) -> ViewDataset:
        """The photos' views, and what is drawn for them."""
        return ViewDataset(self.photos, self.augmentations, self.seed, self.resize, cache)

    def texts(self) -> tuple[ZeroShot | None, Tensor | None]:
        """The classifier of the photos' classes, and their captions' embeddings.

        None where there are none, or where the encoder's tokenizer cannot be had, which is noted.
        """
        zero_shot = captions = None
        try:
            zero_shot = make_zero_shot(self.encoder, self.photos, self.classes, self.templates)
            captions = caption_embeddings(self.encoder, self.photos)
        except UserError as error:
            self.notes.append(f"Measures with text are left out: {error}.")
        targets = zero_shot.targets.tolist() if zero_shot else []
        unknown = sum(t < 0 for t, p in zip(targets, self.photos, strict=False) if p.label)
        if unknown:
            self.notes.append(
                f"Photos whose label is not among the classes of zero_shot.classes: {unknown} of "
                f"{len(self.photos)}. They have no zero-shot accuracy."
            )
        labels = [photo.label for photo in self.photos if photo.left_out is None]
        if zero_shot and 0 < (without := labels.count(None)) < len(labels):
            self.notes.append(
                f"Photos without a label: {without} of {len(labels)}. They have no zero-shot "
                "accuracy."
            )
        if len(self.classes) == 1 and self.templates:
            self.notes.append(
                f"Zero-shot accuracies are left out: they require two classes, and the photos have "
                f"one, {self.classes[0]}. Set zero_shot.classes."
            )
        unnamed = [label for label in self.classes if is_wordnet_id(label)]
        if zero_shot and unnamed:
            prompt = prompt_templates(self.templates)[0].format(unnamed[0])
            self.notes.append(
                f"Classes that look like WordNet ids and have no known name: {len(unnamed)} of "
                f"{len(self.classes)}. The model was asked for “{prompt}”."
            )
        return zero_shot, captions

    def vocabularies(self, zero_shot: ZeroShot | None) -> dict[str, Vocabulary]:
        """What views may move towards: the ``classes``, and the ``attributes``.

        The attributes are left out, and that is noted, where the encoder knows only names, or its
        tokenizer cannot be had.
        """
        found, scale = {}, self.encoder.logit_scale
        if zero_shot is not None:
            rows = zero_shot.classifier.double().cpu().numpy().T
            found["classes"] = Vocabulary(zero_shot.names, rows, scale)
        if self.attributes and self.encoder.text == NAMES:
            self.notes.append(
                "What views move towards is named by classes alone: the model's text side knows "
                f"only names, and the {len(self.attributes)} attributes would say nothing to it."
            )
        elif self.attributes:
            try:
                rows = self.encoder.encode_texts(list(self.attributes)).double().cpu().numpy()
                found["attributes"] = Vocabulary(tuple(self.attributes), rows, scale)
            except UserError as error:
                self.notes.append(f"The attributes are left out: {error}.")
        return found


def run_evaluation(
    evaluation: Evaluation,
    records: Records,
    trainer: pl.Trainer,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    batch_size: int,
    num_workers: int | None,
    cache: Cache | None = None,
) -> Run | None:
    """Measure what the records do not hold yet, and write all that a run writes but its report.

    Args:
        evaluation: What to measure.
        records: Where what is measured goes first, so that nothing of it is ever lost.
        trainer: Carries it out.
        folder: The run's folder.
        facts: What else ``run.json`` should say: ``model``, with its name, and ``precision`` at
            least.
        batch_size: Photos at once. The numbers do not depend on it.
        num_workers: Processes that read photos, see `ViewData`. Nor on this.
        cache: Where decoded photos and clean views' features are kept for other runs.

    Returns:
        The run; None on other processes than the first.

    Raises:
        UserError: If no photo can be read. What was measured before an interruption is written
            all the same.
    """
    start, started = time.perf_counter(), datetime.now().astimezone()
    encoder, photos = evaluation.encoder, evaluation.photos
    calibration = evaluation.calibration
    strengths = {}
    if calibration:
        strengths = matched_strengths(
            calibration, evaluation.augmentations, photos, evaluation.seed
        )
    variants = make_variants(
        evaluation.augmentations, evaluation.ladders, evaluation.severities, strengths
    )
    zero_shot, texts = evaluation.texts()
    vocabularies = evaluation.vocabularies(zero_shot) if evaluation.inside else {}
    device = device_name(trainer.strategy.root_device)
    key = f"features {encoder.fingerprint} {device} {evaluation.resize} {evaluation.layers}"
    cacheable = encoder.cacheable and not evaluation.save_gaze_heads
    module = ShiftEvaluation(
        encoder,
        variants,
        evaluation.measures,
        records,
        Keep(
            embeddings=evaluation.save_embeddings or evaluation.inside,
            gallery=frozenset(keyed_order(photos, "sample")[: evaluation.gallery]),
            views=evaluation.save_views,
            gaze=max(evaluation.save_gaze, GAZED_PHOTOS),
            heads=evaluation.save_gaze_heads,
            tokens=frozenset(
                keyed_order(photos, "sample")[:TOKEN_PHOTOS] if evaluation.inside else ()
            ),
            weaker=frozenset(keyed_order(photos, "sample")[:ELASTICITY_PHOTOS]),
        ),
        zero_shot=zero_shot,
        texts=texts,
        features=FeatureCache(cache, key) if cache is not None and cacheable else None,
        reference=evaluation.reference,
        distortion=DISTORTIONS[calibration.distortion] if calibration else None,
        layers=evaluation.layers,
    )
    data = ViewData(evaluation.views(cache), batch_size, num_workers, records, evaluation.layers)
    run = None
    try:
        trainer.test(module, data, verbose=False)
        records.gather()
    finally:
        if evaluation.layers and not module.in_step:
            module.write_sums()
        kinds: tuple[str, ...] = (*ROWS, *KEPT)
        if module.keep.embeddings:
            kinds += ("embeddings",)
        measured = records.read(*kinds) if trainer.is_global_zero else None
        if measured is not None and measured.photos:
            clear_results(folder)
            if calibration:
                save_calibration(folder, calibration)
            complete = len(measured.photos) == len(photos)
            spent = {"photos": time.perf_counter() - start, **measured.seconds}
            seconds = {name: round(value, 3) for name, value in spent.items()}

            def inside(groups: np.ndarray | None) -> dict[str, pd.DataFrame]:
                begun = time.perf_counter()
                made = inside_tables(
                    measured, photos, variants, evaluation.seed, vocabularies, groups
                )
                seconds["inside"] = round(time.perf_counter() - begun, 3)
                return made

            known = {
                **facts,
                "complete": complete,
                "model": facts["model"] | model_facts(encoder),
                "data": {
                    "classes": list(evaluation.classes),
                    "prompts": evaluation.templates,
                },
                "seed": evaluation.seed,
                "device": device,
                "floor": precision_floor(measured, variants),
                "seconds": seconds,
                "started": started.isoformat(timespec="seconds"),
                "notes": evaluation.notes,
                **provenance(),
            }
            run = make_run(
                folder, measured, records, photos, variants, module.columns,
                evaluation.seed, known, inside if evaluation.inside else None, calibration,
                evaluation.resample,
            )  # fmt: skip
            if not evaluation.save_embeddings:
                measured.embeddings.clear()
            shown = shown_photos(run.rows, SHOWN_PHOTOS)
            run.facts["data"]["shown_sha256"] = {
                photos[index].id: digest.tobytes().hex()
                for index, digest in zip(measured.index, measured.digests, strict=True)
                if photos[index].id in shown
            }
            write_tensors(
                folder, measured, photos, evaluation.save_views, evaluation.save_gaze,
                shown, evaluation.save_gaze_heads,
            )  # fmt: skip
            if zero_shot:
                write_nearest(folder, measured, photos, zero_shot.names, shown)
            write_run(run)  # last: a run is complete by its run.json
    if run is not None and run.rows.empty:
        raise UserError(
            f"none of the {len(photos)} photos could be read "
            f"(the first: {run.skipped['reason'].iloc[0]}); "
            f"all are listed in {folder / 'skipped.csv'}"
        )
    return run


def model_facts(encoder: Encoder) -> dict[str, Any]:
    """What ``run.json`` says of a model's weights and of what it is given."""
    return {
        "trained": encoder.trained,
        "weights_sha256": encoder.weights_sha256,
        "fingerprint": encoder.fingerprint,
        "preprocessing": encoder.preprocessing,
        "gaze": encoder.probe.kind if encoder.probe else None,
        "gaze_layer": encoder.probe.layer if encoder.probe else None,
        "text": encoder.text,
    }


def device_name(device: torch.device) -> str:
    """What the encoder ran on, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
