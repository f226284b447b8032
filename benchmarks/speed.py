"""Photos per second: the paper's procedure and clipshift, in turn, on the same photos and weights.

The paper's procedure reimplements its authors' scripts (main.py and genfrompt.py of
github.com/ashimdahal/clip-shift-analysis): Hugging Face's CLIP in float32, albumentations image by
image, embeddings in batches. Then every photo is augmented a second time. For each augmentation the
attention of the clean image and of the view is computed, one image at a time, and the measures with
numpy.

Each measurement runs in its own process, so that its peak memory is its own. The weights are
random, from one seed. ``make benchmark ARGS="PHOTOS"``, with a folder of photos.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipshift.cli.build import make_evaluation
from clipshift.cli.command import compose_config, keep_freed_memory
from clipshift.cli.config import plain
from clipshift.cli.trainer import trainer_maker
from clipshift.data.sources import folder as source
from clipshift.encode.encoder import ENCODE_BATCH, best_precision
from clipshift.encode.kinds import load_encoder
from clipshift.pipeline import carry_out, evaluation_trainer, prepare
from clipshift.results.records import Records
from clipshift.results.runs import Run
from clipshift.versions import environment

PHOTOS = {"ViT-B-32-quickgelu": 64, "ViT-L-14-quickgelu": 16, "builtin:lite": 64}
"""The number of photos for each model."""
COLUMNS = (
    "photos/s", "÷ the paper’s", "÷ encoder alone", "augment, ms", "encode, ms", "measure, ms",
    "once, s", "peak, MB",
)  # fmt: skip
"""Milliseconds are per photo; *once* is the precision error, which no other number includes."""
VIEWS = 10
"""Views of a photo: the clean one, and nine augmentations."""
Found = dict[str, float]


def transforms() -> dict[str, Any]:
    """Return the authors' nine augmentations, by albumentations."""
    import albumentations as A

    return {
        "noise": A.GaussNoise(std_range=(0.44, 0.88), p=1),
        "blur": A.GaussianBlur(blur_limit=(3, 7), p=1),
        "color_jitter": A.ColorJitter(0.2, 0.2, 0.2, 0.2, p=1),
        "shift_scale_rotate": A.ShiftScaleRotate(0.0625, 0.1, 15, p=1),
        "flip": A.HorizontalFlip(p=1),
        "elastic": A.ElasticTransform(alpha=30, sigma=60, p=1),
        "perspective": A.Perspective(scale=(0.05, 0.1), p=1),
        "brightness_contrast": A.RandomBrightnessContrast(0.2, 0.2, p=1),
        "coarse_dropout": A.CoarseDropout((6, 8), (16, 16), (16, 16), fill="random", p=1),
    }


class Images(torch.utils.data.Dataset):
    """Each photo at 224 × 224, clean and augmented, 8 bits per channel."""

    def __init__(self, files: list[Path]) -> None:
        import albumentations as A

        self.files, self.transforms = files, transforms()
        self.resize = A.Resize(224, 224)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        clean = self.resize(image=np.array(Image.open(self.files[index]).convert("RGB")))["image"]
        views = {
            name: transform(image=clean)["image"] for name, transform in self.transforms.items()
        }
        return {"clean": clean} | views


def hugging_face(tower: Any) -> Any:
    """Hugging Face's image tower with the weights of an open_clip ViT with QuickGELU."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    blocks, (width, dim) = tower.transformer.resblocks, tower.proj.shape
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, projection_dim=dim,
        num_hidden_layers=len(blocks), num_attention_heads=blocks[0].attn.num_heads,
        patch_size=tower.conv1.kernel_size[0], hidden_act="quick_gelu",
    )  # fmt: skip
    weights = {
        "embeddings.class_embedding": tower.class_embedding,
        "embeddings.position_embedding.weight": tower.positional_embedding,
        "embeddings.patch_embedding.weight": tower.conv1.weight,
    }

    def take(name: str, layer: torch.nn.Module) -> None:
        weights.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})

    take("pre_layrnorm", tower.ln_pre)
    take("post_layernorm", tower.ln_post)
    for index, block in enumerate(blocks):
        name = f"encoder.layers.{index}"
        take(f"{name}.layer_norm1", block.ln_1)
        take(f"{name}.layer_norm2", block.ln_2)
        take(f"{name}.mlp.fc1", block.mlp.c_fc)
        take(f"{name}.mlp.fc2", block.mlp.c_proj)
        take(f"{name}.self_attn.out_proj", block.attn.out_proj)
        for kind in ("weight", "bias"):
            parts = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            for key, part in zip("qkv", parts, strict=True):
                weights[f"{name}.self_attn.{key}_proj.{kind}"] = part
    model = CLIPVisionModelWithProjection(config).eval()
    weights = {f"vision_model.{name}": value for name, value in weights.items()}
    weights["visual_projection.weight"] = tower.proj.T
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(name.endswith("position_ids") for name in missing)
    return model


def patches(image: np.ndarray, grid: int) -> list[np.ndarray]:
    """Cut an image into a grid."""
    return [part for row in np.split(image, grid) for part in np.split(row, grid, axis=1)]


def gray(image: np.ndarray) -> np.ndarray:
    """Return luma, on the 0–255 scale."""
    return image @ [0.299, 0.587, 0.114]


def edges(image: np.ndarray) -> np.ndarray:
    """Return the edge map, divided by its maximum."""
    down, right = np.gradient(gray(image))
    edges = (np.abs(down) + np.abs(right)) / 2
    return edges / (edges.max() or 1)


def measures(view: np.ndarray, clean: np.ndarray) -> list[float]:
    """Patch similarity of 8-bit pixels, edge and detail preservation, as the authors' scripts."""
    pairs = zip(patches(view, 4), patches(clean, 4), strict=True)
    alike = [1 / (1 + np.mean((a - b) ** 2) / 255**2) for a, b in pairs]
    kept = []
    for after, before in zip(patches(gray(view), 8), patches(gray(clean), 8), strict=True):
        if (deviation := np.std(before)) >= 1e-6:
            kept.append(np.exp(-np.abs(np.log(np.std(after) / deviation + 1e-12))))
    return [
        float(np.mean(alike)),
        float(1 - np.mean(np.abs(edges(view) - edges(clean)))),
        float(np.mean(kept)),
    ]


@torch.no_grad()
def paper(architecture: str, photos: Path, count: int) -> Found:
    """Run the authors' procedure."""
    import cv2
    from transformers import CLIPImageProcessor

    model, prepare_images = (
        hugging_face(load_encoder(architecture).model.visual),
        CLIPImageProcessor(),
    )

    def ready(images: list[np.ndarray]) -> torch.Tensor:
        return prepare_images(
            [Image.fromarray(i) for i in images], return_tensors="pt"
        ).pixel_values

    def attention(image: np.ndarray) -> np.ndarray:
        seen = model.vision_model(ready([image]), output_attentions=True).attentions[-1]
        side = round((seen.shape[-1] - 1) ** 0.5)
        gaze = cv2.resize(seen.mean(dim=1)[0, 0, 1:].view(side, side).numpy(), (224, 224))
        return (gaze - gaze.min()) / (np.ptp(gaze) or 1)

    images = Images([photo.file for photo in source(str(photos))[:count]])
    start = time.perf_counter()
    embeddings: list[dict[str, np.ndarray]] = []
    for batch in DataLoader(images, batch_size=32, num_workers=2, collate_fn=list):
        encoded = {n: model(ready([views[n] for views in batch])).image_embeds for n in batch[0]}
        embeddings += [
            {n: rows[i].numpy() for n, rows in encoded.items()} for i in range(len(batch))
        ]
    model.set_attn_implementation("eager")  # the fused one does not return attention
    for index, by_view in enumerate(embeddings):
        views = images[index]
        for name in images.transforms:
            e, f = by_view["clean"], by_view[name]
            values = [float(e @ f / np.linalg.norm(e) / np.linalg.norm(f))]
            difference = attention(views["clean"]) - attention(views[name])
            values += [1 / (1 + float(np.mean(difference**2)))]
            values += measures(views[name], views["clean"])
    return {"photos/s": count / (time.perf_counter() - start)}


@contextmanager
def prepared_run(
    architecture: str, photos: Path, count: int, *overrides: str
) -> Iterator[Callable[[], Run | None]]:
    """Prepare a run like the command's, up to its tables: what is yielded carries it out."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"model.architecture={architecture}", "model.pretrained=null", "data=folder",
            f"data.root={photos}", f"data.limit={count}", "prompts=none", "trainer=cpu",
            "logger=none", "cache=off", *overrides,
        ]  # fmt: skip
        cfg = compose_config("evaluate", options)
        records = Records(Path(folder))
        records.begin({}, restart=True)
        make = trainer_maker(plain(cfg.trainer))
        trainer = evaluation_trainer(make, Path(folder), progress=False)
        yield partial(carry_out, prepare(make_evaluation(cfg)), records, trainer, Path(folder))


def ours(architecture: str, photos: Path, count: int, precision: str) -> Found:
    """Run an evaluation like the command, up to its tables: the paper's measures."""
    keep_freed_memory()
    overrides = "metric=paper", f"precision={precision}"
    with prepared_run(architecture, photos, count, *overrides) as carry_out_run:
        run = carry_out_run()
    assert run is not None
    seconds = run.info.seconds
    once = seconds.pop("floor", 0)  # of 32 photos, whatever the number of photos
    whole = seconds.pop("photos") - once
    stages = {f"{name}, ms": 1000 * spent / count for name, spent in seconds.items()}
    return {"photos/s": count / whole, "once, s": once} | stages


def encoder_alone(architecture: str, count: int, precision: str) -> Found:
    """Run open_clip's own forward passes for the photos' views, and nothing else."""
    encoder = load_encoder(architecture, precision=precision)
    inputs = torch.randn(ENCODE_BATCH, 3, *encoder.input_size, dtype=encoder.input_dtype)
    passes = max(1, count * VIEWS // ENCODE_BATCH)
    with torch.inference_mode():
        encoder.model.encode_image(inputs)
        start = time.perf_counter()
        for _ in range(passes):
            encoder.model.encode_image(inputs)
    return {"photos/s": passes * ENCODE_BATCH / VIEWS / (time.perf_counter() - start)}


def alone(procedure: Callable[[], Found]) -> Found:
    """Run a procedure in its own process; return its result with the process's peak memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(_with_memory, procedure).result()


def _with_memory(procedure: Callable[[], Found]) -> Found:
    result = procedure()
    return result | {"peak, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def compare(model: str, photos: Path, count: int, rounds: int) -> pd.DataFrame:
    """Return the medians over rounds of all procedures, one row each."""
    procedures: dict[str, Callable[[], Found]] = {}
    if model.startswith("ViT"):
        procedures["the paper’s, fp32"] = partial(paper, model, photos, count)
    precisions = dict.fromkeys(["fp32", best_precision("cpu")])
    for precision in precisions:
        procedures[f"encoder alone, {precision}"] = partial(encoder_alone, model, count, precision)
        procedures[f"clipshift, {precision}"] = partial(ours, model, photos, count, precision)
    results = [
        pd.DataFrame({n: alone(run) for n, run in procedures.items()}) for _ in range(rounds)
    ]
    table = pd.concat(results).groupby(level=0).median().T.loc[list(procedures)]
    for precision in precisions:
        speed = table["photos/s"]
        share = speed[f"clipshift, {precision}"] / speed[f"encoder alone, {precision}"]
        table.loc[f"clipshift, {precision}", "÷ encoder alone"] = share
    if "the paper’s, fp32" in table.index:
        table["÷ the paper’s"] = table["photos/s"] / table.loc["the paper’s, fp32", "photos/s"]
    return table


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--models", nargs="*", default=list(PHOTOS))
    parser.add_argument("--count", type=int, help="how many photos (64; of ViT-L 16)")
    parser.add_argument("--rounds", type=int, default=3, help="(3): medians are shown")
    given = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{environment()['processor']}, {threads}\n")
    print(f"| model | procedure | {' | '.join(COLUMNS)} |\n{'| --- ' * (2 + len(COLUMNS))}|")
    for model in given.models:
        count = given.count or PHOTOS.get(model, 64)
        table = compare(model, given.photos, count, given.rounds)
        for name, numbers in table.reindex(columns=list(COLUMNS)).iterrows():
            cells = [
                "" if np.isnan(number) else f"{float(f'{number:.3g}'):g}" for number in numbers
            ]
            print(f"| {model} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
