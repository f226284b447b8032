"""Augmentations of the file, and chains: against Pillow by hand, and moved back onto the photo."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.augmentations import augmentation_named, choice_of_aug
from torch.utils.data import default_collate
from torchvision.transforms.v2 import RandomInvert

from clipshift.augment import Chain, Elastic, Flip, Noise, internet
from clipshift.augment.geometric import ShiftScaleRotate
from clipshift.augment.keyed import augment, draw, keyed_generator
from clipshift.augment.matching import displacement
from clipshift.augment.transforms import KeyedTransform
from clipshift.cli.build import instantiate_part
from clipshift.data.cache import Cache
from clipshift.data.dataset import Batch, View, ViewDataset, clean_view, collate, native_resize
from clipshift.data.photos import Photo, decode
from clipshift.data.sources import folder, sample
from clipshift.errors import UserError
from clipshift.measure.functional import ssim
from clipshift.parts import build_part, make_augmentations
from clipshift.train.views import RobustViews, Source

JPEG = internet.Recompress("JPEG", (20, 40), ["4:2:0"])


class Tilt:
    """A user's own: a quarter turn of the file, which does not say where pixels go."""

    strongest, moves_pixels, stage = 1.0, True, "file"

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        return {"unused": torch.from_numpy(rng.random(1))}

    def apply(self, image: Image.Image, draws: Any, strength: float = 1.0) -> Image.Image:
        return image.transpose(Image.Transpose.ROTATE_90)


def batch_of(
    parts: Mapping[str, Any], photos: list[Photo], resize: Any = "squash", **options: Any
) -> Batch:
    dataset = ViewDataset(photos, make_augmentations(parts)[0], 0, resize, **options)
    return collate([dataset[index] for index in range(len(photos))])


def test_a_chain_of_one_is_its_part(views: torch.Tensor) -> None:
    for part in (
        Noise((0.1, 0.2)),
        Elastic(300.0, 20.0),
        ShiftScaleRotate((0, 0.1), (1, 1), (0, 9)),
    ):
        chain, draws, views_of_both, back = Chain([part]), [], [], []
        for one, unnamed in ((part, ""), (chain, "0 ")):
            drawn = [draw(one, 3, f"{i}.jpg", "name", 224) for i in range(2)]
            draws.append({key.removeprefix(unnamed): value for key, value in drawn[0].items()})
            batched = default_collate(drawn)
            views_of_both.append(augment(one, views[:2], batched, 1.5))
            if part.moves_pixels:
                back.append(one.move_back(views[:2], batched, 1.5))
                back.append(displacement(one, views[:2], batched, 1.5))
        assert draws[0].keys() == draws[1].keys()
        assert all(torch.equal(draws[0][key], draws[1][key]) for key in draws[0])
        assert torch.equal(*views_of_both)
        assert all(torch.equal(a, b) for a, b in zip(back[:2], back[2:], strict=True))
        assert (chain.strongest, chain.moves_pixels) == (part.strongest, part.moves_pixels)


def test_parts_follow_each_other_and_draw_from_one_generator() -> None:
    """Against the parts one by one: on the file, then on its view."""
    photo, crop = sample()[0], internet.Crop((0.5, 0.8))
    parts = [crop, JPEG, Noise((0.1, 0.2)), Flip()]
    batch = batch_of({"mine": Chain([crop, Chain([JPEG, parts[2]]), parts[3]])}, [photo])
    got = augment(Chain(parts), batch.clean, batch.draws["mine"])
    rng = keyed_generator(0, photo.id, "mine")
    draws = [part.sample(rng, 224) for part in parts]
    image: Any = decode(photo.read())
    for part, drawn in zip(parts[:2], draws, strict=False):
        image = part.apply(image, drawn)
    expected = clean_view(image.convert("RGB"), "squash")[None]
    for part, drawn in zip(parts[2:], draws[2:], strict=True):
        expected = augment(part, expected, default_collate([drawn]))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("resize", ["squash", "crop", "shortest", "longest"])
def test_pixels_move_back_through_the_edit_and_the_resizing(resize: str, tmp_path: Path) -> None:
    """Of a photo that is two ramps, which stay ramps under any resizing; blue marks its inside."""
    x, y = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 400))
    pixels = np.stack([x, y, np.full_like(x, 255)], axis=-1).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ramps.png")
    names = ["crop", "aspect", "border", "screenshot", "rotate_file", "collage"]
    parts = {name: choice_of_aug("internet")[0][name] for name in names}
    parts["border"] = Chain(
        [internet.Border((0.1, 0.1)), ShiftScaleRotate((0, 0.1), (1, 1), (9, 9))]
    )
    shape: Any = resize
    if resize in ("shortest", "longest"):
        model = {"size": 160, "resize_mode": resize, "interpolation": "bilinear", "fill_color": 0}
        shape = native_resize({**model, "mean": (0, 0, 0), "std": (1, 1, 1)})
    batch = batch_of(parts, [Photo("ramps", tmp_path / "ramps.png")], shape)
    for name, part in parts.items():
        view = augment(part, batch.clean, batch.draws[name])
        back = part.move_back(view, batch.draws[name])[0]
        shown = part.move_back(torch.ones_like(view), batch.draws[name])[0, 2] > 0.999
        inside = shown & (batch.clean[0, 2] > 0.999)  # and not the padding of "longest"
        inside &= back[2] > 0.999  # nor mixed with what surrounds the photo
        error = (back - batch.clean[0])[:2].abs().amax(0)[inside]
        assert inside.float().mean() > 0.2, name
        assert error.quantile(0.95) < 2.5 / 255, name
        if resize == "squash":
            forth = part.move(batch.clean, batch.draws[name])[0]
            both = (forth[2] > 0.999) & (view[0, 2] > 0.999)
            assert (forth - view[0])[:2].abs().amax(0)[both].quantile(0.95) < 2.5 / 255, name


def test_displacement_of_a_border_in_closed_form() -> None:
    """Under squash a border shrinks the photo about the middle of the view."""
    border = Chain([internet.Border((0.25, 0.25))])
    square = [Photo("square", sample()[0].file)]
    batch = batch_of({"border": border}, square)
    width, height = decode(square[0].read()).size
    moved = displacement(border, batch.clean, batch.draws["border"], 1.0)
    added = 2 * round(0.25 * min(width, height))
    share = np.array([width / (width + added), height / (height + added)])
    # pixels of the view that show the photo, at distance t from the middle, came from t / share
    x, y = (np.arange(-111.5, 112)[abs(np.arange(-111.5, 112)) < 112 * s - 1] for s in share)
    distance = np.hypot(*np.meshgrid(x / share[0] - x, y / share[1] - y))
    assert moved.item() == pytest.approx(distance.mean(), rel=0.01)


def test_frames_are_those_by_hand() -> None:
    """A border in the colour that was drawn; a crop to a corner; the next picture of a collage."""
    pixels = np.random.default_rng(0).integers(256, size=(50, 100, 3), dtype=np.uint8)
    photo, border = Image.fromarray(pixels), internet.Border((0.1, 0.1))
    for seed in range(20):
        drawn = border.sample(np.random.default_rng(seed), 224)
        framed = np.tile(drawn["colour"].numpy().astype(np.uint8), (60, 110, 1))
        framed[5:-5, 5:-5] = pixels
        np.testing.assert_array_equal(border.apply(photo, drawn), framed)
    post = internet.Screenshot((0.2, 0.2))
    drawn = {"bar": torch.tensor(0.2), "colour": torch.full([3], 30)}
    shown = np.asarray(post.apply(photo, drawn))
    assert shown.shape == (90, 100, 3)  # two bars of 10 above, two below
    np.testing.assert_array_equal(shown[20:70], pixels)
    marks = shown[:, :, 0] == 128
    assert marks[np.r_[0:20, 70:90]].any(axis=1).nonzero()[0][[0, -1]].tolist() == [11, 34]
    corner = {"share": torch.tensor(0.25), "position": torch.ones(2)}
    cropped = internet.Crop((0.25, 0.25)).apply(photo, corner)
    np.testing.assert_array_equal(cropped, pixels[25:, 50:])
    collage, turned = internet.Collage((0.2, 0.2)), pixels[::-1, ::-1]
    for side, axis in enumerate((1, 0, 1, 0)):
        length = pixels.shape[axis]
        gap = np.full_like(np.take(pixels, range(length // 50), axis), 255)
        row = [pixels, gap, turned] if side > 1 else [turned, gap, pixels]
        shown = np.arange(length * 6 // 5) - (0 if side > 1 else length * 6 // 5)
        drawn = {"strip": torch.tensor(0.2), "side": torch.tensor([side])}
        expected = np.take(np.concatenate(row, axis), shown, axis)
        np.testing.assert_array_equal(collage.apply(photo, drawn), expected)


def test_emoji_are_their_own_mirror_images() -> None:
    for shapes in internet.EMOJI:
        drawn = {
            (shape, frozenset(zip(places[::2], places[1::2], strict=True)), colour)
            for shape, places, colour in shapes
        }
        for shape, places, colour in shapes:
            turned = places[2:] + places[:2] if shape == "ellipse" else places
            xs = [100 - x for x in turned[::2]]
            ys = places[1::2]
            assert (shape, frozenset(zip(xs, ys, strict=True)), colour) in drawn


def test_ones_own_may_act_on_the_file_and_not_say_where_pixels_go() -> None:
    batch = batch_of({"tilt": Tilt()}, sample()[:2])
    tilt = make_augmentations({"tilt": Tilt()})[0]["tilt"]
    view = augment(tilt, batch.clean, batch.draws["tilt"])
    photo = decode(sample()[0].read()).transpose(Image.Transpose.ROTATE_90)
    assert torch.equal(view[0], clean_view(photo, "squash"))
    assert tilt.move_back(view, batch.draws["tilt"]).eq(0).all()  # type: ignore[attr-defined]


def test_the_cache_holds_clean_views_and_the_file_is_edited_again(tmp_path: Path) -> None:
    parts = {"webp": choice_of_aug("internet")[0]["webp"]}
    cache = Cache(str(tmp_path), 1)
    first, second = (batch_of(parts, sample()[:1], cache=cache) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    for key, value in batch_of(parts, sample()[:1]).draws["webp"].items():
        assert torch.equal(first.draws["webp"][key], value)
        assert torch.equal(second.draws["webp"][key], value)


def test_a_photo_that_cannot_be_edited_is_skipped(tmp_path: Path) -> None:
    """WebP ends at 16,383 pixels."""
    Image.new("RGB", (16400, 2)).save(tmp_path / "long.png")
    parts = {"webp": choice_of_aug("internet")[0]["webp"]}
    item = ViewDataset([Photo("long", tmp_path / "long.png")], parts, 0, "squash")[0]
    assert not isinstance(item, View)
    assert item.reason.startswith("webp fails on it: ")


def test_a_pixel_is_enough() -> None:
    photo = Image.new("RGB", (1, 1), (9, 9, 9))
    for name, part in choice_of_aug("internet")[0].items():
        drawn = draw(part, 0, "pixel", name, 224)
        for strength in (1e-6, 1.0, 5.0):
            assert min(part.edit(photo, drawn, strength)[0].size) >= 1, name  # type: ignore[attr-defined]


def test_training_sees_the_edited_file() -> None:
    parts = {"crop": choice_of_aug("internet")[0]["crop"]}
    source = Source(sample()[:1], "squash")
    views = RobustViews([source], parts, {"crop": [1, 2, 3, 4, 5]}, ["2"], 0)
    clean, view, _ = views[3, 0]
    photo = Photo(f"epoch 3 of {sample()[0].id}", sample()[0].file)
    batch = batch_of(parts, [photo], strengths={"crop": [2.0]})
    assert torch.equal(clean, batch.clean[0])
    assert torch.equal(view, augment(parts["crop"], batch.clean, batch.draws["crop"], 2.0))


@pytest.mark.slow
@pytest.mark.photos
def test_severities_of_the_file_distort_more_and_more(photos_root: Path) -> None:
    parts, ladders = choice_of_aug("internet")
    photos = folder(str(photos_root / "imagenet-sample"))
    chosen = [photo for photo in photos if photo.left_out is None][::9][:60]
    for name in parts:
        batch = batch_of({name: parts[name]}, chosen[:60], strengths=ladders)
        means = [
            ssim(augment(parts[name], batch.clean, batch.draws[name], step), batch.clean).mean()
            for step in ladders[name]
        ]
        assert all(weaker > stronger for weaker, stronger in pairwise(means)), (name, means)


def test_a_chain_that_cannot_be_is_one_line() -> None:
    for parts, words in (
        ([], "a chain requires at least one"),
        ([Flip(), JPEG], "put parts that act on the file before those on the view"),
        ([Flip(), object()], "object is not an augmentation"),
    ):
        with pytest.raises(UserError, match=words):
            Chain(parts)
    mkdir = {"_target_": "os.mkdir"}
    crop = {"_target_": "clipshift.augment.internet.Crop", "share": [0.5, 0.8]}
    for part, words in (
        (mkdir, r"aug\.x\.parts\.1 is made by os\.mkdir"),
        (
            crop | {"share": [0, 2]},
            r"aug\.x\.parts\.1\.share: .* is out of range",
        ),
    ):
        node = {"_target_": "clipshift.augment.Chain", "parts": [crop, part]}
        for build in (build_part, instantiate_part)[: 1 + (part is not mkdir)]:
            with pytest.raises(UserError, match=words):
                build("aug.x", node)


def test_a_transform_in_a_chain_leaves_it_without_strength(views: torch.Tensor) -> None:
    chain = Chain([augmentation_named("noise"), RandomInvert(p=1)])
    assert isinstance(chain.parts[1], KeyedTransform)
    draws = default_collate([draw(chain, 0, "a", "chain", 224)])
    assert chain.move_back(views[:1], draws).eq(0).all()
    with pytest.raises(UserError, match="has no strength"):
        chain.apply(views[:1], draws, 0.5)
