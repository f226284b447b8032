"""The command ``clipshift models``: the named models, and whether their weights are on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from rich import box
from rich.console import Console
from rich.table import Table

from clipshift.choices import architectures, choice_names, read_choice, required_option
from clipshift.encode.cached import is_cached
from clipshift.encode.kinds import KINDS

HEADER = ("model", "architecture", "weights", "parameters", "input", "embedding", "gaze", "here")
FACTS = Path(__file__).with_name("models.yaml")
"""What building each choice gives, stored: building them takes seconds."""


def print_models() -> None:
    """Print a table of the choices of ``model``, one row per model."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    facts = yaml.safe_load(FACTS.read_text("utf-8"))
    table = Table(*HEADER, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines = [
        f"Also any of open_clip's {len(architectures())} architectures by "
        "model.architecture and model.pretrained, and a checkpoint of yours by model.checkpoint.",
        "Models of other libraries:",
    ]
    for name in choice_names("model"):
        model = read_choice("model", name)
        if kind := KINDS.get(model.get("kind", "")):
            here = "" if kind.is_here else f" (pip install 'clipshift[{kind.extra}]')"
            lines.append(f"  model={name} model.{required_option(name)}=…{here}")
        else:
            table.add_row(*model_row(name, model, facts[name]))
    cached = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in cached]
    lines.append(f"In the hub's cache: {', '.join(names) or 'none'}.")
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def model_row(name: str, model: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What a model is, in the columns of `HEADER`.

    Args:
        name: The choice.
        model: Its options.
        facts: What building it gives, from `FACTS`.
    """
    architecture, places = model["architecture"], facts["weights"]
    weights = model["pretrained"] or ("inside clipshift" if ":" in architecture else "random")
    here = "yes" if not places or any(map(is_cached, places)) else "no"
    numbers = (str(facts[column]) for column in HEADER[3:7])
    return name, architecture, weights, *numbers, here
