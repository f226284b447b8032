"""Selection of the photos of a source: subsets, and leaving out copies."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace

from clipshift.data.photos import Photo, UnreadablePhotoError, keyed_order, measurable
from clipshift.errors import UserError

SELECTION = ("skip", "limit", "skip_sample", "sample")
LOADING = ("resize", "batch_size", "num_workers", "weight", "vary")
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
        skip: Number of leading photos to leave out.
        limit: Largest number of photos to keep after these.
        skip_sample: Leave out the photos that ``sample`` of this number would choose.
        sample: Number of photos to choose at random from the rest.

    Returns:
        The photos in the list's order, and after them what the source leaves out
        (`Photo.left_out`), which is not counted in any of these numbers.

    Raises:
        UserError: If none are left.
    """
    left_out = [photo for photo in photos if photo.left_out is not None]
    readable = measurable(photos)
    listed = readable[skip:][:limit]
    if not listed:
        raise UserError(f"{skip} leaves none of the {len(readable)} photos", "skip")
    drawn = keyed_order(listed, "sample")[skip_sample:][:sample]
    if not drawn:
        raise UserError(f"{skip_sample} leaves none of the {len(listed)} photos", "skip_sample")
    return [listed[index] for index in sorted(drawn)] + left_out


def without_copies(photos: Sequence[Photo]) -> list[Photo]:
    """Leave out photos that have the same bytes as another, except the first of them by id.

    A copy adds no information. It would narrow intervals, be the nearest neighbour of its original,
    and leak from the photos that a map is fitted to into those that it is tested on. Only photos
    with the same length and the same bytes in their middle are read in full (`Photo.excerpt`), and
    no photos of shards that are streamed.

    Args:
        photos: The photos of a run.

    Returns:
        The photos in their order, and after them those that are left out.
    """
    originals: dict[str, str] = {}
    for alike in _alike(photos, lambda photo: photo.excerpt()):
        for copies in _alike(alike, lambda photo: hashlib.sha256(photo.read()).digest()):
            first, *others = sorted(photo.id for photo in copies)
            originals |= dict.fromkeys(others, first)
    marked = [
        replace(photo, left_out=f"the same file as {originals[photo.id]}")
        if photo.left_out is None and photo.id in originals
        else photo
        for photo in photos
    ]
    return sorted(marked, key=lambda photo: photo.left_out is not None)


def _alike(
    photos: Sequence[Photo], key: Callable[[Photo], Hashable | None]
) -> Iterator[list[Photo]]:
    """Groups of photos that share a key; photos that cannot be read have no key."""
    groups: dict[Hashable, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.left_out is not None:
            continue
        try:
            groups[key(photo)].append(photo)
        except (OSError, UnreadablePhotoError):
            continue  # it will be skipped and listed when it is measured
    groups.pop(None, None)
    return (group for group in groups.values() if len(group) > 1)
