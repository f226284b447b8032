"""What a run keeps of single photos: embeddings, views, gazes, and nearest classes."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from clipshift.data.files import open_file, read_text, typed
from clipshift.data.photos import Photo
from clipshift.errors import UserError
from clipshift.options import SaveOptions
from clipshift.results.files import write_json, write_whole
from clipshift.results.measured import CLEAN, Measured

SHOWN_PHOTOS = 24
"""The number of photos with pictures on a run's page (`shown_photos`), whose gaze is written."""
GAZED_PHOTOS = 500
"""The number of leading photos whose gaze is kept until those that the page shows are chosen."""
DIMENSIONS = {"gaze": 3, "views": 4, "locations": 2}
"""The dimensions of what `read_kept` reads, with the first for the photos."""
EMBEDDINGS = "embeddings.safetensors"
NEAREST = "nearest.json"
Nearest = dict[str, dict[str, list[tuple[str, float]]]]
"""Classes and their cosines, the nearest first, by photo id and view."""
NEAREST_CLASSES: TypeAdapter[Nearest] = TypeAdapter(Nearest)
IDS: TypeAdapter[list[str]] = TypeAdapter(list[str])


def write_tensors(
    folder: Path,
    measured: Measured,
    photos: Sequence[Photo],
    save: SaveOptions,
    shown: Collection[str],
) -> None:
    """Write ``embeddings`` of all views where kept, ``views``, ``gaze`` and its like.

    As safetensors: each holds one tensor per view (``clean`` or an augmentation; ``locations`` only
    of augmentations), photos in the order of the run's list, and the photos' ids as a JSON list
    under ``photos`` in the metadata.

    Args:
        folder: The run's folder.
        measured: What was measured.
        photos: The run's photos.
        save: The numbers of leading photos of which views, gazes with locations, and gazes head by
            head are written.
        shown: Ids of photos whose gazes and locations are written as well, where they were kept.
    """
    if len(measured.embeddings) > 1:  # those of the clean views are always there
        ids = [photos[index].id for index in measured.index]
        _write_views(folder / EMBEDDINGS, measured.embeddings, ids)
    for file, kept, count, more in (
        ("views", measured.views, save.views, ()),
        ("gaze", measured.gazes, save.gaze, shown),
        ("locations", measured.locations, save.gaze, shown),
        ("gaze_heads", measured.heads, save.gaze_heads, ()),
    ):
        photos_kept = next(iter(kept.values()), {})
        indices = sorted(
            index for index in photos_kept if index < count or photos[index].id in more
        )
        if indices:
            stacked = {name: np.stack([rows[i] for i in indices]) for name, rows in kept.items()}
            _write_views(folder / f"{file}.safetensors", stacked, [photos[i].id for i in indices])


def _write_views(path: Path, tensors: Mapping[str, np.ndarray], ids: Sequence[str]) -> None:
    metadata = {"photos": json.dumps(list(ids))}
    # safetensors writes memory as it lies
    contiguous = {name: np.ascontiguousarray(rows) for name, rows in tensors.items()}
    write_whole(path, lambda partial: save_file(contiguous, partial, metadata))


def write_nearest(
    folder: Path,
    measured: Measured,
    photos: Sequence[Photo],
    classes: Sequence[str],
    shown: Collection[str],
) -> None:
    """Write ``nearest.json``: the classes nearest to each view of some photos, nearest first.

    Args:
        folder: The run's folder.
        measured: What was measured.
        photos: The run's photos.
        classes: Their classes' names.
        shown: Ids of the photos, of which those are written that were kept.
    """
    clean = measured.nearest.get(CLEAN, {})
    content = {
        photos[index].id: {
            view: [[classes[int(k)], round(float(cosine), 6)] for k, cosine in rows[index]]
            for view, rows in measured.nearest.items()
        }
        for index in sorted(clean)
        if photos[index].id in shown
    }
    if content:
        write_json(folder / NEAREST, content)


def read_nearest(folder: Path) -> Nearest:
    """The classes nearest to each view, by photo id and view; empty where a run kept none.

    Raises:
        UserError: If the file is damaged.
    """
    file = folder / NEAREST
    try:
        return typed(NEAREST_CLASSES, read_text(file)) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}. Delete it, or measure again") from None


def read_kept(folder: Path, kind: str = "gaze") -> dict[str, dict[str, np.ndarray]]:
    """What a run kept of photos, by photo id and view; empty where it kept none.

    Args:
        folder: The run's folder.
        kind: ``gaze``, of which each is a map (h, w); ``views``, pixels in [0, 1], (3, H, W); or
            ``locations``, see `Measured.locations`, (tokens,).

    Raises:
        UserError: If the file is damaged.
    """
    file = folder / f"{kind}.safetensors"
    if not file.exists():
        return {}
    try:
        open_file(file).close()
        with safe_open(file, "np") as stored:
            ids = typed(IDS, (stored.metadata() or {}).get("photos", ""))
            views = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        for name, rows in views.items():
            expected = DIMENSIONS[kind], len(ids)
            if (rows.ndim, *rows.shape[:1]) != expected or not np.isfinite(rows).all():
                raise ValueError(f"{name} has not one of each of its {len(ids)} photos")
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {file}: {error}. Delete it, or measure again") from None
    return {
        photo: {view: rows[index] for view, rows in views.items()}
        for index, photo in enumerate(ids)
    }
