"""What ten steps of an attack cost, in forward passes of the same 32 views.

OMP_NUM_THREADS=1 python benchmarks/attack.py [MODEL …]
"""

import sys
import time
from collections.abc import Callable

import torch

from clipshift.augment.keyed import VIEW_SIZE, draw
from clipshift.choices import model_options
from clipshift.data.dataset import clean_view
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.encode.encoder import ENCODE_BATCH
from clipshift.evaluate.attack import ATTACK, Attack
from clipshift.options import AttackOptions
from clipshift.pipeline import FULL, load_model

PASSES = 4
"""Forward passes before the attack, and as many after it."""


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """The processor time of a piece of work, done several times."""
    start = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - start


def measure(name: str) -> str:
    """The times of one model, in words."""
    photos = sample()
    pictures = [decode(photos[index % len(photos)].read()) for index in range(ENCODE_BATCH)]
    views = torch.stack([clean_view(picture, "squash") for picture in pictures])
    encoder = load_model(model_options(name), FULL)
    attack = Attack(AttackOptions(), encoder)
    drawn = [draw(attack, 0, str(index), ATTACK, VIEW_SIZE) for index in range(ENCODE_BATCH)]
    draws = {"starts": torch.stack([one["starts"] for one in drawn])}
    with torch.inference_mode():
        encoder.encode_views(views)
        forward = cpu_seconds(lambda: encoder.encode_views(views), PASSES)
        attacked = cpu_seconds(lambda: attack.apply(views, draws, 4.0), 1)
        forward += cpu_seconds(lambda: encoder.encode_views(views), PASSES)
    forward /= 2 * PASSES
    return f"{name}: a pass {forward:.2f} s, ten steps {attacked:.1f} s: {attacked / forward:.1f}"


if __name__ == "__main__":
    for model in sys.argv[1:] or ("tiny", "lite", "untrained"):
        print(measure(model), flush=True)
