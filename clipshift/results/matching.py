"""Intervals at matched severity: the uncertainty of calibration, and of an exact share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipshift.results.intervals import Studentized, stratum_values, studentize
from clipshift.severities import MATCHED

Variants = Sequence[tuple[str, str]]
"""Augmentation and severity of each column."""


@dataclass(frozen=True)
class Matching:
    r"""What intervals at severity ``matched`` hold beside the choice of the measured photos.

    A matched strength is one of the calibration photos that it was found on. Had these been less
    distorted by a share r than photos are in the mean, the strength would be too large, and with it
    the measured photos' mean shift m, to first order by the share :math:`\eta r`, with the shift's
    elasticity :math:`\eta`. So m is less one more mean, over the calibration photos, of

    .. math::
        \psi_j = m \, \eta \, (x_j - \bar x) / (\bar x - x_0)

    with their distortions :math:`x_j`, the mean of these, and :math:`x_0` of a view that is not
    distorted. Source: Murphy and Topel, "Estimation and inference in two-step econometric models",
    1985, as a delta method.

    Attributes:
        relative: :math:`\eta (x_j - \bar x) / (\bar x - x_0)` of the calibration photos, by
            augmentation: those whose strength was found on them.
        changed: Which of the measured photos, in the order of ids, an augmentation changes, by
            augmentation: those that change just a share of the photos.
    """

    relative: Mapping[str, np.ndarray] = field(default_factory=dict)
    changed: Mapping[str, np.ndarray] = field(default_factory=dict)

    def stratified(self, values: np.ndarray, variants: Variants) -> np.ndarray:
        """Values of photos, (N, C), with `stratum_values` where just a share of them is changed."""
        stratified = values
        for place, (name, severity) in enumerate(variants):
            if severity == MATCHED and name in self.changed:
                stratified = values.copy() if stratified is values else stratified
                column = stratified[:, place]
                stratified[:, place] = stratum_values(column, self.changed[name])
        return stratified

    def widened(
        self,
        means: Studentized,
        moved: np.ndarray,
        variants: Variants,
        seed: int,
        derive: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> Studentized:
        """Means of the shift with what the choice of the calibration photos adds to their errors.

        Args:
            means: Means over the measured photos, of the columns that ``derive`` makes.
            moved: The mean shift of each variant, shape (C,); 0 where nothing is to be added.
            variants: The C variants.
            seed: Seed of the resampling.
            derive: What makes the means' columns of those of the variants.
        """
        if not self.relative:
            return means
        photos = len(next(iter(self.relative.values())))
        values = np.zeros((photos, len(variants)))
        for place, (name, severity) in enumerate(variants):
            if severity == MATCHED and name in self.relative:
                values[:, place] = -moved[place] * self.relative[name]
        return means.widened(studentize(values, seed, derive))


UNMATCHED = Matching()
"""Where the strengths are given."""
