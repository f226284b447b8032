"""Models of timm, torchvision, ONNX, torch.export, and functions, against the libraries' own."""

import copy
import json
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models.eva import Eva
from torch import Tensor, nn
from torchvision import models

from clipshift.data.dataset import clean_view, native_resize
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.encode import as_encoder, load_encoder
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
TIMM: dict[str, tuple[str, dict[str, Any], str | None, str | None, str | None]] = {
    # model, its options, model.pooling, what the embedding is, gaze
    "class token": ("vit_tiny_patch16_224", SMALL, None, "class_token", "attention"),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL | {"img_size": 56}, None, "class_token",
                  "attention"),
    "siglip": ("vit_base_patch16_siglip_224", SMALL, None, "attention_pool", "attention"),
    "eva": ("eva02_tiny_patch14_224", SMALL | {"img_size": 56}, "class_token", "class_token",
            "attention"),
    "dinov3": ("vit_small_patch16_dinov3", SMALL, "class_token", "class_token", "attention"),
    "grouped queries": ("vit_small_patch16_dinov3", SMALL | {"attn_type": "rope", "num_heads": 4,
                        "num_kv_heads": 2, "qkv_fused": False}, "class_token", "class_token",
                        "attention"),
    "mean of patches": ("vit_small_patch16_dinov3", SMALL, None, "mean_of_patches", "contribution"),
    "convnext": ("test_convnext", {}, None, "pooled", "contribution"),
    "resnet": ("test_resnet", {}, None, "pooled", "contribution"),
    "distilled": ("deit_tiny_distilled_patch16_224", SMALL, None, "pooled", None),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (1, 1),
             "num_heads": (2, 2)}, None, "pooled", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return decode(sample()[3].read()).resize((201, 150))


def randomized(model: Any, scale: float = 0.1) -> Any:
    """Norms, biases and tokens that start at 1 or 0 matter as well."""
    for index, weight in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(index)
        weight.data += scale * torch.randn(weight.shape, generator=generator)
    return model.eval()


def native_views(encoder: Encoder, photo: Image.Image) -> Tensor:
    views = [
        clean_view(image, native_resize(encoder.preprocessing)) for image in (photo, turned(photo))
    ]
    return torch.stack(views)


def turned(photo: Image.Image) -> Image.Image:
    return photo.transpose(Image.Transpose.ROTATE_90)


@torch.no_grad()
def unfused_attention(model: Any, pixels: Tensor) -> Tensor:
    """The weights of the last attention layer, which pass through its dropout: (B, heads, N, N)."""
    layer = model.attn_pool if getattr(model, "attn_pool", None) else model.blocks[-1].attn
    layer.fused_attn, kept = False, []
    if model.attn_pool:  # its pool has no dropout of the weights: they are what its softmax returns
        softmax = Tensor.softmax
        Tensor.softmax = lambda x, *a, **k: kept.append(softmax(x, *a, **k)) or kept[-1]
        try:
            model(pixels)
        finally:
            Tensor.softmax = softmax
    else:
        layer.attn_drop.register_forward_hook(lambda *hooked: kept.append(hooked[2]))
        model(pixels)
    return kept[-1]


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm(name: str, photo: Image.Image) -> None:
    architecture, options, asked, pooling, gaze = TIMM[name]
    if "num_kv_heads" in options and "num_kv_heads" not in signature(Eva).parameters:
        pytest.skip("this version of timm has no grouped queries")
    torch.manual_seed(0)
    model = randomized(timm.create_model(architecture, **options))
    encoder = as_encoder(model, pooling=asked)
    assert (encoder.kind, encoder.pooling) == ("timm", pooling)
    assert (encoder.probe.kind if encoder.probe else None) == gaze
    views = native_views(encoder, photo)
    config = resolve_data_config({"input_size": (3, *encoder.input_size)}, model=model)
    transform = create_transform(**config)
    pixels = torch.stack([transform(image) for image in (photo, turned(photo))])
    features = encoder(views, layers=True)
    tokens = model.forward_features(pixels)
    expected = tokens[:, 0] if asked else model.forward_head(tokens, pre_logits=True)
    if asked == "class_token" and isinstance(model.fc_norm, nn.LayerNorm):
        expected = model.fc_norm(expected)
    torch.testing.assert_close(features.embedding, expected, atol=1e-5, rtol=0)
    if gaze == "attention":
        weights = unfused_attention(model, pixels)[:, :, 0].mean(dim=1)
        grid = model.patch_embed.grid_size
        patches = weights[:, -grid[0] * grid[1] :].unflatten(1, grid)
        torch.testing.assert_close(features.gaze, patches, atol=1e-6, rtol=0)
    if name == "mean of patches":
        patches = tokens[:, model.num_prefix_tokens :]
        shares = (patches @ expected[:, :, None])[..., 0].clamp(min=0)
        shares = (shares / shares.sum(dim=1, keepdim=True)).unflatten(1, features.gaze.shape[1:])
        torch.testing.assert_close(features.gaze, shares, atol=1e-6, rtol=0)
    outputs = model.forward_intermediates(pixels, intermediates_only=True)
    for layer, output in zip(features.layers, outputs[-len(features.layers) :], strict=True):
        torch.testing.assert_close(layer[:, 1], output.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def vit(**options: Any) -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 3}
    return models.VisionTransformer(**sizes, hidden_dim=48, mlp_dim=96, num_classes=7)


TORCHVISION = {
    "resnet": (models.resnet18, models.ResNet18_Weights.DEFAULT.transforms, "fc"),
    "convnext": (
        partial(
            models.ConvNeXt,
            [models.convnext.CNBlockConfig(16, 24, 1), models.convnext.CNBlockConfig(24, None, 1)],
        ),
        models.ConvNeXt_Tiny_Weights.DEFAULT.transforms,
        "classifier.2",
    ),
    "swin": (
        partial(models.SwinTransformer, [4, 4], 24, [1, 1], [2, 2], [7, 7]),
        models.Swin_T_Weights.DEFAULT.transforms,
        "head",
    ),
    "vit": (vit, partial(models.ViT_B_16_Weights.DEFAULT.transforms, crop_size=64), "heads.head"),
}


@pytest.mark.parametrize("name", TORCHVISION)
@torch.no_grad()
def test_torchvision(name: str, photo: Image.Image) -> None:
    make, transforms, classifier = TORCHVISION[name]
    torch.manual_seed(0)
    model, kept = randomized(make(), 0.01), []
    encoder = as_encoder(model, transforms())
    assert encoder.pooling == ("class_token" if name == "vit" else "pooled")
    features = encoder(native_views(encoder, photo), layers=True)
    model.get_submodule(classifier).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    if name == "vit":
        attention = model.encoder.layers[-1].self_attention
        forward = attention.forward

        def with_weights(*tokens: Tensor, **options: Any) -> Any:
            output = forward(*tokens, need_weights=True, average_attn_weights=False)
            kept.append(output[1])
            return output[0], None

        attention.forward = with_weights
    else:
        model.avgpool.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    model(torch.stack([transforms()(image) for image in (photo, turned(photo))]))
    inner, expected = kept
    torch.testing.assert_close(features.embedding, expected, atol=1e-5, rtol=1e-5)
    if name == "vit":
        patches = inner[:, :, 0, 1:].mean(dim=1).unflatten(1, (4, 4))
    else:  # by autograd from the features before the average
        with torch.enable_grad():
            leaf = inner.clone().requires_grad_()
            mean = leaf.mean(dim=(2, 3))
            if name == "convnext":
                norm = model.classifier[0]
                scale = (mean.var(dim=1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
                mean = (mean - mean.mean(dim=1, keepdim=True)) / scale * norm.weight + norm.bias
            (mean * expected).sum().backward()
        shares = (leaf.grad * inner).sum(dim=1).clamp(min=0)
        patches = shares / shares.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(features.gaze, patches, atol=1e-6, rtol=1e-4)
    if name == "swin":  # its stages return (B, h, w, width)
        assert [layer.shape[2] for layer in features.layers] == [24, 24, 48, 48]


def test_by_name_with_weights_of_ones_own(tmp_path: Path, views: Tensor) -> None:
    """A file of a fine-tuned classifier, and timm's folder; half precision; the same twice."""
    model = randomized(timm.create_model("test_vit", num_classes=3))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": model.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    usual = as_encoder(model)
    file = {
        "kind": "timm",
        "architecture": "test_vit",
        "checkpoint": f"{tmp_path}/model.safetensors",
    }
    loaded = load_encoder(**file)
    of_folder = load_encoder(
        kind="timm", architecture=f"local-dir:{tmp_path}", pretrained="default"
    )
    for encoder in (
        loaded,
        of_folder,
        load_encoder(kind="timm", architecture="x", checkpoint=str(tmp_path)),
    ):
        assert encoder.trained
        assert encoder.cacheable
        assert encoder.weights_sha256 == usual.weights_sha256
        assert torch.equal(encoder(views[:2]).embedding, usual(views[:2]).embedding)
    assert load_encoder(**file).fingerprint == loaded.fingerprint
    other = load_encoder(**file, pooling="mean_of_patches")
    assert (other.pooling, other.weights_sha256) == ("mean_of_patches", loaded.weights_sha256)
    assert other.fingerprint != loaded.fingerprint
    half = load_encoder(**file, precision="bf16")
    assert half.precision == "bf16"
    cosines = torch.cosine_similarity(half(views[:2]).embedding, loaded(views[:2]).embedding)
    assert 0.99 < cosines.min() < 1
    net = models.get_model("resnet18", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    named = load_encoder(
        kind="torchvision", architecture="resnet18", checkpoint=f"{tmp_path}/net.pt"
    )
    transforms = models.ResNet18_Weights.DEFAULT.transforms()
    assert torch.equal(named(views[:1]).embedding, as_encoder(net, transforms)(views[:1]).embedding)


DECLARED = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.5]}
DECLARED |= {"interpolation": "bicubic", "resize_mode": "shortest"}


class Net(nn.Module):
    """A small network with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 5, stride=4), nn.Linear(8, 6)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(pixels).relu()
        return self.fc(maps.mean(dim=(2, 3))), maps


class First(Net):
    """Its first output alone."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path]:
    torch.manual_seed(0)
    net, folder = Net().eval(), tmp_path_factory.mktemp("onnx")
    names = {"input_names": ["pixels"], "output_names": ["embedding", "maps"]}
    torch.onnx.export(net, torch.rand(4, 3, 32, 32), folder / "fixed.onnx", dynamo=False, **names)
    dynamic = {"pixels": {0: "batch"}, "embedding": {0: "batch"}, "maps": {0: "batch"}}
    torch.onnx.export(
        net,
        torch.rand(4, 3, 32, 32),
        folder / "net.onnx",
        dynamo=False,
        dynamic_axes=dynamic,
        **names,
    )
    return net, folder


@pytest.mark.parametrize("file", ["net.onnx", "fixed.onnx"])
@torch.no_grad()
def test_onnx(exported: tuple[Net, Path], views: Tensor, file: str) -> None:
    net, folder = exported
    options = {"kind": "onnx", "checkpoint": str(folder / file), "pooling": "embedding"}
    encoder = load_encoder(**options, preprocessing=DECLARED)
    plain = copy.deepcopy(net)
    plain.encode_image = lambda pixels: plain(pixels)[0]
    expected = as_encoder(plain, DECLARED)(views).embedding
    torch.testing.assert_close(encoder(views).embedding, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder(views[2:3]).embedding[0], encoder(views).embedding[2])
    assert (encoder.kind, encoder.pooling, encoder.probe) == ("onnx", "embedding", None)
    (folder / file).with_suffix(".json").write_text(json.dumps(DECLARED))
    beside = load_encoder(**options)
    assert beside.fingerprint == encoder.fingerprint
    session = onnxruntime.InferenceSession(folder / file)
    in_memory = as_encoder(session, DECLARED, pooling="embedding")
    assert torch.equal(in_memory(views).embedding, encoder(views).embedding)
    assert in_memory.weights_sha256 == encoder.weights_sha256


@torch.no_grad()
def test_exported_programs_and_functions(views: Tensor) -> None:
    torch.manual_seed(0)
    net = First().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.rand(4, 3, 32, 32),), dynamic_shapes=({0: batch},))
    plain = copy.deepcopy(net)
    plain.encode_image = plain.forward
    expected = as_encoder(plain, DECLARED)(views).embedding
    encoder = as_encoder(program, DECLARED)
    torch.testing.assert_close(encoder(views).embedding, expected, atol=1e-6, rtol=1e-5)
    assert (encoder.kind, encoder.cacheable) == ("torch_export", False)

    def colours(batch: Tensor) -> Tensor:
        return batch.mean(dim=(2, 3))

    function = as_encoder(colours)
    assert (function.kind, function.pooling, function.cacheable) == ("function", "own", False)
    torch.testing.assert_close(function(views).embedding, views.mean(dim=(2, 3)))
    normalised = as_encoder(colours, DECLARED)(views[:1]).embedding.numpy()
    small = nn.functional.interpolate(views[:1], (32, 32), mode="bilinear", antialias=True)
    by_hand = (small.mean(dim=(2, 3)).numpy() - DECLARED["mean"]) / DECLARED["std"]
    np.testing.assert_allclose(normalised, by_hand, atol=1e-5)


def test_mistakes_are_one_line(
    exported: tuple[Net, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "clipshift.encode.modules.require_network",
        lambda address: (_ for _ in ()).throw(UserError(f"cannot download {address}")),
    )
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    torch.save({"x": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"code": json.JSONDecoder}, tmp_path / "unsafe.pt")
    net = str(exported[1] / "net.onnx")
    vit: dict[str, Any] = {"kind": "timm", "architecture": "test_vit"}
    resnet: dict[str, Any] = {"kind": "torchvision", "architecture": "resnet18"}
    for options, says in (
        ({"kind": "tim"}, "unknown model.kind=tim; did you mean 'timm'?"),
        (vit | {"architecture": "test_vitt"}, "did you mean 'test_vit'"),
        (vit | {"pretrained": "r161_in1k"}, "did you mean 'r160_in1k'"),
        (vit | {"pretrained": "default"}, "model=lite"),  # it is not here, and there is no network
        (vit | {"pooling": "projection"}, "not possible for this model: class_token, mean_of_pa"),
        (vit | {"checkpoint": f"{tmp_path}/other.pt"}, "is not a checkpoint of test_vit"),
        (vit | {"checkpoint": f"{tmp_path}/unsafe.pt"}, "unsafe.pt cannot be loaded"),
        (vit | {"checkpoint": f"{tmp_path}/no.pt"}, "no.pt cannot be loaded"),
        (vit | {"architecture": f"local-dir:{tmp_path}"}, "cannot be loaded: "),
        (vit | {"repo": "a/b"}, "model.repo is not an option of model.kind=timm"),
        ({"kind": "timm"}, "model.architecture is required by model.kind=timm"),
        (resnet | {"architecture": "resnet19"}, "did you mean 'resnet1"),
        (
            resnet | {"pretrained": "V9"},
            "'V9' is not the name of weights of resnet18 in torchvision (there are: IMAGENET1K_V1",
        ),
        (resnet | {"pretrained": "default"}, "cannot download https://download.pytorch.org"),
        (resnet | {"checkpoint": f"{tmp_path}/other.pt"}, "is not a checkpoint of resnet18"),
        ({"kind": "onnx", "checkpoint": f"{tmp_path}/no.onnx"}, "is not a file of ONNX"),
        ({"kind": "onnx", "checkpoint": f"{tmp_path}/a.pt2"}, "by torch.export.load"),
        ({"kind": "onnx", "checkpoint": f"{tmp_path}/bad.onnx", "preprocessing": DECLARED}, "bad"),
        ({"kind": "onnx", "checkpoint": net, "preprocessing": DECLARED}, "embedding, maps"),
        (
            {"kind": "onnx", "checkpoint": net, "preprocessing": DECLARED, "pooling": "maps"},
            "(2, D)",
        ),
    ):
        with pytest.raises(UserError) as error:
            load_encoder(**options)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    Path(net).with_suffix(".json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"set model\.preprocessing\.std, model\."):
        load_encoder(
            kind="onnx",
            checkpoint=net,
            preprocessing={"size": 32, "mean": [0, 0, 0], "resize_mode": "squash"},
        )
    grown = timm.create_model("test_vit", img_size=96)
    for model, options, says in (
        (grown, {"preprocess": DECLARED}, "the model was made with img_size=(96, 96)"),
        (grown, {"tokenizer": str.split}, "VisionTransformer has no text side"),
        (models.resnet18(), {}, "the preprocessing of ResNet is required"),
        (models.squeezenet1_0(), {"preprocess": DECLARED}, "SqueezeNet has no linear classifier"),
        (nn.Linear(2, 2), {}, "model.encode_image = model.forward; preprocess = {"),
        (lambda views: views, {}, "returns (2, 3, 224, 224) for 2 views"),
    ):
        with pytest.raises(UserError) as error:
            as_encoder(model, **options)
        assert says in str(error.value)
