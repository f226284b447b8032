"""Zero-shot classification against sorting in numpy, and in the tables of a run."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipshift.data import Photo, sample
from clipshift.encode import load_encoder
from clipshift.errors import UserError
from clipshift.evaluation import make_zero_shot
from clipshift.measure.zero_shot import zero_shot_hit


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


def test_a_tokenizer_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipshift.encode import encoder

    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="transformers"):
        encoder.load_tokenizer("ViT-B-16-SigLIP2")


def test_hits_are_columns_of_the_table(encoder, views: Tensor) -> None:  # type: ignore[no-untyped-def]
    import pytorch_lightning as pl
    from test_augment import AUGMENTATIONS

    from clipshift.augment import make_variants
    from clipshift.data import ViewData, ViewDataset
    from clipshift.evaluation import Keep, ShiftEvaluation
    from clipshift.measure import CosineSimilarity
    from clipshift.results import shift_table

    photos = sample()[:8]
    classes = [str(photo.label) for photo in photos]
    zero_shot = make_zero_shot(encoder, photos, classes, ["a photo of a {}."])
    chosen = {"flip": AUGMENTATIONS["flip"]}
    variants = make_variants(chosen, {}, ["paper"], {})
    module = ShiftEvaluation(encoder, variants, {"cosine": CosineSimilarity()}, Keep())
    module.zero_shot = zero_shot
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.test(module, ViewData(ViewDataset(photos, chosen, 0, "squash"), 3, 0), verbose=False)
    table = shift_table(module.measured, photos, variants).set_index("photo")
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
