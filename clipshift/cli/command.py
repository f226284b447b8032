"""What all commands share: a user's mistake ends in one line, without a traceback."""

import atexit
import ctypes
import errno
import gc
import math
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clipshift import options as spec
from clipshift.choices import CONF
from clipshift.cli.arguments import checked_arguments, swept
from clipshift.cli.config import DESCRIPTIONS, composition_error, dotted_names
from clipshift.cli.help import help_text
from clipshift.cli.interruption import EXIT_CODE, interrupted, stop_on_signals
from clipshift.cli.output import lenient_output
from clipshift.errors import ERROR_FILE, UserError, from_here, one_line
from clipshift.lazy import postponed_imports

for command, description in DESCRIPTIONS.items():
    ConfigStore.instance().store(name=f"{command}_options", node=spec.defaults(description))


def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """None, as of a configuration without ``hydra.mode``: none of ours is composed to see that."""
    could_set = any(word.startswith(("hydra.mode", "-c", "--config")) for word in sys.argv)
    return composed_mode(hydra, config_name, overrides) if could_set else None


composed_mode = Hydra.get_mode
Hydra.get_mode = get_mode  # type: ignore[method-assign, assignment]

KEPT_JOBS = 32
"""Of how many jobs of a sweep the configuration is kept until they run."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's ``mallopt``: see ``man mallopt``."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, and ``ulimit -f``: of these the system does not name the file."""
ORIGINAL_ARGV = list(sys.argv)
"""The command line as it was typed."""
BEFORE_RESULTS = {".hydra", "wandb", ".log", ".lock", "settings.json", "options.json"}
BEFORE_RESULTS |= {"hparams.yaml", "metrics.csv"}
"""Folders, files and endings of files of a run that has computed nothing yet."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""The environment's variables that say which of several processes this is."""

_new_folders: list[Path] = []


@lenient_output()
def run_command(main: Callable[[], None], config_name: str, arguments: Sequence[str]) -> None:
    """Run a Hydra main function; a mistake in the command line is one line and exit code 1.

    Args:
        main: A function decorated by ``hydra.main``.
        config_name: Its configuration.
        arguments: What follows the command: Hydra's overrides and flags.
    """
    if {"-h", "--help"} & set(arguments):  # Hydra's own would list every group twice: a second
        print(help_text(config_name))
        return
    # Without this, Hydra would print what it catches itself, in many lines.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = checked_arguments(config_name, arguments, option_names)
    except UserError as error:
        fail(str(error))
    if sys.flags.optimize > 1:
        fail("python -OO removes docstrings, which Altair needs: use -O")
    stop_on_signals()
    keep_freed_memory()
    try:
        main()
    except BaseException as error:
        remove_empty_folder()
        if interrupted():
            sys.exit(EXIT_CODE)
        explain(error, config_name)


def remove_empty_folder() -> None:
    """Remove the folder that this command has made, unless something is computed in it."""
    if not _new_folders or not is_first():
        return
    folder, *above = _new_folders
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    if all({*file.parts, file.suffix} & BEFORE_RESULTS for file in files):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # where there is something else
            for one in above:
                one.rmdir()


def is_first() -> bool:
    """Whether this is the only process of a command, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


@contextmanager
def loading(task: str, logger: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Import what a task needs and nothing else, and say so, as it takes seconds.

    What a run in W&B imports comes first: many of its classes search all modules for their source,
    which takes 0.2 s, and after torch and the others 2 to 8 s.

    Args:
        task: In words.
        logger: The configured logger, if the task tracks a run.
    """
    if "torch" not in sys.modules and is_first():
        print(f"clipshift: loading libraries to {task}", file=sys.stderr, flush=True)
    if "project" in (logger or {}) and is_first():  # only W&B has one
        with suppress(ImportError):  # it is not ours: without it, a run only starts later
            import_module("wandb.sdk.launch")
    gc.disable()  # it would look for garbage in what libraries make: a sixth of their time
    try:
        with postponed_imports():
            yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or bindings such as triton's report at exit that they leak
        gc.enable()


def keep_freed_memory() -> None:
    """Keep what one batch frees for the next one, where the C library is glibc.

    It would give it back at once, and the operating system would clear every page of it again: a
    seventh of the time of ViT-B/32 in float32 (benchmarks/README.md).
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_MMAP_MAX, 0)  # tensors of any size are made of what is kept


def explain(error: BaseException, config_name: str) -> None:
    """Exit with code 1 and one line for what the user can mend; raise anything else again."""
    if isinstance(error, UserError):
        sys.exit(1)  # explained by its job
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        chosen = [override for override in sys.argv[1:] if override.startswith("experiment=")]
        fail(composition_error(str(error), option_names(config_name, chosen)))
    if message := file_error(error):
        fail(message)
    raise error


def file_error(error: BaseException) -> str | None:
    """A line for a file or folder that cannot be written or read; None for any other error."""
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in NO_ROOM):
        return None
    file = error.filename or "a file"
    return one_line(f"{file}: {error.strerror} (results go to hydra.run.dir=FOLDER)")


@contextmanager
def explained_errors() -> Iterator[None]:
    """Within a job: print a user's mistake as one line, and exit with code 1.

    A failed job of a sweep does not stop the others: its error is left in its folder, in
    ``error.txt``, for the comparison that ends the sweep.
    """
    job = HydraConfig.get()
    error_file = Path(job.runtime.output_dir) / ERROR_FILE
    # Hydra has read what it was given. Lightning runs the typed command again for more devices.
    sys.argv[:] = ORIGINAL_ARGV
    try:
        yield
    except Exception as error:
        if interrupted():
            # Whatever the interruption has brought about: Hydra would print any Exception.
            raise KeyboardInterrupt from error
        mistake = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        message = one_line(str(error)) if mistake else file_error(error)
        if message is None:  # a defect of ours keeps its traceback
            traceback.print_exc()
        else:
            print(f"error: {from_here(message)}", file=sys.stderr)
        if job.mode == RunMode.RUN:
            sys.exit(1)
        with suppress(OSError):  # which has made the file at least
            error_file.write_text(f"{message or f'{type(error).__name__}: {error}'}\n")
    else:
        error_file.unlink(missing_ok=True)


class NewFolder(Callback):
    """Notes which folders a run makes, for `remove_empty_folder`."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this before it makes the folder."""
        folder = Path(config.hydra.run.dir).absolute()
        _new_folders[:] = [one for one in (folder, *folder.parents) if not one.exists()]


class SweepFailures(NewFolder):
    """Ends a sweep with code 1 if a job has failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this when all jobs have ended."""
        if any(Path(config.hydra.sweep.dir).glob(f"*/{ERROR_FILE}")):
            sys.exit(1)


class SweepComparison(NewFolder):
    """Counts a sweep's jobs, and ends it in one comparison; exits with code 1 if one has failed."""

    def __init__(self) -> None:
        self.jobs = 0
        self.options: list[str] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this before the first job."""
        if config.hydra.launcher._target_.endswith(".BasicLauncher"):
            compose_once(GlobalHydra.instance().config_loader())
        values = swept(list(config.hydra.overrides.task))
        self.jobs, self.options = math.prod(map(len, values.values())), list(values)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this before each job, also that of a single run."""
        if self.jobs:
            from clipshift.report.words import without_paths

            overrides = config.hydra.overrides.task
            swept_options = [o for o in overrides if o.partition("=")[0] in self.options]
            text = " ".join(map(without_paths, swept_options))
            print(f"\njob {config.hydra.job.num + 1} of {self.jobs}: {text}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this when all jobs have ended."""
        from clipshift.comparison import compare_sweep

        try:
            # of the logger what names no job's folder, which is known in a job alone
            names = ("project", "entity", "group", "tags")
            logger = {name: config.logger[name] for name in names if name in config.logger}
            folder = Path(config.hydra.sweep.dir)
            finished = compare_sweep(folder, logger, config.sweeps, config.dashboard)
        except Exception:  # of which Hydra would make a warning, and end with code 0
            traceback.print_exc()
            finished = False
        if not finished:
            sys.exit(1)


def compose_once(loader: ConfigLoader) -> None:
    """Let Hydra compose the configuration of a job once, and not to check and to run it each.

    It takes a quarter of what a job costs beside its photos. Configurations are large, so that only
    so many jobs' are kept from the check, which comes before all of them.

    Args:
        loader: Hydra's own, which is changed in place.
    """
    compose_job: Callable[..., DictConfig] = loader.load_sweep_config
    kept: dict[tuple[str, ...], DictConfig] = {}

    def composed(master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        job = tuple(sweep_overrides)
        if job in kept:
            return kept.pop(job)
        config = compose_job(master_config, list(sweep_overrides))
        if len(kept) < KEPT_JOBS:
            kept[job] = config
        return config

    loader.load_sweep_config = composed  # type: ignore[method-assign, assignment]


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 1."""
    print(f"error: {from_here(message)}", file=sys.stderr)
    sys.exit(1)


def option_names(config_name: str, overrides: Sequence[str] = ()) -> list[str]:
    """Dotted names of all options and groups of a configuration."""
    try:
        return list(dotted_names(compose_config(config_name, overrides)))
    except UserError:  # what was chosen is the mistake
        return list(dotted_names(compose_config(config_name)))


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration of ``conf/``, within a running job as well.

    Args:
        name: ``evaluate`` or ``train``.
        overrides: As on the command line.

    Raises:
        UserError: If they do not fit the configuration.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        names = option_names(name) if overrides else []
        raise UserError(composition_error(str(error), names)) from None
    finally:
        GlobalHydra.instance().hydra = running
