"""The photo explorer of a page: every photo's numbers, and pictures and gaze of some."""

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from clipshift.augment.keyed import MovingAugmentation
from clipshift.augment.variants import Variant, strengths_of
from clipshift.data.dataset import View, ViewDataset, as_picture, collate
from clipshift.errors import UserError, did_you_mean
from clipshift.measure.functional import gaze_moved_back
from clipshift.report.charts.gaze import HEAT, OPACITY, gaze_over_each, share_of
from clipshift.report.shift import COSINE, headline_measure, shift_name
from clipshift.report.words import faithful_in_words
from clipshift.results.change import shown_measures
from clipshift.results.kept import SHOWN_PHOTOS, read_kept, read_nearest
from clipshift.results.measured import CLEAN
from clipshift.results.ranking import shown_photos
from clipshift.results.runs import Run
from clipshift.results.table import Shift, by_photo, labels_of
from clipshift.severities import split_view_name

PICTURES = 480
"""How many pictures a page holds at the most, so that it stays small with many severities."""
FEW_PICTURES = 250
"""Up to so many pictures are as large as the views, more are `SMALL`."""
SMALL = 160
"""The side of a small picture in pixels."""
LISTED = 2000
"""How many photos a page lists at the most: half of them moved most, half moved least."""


def explorer_data(runs: Mapping[str, Run], dataset: ViewDataset | None) -> dict[str, Any]:
    """What the photo explorer shows, for JSON.

    Args:
        runs: One run, or two on the same views, by the names of their models.
        dataset: Their photos; of those that are gone or not what was measured any more, and without
            it, there are numbers alone.

    Returns:
        ``models``, the ``kinds`` of their gaze, and how ``faithful`` it is in words; ``heat`` and
        ``opacity``, by which it is drawn (`clipshift.report.charts.gaze`); ``measure``, the shift
        that photos are sorted by; ``variants`` (augmentation and severity of each); ``measures``
        (name and label of each);
        ``photos``, each with ``id``, ``label`` and ``shifts`` (by model and variant), the one that
        the first model moves most first; ``unlisted``, how many more there are; and ``shown`` by
        photo id, with ``part`` (``most``, ``typical`` or ``least``), ``pictures`` (data URLs,
        clean first) and, by model, ``values`` (by measure and variant), ``nearest`` (classes by
        view, clean first) and ``gaze`` (see `encoded_gazes`).
    """
    every = list(runs.values())
    first = every[0]
    keys = list(view_keys(first).values())
    common = set.intersection(*(set(run.rows) for run in every))
    headlines = {headline_measure(run.summary) or COSINE for run in every}
    measure = headlines.pop() if len(headlines) == 1 else COSINE
    measures = [m for m in shown_measures(first.summary, first.columns) if m in common]
    photos, unlisted = photo_rows([run.rows for run in every], keys, measure)
    count = min(SHOWN_PHOTOS, max(3, PICTURES // (1 + len(keys))))
    parts = chosen_photos(every, count)
    variants = variants_of(first, dataset) if dataset is not None else {}
    views = views_of(first, dataset, list(parts)) if dataset is not None else {}
    pictures = encoded_pictures(variants, views)
    shown: dict[str, dict[str, Any]] = {
        photo: {"part": part, "pictures": pictures.get(photo, []), "models": []}
        for photo, part in parts.items()
    }
    for run in every:
        gazes = encoded_gazes(run, variants, views)
        for photo, of_model in shown_numbers(run, list(parts), keys, measures).items():
            shown[photo]["models"].append(of_model | {"gaze": gazes.get(photo)})
    return {
        "models": list(runs),
        "kinds": [run.info.model.gaze for run in every],
        "faithful": [faithful_in_words(run) for run in every],
        "heat": HEAT,
        "opacity": OPACITY,
        "measure": shift_name(measure),
        "variants": keys,
        "measures": [[name, first.columns[name].short] for name in measures],
        "photos": photos,
        "unlisted": unlisted,
        "shown": shown,
    }


def chosen_photos(runs: Sequence[Run], count: int) -> dict[str, str]:
    """The photos to show, as `shown_photos` of the first run; of two, those both chose come first.

    Args:
        runs: The runs.
        count: How many.
    """
    parts = [shown_photos(run.rows, SHOWN_PHOTOS if len(runs) > 1 else count) for run in runs]
    order = sorted(parts[0], key=lambda photo: not all(photo in chosen for chosen in parts))
    return {photo: parts[0][photo] for photo in order[:count]}


def shown_numbers(
    run: Run, photos: Sequence[str], keys: Sequence[tuple[str, str]], measures: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Some photos' ``values`` and ``nearest`` by photo id, see `explorer_data`."""
    tables = {
        name: numbers(by_photo(run.rows, name).reindex(index=photos, columns=keys))
        for name in measures
    }
    classes = read_nearest(run.folder)
    views = [CLEAN, *run.info.strengths]
    rows = {}
    for row, photo in enumerate(photos):
        nearest = classes.get(photo, {})
        rows[photo] = {
            "values": {name: table[row] for name, table in tables.items()},
            "nearest": [nearest[view] for view in views] if nearest.keys() >= set(views) else None,
        }
    return rows


def numbers(table: pd.DataFrame) -> list[list[float | None]]:
    """The rows of a table to four decimals for JSON, which has no NaN."""
    values = table.to_numpy().round(4).astype(object)
    values[~np.isfinite(table)] = None
    return values.tolist()


def photo_rows(
    shifts: Sequence[Shift], keys: Sequence[tuple[str, str]], measure: str
) -> tuple[list[dict[str, Any]], int]:
    """Every photo's shift under every variant, the most moved first.

    Args:
        shifts: From `clipshift.results.table.shift_table`, or its file, one for each model.
        keys: Augmentation and severity of each variant.
        measure: One of `HEADLINE_MEASURES`.

    Returns:
        The rows, at most `LISTED`; and how many photos are left out between most and least moved.
    """
    labels = labels_of(shifts[0])
    if measure not in shifts[0]:
        return [], len(labels)
    tables = [by_photo(shift, measure)[list(keys)] for shift in shifts]
    if measure == COSINE:
        tables = [1 - table for table in tables]
    means = tables[0].mean(axis=1).sort_values(ascending=False, kind="stable")
    order = list(means.index)
    unlisted = max(0, len(order) - LISTED)
    if unlisted:
        order = [*order[: LISTED // 2], *order[-(LISTED // 2) :]]
    shifts_of = zip(*(numbers(table.loc[order]) for table in tables), strict=True)
    rows = [
        {"id": photo, "label": label if isinstance(label, str) else "", "shifts": list(by_model)}
        for photo, label, by_model in zip(order, labels[order], shifts_of, strict=True)
    ]
    return rows, unlisted


def view_keys(run: Run) -> dict[str, tuple[str, str]]:
    """The augmentation and the severity of each view of a run, by view name."""
    only = run.rows.head(1)["severity"].iloc[0]
    parts = {view: split_view_name(view) for view in run.info.strengths}
    return {view: (name, severity or only) for view, (name, severity) in parts.items()}


def variants_of(run: Run, dataset: ViewDataset) -> dict[str, Variant]:
    """The variants of a run, by view name."""
    strengths = run.info.strengths
    return {
        view: Variant(name, severity, dataset.augmentations[name], strengths[view])
        for view, (name, severity) in view_keys(run).items()
    }


def views_of(run: Run, dataset: ViewDataset, photos: Sequence[str]) -> dict[str, View]:
    """The views of photos by their ids, of those that can still be read and have not changed."""
    measured = run.info.data.shown_sha256
    strengths = strengths_of(variants_of(run, dataset).values())
    dataset = replace(dataset, strengths=strengths)
    index = {photo.id: position for position, photo in enumerate(dataset.photos)}
    items = {photo: dataset[index[photo]] for photo in photos if photo in index}
    return {
        photo: item
        for photo, item in items.items()
        if isinstance(item, View) and measured.get(photo, item.digest.hex()) == item.digest.hex()
    }


def encoded_pictures(
    variants: Mapping[str, Variant], views: Mapping[str, View]
) -> dict[str, list[str]]:
    """The clean view of each photo and its views under all variants, as they were measured.

    Args:
        variants: By view name.
        views: By photo id.

    Returns:
        Data URLs by photo id.
    """
    if not views:
        return {}
    batch = collate(list(views.values()))
    side = None if len(views) * (1 + len(variants)) <= FEW_PICTURES else SMALL
    columns = [batch.clean, *batch.under(variants).values()]
    with ThreadPoolExecutor() as pool:
        encoded = [list(pool.map(partial(data_url, side=side), column)) for column in columns]
    return {photo: [column[row] for column in encoded] for row, photo in enumerate(views)}


def data_url(picture: Tensor | Image.Image, side: int | None = None) -> str:
    """A picture as an image that a page can hold.

    Args:
        picture: The picture, or its pixels in [0, 1], shape (3, H, W).
        side: Of the image, in pixels; None leaves it as it is.
    """
    image = as_picture(picture) if isinstance(picture, Tensor) else picture
    if side is not None:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=75)  # WebP as close to the pixels takes ten times as long
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def encoded_gazes(
    run: Run, variants: Mapping[str, Variant], views: Mapping[str, View]
) -> dict[str, dict[str, Any]]:
    """The gaze on each view of some photos, and moved back onto the photo where pixels moved.

    Args:
        run: The run, of whose photos some have their gaze in ``gaze.safetensors``.
        variants: By view name.
        views: By photo id.

    Returns:
        By photo id: ``shape`` (rows and columns), ``maps`` (of the clean view, then by variant),
        ``back`` (by variant, None where pixels did not move) and, where it was measured, ``shift``
        (by variant, where heads gather what moves the embedding on). A map is the gaze divided by
        its sum, as ``[greatest value, base64 of bytes]``: a byte of 255 stands for the greatest
        value.
    """
    kept = {photo: gaze for photo, gaze in read_kept(run.folder).items() if photo in views}
    located = read_kept(run.folder, "locations")
    if not kept:
        return {}
    batch = collate([views[photo] for photo in kept])
    names = [CLEAN, *variants]
    maps = {name: np.stack([gaze[name] for gaze in kept.values()]) for name in names}
    back: dict[str, np.ndarray] = {}
    for name, variant in variants.items():
        augmentation = variant.augmentation
        if augmentation.moves_pixels and isinstance(augmentation, MovingAugmentation):
            move_back = partial(
                augmentation.move_back, draws=batch.draws[variant.name], strength=variant.strength
            )
            gaze = torch.from_numpy(maps[name])
            back[name] = gaze_moved_back(gaze, move_back, batch.clean.shape[-1]).numpy()
    return {
        photo: {
            "shape": list(maps[CLEAN].shape[1:]),
            "maps": [encoded_gaze(maps[name][row]) for name in names],
            "back": [encoded_gaze(back[n][row]) if n in back else None for n in variants],
            "shift": [encoded_gaze(of[n][-gaze[n].size :].clip(0)) for n in variants]
            if (of := located.get(photo))
            else None,
        }
        for row, (photo, gaze) in enumerate(kept.items())
    }


def gazed_pictures(run: Run, dataset: ViewDataset | UserError, photo: str) -> dict[str, str]:
    """A photo's views with the model's gaze over them, see `gaze_over_each`.

    Args:
        run: The run.
        dataset: Its photos, or why there are none; where the run kept this photo's views, they are
            not needed.
        photo: The id of one.

    Returns:
        Data URLs by view name.

    Raises:
        UserError: If the model has no gaze, the run has no such photo or kept no gaze of it, or the
            photo can no longer be read.
    """
    model, photos = run.info.model, labels_of(run.rows).index
    if model.gaze is None:
        raise UserError(
            f"{model.name} has no gaze: its image tower pools neither by one query of attention "
            "nor by averaging locations; `clipshift models` lists models that have one"
        )
    if photo not in photos:
        raise UserError(f"no photo {photo!r} in the run{did_you_mean(photo, photos)}")
    gaze = read_kept(run.folder).get(photo)
    if gaze is None:
        raise UserError(
            f"the gaze on {photo} was not kept: measure with save.gaze=N (in Python, save_gaze=N), "
            "which keeps that on the first N photos"
        )
    pixels = read_kept(run.folder, "views").get(photo)
    if pixels is None:
        if isinstance(dataset, UserError):
            raise dataset
        views = views_of(run, dataset, [photo])
        if not views:
            raise UserError(
                f"{photo} cannot be shown: it cannot be read any more, or is not the file that was "
                "measured"
            )
        batch = collate([views[photo]])
        every = {CLEAN: batch.clean} | batch.under(variants_of(run, dataset))
        pixels = {name: view[0].numpy() for name, view in every.items()}
    names = [CLEAN, *run.info.strengths]
    pictures = {name: as_picture(torch.from_numpy(pixels[name])) for name in names}
    return {name: data_url(seen) for name, seen in gaze_over_each(pictures, gaze).items()}


def from_data_url(url: str) -> Image.Image:
    """The picture that `data_url` holds."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def gazed(
    pictures: Sequence[Image.Image], gaze: Mapping[str, Any] | None
) -> list[Image.Image | None]:
    """Pictures of a photo's views with the gaze over them, see `gaze_over_each`.

    Args:
        pictures: Clean first.
        gaze: Of one photo, from `encoded_gazes`; None where it was not kept.

    Returns:
        One for each; None where the gaze is not known.
    """
    maps = {
        index: kept[0] * np.frombuffer(base64.b64decode(kept[1]), np.uint8).reshape(gaze["shape"])
        for index, kept in enumerate(gaze["maps"] if gaze else ())
        if gaze and kept
    }
    seen = gaze_over_each(dict(enumerate(pictures)), maps)
    return [seen.get(index) for index in range(len(pictures))]


def encoded_gaze(gaze: np.ndarray) -> list[Any] | None:
    """A gaze as `encoded_gazes` gives it; None where it has no sum."""
    shares = share_of(gaze)
    if shares is None:
        return None
    most = shares.max()
    levels = np.round(255 * shares / most).astype(np.uint8)
    return [float(f"{most:.4g}"), base64.b64encode(levels.tobytes()).decode()]
