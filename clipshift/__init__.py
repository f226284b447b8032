"""Measure how CLIP embeddings shift when images are perturbed, and make CLIP more robust."""

from typing import Any

__all__ = ["Result", "compare", "load_run", "measure_shift"]


def __getattr__(name: str) -> Any:
    # torch and open_clip take seconds to import: the command's help does not wait for them
    if name in __all__:
        from clipshift import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
