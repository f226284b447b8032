"""Encoders: open_clip models that turn views into embeddings and gaze, in one forward pass."""

from clipshift.encode.encoder import ENCODE_BATCH, Encoder, Features, load_encoder, model_config
from clipshift.encode.gaze import GazeProbe, contribution_shares, gaze_probe

__all__ = ["ENCODE_BATCH", "Encoder", "Features", "GazeProbe", "contribution_shares", "gaze_probe",
           "load_encoder", "model_config"]  # fmt: skip
