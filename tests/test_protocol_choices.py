"""Choices that others make: the model's own preprocessing, and open_clip's prompts and names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from support.models import VIT, write_hub_folder
from support.runs import run_info

from clipshift.choices import read_choice
from clipshift.cli.command import compose_config
from clipshift.cli.config import plain
from clipshift.cli.evaluate import evaluate
from clipshift.data.classes import candidate_classes
from clipshift.data.dataset import ViewDataset, clean_view, native_resize
from clipshift.data.photos import Photo
from clipshift.data.sources import sample
from clipshift.data.wordnet import class_name, imagenet_names
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import make_zero_shot
from clipshift.errors import UserError
from clipshift.pipeline import templates_for
from clipshift.results.compatibility import differing_views
from clipshift.results.runs import Run

MODELS = [
    ("ViT-B-32", "openai"),
    ("ViT-L-14-336", "openai"),
    ("RN50x16", "openai"),
    ("ViT-SO400M-14-SigLIP-384", "webli"),
    ("MobileCLIP-S1", "datacompdr"),
    ("ViT-bigG-14-CLIPA-336", "datacomp1b"),
]
"""Sides of 224, 256, 336 and 384 px; shortest side and squash; bicubic and bilinear."""


def preprocessing(architecture: str, tag: str) -> PreprocessCfg:
    """What open_clip does to pixels for a model, without its weights."""
    facts = get_pretrained_cfg(architecture, tag)
    return PreprocessCfg(
        size=open_clip.get_model_config(architecture)["vision_cfg"]["image_size"],
        **{name: facts[name] for name in ("mean", "std", "interpolation", "resize_mode")},
    )


@pytest.mark.parametrize(("architecture", "tag"), MODELS, ids=[name for name, _ in MODELS])
@pytest.mark.parametrize("size", [(451, 300), (97, 130)], ids=["larger", "smaller"])
def test_native_views_are_open_clips_to_the_bit(
    architecture: str, tag: str, size: tuple[int, int]
) -> None:
    config = preprocessing(architecture, tag)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for photo in (Image.fromarray(noise), Image.fromarray(noise).convert("L")):
        view = clean_view(photo.convert("RGB"), native_resize(vars(config)))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
        expected = image_transform_v2(config, is_train=False)(photo)
        assert torch.equal((view - mean) / std, expected)  # as `Encoder.embed` does


@pytest.mark.parametrize("architecture", [name for name, _ in MODELS[3:]])
def test_models_are_made_with_the_preprocessing_of_their_tags(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a checkpoint of one's own; before, only mean and std came from the tag."""
    tag = dict(MODELS)[architecture]
    given: dict = {}

    def create_model(*args: object, **kwargs: object) -> None:
        given.update(kwargs)
        raise RuntimeError("its weights are large")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="its weights are large"):
        load_encoder(architecture, tag, str(tmp_path / "x.safetensors"))
    expected = vars(preprocessing(architecture, tag))
    assert given["force_preprocess_cfg"] == {
        name: expected[name] for name in ("mean", "std", "interpolation", "resize_mode")
    }


def test_native_views_of_two_models_are_compared_if_they_are_the_same() -> None:
    def run(option: str, **changes: object) -> Run:
        made = vars(PreprocessCfg(**changes))  # type: ignore[arg-type]
        source = {"_target_": "clipshift.data.sample", "resize": option}
        info = run_info(config={"data": source}, model={"preprocessing": made})
        shift = pd.DataFrame(columns=["augmentation", "severity"])
        return Run(Path(), info, {}, shift)

    native = run("native", mean=(0.0, 0.0, 0.0))
    assert differing_views(native, run("native")) == []
    for other in (run("native", size=336), run("native", interpolation="bilinear"), run("squash")):
        assert [line.split(" ")[0] for line in differing_views(native, other)] == ["data.resize"]
    assert differing_views(run("squash"), run("squash", size=336)) == []


def test_views_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="224 × 256 pixels, and views must be square"):
        native_resize(vars(PreprocessCfg(size=(224, 256))))


def test_what_a_model_is_given_natively_is_what_open_clip_would_give_it(tmp_path: Path) -> None:
    """Through a whole run, at a size that is not 224; embeddings as open_clip computes them."""
    folder = write_hub_folder(tmp_path / "model", VIT | {"image_size": 64})
    run = tmp_path / "run"
    options = [
        "logger=none", "trainer=cpu", "cache=off", f"model.checkpoint={folder}", "data.limit=3",
        "aug=[noise,elastic,rotation]", "data.resize=native", "save.embeddings=true",
        "save.views=1",
    ]  # fmt: skip
    evaluate(compose_config("evaluate", options), run)
    from safetensors.torch import load_file

    embeddings = load_file(run / "embeddings.safetensors")["clean"]
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.inference_mode():
        images = [transform(Image.open(photo.file)) for photo in sample()[:3]]
        expected = model.encode_image(torch.stack(images))
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert load_file(run / "views.safetensors")["noise"].shape == (1, 3, 64, 64)
    assert json.loads((run / "run.json").read_text())["complete"]
    assert (run / "report.html").is_file()


def test_measures_that_need_another_size_are_named(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path / "model", VIT | {"image_size": 60, "patch_size": 12})
    options = [f"model.checkpoint={folder}", "data.resize=native", "data.limit=2", "cache=off",
               "logger=none", "trainer=cpu"]  # fmt: skip
    with pytest.raises(UserError, match=r"metric\.detail_preservation: sides 60×60 cannot be cut"):
        evaluate(compose_config("evaluate", options), tmp_path / "run")


def test_draws_are_made_for_the_views_size() -> None:
    from support.augmentations import augmentations_named

    resize = native_resize(vars(PreprocessCfg(size=96)))
    view = ViewDataset(sample()[:1], augmentations_named("elastic"), 0, resize)[0]
    assert {tensor.shape[-1] for tensor in view.draws["elastic"].values() if tensor.ndim} == {96}


# --- prompts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled() -> list[Photo]:
    """A photo of every twentieth class of ImageNet, and of those whose names two classes share."""
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()
    chosen = sorted({*range(0, 1000, 20), 657, 744, 836, 837})
    return [Photo(str(i), None, label=class_name(ids[i])) for i in chosen]  # type: ignore[arg-type]


def test_openai_prompts_are_open_clips_own_classifier(encoder, labelled: list[Photo]) -> None:  # type: ignore[no-untyped-def]
    classes = sorted(str(photo.label) for photo in labelled)
    ours = make_zero_shot(encoder, labelled, classes, "openai")
    order = [int(photo.id) for photo in sorted(labelled, key=lambda photo: str(photo.label))]
    expected = open_clip.build_zero_shot_classifier(
        encoder.model,
        open_clip.get_tokenizer("ViT-B-32", context_length=16),
        [open_clip.IMAGENET_CLASSNAMES[index] for index in order],
        open_clip.OPENAI_IMAGENET_TEMPLATES,
    )
    torch.testing.assert_close(ours.classifier, expected, atol=1e-6, rtol=0)
    assert [order[t] for t in ours.targets.tolist()] == [int(photo.id) for photo in labelled]


def test_classes_of_one_name_stay_two_among_all_of_imagenet(  # type: ignore[no-untyped-def]
    encoder, labelled: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipshift.encode import texts

    asked = []

    def ask(_: Any, names: Sequence[str], templates: Sequence[str]) -> tuple[None, None]:
        asked.append((names, templates))
        return None, None

    monkeypatch.setattr(texts, "_classifiers", ask)
    zero_shot = make_zero_shot(encoder, labelled, candidate_classes("imagenet"), "openai")
    ((names, templates),) = asked
    assert list(names) == list(open_clip.IMAGENET_CLASSNAMES)
    assert [t.format("x") for t in templates] == [
        t("x") for t in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    assert zero_shot.targets.tolist() == [int(photo.id) for photo in labelled]
    # of templates of one's own they are one class, and no photo is without one
    zero_shot = make_zero_shot(encoder, labelled, candidate_classes("imagenet"), ["{}"])
    assert len(asked[1][0]) == 998
    assert -1 not in zero_shot.targets.tolist()


@pytest.mark.parametrize(
    ("labels", "prompts"),
    [
        (["tench", "goldfish"], "openai"),
        (candidate_classes("imagenet"), "openai"),
        (["tench", "my goldfish"], 8),
        ([], 8),
    ],
)
def test_auto_chooses_by_the_classes(labels: list[str], prompts: str | int) -> None:
    templates = templates_for(plain(compose_config("evaluate").prompts), labels)
    assert (templates if templates == "openai" else len(templates)) == prompts
    assert templates_for({"templates": ["{}"]}, labels) == ["{}"]
    assert len(templates_for(read_choice("prompts", "imagenet"), labels)) == 8


def test_templates_may_come_from_a_file_as_clip_benchmark_has_one(tmp_path: Path) -> None:
    file = tmp_path / "zeroshot_classification_templates.txt"
    prompts = {"templates": str(file)}
    file.write_text("a photo of a {c}.\n\nart of the {}.\n")
    assert templates_for(prompts, []) == ["a photo of a {}.", "art of the {}."]
    file.write_text("a photo of a cat.\n")
    with pytest.raises(UserError, match=r"prompts.templates: a photo of a cat. has no \{\}"):
        templates_for(prompts, [])
    file.unlink()
    with pytest.raises(UserError, match=r"prompts.templates: no file"):
        templates_for(prompts, [])


def test_lists_of_imagenets_classes_are_told_apart_by_the_index() -> None:
    from timm.data import ImageNetInfo

    from clipshift.data.wordnet import class_labels

    info = ImageNetInfo("imagenet-1k")
    ids = info.label_names()
    expected = [class_name(one) for one in ids]
    assert len(set(expected)) == 1000
    lemmas = [info.label_name_to_description(one) for one in ids]  # as the hub's imagenet-1k has
    assert lemmas.count("crane") == 2
    for names in (ids, lemmas, list(open_clip.IMAGENET_CLASSNAMES)):
        assert class_labels(names) == expected
    assert class_labels(["crane", "n01440764"]) == ["crane", "tench"]
    assert [names[0] for names in imagenet_names()] == list(open_clip.IMAGENET_CLASSNAMES)
