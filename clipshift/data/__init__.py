"""Photos in: where they come from, how they are read, and how they are batched."""

from clipshift.data.cache import Cache
from clipshift.data.dataset import (
    GONE,
    VIEW_SIZE,
    Batch,
    Skipped,
    UnrepeatedSampler,
    View,
    ViewData,
    ViewDataset,
    clean_view,
    collate,
)
from clipshift.data.files import read_json
from clipshift.data.photos import Photo, UnreadablePhotoError, as_rgb, decode, keyed_order
from clipshift.data.shards import shards
from clipshift.data.sources import captions, folder, sample
from clipshift.data.wordnet import is_wordnet_id

__all__ = [
    "GONE",
    "VIEW_SIZE",
    "Batch",
    "Cache",
    "Photo",
    "Skipped",
    "UnreadablePhotoError",
    "UnrepeatedSampler",
    "View",
    "ViewData",
    "ViewDataset",
    "as_rgb",
    "captions",
    "clean_view",
    "collate",
    "decode",
    "folder",
    "is_wordnet_id",
    "keyed_order",
    "read_json",
    "sample",
    "shards",
]
