"""The command ``clipshift check``: zero-shot accuracies beside the published ones."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from clipshift import pipeline
from clipshift.cli.build import instantiate_part, make_encoder
from clipshift.cli.config import plain
from clipshift.cli.trainer import trainer_maker
from clipshift.data.dataset import ViewDataset, native_resize
from clipshift.data.download import is_url
from clipshift.data.photos import Photo, measurable
from clipshift.data.shards import shard_templates
from clipshift.data.wordnet import is_imagenet
from clipshift.encode.encoder import Encoder
from clipshift.encode.texts import OPENAI, make_zero_shot
from clipshift.encode.weights import find_checkpoint, weights_are_here
from clipshift.errors import UserError
from clipshift.evaluate.accuracy import CleanAccuracy, clean_accuracy
from clipshift.evaluate.loading import ViewData
from clipshift.evaluate.module import RecordOptions, ShiftEvaluation
from clipshift.report.check import NOT_CHECKED, OUTSIDE, WITHIN, print_check
from clipshift.results.files import write_csv, write_json
from clipshift.results.records import Records
from clipshift.versions import CODE_SHA256, provenance

RECORDS = "check"
"""The folder, within that of the check, of what is measured until all of it is."""
SHARDS = "clipshift.data.shards"
MEASURES = ("top1", "cosine")
"""What a row may give a value of, see `clipshift.evaluate.accuracy.CleanAccuracy`."""


class NotHereError(Exception):
    """The weights or photos of a row are not here; the message says how to get them."""


def check(cfg: DictConfig, folder: Path) -> bool:
    """Measure what is here, and write and print how far it is from what was published.

    Goes on where the same check was interrupted in the same folder.

    Args:
        cfg: The composed and validated ``conf/evaluate.yaml`` with ``experiment=check``.
        folder: Where ``check.csv`` and ``check.json`` go.

    Returns:
        Whether nothing is outside the tolerance. Rows that were not checked do not count.

    Raises:
        UserError: If a row names no model, or the folder is in use.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    rows = plain(cfg.check)["rows"]
    if wrong := [row["model"] for row in rows if row["model"] not in cfg.check.models]:
        raise UserError(f"check.rows: no model {wrong[0]} among check.models")

    @cache
    def accuracy(model: str, data: str) -> CleanAccuracy | None:
        return measure_accuracy(cfg, model, data, folder / RECORDS / f"{model} {data}")

    with pipeline.locked(folder):
        table = pd.DataFrame([checked_row(cfg, row, accuracy) for row in rows])
        if not pipeline.is_first_process():
            return True
        write_csv(folder / "check.csv", table)
        listed = json.loads(table.to_json(orient="records"))
        facts = {"rows": listed, "config": plain(cfg.check), "precision": cfg.precision}
        write_json(folder / "check.json", facts | {"started": started} | provenance())
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
    print_check(table, folder / "check.csv")
    return not (table["within"] == OUTSIDE).any()


def checked_row(
    cfg: DictConfig, row: Mapping[str, Any], accuracy: Callable[[str, str], CleanAccuracy | None]
) -> dict[str, Any]:
    """A row of ``check.csv``: what was published, what we measure, and whether that is the same.

    Args:
        cfg: The configuration.
        row: One of ``check.rows``.
        accuracy: Measures a model on a data set, both by name.
    """
    (measure,) = (name for name in MEASURES if name in row)
    data_sets = [row["data"]] if isinstance(row["data"], str) else list(row["data"])
    checked = {
        "model": row["model"],
        "data": data_sets[0] if len(data_sets) == 1 else f"{len(data_sets)} data sets",
        "measure": measure,
        "published": float(row[measure]),
        "ours": None,
        "difference": None,
        "tolerance": float(row.get("tolerance", cfg.check.tolerance)),
        "within": NOT_CHECKED,
        "reason": "",
        "photos": None,
        "source": cfg.check.sources[row["source"]],
    }
    try:
        for name in data_sets:  # all of them before weights are downloaded
            photos_here(cfg, name)
        accuracies = [accuracy(row["model"], name) for name in data_sets]
    except NotHereError as error:
        return checked | {"reason": str(error)}
    except UserError as error:  # what is here cannot be used
        return checked | {"within": OUTSIDE, "reason": str(error)}
    if None in accuracies:  # another process than the first
        return checked
    ours = sum(100 * getattr(one, measure) for one in accuracies) / len(accuracies)
    difference = ours - checked["published"]
    within = WITHIN if abs(difference) <= checked["tolerance"] + 1e-9 else OUTSIDE
    photos = sum(one.photos for one in accuracies if one)
    return checked | {"ours": ours, "difference": difference, "within": within, "photos": photos}


def measure_accuracy(
    cfg: DictConfig, model_name: str, data: str, folder: Path
) -> CleanAccuracy | None:
    """A model's accuracy on a data set; None on other processes than the first.

    Args:
        cfg: The configuration.
        model_name: One of ``check.models``.
        data: The data set's name.
        folder: Where what is measured goes.

    Raises:
        NotHereError: If weights or photos are not here, or the photos are not those of the
            published value, by their number.
        UserError: If the model or the photos are here and cannot be used.
    """
    source, model = photos_here(cfg, data), model_here(cfg, model_name)
    listed: list[Photo] = instantiate_part(f"check.data.{data}", source)
    photos = [photo for photo in measurable(listed) if photo.label is not None]
    count = cfg.check.data.get(data, {}).get("photos")
    if count is not None and len(photos) != count:
        raise NotHereError(f"{data} has {len(photos):,} photos with a class here, not {count:,}")
    encoder, classes = encoder_of(model, cfg.precision), pipeline.classes_of(photos)
    templates: list[str] | str | None = None
    if source["_target_"] == SHARDS and not all(map(is_imagenet, classes)):
        templates = shard_templates(source["root"])
    zero_shot = make_zero_shot(encoder, photos, classes, templates or OPENAI)
    if zero_shot is None:
        raise UserError(f"{data} has fewer than two classes")
    resize = native_resize(encoder.preprocessing)
    records = Records(folder)
    if pipeline.is_first_process():
        print(f"{model['name']} on {data}: {len(photos):,} photos", flush=True)
        asked = json.dumps([[(photo.id, photo.label) for photo in photos], zero_shot.names])
        classifier = zero_shot.classifier.cpu().numpy().tobytes()
        digest = hashlib.sha256(asked.encode() + classifier).hexdigest()
        options = {"encoder": encoder.fingerprint, "resize": dict(resize)}
        options |= {"photos and classes": digest, "clipshift's code": CODE_SHA256}
        if records.begin(options, cfg.rerun):  # what an earlier check left had other options
            records.begin(options, restart=True)
    trainer = pipeline.evaluation_trainer(trainer_maker(plain(cfg.trainer)), folder)
    views = ViewDataset(photos, {}, cfg.seed, resize)
    batches = ViewData(views, cfg.data.batch_size, cfg.data.num_workers, records)
    module = ShiftEvaluation(encoder, {}, {}, records, RecordOptions())
    with pipeline.advice_on_memory():
        trainer.test(module, batches, verbose=False)
    records.gather()
    if not pipeline.is_first_process():
        return None
    accuracy = clean_accuracy(records, zero_shot)
    if accuracy.photos != len(photos):
        raise UserError(f"{data}: only {accuracy.photos:,} of {len(photos):,} photos can be read")
    return accuracy


def model_here(cfg: DictConfig, name: str) -> dict[str, Any]:
    """The configuration of a model whose weights are here, or may be downloaded.

    Raises:
        NotHereError: If they are not, and may not.
        UserError: If open_clip does not know such weights.
    """
    model: dict[str, Any] = plain(cfg.check.models[name])
    address = model.pop("address", None)
    for kind in ("checkpoint", "image_tower"):
        if (file := model.get(kind)) and not Path(file).exists():
            source = f"download {address}, and " if address else ""
            raise NotHereError(f"no weights {file}: {source}set check.models.{name}.{kind}=FILE")
    if model["checkpoint"]:
        return model
    architecture = model.get("weights_of", model["architecture"])
    if not cfg.check.download and not weights_are_here(architecture, model["pretrained"]):
        raise NotHereError("no weights: set check.download=true, or check.models.MODEL.checkpoint")
    return model


def encoder_of(model: Mapping[str, Any], precision: str) -> Encoder:
    """The encoder of `model_here`; its weights are downloaded if they are not here.

    Raises:
        NotHereError: If they cannot be downloaded.
        UserError: If they are here and cannot be used.
    """
    options = dict(model)
    trained_as = options.pop("weights_of", None)
    architecture, tag = trained_as or options["architecture"], options["pretrained"]
    try:
        if trained_as and not options["checkpoint"]:
            options["checkpoint"] = str(find_checkpoint(trained_as, tag)[0])
        return make_encoder(options, precision)
    except UserError as error:
        if options["checkpoint"] or weights_are_here(architecture, tag):
            raise
        raise NotHereError(str(error)) from error


def photos_here(cfg: DictConfig, name: str) -> dict[str, Any]:
    """The source of a data set that is here: a ``_target_`` and its options.

    Raises:
        NotHereError: If it is not.
    """
    source = plain(cfg.check.data).get(name, {})
    source.pop("photos", None)
    root, place = source.get("root"), cfg.check.shards
    if "_target_" not in source or ("root" in source and root is None):
        if not place:
            option = f"check.data.{name}.root=FOLDER or " if "root" in source else ""
            raise NotHereError(f"no photos: set {option}check.shards=FOLDER/wds_{{}}")
        root = str(place).replace("{}", name)
        source = {"_target_": SHARDS, "root": root}
    if root is not None and not is_url(root) and not Path(root).expanduser().exists():
        raise NotHereError(f"no photos: there is no {root}")
    return {key: value for key, value in source.items() if value is not None}
