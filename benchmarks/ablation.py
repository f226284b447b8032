"""Ablation of `experiment=robustify_lite`: what each part of the recipe does, at equal compute.

``python benchmarks/ablation.py FOLDER [SEEDS [VARIANT ...]]`` trains every variant below with seeds
0 to SEEDS − 1 (by default 3) on as many views, 1,280, into ``FOLDER``, where a
finished one is not repeated. It prints, as mean ± standard deviation over the seeds, how the
fine-tuned weights (α = 1) differ from the base on the 50 photographs that choose α. The 200 that
the comparison is made on are not looked at.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from clipshift import Result, measure_shift
from clipshift.cli.command import compose_config

EXPERIMENT = "experiment=robustify_lite"
SHORT = [
    "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "data.photos=640",
    "alphas=[0,1]", "tolerance=1", "ema=null", "evaluation=null", "logger=none",
]  # fmt: skip
"""Options of all trainings: 40 steps, and α = 1."""
VARIANTS = {
    "recipe": [],
    "all stages": ["tune=full", "optimization.lr=4e-4"],
    "squared length": ["objective.loss.distance=l2"],
    "large photographs alone": ["+data.train.small.weight=1e-9"],
    "the paper's strengths alone": ["severities=[paper]"],
    "one view of twice as many photographs": ["views=1", "data.batch_size=32", "data.photos=1280"],
    "neither cropped nor mirrored": ["data.train.vary={}"],
}
"""Options that differ from the recipe's."""


def measured(model: str) -> Result:
    """Measure a model on the photographs that choose α."""
    cfg = compose_config("train", [EXPERIMENT])
    return measure_shift(
        cfg.data.val.root, model, "paper", classes="imagenet", measures="cosine_similarity",
        sample=cfg.data.val.sample, save_embeddings=True, progress=False,
    )  # fmt: skip


def differences(base: Result, robust: Result, trained_on: list[str]) -> dict[str, float]:
    """Return the changes of shift and accuracy from base to robust model."""
    changes = {}
    for name, result in (("base", base), ("robust", robust)):
        rows = result.shift.assign(shift=1 - result.shift["cosine_similarity"])
        rows["trained"] = np.where(rows["augmentation"].isin(trained_on), "trained", "held out")
        shift = rows.groupby("trained")["shift"].mean()
        top1 = rows.groupby("trained")["zero_shot_top1"].mean()
        changes[name] = shift, top1, rows.groupby("photo")["zero_shot_top1_clean"].first().mean()
    (shift, top1, clean), (new_shift, new_top1, new_clean) = changes["base"], changes["robust"]
    both = [load_file(Path(one.run.folder, "embeddings.safetensors")) for one in (base, robust)]
    one, other = (of["clean"] / np.linalg.norm(of["clean"], axis=1, keepdims=True) for of in both)
    return {
        "shift, trained, %": 100 * (new_shift["trained"] / shift["trained"] - 1),
        "shift, held out, %": 100 * (new_shift["held out"] / shift["held out"] - 1),
        "clean embedding moves": float(1 - (one * other).sum(axis=1).mean()),
        "clean top-1, points": 100 * (new_clean - clean),
        "top-1 under trained, points": 100 * (new_top1["trained"] - top1["trained"]),
    }


def main(folder: str, seeds: str = "3", *variants: str) -> None:
    """Train, measure and print the table."""
    base, rows = measured("lite"), []
    trained_on = list(compose_config("train", [EXPERIMENT]).train_aug)
    for variant in variants or VARIANTS:
        for seed in range(int(seeds)):
            run = Path(folder).resolve() / variant.replace(" ", "_").replace(",", "") / str(seed)
            if not (run / "model").exists():
                options = [f"seed={seed}", f"hydra.run.dir={run}", *VARIANTS[variant]]
                command = [sys.executable, "train.py", EXPERIMENT, *SHORT, *options]
                subprocess.run(command, check=True)
            change = differences(base, measured(str(run / "model")), trained_on)
            rows.append({"variant": variant} | change)
            print(rows[-1], flush=True)
    over = pd.DataFrame(rows).groupby("variant", sort=False)
    mean, deviation = over.mean().round(3).astype(str), over.std().round(3).astype(str)
    print((mean + " ± " + deviation).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
