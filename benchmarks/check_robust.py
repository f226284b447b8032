"""The shift and accuracy of a fine-tuned model, by plain open_clip and numpy.

``python benchmarks/check_robust.py RUN`` encodes the views that a run kept (``save.views=200``,
``prompts=openai``) with the model that it measured (``model.checkpoint=TRAINING/model``), and
compares, photo by photo, cosines and zero-shot hits with the run's ``shift.parquet``. Of clipshift
it uses the files, and the code of tiny's tower. It exits with code 1 where they differ.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from safetensors import safe_open
from timm.data import ImageNetInfo

import clipshift.encode.tiny  # noqa: F401  (registers its tower with timm)


@torch.inference_mode()
def embed(model: Any, config: dict[str, Any], views: torch.Tensor) -> np.ndarray:
    """Return unit embeddings of views in [0, 1], float64, resized to the model's input."""
    sides = model.visual.image_size
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    rows = []
    for part in views.split(25):
        if part.shape[-2:] != sides:
            part = torch.nn.functional.interpolate(part, sides, mode="bilinear", antialias=True)
        rows.append(model.encode_image((part - mean) / std).double().numpy())
    found = np.concatenate(rows)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def target_of(photo: str, label: str | None, names: list[str]) -> float:
    """Return the index of a photo's class: by the WordNet id in its path, or by its label."""
    wordnet = re.search(r"n\d{8}", photo)
    known = ImageNetInfo().label_names()
    if len(names) == len(known):
        return known.index(wordnet[0]) if wordnet and wordnet[0] in known else np.nan
    spelt = [name.lower().replace("_", " ") for name in names]
    text = str(label).lower().replace("_", " ")
    return spelt.index(text) if text in spelt else np.nan


def main() -> None:
    """Compare, and print the largest difference of each augmentation."""
    run = Path(sys.argv[1])
    info = json.loads((run / "run.json").read_text())
    name = f"local-dir:{info['model']['checkpoint']}"
    config = json.loads(Path(info["model"]["checkpoint"], "open_clip_config.json").read_text())
    model, _ = open_clip.create_model_from_pretrained(name)
    model.eval()  # otherwise batch norms use the batch's own statistics
    names = list(info["data"]["classes"])
    if len(names) == len(open_clip.IMAGENET_CLASSNAMES):
        names = list(open_clip.IMAGENET_CLASSNAMES)
    tokenizer, prompts = open_clip.get_tokenizer(name), open_clip.OPENAI_IMAGENET_TEMPLATES
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, prompts)
    classifier = classifier.double().numpy()
    measured = pd.read_parquet(run / "shift.parquet").set_index(["augmentation", "photo"])
    worst = 0.0
    with safe_open(run / "views.safetensors", "pt") as kept:
        photos = json.loads(kept.metadata()["photos"])
        clean = embed(model, config["preprocess_cfg"], kept.get_tensor("clean"))
        for view in sorted(set(kept.keys()) - {"clean"}):
            moved = embed(model, config["preprocess_cfg"], kept.get_tensor(view))
            rows = measured.loc[view].loc[photos]
            cosines = (moved * clean).sum(axis=1)
            differences = [float(np.abs(cosines - rows["cosine_similarity"]).max())]
            labelled = zip(photos, rows["label"], strict=True)
            targets = np.array([target_of(*photo, names) for photo in labelled], float)
            for embeddings, column in ((moved, "zero_shot_top1"), (clean, "zero_shot_top1_clean")):
                best = (embeddings @ classifier).argmax(axis=1)
                hits = np.where(np.isnan(targets), np.nan, best == targets)
                differences.append(float(np.nanmax(np.abs(hits - rows[column]))))
            worst = max(worst, *differences)
            print(f"{view}: 1 − cosine {1 - cosines.mean():.6f}, differences {differences}")
    sys.exit(int(worst > 1e-5))


if __name__ == "__main__":
    main()
