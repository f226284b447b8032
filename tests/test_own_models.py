"""Models in memory: any module with ``encode_image`` is measured as open_clip's are."""

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from clipshift.cli.build import make_encoder
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.cli.jobs import numbers_depend_on
from clipshift.cli.train import finetune
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.encode.modules import as_encoder
from clipshift.errors import UserError
from clipshift.evaluate.evaluation import Evaluation
from clipshift.options import EvaluateOptions, read_options

KNOWN = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.5]}
CLASSES, TEMPLATES = ["cat", "dog", "fox"], ["a {}.", "a photo of a {}."]


class Plain(nn.Module):
    """Nothing but the two methods, without a word of open_clip."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def encode_image(self, images: Tensor) -> Tensor:
        return self.inner.encode_image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return 3 * self.inner.encode_text(tokens)


class Colours(nn.Module):
    """Mean colours of a grid, to a power."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def encode_image(self, images: Tensor) -> Tensor:
        grid = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return grid.sign() * grid.abs() ** self.power


@pytest.fixture(scope="module")
def loaded(hub_folder: Path) -> tuple[nn.Module, transforms.Compose, Any]:
    """A model, its preprocessing and its tokenizer, as open_clip gives them."""
    name = f"local-dir:{hub_folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model, preprocess, open_clip.get_tokenizer(name)


def test_a_plain_module_gives_what_the_model_in_it_gives(
    loaded: tuple[Any, Any, Any], encoder: Encoder, views: Tensor
) -> None:
    model, preprocess, tokenizer = loaded
    usual = encoder(views)
    wrapped = as_encoder(Plain(model), preprocess, tokenizer)
    # the code of its last block is not known, so all of it is run: another rounding
    torch.testing.assert_close(wrapped(views).embedding, usual.embedding, rtol=0, atol=1e-5)
    assert wrapped(views).gaze is None
    assert wrapped.layer_widths == []
    torch.testing.assert_close(wrapped.encode_texts(CLASSES), encoder.encode_texts(CLASSES))
    torch.testing.assert_close(
        wrapped.zero_shot_classifier(CLASSES, TEMPLATES),
        encoder.zero_shot_classifier(CLASSES, TEMPLATES),
    )
    assert wrapped.trained
    assert not as_encoder(Plain(model), preprocess, trained=False).trained


def test_an_open_clip_model_brings_its_preprocessing_gaze_and_layers(
    loaded: tuple[Any, Any, Any], encoder: Encoder, views: Tensor
) -> None:
    model = loaded[0].train()
    wrapped = as_encoder(model)
    ours, usual = wrapped(views, layers=True), encoder(views, layers=True)
    assert torch.equal(ours.embedding, usual.embedding)
    assert torch.equal(ours.gaze, usual.gaze)
    for ours_layer, other in zip(ours.layers, usual.layers, strict=True):
        assert torch.equal(ours_layer, other)
    assert wrapped.weights_sha256 == encoder.weights_sha256
    # the caller's own is as it was: in training, without our hooks
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.visual.transformer.resblocks[-1].attn._forward_pre_hooks
    assert as_encoder(wrapped) is wrapped


def test_pixels_are_normalised_as_it_is_said(views: Tensor) -> None:
    wrapped = as_encoder(Colours(), KNOWN)
    small = nn.functional.interpolate(views, (32, 32), mode="bilinear", antialias=True).numpy()
    mean, std = (np.reshape(KNOWN[name], (3, 1, 1)) for name in ("mean", "std"))
    blocks = ((small - mean) / std).reshape(len(views), 3, 4, 8, 4, 8).mean(axis=(3, 5))
    np.testing.assert_allclose(wrapped(views).embedding, blocks.reshape(len(views), -1), atol=1e-5)


@pytest.mark.parametrize(
    "compose",
    [
        transforms.Compose(
            [
                transforms.Resize(40),
                transforms.CenterCrop(32),
                transforms.ToTensor(),
                transforms.Normalize(KNOWN["mean"], KNOWN["std"]),
            ]
        ),
        v2.Compose(
            [
                v2.ToImage(),
                v2.Resize((32, 32)),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(KNOWN["mean"], KNOWN["std"]),
            ]
        ),
    ],
)
def test_a_compose_says_size_mean_and_std(compose: Any, views: Tensor) -> None:
    from_compose, from_dict = as_encoder(Colours(), compose), as_encoder(Colours(), KNOWN)
    assert torch.equal(from_compose(views).embedding, from_dict(views).embedding)
    assert from_compose.input_size == (32, 32)


class BatchStatistics(Colours):
    """A batch norm that has no running statistics."""

    def encode_image(self, images: Tensor) -> Tensor:
        normalised = nn.functional.batch_norm(images, None, None, training=True)
        return super().encode_image(normalised.square())  # of views alike, the same in any company


def giving(make: Any) -> nn.Module:
    model = Colours()
    model.encode_image = make  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("model", "preprocess", "says"),
    [
        (Colours(), None, "the preprocessing of Colours is required: pass preprocess="),
        (nn.Linear(2, 2), KNOWN, "Linear is not a model of a known kind (open_clip, "),
        ("ViT-B-32", KNOWN, "str is not a model"),
        (Colours(), {"size": 32, "mean": [0.5] * 3}, "preprocess: `std` is required"),
        (Colours(), KNOWN | {"mean": [120, 110, 100]}, "preprocess.mean: [120, 110, 100] is out"),
        (Colours(), KNOWN | {"std": [0.5, 0, 0.5]}, "preprocess.std: [0.5, 0.0, 0.5] is out"),
        (Colours(), KNOWN | {"size": [32, 0]}, "preprocess.size: [32, 0] is out of range"),
        (Colours(), KNOWN | {"scale": 255}, "preprocess: unknown key 'scale'; valid keys are size"),
        (
            Colours(),
            transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()]),
            "preprocess: unknown step RandomResizedCrop",
        ),
        (
            Colours(),
            transforms.Compose([transforms.Resize(32), transforms.ToTensor()]),
            "preprocess: `mean` is required",
        ),
        (
            BatchStatistics(),
            KNOWN | {"size": 224},
            "the embeddings of BatchStatistics change with the other views",
        ),
        (giving(lambda x: x[:, 0, 0] + torch.rand(len(x), 32)), KNOWN, "from call to call"),
        (
            giving(lambda x: x.mean(dim=1)),
            KNOWN,
            "returns (2, 32, 32) for 2 views: it must return (2, D)",
        ),
        (giving(lambda x: (x[:, 0, 0],)), KNOWN, "returns tuple for 2 views"),
        (giving(lambda x: x[:, 0, 0].long()), KNOWN, "returns torch.int64: it must return floats"),
        (giving(lambda x: x @ torch.ones(5, 5)), KNOWN, "Colours fails: RuntimeError: "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    model: Any, preprocess: Any, says: str
) -> None:
    with pytest.raises(UserError) as error:
        as_encoder(model, preprocess)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_need_both_tokenizer_and_text_tower(loaded: tuple[Any, Any, Any]) -> None:
    model, preprocess, tokenizer = loaded
    with pytest.raises(UserError, match="Colours has no encode_text"):
        as_encoder(Colours(), KNOWN, tokenizer)
    with pytest.raises(UserError, match="has no tokenizer"):
        as_encoder(Plain(model), preprocess).encode_texts(["a cat"])
    wide = copy.deepcopy(model)
    wide.encode_text = lambda tokens: torch.ones(len(tokens), 7)
    with pytest.raises(UserError, match=r"encode_text returns \(2, 7\) for 2 texts, not \(2, 32\)"):
        as_encoder(wide, tokenizer=tokenizer)


def test_models_are_told_apart_by_what_is_done_to_pixels() -> None:
    encoders = [as_encoder(Colours(), KNOWN | other) for other in ({}, {"mean": [0, 0, 0]})]
    encoders.append(as_encoder(BatchFree(), KNOWN))
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    assert as_encoder(Colours(), KNOWN).fingerprint == encoders[0].fingerprint


class BatchFree(Colours):
    """Another class with the same (no) weights."""


CODE = """
import torch
from clipshift.encode import as_encoder

class Own(torch.nn.Module):
    def encode_image(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

def load(size):
    return as_encoder(Own(), {"size": size, "mean": [0.5] * 3, "std": [0.5] * 3}, trained=False)
"""
OPTIONS = {"name": "own", "_target_": "own_model_of_a_test.load", "size": 32}


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_model_of_a_test", raising=False)
    file = tmp_path / "own_model_of_a_test.py"
    file.write_text(CODE)
    return file


@pytest.mark.usefixtures("without_page")
def test_a_run_names_the_code_and_keeps_no_features_of_it(own_code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cfg = compose_config(
        "evaluate",
        [
            "logger=none",
            "trainer=cpu",
            f"cache.folder={tmp_path}/cache",
            "data.num_workers=0",
            "data.limit=4",
            "aug=[noise,blur]",
            "metric=[cosine_similarity,gaze_divergence]",
            "layers=true",
        ],
    )
    cfg.model = OmegaConf.create(OPTIONS)
    evaluate(cfg, folder)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["model"]["architecture"] == OPTIONS["_target_"]
    assert not facts["model"]["trained"]
    assert facts["model"]["gaze"] is None
    assert any("Measures with text are left out" in note for note in facts["notes"])
    shift = pd.read_parquet(folder / "shift.parquet")
    assert shift["cosine_similarity"].notna().all()
    assert "gaze_divergence" not in shift
    # decoded photos alone: features would outlive a change of the code that made them
    assert len(list((tmp_path / "cache").glob("*/*"))) == 4


def test_another_code_of_a_part_is_another_run(own_code: Path, encoder: Encoder) -> None:
    cfg = compose_config("evaluate", ["logger=none"])
    cfg.model = OmegaConf.create(OPTIONS)
    own = importlib.import_module(own_code.stem).Own()
    fingerprint = as_encoder(own, KNOWN).fingerprint
    config = plain(cfg)
    options = read_options(EvaluateOptions, config)
    evaluation = Evaluation(options, sample()[:1], [], encoder, {}, {}, {}, [], config)
    before = numbers_depend_on(evaluation)
    assert numbers_depend_on(evaluation) == before
    own_code.write_text(CODE + "# edited\n")
    after = numbers_depend_on(evaluation)
    assert [name for name in after if after[name] != before[name]] == ["code of its parts"]
    assert as_encoder(own, KNOWN).fingerprint != fingerprint


def test_mistakes_in_its_options_are_one_line(own_code: Path, tmp_path: Path) -> None:
    for options, precision, says in (
        (OPTIONS, "bf16", "own_model_of_a_test.load makes is in fp32: set precision=fp32"),
        (OPTIONS | {"size": 0}, "fp32", "preprocess.size: 0 is out of range"),
        ({"_target_": "torch.nn.Identity"}, "fp32", "model: Identity is not a model"),
        ({"_target_": "own_model_of_a_test.missing"}, "fp32", "model: Error loading 'own_model"),
    ):
        with pytest.raises(UserError) as error:
            make_encoder(options, precision)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    cfg = compose_config("train", ["experiment=robustify_demo", "logger=none"])
    cfg.model = OmegaConf.create(OPTIONS)
    with pytest.raises(UserError, match="model=own: only open_clip models can be fine-tuned"):
        finetune(cfg, tmp_path)
