"""The worst case: what a bounded adversary who knows the model can do to its embeddings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipshift.augment.keyed import Augmentation, Draws
from clipshift.augment.variants import Variant
from clipshift.data.photos import Photo
from clipshift.encode.encoder import ENCODE_BATCH, Encoder
from clipshift.errors import UserError, first_line
from clipshift.evaluate.gallery import add_relative_shift
from clipshift.evaluate.module import ShiftEvaluation
from clipshift.measure.functional import cosine_similarity
from clipshift.measure.metrics import CleanSpread
from clipshift.options import AttackOptions
from clipshift.results.columns import DEFINITIONS, VARIANT
from clipshift.results.intervals import label_groups
from clipshift.results.measured import Measured
from clipshift.results.table import labels_of, shift_table, summarize

ATTACK = "attack"
"""The name under which starts are drawn."""
OTHERS = "distance_to_others"
REACH = 2.5
"""How many times ε all steps of an attack are long together."""


class Attack(Augmentation):
    r"""Projected gradient ascent on the distance to the clean view's embedding.

    .. math::
        x_{t+1} = \Pi\Big(x_t + \frac{2.5 \, \varepsilon}{T} \operatorname{sign}
        \nabla_{x_t} \big(1 - \cos(e(x_t), e(x))\big)\Big)

    from starts that are uniform within the bounds, where Π moves every pixel to within ε of the
    clean view x and into [0, 1]. Of the iterates of all starts, these included, the one that is
    furthest from the clean view is taken. Source: Madry et al., "Towards deep learning models
    resistant to adversarial attacks", 2018 (arXiv:1706.06083), with the embedding's distance in
    the place of a loss. It has the two halves of an augmentation, of strength 255 ε, but sees the
    model: a run keeps it apart from what happens to photos in the world.

    Args:
        options: Steps T and restarts.
        encoder: The model; None where starts are only drawn.
    """

    def __init__(self, options: AttackOptions, encoder: Encoder | None = None) -> None:
        self.options, self.encoder = options, encoder

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        starts = rng.uniform(-1, 1, (self.options.restarts, 3, size, size))
        return {"starts": torch.from_numpy(starts).float()}

    def apply(self, images: Tensor, draws: Draws, strength: float = 1.0) -> Tensor:
        parts = zip(images.split(ENCODE_BATCH), draws["starts"].split(ENCODE_BATCH), strict=True)
        with torch.inference_mode(False), torch.enable_grad():
            return torch.cat([self._furthest(*part, strength / 255) for part in parts])

    def _furthest(self, clean: Tensor, starts: Tensor, epsilon: float) -> Tensor:
        assert self.encoder is not None
        clean = clean.clone()  # inference mode's own tensors have no gradients
        # rounded inwards, so that no difference exceeds epsilon
        ends = ((clean.double() + side * epsilon).float() for side in (-1, 1))
        low, high = (torch.nextafter(end, clean).clamp(0, 1) for end in ends)
        unmoved = self.encoder.encode_views(clean).embedding.detach()
        furthest, reached = clean, torch.full((len(clean),), -torch.inf, device=clean.device)
        for start in starts.unbind(dim=1):
            view = (clean + epsilon * start).clamp(low, high)
            for step in range(self.options.steps + 1):
                view.requires_grad_()
                distance = 1 - cosine_similarity(self.encoder.encode_views(view).embedding, unmoved)
                further = distance.detach() > reached
                furthest = torch.where(further[:, None, None, None], view.detach(), furthest)
                reached = torch.where(further, distance.detach(), reached)
                if step < self.options.steps:
                    [gradient] = torch.autograd.grad(distance.sum(), view)
                    stride = REACH * epsilon / self.options.steps
                    view = (view.detach() + stride * gradient.sign()).clamp(low, high)
        return furthest

    def variants(self) -> dict[str, Variant]:
        """The attack at each ε, by names of their own."""
        names = {f"{epsilon:g}": float(epsilon) for epsilon in sorted(self.options.epsilon)}
        return {name: Variant(ATTACK, name, self, epsilon) for name, epsilon in names.items()}


def check_differentiable(encoder: Encoder) -> None:
    """Make sure that a model can be attacked.

    Raises:
        UserError: If its embeddings have no gradient, as those of a file of ONNX.
    """
    noise = np.random.default_rng(0).random((1, 3, *encoder.input_size), np.float32)
    view = torch.from_numpy(noise).to(encoder.mean.device)
    try:
        [gradient] = torch.autograd.grad(encoder.embed(view.requires_grad_()).sum(), view)
        reason = "" if gradient.any() else "their gradient is 0"
    except (RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
    if reason:
        raise UserError(
            f"attack.epsilon requires embeddings with a gradient ({reason}): leave it out, or "
            "choose a model of PyTorch"
        )


def attack_tables(
    attacked: Measured,
    photos: Sequence[Photo],
    module: ShiftEvaluation,
    spread: CleanSpread | None,
    seed: int,
    by_class: bool,
) -> dict[str, pd.DataFrame]:
    r"""The tables ``attack`` and ``attack_photos`` of a run.

    The unit of the relative shift is a mean over all N photos of the run. So in its interval
    (`relative_shift_values`) the n attacked ones have only n / N of what they would add to a unit
    of their own: of ten in a thousand, the choice of the ten hardly changes the unit.

    Args:
        attacked: What was measured of attacked photos.
        photos: The photos that were to be attacked.
        module: What measured it.
        spread: The distances between all photos of the run.
        seed: Seed of the resampling.
        by_class: Whether classes are resampled.
    """
    add_relative_shift(attacked, spread)
    rows = shift_table(attacked, photos, module.variants).dropna(axis=1, how="all")
    groups = label_groups(list(labels_of(rows))) if by_class else None
    kept = rows[[name for name in (*VARIANT, *DEFINITIONS["attack_photos"]) if name in rows]]
    known = kept
    if spread is not None and OTHERS in kept:
        unit, part = spread.compute().item(), kept["photo"].nunique() / int(spread.count)
        known = kept.assign(**{OTHERS: unit + part * (kept[OTHERS] - unit)})
    means = summarize(known, module.columns, seed, groups=groups)
    tables = {"attack": means, "attack_photos": kept}
    return {
        name: table.assign(epsilon=table["severity"].astype(float)).reindex(
            columns=list(DEFINITIONS[name])
        )
        for name, table in tables.items()
    }
