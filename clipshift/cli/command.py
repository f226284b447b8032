"""What the commands share: a user's mistake ends in one line, and never in a traceback."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clipshift.cli.config import composition_error, dotted_names
from clipshift.errors import ERROR_FILE, UserError, one_line

CONF = Path(__file__).resolve().parents[2] / "conf"


def run_command(main: Callable[[], None], config_name: str) -> None:
    """Run a Hydra main function; a mistake in the command line is one line and exit code 1.

    Args:
        main: A function decorated by ``hydra.main``.
        config_name: Its configuration.
    """
    # Without this, Hydra would print what it catches itself, in many lines.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except UserError:
        sys.exit(1)  # explained by its job
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        chosen = [override for override in sys.argv[1:] if override.startswith("experiment=")]
        fail(composition_error(str(error), option_names(config_name, chosen), CONF))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror} (results go to hydra.run.dir=FOLDER)")


@contextmanager
def explained_errors() -> Iterator[None]:
    """Within a job: print a user's mistake as one line, and exit with code 1.

    A failed job of a sweep does not stop the others: its error is left in its folder, in
    ``error.txt``, for the comparison that ends the sweep.
    """
    job = HydraConfig.get()
    error_file = Path(job.runtime.output_dir) / ERROR_FILE
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        said = one_line(str(error))
        if job.mode == RunMode.RUN:
            fail(said)
        print(f"error: {said}", file=sys.stderr)
        error_file.write_text(f"{said}\n")
    except Exception as error:
        alone = job.mode == RunMode.RUN
        if alone and isinstance(error, OSError):
            raise  # a full disk or a folder that cannot be written, which `run_command` explains
        traceback.print_exc()
        if alone:
            sys.exit(1)  # a defect of ours keeps its traceback, and is no mistake of the user's
        error_file.write_text(f"{type(error).__name__}: {error}\n")
    else:
        error_file.unlink(missing_ok=True)


class SweepFailures(Callback):
    """Ends a sweep with code 1 if a job has failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this when all jobs have ended."""
        if any(Path(config.hydra.sweep.dir).glob(f"*/{ERROR_FILE}")):
            sys.exit(1)


class SweepComparison(Callback):
    """Ends a sweep in one comparison of its jobs; exits with code 1 if one has failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this when all jobs have ended."""
        from clipshift.compare import compare_sweep

        try:
            finished = compare_sweep(Path(config.hydra.sweep.dir))
        except Exception:  # of which Hydra would make a warning, and end with code 0
            traceback.print_exc()
            finished = False
        if not finished:
            sys.exit(1)


def fail(message: str) -> None:
    """Print one line and exit with code 1."""
    print(f"error: {message}", file=sys.stderr)
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
        options = option_names(name) if overrides else []
        raise UserError(composition_error(str(error), options, CONF)) from None
    finally:
        GlobalHydra.instance().hydra = running
