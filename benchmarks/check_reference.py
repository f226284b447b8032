"""Reference values of `clipshift check` for the built-in models, with open_clip alone.

``python benchmarks/check_reference.py [PHOTOS]`` prints the built-in models' numbers in
``conf/experiment/check.yaml``, with plain open_clip, Pillow and numpy. Of clipshift it uses the
models' files and the code of tiny's tower. PHOTOS is the folder of the shared photographs;
without it, only the built-in ones are measured.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import skimage.data
import torch
from PIL import Image

MODELS = Path(__file__).parent.parent / "clipshift" / "models"
BUILTIN = {"camera.png": 872, "chelsea.png": 281, "coffee.png": 967, "motorcycle_left.png": 665,
           "rocket.jpg": 657}  # fmt: skip
"""scikit-image's photographs of ImageNet's classes tripod, tabby cat, espresso, moped, missile."""


def builtin_photos() -> list[tuple[Image.Image, int]]:
    """Return the built-in photographs that show a class, with its ImageNet index."""
    folder = Path(skimage.data.__file__).parent
    return [(Image.open(folder / name), index) for name, index in BUILTIN.items()]


def imagenet_sample(folder: Path, classes: list[str]) -> list[tuple[Image.Image, int]]:
    """Return photographs ``NAME/WNID.jpg`` with the indices of their folders' classes."""
    files = sorted(folder.glob("*/*.jpg"))
    return [(Image.open(file), classes.index(file.parent.name)) for file in files]


def tiny_imagenet(shard: Path) -> list[tuple[Image.Image, int]]:
    """Return the photographs of a shard, with the indices of their classes."""
    with tarfile.open(shard) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        content = {name: file.read() for name, file in files.items()}
    keys = [Path(name).stem for name in content if name.endswith(".jpg")]
    return [
        (Image.open(io.BytesIO(content[f"{key}.jpg"])), int(content[f"{key}.cls"])) for key in keys
    ]


@torch.inference_mode()
def reference(model_name: str, photos: list[tuple[Image.Image, int]], names: list[str]) -> str:
    """Return top-1 accuracy and the mean cosine with the own class, in hundredths.

    A photo whose class shares its name with another one is right by chance: it counts half.
    """
    if model_name == "tiny":
        import clipshift.encode.tiny  # noqa: F401  (registers its tower with timm)
    name = f"local-dir:{MODELS / model_name}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()  # otherwise batch norms use the batch's own statistics
    classifier = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(name), names, open_clip.OPENAI_IMAGENET_TEMPLATES
    ).double()
    hits, cosines = [], []
    for start in range(0, len(photos), 50):
        part = photos[start : start + 50]
        images = torch.stack([transform(photo) for photo, _ in part])
        embedding = model.encode_image(images).double()
        cosines = (embedding / embedding.norm(dim=-1, keepdim=True) @ classifier).numpy()
        for row, (_, target) in zip(cosines, part, strict=True):
            same = [index for index, other in enumerate(names) if other == names[target]]
            hits.append((np.argmax(row) in same) / len(same))
            cosines.append(row[target])
    return f"top-1 {100 * np.mean(hits):.3f}, cosine {100 * np.mean(cosines):.3f} ({len(hits)})"


def main() -> None:
    """Print all of them."""
    imagenet = list(open_clip.IMAGENET_CLASSNAMES)
    photos = builtin_photos()
    names = [imagenet[index] for _, index in photos]
    among = [(photo, place) for place, (photo, _) in enumerate(photos)]
    for model in ("lite", "tiny"):
        print(f"{model} on the built-in photographs: {reference(model, among, names)}", flush=True)
    if len(sys.argv) < 2:
        return
    root = Path(sys.argv[1])
    names = json.loads((root / "tiny-imagenet" / "classes.json").read_text())["names"]
    photos = tiny_imagenet(root / "tiny-imagenet" / "val-000.tar")
    print("tiny on tiny-imagenet:", reference("tiny", photos, names), flush=True)
    folder = root / "imagenet-sample"
    classes = sorted(path.name for path in folder.iterdir())
    photos = imagenet_sample(folder, classes)
    names = [one.replace("_", " ") for one in classes]
    print("lite on imagenet-sample:", reference("lite", photos, names), flush=True)


if __name__ == "__main__":
    main()
