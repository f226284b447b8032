"""Train a model: ``python train.py experiment=pretrain_tiny``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from clipshift.cli.command import explained_errors, run_command
from clipshift.cli.config import check_paths, name_model
from clipshift.errors import UserError


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Run the stage that the experiment names."""
    with explained_errors():
        if OmegaConf.is_missing(cfg, "stage"):
            raise UserError("nothing to train: add experiment=pretrain_tiny, or another one")
        if "model" in cfg:
            name_model(cfg, HydraConfig.get().overrides.task)
        check_paths(cfg)
        # Lightning takes seconds to import: mistakes in the command line do not wait for it.
        from clipshift.cli.jobs import locked

        folder = Path(HydraConfig.get().runtime.output_dir)
        with locked(folder):
            hydra.utils.get_method(cfg.stage)(cfg, folder)


if __name__ == "__main__":
    run_command(main, "train")
