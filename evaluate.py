"""Measure the shift: ``python evaluate.py --help``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from clipshift.cli.command import explained_errors, run_command
from clipshift.cli.config import MEASURED, name_model, validate


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Check the configuration, then measure."""
    with explained_errors():
        validate(cfg, MEASURED)
        name_model(cfg, HydraConfig.get().overrides.task)
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.compare:
            from clipshift.compare import compare_runs

            compare_runs(list(cfg.compare), cfg.seed, folder)
            return
        # Lightning and open_clip take seconds to import: help and mistakes do not wait for them.
        from clipshift.cli.evaluate import evaluate

        evaluate(cfg, folder)


if __name__ == "__main__":
    run_command(main, "evaluate")
