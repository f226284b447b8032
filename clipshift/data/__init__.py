"""Photos in: where they come from, how they are read, and how they are batched."""

from clipshift.data.cache import Cache
from clipshift.data.classes import candidate_classes, read_lines
from clipshift.data.corrupted import imagenet_c
from clipshift.data.dataset import (
    GONE,
    NATIVE,
    Batch,
    Resize,
    Skipped,
    View,
    ViewDataset,
    clean_view,
    collate,
    native_resize,
    view_size,
)
from clipshift.data.download import is_url
from clipshift.data.files import open_file, read_json, read_text, typed
from clipshift.data.huggingface import huggingface
from clipshift.data.memory import photos_of
from clipshift.data.photos import Photo, UnreadablePhotoError, as_rgb, decode, keyed_order
from clipshift.data.selection import LOADING, SELECTION, select, without_copies
from clipshift.data.shards import class_names, shard_templates, shards
from clipshift.data.sources import captions, folder, sample
from clipshift.data.wordnet import (
    class_labels,
    imagenet_name,
    is_imagenet,
    is_wordnet_id,
    spoken_names,
)

__all__ = [
    "GONE",
    "LOADING",
    "NATIVE",
    "SELECTION",
    "Batch",
    "Cache",
    "Photo",
    "Resize",
    "Skipped",
    "UnreadablePhotoError",
    "View",
    "ViewDataset",
    "as_rgb",
    "candidate_classes",
    "captions",
    "class_labels",
    "class_names",
    "clean_view",
    "collate",
    "decode",
    "folder",
    "huggingface",
    "imagenet_c",
    "imagenet_name",
    "is_imagenet",
    "is_url",
    "is_wordnet_id",
    "keyed_order",
    "native_resize",
    "open_file",
    "photos_of",
    "read_json",
    "read_lines",
    "read_text",
    "sample",
    "select",
    "shard_templates",
    "shards",
    "spoken_names",
    "typed",
    "view_size",
    "without_copies",
]
