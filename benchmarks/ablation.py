"""Ablation of ``experiment=robustify_lite``: what each part of the recipe does, at equal compute.

``python benchmarks/ablation.py FOLDER [SEEDS [VARIANT ...]]`` trains every variant below with seeds
0 to SEEDS − 1 (by default 3) on 1,280 views into ``FOLDER``, where a finished one is not repeated.
It prints, as mean ± standard deviation over the seeds, how the fine-tuned weights (α = 1) differ
from the base on the 50 photographs that choose α. The 200 of the comparison are not looked at.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

EXPERIMENT = "experiment=robustify_lite"
SHORT = [
    "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "data.photos=640",
    "alphas=[0,1]", "tolerance=1", "ema=null", "logger=none",
    "evaluation=['data=folder','data.root=${data.val.root}','data.sample=${data.val.sample}',"
    "'zero_shot.classes=imagenet','aug=paper','metric=cosine_similarity','save.embeddings=true']",
]  # fmt: skip
"""Options of all trainings: 40 steps, and α = 1."""
FIVE = ["aug@train_aug=[noise,blur,color_jitter,shift_scale_rotate,brightness_contrast]"]
SMALL = [
    *FIVE, "+data@data.train.small=shards", "data.train.small.pattern=train-*.tar",
    "data.train.small.root=${oc.env:CLIPSHIFT_PHOTOS,../shared/photos}/tiny-imagenet",
]  # fmt: skip
VARIANTS = {
    "recipe": [],
    "five augmentations": FIVE,
    "five, and small photographs as well": SMALL,
    "five, small, squared length": [*SMALL, "objective.loss.distance=l2"],
    "five, small, the paper's strengths alone": [*SMALL, "severities=[paper]"],
    "five, small, all stages": [*SMALL, "tune=full", "optimization.lr=4e-4"],
}
"""Options that differ from the recipe's."""


def differences(run: Path) -> dict[str, float]:
    """Return the changes of shift and accuracy from base to robust model."""
    table = pd.read_csv(run / "outcome.csv").set_index(["measure", "augmentation"])
    base, change = table["base"], table["change"]
    trained, held = "mean of trained on", "mean of held out"
    shift = 100 * change["cosine_similarity"] / base["cosine_similarity"]
    of_both = [load_file(run / name / "embeddings.safetensors") for name in ("base", "robust")]
    return {
        "shift, trained, %": float(shift[trained]),
        "shift, held out, %": float(shift[held]),
        "clean embedding moves": float(
            1 - cosine_similarity(*(of["clean"] for of in of_both)).mean()
        ),
        "clean top-1, points": 100 * float(change["zero_shot_top1_clean", "clean"]),
        "top-1 under trained, points": 100 * float(change["zero_shot_top1", trained]),
    }


def main(folder: str, seeds: str = "3", *variants: str) -> None:
    """Train, measure and print the table."""
    rows = []
    for variant in variants or VARIANTS:
        for seed in range(int(seeds)):
            run = Path(folder).resolve() / variant.replace(" ", "_").replace(",", "") / str(seed)
            if not (run / "outcome.csv").exists():
                options = [f"seed={seed}", f"hydra.run.dir={run}", *VARIANTS[variant]]
                command = [sys.executable, "train.py", EXPERIMENT, *SHORT, *options]
                subprocess.run(command, check=True)
            rows.append({"variant": variant} | differences(run))
            print(rows[-1], flush=True)
    over = pd.DataFrame(rows).groupby("variant", sort=False)
    mean, deviation = over.mean().round(3).astype(str), over.std().round(3).astype(str)
    print((mean + " ± " + deviation).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
