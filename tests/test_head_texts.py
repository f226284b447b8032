"""Heads named by texts: what heads write as vectors, and the texts that span it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from clipshift.choices import NAMES
from clipshift.data.photos import Photo
from clipshift.encode.encoder import Encoder
from clipshift.encode.modules import as_encoder
from clipshift.evaluate.dissect import component_products
from clipshift.evaluate.evaluation import NO_SENTENCES, encode_texts
from clipshift.evaluate.head_texts import RANKS, named_by_texts


@pytest.mark.parametrize(("pool", "classes"), [(None, 0), ("token", 24), ("map", 0)])
@torch.inference_mode()
def test_shifts_of_heads_have_the_products_with_the_displacement(
    pool: str | None, classes: int, encoder: Encoder, views: Tensor
) -> None:
    """Of open_clip's tower, of timm's with a linear layer after it, and of an attention pool."""
    if pool:
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2}
        model = VisionTransformer(**sizes, num_heads=4, num_classes=classes, global_pool=pool)
        unchanged = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32}
        encoder = as_encoder(model.eval(), unchanged, trained=False)
    probe = encoder.components
    assert probe is not None
    pair: list[Any] = [encoder.encode_views(v, components=True) for v in (views[:3], views[3:6])]
    products = component_products(probe, *pair)[:, 1:].unflatten(1, (-1, probe.heads + 1))
    u, u_clean = (nn.functional.normalize(of.embedding.double()) for of in pair)
    after, before = (probe.gathered(of.components, of.embedding) for of in pair)
    gathered = (after - before).unflatten(2, (probe.heads, -1))
    for layer in range(len(probe.layers)):
        for head in range(probe.heads):
            shift = gathered[:, layer, head] @ probe.head_map(layer, head)
            product = (shift * (u - u_clean)).sum(dim=1)
            torch.testing.assert_close(product, products[:, layer, head])


def spanned_by_projection(shifts: np.ndarray, texts: np.ndarray, count: int) -> tuple[list, list]:
    """By projection matrices: the text whose addition to the span explains most, tried in turn."""
    chosen, explained = [], [0.0]
    for _ in range(count):
        sums = []
        for text in range(len(texts)):
            columns = texts[[*chosen, text]].T
            projected = columns @ np.linalg.pinv(columns) @ shifts.T
            sums.append(-1.0 if text in chosen else np.square(projected).sum())
        chosen.append(int(np.argmax(sums)))
        explained.append(max(sums))
    return chosen, np.diff(explained).tolist()


def test_texts_are_those_of_projections_onto_their_span() -> None:
    rng = np.random.default_rng(0)
    gathered, head_map = rng.normal(size=(2, 9, 4)) * [[[3.0]], [[1.0]]], rng.normal(size=(4, 12))
    texts = rng.normal(size=(30, 12)) + 5
    texts[29] = texts[28]  # a text that is there twice
    chosen, shares, null, changes = named_by_texts(gathered, head_map, texts, 0)
    centred = texts - texts.mean(axis=0)
    vectors = gathered @ head_map
    for variant in range(2):
        expected, parts = spanned_by_projection(vectors[variant], centred, RANKS)
        assert chosen[variant].tolist() == expected
        np.testing.assert_allclose(shares[variant], parts / np.square(vectors[variant]).sum())
        towards = vectors[variant] @ centred[expected].T / np.linalg.norm(centred[expected], axis=1)
        np.testing.assert_allclose(changes[variant], towards.T)
    scaled = vectors / np.sqrt(np.square(vectors).sum(axis=(1, 2), keepdims=True))
    expected, parts = spanned_by_projection(scaled.reshape(-1, 12), centred, RANKS)
    assert chosen[2].tolist() == expected
    np.testing.assert_allclose(shares[2], np.array(parts) / 2)
    # what all texts have in common says nothing
    others = named_by_texts(gathered, head_map, texts + rng.normal(size=12), 0)
    assert (others[0] == chosen).all()
    for one, other in zip(others[1:], (shares, null, changes), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_head_along_one_text_has_its_name_and_noise_has_none() -> None:
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(40, 64))
    along = texts[7] - texts.mean(axis=0)
    size = rng.normal(size=(1, 20, 1))
    chosen, shares, null, changes = named_by_texts(-np.abs(size), along[None], texts, 0)
    assert chosen[:, 0].tolist() == [7, 7]
    np.testing.assert_allclose(shares[:, 0], 1)
    np.testing.assert_allclose(shares[:, 1:], 0, atol=1e-9)
    assert (null[:, 0] < 0.5).all()
    np.testing.assert_allclose(changes[0, 0], -np.abs(size[0, :, 0]) * np.linalg.norm(along))
    above = []
    for seed in range(15):
        rng = np.random.default_rng([2, seed])
        # texts and shift vary in the same few dimensions, and have nothing else in common
        spread = np.geomspace(4, 0.2, 12)
        texts, head_map = (rng.normal(size=(n, 12)) * spread for n in (25, 3))
        noise = named_by_texts(rng.normal(size=(1, 20, 3)), head_map, texts, seed)
        above.append(noise[1][0].cumsum()[:3] > noise[2][0, :3])
    assert np.mean(above) < 0.15


def test_heads_are_named_by_attributes_and_a_file_where_sentences_are_known(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a dog\n\na cat\na blurry photo\n")
    asked = {"dissect": True, "inside": False, "attributes": ["a blurry photo"]}
    options = SimpleNamespace(**asked, vocabulary=str(file), gallery=100)
    photos = [Photo(str(number), tmp_path / str(number)) for number in range(50)]
    evaluation: Any = SimpleNamespace(
        encoder=encoder, options=options, photos=photos, classes=[], templates=[]
    )
    texts = encode_texts(evaluation)
    assert texts.of_heads is not None
    assert texts.of_heads.texts == ("a blurry photo", "a dog", "a cat")
    assert not texts.notes
    monkeypatch.setattr(encoder, "text", NAMES)
    texts = encode_texts(evaluation)
    assert texts.of_heads is None
    assert texts.notes == [NO_SENTENCES]
