"""Zero-shot classification against sorting in numpy, and in the tables of a run."""

import json
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.commands import run_evaluate
from torch import Tensor

from clipshift.data.classes import candidate_classes
from clipshift.data.photos import Photo
from clipshift.data.sources import sample
from clipshift.data.wordnet import imagenet_names
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import make_zero_shot
from clipshift.errors import UserError
from clipshift.measure.zero_shot import nearest_classes, zero_shot_flip, zero_shot_hit


@pytest.mark.parametrize("k", [1, 5])
def test_hit_is_being_among_the_first_of_a_sorted_list(k: int) -> None:
    rng = np.random.default_rng(0)
    embedding, classifier = rng.normal(size=(50, 16)), rng.normal(size=(16, 20))
    target = rng.integers(20, size=50)
    best = np.argsort(-(embedding @ classifier), axis=1)[:, :k]
    expected = (best == target[:, None]).any(axis=1)
    got = zero_shot_hit(*map(torch.tensor, (embedding, classifier, target)), k=k)
    np.testing.assert_array_equal(got, expected)
    assert 0 < expected.mean() < 1


def test_an_embedding_without_direction_hits_nothing() -> None:
    embedding = torch.tensor([[0.0, 0.0], [torch.nan, 1.0], [2.0, 1.0]])
    hits = zero_shot_hit(embedding, torch.eye(2), torch.tensor([0, 0, 0]), k=1)
    torch.testing.assert_close(hits, torch.tensor([torch.nan, torch.nan, 1]), equal_nan=True)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_ties_count_as_they_would_by_chance(k: int) -> None:
    """Against the mean over all orders in which equal classes may be named."""
    rng = np.random.default_rng(0)
    view, clean = rng.integers(1, 3, size=(2, 20, 4)).astype(float)
    classifier = np.eye(4)[:, [0, 0, 1, 2, 3]]
    target = rng.integers(5, size=20)
    hits, flips = [], []
    for order in map(np.array, permutations(range(5))):
        ranked, before = (
            order[np.argsort(-(e @ classifier[:, order]), axis=1, kind="stable")]
            for e in (view, clean)
        )
        hits.append((ranked[:, :k] == target[:, None]).any(axis=1))
        flips.append(ranked[:, 0] != before[:, 0])
    tensors = [torch.tensor(array) for array in (view, clean, classifier)]
    got = zero_shot_hit(tensors[0], tensors[2], torch.tensor(target), k)
    np.testing.assert_allclose(got, np.mean(hits, axis=0), atol=1e-6)
    assert len(set(np.mean(hits, axis=0))) > 2
    np.testing.assert_allclose(zero_shot_flip(*tensors), np.mean(flips, axis=0), atol=1e-6)


def test_nearest_classes_are_the_first_of_a_sorted_list() -> None:
    embedding, texts = np.random.default_rng(0).normal(size=(2, 9, 5))
    classifier = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    embedding[3], embedding[7, 0] = 0, np.nan
    cosines = embedding @ classifier / np.linalg.norm(embedding, axis=1, keepdims=True)
    indices, values = nearest_classes(torch.tensor(embedding), torch.tensor(classifier), k=4)
    order = np.argsort(-cosines, axis=1)[:, :4]
    directed = ~np.isnan(cosines).any(axis=1)
    np.testing.assert_array_equal(indices[directed], order[directed])
    expected = np.take_along_axis(cosines, order, axis=1)[directed]
    np.testing.assert_allclose(values[directed], expected)
    assert indices[~directed].tolist() == [[0, 1, 2, 3]] * 2
    assert (values.abs() <= 1).all()


def test_a_model_that_knows_no_class_hits_by_chance_and_never_flips() -> None:
    view, clean = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    classifier = torch.full((8, 5), 8**-0.5)
    target = torch.arange(6) % 5
    for k in (1, 3, 5):
        torch.testing.assert_close(
            zero_shot_hit(view, classifier, target, k), torch.full((6,), k / 5)
        )
    assert zero_shot_flip(view, clean, classifier).eq(0).all()


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_a_tie_does_not_depend_on_the_embeddings_length(length: float) -> None:
    """Cosines 1e-7 apart are not equal, 1e-11 apart they are."""
    angle = torch.tensor([0.5, 0.5 + 2e-7, 0.5 + 2e-11], dtype=torch.float64)
    classifier = torch.stack([angle.cos(), angle.sin()])
    embedding = length * torch.tensor([[1.0, 0.0]]).double()
    for target, hit in enumerate((0.5, 0.0, 0.5)):
        assert zero_shot_hit(embedding, classifier, torch.tensor([target]), 1).item() == hit


@pytest.mark.parametrize("nothing", [0.0, torch.nan, torch.inf])
def test_no_first_choice_no_change_of_it(nothing: float) -> None:
    view, clean = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    view[0], clean[1] = nothing, nothing
    flips = zero_shot_flip(view, clean, torch.eye(4))
    assert flips.isnan().tolist() == [True, True, False]


@pytest.fixture(scope="module")
def encoder():  # type: ignore[no-untyped-def]
    return load_encoder("ViT-S-32-alt")


@torch.no_grad()
def test_classifier_is_the_mean_of_unit_prompts(encoder) -> None:  # type: ignore[no-untyped-def]
    import open_clip

    classes, templates = ["cat", "space rocket"], ["a photo of a {}.", "art of the {}."]
    got = encoder.zero_shot_classifier(classes, templates)
    tokenize = open_clip.get_tokenizer("ViT-S-32-alt")
    for column, name in zip(got.T, classes, strict=True):
        texts = encoder.model.encode_text(tokenize([t.replace("{}", name) for t in templates]))
        mean = (texts / texts.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(column, mean / mean.norm(), atol=1e-5, rtol=0)


def test_labels_become_targets(encoder) -> None:  # type: ignore[no-untyped-def]
    photos = [Photo(str(i), None, label=label) for i, label in enumerate(["b", None, "a"])]  # type: ignore[arg-type]
    zero_shot = make_zero_shot(encoder, photos, ["a", "b"], ["{}"])
    assert zero_shot.targets.tolist() == [1, -1, 0]
    assert zero_shot.top == (1,)
    assert make_zero_shot(encoder, photos, ["a"], ["{}"]) is None
    assert make_zero_shot(encoder, photos, ["a", "b"], []) is None


def test_classes_are_named_without_underscores(encoder) -> None:  # type: ignore[no-untyped-def]
    names = [["house_finch", "space_rocket"], ["house finch", "space rocket"]]
    as_they_are, spoken = (encoder.zero_shot_classifier(n, ["a photo of a {}."]) for n in names)
    assert not torch.allclose(as_they_are, spoken, atol=1e-3)
    zero_shot = make_zero_shot(encoder, [], names[0], ["a photo of a {}."])
    torch.testing.assert_close(zero_shot.classifier, spoken)


def test_labels_that_read_alike_are_one_class(encoder) -> None:  # type: ignore[no-untyped-def]
    labels = ["Crane", "a b", "a_b", "crane", "heron"]
    photos = [Photo(str(i), None, label=label) for i, label in enumerate(labels)]  # type: ignore[arg-type]
    zero_shot = make_zero_shot(encoder, photos, labels, ["{}"])
    assert zero_shot.targets.tolist() == [0, 1, 1, 0, 2]
    expected = encoder.zero_shot_classifier(["crane", "a b", "heron"], ["{}"])
    torch.testing.assert_close(zero_shot.classifier, expected)
    assert make_zero_shot(encoder, photos[:1], ["Crane", "crane"], ["{}"]) is None


def test_a_tokenizer_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipshift.encode import open_clip_models

    monkeypatch.setattr(open_clip_models, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="transformers"):
        open_clip_models.load_tokenizer("ViT-B-16-SigLIP2")


def test_hits_are_columns_of_the_table(encoder, views: Tensor) -> None:  # type: ignore[no-untyped-def]
    from support.augmentations import augmentations_named
    from support.evaluation import run_module

    from clipshift.augment.variants import make_variants
    from clipshift.data.dataset import ViewDataset
    from clipshift.measure.metrics import CosineSimilarity
    from clipshift.results.table import shift_table

    photos = [replace(photo, label=photo.id) for photo in sample()[:8]]
    classes = [photo.id for photo in photos]
    zero_shot = make_zero_shot(encoder, photos, classes, ["a photo of a {}."])
    chosen = augmentations_named("flip")
    variants = make_variants(chosen, {}, ["paper"], {})
    dataset = ViewDataset(photos, chosen, 0, "squash")
    records, _ = run_module(
        encoder, variants, {"cosine": CosineSimilarity()}, dataset, 3, zero_shot=zero_shot
    )
    table = shift_table(records.read(), photos, variants).set_index("photo")
    with torch.inference_mode():
        for ending, images in (("_clean", views), ("", views.flip(-1))):
            scores = encoder(images).embedding @ zero_shot.classifier
            for k in (1, 5):
                best = scores.topk(k).indices
                expected = [row in best[row] for row in range(len(photos))]
                got = table.loc[[photo.id for photo in photos], f"zero_shot_top{k}{ending}"]
                assert got.tolist() == [float(e) for e in expected]
        first = [
            (encoder(x).embedding @ zero_shot.classifier).argmax(1) for x in (views, views.flip(-1))
        ]
    flipped = table.loc[[photo.id for photo in photos], "zero_shot_flip"]
    assert flipped.tolist() == (first[0] != first[1]).float().tolist()


def test_labels_outside_the_candidates_are_found_by_their_wordnet_lemmas_or_have_no_class(
    encoder,
) -> None:  # type: ignore[no-untyped-def]
    import open_clip

    labels = ["American_chameleon", "tench", "crane", "my dog", None]
    photos = [Photo(str(i), None, label=label) for i, label in enumerate(labels)]  # type: ignore[arg-type]
    names = candidate_classes("imagenet")
    assert names == list(open_clip.IMAGENET_CLASSNAMES)
    # Some of them, which is quicker to encode, and both birds and machines that are cranes.
    zero_shot = make_zero_shot(encoder, photos, [*names[:50], names[134], names[517]], ["{}"])
    assert zero_shot.targets.tolist() == [40, 0, -1, -1, -1]


def test_a_lemma_that_two_classes_have_in_other_case_is_told_by_its_case(
    encoder,
) -> None:  # type: ignore[no-untyped-def]
    photos = [Photo(label, None, label=label) for label in ("Cardigan", "cardigan")]  # type: ignore[arg-type]
    names = candidate_classes("imagenet")
    lemmas = {lemma for names_of in imagenet_names() for lemma in names_of}
    uses = Counter(lemma.casefold() for lemma in lemmas)
    assert {lemma for lemma in lemmas if uses[lemma.casefold()] > 1} == {"Cardigan", "cardigan"}
    dog, garment = names[264], names[474]
    assert make_zero_shot(encoder, photos, [garment, dog], ["{}"]).targets.tolist() == [1, 0]
    assert make_zero_shot(encoder, photos, [garment, "hat"], ["{}"]).targets.tolist() == [0, 0]


def test_candidates_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("red fox\n\n  déjà vu \n", encoding="utf-8")
    assert candidate_classes(str(file)) == ["red fox", "déjà vu"]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no file"), (b"\xff", "cannot read"), (b"a\n", "two")]
)
def test_candidates_that_cannot_be_read_are_told(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=words):
        candidate_classes(str(file))


def test_a_run_says_among_which_classes_and_how_many_labels_are_not_among_them(
    hub_folder: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("tripod\nespresso\nghost\n")
    done = run_evaluate(
        f"model.checkpoint={hub_folder}",
        f"hydra.run.dir={tmp_path / 'run'}",
        "trainer=cpu",
        "data.skip=2",
        "data.limit=3",
        "metric=cosine_similarity",
        "aug=flip",
        "cache=off",
        "logger=none",
        f"zero_shot.classes={names}",
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["data"]["classes"] == ["tripod", "espresso", "ghost"]
    shift = pd.read_parquet(tmp_path / "run" / "shift.parquet").set_index("photo")
    hits = shift["zero_shot_top1_clean"]
    assert hits.isna().tolist() == [False, True, False]  # the second is of a cat
    nearest = json.loads((tmp_path / "run" / "nearest.json").read_text())  # of all three classes
    scale = load_file(hub_folder / "open_clip_model.safetensors")["logit_scale"].exp()
    for photo, confidence in shift["confidence_clean"].items():
        logits = scale * torch.tensor([cosine for _, cosine in nearest[photo]["clean"]])
        assert confidence == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)
    table = pd.read_csv(tmp_path / "run" / "confidence.csv")
    assert set(table["n"]) == {2}
    assert set(table["augmentation"]) == {"clean", "flip"}
    assert (
        "not among the classes of zero_shot.classes: 1 of 3"
        in (tmp_path / "run" / "report.html").read_text()
    )
