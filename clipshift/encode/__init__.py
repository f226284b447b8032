"""Encoders: models that turn views into embeddings and gaze, in one forward pass."""

from clipshift.encode.encoder import (
    ENCODE_BATCH,
    NAMES,
    SENTENCES,
    Encoder,
    Features,
    best_precision,
    load_encoder,
    model_config,
    model_outline,
)
from clipshift.encode.feature_cache import FeatureCache
from clipshift.encode.gaze import GazeProbe, contribution_shares, gaze_probe
from clipshift.encode.modules import as_encoder
from clipshift.encode.packing import packed_weights
from clipshift.encode.texts import (
    OPENAI,
    Vocabulary,
    ZeroShot,
    caption_embeddings,
    make_zero_shot,
    prompt_templates,
)
from clipshift.encode.weights import find_checkpoint, weights_are_here

__all__ = [
    "ENCODE_BATCH",
    "NAMES",
    "OPENAI",
    "SENTENCES",
    "Encoder",
    "FeatureCache",
    "Features",
    "GazeProbe",
    "Vocabulary",
    "ZeroShot",
    "as_encoder",
    "best_precision",
    "caption_embeddings",
    "contribution_shares",
    "find_checkpoint",
    "gaze_probe",
    "load_encoder",
    "make_zero_shot",
    "model_config",
    "model_outline",
    "packed_weights",
    "prompt_templates",
    "weights_are_here",
]
