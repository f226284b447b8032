"""Lightning's trainer, as configured, and without its small talk."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from clipshift.errors import UserError

SMALL_TALK = (
    ".*does not have many workers",
    ".*LeafSpec",
    "The ``compute`` method of metric",
    "Found .* module.s. in eval mode",
    "Checkpoint directory .* exists",
)


def make_trainer(options: Mapping[str, Any], **fixed: Any) -> pl.Trainer:
    """The configured trainer; samplers of loaders stay as they are.

    Args:
        options: The ``trainer`` configuration.
        fixed: More arguments of Lightning's trainer.

    Raises:
        UserError: If Lightning refuses it, as where there is no GPU.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for words in SMALL_TALK:
        warnings.filterwarnings("ignore", message=words)
    try:
        return instantiate(
            options, enable_model_summary=False, use_distributed_sampler=False, **fixed
        )
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"trainer: {str(cause).strip().splitlines()[0]}") from error
