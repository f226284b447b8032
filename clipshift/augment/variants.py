"""Variants: augmentations at a severity, which is a factor on what they draw."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipshift.augment.corruptions import Corruption
from clipshift.augment.keyed import Augmentation
from clipshift.errors import UserError
from clipshift.severities import MATCHED, PAPER, view_name


@dataclass(frozen=True)
class Variant:
    """An augmentation at a severity.

    Attributes:
        name: The augmentation's name, under which its random numbers are drawn.
        severity: ``paper``, ``1`` to ``5``, or ``matched``.
        augmentation: The augmentation.
        strength: The factor on its draws; 1 is the paper's.
    """

    name: str
    severity: str
    augmentation: Augmentation
    strength: float


def make_variants(
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
    severities: Sequence[str],
    matched: Mapping[str, float],
) -> dict[str, Variant]:
    """Every augmentation at every severity.

    Args:
        augmentations: Augmentations by name.
        ladders: Strengths at severity 1 to 5, by augmentation, of those that have some.
        severities: Which ones.
        matched: Strengths at severity ``matched``, by augmentation.

    Returns:
        Variants by view name: the augmentation's, with ``@SEVERITY`` where there are several.

    Raises:
        UserError: If an augmentation without a ladder is asked for at severity 1 to 5, or a
            generated corruption at ``paper``.
    """

    def strength(name: str, severity: str) -> float:
        if severity == PAPER:
            augmentation = augmentations[name]
            if not isinstance(augmentation, Corruption):
                return 1.0
            if augmentation.level is None:
                raise UserError(f"{name} has no severity={PAPER}: use severity=[1,2,3,4,5]")
            return float(augmentation.level)
        if severity == MATCHED:
            return matched[name]
        if name not in ladders:
            raise UserError(
                f"{name} has no ladder of strengths for severity={severity}: leave it out, or "
                f"choose severity={PAPER}"
            )
        return ladders[name][int(severity) - 1]

    return {
        view_name(name, severity if len(severities) > 1 else None): Variant(
            name, severity, augmentation, strength(name, severity)
        )
        for severity in severities
        for name, augmentation in augmentations.items()
    }


def strengths_of(variants: Iterable[Variant]) -> dict[str, list[float]]:
    """The strengths at which variants are made, by augmentation."""
    strengths: dict[str, list[float]] = {}
    for variant in variants:
        strengths.setdefault(variant.name, []).append(variant.strength)
    return strengths
