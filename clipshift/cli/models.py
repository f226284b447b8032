"""The command ``clipshift models``: the named models, and whether their weights are on disk."""

from pathlib import Path

import open_clip
from huggingface_hub import constants
from rich import box
from rich.console import Console
from rich.table import Table

from clipshift.choices import choice_names, read_choice, required_option
from clipshift.encode.gaze import gaze_probe
from clipshift.encode.kinds import KINDS
from clipshift.encode.open_clip_models import model_config, model_outline
from clipshift.encode.weights import weights_are_here

HEADER = ("model", "architecture", "weights", "parameters", "input", "embedding", "gaze", "here")


def print_models() -> None:
    """Print a table of the choices of ``model``, one row per model."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(*HEADER, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines = [
        f"Also any of open_clip's {len(open_clip.list_models())} architectures by "
        "model.architecture and model.pretrained, and a checkpoint of yours by model.checkpoint.",
        "Models of other libraries:",
    ]
    for name in choice_names("model"):
        model = read_choice("model", name)
        if kind := KINDS.get(model.get("kind", "")):
            here = "" if kind.is_here else f" (pip install 'clipshift[{kind.extra}]')"
            lines.append(f"  model={name} model.{required_option(name)}=…{here}")
        else:
            table.add_row(*model_row(name, model["architecture"], model["pretrained"]))
    cached = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in cached]
    lines.append(f"In the hub's cache: {', '.join(names) or 'none'}.")
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def model_row(name: str, architecture: str, pretrained: str | None) -> tuple[str, ...]:
    """What a model is, in the columns of `HEADER`."""
    outline = model_outline(architecture)
    size = outline.visual.preprocess_cfg["size"]
    side = size if isinstance(size, int) else size[0]
    probe = gaze_probe(outline.visual)
    parameters = sum(weight.numel() for weight in outline.parameters())
    weights = pretrained or ("inside clipshift" if ":" in architecture else "random")
    embedding = model_config(architecture)["embed_dim"]
    numbers = f"{parameters / 1e6:.1f} M", f"{side} px", str(embedding)
    here = "yes" if weights_are_here(architecture, pretrained) else "no"
    return name, architecture, weights, *numbers, probe.kind if probe else "none", here
