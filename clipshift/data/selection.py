"""Which of a source's photos are measured."""

from collections.abc import Sequence

from clipshift.data.photos import Photo, keyed_order
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
