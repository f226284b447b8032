"""Every model config: it builds offline without weights, and gives what its tower kind has."""

import open_clip
import pytest
import torch
from torch import Tensor

from clipshift.choices import CONF
from clipshift.cli.command import compose_config
from clipshift.encode import encoder
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.layers import tower_blocks

# embedding width, gaze (rows and columns), and blocks or stages, from the models' papers
KINDS = {
    "untrained": (256, (7, 7), 12),
    "vit_b32_openai": (512, (7, 7), 12),
    "vit_b16_openai": (512, (14, 14), 12),
    "vit_l14_openai": (768, (16, 16), 24),
    "vit_b32_laion2b": (512, (7, 7), 12),
    "siglip2_b16": (768, (14, 14), 12),
    "mobileclip2_s0": (512, (8, 8), 4),
    "convnext_base_w": (640, (8, 8), 4),
    "rn50_openai": (1024, (7, 7), 4),
    "tiny": (128, (8, 8), 4),
    "lite": (512, (7, 7), 7),
}

CONVOLUTIONAL = {"lite", "mobileclip2_s0", "convnext_base_w", "rn50_openai"}
AVERAGING = {"lite", "mobileclip2_s0", "convnext_base_w"}
CLASS_TOKEN = {name for name in KINDS if name.startswith("vit_")} | {"untrained", "tiny"}


@pytest.fixture(autouse=True)
def few_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of few words, and narrow MLPs in image towers: random weights take seconds.

    The tests are of image towers, their blocks, tokens and gaze.
    """
    for name, config in open_clip.factory._MODEL_CONFIGS.items():
        text = config["text_cfg"] | {"layers": 1}
        if "hf_model_name" not in text:
            text["vocab_size"] = 64
        image = config["vision_cfg"]
        if "patch_size" in image:  # a ViT of open_clip's
            image = image | {"mlp_ratio": 0.25}
        small = config | {"text_cfg": text, "vision_cfg": image}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, small)


def build(name: str) -> Encoder:
    model = compose_config("evaluate", [f"model={name}", "model.pretrained=null"]).model
    return load_encoder(model.architecture, model.pretrained)


def test_all_configs_are_listed() -> None:
    named = {"timm", "torchvision", "onnx", "transformers"}  # whose architecture is yet to be given
    assert {file.stem for file in (CONF / "model").glob("*.yaml")} - named == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_model_config(name: str, views: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "ENCODE_BATCH", 1)  # the large ones would take minutes
    monkeypatch.setattr(encoder, "weights_sha256", lambda model: "")  # seconds for each
    width, grid, blocks = KINDS[name]
    model = build(name)
    with torch.inference_mode():
        features = model(views[:1], layers=True)
        plain = model(views[:1])
    assert features.embedding.shape == (1, width)
    assert torch.equal(plain.embedding, features.embedding)
    assert plain.layers is None
    assert model.probe.kind == ("contribution" if name in AVERAGING else "attention")
    assert features.gaze.shape == (1, *grid)
    assert 0 < features.gaze.sum() <= 1 + 1e-5
    assert len(features.layers) == blocks == len(tower_blocks(model.model.visual))
    if name in CONVOLUTIONAL:
        assert features.norms is None
    else:
        assert features.norms.shape == (1, blocks, grid[0] * grid[1])
        assert model.probe.layer == blocks - (name in CLASS_TOKEN)
    for tokens in features.layers:
        assert tokens.shape[:2] == (1, 2)
        assert tokens[:, 1].isfinite().all()
        assert tokens[:, 0].isfinite().all() == (name in CLASS_TOKEN)


def test_layers_are_those_of_open_clips_own_intermediates(views: Tensor) -> None:
    model = build("untrained")
    resized = (views[:2] - model.mean) / model.std
    with torch.inference_mode():
        layers = model(views[:2], layers=True).layers
        expected = model.model.visual.forward_intermediates(
            resized, output_fmt="NLC", output_extra_tokens=True
        )
    pairs = zip(
        expected["image_intermediates_prefix"], expected["image_intermediates"], strict=True
    )
    for tokens, (prefix, patches) in zip(layers, pairs, strict=True):
        pooled = torch.stack([prefix[:, 0], patches.mean(dim=1)], dim=1)
        torch.testing.assert_close(tokens, pooled, atol=1e-4, rtol=1e-4)


def test_openai_configs_have_quick_gelu() -> None:
    """With plain GELU the embeddings of these weights would be subtly wrong."""
    for name in ("vit_b32_openai", "vit_b16_openai", "vit_l14_openai", "rn50_openai"):
        model = compose_config("evaluate", [f"model={name}"]).model
        assert model.architecture.endswith("-quickgelu")
        assert model.pretrained == "openai"
