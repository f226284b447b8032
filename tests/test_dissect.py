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
import torchvision
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from clipshift.augment.variants import Variant
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.encode.components import ComponentProbe, component_probe
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.last_block import only_class_token
from clipshift.encode.layers import tower_blocks
from clipshift.encode.modules import as_encoder
from clipshift.encode.patching import Site, patched_shift, patched_sites
from clipshift.encode.tower import Tower
from clipshift.evaluate.dissect import (
    component_products,
    component_table,
    location_products,
    location_table,
    patching_table,
)
from clipshift.results.kept import read_kept
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
    side = 256 if name == "SigLIP 2" else 224
    view = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    blocks: Any = tower_blocks(tower) or list(tower.blocks)  # type: ignore[arg-type]
    probe = component_probe(tower, blocks, int(name != "SigLIP 2"), tower, view)
    assert probe is not None
    assert len(probe.layers) == (1 if name == "SigLIP 2" else 12)
    views = torch.cat([view, view.roll(side // 3, dims=2) + 0.5])
    with only_class_token(tower, patches=False), probe.reading(by_token=True):
        embedding = tower(views)
    written, by_token = probe.read(), probe.read_by_token()
    assert displacement_error(probe, embedding, written) < 1e-5
    assert by_token is not None
    depth = len(probe.layers)
    torch.testing.assert_close(
        by_token.sum(dim=2).double(), written[:, 1 : 1 + depth], rtol=1e-4, atol=1e-4
    )


def small_model(name: str) -> Any:
    """A small model of a library, with its preprocessing."""
    library, _, variant = name.partition(" ")
    preprocessing: Any = UNCHANGED | {"size": 32}
    if library == "registers":
        model: Any = VisionTransformer(**REGISTERS | OPTIONS[variant])
    elif library == "Eva":
        options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
        model = Eva(**options, num_classes=0, **OPTIONS[variant])
    elif library == "torchvision":
        model = torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128)
    else:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"intermediate_size": 128, "image_size": 32, "patch_size": 8}
        model = {
            "CLIP": lambda: transformers.CLIPVisionModelWithProjection(
                transformers.CLIPVisionConfig(**sizes, projection_dim=32)
            ),
            "SigLIP": lambda: transformers.SiglipVisionModel(
                transformers.SiglipVisionConfig(**sizes)
            ),
            "DINOv2": lambda: transformers.Dinov2WithRegistersModel(
                transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=2)
            ),
            "DINOv3": lambda: transformers.DINOv3ViTModel(
                transformers.DINOv3ViTConfig(**sizes, num_register_tokens=2)
            ),
        }[library]()
        preprocessing = transformers.CLIPImageProcessor(size=32, crop_size=32)
    return perturbed(model), preprocessing


OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "normed average": {"global_pool": "avg", "fc_norm": False},
    "average": {"global_pool": "avg"},
    "EVA02": {"global_pool": "token", "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False},
    "DINOv3": {"attn_type": "rope", "use_rot_pos_emb": True, "init_values": 0.5},
    "scaled": {"global_pool": "token", "scale_attn_inner": True},
    "post": {"global_pool": "token", "use_post_norm": True},
}
BY_TOKEN = ["tiny", "registers", "Eva EVA02", "torchvision", "CLIP", "SigLIP", "DINOv2", "DINOv3"]
WHOLE = ["registers normed average", "registers average", "Eva DINOv3", "Eva scaled"]


@pytest.mark.parametrize("name", BY_TOKEN + WHOLE)
@torch.inference_mode()
def test_components_of_encoders_add_up_to_the_displacement(name: str, views: Tensor) -> None:
    """So do those of patches that each head gathers, where the embedding is of one query."""
    if name == "tiny":
        encoder = load_encoder("builtin:tiny")
    else:
        model, preprocessing = small_model(name)
        encoder = as_encoder(model, preprocessing, trained=False)
    probe = encoder.components
    assert probe is not None
    features = encoder(views[:2])
    read = encoder.encode_views(views[:2], components=True, by_token=True)
    assert torch.equal(read.embedding, features.embedding)
    assert features.components is None
    assert read.components is not None
    assert displacement_error(probe, read.embedding, read.components) < 1e-5
    assert probe.by_token == (name in BY_TOKEN)
    assert (read.by_token is not None) == probe.by_token
    if read.by_token is not None:
        view, clean = read.split(1)
        heads = component_products(probe, view, clean)[:, 1:].unflatten(1, (len(probe.layers), -1))
        tokens = location_products(probe, view, clean)
        assert tokens.shape[3] >= 16
        difference = tokens.sum(dim=3) - heads[..., : probe.heads]
        assert difference.abs().max() < 1e-6 * heads.abs().sum()


def test_other_towers_have_no_components() -> None:
    assert load_encoder("builtin:lite").components is None
    model, preprocessing = small_model("Eva post")
    assert as_encoder(model, preprocessing, trained=False).components is None


@torch.inference_mode()
def test_what_heads_gather_of_a_patch_is_where_it_changed() -> None:
    """In the first layer, only the token of the patch that changed has another value."""
    model = perturbed(VisionTransformer(**REGISTERS | {"depth": 1, "qk_norm": False}))
    model.blocks[0].attn.qkv.weight.data[:64] = 0  # attention is the same to all tokens
    model.blocks[0].attn.qkv.bias.data[:64] = 0
    encoder = as_encoder(model, UNCHANGED | {"size": 32}, trained=False)
    views = torch.rand(2, 3, 32, 32)
    views[1] = views[0]
    views[1, :, 8:16, 24:] = 0  # second row, fourth column
    clean, view = encoder.encode_views(views, components=True, by_token=True).split(1)
    assert encoder.components is not None
    products = location_products(encoder.components, view, clean).sum(dim=(0, 1, 2))
    assert products.shape == (1 + 4 + 16,)
    changed = 1 + 4 + 4 + 3
    values = [of.by_token[0, 0] for of in (view, clean)]  # type: ignore[index]
    same = (values[0] == values[1]).all(dim=1)
    assert same.tolist() == [token != changed for token in range(21)]


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


def test_a_photo_whose_embedding_has_no_direction_has_no_shares() -> None:
    products = np.random.default_rng(0).uniform(1, 2, (7, 5))
    with_nan = np.insert(products, 3, np.nan, axis=0)
    expected, table = table_of(products), table_of(with_nan)
    assert (table["n"] == 7).all()
    np.testing.assert_allclose(table["share"], expected["share"])
    assert table[["ci_low", "ci_high"]].notna().all(axis=None)
    np.testing.assert_allclose(table_of(products * 1e-9)["share"], expected["share"])
    assert table_of(products * 1e-15)["share"].isna().all()  # moved by rounding alone


@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_locations_have_rows_and_columns_and_the_sum_of_all_tokens(prefix: int) -> None:
    rng = np.random.default_rng(0)
    tokens, squared = rng.normal(size=(2, 5, prefix + 6)), rng.uniform(1, 2, (5, 2))
    variants: Any = {
        name: SimpleNamespace(name=name, severity="paper") for name in ("noise", "blur")
    }
    measured = Measured(
        index=np.arange(5),
        components=squared[..., None].astype(np.float32),
        locations={name: dict(enumerate(tokens[n])) for n, name in ((1, "blur"), (0, "noise"))},
        gazes={"clean": {n: np.ones((2, 3)) for n in range(5)}},
    )
    photos: Any = [SimpleNamespace(id=str(n)) for n in range(5)]
    table = location_table(PhotoSample(measured, photos, variants, 0))
    for n, name in enumerate(variants):
        rows = table[table["augmentation"] == name]
        expected = tokens[n].mean(axis=0) / squared[:, n].mean()
        assert rows["share"].sum() == pytest.approx(expected.sum())
        patches = rows[rows["token"] == "patch"]
        place = patches[(patches["row"] == 2) & (patches["column"] == 1)]
        assert place["share"].item() == pytest.approx(expected[prefix + 3])
        assert rows["token"].tolist()[:-6] == ["class", "registers"][:prefix]


def run_dissected(hub_folder: Path, folder: Path, *overrides: str) -> Path:
    options = ["experiment=dissect", f"model.checkpoint={hub_folder}", "trainer=cpu"]
    options += ["logger=none", "aug=[noise,flip]", "data.limit=6", "patching.photos=3"]
    options += ["prompts.templates=['a photo of a {}.']"]
    options += ["faithfulness.photos=2", "metric=cosine_similarity", *overrides]
    evaluate(compose_config("evaluate", options), folder)
    return folder


@pytest.mark.usefixtures("without_figures")
def test_shares_do_not_depend_on_batch_and_workers(
    hub_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = run_dissected(hub_folder, tmp_path / "a", "data.batch_size=4", "data.num_workers=2")
    request.getfixturevalue("without_page")
    other = run_dissected(hub_folder, tmp_path / "b", "data.batch_size=1")
    tables = ["components", "patching", "locations", "faithfulness", "faithfulness_curves"]
    tables += ["geometry", "margins", "head_texts"]
    for name in (f"{table}.csv" for table in tables):
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
    located = run.locations
    np.testing.assert_allclose(
        located.groupby("augmentation")["share"].sum(),
        table[table["component"] == "attention"].groupby("augmentation")["share"].sum(),
        atol=1e-5,
    )
    assert (located["token"] == "patch").sum() == 3 * located["row"].max() * located["column"].max()
    maps, gazes = read_kept(folder, "locations"), read_kept(folder)
    assert maps.keys() == gazes.keys()
    assert all(of["noise"].size == 1 + gazes[photo]["noise"].size for photo, of in maps.items())
    page = (folder / "report.html").read_text()
    assert 'id="components"' in page
    assert "where heads gather the shift" in page.lower()
    assert 'id="faithfulness"' in page
    assert "Share and intervention disagree most on" in page
    assert "What these heads write, in words" in page
    named = run.head_texts
    assert set(named["augmentation"]) == {"noise", "flip", "all"}
    assert named.groupby(["augmentation", "layer", "head"])["rank"].count().eq(5).all()
    assert (named["n"] == 6).all()
    assert (run.patching["n"] == 3).all()
    assert named["cumulative"].between(0, 1).all()


@torch.inference_mode()
def test_patching_a_head_that_alone_reacts_undoes_and_makes_the_whole_shift(
    views: Tensor,
) -> None:
    encoder = one_head_reacts(head=2)
    assert encoder.components is not None
    noisy = (views + 0.3 * torch.randn(views.shape)).clamp(0, 1)
    sites = patched_sites(encoder.components, by_head=2)
    shifts = patched_shift(encoder, encoder.components, torch.stack([views[0], noisy[0]]), sites)
    embeddings = encoder(torch.stack([views[0], noisy[0]])).embedding.double()
    shift = 1 - float(nn.functional.cosine_similarity(*embeddings, dim=0))
    assert float(shifts[0]) == pytest.approx(shift, rel=1e-3)
    undone, alone = 1 - shifts[1 : 1 + len(sites)] / shift, shifts[1 + len(sites) :] / shift
    whole = [float(site in (Site(1, "attention"), Site(1, "head", 2))) for site in sites]
    np.testing.assert_allclose(undone, whole, atol=2e-3)
    np.testing.assert_allclose(alone, whole, atol=2e-3)


@pytest.mark.parametrize("name", ["open_clip", "registers", "SigLIP", "lite"])
@torch.inference_mode()
def test_a_component_of_the_same_view_changes_nothing(
    name: str, encoder: Encoder, views: Tensor
) -> None:
    if name == "lite":
        encoder = load_encoder("builtin:lite")
        encoder.fill = False  # its passes take seconds
    elif name != "open_clip":
        model, preprocessing = small_model(name)
        encoder = as_encoder(model, preprocessing, trained=False)
    probe = encoder.patchable
    assert probe is not None
    sites = patched_sites(probe, by_head=1)
    same = patched_shift(encoder, probe, views[:1].expand(2, -1, -1, -1), sites)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    other = patched_shift(encoder, probe, views[:2], sites)
    undone = other[1:2] if name == "SigLIP" else other[:0]  # a pool's attention is all it reads
    np.testing.assert_allclose(undone, 0, atol=1e-6)
    assert (other[1 + len(undone) :] > 1e-6).all()
    before = encoder(views).embedding
    assert torch.equal(before, encoder(views).embedding)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.convolution(features).relu()


@torch.inference_mode()
def test_patching_a_stage_swaps_what_its_residual_blocks_add(views: Tensor) -> None:
    torch.manual_seed(0)
    first, stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Residual(), Residual()), 1
    tower: Any = nn.Sequential(first, nn.Sequential(Residual()), nn.Flatten(), nn.Linear(2048, 16))
    tower.encode_image = tower.forward
    tower.eval().requires_grad_(False)
    options = UNCHANGED | {"size": 64}
    encoder = Encoder(tower, options, {}, trained=False, tower=Tower(blocks=tower[:2]))
    assert encoder.components is None
    assert encoder.patchable is not None
    sites = patched_sites(encoder.patchable, by_head=2)
    assert sites == [Site(0, "stage"), Site(1, "stage")]
    pair = torch.nn.functional.interpolate(views[:2], 64)
    shifts = patched_shift(encoder, encoder.patchable, pair, sites)

    def embedding(into: int, stage: int | None) -> Tensor:
        """Of one view, with what a stage adds to the other."""
        maps = [(pair[n : n + 1] - 0.5) / 0.5 for n in (into, 1 - into)]
        for index, part in enumerate(tower[:2]):
            if index == 0:
                maps = [part[0](of) for of in maps]
            added = [part[stem if index == 0 else 0 :](of) - of for of in maps]
            maps = [of + plus for of, plus in zip(maps, added, strict=True)]
            if index == stage:
                maps[0] = maps[0] - added[0] + added[1]
        return tower[2:](maps[0])[0].double()

    clean = embedding(0, None)
    others = [embedding(1, None), *(embedding(into, n) for into in (1, 0) for n in (0, 1))]
    expected = [1 - float(nn.functional.cosine_similarity(clean, of, dim=0)) for of in others]
    np.testing.assert_allclose(shifts, expected, atol=1e-6)


def test_where_classes_are_resampled_a_sample_of_photos_has_theirs() -> None:
    """Photos of a class shift alike: intervals are those of as many photos as there are classes."""
    rng = np.random.default_rng(0)
    squared, undone = np.repeat(rng.uniform([[1], [0.1]], [[2], [0.9]], (2, 6)), 3, axis=1)
    shifts = np.stack([squared, squared * undone, squared * undone], axis=1)
    variant: Any = SimpleNamespace(name="blur", severity="paper")

    def interval(step: int, groups: np.ndarray | None) -> Any:
        kept = {"blur": dict(enumerate(shifts[::step]))}
        size = len(kept["blur"]) + 2  # photos that nothing is known of
        photos: Any = [SimpleNamespace(id=f"{n:02d}") for n in range(size)]
        measured = Measured(index=np.arange(size), patched=kept)
        sample = PhotoSample(measured, photos, {"blur": variant}, 0, groups)
        return patching_table(sample, [Site(0, "mlp")])[["undone_low", "undone_high"]].to_numpy()

    assert (interval(9, None)[:, 1] <= 1).all()  # of two photos
    of_classes = interval(1, np.arange(20) // 3)
    np.testing.assert_allclose(of_classes, interval(3, None))
