"""Models of transformers, small and with random weights, against the library's own forward."""

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import FEW, run_evaluate
from support.hub import put_in_cache
from torch import Tensor

from clipshift.choices import model_options
from clipshift.data.dataset import clean_view, native_resize
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.modules import as_encoder
from clipshift.errors import UserError

hf = pytest.importorskip("transformers")

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
VIT |= {"intermediate_size": 48, "patch_size": 14}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "eos_token_id": 3}
TEXT |= {"intermediate_size": 48, "vocab_size": 12, "max_position_embeddings": 8}
TEXT |= {"bos_token_id": 1, "pad_token_id": 0}
CONV = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 24]}
SQUARE = {"height": 56, "width": 56}
LARGER = {"size": {"shortest_edge": 65}, "crop_size": SQUARE}
NAFLEX = {k: v for k, v in VIT.items() if k != "image_size"} | {"num_patches": 16}
TWO = {"vision_config": VIT, "text_config": TEXT}
MODELS = {
    "clip": ("CLIPModel", TWO | {"projection_dim": 24}, "CLIPImageProcessor", LARGER),
    "clip_tower": ("CLIPVisionModelWithProjection", VIT, "CLIPImageProcessorPil", LARGER),
    "siglip": ("SiglipModel", TWO, "SiglipImageProcessor", {"size": SQUARE}),
    "siglip2": (
        "Siglip2Model",
        TWO | {"vision_config": NAFLEX},
        "Siglip2ImageProcessor",
        {"patch_size": 14, "max_num_patches": 16},
    ),
    "dinov2": ("Dinov2Model", VIT | {"image_size": 84}, "BitImageProcessor", LARGER),
    "registers": ("Dinov2WithRegistersModel", VIT, "BitImageProcessor", LARGER),
    "dinov3": (
        "DINOv3ViTModel",
        VIT | {"num_register_tokens": 4},
        "DINOv3ViTImageProcessor",
        {"size": SQUARE},
    ),
    "vit": ("ViTForImageClassification", VIT, "ViTImageProcessor", {"size": SQUARE}),
    "convnext": ("ConvNextModel", CONV, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}}),
    "dinov3_convnext": ("DINOv3ConvNextModel", CONV, "DINOv3ViTImageProcessor", {"size": SQUARE}),
}
"""Class of the model, its configuration, class of the processor, its options."""
JOINT = ("clip", "siglip", "siglip2")


def make(name: str) -> tuple[Any, Any]:
    """A model whose norms and biases are not 1 and 0, so that they matter, and its processor."""
    kind, config, processor, options = MODELS[name]
    torch.manual_seed(1)
    model = getattr(hf, kind)(getattr(hf, kind).config_class(**copy.deepcopy(config))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model, getattr(hf, processor)(**options)


def picture(name: str) -> Image.Image:
    """A photo; of the processors' size where these do not round to 8 bits, or keep its shape."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    size = (56, 56) if name in ("siglip2", "dinov3", "dinov3_convnext") else (94, 151)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, Tensor], Encoder, Tensor]:
    """A model's name, itself, what its processor gives, the encoder, and the native view."""
    name = request.param
    model, processor = make(name)
    photo = picture(name)
    inputs = dict(processor(images=[photo] * 2, return_tensors="pt"))
    encoder = as_encoder(model, processor)
    if name == "siglip2":  # has no square views of its own
        view = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    else:
        view = clean_view(photo, native_resize(encoder.preprocessing))
    return name, model, inputs, encoder, torch.stack([view, view])


def tower_of(model: Any) -> Any:
    return getattr(model, "vision_model", getattr(model, "vit", model))


@torch.inference_mode()
def test_the_embedding_is_that_of_the_librarys_own_forward(case: Any) -> None:
    name, model, inputs, encoder, views = case
    if name in JOINT:
        expected = model.get_image_features(**inputs).pooler_output
    elif name == "clip_tower":
        expected = model(**inputs).image_embeds
    elif "convnext" in name:
        expected = model(**inputs).pooler_output
    else:
        expected = tower_of(model)(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(views).embedding, expected, rtol=0, atol=1e-5)
    assert encoder.pooling == (
        "attention_pool" if "siglip" in name
        else "projection" if "clip" in name
        else "pooled" if "convnext" in name
        else "class_token"
    )  # fmt: skip


@torch.inference_mode()
def test_gaze_is_the_attention_that_the_library_returns_in_eager_mode(case: Any) -> None:
    name, model, inputs, encoder, views = case
    tower = copy.deepcopy(tower_of(model))
    gaze = encoder(views).gaze
    if "convnext" in name:
        output = tower.model(inputs["pixel_values"]) if name != "convnext" else tower(**inputs)
        norm = tower.layernorm if name == "convnext" else tower.layer_norm
        features = output.last_hidden_state.double()
        pooled = features.mean(dim=(2, 3))
        shares = (features - features.mean(dim=1, keepdim=True)) / 4
        shares = shares / (pooled.var(dim=1, correction=0) + norm.eps).sqrt()[:, None, None, None]
        embedding = tower(**inputs).pooler_output.double()
        shares = torch.einsum("bchw,c,bc->bhw", shares, norm.weight.double(), embedding)
        expected = shares.clamp(min=0) / shares.clamp(min=0).sum(dim=(1, 2), keepdim=True)
        tolerance = 1e-4
    elif "siglip" in name:
        tokens = tower(**inputs).last_hidden_state
        probe = tower.head.probe.repeat(2, 1, 1)
        expected = tower.head.attention(probe, tokens, tokens, need_weights=True)[1][:, 0]
        tolerance = 1e-6
    else:
        tower.set_attn_implementation("eager")
        attention = tower(**inputs, output_attentions=True).attentions[-1]
        expected, tolerance = attention.mean(dim=1)[:, 0, -16:], 1e-6
        torch.testing.assert_close(
            encoder(views, heads=True).heads.flatten(2), attention[:, :, 0, -16:], rtol=0, atol=1e-6
        )
    torch.testing.assert_close(gaze, expected.float().reshape(gaze.shape), rtol=0, atol=tolerance)


@torch.inference_mode()
def test_layers_are_the_hidden_states_that_the_library_returns(case: Any) -> None:
    name, model, inputs, encoder, views = case
    states = tower_of(model)(**inputs, output_hidden_states=True).hidden_states[1:]
    prefix = {"registers": 5, "dinov3": 5, "siglip": 0, "siglip2": 0}.get(name, 1)
    layers = encoder(views, layers=True).layers
    assert len(layers) == len(states)
    for layer, state in zip(layers, states, strict=True):
        if state.ndim == 4:
            first, mean = torch.full_like(state[:, :, 0, 0], torch.nan), state.mean(dim=(2, 3))
        else:
            first = state[:, 0] if prefix else torch.full_like(state[:, 0], torch.nan)
            mean = state[:, prefix:].mean(dim=1)
        expected = torch.stack([first, mean], dim=1)
        torch.testing.assert_close(layer, expected, rtol=0, atol=1e-5, equal_nan=True)


@torch.inference_mode()
def test_the_mean_of_patches_leaves_out_class_token_and_registers() -> None:
    model, processor = make("registers")
    inputs = processor(images=picture("registers"), return_tensors="pt")
    encoder = as_encoder(model, processor, pooling="mean_of_patches")
    view = clean_view(picture("registers"), native_resize(encoder.preprocessing))[None]
    tokens = model(**inputs).last_hidden_state[:, 5:]
    features = encoder(view)
    torch.testing.assert_close(features.embedding, tokens.mean(dim=1), rtol=0, atol=1e-5)
    shares = (tokens @ tokens.mean(dim=1)[..., None])[..., 0].clamp(min=0)
    expected = (shares / shares.sum()).reshape(1, 4, 4)
    torch.testing.assert_close(features.gaze, expected, rtol=0, atol=1e-5)
    default = as_encoder(model, processor)
    assert default.pooling == "class_token"
    assert default.fingerprint != encoder.fingerprint


def word_tokenizer() -> Any:
    """A tokenizer of seven words, with padding and the end of the text."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<s>", "<unk>", "</s>", "a", "photo", "of", "cat", "dog"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that ``save_pretrained`` wrote, by model."""
    root = tmp_path_factory.mktemp("saved")
    for name in ("clip", "siglip", "vit"):
        for part in (*make(name), word_tokenizer()):
            part.save_pretrained(root / name)
    return {folder.name: folder for folder in root.iterdir()}


def load(repo: object, **options: Any) -> Encoder:
    return load_encoder(kind="transformers", repo=str(repo), **options)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit"])
@torch.inference_mode()
def test_a_folder_is_loaded_by_path_and_by_name_as_the_model_in_memory_is(
    folders: dict[str, Path], hub_cache: Path, name: str
) -> None:
    model, processor = make(name)
    in_memory = as_encoder(model, processor, None if name == "vit" else word_tokenizer())
    put_in_cache(hub_cache, "someone/else", {f.name: f for f in folders[name].iterdir()})
    by_path, by_name = load(folders[name]), load("someone/else")
    assert by_path.fingerprint == by_name.fingerprint
    assert by_path.weights_sha256 == in_memory.weights_sha256
    assert by_path.preprocessing == in_memory.preprocessing
    views = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert torch.equal(by_name(views).embedding, in_memory(views).embedding)
    half = load(folders[name], precision="bf16")(views).embedding
    torch.testing.assert_close(half, by_name(views).embedding, rtol=0.1, atol=0.1)
    if name == "vit":
        with pytest.raises(UserError, match="no text side"):
            by_path.encode_texts(["a cat"])
        return
    texts = ["a photo of a cat", "a dog"]
    tokens = word_tokenizer()(texts, padding="max_length", max_length=8, return_tensors="pt")
    expected = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    for encoder in (by_path, by_name, in_memory):
        torch.testing.assert_close(encoder.encode_texts(texts), expected, rtol=0, atol=1e-6)
        assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    with pytest.raises(UserError, match="no text side"):  # its words are in another space
        load(folders[name], pooling="mean_of_patches").encode_texts(["a cat"])


def message(repo: object, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(repo, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_what_cannot_be_loaded_ends_in_one_line(
    folders: dict[str, Path], hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str, model: str = "vit") -> Path:
        return Path(shutil.copytree(folders[model], tmp_path / name))

    damaged = changed("damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged cannot be loaded" in message(damaged)
    (damaged / "config.json").write_text("{")
    assert "damaged cannot be loaded" in message(damaged)
    without = changed("without")
    (without / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in message(without)
    pickled = changed("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "pickled weights are refused" in message(pickled)
    incomplete = changed("incomplete")
    config = json.loads((incomplete / "config.json").read_text()) | {"num_hidden_layers": 3}
    (incomplete / "config.json").write_text(json.dumps(config))
    assert "lacks 16 weights" in message(incomplete)
    assert "class_token, mean_of_patches" in message(folders["vit"], pooling="projection")
    assert "no folder" in message(tmp_path / "nothing")
    assert "model.repo" in message("")
    texts_alone = changed("texts")
    small = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 9}
    hf.BertModel(hf.BertConfig(intermediate_size=8, **small)).save_pretrained(texts_alone)
    assert "BertModel has no image side" in message(texts_alone)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert "model=lite" in message("facebook/dinov2-small")
    assert time.monotonic() - start < 10


def test_no_code_of_a_models_folder_is_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "model"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    for change in ({"model_type": "evil"}, {"attn_implementation": "someone/evil"}):
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": code} | change))
        if "model_type" in change:
            assert "remote code" in message(folder)
        else:
            assert load(folder).model.model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "ran").exists()


def test_a_command_measures_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    options = ["model=transformers", f"model.repo={folders['clip']}", "data.limit=3", "aug=blur"]
    options += ["model.pooling=class_token", "trainer=cpu", "layers=true", "data.resize=native"]
    done = run_evaluate(*options, "logger=none", *FEW, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "class token" in (tmp_path / "report.html").read_text()
    facts = json.loads((tmp_path / "run.json").read_text())["model"]
    assert (facts["kind"], facts["pooling"]) == ("transformers", "class_token")
    assert model_options(folders["clip"])["repo"] == str(folders["clip"])
    assert facts["gaze"] == "attention"
    assert facts["preprocessing"]["resize_size"] == 65
    assert facts["preprocessing"]["backend"] == "torchvision"
