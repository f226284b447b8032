"""Deletion and insertion: a gaze that is true by construction, and numbers computed another way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import spearmanr
from support.models import VIT, write_hub_folder
from test_dissect import REGISTERS, UNCHANGED, perturbed
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from clipshift.augment import Blur, Flip
from clipshift.augment.variants import Variant
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.modules import as_encoder
from clipshift.encode.rollout import encode_with_maps
from clipshift.evaluate.faithfulness import (
    ORDERS,
    STEPS,
    deletion_curves,
    faithfulness_tables,
    random_maps,
)
from clipshift.results.measured import CLEAN, Measured
from clipshift.results.table import PhotoSample

PHOTOS = 24


class OnePatch(nn.Module):
    """Embeds the pixels of the second patch of the second row, of 4 × 4 patches, and a constant."""

    def encode_image(self, images: Tensor) -> Tensor:
        pixels = images[..., 8:16, 8:16].flatten(1)
        return torch.cat([pixels, torch.ones_like(pixels[:, :4])], dim=1)


class GivenGaze:
    """Reads whatever gaze it is given."""

    kind, layer = "attention", 0

    def __init__(self) -> None:
        self.gaze = torch.zeros(4, 4)

    def read(self) -> Tensor:
        return self.gaze.expand(32, 4, 4)


def tables_of(curves: dict[str, list[Tensor]], kind: str) -> dict[str, pd.DataFrame]:
    """The tables of curves by view, of photos in their order."""
    kept = {
        view: {photo: curve.numpy() for photo, curve in enumerate(of)}
        for view, of in curves.items()
    }
    parts: dict[str, Any] = {"blur": Blur([3], [1.0, 1.0]), "flip": Flip()}
    variants = {name: Variant(name, "paper", parts[name], 1.0) for name in curves if name != CLEAN}
    photos: Any = [SimpleNamespace(id=f"{number:03d}") for number in range(PHOTOS)]
    sample = PhotoSample(Measured(faithfulness=kept), photos, variants, seed=0)
    return faithfulness_tables(sample, kind)


@torch.inference_mode()
def test_the_true_gaze_scores_as_occlusion_and_a_random_one_at_chance() -> None:
    encoder = as_encoder(OnePatch(), UNCHANGED | {"size": 32}, trained=False)
    probe: Any = GivenGaze()
    encoder.probe = probe
    true = torch.zeros(4, 4)
    true[1, 1] = 1.0
    rng = torch.Generator().manual_seed(0)
    photos = torch.rand(PHOTOS, 1, 3, 32, 32, generator=rng)
    scores = {}
    for name in ("true", "random", "opposite"):
        curves: list[Tensor] = []
        for number, view in enumerate(photos):
            chance = torch.rand(4, 4, generator=rng)
            probe.gaze = {"true": true, "random": chance, "opposite": 1 - true}[name]
            curves.append(deletion_curves(encoder, view, random_maps(0, str(number)))[0])
        rows = tables_of({CLEAN: curves, "blur": curves}, "attention")["faithfulness"]
        rows = rows[(rows["augmentation"] == CLEAN) & (rows["map"] == "attention")]
        scores[name] = rows.set_index("measure")
    for measure in ("deletion", "insertion"):
        assert scores["true"].loc[measure, "mean"] == pytest.approx(1)
        low, mean, high = scores["random"].loc[measure, ["ci_low", "mean", "ci_high"]]
        assert low < 0 < high
        assert abs(mean) < 0.3
        assert scores["opposite"].loc[measure, "ci_high"] < 0
    # the patch is among the first two, of sixteen in eight steps: gone after the first
    end = np.mean([curve[0, STEPS] for curve in curves])
    auc = scores["true"]["auc"]
    assert auc["deletion"] == pytest.approx((1 + end) / 2 / STEPS + end * (STEPS - 1) / STEPS)
    assert auc["insertion"] == pytest.approx((1 + end) / 2 / STEPS + (STEPS - 1) / STEPS)


def without(view: Tensor, cells: Any) -> Tensor:
    """A view of 4 × 4 cells of 56 px without some of them."""
    means = view.unfold(1, 56, 56).unfold(2, 56, 56).mean(dim=(-1, -2))
    blurred = nn.functional.interpolate(means[None], (224, 224), mode="bilinear")[0]
    masked = view.clone()
    for cell in cells:
        place = ..., *(slice(56 * at, 56 * at + 56) for at in divmod(int(cell), 4))
        masked[place] = blurred[place]
    return masked


@torch.inference_mode()
def test_curves_and_agreement_are_those_of_views_without_the_cells(
    encoder: Encoder, views: Tensor
) -> None:
    pair = torch.stack([views[0], views[0].roll(3, dims=1)])
    curves = deletion_curves(encoder, pair, random_maps(0, "photo"))
    assert curves.shape == (2, 4, 2 * STEPS + 4)
    assert curves[0, :, -1].isnan().all()  # the clean view has no shift
    features, maps = encode_with_maps(encoder, pair)
    whole = features.embedding.double()
    cells = range(16)

    def embeddings(place: int, removed: list[Any]) -> Tensor:
        masked = torch.stack([without(pair[place], of) for of in removed])
        return encoder.encode_views(masked).embedding.double()

    clean, view = (embeddings(place, [[cell] for cell in cells]) for place in range(2))
    lost = 1 - cosine_similarity(view, whole[1:])
    taken = cosine_similarity(view, clean) - cosine_similarity(whole[1], whole[0], dim=0)
    for row, values in enumerate([maps[1, 0].flatten(), maps[1, 1].flatten(), lost]):
        order = values.argsort(descending=True)
        removed = [order[:count] for count in range(0, 17, 2)]
        removed += [order[16 - count :] for count in range(0, 17, 2)]
        expected = cosine_similarity(embeddings(1, removed), whole[1:])
        torch.testing.assert_close(curves[1, row, :-2], expected, rtol=0, atol=1e-6)
        rho = [spearmanr(values, other)[0] for other in (lost, taken)]
        np.testing.assert_allclose(curves[1, row, -2:], rho, atol=1e-5)


@pytest.mark.parametrize("name", ["open_clip", "one layer", "registers"])
@torch.inference_mode()
def test_rollout_is_the_product_of_attention_and_identity(
    name: str, encoder: Encoder, views: Tensor, tmp_path: Path
) -> None:
    """From queries and keys of what goes into each attention layer, for more views than a pass."""
    if name == "registers":
        model = perturbed(VisionTransformer(**REGISTERS))
        encoder = as_encoder(model, UNCHANGED | {"size": 32}, trained=False)
        blocks: Any = encoder.model.visual.blocks
        layers = [(block.norm1, block.attn) for block in blocks]
    else:
        if name == "one layer":
            encoder = load_encoder(f"local-dir:{write_hub_folder(tmp_path, VIT | {'layers': 1})}")
        blocks = encoder.model.visual.transformer.resblocks
        layers = [(block.ln_1, block.attn) for block in blocks]
    many = views.repeat(5, 1, 1, 1)
    inputs: list[Tensor] = []
    hooks = [norm.register_forward_hook(lambda *of: inputs.append(of[2])) for norm, _ in layers]
    encoder.encode_views(views)
    for hook in hooks:
        hook.remove()
    product = np.eye(inputs[0].shape[1])
    for tokens, (_, layer) in zip(inputs, layers, strict=True):
        if name == "registers":
            projected = layer.qkv(tokens)
        else:
            projected = tokens @ layer.in_proj_weight.T + layer.in_proj_bias
        heads = projected.unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = heads[0], heads[1]
        if name == "registers":
            query, key = layer.q_norm(query), layer.k_norm(key)
        logits = np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(query.shape[-1])
        weights = np.exp(logits)
        mean = (weights / weights.sum(axis=-1, keepdims=True)).mean(axis=1)
        product = (mean + np.eye(mean.shape[-1])) / 2 @ product
    features, maps = encode_with_maps(encoder, many)
    assert torch.equal(features.embedding, encoder.encode_views(many).embedding)
    np.testing.assert_allclose(product.sum(axis=-1), 1, rtol=1e-5)
    for place in (0, 32):  # in the first pass, and in the second
        rollout = maps[place : place + 8, 1].flatten(1)
        np.testing.assert_allclose(rollout, product[:8, 0, -16:], rtol=1e-4, atol=1e-7)


def test_scores_are_ratios_of_mean_areas_where_occlusion_is_better_than_random() -> None:
    rng = np.random.default_rng(0)
    curves = torch.from_numpy(rng.uniform(0, 1, (PHOTOS, 3, 2 * STEPS + 4)))
    curves[:, 1, : STEPS + 1] *= 0.3  # occlusion's deletion
    curves[:, 1, STEPS + 1 : -2] *= 0.9  # and insertion
    by_view = {CLEAN: list(curves), "blur": list(curves), "flip": list(curves)}
    tables = tables_of(by_view, "contribution")
    rows = tables["faithfulness"].set_index(["augmentation", "map", "measure"])
    areas = trapezoid(curves[..., : STEPS + 1], dx=1 / STEPS).mean(axis=0)
    score = (areas[0] - areas[2]) / (areas[1] - areas[2])
    assert rows.loc[(CLEAN, "contribution", "deletion"), "mean"] == pytest.approx(score)
    assert rows.loc[(CLEAN, "contribution", "deletion"), "auc"] == pytest.approx(areas[0])
    assert rows.xs("insertion", level="measure")["mean"].isna().all()
    shift = rows.xs("shift_agreement", level="measure")["mean"]
    assert shift.notna().groupby("augmentation").all().to_dict() == {
        "blur": True,
        CLEAN: False,
        "flip": False,
    }
    points = tables["faithfulness_curves"].set_index(["augmentation", "map", "curve"]).sort_index()
    insertion = points.loc[("flip", "random", "insertion"), "mean"]
    np.testing.assert_allclose(insertion, curves[:, 2, STEPS + 1 : -2].mean(dim=0).flip(0))


def test_random_orders_are_those_of_seed_and_photo() -> None:
    first = random_maps(0, "a")
    assert len(first) == ORDERS
    assert torch.equal(first, random_maps(0, "a"))
    assert not torch.equal(first, random_maps(0, "b"))
    assert not torch.equal(first, random_maps(1, "a"))
