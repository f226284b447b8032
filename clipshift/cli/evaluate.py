"""What ``clipshift evaluate`` does with a checked configuration: build, measure, report."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from clipshift.cli.build import (
    load_classes,
    load_photos,
    make_augmentations,
    make_cache,
    make_encoder,
    make_evaluation,
    make_reference,
    model_origin,
)
from clipshift.cli.config import plain
from clipshift.cli.interruption import EXIT_CODE, interrupted
from clipshift.cli.jobs import (
    content_of,
    finished_job,
    in_sweep,
    is_first_process,
    job_key,
    locked,
    numbers_depend_on,
    reuse_results,
    started_logger,
    sweep_folders,
)
from clipshift.cli.report import report_run
from clipshift.cli.trainer import make_trainer
from clipshift.data import Cache
from clipshift.errors import UserError, one_line
from clipshift.evaluate import Evaluation, run_evaluation
from clipshift.report.terminal import PhotoProgressBar
from clipshift.results import Records, Run, misfits, read_run, rebuild_views
from clipshift.train.export import trained_augmentations


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Measure the shift as configured, and write everything that a run writes.

    Goes on where the same run was interrupted in the same folder.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml``.
        folder: Where results go.

    Raises:
        UserError: If the photos or the model cannot be had, no photo can be read, or the folder is
            in use or holds an interrupted run with other options. What was measured before an
            interruption is kept.
    """
    tags = [cfg.model.name, cfg.data._target_.rpartition(".")[2]]
    records = Records(folder)
    with locked(folder):
        try:
            prepared = prepare(cfg, folder, records)
        except UserError:
            if in_sweep():  # so that the failed job is tracked with the others
                with started_logger(cfg, "evaluate", tags):
                    raise
            raise
        if prepared is None:
            return
        evaluation, facts = prepared
        cache, notes = make_cache(cfg)
        evaluation.notes += notes
        with started_logger(cfg, "evaluate", tags) as logger:
            try:
                run = carry_out(cfg, evaluation, records, folder, facts, cache, logger)
            except BaseException:
                say_what_is_kept(records, len(evaluation.photos), folder)
                raise
            if run is not None:
                views = evaluation.views(cache)
                report_run(read_run(folder), views, logger)  # of what is on the disk
                records.remove()


def carry_out(
    cfg: DictConfig,
    evaluation: Evaluation,
    records: Records,
    folder: Path,
    facts: Mapping[str, Any],
    cache: Cache | None = None,
    logger: Logger | None = None,
    progress: bool = True,
) -> Run | None:
    """Carry an evaluation out on the configured trainer; None on other processes than the first.

    Raises:
        UserError: See `evaluate`.
    """
    trainer = make_trainer(
        plain(cfg.trainer),
        logger=logger or False,
        callbacks=[PhotoProgressBar()] if progress else [],
        enable_progress_bar=progress,
        default_root_dir=str(folder),
        enable_checkpointing=False,
    )
    with advice_on_memory():
        return run_evaluation(
            evaluation, records, trainer, folder, facts,
            batch_size=cfg.data.batch_size, num_workers=cfg.data.num_workers, cache=cache,
        )  # fmt: skip


def prepare(
    cfg: DictConfig, folder: Path, records: Records
) -> tuple[Evaluation, dict[str, Any]] | None:
    """The evaluation, and what its ``run.json`` says of it beside.

    Begins its records. None where another job has measured the same: then its results are taken.

    Raises:
        UserError: See `evaluate`.
    """
    if "precision" in cfg.trainer:
        raise UserError("trainer.precision is for training: choose the encoder's by precision=bf16")
    augmentations, ladders = make_augmentations(plain(cfg.aug))
    photos, classes = load_photos(cfg.data)
    if cfg.zero_shot.classes:
        classes = load_classes(cfg)
    trained_on = trained_augmentations(cfg.model.get("checkpoint"))
    encoder = make_encoder(cfg.model, cfg.precision, cfg.trainer.accelerator)
    key = None
    if in_sweep():
        content = content_of(photos)
        key = job_key(cfg, encoder, photos, classes, content)
        if not cfg.rerun and (finished := finished_job(sweep_folders(cfg), key, content)):
            reuse_results(finished, folder)
            return None
    if is_first_process():
        options = numbers_depend_on(cfg, encoder, photos, classes)
        if differing := records.begin(options, cfg.rerun):
            raise UserError(
                f"{folder} holds an interrupted run with other options ({', '.join(differing)}): "
                "choose another folder with hydra.run.dir=FOLDER, or give that run up with "
                "rerun=true"
            )
    facts = {
        "job": key,
        "model": model_origin(cfg.model) | {"trained_on": trained_on},
        "precision": encoder.precision,
        "config": plain(cfg),
    }
    reference = make_reference(cfg.model, encoder)
    evaluation = make_evaluation(cfg, augmentations, ladders, photos, classes, encoder, reference)
    return evaluation, facts


def remake_report(folder: Path, fetch: bool) -> None:
    """Make the figures and the page of a finished run again from its files: ``report=RUN``.

    Args:
        folder: The run's folder.
        fetch: Whether its photos may be read again from an address.

    Raises:
        UserError: If the folder holds no finished run, its photos cannot be read, its files do not
            fit together, or it was made with parts that are not clipshift's.
    """
    run = read_run(folder)
    with misfits(f"the run in {folder}"):
        report_run(run, rebuild_views(run, fetch))


def say_what_is_kept(records: Records, photos: int, folder: Path) -> None:
    """After an interruption: how far it came, and how it goes on."""
    done = len(records.photos()) if is_first_process() else 0
    if 0 < done < photos:
        of_command = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else folder
        print(
            f"stopped early: {done} of {photos} photos are in {folder}. The same command with "
            f"hydra.run.dir={of_command} goes on after them",
            file=sys.stderr,
        )
        if interrupted():
            sys.exit(EXIT_CODE)


@contextmanager
def advice_on_memory() -> Iterator[None]:
    """Say what to do where memory or its like runs out.

    Raises:
        UserError: Then.
    """
    try:
        yield
    except Exception as error:
        if advice := what_to_lower(error):
            raise UserError(advice) from error
        raise


def what_to_lower(error: BaseException) -> str | None:
    """What to do where memory or its like has run out; None for any other error."""
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    said = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in said:
        return "out of memory: lower data.batch_size, or the number of augmentations at once"
    if said.startswith("DataLoader worker (pid"):  # which was killed, as for want of memory
        return f"{one_line(said)}: lower data.num_workers (0 reads photos in this process)"
    return None
