"""Whether a model's weights are on this machine: without torch, so that a list does not wait."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def downloaded(address: str) -> Path:
    """The path at which open_clip stores a download from an address that is not on the hub."""
    return Path("~/.cache/clip").expanduser() / Path(address).name


def cached_file(repo: str, name: str) -> Path | None:
    """A file of a hub model in the hub's cache; None if it is not cached."""
    file = try_to_load_from_cache(repo, name)
    return Path(file) if isinstance(file, str) else None


def is_cached(place: str) -> bool:
    """Whether a file is cached.

    Args:
        place: ``ORGANISATION/NAME/FILE`` on the hub, or an address elsewhere.
    """
    repo, _, name = place.rpartition("/")
    return bool(downloaded(place).is_file() if "://" in place else cached_file(repo, name))
