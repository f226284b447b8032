"""An evaluation: what is measured, on which photos, with which model; measure, tabulate, write."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from clipshift.augment.chain import Chain
from clipshift.augment.keyed import Augmentation
from clipshift.augment.matching import Calibration
from clipshift.augment.variants import Variant, make_variants, strengths_of
from clipshift.choices import CONF, NAMES
from clipshift.data.cache import Cache
from clipshift.data.classes import read_lines
from clipshift.data.dataset import NATIVE, Resize, ViewDataset, native_resize, view_size
from clipshift.data.photos import Photo, keyed_order, measurable
from clipshift.data.wordnet import is_wordnet_id
from clipshift.encode.encoder import Encoder
from clipshift.encode.feature_cache import FeatureCache
from clipshift.encode.texts import (
    Vocabulary,
    ZeroShot,
    caption_embeddings,
    each_caption,
    make_zero_shot,
    prompt_templates,
)
from clipshift.errors import UserError
from clipshift.evaluate.attack import ATTACK, Attack, attack_tables
from clipshift.evaluate.calibration import distortion_of, matched_strengths
from clipshift.evaluate.decisions import decision_tables
from clipshift.evaluate.dissect import component_table, location_table, patching_table
from clipshift.evaluate.elasticity import ELASTICITY_PHOTOS, WEAKER
from clipshift.evaluate.encoded import LEAST_PHOTOS, encoded_table
from clipshift.evaluate.faithfulness import faithfulness_tables, random_maps
from clipshift.evaluate.floor import FLOOR_PHOTOS, precision_floor
from clipshift.evaluate.gallery import clean_spread
from clipshift.evaluate.head_texts import SPANNED_PHOTOS, head_text_table
from clipshift.evaluate.inside import inside_tables
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.module import RecordOptions, ShiftEvaluation
from clipshift.evaluate.retrieval import retrieval_table
from clipshift.evaluate.tables import make_run
from clipshift.measure.metrics import CosineSimilarity, PhotoMeasure
from clipshift.options import EvaluateOptions
from clipshift.progress import Progress
from clipshift.results.columns import DEFINITIONS
from clipshift.results.files import write_json
from clipshift.results.kept import GAZED_PHOTOS, write_nearest, write_tensors
from clipshift.results.measured import KEPT, ROWS, Measured
from clipshift.results.records import Records
from clipshift.results.runs import CALIBRATION, Run, clear_results, write_run
from clipshift.results.table import PhotoSample
from clipshift.severities import MATCHED
from clipshift.versions import provenance

NO_COMPONENTS = (
    "Heads and MLPs are left out: only the embedding of a ViT of pre-norm blocks is the sum of "
    "what they write. In convolutional towers, stages are patched instead."
)
NO_SENTENCES = "Heads are not described by texts: this model has no text tower for sentences."
TOKEN_PHOTOS = 500
"""The number of photos at random whose mean patch tokens are kept, for the intervals of CKA."""


@dataclass
class Evaluation:
    """What is measured, on which photos, and with which model.

    Attributes:
        options: What is asked for.
        photos: The photos to measure.
        classes: The classes to choose among: those of all photos in their source, or others.
        encoder: The model.
        augmentations: By name.
        ladders: Strengths at severity 1 to 5, by augmentation.
        measures: By name.
        templates: Prompts with ``{}`` for the class, or ``openai``, see
            `clipshift.encode.texts.make_zero_shot`; none leave zero-shot measures out.
        config: All options, and what the parts are made from, as ``run.json`` records them.
        reference: The same model in float32, where the encoder's precision is lower: it encodes the
            first photos as well, to see what that costs.
        calibration: Where ``matched`` is among the severities.
        notes: What limits the numbers, a sentence each.
        redraws: The key of the jobs of a sweep that differ from this one in the number of draws
            alone, and so share what they measure of further draws.
    """

    options: EvaluateOptions
    photos: Sequence[Photo]
    classes: Sequence[str]
    encoder: Encoder
    augmentations: Mapping[str, Augmentation]
    ladders: Mapping[str, Sequence[float]]
    measures: Mapping[str, PhotoMeasure]
    templates: Sequence[str] | str
    config: Mapping[str, Any]
    reference: Encoder | None = None
    calibration: Calibration | None = None
    notes: Sequence[str] = ()
    redraws: str | None = None

    @property
    def severities(self) -> list[str]:
        """The severities, each as text."""
        severity = self.options.severity
        return [str(one) for one in (severity if isinstance(severity, list) else [severity])]

    @cached_property
    def resize(self) -> Resize:
        """How photos become views, see `resize_for`."""
        return resize_for(self.encoder, self.options.data.resize)

    def views(self, cache: Cache | None = None) -> ViewDataset:
        """The photos' views, and what is drawn for them."""
        parts, options = self.augmentations, self.options
        chained = any(isinstance(part, Chain) for part in parts.values())
        variants = self.variants().values() if chained else []
        matched = [v for v in variants if v.severity == MATCHED]
        weaker = [replace(v, strength=WEAKER * v.strength) for v in matched]  # for the elasticity
        how = options.seed, self.resize, cache, strengths_of([*variants, *weaker]), options.draws
        return ViewDataset(self.photos, parts, *how)

    def variants(self) -> dict[str, Variant]:
        """The augmentations at their severities, by view name."""
        augmentations, strengths = self.augmentations, {}
        if self.calibration:
            seed = self.options.seed
            strengths = matched_strengths(self.calibration, augmentations, self.photos, seed)
        return make_variants(augmentations, self.ladders, self.severities, strengths)


@dataclass(frozen=True)
class Texts:
    """The texts that embeddings are compared with.

    Attributes:
        zero_shot: The classifier of the photos' classes; None without classes.
        captions: For each photo the mean embedding of its captions, shape (N, D); None without.
        vocabularies: What views may move towards, by name.
        notes: What limits them, a sentence each.
        of_heads: The texts that name heads; None where heads are not named.
    """

    zero_shot: ZeroShot | None
    captions: Tensor | None
    vocabularies: Mapping[str, Vocabulary]
    notes: Sequence[str]
    of_heads: Vocabulary | None = None


def encode_texts(evaluation: Evaluation) -> Texts:
    """Encode what an evaluation compares embeddings with.

    Texts are left out, and that is noted, where the encoder's tokenizer cannot be loaded.
    """
    encoder, photos, notes = evaluation.encoder, evaluation.photos, []
    zero_shot = captions = None
    try:
        zero_shot = make_zero_shot(encoder, photos, evaluation.classes, evaluation.templates)
        captions = caption_embeddings(encoder, photos)
    except UserError as error:
        notes.append(f"Measures with text are left out: {error}.")
    notes += class_notes(evaluation, zero_shot)
    options = evaluation.options
    vocabularies, of_heads = dict[str, Vocabulary](), None
    if options.dissect and encoder.components is None:
        notes.append(NO_COMPONENTS)
    elif options.dissect and (encoder.text == NAMES or encoder.tokenizer is None):
        notes.append(NO_SENTENCES)
    elif options.dissect:
        lines = read_lines(options.vocabulary or CONF / "vocabulary.txt", "vocabulary")
        listed = list(dict.fromkeys([*options.attributes, *lines]))  # once in their mean
        of_heads, more = encode_attributes(encoder, listed)
        notes += more
    if options.dissect and min(len(photos), options.gallery) < LEAST_PHOTOS:
        notes.append(f"What embeddings encode is left out: it takes {LEAST_PHOTOS} photos.")
    if options.inside:
        if zero_shot:
            rows = zero_shot.classifier.double().cpu().numpy().T
            vocabularies["classes"] = Vocabulary(zero_shot.names, rows, encoder.logit_scale)
        attributes, more = encode_attributes(encoder, options.attributes)
        vocabularies |= {"attributes": attributes} if attributes else {}
        notes += more
    return Texts(zero_shot, captions, vocabularies, notes, of_heads)


def class_notes(evaluation: Evaluation, zero_shot: ZeroShot | None) -> Iterator[str]:
    """What limits zero-shot accuracies: labels without a class, photos without a label."""
    photos, classes = evaluation.photos, evaluation.classes
    targets = zero_shot.targets.tolist() if zero_shot else []
    if unknown := sum(t < 0 for t, p in zip(targets, photos, strict=False) if p.label):
        yield (
            f"Photos whose label is not among the classes of zero_shot.classes: {unknown} of "
            f"{len(photos)}. They have no zero-shot accuracy."
        )
    labels = [photo.label for photo in measurable(photos)]
    if zero_shot and 0 < (without := labels.count(None)) < len(labels):
        yield (
            f"Photos without a label: {without} of {len(labels)}. They have no zero-shot accuracy."
        )
    if len(classes) == 1 and evaluation.templates:
        yield (
            f"Zero-shot accuracies are left out: they require two classes, and the photos have "
            f"one, {classes[0]}. Set zero_shot.classes."
        )
    if zero_shot and (unnamed := [label for label in classes if is_wordnet_id(label)]):
        prompt = prompt_templates(evaluation.templates)[0].format(unnamed[0])
        yield (
            f"Classes that look like WordNet ids and have no known name: {len(unnamed)} of "
            f"{len(classes)}. The model was asked for “{prompt}”."
        )


def encode_attributes(
    encoder: Encoder, attributes: Sequence[str]
) -> tuple[Vocabulary | None, list[str]]:
    """Sentences on how photos can look, and notes.

    They are left out, and that is noted, where the encoder knows only names, or its tokenizer
    cannot be loaded.
    """
    if not attributes:
        return None, []
    if encoder.text == NAMES:
        return None, [
            "What views move towards is named by classes alone: the model's text side knows only "
            f"names, and the {len(attributes)} attributes would say nothing to it."
        ]
    try:
        rows = encoder.encode_texts(list(attributes)).double().cpu().numpy()
    except UserError as error:
        return None, [f"The attributes are left out: {error}."]
    return Vocabulary(tuple(attributes), rows, encoder.logit_scale), []


def run_evaluation(
    evaluation: Evaluation,
    records: Records,
    trainer: pl.Trainer,
    folder: Path,
    facts: Mapping[str, Any],
    cache: Cache | None = None,
) -> Run | None:
    """Measure what the records do not hold yet, and write all that a run writes but its report.

    Args:
        evaluation: What to measure.
        records: Where what is measured goes first, so that nothing of it is ever lost.
        trainer: Carries it out.
        folder: The run's folder.
        facts: What else ``run.json`` should say: ``model``, with its name, at least.
        cache: Where decoded photos and clean views' features are kept for other runs.

    Returns:
        The run; None on other processes than the first.

    Raises:
        UserError: If no photo can be read. What was measured before an interruption is written
            all the same.
    """
    start, started = time.perf_counter(), datetime.now().astimezone()
    options, root = evaluation.options, trainer.strategy.root_device
    device = torch.cuda.get_device_name(root) if root.type == "cuda" else str(root)
    texts = encode_texts(evaluation)
    module = make_module(evaluation, texts, records, device, cache)
    # memory holds as many draws at once, however many a photo has
    loading = max(1, options.data.batch_size // options.draws), options.data.num_workers
    data = ViewData(evaluation.views(cache), *loading, records, options.layers)
    facts = {
        **facts,
        "device": device,
        "started": started.isoformat(timespec="seconds"),
        "notes": [*evaluation.notes, *texts.notes],
    }
    run, attack = None, make_attack(evaluation, texts, records) if options.attack.epsilon else None
    try:
        measure(module, data, trainer)
        if attack:
            measure(*attack, trainer)
    finally:
        kinds = (*ROWS, *KEPT, *(("embeddings",) if module.keep.embeddings else ()))
        measured = records.read(*kinds) if trainer.is_global_zero else Measured()
        if measured.photos:
            clear_results(folder)
            seconds = {"photos": time.perf_counter() - start, **measured.seconds}
            with Progress("Computing tables and intervals"):
                run = tabulate(evaluation, texts, module, measured, folder, facts, seconds, attack)
                write(run, evaluation, texts, measured)
    if run is not None and run.rows.empty:
        photos = [photo.id for photo in measurable(evaluation.photos)]
        reasons = run.skipped.set_index("photo")["reason"]
        clear_results(folder)
        records.remove()
        raise UserError(
            f"none of the {len(photos)} photos could be read (the first, {photos[0]}: "
            f"{reasons[photos[0]]}): choose a folder of images"
        )
    return run


def make_module(
    evaluation: Evaluation, texts: Texts, records: Records, device: str, cache: Cache | None
) -> ShiftEvaluation:
    """The module that measures an evaluation's photos on a device, and what it keeps of them."""
    options, encoder, calibration = evaluation.options, evaluation.encoder, evaluation.calibration
    measures, save = evaluation.measures, options.save
    at_random = keyed_order(evaluation.photos, "sample")
    probe = encoder.components if options.dissect else None
    gazed = at_random[: options.faithfulness.photos] if options.dissect and encoder.probe else []
    maps = {photo: random_maps(options.seed, evaluation.photos[photo].id) for photo in gazed}
    shown = range(max(save.gaze, GAZED_PHOTOS))
    photos: dict[str, Collection[int]] = {
        "gallery": frozenset(at_random[: options.gallery]),
        "views": range(save.views),
        "gazes": shown,
        "nearest": shown,
        "heads": range(save.gaze_heads),
        "tokens": frozenset(at_random[:TOKEN_PHOTOS] if options.inside else ()),
        "floor": range(FLOOR_PHOTOS),
        "weaker": frozenset(at_random[:ELASTICITY_PHOTOS]),
        "patched": frozenset(at_random[: options.patching.photos]),
        "locations": shown if probe and probe.by_token else (),
        "faithfulness": maps,
        "gathered": frozenset(at_random[:SPANNED_PHOTOS] if texts.of_heads else ()),
    }
    embeddings = save.embeddings or options.inside or options.dissect
    keep = RecordOptions(embeddings, photos, maps, options.patching.layers)
    features = None
    if cache is not None and encoder.cacheable and not (save.gaze_heads or options.dissect):
        key = f"features {encoder.fingerprint} {device} {evaluation.resize} {options.layers}"
        features = FeatureCache(cache, key)
    of_draws = f"draws {evaluation.redraws} {device}"
    return ShiftEvaluation(
        encoder,
        evaluation.variants(),
        measures,
        records,
        keep,
        zero_shot=texts.zero_shot,
        texts=texts.captions,
        features=features,
        reference=evaluation.reference,
        distortion=distortion_of(calibration.distortion, measures)[0] if calibration else None,
        layers=options.layers,
        dissect=options.dissect,
        draws=options.draws,
        redraws=FeatureCache(cache, of_draws) if cache and evaluation.redraws else None,
    )


def make_attack(
    evaluation: Evaluation, texts: Texts, records: Records
) -> tuple[ShiftEvaluation, ViewData]:
    """What measures a sample of the photos under attack, and what reads them; see `measure`."""
    options, encoder, photos = evaluation.options, evaluation.encoder, evaluation.photos
    chosen = sorted(keyed_order(photos, "sample")[: options.attack.photos])
    zero_shot = texts.zero_shot
    if zero_shot:
        zero_shot = replace(zero_shot, targets=zero_shot.targets[chosen])
    measures = {n: m for n, m in evaluation.measures.items() if n in DEFINITIONS["attack_photos"]}
    measures |= {"cosine_similarity": CosineSimilarity()}
    variants, within = Attack(options.attack, encoder).variants(), Records(records.folder)
    keep = RecordOptions()
    module = ShiftEvaluation(encoder, variants, measures, within, keep, zero_shot=zero_shot)
    module.doing = "Attacking photos"
    listed, starts = [photos[index] for index in chosen], {ATTACK: Attack(options.attack)}
    dataset = ViewDataset(listed, starts, options.seed, evaluation.resize)
    return module, ViewData(dataset, options.data.batch_size, options.data.num_workers, within)


def measure(module: ShiftEvaluation, data: ViewData, trainer: pl.Trainer) -> None:
    """Measure into the records, so that an interruption loses at most a batch."""
    try:
        trainer.test(module, data, verbose=False)
        module.records.gather()
    finally:
        if data.layers and not module.in_step:
            module.write_sums()


def tabulate(
    evaluation: Evaluation,
    texts: Texts,
    module: ShiftEvaluation,
    measured: Measured,
    folder: Path,
    facts: Mapping[str, Any],
    seconds: Mapping[str, float],
    attack: tuple[ShiftEvaluation, ViewData] | None = None,
) -> Run:
    """Make a run's tables and facts of what was measured, complete or not.

    Args:
        evaluation: What was to be measured.
        texts: What embeddings were compared with.
        module: What measured it.
        measured: What was measured, but for the values, which the records hold.
        folder: The run's folder.
        facts: What else ``run.json`` should say.
        seconds: What each part of the work took.
        attack: From `make_attack`.
    """
    options, photos, variants = evaluation.options, evaluation.photos, module.variants
    rounded = {name: round(value, 3) for name, value in seconds.items()}

    def more_tables(sample: PhotoSample) -> dict[str, pd.DataFrame]:
        tables = {}
        if texts.captions is not None:
            captions = each_caption(evaluation.encoder, photos)
            tables["retrieval"] = retrieval_table(sample, captions)
        if module.dissect and (probe := evaluation.encoder.components):
            tables["components"] = component_table(sample, probe.heads)
            tables["locations"] = location_table(sample)
            if texts.of_heads:
                named = sample, texts.of_heads, probe, tables["components"]
                tables["head_texts"] = head_text_table(*named)
        if module.sites:
            tables["patching"] = patching_table(sample, module.sites)
        if options.dissect:
            tables["encoded"] = encoded_table(sample, view_size(evaluation.resize))
            tables |= decision_tables(sample, texts.zero_shot)
        tables |= faithfulness_tables(sample, facts["model"]["gaze"])
        if options.inside:
            begun = time.perf_counter()
            tables |= inside_tables(sample, texts.vocabularies)
            rounded["inside"] = round(time.perf_counter() - begun, 3)
        return tables

    attacked = attack[0].records.read("values", "embeddings") if attack else Measured()
    left = len(attack[1].dataset) - len(attacked.photos) if attack else 0
    facts = {
        **facts,
        "complete": len(measured.photos) == len(photos) and not left,
        "model": facts["model"] | model_facts(evaluation.encoder),
        "precision": evaluation.encoder.precision,
        "config": evaluation.config,
        "data": {"classes": list(evaluation.classes), "prompts": evaluation.templates},
        "seed": options.seed,
        "floor": precision_floor(measured, variants),
        "seconds": rounded,
        **provenance(),
    }
    sample = PhotoSample(measured, photos, variants, options.seed)
    calibration, resample = evaluation.calibration, options.resample
    run = make_run(
        folder, sample, module.records, module.columns, facts, more_tables, calibration, resample
    )
    if attack and len(attacked.index):
        spread = clean_spread(module.records.parts("embeddings"))
        of_run = attack[1].dataset.photos, attack[0], spread, options.seed, run.info.by_class
        run = replace(run, **attack_tables(attacked, *of_run))
    return run


def write(run: Run, evaluation: Evaluation, texts: Texts, measured: Measured) -> None:
    """Write a run's files but its report; ``run.json`` last, as a run is complete by it."""
    folder, photos, save = run.folder, evaluation.photos, evaluation.options.save
    if evaluation.calibration:
        write_json(folder / CALIBRATION, evaluation.calibration.as_json())
    if not save.embeddings:
        measured.embeddings.clear()
    shown = run.info.data.shown_sha256
    write_tensors(folder, measured, photos, save, shown)
    if texts.zero_shot:
        write_nearest(folder, measured, photos, texts.zero_shot.names, shown)
    write_run(run)


def resize_for(encoder: Encoder, resize: str) -> Resize:
    """How photos become views for a model, from the option ``data.resize``.

    Raises:
        UserError: If the model's own views are asked for, and are not square.
    """
    try:
        return native_resize(encoder.preprocessing) if resize == NATIVE else resize
    except UserError as error:
        raise error.within("data") from None


def model_facts(encoder: Encoder) -> dict[str, Any]:
    """What ``run.json`` says of a model's weights and of what it is given."""
    return {
        "trained": encoder.trained,
        "weights_sha256": encoder.weights_sha256,
        "fingerprint": encoder.fingerprint,
        "preprocessing": encoder.preprocessing,
        "gaze": encoder.probe.kind if encoder.probe else None,
        "gaze_layer": encoder.probe.layer if encoder.probe else None,
        "text": encoder.text if encoder.tokenizer else None,
        "kind": encoder.kind,
        "pooling": encoder.pooling,
        "image_parameters": encoder.image_parameters,
    }
