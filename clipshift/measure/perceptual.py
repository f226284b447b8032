"""Perceptual measures of pixels: those of piq, and torchmetrics' with downloaded weights."""

from functools import partial
from inspect import isclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import yaml
from torch import Tensor

from clipshift.checks import checked, one_of
from clipshift.errors import UserError, one_line
from clipshift.measure.facts import Facts
from clipshift.measure.metrics import PhotoMeasure

KINDS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


class Perceptual(PhotoMeasure):
    """A perceptual measure of pixels, computed for each photo separately.

    Args:
        kind: ``gmsd``, ``mdsi``, ``haarpsi`` or ``vsi``, which need no weights, by piq; or
            ``lpips`` or ``dists`` by torchmetrics, whose weights are downloaded.

    Raises:
        UserError: If it is none of them, or its package or weights are missing.

    Example:
        >>> clean = torch.rand(1, 3, 64, 64)
        >>> metric = Perceptual("gmsd")
        >>> metric(clean, clean)
        tensor([0.])
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        described = KINDS[checked("kind", kind, one_of(*KINDS))]
        self.facts = Facts(space="pixels", **described["facts"])
        try:
            code: Any = resolve_name(described["code"])
            make: Any = code if isclass(code) else partial(partial, code)
            self.compare = make(**described["options"])
        except ImportError as error:
            raise UserError(f"{kind} requires {error.name}: pip install 'clipshift[piq]'") from None
        except OSError as error:
            raise UserError(
                f"cannot download the weights of {kind}: {one_line(str(error))}; put "
                f"https://download.pytorch.org/models/{described['weights']} into "
                f"{torch.hub.get_dir()}/checkpoints"
            ) from None

    def measure(self, view: Tensor, clean: Tensor) -> Tensor:  # type: ignore[override]
        """The values of B photos.

        Args:
            view: Views in [0, 1], shape (B, 3, H, W).
            clean: Their clean views, same shape.

        Returns:
            float32, shape (B,).
        """
        self.to(view.device)
        pairs = zip(view.split(1), clean.split(1), strict=True)
        return torch.stack([self.compare(*pair).detach().reshape(()) for pair in pairs]).float()
