"""Small models with random weights, in the hub's own format."""

import json
from pathlib import Path
from typing import Any

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}


def write_hub_folder(folder: Path, vision: dict[str, Any], seed: int = 0) -> Path:
    """Write a model's configuration and weights as the hub keeps them; return the folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    for parameter in model.visual.parameters():
        if parameter.ndim == 1:  # norms and biases start at 1 and 0: make them matter
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder
