"""The docs' placeholders, such as ``PHOTOS``, ``RUN_A`` and ``../shared``, as files and folders."""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from safetensors.torch import save_file

from clipshift.data.photos import decode
from clipshift.data.sources import sample
from support.hub import COMMIT
from support.models import VIT, write_hub_folder
from support.terminal import ROOT

CLASSES = {"n01440764": "tench", "n02123045": "tabby", "n07920052": "espresso"}


@cache
def picture(number: int, side: int) -> Image.Image:
    """Return a square crop of one of scikit-image's photographs, different for every number."""
    image = decode(sample()[number % 14].read())
    rng = np.random.default_rng(number)
    edge = rng.integers(min(image.size) // 2, min(image.size))
    left, top = rng.integers(0, np.array(image.size) - edge)
    return image.crop((left, top, left + edge, top + edge)).resize((side, side))


def encoded(number: int, side: int, kind: str) -> bytes:
    stream = io.BytesIO()
    picture(number, side).save(stream, kind)
    return stream.getvalue()


def save(file: Path, number: int, side: int = 96) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(number, side).save(file)


def write_tar(file: Path, numbers: Sequence[int], kind: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number in numbers:
            label = str(number % len(CLASSES)).encode()
            photo = encoded(number, 64, kind.replace("jpg", "jpeg"))
            for name, content in ((kind, photo), ("cls", label)):
                member = tarfile.TarInfo(f"s{number:07d}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


class Placeholders:
    """A folder with the files that the docs' placeholders stand for, made when they are needed.

    Args:
        root: The folder.
        type_in: Runs a command in a folder, and asserts that it succeeds.
    """

    def __init__(self, root: Path, type_in: Callable[[Path, list[str]], object]) -> None:
        self.root = root
        self.type_in = type_in
        self.finished: set[str] = set()

    def make_for(self, command: str) -> None:
        """Make the files that a command needs."""
        words = re.split(r"[\s=,:/'\"]+", command)
        for name in MAKERS:
            if name in {IMPLIED.get(word, word) for word in words}:
                self.need(name)

    def need(self, name: str) -> Path:
        """Return the path of a placeholder, made if it is missing."""
        if name not in self.finished:
            MAKERS[name](self, self.root / name)
            self.finished.add(name)
        return self.root / name

    def photos(self, folder: Path) -> None:
        for number in range(4):
            save(folder / "red fox" / f"{number}.jpg", number)
            save(folder / "cat" / f"{number}.png", number + 8)

    def others(self, folder: Path) -> None:
        for number in range(4):
            save(folder / ("red fox", "cat")[number % 2] / f"{number}.jpg", number + 20)

    def photo_list(self, file: Path) -> None:
        self.need("PHOTOS")
        file.write_text("PHOTOS/red fox/1.jpg\nPHOTOS/cat/2.png\n")

    def names(self, file: Path) -> None:
        file.write_text("domestic cat\nfox\n")

    def captions(self, file: Path) -> None:
        file.write_text("image,caption,label\nred fox/1.jpg,a fox in the snow,red fox\n")

    def imagenet(self, folder: Path) -> None:
        for number, wnid in enumerate(CLASSES):
            save(folder / wnid / "ILSVRC2012_val_00000293.JPEG", number, 256)

    def corruptions(self, folder: Path) -> None:
        choice = {"C": "imagenet_c", "C_BAR": "imagenet_c_bar"}[folder.name]
        for name in yaml.safe_load((ROOT / f"conf/aug/{choice}.yaml").read_text()):
            for level in "12345":
                for number, wnid in enumerate(CLASSES):
                    save(folder / name / level / wnid / "ILSVRC2012_val_00000293.JPEG", number, 224)

    def clip_benchmark(self, folder: Path) -> None:
        write_tar(folder / "test" / "0.tar", range(6), "webp")
        (folder / "test" / "nshards.txt").write_text("1")
        (folder / "classnames.txt").write_text("\n".join(CLASSES.values()))

    def food101(self, _: Path) -> None:
        self.clip_benchmark(self.hub / "clip-benchmark" / "wds_food101")

    def parquet(self, folder: Path) -> None:
        import datasets

        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        rows = {"image": [picture(n, 96) for n in range(4)], "label": [0, 1, 0, 1]}
        (folder / "data").mkdir(parents=True)
        dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        dataset.to_parquet(str(folder / "data" / "test-00000-of-00001.parquet"))

    def on_the_hub(self, _: Path) -> None:
        self.parquet(self.hub / "ORGANISATION" / "NAME")

    def vit_b32(self, file: Path) -> None:
        """Write random weights, in half precision to be small."""
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", precision="fp16")
        save_file(model.state_dict(), file)

    def cached(self, architecture: str, tag: str) -> None:
        """Put weights into the cache of the hub's client."""
        repo = get_pretrained_cfg(architecture, tag)["hf_hub"].rstrip("/")
        folder = self.root.parent / "huggingface/hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots" / COMMIT).mkdir(parents=True)
        file = folder / "snapshots" / COMMIT / "open_clip_model.safetensors"
        os.link(self.need("my.safetensors"), file)

    def budget(self, file: Path) -> None:
        """Write limits that no run breaks."""
        limits = [{"measure": "cosine_similarity", "min": -1.1, "max_decrease": 2.1}]
        file.write_text(yaml.safe_dump({"baseline": "RUN_A", "limits": limits}))
        self.need("RUN_A")

    def model(self, folder: Path) -> None:
        write_hub_folder(folder, VIT)

    def run(self, folder: Path, model: str = "lite") -> None:
        self.need("PHOTOS")
        options = ["data=folder", "data.root=PHOTOS", "data.limit=4", "aug=[noise,flip]"]
        run = [f"hydra.run.dir={folder.name}", f"model={model}", "logger=none"]
        self.type_in(self.root, ["clipshift", "evaluate", *options, *run])

    def other_run(self, folder: Path) -> None:
        self.run(folder, "tiny")

    def shared(self, _: Path) -> None:
        """Write folders like those of CONTRIBUTING's ``../shared``, with far fewer photographs."""
        shared = self.root.parent / "shared"
        names = [name.replace(" ", "_") for name in open_clip.IMAGENET_CLASSNAMES[:12]]
        for number, name in enumerate(names):
            save(shared / "photos/imagenet-sample" / name / f"{number}.jpg", number)
        tiny = shared / "photos/tiny-imagenet"
        for shard in range(4):
            write_tar(tiny / f"train-00{shard}.tar", range(8 * shard, 8 * shard + 8), "jpg")
        write_tar(tiny / "val-000.tar", range(40, 52), "jpg")
        classes = {"wnids": list(CLASSES), "names": list(CLASSES.values())}
        (tiny / "classes.json").write_text(json.dumps(classes))
        classifier = np.random.default_rng(0).normal(size=(512, 1000)).astype(np.float32)
        classifier /= np.linalg.norm(classifier, axis=0)
        (shared / "text").mkdir()
        np.save(shared / "text/imagenet_classifier_datacomp_vit_b32.npy", classifier)

    @property
    def hub(self) -> Path:
        return self.root.parent / "hub"


MAKERS: dict[str, Callable[[Placeholders, Path], None]] = {
    "PHOTOS": Placeholders.photos,
    "OTHERS": Placeholders.others,
    "LIST.txt": Placeholders.photo_list,
    "NAMES.txt": Placeholders.names,
    "FILE.csv": Placeholders.captions,
    "VAL": Placeholders.imagenet,
    "C": Placeholders.corruptions,
    "C_BAR": Placeholders.corruptions,
    "ROOT": Placeholders.clip_benchmark,
    "https": Placeholders.food101,
    "FOLDER": Placeholders.parquet,
    "ORGANISATION": Placeholders.on_the_hub,
    "my.safetensors": Placeholders.vit_b32,
    "vit_b32_openai": lambda placeholders, _: placeholders.cached("ViT-B-32-quickgelu", "openai"),
    "laion2b_s34b_b79k": lambda placeholders, _: placeholders.cached(
        "ViT-B-32", "laion2b_s34b_b79k"
    ),
    "MODEL": Placeholders.model,
    "budget.yaml": Placeholders.budget,
    "RUN": Placeholders.run,
    "RUN_A": Placeholders.run,
    "RUN_B": Placeholders.other_run,
    "shared": Placeholders.shared,
}
"""The function that makes a placeholder, by its name in commands."""

IMPLIED = {
    "robustify_vit_b32": "vit_b32_openai",
    "robustify_lite": "shared",
    "robustify_tiny": "shared",
    "pretrain_tiny": "shared",
    "make_lite": "shared",
}
"""By experiment: the placeholder that it needs without naming it."""
