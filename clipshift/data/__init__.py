"""Photos in: where they come from, how they are read, and how they are batched."""

from clipshift.data.cache import Cache
from clipshift.data.dataset import (
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
from clipshift.data.photos import Photo, UnreadablePhotoError, as_rgb, decode, keyed_order
from clipshift.data.shards import shards
from clipshift.data.sources import candidate_classes, captions, folder, sample
from clipshift.data.wordnet import imagenet_name, is_wordnet_id

__all__ = [
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
    "candidate_classes",
    "captions",
    "clean_view",
    "collate",
    "decode",
    "folder",
    "imagenet_name",
    "is_wordnet_id",
    "keyed_order",
    "sample",
    "shards",
]
