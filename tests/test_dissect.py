"""The shift by component: sums against the model's own embedding, and heads that are known."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from timm.models import VisionTransformer
from torch import Tensor, nn

from clipshift.augment.variants import Variant
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.encode.components import ComponentProbe, component_probe, timm_components
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.last_block import only_class_token
from clipshift.encode.modules import as_encoder
from clipshift.encode.patching import Site, patched_shift, patched_sites
from clipshift.evaluate.dissect import component_products, component_table
from clipshift.results.measured import Measured
from clipshift.results.runs import read_run
from clipshift.results.table import PhotoSample

UNCHANGED = {"mean": [0.5] * 3, "std": [0.5] * 3}
REGISTERS: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "reg_tokens": 4,
    "init_values": 0.5, "qk_norm": True, "num_classes": 0, "global_pool": "token",
}  # fmt: skip


def perturbed(model: nn.Module) -> nn.Module:
    """Norms and biases start at 1 and 0: make them matter."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def clip_tower(patch: int) -> nn.Module:
    vision = CLIPVisionCfg(layers=12, width=768, patch_size=patch, image_size=224)
    with torch.device("meta"):
        tower = _build_vision_tower(512, vision)
    return randomly_filled(tower)


def siglip_tower() -> nn.Module:
    """What open_clip's ViT-B-32-SigLIP2-256 has for an image tower."""
    with torch.device("meta"):
        tower = timm.create_model("vit_base_patch32_siglip_256", num_classes=0)
    return randomly_filled(tower)


def randomly_filled(tower: nn.Module) -> nn.Module:
    tower.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in tower.parameters():
        parameter.data.normal_(float(parameter.ndim == 1), 0.04)
    return tower.eval().requires_grad_(False)


def displacement_error(probe: ComponentProbe, embedding: Tensor, written: Tensor) -> float:
    """How far the components' sum is from the displacement of the second view from the first."""
    axes = torch.eye(embedding.shape[1], dtype=torch.float64)
    lengths = embedding.double().norm(dim=1)
    parts = [
        probe.contributions(of.expand(len(axes), -1, -1), axes).sum(dim=1) / length
        for of, length in zip(written, lengths, strict=True)
    ]
    units = embedding.double() / lengths[:, None]
    moved = units[1] - units[0]
    assert moved.norm() > 1e-3
    return float((parts[1] - parts[0] - moved).norm())


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B/16", "SigLIP 2"])
@torch.inference_mode()
def test_components_of_large_towers_add_up_to_the_displacement(name: str) -> None:
    tower = siglip_tower() if name == "SigLIP 2" else clip_tower(int(name[-2:]))
    probe = timm_components(tower) if name == "SigLIP 2" else component_probe(tower)
    assert probe is not None
    assert len(probe.layers) == (1 if name == "SigLIP 2" else 12)
    side = 256 if name == "SigLIP 2" else 224
    view = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    views = torch.cat([view, view.roll(side // 3, dims=2) + 0.5])
    with only_class_token(tower, patches=False), probe.reading():
        embedding = tower(views)
    assert displacement_error(probe, embedding, probe.read()) < 1e-5


@pytest.mark.parametrize("name", ["tiny", "registers"])
@torch.inference_mode()
def test_components_of_encoders_add_up_to_the_displacement(name: str, views: Tensor) -> None:
    encoder = load_encoder("builtin:tiny")
    if name == "registers":
        model = perturbed(VisionTransformer(**REGISTERS))
        encoder = as_encoder(model, UNCHANGED | {"size": 32}, trained=False)
    assert encoder.components is not None
    features = encoder(views[:2])
    read = encoder.encode_views(views[:2], components=True)
    assert torch.equal(read.embedding, features.embedding)
    assert features.components is None
    assert read.components is not None
    assert displacement_error(encoder.components, read.embedding, read.components) < 1e-5


def test_other_towers_have_no_components() -> None:
    assert load_encoder("builtin:lite").components is None
    averaging = REGISTERS | {"global_pool": "avg"}
    assert timm_components(VisionTransformer(**averaging)) is None


@torch.inference_mode()
def test_a_head_wrote_what_is_missing_without_it(encoder: Encoder, views: Tensor) -> None:
    """Of the last layer, after which nothing else reads what a head writes but the MLP, muted."""
    tower, probe = encoder.model.visual, encoder.components
    assert probe is not None
    block, head = tower.transformer.resblocks[-1], slice(32, 64)  # the second of two
    streams: list[Tensor] = []
    keep = tower.ln_post.register_forward_pre_hook(lambda _, of: streams.append(of[0][:, 0]))
    weights = [block.attn.out_proj.weight, block.mlp.c_proj.weight, block.mlp.c_proj.bias]
    before = [weight.data.clone() for weight in weights]
    try:
        for weight in weights[1:]:
            weight.data.zero_()
        features = encoder.encode_views(views, components=True)
        weights[0].data[:, head] = 0
        encoder.encode_views(views)
    finally:
        keep.remove()
        for weight, values in zip(weights, before, strict=True):
            weight.data.copy_(values)
    with_head, without = (stream[: len(views)].double() for stream in streams)
    written = with_head - without
    written = (written - written.mean(dim=1, keepdim=True)) * tower.ln_post.weight.double()
    deviation = (with_head.var(dim=1, correction=0, keepdim=True) + tower.ln_post.eps).sqrt()
    expected = written / deviation @ tower.proj.double()
    along = torch.randn(expected.shape, dtype=torch.float64)
    assert features.components is not None
    column = probe.contributions(features.components, along)[:, 1 + 3 + 1]
    torch.testing.assert_close(column, (expected * along).sum(dim=1), rtol=1e-4, atol=1e-5)


def one_head_reacts(head: int) -> Encoder:
    """A model whose embedding is what one head of the second of two layers writes, of four."""
    vision = CLIPVisionCfg(layers=2, width=64, head_width=16, patch_size=16, image_size=64)
    torch.manual_seed(0)
    tower: Any = _build_vision_tower(32, vision).eval()
    for parameter in (tower.class_embedding, tower.positional_embedding):
        parameter.data.zero_()
    for index, block in enumerate(tower.transformer.resblocks):
        block.mlp.c_proj.weight.data.zero_()
        block.mlp.c_proj.bias.data.zero_()
        others = [h for h in range(4) if (index, h) != (1, head)]
        for other in others:
            block.attn.out_proj.weight.data[:, 16 * other : 16 * (other + 1)] = 0
    tower.encode_image = tower.forward
    return as_encoder(tower, UNCHANGED | {"size": 64}, trained=False)


@torch.inference_mode()
def test_a_head_that_alone_reacts_has_the_whole_share(views: Tensor) -> None:
    encoder = one_head_reacts(head=2)
    assert encoder.components is not None
    noisy = (views + 0.3 * torch.randn(views.shape)).clamp(0, 1)
    clean, view = (encoder.encode_views(v, components=True) for v in (views, noisy))
    products = component_products(encoder.components, view, clean)
    units = [nn.functional.normalize(of.embedding.double()) for of in (view, clean)]
    squared = (units[0] - units[1]).square().sum(dim=1)
    assert squared.min() > 1e-6
    expected = torch.zeros_like(products)
    expected[:, 1 + 5 + 2] = squared  # the constant, the first layer's four heads and MLP
    torch.testing.assert_close(products, expected, rtol=1e-4, atol=1e-9)


def table_of(products: np.ndarray) -> pd.DataFrame:
    """The table of one variant, of two layers with a head and an MLP."""
    measured = Measured(index=np.arange(len(products)), components=products[:, None])
    photos: Any = [SimpleNamespace(id=f"{n:04d}") for n in range(len(products))]
    augmentation: Any = None
    return component_table(
        PhotoSample(measured, photos, {"blur": Variant("blur", "paper", augmentation, 1.0)}, 0), 1
    )


def test_intervals_of_shares_cover() -> None:
    """Photos that move far count more, and their shares are others."""
    true = np.array([0.05, 0.4, 0.25, 0.4, -0.1])
    hits = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        size = rng.lognormal(0, 0.7, 40)
        slope = (size - np.exp(0.245))[:, None] * [0.01, -0.05, 0.02, 0.03, -0.01]
        products = size[:, None] * (true + rng.normal(0, 0.1, (40, 5))) + slope
        table = table_of(products)
        rows = table[(table["augmentation"] == "blur") & (table["component"] != "attention")]
        rows = rows.sort_values("layer", na_position="first", kind="stable")
        kinds = rows["component"].tolist()
        assert kinds == ["constant", "mlp", "head", "mlp", "head"]
        # the noise of single photos does not add up to 0: shares are of the sum that is there
        expected = true[[0, 2, 1, 4, 3]] / true.sum()
        hits.append((rows["ci_low"] <= expected) & (expected <= rows["ci_high"]))
    assert 0.92 <= np.mean(hits) <= 0.985


def run_dissected(hub_folder: Path, folder: Path, *overrides: str) -> Path:
    options = ["experiment=dissect", f"model.checkpoint={hub_folder}", "trainer=cpu"]
    options += ["logger=none", "aug=[noise,flip]", "data.limit=9", "patching.photos=3", *overrides]
    evaluate(compose_config("evaluate", options), folder)
    return folder


def test_shares_do_not_depend_on_batch_and_workers(hub_folder: Path, tmp_path: Path) -> None:
    folder = run_dissected(hub_folder, tmp_path / "a", "data.batch_size=7", "data.num_workers=2")
    other = run_dissected(hub_folder, tmp_path / "b", "data.batch_size=1")
    for name in ("components.csv", "patching.csv"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    run = read_run(folder)
    table = run.components
    stored = json.loads((folder / "columns.json").read_text())["components.csv"]
    assert set(stored) == set(table.columns)
    for kinds in (["constant", "attention", "mlp"], ["head"], ["attention"]):
        sums = table[table["component"].isin(kinds)].groupby("augmentation")["share"].sum()
        assert kinds[0] != "constant" or np.allclose(sums, 1)
    heads, attention = (
        table[table["component"] == kind].groupby(["augmentation", "layer"])["share"].sum()
        for kind in ("head", "attention")
    )
    np.testing.assert_allclose(heads, attention, atol=1e-8)
    page = (folder / "report.html").read_text()
    assert 'id="components"' in page
    assert "Sum and intervention disagree most on" in page


@torch.inference_mode()
def test_patching_a_head_that_alone_reacts_undoes_and_makes_the_whole_shift(
    views: Tensor,
) -> None:
    encoder = one_head_reacts(head=2)
    assert encoder.components is not None
    noisy = (views + 0.3 * torch.randn(views.shape)).clamp(0, 1)
    sites = patched_sites(encoder.components, by_head=2)
    shifts = patched_shift(encoder, torch.stack([views[0], noisy[0]]), sites)
    embeddings = encoder(torch.stack([views[0], noisy[0]])).embedding.double()
    shift = 1 - float(nn.functional.cosine_similarity(*embeddings, dim=0))
    assert float(shifts[0]) == pytest.approx(shift, rel=1e-3)
    undone, alone = 1 - shifts[1 : 1 + len(sites)] / shift, shifts[1 + len(sites) :] / shift
    whole = [float(site in (Site(1, "attention"), Site(1, "head", 2))) for site in sites]
    np.testing.assert_allclose(undone, whole, atol=2e-3)
    np.testing.assert_allclose(alone, whole, atol=2e-3)


@pytest.mark.parametrize("name", ["open_clip", "registers"])
@torch.inference_mode()
def test_a_component_of_the_same_view_changes_nothing(
    name: str, encoder: Encoder, views: Tensor
) -> None:
    if name == "registers":
        model = perturbed(VisionTransformer(**REGISTERS))
        encoder = as_encoder(model, UNCHANGED | {"size": 32}, trained=False)
    assert encoder.components is not None
    sites = patched_sites(encoder.components, by_head=1)
    same = patched_shift(encoder, views[:1].expand(2, -1, -1, -1), sites)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    other = patched_shift(encoder, views[:2], sites)
    assert (other[1:] > 1e-6).all()
    before = encoder(views).embedding
    assert torch.equal(before, encoder(views).embedding)
