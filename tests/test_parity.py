"""Two stacks side by side: against closed forms, scikit-learn, and torch's own export."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.neighbors import NearestNeighbors
from support.commands import shared_terminal
from torch import Tensor, nn
from torchvision.transforms import v2

import clipshift
from clipshift.comparison.parity import MAPPED, OWN, SAME, Parity, make_stack, measure_parity
from clipshift.data.memory import photos_of
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.encode import load_encoder
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError
from clipshift.measure.embeddings import orthogonal_cosines

SIDE = 64


class Turned(nn.Module):
    """A model whose embeddings are another's after a linear map."""

    def __init__(self, model: nn.Module, turn: np.ndarray) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("turn", torch.tensor(turn, dtype=torch.float32))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels) @ self.turn


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("builtin:tiny")


def steps(antialias: bool) -> v2.Compose:
    """What is done to photos, in torchvision."""
    return v2.Compose([
        v2.ToImage(), v2.Resize((SIDE, SIDE), antialias=antialias),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip


def noise(count: int) -> list[Any]:
    """Photos of noise, coarse enough to differ."""
    pixels = np.random.default_rng(0).integers(256, size=(count, 4, 4, 3), dtype=np.uint8)
    return photos_of(list(pixels.repeat(16, 1).repeat(16, 2)))


def test_a_model_against_itself_differs_by_exactly_nothing(encoder: Encoder) -> None:
    stack = make_stack(encoder)
    parity = measure_parity(stack, stack, sample(), 0)
    assert parity.passed
    assert (parity.table[["pixel_mean", "pixel_max"]] == 0).all(axis=None)
    assert (parity.table[[OWN, SAME, "neighbours_kept"]] == 1).all(axis=None)
    assert parity.table[MAPPED].isna().all()  # 18 photos do not determine a map
    assert "equal to the bit" in str(parity)
    parity.rounding = math.nan  # not known
    assert "equal to the bit" in str(parity)
    assert measure_parity(stack, stack, sample()[:2], 0).passed
    with pytest.raises(UserError, match="1 of 1 photos can be read: parity requires two"):
        measure_parity(stack, stack, sample()[:1], 0)


def test_exported_to_onnx_it_agrees_within_rounding(tiny: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    tower, pixels = copy.deepcopy(tiny.model.visual), torch.rand(32, 3, SIDE, SIDE)
    torch.onnx.export(tower, (pixels,), tmp_path / "tiny.onnx", dynamo=False)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.preprocessing))
    parity = clipshift.parity("tiny", f"onnx:{tmp_path / 'tiny.onnx'}", tolerance=1e-6)
    assert parity.passed
    assert (parity.table["pixel_max"] == 0).all()
    assert 0 < (1 - parity.table[SAME]).max() < 1e-10
    assert "rounding alone" in str(parity)
    assert "The preprocessing is the same" in str(parity)
    quantization = pytest.importorskip("onnxruntime.quantization")
    quantization.quantize_dynamic(tmp_path / "tiny.onnx", tmp_path / "int8.onnx")
    (tmp_path / "int8.json").write_text(json.dumps(tiny.preprocessing))
    parity = clipshift.parity("tiny", f"onnx:{tmp_path / 'int8.onnx'}", tolerance=1e-6)
    assert not parity.passed
    assert "the models differ by more than rounding" in str(parity)


def test_without_antialiasing_the_preprocessing_is_named(encoder: Encoder, tmp_path: Path) -> None:
    a, b = ((encoder.model, steps(antialias)) for antialias in (True, False))
    parity = clipshift.parity(a, b, tolerance=1e-4, folder=tmp_path)
    assert not parity.passed
    assert "The preprocessing differs: pixels by" in str(parity)
    assert "On the same pixels the embeddings are equal to the bit" in str(parity)
    image = sample()[0]
    seen = [step(decode(image.read())) / 2 + 0.5 for step in (a[1], b[1])]
    difference = 255 * (seen[0] - seen[1]).abs().mean().item()
    assert parity.table.loc[0, "pixel_mean"] == pytest.approx(difference, rel=1e-4)
    facts = json.loads((tmp_path / "parity.json").read_text())
    assert not facts["passed"]
    assert facts["A"]["weights_sha256"] == facts["B"]["weights_sha256"]
    page = (tmp_path / "parity.html").read_text()
    assert page.count("data:image/jpeg") == 12  # four photos: A, B and their difference
    assert len((tmp_path / "parity.csv").read_text().splitlines()) == 1 + len(sample())


def test_a_rotation_of_the_embedding_is_found(encoder: Encoder) -> None:
    turn = ortho_group.rvs(32, random_state=0)
    photos = noise(80)
    rotated = make_stack((Turned(encoder.model, turn), encoder.preprocessing))
    parity = measure_parity(make_stack(encoder), rotated, photos, 1e-3)
    assert not parity.passed
    assert parity.table[MAPPED].count() == 40
    np.testing.assert_allclose(parity.table[MAPPED].dropna(), 1, atol=1e-6)
    assert (parity.table["neighbours_kept"] > 0.99).all()
    assert "mean cosine is 1.0000" in str(parity)
    wider = make_stack((Turned(encoder.model, np.eye(32, 40)), encoder.preprocessing))
    other_width: Parity = measure_parity(make_stack(encoder), wider, photos, 1e-3)
    assert other_width.passed  # by the map: the spaces are the same
    assert other_width.table[OWN].isna().all()
    few = measure_parity(make_stack(encoder), wider, photos[:20], 1e-3)
    assert not few.passed
    assert "is not known" in str(few)


def test_neighbours_kept_are_those_of_scikit_learn(tiny: Encoder, encoder: Encoder) -> None:
    parity = measure_parity(make_stack(encoder), make_stack(tiny), sample(), 1e-3)
    near = []
    for stack in (parity.a, parity.b):
        with torch.inference_mode():
            rows = stack.embed(stack.pixels([decode(photo.read()) for photo in sample()])).numpy()
        search = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(rows)
        near.append(search.kneighbors(return_distance=False))
    expected = [len({*one} & {*other}) / 10 for one, other in zip(*near, strict=True)]
    np.testing.assert_allclose(parity.table["neighbours_kept"], expected)
    few = measure_parity(parity.a, parity.a, parity.photos[:11], 0)  # all others are near
    assert few.table["neighbours_kept"].isna().all()
    assert not any("nearest" in sentence for sentence in few.verdict)


def test_orthogonal_map_is_judged_on_other_photos() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 3))
    cosines = orthogonal_cosines(first, second, np.arange(40) < 20)
    assert np.isnan(cosines[:20]).all()
    assert abs(cosines[20:].mean()) < 0.5  # there is nothing to find


def test_the_command_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    for arguments, code, words in (
        (["tiny"], 1, "parity needs two models"),
        (["tiny", "tinny"], 1, "did you mean 'tiny'"),
        (["tiny", "tiny,precision=bf16", "tolerance=1e-9"], 3, "do not agree"),
    ):
        options = ["data.limit=3", f"hydra.run.dir={tmp_path}"] * (len(arguments) > 1)
        command = ["clipshift", "parity", *arguments, *options]
        said = shared_terminal().run(command, tmp_path)
        assert said.returncode == code, said.stderr
        assert words in said.stdout + said.stderr
        assert "Traceback" not in said.stderr
    assert {"parity.csv", "parity.json", "parity.html"} <= {
        file.name for file in tmp_path.iterdir()
    }
