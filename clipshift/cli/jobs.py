"""A job of a sweep: its name, its key, its logger, and whether its results exist already."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from clipshift.cli.build import instantiate_part
from clipshift.cli.config import plain
from clipshift.cli.interruption import EXIT_CODE, interrupted
from clipshift.data.files import read_text
from clipshift.data.photos import Photo, measurable
from clipshift.errors import UserError, from_here
from clipshift.evaluate.evaluation import Evaluation
from clipshift.pipeline import is_first_process, targets
from clipshift.progress import tracked
from clipshift.results.files import data_fingerprint
from clipshift.results.runs import copy_results, read_info, read_run
from clipshift.versions import CODE_SHA256, package_versions, source_sha256


def in_sweep() -> bool:
    """Whether this job is one of a sweep's."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


NO_EFFECT_ON_NUMBERS = (
    "logger", "cache", "sweeps", "rerun", "compare", "leaderboard", "report", "budget", "fetch",
    "dashboard",
)  # fmt: skip
"""Options that change no number."""


def numbers_depend_on(evaluation: Evaluation) -> dict[str, Any]:
    """All that a run's numbers depend on, but for the photos' pixels: options, model, code.

    Returns:
        By a name for people, as JSON.
    """
    options = {n: v for n, v in evaluation.config.items() if n not in NO_EFFECT_ON_NUMBERS}
    options = deepcopy(options)
    for name in ("num_workers", "batch_size", "download", "stream"):
        options["data"].pop(name, None)
    for name in ("devices", "num_nodes", "strategy"):
        options["trainer"].pop(name, None)
    calibration = Path(evaluation.options.matching.file or "")
    code = {getattr(get_object(name), "__module__", None) or name for name in targets(options)}
    photos = [(photo.id, photo.label, photo.captions) for photo in evaluation.photos]
    texts = json.dumps([evaluation.classes, photos])
    return options | {
        "model": [options["model"], evaluation.encoder.fingerprint],
        "photos": hashlib.sha256(texts.encode()).hexdigest(),
        "calibration": read_text(calibration) if calibration.is_file() else None,
        "clipshift's code": CODE_SHA256,
        "code of its parts": source_sha256(code),
        "versions": package_versions(),
    }


def content_of(photos: Sequence[Photo]) -> str:
    """The fingerprint of photos as they are now, as ``run.json`` has that of the measured ones."""
    listed = tracked(measurable(photos), "Reading photos", "photos")
    digests = ((photo.id, photo.digest()) for photo in listed)
    return data_fingerprint((name, digest) for name, digest in digests if digest)


def job_key(evaluation: Evaluation, content: str, **others: Any) -> str:
    """SHA-256 over all that a job's results depend on, the photos' content included.

    Args:
        evaluation: The job.
        content: From `content_of`.
        **others: Options to take in place of the job's.
    """
    facts = [numbers_depend_on(evaluation) | others, content]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def reuse_results(finished: Path, run_folder: Path) -> None:
    """Let a finished job's results be this job's."""
    if finished.resolve() != run_folder.resolve():
        copy_results(finished, run_folder)
    print(f"reusing results from {from_here(finished)} (rerun=true measures again)")


def finished_job(roots: list[Path], key: str, content: str) -> Path | None:
    """The folder of a finished job with this key below some folders, or None.

    Where it skipped no photo, it must have measured this content: its photos may have been replaced
    after it had its key.
    """
    for root in roots:
        for file in sorted(root.rglob("run.json")):
            try:
                info = read_info(file.parent)
                alike = info.data.skipped or info.data.fingerprint == content
                if info.job == key and alike:
                    read_run(file.parent)
                    if (file.parent / "report.html").exists():  # written after all else
                        return file.parent
            except UserError:
                continue
    return None


@contextmanager
def announce_stop(kept: Callable[[], str]) -> Iterator[None]:
    """If a signal stops the code in this context, print one line, unless an inner context has.

    Args:
        kept: Returns what is kept, and how to go on.

    Raises:
        SystemExit: With the exit code of an interruption, in place of the original exception.
    """
    try:
        yield
    except BaseException as error:
        if not interrupted():
            raise
        printed = isinstance(error, SystemExit) and error.code == EXIT_CODE
        if not printed and is_first_process():
            print(from_here(f"stopped early: {kept()}"), file=sys.stderr)
        sys.exit(EXIT_CODE)


@contextmanager
def started_logger(cfg: DictConfig, job_type: str, tags: list[str]) -> Iterator[Logger | None]:
    """The configured logger on the first rank, closed at the end whatever happens.

    Args:
        cfg: The job's configuration, which is logged as well.
        job_type: What kind of job this is, for W&B.
        tags: Its tags there, beside the configured ones; its name where no override tells more.
    """
    options = plain(cfg.logger)
    if not options or not is_first_process():
        yield None
        return
    from clipshift.integrations import tracking

    if "group" in options:
        job = HydraConfig.get()
        options["job_type"] = job_type
        options["name"] = options["name"] or tracking.run_name(job.overrides.task, " ".join(tags))
        options["tags"] = [*options["tags"], *tags]
        if job.mode == RunMode.MULTIRUN:
            group = tracking.sweep_group(Path(job.sweep.dir), cfg.get("sweeps", "multirun"))
            options["group"] = options["group"] or group
    logger = instantiate_part("logger", options)
    logger.log_hyperparams(plain(cfg))
    failed = True
    try:
        yield logger
        failed = False
    finally:
        if isinstance(logger, WandbLogger):
            with tracking.optional_tracking():
                logger.experiment.finish(exit_code=int(failed))
        else:
            logger.finalize("failed" if failed else "success")
