"""The command ``clipshift evaluate``: from a checked configuration to a run and its report."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from clipshift.cli import jobs
from clipshift.cli.build import make_cache, make_evaluation
from clipshift.cli.config import plain
from clipshift.cli.interruption import EXIT_CODE, interrupted
from clipshift.cli.report import report_run
from clipshift.cli.trainer import trainer_maker
from clipshift.errors import UserError, from_here
from clipshift.evaluate.evaluation import Evaluation
from clipshift.pipeline import carry_out, evaluation_trainer, is_first_process, locked, prepare
from clipshift.results.records import Records
from clipshift.results.runs import read_run


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Measure the shift as configured, and write everything that a run writes.

    Goes on where the same run was interrupted in the same folder.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml``.
        folder: Where results go.

    Raises:
        UserError: If the photos or the model cannot be loaded, no photo can be read, or the folder
            is in use or holds an interrupted run with other options. What was measured before an
            interruption is kept.
    """
    tags = [cfg.model.name, cfg.data._target_.rpartition(".")[2]]
    records = Records(folder)
    with locked(folder):
        try:
            if (begun := begin(cfg, folder, records)) is None:
                return
            evaluation, job = begun
        except UserError:
            if jobs.in_sweep():  # so that the failed job is tracked with the others
                with jobs.started_logger(cfg, "evaluate", tags):
                    raise
            raise
        cache, notes = make_cache(cfg)
        evaluation.notes = [*evaluation.notes, *notes]
        with jobs.started_logger(cfg, "evaluate", tags) as logger:
            try:
                trainer = evaluation_trainer(trainer_maker(plain(cfg.trainer)), folder, logger)
                run = carry_out(evaluation, records, trainer, folder, job, cache)
            except BaseException:
                say_what_is_kept(records, len(evaluation.photos), folder)
                raise
            if run is not None:
                views = evaluation.views(cache)
                report_run(read_run(folder), views, logger)  # of what is on the disk
                records.remove()


def begin(cfg: DictConfig, folder: Path, records: Records) -> tuple[Evaluation, str | None] | None:
    """The evaluation, ready to be carried out, and the key of a sweep's job; begins its records.

    None where another job has measured the same: then its results are taken.

    Raises:
        UserError: See `evaluate`.
    """
    if "precision" in cfg.trainer:
        raise UserError("trainer.precision is for training: use precision=bf16 for the encoder")
    evaluation = make_evaluation(cfg)
    job = None
    if jobs.in_sweep():
        content = jobs.content_of(evaluation.photos)
        job = jobs.job_key(evaluation, content)
        evaluation.redraws = jobs.job_key(evaluation, content, draws=None)
        sweeps = [Path(HydraConfig.get().sweep.dir), Path(cfg.sweeps)]  # this one, and all others
        if not cfg.rerun and (finished := jobs.finished_job(sweeps, job, content)):
            jobs.reuse_results(finished, folder)
            return None
    first = is_first_process()
    if first and (other := records.begin(jobs.numbers_depend_on(evaluation), cfg.rerun)):
        raise UserError(
            f"{folder} holds an interrupted run with other options ({', '.join(other)}): "
            "choose another folder with hydra.run.dir=FOLDER, or give that run up with rerun=true"
        )
    return prepare(evaluation), job


def say_what_is_kept(records: Records, photos: int, folder: Path) -> None:
    """After an interruption: how far it came, and how it goes on."""
    done = len(records.photos()) if is_first_process() else 0
    if 0 < done < photos:
        of_command = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else folder
        kept = f"{done} of {photos} photos are in {folder}"
        goes_on = f"The same command with hydra.run.dir={of_command} goes on after them"
        print(from_here(f"stopped early: {kept}. {goes_on}"), file=sys.stderr)
        if interrupted():
            sys.exit(EXIT_CODE)
