"""From a configuration to the parts that it names."""

from functools import lru_cache
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from clipshift.augment import MATCHED, Augmentation
from clipshift.cli.config import plain
from clipshift.data import Cache, Photo, captions, folder, keyed_order, sample, shards
from clipshift.encode import Encoder, load_encoder
from clipshift.errors import UserError
from clipshift.evaluate import Evaluation
from clipshift.evaluate.calibration import calibration_for, calibration_notes, left_to_measure


@lru_cache(maxsize=2)
def encoder_for(
    architecture: str, pretrained: str | None, checkpoint: str | None, precision: str
) -> Encoder:
    """`load_encoder`, once for all jobs of a process."""
    return load_encoder(architecture, pretrained, checkpoint, precision)


def load_photos(data: DictConfig) -> tuple[list[Photo], list[str]]:
    """The photos of a ``data`` configuration, and the classes of all photos in its source.

    ``skip`` and ``limit`` cut the source's list; of what they leave, ``skip_sample`` and ``sample``
    cut a random order that depends on the photos' ids alone. The photos come in the list's order.

    Raises:
        UserError: If there are none.
    """
    if data.source == "sample":
        photos = sample()
    elif data.source == "folder":
        photos = folder(data.root)
    elif data.source == "shards":
        photos = shards(data.root, data.pattern)
    else:
        photos = captions(data.csv_file, data.root)
    classes = sorted({photo.label for photo in photos if photo.label is not None})
    if not photos:
        raise UserError(f"no photos in {data.root}")
    listed = photos[data.skip :][: data.limit]
    if not listed:
        raise UserError(f"data.skip={data.skip} leaves none of the {len(photos)} photos")
    drawn = keyed_order(listed, "sample")[data.skip_sample :][: data.sample]
    if not drawn:
        raise UserError(
            f"data.skip_sample={data.skip_sample} leaves none of the {len(listed)} photos"
        )
    return [listed[index] for index in sorted(drawn)], classes


def make_augmentations(
    aug: dict[str, Any],
) -> tuple[dict[str, Augmentation], dict[str, list[float]]]:
    """The augmentations of an ``aug`` configuration, and their strengths at severity 1 to 5."""
    ladders = {name: node.pop("ladder") for name, node in aug.items()}
    return {name: instantiate(node) for name, node in aug.items()}, ladders


def make_cache(cfg: DictConfig) -> tuple[Cache | None, list[str]]:
    """The cache, or None where it is off; and why it is, if that was not asked for."""
    try:
        return instantiate(cfg.cache) if cfg.cache else None, []
    except InstantiationException as error:
        return None, [f"The cache is off: {error.__cause__} (cache.folder={cfg.cache.folder})."]


def make_evaluation(
    cfg: DictConfig, photos: list[Photo], classes: list[str], encoder: Encoder
) -> Evaluation:
    """The evaluation of photos and a model that a configuration describes.

    Raises:
        UserError: If matched severities are asked for, and the photos are too few for them or the
            stored calibration cannot be used.
    """
    augmentations, ladders = make_augmentations(plain(cfg.aug))
    severities = [str(severity) for severity in as_list(cfg.severity)]
    calibration, notes = None, []
    if MATCHED in severities:
        calibration = calibration_for(cfg, photos, augmentations)
        given, photos = len(photos), left_to_measure(photos, calibration)
        notes = calibration_notes(calibration, given - len(photos))
    return Evaluation(
        photos=photos,
        classes=classes,
        encoder=encoder,
        augmentations=augmentations,
        ladders=ladders,
        severities=severities,
        measures={name: instantiate(node) for name, node in plain(cfg.metric).items()},
        templates=list(cfg.prompts.templates),
        seed=cfg.seed,
        resize=cfg.data.resize,
        calibration=calibration,
        layers=cfg.layers,
        gallery=cfg.gallery,
        save_embeddings=cfg.save.embeddings,
        save_views=cfg.save.views,
        save_gaze=cfg.save.gaze,
        notes=notes,
    )


def as_list(value: Any) -> list[Any]:
    """A configured list as it is, and a single value as a list of one."""
    return list(value) if OmegaConf.is_list(value) else [value]
