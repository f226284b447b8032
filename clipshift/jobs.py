"""A job among the others of its sweep: what it is called, and whether it has been done before."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from clipshift.config import plain
from clipshift.data import Photo
from clipshift.encode import Encoder
from clipshift.report import tracking
from clipshift.results import clear_results, data_fingerprint
from clipshift.versions import CODE_SHA256, package_versions


def in_sweep() -> bool:
    """Whether this job is one of a sweep's."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_folders(cfg: DictConfig) -> list[Path]:
    """Where finished jobs may lie: in this sweep's own folder, and in those of all others."""
    return [Path(HydraConfig.get().sweep.dir), Path(cfg.sweeps)]


def job_key(cfg: DictConfig, encoder: Encoder, photos: list[Photo], classes: list[str]) -> str:
    """SHA-256 over all that a job's results depend on: options, model, photos, texts and code.

    Options that change no number (logger, cache, workers) are left out.
    """
    calibration = Path(cfg.matching.file or "")
    options = {
        name: value
        for name, value in plain(cfg).items()
        if name not in ("logger", "cache", "sweeps", "rerun", "compare")
    }
    options["data"] = {k: v for k, v in options["data"].items() if k != "num_workers"}
    facts = {
        "options": options,
        "model": encoder.fingerprint,
        "data": data_fingerprint(
            (photo.id, hashlib.sha256(photo.read()).digest())
            for photo in photos
            if photo.file.is_file()
        ),
        "texts": [classes, [(photo.id, photo.label, photo.captions) for photo in photos]],
        "calibration": calibration.read_text() if calibration.is_file() else None,
        "code": CODE_SHA256,
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def take_over(done: Path, run_folder: Path) -> None:
    """Let a finished job's results be this job's."""
    if done.resolve() != run_folder.resolve():
        clear_results(run_folder)
        ignored = shutil.ignore_patterns("wandb", ".hydra", "error.txt")
        shutil.copytree(done, run_folder, ignore=ignored, dirs_exist_ok=True)
    print(f"already measured, so taken from {done} (rerun=true measures it again)")


def finished_job(roots: list[Path], key: str) -> Path | None:
    """The folder of a finished job with this key below some folders, or None."""
    for root in roots:
        for file in sorted(root.rglob("run.json")):
            try:
                facts = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                continue
            written = (file.parent / "report.html").exists()  # last of all
            if facts.get("job") == key and facts.get("complete") and written:
                return file.parent
    return None


@contextmanager
def started_logger(cfg: DictConfig, job_type: str, tags: list[str]) -> Iterator[Logger | None]:
    """The configured logger on the first rank, closed at the end whatever happens.

    Args:
        cfg: The job's configuration, which is logged as well.
        job_type: What kind of job this is, for W&B.
        tags: Its tags there, beside the configured ones; its name where no override tells more.
    """
    options = plain(cfg.logger)
    if not options or int(os.environ.get("LOCAL_RANK", 0)):
        yield None
        return
    if "group" in options:
        job = HydraConfig.get()
        options["job_type"] = job_type
        options["name"] = options["name"] or tracking.run_name(job.overrides.task, " ".join(tags))
        options["tags"] = [*options["tags"], *tags]
        if job.mode == RunMode.MULTIRUN:
            group = tracking.sweep_group(Path(job.sweep.dir), cfg.get("sweeps", "multirun"))
            options["group"] = options["group"] or group
    logger = instantiate(options)
    logger.log_hyperparams(plain(cfg))
    failed = True
    try:
        yield logger
        failed = False
    finally:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))
        else:
            logger.finalize("failed" if failed else "success")
