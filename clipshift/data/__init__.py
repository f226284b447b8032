"""Photos in: where they come from, how they are read, and how they are batched."""

from clipshift.data.cache import Cache
from clipshift.data.dataset import (
    GONE,
    Batch,
    Skipped,
    View,
    ViewDataset,
    clean_view,
    collate,
)
from clipshift.data.files import read_json
from clipshift.data.memory import photos_of
from clipshift.data.photos import Photo, UnreadablePhotoError, as_rgb, decode, keyed_order
from clipshift.data.selection import select
from clipshift.data.shards import class_names, shards
from clipshift.data.sources import candidate_classes, captions, folder, sample
from clipshift.data.wordnet import imagenet_name, is_wordnet_id

__all__ = [
    "GONE",
    "Batch",
    "Cache",
    "Photo",
    "Skipped",
    "UnreadablePhotoError",
    "View",
    "ViewDataset",
    "as_rgb",
    "candidate_classes",
    "captions",
    "class_names",
    "clean_view",
    "collate",
    "decode",
    "folder",
    "imagenet_name",
    "is_wordnet_id",
    "keyed_order",
    "photos_of",
    "read_json",
    "sample",
    "select",
    "shards",
]
