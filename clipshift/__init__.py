"""Measure how CLIP embeddings shift when images are perturbed, and make CLIP more robust."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from clipshift.errors import UserError

if TYPE_CHECKING:
    from clipshift.api import (
        Result,
        check_budget,
        compare,
        leaderboard,
        load_run,
        measure_shift,
        parity,
    )

    __version__: str

__all__ = ["Result", "UserError", "__version__", "check_budget", "compare", "leaderboard"]
__all__ += ["load_run", "measure_shift", "parity"]


def __getattr__(name: str) -> Any:
    # torch and open_clip take seconds to import: the command's help does not wait for them
    if name == "__version__":
        return version("clipshift")
    if name in __all__:
        from clipshift import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
