"""Calibration: the photos that are set aside for it, and the matched strengths found on them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.utils.data import default_collate

from clipshift.augment.chain import Chain
from clipshift.augment.geometric import Flip
from clipshift.augment.keyed import VIEW_SIZE, Augmentation, Draws, draw
from clipshift.augment.matching import (
    Calibration,
    CalibrationPhoto,
    Distortion,
    Match,
    displacement,
    match_strength,
    pixel_distortion,
)
from clipshift.augment.transforms import KeyedTransform
from clipshift.augment.variants import Variant
from clipshift.choices import choice_names, read_choice
from clipshift.data.dataset import Resize, Skipped, ViewDataset, draw_view
from clipshift.data.files import read_text, typed
from clipshift.data.photos import Photo, UnreadablePhotoError, decoded, keyed_order, measurable
from clipshift.errors import UserError
from clipshift.measure.facts import Facts, distance
from clipshift.measure.metrics import PhotoMeasure
from clipshift.options import EvaluateOptions
from clipshift.parts import make_measures, without_ladder
from clipshift.progress import tracked
from clipshift.results.runs import CALIBRATION
from clipshift.severities import MATCHED

SSIM, DISPLACEMENT = "ssim", "displacement"
STORED: TypeAdapter[Calibration] = TypeAdapter(Calibration)
BATCH = 25
DEFAULTS: dict[str, Any] = {"distortion": SSIM, "target": 0.7, "photos": 100}
"""What strengths are matched by, where neither the user nor a stored calibration says otherwise.
The target is that of SSIM and displacement; that of another measure is found, see `calibrate`."""


def distortion_of(
    name: str, measures: Mapping[str, PhotoMeasure] | None = None
) -> tuple[Distortion, Facts]:
    """A distortion by its name, and its facts.

    Args:
        name: ``displacement``, or the name of a measure of pixels.
        measures: The run's, by name: what is not among them is a choice of ``metric``.

    Raises:
        UserError: If there is no such measure, or it has no value that all clean views share.
    """
    if name == DISPLACEMENT:
        label = "mean displacement of pixels"
        return displacement, distance(label=label, short=name, definition=label, space="pixels")
    if name not in (measures or {}) and name in choice_names("metric"):
        measures = make_measures(read_choice("metric", name))
    measure = (measures or {}).get(name)
    if measure is None or measure.facts.space != "pixels" or measure.facts.unchanged is None:
        raise UserError(
            f"matching.distortion={name} is not a measure of pixels with one value for all clean "
            "views: use ssim, rmse, gmsd, mdsi, haarpsi, vsi, lpips, dists or displacement"
        )
    return pixel_distortion(measure.measure), measure.facts


def set_aside(photos: Sequence[Photo], count: int, seed: int) -> list[Photo]:
    """The photos to calibrate on: a random sample, the same whatever the order of the photos.

    Args:
        photos: The run's photos.
        count: How many; half of the photos at the most.
        seed: The run's seed.
    """
    listed = measurable(photos)
    order = keyed_order(listed, f"{seed}\0calibration")
    return [listed[index] for index in order[: min(count, len(listed) // 2)]]


def calibration_for(
    options: EvaluateOptions,
    photos: Sequence[Photo],
    augmentations: Mapping[str, Augmentation],
    nodes: Mapping[str, Mapping[str, Any]],
    resize: Resize,
    measures: Mapping[str, PhotoMeasure] | None = None,
) -> Calibration:
    """The calibration that is asked for: a stored one, or one on photos that are set aside.

    Args:
        options: What is asked for.
        photos: The run's photos.
        augmentations: Augmentations by name.
        nodes: What they are made from.
        resize: How photos become views.
        measures: The run's measures by name, one of which may be the distortion.

    Raises:
        UserError: If a stored one cannot be used or was made with other options ``matching`` than
            those set, an augmentation has no strength, or there are too few photos.
    """
    for name, augmentation in augmentations.items():
        if isinstance(augmentation, KeyedTransform):
            raise UserError(
                f"aug.{name} is a transform, which has no strength to match: leave it out, or "
                "choose severity=paper"
            )
    matching, parameters = options.matching, {n: without_ladder(node) for n, node in nodes.items()}
    asked = {name: value for name in DEFAULTS if (value := getattr(matching, name)) is not None}
    if matching.file:
        return load_calibration(Path(matching.file), parameters, resize, asked, measures)
    chosen: dict[str, Any] = DEFAULTS | asked
    calibrated_on = set_aside(photos, chosen["photos"], options.seed)
    if not calibrated_on:
        raise UserError("severity=matched sets photos aside to calibrate on: give at least 2")
    distortion, target = chosen["distortion"], chosen["target"]
    if distortion not in (SSIM, DISPLACEMENT):
        target = asked.get("target")
    return calibrate(
        calibrated_on, augmentations, distortion, target, options.seed, resize, parameters, measures
    )


def calibrate(
    photos: Sequence[Photo],
    augmentations: Mapping[str, Augmentation],
    distortion: str,
    target: float | None,
    seed: int,
    resize: Resize,
    parameters: Mapping[str, Mapping[str, Any]],
    measures: Mapping[str, PhotoMeasure] | None = None,
) -> Calibration:
    """Match the strengths of all augmentations on some photos.

    Args:
        photos: The photos set aside; those that cannot be read are left out.
        augmentations: Augmentations by name.
        distortion: See `distortion_of`.
        target: Its common mean; None for its median over the augmentations at an SSIM of 0.7,
            rounded to three digits.
        seed: The run's seed.
        resize: How photos become clean views.
        parameters: What the augmentations draw from, to be kept with the strengths.
        measures: The run's, by name, see `distortion_of`.

    Raises:
        UserError: If no photo can be read, or no augmentation reaches that SSIM.
    """
    measure, facts = distortion_of(distortion, measures)
    dataset = ViewDataset(photos, {}, seed, resize)
    items = [dataset[index] for index in tracked(range(len(photos)), "Reading photos to match")]
    read = [item for item in items if not isinstance(item, Skipped)]
    if not read:
        raise UserError("no photo to calibrate on can be read: matched severities need at least 2")
    used = [
        CalibrationPhoto(photos[i.index].id, i.digest.hex(), photos[i.index].length()) for i in read
    ]
    clean = torch.stack([item.clean for item in read]).split(BATCH)

    def distortions(name: str, by: Distortion) -> Callable[[float], np.ndarray]:
        """Those of the photos by strength; under flip, the means over all that it draws."""
        augmentation, of_read = augmentations[name], [photos[item.index] for item in read]
        draws_at = _draws_at(augmentation, name, of_read, seed, resize)

        @cache
        def at(strength: float) -> np.ndarray:
            if isinstance(augmentation, Flip) and 0 < strength < 1:
                return strength * at(1.0) + (1 - strength) * at(0.0)
            parts = zip(clean, draws_at(strength), strict=True)
            values = [by(augmentation, views, drawn, strength) for views, drawn in parts]
            return torch.cat(values).double().numpy()

        return at

    def matches(by: Distortion, target: float) -> dict[str, Match]:
        return {
            name: match_strength(distortions(name, by), target, augmentation.strongest)
            for name, augmentation in tracked(list(augmentations.items()), "Matching severities")
        }

    if target is None:
        at_ssim = matches(distortion_of(SSIM)[0], DEFAULTS["target"])
        reached = [(name, match.strength) for name, match in at_ssim.items() if match.reached]
        if not reached:
            raise UserError(f"matching.target of {distortion} has no default here: set it")
        means = [distortions(name, measure)(strength).mean() for name, strength in reached]
        target = float(f"{np.median(means):.3g}")
    kept = {name: dict(drawn_from) for name, drawn_from in parameters.items()}
    matched, of_clean = matches(measure, target), float(facts.unchanged or 0)
    return Calibration(
        distortion, target, seed, resize, kept, used, matched, of_clean, facts.definition
    )


def _draws_at(
    augmentation: Augmentation, name: str, photos: Sequence[Photo], seed: int, resize: Resize
) -> Callable[[float], list[Draws]]:
    """The draws for some photos in batches, by strength; files are edited anew at each."""

    def draws_at(strength: float) -> list[Draws]:
        drawn = []
        for photo in photos:
            key, image = (seed, photo.id, name), partial(decoded, photo)
            try:
                drawn.append(draw_view(augmentation, key, resize, image, [strength]))
            except (OSError, UnreadablePhotoError) as error:
                raise UserError(f"cannot calibrate on {photo.id}: {error}") from None
        return [default_collate(drawn[i : i + BATCH]) for i in range(0, len(drawn), BATCH)]

    if isinstance(augmentation, Chain) and augmentation.edits:
        return draws_at
    drawn = draws_at(1.0)
    return lambda strength: drawn


def load_calibration(
    file: Path,
    parameters: Mapping[str, Mapping[str, Any]],
    resize: Resize,
    asked: Mapping[str, Any],
    measures: Mapping[str, PhotoMeasure] | None = None,
) -> Calibration:
    """Read a stored calibration.

    Args:
        file: Its file.
        parameters: The run's augmentations' classes and what they draw from, by name.
        resize: How the run's photos become clean views.
        asked: What the user has set of ``distortion``, ``target`` and ``photos``.
        measures: The run's, by name, see `distortion_of`.

    Raises:
        UserError: If there is none, it is damaged or lacks an augmentation, or it was made with
            other views or otherwise than asked.
    """
    try:
        calibration = typed(STORED, read_text(file))
    except OSError as error:
        raise UserError(f"no calibration {file}: {error.strerror}; set matching.file") from None
    except ValueError as error:
        raise UserError(f"{file} is not a {CALIBRATION} of clipshift: {error}") from None
    try:
        calibration.check()
        _, facts = distortion_of(calibration.distortion, measures)
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; calibrate again") from None
    except UserError as error:
        raise UserError(f"{file} is not for this run: {error}") from None
    again = "calibrate again without matching.file"
    calibrated = calibration.matches.keys() & calibration.parameters.keys()
    if missing := [name for name in parameters if name not in calibrated]:
        raise UserError(f"{file} lacks {', '.join(missing)}: {again}")
    # Earlier versions kept no classes: each augmentation had one, that of clipshift.augment.
    classes = {name: options["_target_"].split(".")[-1] for name, options in parameters.items()}
    stored = {
        name: {"_target_": f"clipshift.augment.{classes[name]}"} | calibration.parameters[name]
        for name in parameters
    }
    if other := [name for name, options in parameters.items() if stored[name] != options]:
        raise UserError(f"{file} was made with other parameters of {', '.join(other)}: {again}")
    if calibration.resize != resize:
        raise UserError(f"{file} was made with data.resize={calibration.resize}: {again}")
    settings = matching_settings(calibration)
    for name, value in asked.items():
        if value != settings[name]:
            raise UserError(
                f"matching.{name}={value}, but {file} was made with {settings[name]}: leave one out"
            )
    if calibration.definition not in ("", facts.definition):
        raise UserError(f"{file} was made with another {calibration.distortion}: {again}")
    return replace(calibration, undistorted=float(facts.unchanged or 0))


def matched_strengths(
    calibration: Calibration,
    augmentations: Mapping[str, Augmentation],
    photos: Sequence[Photo],
    seed: int,
) -> dict[str, float]:
    """The strengths at severity ``matched`` of a run's photos.

    They are the calibration's, but for flip: the share of photos that it means, of numbers drawn
    for each photo alone, would be realised only roughly. Its strength is the number below which
    just that share of the run's photos has drawn.

    Args:
        calibration: The calibration.
        augmentations: The run's augmentations by name.
        photos: The photos to measure.
        seed: The run's seed.
    """
    strengths = {name: match.strength for name, match in calibration.matches.items()}
    ids = [photo.id for photo in measurable(photos)]
    for name, augmentation in augmentations.items():
        if isinstance(augmentation, Flip):
            turns = sorted(_turns(augmentation, name, ids, seed))
            share = min(strengths[name], augmentation.strongest)
            strengths[name] = [*turns, 1.0][round(share * len(turns))]
    return strengths


def mirrored_photos(
    variants: Iterable[Variant], photos: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """Which photos are changed by the augmentations that change just a share of them.

    Args:
        variants: The run's.
        photos: The ids of the photos that were measured.
        seed: The run's seed.

    Returns:
        Booleans by the augmentation's name, shape (N,).
    """
    return {
        v.name: np.array(_turns(v.augmentation, v.name, photos, seed)) < v.strength
        for v in variants
        if v.severity == MATCHED and isinstance(v.augmentation, Flip)
    }


def _turns(flip: Augmentation, name: str, photos: Sequence[str], seed: int) -> list[float]:
    return [draw(flip, seed, photo, name, VIEW_SIZE)["turn"].item() for photo in photos]


def left_to_measure(photos: Sequence[Photo], calibration: Calibration) -> list[Photo]:
    """The photos that are no calibration photos: neither by their ids nor by their content.

    Args:
        photos: The run's photos.
        calibration: The calibration.

    Raises:
        UserError: If there are none.
    """
    ids = {photo.id for photo in calibration.photos}
    digests = {photo.sha256 for photo in calibration.photos if photo.sha256}
    lengths = {photo.length for photo in calibration.photos if photo.sha256}

    def is_one(photo: Photo) -> bool:
        if photo.id in ids:
            return True
        try:
            if photo.length() not in lengths:  # most: their bytes need not be read
                return False
            return hashlib.sha256(photo.read()).hexdigest() in digests
        except (OSError, UnreadablePhotoError):
            return False  # it cannot be measured either, and is listed as such

    left = [photo for photo in photos if photo.left_out is not None or not is_one(photo)]
    if not measurable(left):
        raise UserError(
            f"all {len(photos)} photos are calibration photos or copies of them, which must not be "
            "measured: give more photos"
        )
    return left


def matching_settings(calibration: Calibration) -> dict[str, Any]:
    """What strengths were matched by: ``distortion``, ``target`` and the number of ``photos``."""
    photos = len(calibration.photos)
    return {"distortion": calibration.distortion, "target": calibration.target, "photos": photos}


def calibration_notes(calibration: Calibration, left_out: int) -> list[str]:
    """What a reader must know of matched severities: how they were matched, and which were not.

    Args:
        calibration: The calibration.
        left_out: How many of the run's photos are not measured because of it.
    """
    notes = [
        f"Matched severities: every augmentation at the strength where the mean "
        f"{calibration.distortion} of {len(calibration.photos)} calibration photos is "
        f"{calibration.target:g}. Photos with their ids or their content are not measured: "
        f"{left_out} here."
    ]
    if any(photo.sha256 is None for photo in calibration.photos):
        notes.append(
            f"This {CALIBRATION} is of an earlier version and knows its photos by their ids alone: "
            "the same photographs under other ids would be measured. Calibrate again to be sure."
        )
    unreached = {n: match for n, match in calibration.matches.items() if not match.reached}
    if missed := [f"{name} ({match.realised:.3g})" for name, match in unreached.items()]:
        notes.append(f"Not reachable, so at the nearest strength: {', '.join(missed)}.")
    return notes
