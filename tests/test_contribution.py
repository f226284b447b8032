"""Gaze of towers that average: against autograd, closed forms, and what the average leaves over."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from scipy.spatial.distance import jensenshannon
from support.models import write_hub_folder
from torch import Tensor, nn

from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.encode.encoder import Encoder
from clipshift.encode.gaze import contribution_shares
from clipshift.encode.kinds import load_encoder
from clipshift.measure import functional

CNN = {"image_size": 96, "timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": True}
TOWERS = {
    "efficientnet": CNN | {"timm_model_name": "test_efficientnet"},
    "resnet": CNN | {"timm_model_name": "test_resnet"},
    "convnext": CNN | {"timm_model_name": "test_convnext"},  # with a layer norm after the average
    "byobnet": CNN | {"timm_model_name": "test_byobnet", "timm_proj": None},  # own classifier
}
AVERAGES = {
    "efficientnet": "global_pool",
    "resnet": "global_pool",
    "convnext": "head.global_pool",
    "byobnet": "head.global_pool",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("averaging")
    return {name: write_hub_folder(root / name, vision) for name, vision in TOWERS.items()}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, Encoder]:
    loaded = {name: load_encoder(f"local-dir:{folder}") for name, folder in folders.items()}
    loaded["byobnet"].model.visual.trunk.head.fc.weight.mul_(20)  # or its bias would be all
    return loaded


def average(name: str, encoder: Encoder) -> nn.Module:
    """The tower's layer that averages."""
    return encoder.model.visual.trunk.get_submodule(AVERAGES[name])


def with_features(name: str, encoder: Encoder, features: Tensor) -> Encoder:
    """An encoder whose average is taken of given features of its first views, and 0 of others."""
    encoder = copy.deepcopy(encoder)

    def put(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        replaced = torch.zeros(len(inputs[0]), *features.shape[1:])
        replaced[: len(features)] = features
        return (replaced,)

    average(name, encoder).register_forward_pre_hook(put, prepend=True)
    return encoder


def seen(name: str, encoder: Encoder, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What goes into the average, the embedding, and the shares, of some views."""
    kept: list[Tensor] = []
    handle = average(name, encoder).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    embedding = encoder(views).embedding
    handle.remove()
    features = kept[0][: len(views)]
    probe: Any = encoder.probe
    shares = contribution_shares(features, embedding, probe.norm, probe.projection)
    return features, embedding, shares


class FrozenNorm(nn.Module):
    """A layer norm over channels whose divisor has no gradient."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        divisor = (x.var(dim=1, unbiased=False, keepdim=True) + self.norm.eps).sqrt().detach()
        weight, bias = (p[:, None, None] for p in (self.norm.weight, self.norm.bias))
        return (x - x.mean(dim=1, keepdim=True)) / divisor * weight + bias


@pytest.mark.parametrize("name", TOWERS)
def test_shares_are_gradient_times_activation(
    encoders: dict[str, Encoder], views: Tensor, name: str
) -> None:
    """By autograd through the tower itself, from features before the average to embedding."""
    encoder = encoders[name]
    features, embedding, shares = seen(name, encoder, views[:3])
    tower = copy.deepcopy(encoder).model.visual
    if name == "convnext":
        tower.trunk.head.norm = FrozenNorm(tower.trunk.head.norm)
    leaf = features.clone().requires_grad_()
    again = tower.head(tower.trunk.forward_head(leaf))
    torch.testing.assert_close(again, embedding, atol=1e-4, rtol=1e-4)
    (again * embedding).sum().backward()
    assert leaf.grad is not None
    expected = (leaf.grad * features).sum(dim=1) / embedding.square().sum(dim=1)[:, None, None]
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)
    gaze = encoder(views[:3]).gaze
    assert gaze is not None
    positive = shares.where(shares > 0, 0)
    torch.testing.assert_close(gaze, positive / positive.sum((1, 2), keepdim=True))
    torch.testing.assert_close(gaze.sum((1, 2)), torch.ones(3))


@pytest.mark.parametrize("name", TOWERS)
def test_shares_sum_to_what_the_constant_leaves_of_one(
    encoders: dict[str, Encoder], views: Tensor, name: str
) -> None:
    """The constant is the embedding that the tower makes of features that are 0 everywhere."""
    encoder = encoders[name]
    features, embedding, shares = seen(name, encoder, views[:3])
    constant = with_features(name, encoder, torch.zeros_like(features))(views[:3]).embedding
    e, c = embedding.double(), constant.double()
    left = 1 - (c * e).sum(dim=1) / (e * e).sum(dim=1)
    assert (left - 1).abs().min() > 1e-3  # there is a constant
    torch.testing.assert_close(shares.double().sum((1, 2)), left, atol=1e-5, rtol=0)


def projecting(encoder: Encoder, bias: float = 0.0) -> Encoder:
    """An encoder whose embedding is the first averages, plus a bias on the very first."""
    encoder = copy.deepcopy(encoder)
    projection = encoder.model.visual.head.proj
    projection.weight.copy_(torch.eye(*projection.weight.shape))
    projection.bias.zero_()[0] = bias
    return encoder


@torch.no_grad()
def test_a_location_that_pulls_against_the_embedding_has_no_gaze(
    encoders: dict[str, Encoder], views: Tensor
) -> None:
    """Features of two channels by hand: the embedding is (3, 1) / 9, and then (9, 0) / 9."""
    features = torch.zeros(2, seen("resnet", encoders["resnet"], views[:1])[0].shape[1], 3, 3)
    features[0, 0, 0, 1], features[0, 0, 2, 2] = 4, -1
    features[0, 1, 1, 1] = 1
    features[1, 0, 2, 0] = 9
    encoder = with_features("resnet", projecting(encoders["resnet"]), features)
    output = encoder(views[:2])
    assert output.embedding[0, :3].tolist() == pytest.approx([3 / 9, 1 / 9, 0])
    shares = contribution_shares(features, output.embedding, None, encoder.probe.projection)
    expected = torch.zeros(2, 3, 3)
    expected[0, 0, 1], expected[0, 2, 2], expected[0, 1, 1] = 12 / 10, -3 / 10, 1 / 10
    expected[1, 2, 0] = 1
    torch.testing.assert_close(shares, expected)
    expected[0, 2, 2] = 0
    expected[0] /= 13 / 10
    torch.testing.assert_close(output.gaze, expected)


@torch.no_grad()
def test_where_no_share_is_positive_there_is_no_gaze_and_other_photos_keep_theirs(
    encoders: dict[str, Encoder], views: Tensor
) -> None:
    """The bias makes all of the embedding: 10 on the first channel, from which features take."""
    features = torch.zeros(3, seen("resnet", encoders["resnet"], views[:1])[0].shape[1], 3, 3)
    features[0, 0] = -1
    features[1, 0, 1, 1] = 9
    encoder = with_features("resnet", projecting(encoders["resnet"], bias=10), features)
    gaze = encoder(views[:3]).gaze
    assert gaze is not None
    assert gaze.isnan().all(dim=(1, 2)).tolist() == [True, False, True]
    assert gaze[1, 1, 1] == 1
    clean = torch.full_like(gaze, 1 / 9)
    for taken in (gaze, clean), (clean, gaze):
        for measured in (
            functional.gaze_divergence(*taken),
            functional.gaze_entropy_change(*taken),
            functional.attention_similarity(*taken),
            functional.gaze_divergence_aligned(*taken, lambda maps: maps.flip(-1)),
            functional.attention_similarity_aligned(*taken, lambda maps: maps.flip(-1)),
        ):
            assert measured.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("name", TOWERS)
def test_contributions_do_not_depend_on_their_company(
    encoders: dict[str, Encoder], views: Tensor, name: str
) -> None:
    encoder = encoders[name]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 8
    together = encoder(views[order], layers=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        parts = [encoder(views[chosen], layers=True) for chosen in ([3], [6, 3, 0, 1])]
    finally:
        torch.set_num_threads(threads)
    for index, row in [(3, (0, 0)), (6, (1, 0)), (3, (1, 1)), (0, (1, 2)), (1, (1, 3))]:
        part, position = row
        for other in (order == index).nonzero()[:, 0]:
            for one, among in [
                (parts[part].gaze, together.gaze),
                (parts[part].embedding, together.embedding),
                *zip(parts[part].layers, together.layers, strict=True),
            ]:
                assert torch.equal(one[position].nan_to_num(), among[other].nan_to_num())


@pytest.mark.parametrize(
    ("trunk", "more"),
    [
        ("test_efficientnet", {"timm_proj": "mlp"}),
        ("test_efficientnet", {"timm_pool": "max"}),
        ("test_efficientnet", {"timm_pool": "rot_attn", "timm_proj": None}),
        ("mobilenetv4_conv_small_035", {"timm_proj": None}),  # an activation after the average
        ("test_nfnet", {"timm_pool": "avgmax"}),
    ],
)
def test_what_is_not_linear_in_the_average_has_no_shares(
    tmp_path: Path, views: Tensor, trunk: str, more: dict
) -> None:
    encoder = load_encoder(
        f"local-dir:{write_hub_folder(tmp_path, CNN | {'timm_model_name': trunk} | more)}"
    )
    assert encoder.probe is None
    assert encoder(views[:1]).gaze is None


def test_half_precision_shares_are_near(
    folders: dict[str, Path], encoders: dict[str, Encoder], views: Tensor
) -> None:
    """And nothing but the features and the embedding is rounded."""
    full, half = (
        load_encoder(f"local-dir:{folders['efficientnet']}", precision=p)(views[:2])
        for p in ("fp32", "pure_bf16")
    )
    assert half.gaze.dtype == torch.float32
    assert 0 < (half.gaze - full.gaze).abs().max() < 0.02
    rounded = [
        tensors.bfloat16() for tensors in seen("convnext", encoders["convnext"], views[:2])[:2]
    ]
    probe: Any = encoders["convnext"].probe
    given, exact = (
        contribution_shares(*tensors, probe.norm, probe.projection)
        for tensors in (rounded, [tensors.float() for tensors in rounded])
    )
    assert torch.equal(given, exact)


def test_only_towers_of_convolutions_are_channels_last(
    encoders: dict[str, Encoder], encoder: Encoder
) -> None:
    for name, model in {**encoders, "vit": encoder}.items():
        weights = [p for p in model.model.visual.parameters() if p.ndim == 4 and p.shape[2] > 1]
        assert weights
        stored = {p.is_contiguous(memory_format=torch.channels_last) for p in weights}
        assert stored == {name in TOWERS}, name


def test_a_run_says_that_its_gaze_is_contribution(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose_config(
        "evaluate",
        [
            "logger=none",
            "trainer=cpu",
            "cache=off",
            "data.num_workers=0",
            "data.limit=3",
            f"model.checkpoint={folders['efficientnet']}",
            "aug=noise",
            "save.gaze=3",
        ],
    )
    evaluate(cfg, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["model"]["gaze"] == "contribution"
    words = "contribution (the share of each location in the embedding"
    assert f"gaze: {words}" in capsys.readouterr().out
    assert words in (tmp_path / "report.html").read_text()
    maps = load_file(tmp_path / "gaze.safetensors")
    shift = pd.read_parquet(tmp_path / "shift.parquet")
    expected = [
        jensenshannon(a.ravel().astype(float), b.ravel().astype(float), 2) ** 2
        for a, b in zip(maps["noise"], maps["clean"], strict=True)
    ]
    np.testing.assert_allclose(shift["gaze_divergence"], expected, atol=1e-6)
