"""Which of a source's photos are measured: not those left out, nor copies of others."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace

from clipshift.data.photos import Photo, UnreadablePhotoError, keyed_order
from clipshift.errors import UserError

SELECTION = ("skip", "limit", "skip_sample", "sample")
LOADING = ("resize", "batch_size", "num_workers")
"""Options of ``data`` that are not parameters of its source."""


def select(
    photos: Sequence[Photo],
    skip: int | None = None,
    limit: int | None = None,
    skip_sample: int | None = None,
    sample: int | None = None,
) -> list[Photo]:
    """Choose photos of a list.

    ``skip`` and ``limit`` cut the list; of what they leave, ``skip_sample`` and ``sample`` cut a
    random order that depends on the photos' ids alone.

    Args:
        photos: A source's list.
        skip: Leave out so many first photos.
        limit: Of the others, take so many first.
        skip_sample: Of these, leave out those that ``sample`` of this number would choose.
        sample: Of the rest, take so many at random.

    Returns:
        The photos in the list's order, and after them what the source leaves out
        (`Photo.left_out`), which counts in none of these.

    Raises:
        UserError: If none are left.
    """
    left_out = [photo for photo in photos if photo.left_out is not None]
    found = [photo for photo in photos if photo.left_out is None]
    listed = found[skip:][:limit]
    if not listed:
        raise UserError(f"{skip} leaves none of the {len(found)} photos", "skip")
    drawn = keyed_order(listed, "sample")[skip_sample:][:sample]
    if not drawn:
        raise UserError(f"{skip_sample} leaves none of the {len(listed)} photos", "skip_sample")
    return [listed[index] for index in sorted(drawn)] + left_out


def without_copies(photos: Sequence[Photo]) -> list[Photo]:
    """Leave out photos that have the same bytes as another: of these the first by id stays.

    A copy is no photo more. It would narrow intervals, be the nearest neighbour of its original,
    and stand among the photos that a map is tested on as well as among those it was made of. Only
    photos of one length with the same bytes in their middle are read in full (`Photo.excerpt`), and
    none of a shard that is streamed.

    Args:
        photos: The photos of a run.

    Returns:
        The photos in their order, and after them what is left out.
    """
    originals: dict[str, str] = {}
    for alike in _alike(photos, lambda photo: photo.excerpt()):
        for copies in _alike(alike, lambda photo: hashlib.sha256(photo.read()).digest()):
            first, *others = sorted(photo.id for photo in copies)
            originals |= dict.fromkeys(others, first)
    told = [
        replace(photo, left_out=f"the same file as {originals[photo.id]}")
        if photo.left_out is None and photo.id in originals
        else photo
        for photo in photos
    ]
    return sorted(told, key=lambda photo: photo.left_out is not None)


def _alike(
    photos: Sequence[Photo], key: Callable[[Photo], Hashable | None]
) -> Iterator[list[Photo]]:
    """The photos that share a key with others, key by key; those that cannot be read have none."""
    found: dict[Hashable, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.left_out is not None:
            continue
        try:
            found[key(photo)].append(photo)
        except (OSError, UnreadablePhotoError):
            continue  # it cannot be measured either, and is listed as such
    found.pop(None, None)
    return (alike for alike in found.values() if len(alike) > 1)
