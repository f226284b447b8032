"""Encoders: models that turn views into embeddings and gaze, in one forward pass."""

from typing import TYPE_CHECKING

from clipshift.lazy import lazy_names

if TYPE_CHECKING:
    from clipshift.encode.encoder import Encoder, Features
    from clipshift.encode.kinds import load_encoder
    from clipshift.encode.modules import as_encoder

__all__ = ["Encoder", "Features", "as_encoder", "load_encoder"]
__getattr__ = lazy_names(__name__, __all__, "encoder", "kinds", "modules")
