"""Other libraries' transforms as augmentations: keyed like our own, whatever they draw from."""

import random
from collections.abc import Callable
from typing import Any

import albumentations
import kornia.augmentation
import numpy as np
import pandas as pd
import pytest
import torch
from support.augmentations import augmentation_named, choice_of_aug
from support.evaluation import run_module
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision.transforms import v2

from clipshift.augment.keyed import Augmentation, augment, draw
from clipshift.augment.transforms import KeyedTransform, as_augmentation
from clipshift.augment.variants import make_variants
from clipshift.cli.build import make_augmentations
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.data.dataset import ViewDataset
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError
from clipshift.evaluate.calibration import calibration_for
from clipshift.measure.metrics import CosineSimilarity, GazeDivergence, GazeDivergenceAligned
from clipshift.options import EvaluateOptions
from clipshift.results.table import shift_table


def speckle(photo: Tensor) -> Tensor:
    """Draws from all three global generators."""
    field = torch.from_numpy(np.random.random(photo.shape)).float() + torch.rand(photo.shape)
    return photo + random.random() * (field - 1)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "albumentations": albumentations.Compose(
        [
            albumentations.GaussNoise(p=0.8),
            albumentations.OneOf(
                [
                    albumentations.Blur(),
                    *(albumentations.CoarseDropout(fill="random", p=1) for _ in range(2)),
                ],
                p=1,
            ),
        ]
    ),
    "torchvision": v2.Compose([v2.ColorJitter(0.5, 0.5, 0.5, 0.2), v2.RandomInvert(), v2.AugMix()]),
    "kornia": nn.Sequential(
        kornia.augmentation.RandomPlasmaBrightness(p=0.7),
        kornia.augmentation.RandomGaussianNoise(p=0.7),
    ),
    "function": speckle,
}


def rows(
    encoder: Encoder, augmentations: dict[str, Augmentation], batch_size: int, num_workers: int
) -> pd.DataFrame:
    photos = sample()[:5]
    variants = make_variants(augmentations, {}, ["paper"], {})
    measures = {
        "cosine_similarity": CosineSimilarity(),
        "gaze_divergence": GazeDivergence(),
        "gaze_divergence_aligned": GazeDivergenceAligned(),
    }
    dataset = ViewDataset(photos, augmentations, 0, "squash")
    records, _ = run_module(encoder, variants, measures, dataset, batch_size, num_workers)
    table = shift_table(records.read(), photos, variants)
    return table.set_index(["augmentation", "photo"]).sort_index()


def test_rows_depend_on_the_photo_alone(encoder: Encoder) -> None:
    """So do transforms, augmentations of the file, and chains."""
    transforms = {name: as_augmentation(transform) for name, transform in TRANSFORMS.items()}
    transforms |= {name: choice_of_aug(name)[0][name] for name in ("rotate_file", "upload")}
    together = rows(
        encoder, {"noise": augmentation_named("noise"), **transforms}, batch_size=5, num_workers=0
    )
    pd.testing.assert_frame_equal(
        together,
        rows(encoder, {**transforms, "noise": augmentation_named("noise")}, 1, 2),
        check_exact=True,
    )
    for name in transforms:
        alone = rows(encoder, {name: transforms[name]}, 3, 0)
        pd.testing.assert_frame_equal(alone, together.loc[[name]], check_exact=True)
        assert together.loc[name, "cosine_similarity"].nunique() == 5
        assert together.loc[name, "gaze_divergence"].notna().all()
        # a transform may have moved pixels
        aligned = together.loc[name, "gaze_divergence_aligned"]
        assert aligned.isna().all() if name in TRANSFORMS else aligned.notna().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_global_generators_go_on_as_if_nothing_had_drawn(name: str, views: Tensor) -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(1).item()

    def seed() -> None:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    transform = as_augmentation(TRANSFORMS[name])
    draws = default_collate([draw(transform, 0, f"{i}", name, 224) for i in range(2)])
    seed()
    expected = numbers()
    seed()
    first = transform.apply(views[:2], draws)
    assert numbers() == expected
    assert torch.equal(first, transform.apply(views[:2], draws))
    assert not torch.equal(first[0] - views[0], first[1] - views[1])


def test_a_transform_gets_the_photo_as_its_library_has_it(views: Tensor) -> None:
    draws = {"seed": torch.tensor([[1], [2]])}
    clean = (views[:2] * 255).round() / 255
    pixels = (clean * 255).round().byte().permute(0, 2, 3, 1).numpy()
    solarize = albumentations.Solarize(threshold_range=(0.5, 0.5), p=1)
    expected = np.stack([solarize(image=image)["image"] for image in pixels]) / 255
    solarized = augment(as_augmentation(solarize), clean, draws)
    np.testing.assert_allclose(solarized.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    for invert in (v2.RandomInvert(p=1), kornia.augmentation.RandomInvert(p=1)):
        torch.testing.assert_close(augment(as_augmentation(invert), clean, draws), 1 - clean)
    assert torch.equal(augment(as_augmentation(torch.zeros_like), clean, draws), 0 * clean)


def test_what_is_returned_in_8_bits_or_beyond_the_range_is_a_view(views: Tensor) -> None:
    draws = {"seed": torch.tensor([[0]])}
    posterize = v2.Compose([v2.ToDtype(torch.uint8, scale=True), v2.RandomPosterize(1, p=1)])
    coarse = augment(as_augmentation(posterize), views[:1], draws)
    assert set(coarse.unique().tolist()) == {0, torch.tensor(128 / 255).item()}
    far = augment(as_augmentation(lambda photo: 3 * photo - 1), views[:1], draws)
    torch.testing.assert_close(far, (3 * views[:1] - 1).clamp(0, 1))


def test_a_transform_in_place_leaves_the_clean_view_alone(views: Tensor) -> None:
    clean = views[:1].clone()
    darker = as_augmentation(lambda photo: photo.mul_(0.5))
    assert torch.equal(augment(darker, clean, {"seed": torch.tensor([[0]])}), views[:1] / 2)
    assert torch.equal(clean, views[:1])


def own_generator() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator()
    return lambda photo: photo + torch.rand(photo.shape, generator=generator)


def memory() -> Callable[[Tensor], Tensor]:
    seen: list[Tensor] = []

    def blend(photo: Tensor) -> Tensor:
        seen.append(photo)
        return (photo + len(seen)) / (1 + len(seen))

    return blend


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (albumentations.RandomCrop(100, 100), "returns an image of shape (3, 100, 100)"),
        (v2.Grayscale(1), "returns an image of shape (1, 224, 224)"),
        (albumentations.Compose([albumentations.Normalize()]), "normalises: remove Normalize"),
        (v2.Compose([v2.Normalize([0.5] * 3, [0.5] * 3)]), "normalises: remove Normalize"),
        (own_generator(), "makes two different views with the same seed"),
        (memory(), "makes two different views with the same seed"),
        (lambda photo: None, "returns NoneType"),
        (lambda photo: (photo * 255).long(), "returns torch.int64"),
        (lambda photo: photo.missing, "fails: AttributeError: 'Tensor' object has no attribute"),
        ("noise", "str is not an augmentation"),
    ],
)
def test_what_cannot_be_keyed_is_refused_in_one_line(part: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        as_augmentation(part)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_augmentation_stays_as_it_is() -> None:
    assert as_augmentation(augmentation_named("noise")) is augmentation_named("noise")


FOG = {"_target_": "albumentations.RandomFog", "p": 1.0}


def test_options_reach_the_transform_as_they_stand() -> None:
    noise = {"_target_": "albumentations.GaussNoise", "std_range": [0.3, 0.4], "p": 1}
    steps = {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 0.25}
    nested = {"_target_": "torchvision.transforms.v2.Compose", "transforms": [steps]}
    augmentations, ladders = make_augmentations({"noise": noise, "invert": nested})
    assert isinstance(augmentations["noise"], KeyedTransform)
    assert isinstance(augmentations["invert"], KeyedTransform)
    assert augmentations["noise"].transform.std_range == (0.3, 0.4)
    [step] = augmentations["invert"].transform.transforms
    assert step.p == 0.25
    assert isinstance(
        augmentations["invert"].transform.transforms, list
    )  # and not a part of OmegaConf
    assert not ladders


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (FOG | {"ladder": [1, 2, 3, 4, 5]}, "aug.fog.ladder: a transform has no strength"),
        (
            {"_target_": "albumentations.RandomCrop", "height": 9, "width": 9},
            "aug.fog: RandomCrop returns an image of shape (3, 9, 9)",
        ),
        ({"_target_": "albumentations.RandomFogg"}, "aug.fog: Error loading 'albumentations.Ran"),
        ({"_target_": "missing.Fog"}, "aug.fog: Error loading 'missing.Fog'"),
    ],
)
def test_mistakes_in_its_options_are_one_line(node: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        make_augmentations({"fog": node})
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_it_has_no_strength() -> None:
    augmentations, ladders = make_augmentations({"fog": FOG})
    with pytest.raises(UserError, match=r"fog has no ladder of strengths for severity=3"):
        make_variants(augmentations, ladders, ["paper", "3"], {})
    with pytest.raises(UserError, match=r"aug\.fog is a transform, which has no strength to match"):
        calibration_for(EvaluateOptions(), [], augmentations, {}, "squash")
    with pytest.raises(UserError, match="RandomFog has no strength"):
        augmentations["fog"].apply(torch.rand(1, 3, 224, 224), {"seed": torch.tensor([[0]])}, 0.5)


def test_a_custom_augmentation_must_be_given() -> None:
    with pytest.raises(UserError, match=r"aug\.custom\._target_ is not set"):
        validate(compose_config("evaluate", ["aug=custom"]), "evaluate")
