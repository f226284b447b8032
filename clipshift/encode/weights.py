"""Finding an encoder's weights: in a local file, in a cache, or else on the network."""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from huggingface_hub import constants, hf_hub_download
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import SafetensorError
from torch import nn

from clipshift.choices import OPEN_CLIP_CONFIG
from clipshift.encode.cached import cached_file, downloaded, is_cached
from clipshift.errors import UserError, did_you_mean, first_line

HUB = "hf-hub:"
PROBE_SECONDS = 5


def find_checkpoint(architecture: str, pretrained: str) -> tuple[Path, dict[str, Any]]:
    """Find the file of a pretrained tag's weights, and download it only if it is not cached.

    Args:
        architecture: A name in ``open_clip.list_models()``.
        pretrained: A tag of that architecture.

    Returns:
        The file, and open_clip's facts about the tag (``mean``, ``std``, ``quick_gelu``, …).

    Raises:
        UserError: If there is no such tag, it was trained with another activation than the
            architecture has, or the file is not cached and the hub cannot be reached.
    """
    facts = tag_facts(architecture, pretrained)
    has_quick_gelu = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if bool(facts.get("quick_gelu")) != has_quick_gelu:
        raise UserError(
            f"{architecture} has another activation than the weights {pretrained!r} were trained "
            f"with: set model.architecture to its "
            f"{'plain' if has_quick_gelu else '-quickgelu'} variant"
        )
    repo, _, name = facts.get("hf_hub", "").rpartition("/")
    if repo:
        return hub_file(repo, weight_files(name)), facts
    if not downloaded(facts["url"]).is_file():
        require_network(facts["url"])
    return Path(open_clip.download_pretrained(facts)), facts


def weights_are_here(architecture: str, pretrained: str | None) -> bool:
    """Whether a model can be loaded without a network.

    Args:
        architecture: A name in ``open_clip.list_models()``, ``builtin:NAME``, or
            ``hf-hub:ORGANISATION/NAME``.
        pretrained: A tag of that architecture; ``None`` if its weights are built in or random.

    Raises:
        UserError: If there is no such tag.
    """
    if architecture.startswith(HUB):
        repo = architecture.removeprefix(HUB)
        return bool(cached_file(repo, OPEN_CLIP_CONFIG)) and any(
            cached_file(repo, f) for f in weight_files("")
        )
    if pretrained is None:
        return True
    return any(map(is_cached, weight_places(architecture, pretrained)))


def weight_places(architecture: str, pretrained: str) -> list[str]:
    """Where a tag's weights can be: files of the hub, or an address; see `is_cached`.

    Raises:
        UserError: If there is no such tag.
    """
    facts = tag_facts(architecture, pretrained)
    repo, _, name = facts.get("hf_hub", "").rpartition("/")
    return [f"{repo}/{file}" for file in weight_files(name)] if repo else [facts["url"]]


def check_finite(model: nn.Module, source: str) -> None:
    """Check that a model's weights are finite.

    Args:
        model: The model, with its weights.
        source: The weights' file or name, for the message.

    Raises:
        UserError: If any is NaN or infinite.
    """
    floats = {name: w for name, w in model.state_dict().items() if w.is_floating_point()}
    if bad := [name for name, weight in floats.items() if not weight.isfinite().all()]:
        raise UserError(
            f"{source} has weights that are NaN or infinite, in {len(bad)} of {len(floats)} "
            f"tensors ({bad[0]} first): its training has diverged or its file is damaged (or "
            "precision is too low for it); choose another"
        )


def tag_facts(architecture: str, pretrained: str) -> dict[str, Any]:
    """open_clip's facts about a pretrained tag.

    Raises:
        UserError: If there is no such tag.
    """
    facts = get_pretrained_cfg(architecture, pretrained)
    tags = [pretrained] if facts else list_pretrained_tags_by_model(architecture)
    check_known(pretrained, tags, f"a tag of weights of {architecture} in open_clip")
    return facts


def hub_folder(repo: str, *files: list[str]) -> Path:
    """Find the folder of a hub model, and download its files if they are not cached.

    Args:
        repo: ``organisation/name`` on the Hugging Face hub.
        files: The possible names of each file that is needed.

    Raises:
        UserError: If one is not cached and the hub cannot be reached, or has no such model.
    """
    return [hub_file(repo, names) for names in files][-1].parent


def check_known(name: str, names: Iterable[str], meaning: str) -> None:
    """Check that a name is one of a library's.

    Raises:
        UserError: If it is not, with the nearest, or with all of a few.
    """
    if name not in (names := list(names)):
        listed = f" (there are: {', '.join(names) or 'none'})" if len(names) < 20 else ""
        raise UserError(f"{name!r} is not {meaning}{did_you_mean(name, names)}{listed}")


def weight_files(name: str) -> list[str]:
    """Possible names of the file with a hub model's weights, safetensors first."""
    if not name:
        return [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    stem, ending = os.path.splitext(name)
    return [f"{stem}.safetensors", name] if ending in (".bin", ".pth") else [name]


def hub_file(repo: str, names: list[str]) -> Path:
    """Find the first file that a hub model has, in the cache, or else download it."""
    for name in names:
        if cached := cached_file(repo, name):
            return cached
    require_network(f"{constants.ENDPOINT}/{repo}")
    for name in names:
        try:
            return Path(hf_hub_download(repo, name))
        except OSError as error:
            reason = first_line(error)
    raise UserError(f"cannot download {names[-1]} of {repo} from the hub: {reason}")


def require_network(address: str) -> None:
    """Check once, briefly, that an address answers: the hub's client would try for a minute.

    Raises:
        UserError: If it does not answer, with the options that work without a network.
    """
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS)
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise UserError(
            f"cannot download {address}: {getattr(error, 'reason', error)}, and it is not cached; "
            "without a network use model=lite, model.checkpoint=PATH, or a cached model"
        ) from None


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Silence the root logger except for errors: open_clip logs every step of loading to it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def loading(source: str, architecture: str, seed: int = 0) -> Iterator[None]:
    """Build a model in silence, with random weights from a seed, and say why it cannot be loaded.

    Raises:
        UserError: Then, in one line.
    """
    try:
        with only_errors_logged(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    except LOAD_ERRORS as error:
        raise UserError(load_error(source, architecture, error)) from error


LOAD_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, LookupError, TypeError)
LOAD_ERRORS += (OSError, AttributeError, AssertionError, EOFError, ImportError)
LOAD_ERRORS += (UnpicklingError, SafetensorError, StopIteration)
"""Errors that torch, safetensors and open_clip raise for weights that cannot be loaded."""


def load_error(source: str, architecture: str, error: Exception) -> str:
    """Explain in one line why weights could not be loaded into an architecture."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = next((line for line in lines if "size mismatch" in line), lines[-1] if lines else "")
    if isinstance(error, StopIteration):
        return f"{source} cannot be loaded: it holds no weights"
    if "trust_remote_code" in detail:
        return f"{source} requires running remote code, which clipshift never does"
    mismatches = ("Missing key", "size mismatch", "width changed")
    is_other = any(mismatch in str(error) for mismatch in mismatches)
    problem = f"is not a checkpoint of {architecture}" if is_other else "cannot be loaded"
    return f"{source} {problem}: {detail[:160] or type(error).__name__}"
