"""From options and ready parts to a run, for the command and `clipshift.measure_shift`."""

import json
import logging
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from clipshift.augment.keyed import VIEW_SIZE
from clipshift.augment.stored import Stored
from clipshift.augment.transforms import KeyedTransform
from clipshift.checks import is_template
from clipshift.choices import MODEL_SOURCES
from clipshift.data.cache import Cache
from clipshift.data.classes import read_lines
from clipshift.data.dataset import view_size
from clipshift.data.photos import Photo, measurable
from clipshift.data.selection import without_copies
from clipshift.data.wordnet import is_imagenet
from clipshift.encode.encoder import Encoder, best_precision
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import OPENAI
from clipshift.errors import UserError, first_line, one_line
from clipshift.evaluate.attack import check_differentiable
from clipshift.evaluate.calibration import calibration_for, calibration_notes, left_to_measure
from clipshift.evaluate.evaluation import Evaluation, run_evaluation
from clipshift.measure.metrics import PhotoMeasure
from clipshift.progress import Progress
from clipshift.results.intervals import CLASSES
from clipshift.results.records import Records
from clipshift.results.runs import Run
from clipshift.severities import MATCHED
from clipshift.train.export import trained_augmentations

MakeTrainer = Callable[..., pl.Trainer]
AUTO, FULL = "auto", "fp32"
"""The precision that suits the hardware, and the one that loses nothing."""
LOCK = ".lock"
"""The file by which a process keeps others out of a run's folder."""
HARMLESS_WARNINGS = (
    ".*does not have many workers",
    ".*LeafSpec",
    "The ``compute`` method of metric",
    "Found .* module.s. in eval mode",
    "Checkpoint directory .* exists",
    "The `srun` command is available",
    ".*your dataloader is not resumable",  # its sampler is: see `clipshift.train.views.Shuffled`
)


def prepare(evaluation: Evaluation) -> Evaluation:
    """Leave out copies of photos, calibrate matched severities, and note what limits the numbers.

    Args:
        evaluation: What is asked for, of ready parts.

    Returns:
        What can be carried out.

    Raises:
        UserError: If a measure does not fit the views, photos are too few for what is asked for, or
            a stored calibration cannot be used.
    """
    options, encoder, notes = evaluation.options, evaluation.encoder, []
    photos = without_copies(evaluation.photos)
    every = len(measurable(evaluation.photos))
    if copies := every - len(measurable(photos)):
        notes.append(
            f"Photos that are the same file as another: {copies} of {every}. They are not "
            "measured, and skipped.csv lists them."
        )
    stored = [name for name, part in evaluation.augmentations.items() if isinstance(part, Stored)]
    if options.draws > 1 and stored:
        raise UserError(f"{stored[0]} is stored and is not drawn: use draws=1, or leave it out")
    if options.resample == CLASSES:
        check_classes(photos)
    resize, measures = evaluation.resize, evaluation.measures
    if view_size(resize) != VIEW_SIZE:
        check_size(measures, view_size(resize))
    if options.attack.epsilon:
        check_differentiable(encoder)
    calibration = None
    if MATCHED in evaluation.severities:
        nodes = evaluation.config["aug"]
        calibration = calibration_for(
            options, photos, evaluation.augmentations, nodes, resize, measures
        )
        given, photos = len(photos), left_to_measure(photos, calibration)
        notes += calibration_notes(calibration, given - len(photos))
    parts = evaluation.augmentations.items()
    transforms = [n for n, p in parts if KeyedTransform in map(type, getattr(p, "parts", [p]))]
    if transforms and any(m.facts.space == "aligned gaze" for m in measures.values()):
        notes.append(
            "Whether a transform moves pixels is not known: the aligned measures of gaze have no "
            f"value for {', '.join(transforms)}."
        )
    if encoder.precision != FULL and evaluation.reference is None:
        notes.append(f"The model came in {encoder.precision}: what that costs is not known.")
    return replace(evaluation, photos=photos, calibration=calibration, notes=notes)


def carry_out(
    evaluation: Evaluation,
    records: Records,
    trainer: pl.Trainer,
    folder: Path,
    job: str | None = None,
    cache: Cache | None = None,
) -> Run | None:
    """Measure, and write a run's files but its report; None on other processes than the first.

    Args:
        evaluation: From `prepare`.
        records: Where what is measured goes first.
        trainer: From `evaluation_trainer`.
        folder: The run's folder.
        job: The key by which a sweep's job is found again.
        cache: Where decoded photos and clean views' features are kept for other runs.

    Raises:
        UserError: If no photo can be read, or memory runs out. What was measured before an
            interruption is kept.
    """
    model = evaluation.config["model"]
    trained_on = trained_augmentations(model.get("checkpoint"))
    facts = {"job": job, "model": model_origin(model) | {"trained_on": trained_on}}
    with advice_on_memory():
        return run_evaluation(evaluation, records, trainer, folder, facts, cache)


def classes_of(photos: Sequence[Photo]) -> list[str]:
    """The labels of photos, each once, in alphabetical order."""
    return sorted({photo.label for photo in measurable(photos) if photo.label is not None})


def check_classes(photos: Sequence[Photo]) -> None:
    """Make sure that classes can be resampled.

    Raises:
        UserError: If there are fewer than two, or none has two photos.
    """
    sizes = Counter(photo.label for photo in measurable(photos) if photo.label is not None)
    if len(sizes) < 2 or max(sizes.values()) < 2:
        raise UserError(
            f"resample=classes requires two classes or more, of which one has two photos: there "
            f"are {len(sizes)}; use resample=photos"
        )


def check_size(measures: Mapping[str, PhotoMeasure], size: int) -> None:
    """Make sure that measures of pixels can be taken of views of a size.

    Raises:
        UserError: If one cannot, as where the view cannot be cut into its cells.
    """
    view = torch.zeros(1, 3, size, size)
    for name, measure in measures.items():
        if measure.facts.space == "pixels":
            try:
                measure.measure(view, view)
            except ValueError as error:
                raise UserError(
                    f"metric.{name}: {error}; leave it out with ~metric.{name}, or choose "
                    "data.resize=squash"
                ) from None


def templates_for(prompts: Mapping[str, Any], classes: Sequence[str]) -> list[str] | str:
    """The templates that the options of ``prompts`` describe for some classes.

    Returns:
        What `clipshift.encode.texts.make_zero_shot` takes.

    Raises:
        UserError: If they are to be read from a file that does not hold any.
    """
    chosen = prompts["templates"]
    if chosen == AUTO:
        imagenet = classes and all(map(is_imagenet, classes))
        chosen = OPENAI if imagenet else prompts["elsewhere"]["templates"]
    if isinstance(chosen, str) and chosen != OPENAI:
        try:
            chosen = [line.replace("{c}", "{}") for line in read_lines(chosen, "templates")]
            if wrong := [line for line in chosen if not is_template(line)]:
                raise UserError(f"{wrong[0]} has no {{}} or {{c}} for the class", "templates")
        except UserError as error:
            raise error.within("prompts") from None
    return chosen if chosen == OPENAI else list(chosen)


def load_model(model: Mapping[str, Any], precision: str, accelerator: str = "cpu") -> Encoder:
    """The model that the options of ``model`` describe.

    Args:
        model: The options.
        precision: The encoder's; ``auto`` is the best of the accelerator.
        accelerator: Lightning's name of what the encoder will run on.

    Raises:
        UserError: If it cannot be loaded.
    """
    if precision == AUTO:
        is_fixed = model.get("kind") == "onnx"  # the file says in which precision it computes
        precision = FULL if is_fixed else best_precision(accelerator)
    return _load_model(json.dumps({n: v for n, v in model.items() if n != "name"}), precision)


@lru_cache(maxsize=2)  # for all jobs of a process, with a reference
def _load_model(described: str, precision: str) -> Encoder:
    return load_encoder(**json.loads(described), precision=precision)


def load_reference(model: Mapping[str, Any], encoder: Encoder) -> Encoder | None:
    """The same model in float32, which says what an encoder's lower precision costs.

    None where the encoder is in float32 itself, or comes from a user's code, in its own precision.
    """
    in_full = encoder.precision == FULL or "_target_" in model
    return None if in_full else load_model(model, FULL)


def model_origin(model: Mapping[str, Any]) -> dict[str, Any]:
    """Where a model comes from, for ``run.json``: of a user's own, the code that makes it."""
    if "_target_" not in model:
        named = [model.get(name) for name in MODEL_SOURCES]
        missing = {"pretrained": None, "checkpoint": None}
        return missing | dict(model) | {"architecture": next(filter(None, named))}
    others = [name for name in targets(model) if not name.startswith("clipshift.")]
    code = others[0] if others else model["_target_"]
    return {"architecture": code, "pretrained": None, "checkpoint": None, **model}


def targets(node: Any) -> Iterator[str]:
    """All code that a configuration names."""
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    for value in node.values() if isinstance(node, Mapping) else node:
        if isinstance(value, Mapping | list):
            yield from targets(value)


class KeepSigterm(pl.Callback):
    """Keeps this process's answer to SIGTERM, which Lightning replaces.

    Lightning's own waits for all processes, of which some may be dead.
    """

    def __init__(self) -> None:
        self.answer = signal.getsignal(signal.SIGTERM)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.answer)

    on_train_start = on_validation_start = on_test_start


class TrainerProgress(pl.callbacks.ProgressBar):
    """Shows how many photos are measured, or how many steps of a training are done."""

    enabled = True
    shown: Progress | None = None

    def disable(self) -> None:
        """Show nothing: Lightning calls this on other processes than the first."""
        self.enabled = False

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        photos = len(trainer.test_dataloaders.sampler)  # type: ignore[union-attr]
        self.shown = Progress(pl_module.doing, photos, "photos") if self.enabled else None  # type: ignore[arg-type]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = int(trainer.estimated_stepping_batches), "steps", trainer.global_step
        self.shown = Progress("Training", *steps) if self.enabled else None

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int, *_: Any
    ) -> None:
        loader: Any = trainer.test_dataloaders
        if self.shown:
            self.shown.show(min((index + 1) * loader.batch_size, len(loader.sampler)))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        values = trainer.progress_bar_metrics.items()
        note = "".join(f", {name} {value:.3g}" for name, value in values)
        if self.shown:
            self.shown.show(trainer.global_step, note)

    def _close(self, *_: Any, **__: Any) -> None:
        if self.shown:
            self.shown.stop()

    on_test_end = on_train_end = on_exception = _close  # type: ignore[assignment]


def make_trainer(
    make: MakeTrainer,
    folder: Path,
    logger: Logger | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> pl.Trainer:
    """Make Lightning's trainer, without its log noise; samplers of loaders stay as they are.

    Args:
        make: Makes it, with the options of its devices.
        folder: The folder of the run or training.
        logger: Where that is tracked.
        callbacks: Lightning's callbacks.
        options: More options of Lightning's trainer.

    Raises:
        UserError: If Lightning refuses it, as where there is no GPU.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for words in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=words)
    options |= {"logger": logger or False, "default_root_dir": str(folder)}
    options |= {"enable_model_summary": False, "use_distributed_sampler": False}
    given = {**getattr(make, "keywords", {}), **options}
    bar = [TrainerProgress()] if given.get("enable_progress_bar", True) else []
    try:
        return make(callbacks=[KeepSigterm(), *bar, *callbacks], **options)
    except Exception as error:
        raise UserError(f"trainer: {first_line(error)}") from error


def evaluation_trainer(
    make: MakeTrainer, folder: Path, logger: Logger | None = None, progress: bool = True
) -> pl.Trainer:
    """The trainer of an evaluation, see `make_trainer`.

    Args:
        make: Makes it, with the options of its devices.
        folder: The run's folder.
        logger: Where the run is tracked.
        progress: Whether to show how far it is.
    """
    options: dict[str, Any] = {"enable_progress_bar": progress, "enable_checkpointing": False}
    return make_trainer(make, folder, logger, **options)


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return not getattr(rank_zero_only, "rank", 0)


@contextmanager
def locked(folder: Path, option: str = "hydra.run.dir") -> Iterator[None]:
    """Keep other processes out of a folder; whatever ends this process lets them in again.

    Args:
        folder: The folder.
        option: What another folder is chosen with.

    Raises:
        UserError: If another process is in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if not is_first_process():
        yield
        return
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use by another process: wait for it, or choose another folder with "
            f"{option}=FOLDER"
        ) from None
    with lock:
        yield


@contextmanager
def advice_on_memory() -> Iterator[None]:
    """Say what to do where memory or shared memory runs out.

    Raises:
        UserError: Then.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = str(error)
        of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if of_memory or "not enough memory" in reason:
            advice = "out of memory: lower data.batch_size, or the number of augmentations at once"
        elif reason.startswith("DataLoader worker (pid"):  # which was killed, as for want of memory
            advice = f"{one_line(reason)}: lower data.num_workers (0 reads photos in this process)"
        else:
            raise
        raise UserError(advice) from error
