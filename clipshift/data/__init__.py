"""Photos: where they come from, how they are read, and how they are batched."""

from clipshift.data.cache import Cache
from clipshift.data.corrupted import imagenet_c
from clipshift.data.huggingface import huggingface
from clipshift.data.photos import Photo
from clipshift.data.shards import shards
from clipshift.data.sources import captions, folder, sample

__all__ = ["Cache", "Photo", "captions", "folder", "huggingface", "imagenet_c", "sample", "shards"]
