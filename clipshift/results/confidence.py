"""Whether zero-shot confidence can be trusted, clean and under each variant."""

import numpy as np
import pandas as pd

from clipshift.measure import confidence as measures
from clipshift.results.columns import DEFINITIONS
from clipshift.results.intervals import share_interval, unit_interval
from clipshift.results.measured import CLEAN
from clipshift.results.table import Shift, by_photo

VALUES = {
    "ece": measures.calibration_values,
    "aurc": measures.risk_coverage_values,
    "auroc": measures.auroc_values,
    "accuracy": lambda _, hit: hit,
    "confidence": lambda confidence, _: confidence,
}
"""What each photo adds to a measure of confidence and hits, see `clipshift.measure.confidence`."""


def confidence_table(shift: Shift, seed: int, groups: np.ndarray | None) -> pd.DataFrame:
    """The measures of `VALUES` with 95 % intervals, clean and under each variant.

    Intervals are `unit_interval`, that of ``accuracy`` `share_interval`. The lower end of
    ``ece`` is lowered by `clipshift.measure.confidence.calibration_noise`.

    Args:
        shift: From `clipshift.results.table.shift_table`, or its file.
        seed: Seed of the resampling.
        groups: The group of each photo, which is resampled whole, integers, photos in the order of
            ids; None where photos are independent.

    Returns:
        One row per (augmentation, severity, measure), also of the clean views at each severity;
        empty without zero-shot answers.
    """
    rows: dict[tuple[str, str, str], tuple[float, int]] = {}
    columns, noise, shares = [], [], []
    for end in ("_clean", "") if "confidence" in shift else ():
        confidences, every = (
            by_photo(shift, f"{n}{end}") for n in ("confidence", "zero_shot_top1")
        )
        for augmentation, severity in confidences:
            name = CLEAN if end else augmentation
            answers = np.stack([of[augmentation, severity] for of in (confidences, every)])
            answered = np.isfinite(answers).all(axis=0)
            if (name, severity, "ece") in rows or not answered.any():
                continue
            confidence, hit = answers[:, answered]
            for measure, values in VALUES.items():
                of_photos = np.full(len(answered), np.nan)
                of_photos[answered] = values(confidence, hit)
                rows[name, severity, measure] = of_photos[answered].mean(), len(hit)
                columns.append(of_photos)
            noise.append(measures.calibration_noise(confidence, hit))
            shares.append(share_interval(np.where(answered, answers[1], np.nan), groups))
    if not rows:
        return pd.DataFrame(columns=list(DEFINITIONS["confidence"]))
    low, high = unit_interval(np.transpose(columns), seed, groups)
    cells = [(*key, *cell) for key, cell in rows.items()]
    table = pd.DataFrame(cells, columns=["augmentation", "severity", "measure", "mean", "n"])
    table = table.assign(ci_low=low, ci_high=high)[list(DEFINITIONS["confidence"])]
    table.loc[table["measure"] == "ece", "ci_low"] -= noise
    table.loc[table["measure"] == "accuracy", ["ci_low", "ci_high"]] = shares
    return table.assign(ci_low=table["ci_low"].clip(lower=0))
