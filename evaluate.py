"""Measure the shift: ``python evaluate.py --help``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from clipshift.cli.command import explained_errors, run_command
from clipshift.cli.config import MEASURED, check_paths, name_model, validate


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Check the configuration, then measure."""
    with explained_errors():
        validate(cfg, MEASURED)
        name_model(cfg, HydraConfig.get().overrides.task)
        if HydraConfig.get().mode == RunMode.RUN:  # a sweep tracks its failed jobs as well
            check_paths(cfg)
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.compare:
            from clipshift.cli.evaluate import photos_of
            from clipshift.compare import compare_runs

            compare_runs(list(cfg.compare), cfg.seed, folder, photos_of=photos_of)
            return
        if cfg.report:
            from clipshift.cli.evaluate import remake_report

            remake_report(Path(cfg.report).expanduser())
            return
        # Lightning and open_clip take seconds to import: help and mistakes do not wait for them.
        from clipshift.cli.evaluate import evaluate

        evaluate(cfg, folder)


if __name__ == "__main__":
    run_command(main, "evaluate")
