"""What happens to picture files on the internet: augmentations of the file, before it is resized.

Lengths are shares of the photo's sides, so that a photo of any size changes as much. Text is drawn
in the font that Pillow ships, Aileron; emoji are drawn from simple shapes, as Pillow ships none.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clipshift.augment.keyed import Draws, FileAugmentation, dithered, uniform
from clipshift.augment.parameters import Parametrised, Range, parameter
from clipshift.augment.pixel import COUNTS
from clipshift.checks import Check, interval, number, one_of

__all__ = [
    "Aspect", "Border", "Collage", "Crop", "Downscale", "EmojiOverlay", "Recompress", "RotateFile",
    "Screenshot", "Sharpen", "TextOverlay",
]  # fmt: skip

Size = tuple[int, int]
Box = tuple[int, int, int, int]

SUBSAMPLINGS: Check = (
    "one or more of 4:4:4, 4:2:2 and 4:2:0",
    lambda v: bool(v) and {*v} <= {"4:4:4", "4:2:2", "4:2:0"},
)
WIDEST = 2.0
"""What is put around a photo is at most so wide, in sides of the photo."""
POST = (
    (0.3, 1.15, 0.7, 0.7), (1.2, 1.25, 3, 0.2), (1.2, 1.6, 2, 0.2),
    (0.3, 2.3, 0.4, 0.4), (1, 2.3, 0.4, 0.4), (1.7, 2.3, 0.4, 0.4), (0.3, 3.2, 6, 0.2),
)  # fmt: skip
"""What a post shows: left and upper edge, width and height, in bars. From 2 on, y is below."""
WORDS = (
    "when you finally get home", "nobody:", "Monday again", "wait for it", "SALE 50 % OFF",
    "found this today", "follow for more", "happy birthday!", "no context", "me, every morning",
    "link in bio", "photo of the day", "this is fine", "which one is yours?", "breaking news",
)  # fmt: skip


class Recompress(Parametrised, FileAugmentation):
    """Compression by Pillow's encoder. Strength multiplies the distance of the quality from 100.

    Args:
        format: ``JPEG`` or ``WebP``.
        quality: Interval of the encoder's quality, 0 to 100.
        subsampling: The chroma subsampling of JPEG is one of these, all equally likely. WebP has
            only 4:2:0.
    """

    format: str = parameter(one_of("JPEG", "WebP"))
    quality: Range = parameter(interval(0, 100))
    subsampling: Sequence[str] = parameter(SUBSAMPLINGS)

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        quality, offset = uniform(rng, self.quality), uniform(rng)
        subsampling = torch.tensor([rng.integers(len(self.subsampling))])
        return {"quality": quality, "offset": offset, "subsampling": subsampling}

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        quality = dithered(100 - strength * (100 - draws["quality"]), draws["offset"])
        stream, subsampling = io.BytesIO(), self.subsampling[int(draws["subsampling"])]
        image.save(stream, self.format, quality=max(0, int(quality)), subsampling=subsampling)
        return Image.open(stream)


class Downscale(Parametrised, FileAugmentation):
    """Resizing to a fraction of the size, and back; bicubic. Strength is the factor's power.

    Args:
        factor: Interval of the factor by which the sides shrink.
    """

    factor: Range = parameter(interval(1))

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        share = float(draws["factor"]) ** -strength
        width, height = (max(1, round(share * side)) for side in image.size)
        return image.resize((width, height)).resize(image.size)


class Aspect(Downscale):
    """One side shrinks, width or height; bicubic. Strength is the factor's power.

    Args:
        factor: Interval of the factor by which it shrinks.
    """

    moves_pixels = True

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"axis": torch.tensor([rng.integers(2)])}

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        sides, axis = list(image.size), int(draws["axis"])
        sides[axis] = max(1, round(sides[axis] * float(draws["factor"]) ** -strength))
        return image.resize((sides[0], sides[1]))

    def matrix(self, before: Size, after: Size, draws: Draws, strength: float) -> np.ndarray:
        return np.diag([after[0] / before[0], after[1] / before[1], 1])


class Sharpen(Parametrised, FileAugmentation):
    """Unsharp masking by Pillow. Strength multiplies its amount.

    Args:
        amount: Interval of the share of the difference from the blurred image that is added.
        radius: Of the Gaussian blur, as a share of the shorter side.
    """

    amount: Range = parameter(interval(0))
    radius: float = parameter(number(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return {"amount": uniform(rng, self.amount)}

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        percent = round(100 * strength * float(draws["amount"]))
        return image.filter(ImageFilter.UnsharpMask(self.radius * min(image.size), percent, 0))


class RotateFile(Parametrised, FileAugmentation):
    """Rotation about the centre; bilinear. The image grows, so that all of the photo stays.

    Args:
        rotation: Interval of the angle, in degrees. Strength multiplies it.
    """

    rotation: Range = parameter(interval(-360, 360))
    moves_pixels = True

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        angle = strength * float(draws["rotation"])
        return image.rotate(angle, Image.Resampling.BILINEAR, expand=True)

    def matrix(self, before: Size, after: Size, draws: Draws, strength: float) -> np.ndarray:
        angle = math.radians(strength * float(draws["rotation"]))
        moves = np.array(
            [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]]
        )
        moves[:, 2] = (np.array(after) - moves[:, :2] @ before) / 2
        return np.vstack([moves, [0, 0, 1]])


class Framed(Parametrised, FileAugmentation):
    """Base of augmentations whose result is a box around the photo, or one within it."""

    moves_pixels = True

    def box(self, size: Size, draws: Draws, strength: float) -> Box:
        """The left, upper, right and lower edge of the result, in the photo's pixels."""
        raise NotImplementedError

    def background(self, image: Image.Image, box: Box, draws: Draws) -> Image.Image:
        """What the result shows around the photo: the ``colour`` that was drawn, or white."""
        colour = draws["colour"].tolist() if "colour" in draws else [255] * 3
        return Image.new("RGB", (box[2] - box[0], box[3] - box[1]), tuple(colour))

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        box = self.box(image.size, draws, strength)
        result = self.background(image, box, draws)
        result.paste(image, (-box[0], -box[1]))
        return result

    def matrix(self, before: Size, after: Size, draws: Draws, strength: float) -> np.ndarray:
        left, top, *_ = self.box(before, draws, strength)
        return np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])


class Crop(Framed):
    """A crop to a share of the photo, anywhere in it. Strength is the power of the share.

    Args:
        share: Interval of the share of the area that is kept.
    """

    share: Range = parameter(interval(1e-3, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"position": uniform(rng, count=2)}

    def box(self, size: Size, draws: Draws, strength: float) -> Box:
        share = float(draws["share"]) ** (strength / 2)
        width, height = (max(1, round(share * side)) for side in size)
        x, y = draws["position"].tolist()
        left, top = round(x * (size[0] - width)), round(y * (size[1] - height))
        return left, top, left + width, top + height


class Border(Framed):
    """A border in one colour: white, black, or any, equally likely. Strength multiplies its width.

    Args:
        width: Interval of its width, as a share of the shorter side.
    """

    width: Range = parameter(interval(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        colours = [np.full(3, 255), np.zeros(3, int), rng.integers(256, size=3)]
        colour = torch.from_numpy(colours[rng.integers(3)])
        return super().sample(rng, size) | {"colour": colour}

    def box(self, size: Size, draws: Draws, strength: float) -> Box:
        width = limited(strength * draws["width"], min(size))
        return -width, -width, size[0] + width, size[1] + width


class Screenshot(Framed):
    """A post on a phone's screen: name, photo, buttons and a comment, light or dark.

    Args:
        bar: Interval of the height of a bar, as a share of the photo's height: there are two above
            the photo and two below. Strength multiplies it.
    """

    bar: Range = parameter(interval(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"colour": torch.full([3], rng.choice([30, 250]))}

    def box(self, size: Size, draws: Draws, strength: float) -> Box:
        height = 2 * limited(strength * draws["bar"], size[1])
        return 0, -height, size[0], size[1] + height

    def background(self, image: Image.Image, box: Box, draws: Draws) -> Image.Image:
        canvas, bar = super().background(image, box, draws), -box[1] / 2
        for x, y, width, height in POST:
            top = y * bar + (0 if y < 2 else image.height)
            place = x * bar, top, (x + width) * bar, top + height * bar
            ImageDraw.Draw(canvas).rounded_rectangle(place, height * bar / 2, "#808080")
        return canvas


class Collage(Framed):
    """A cut from a collage: on one side a strip of the next picture stays, behind a white gap.

    The next picture is the photo itself upside down, so that a view depends on no other photo.

    Args:
        strip: Interval of the strip's width, as a share of the photo's side. Strength multiplies
            it, up to the whole side.
    """

    strip: Range = parameter(interval(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        return super().sample(rng, size) | {"side": torch.tensor([rng.integers(4)])}

    def box(self, size: Size, draws: Draws, strength: float) -> Box:
        box, side = [0, 0, *size], int(draws["side"])
        width = round(min(strength * float(draws["strip"]), 1) * size[side % 2])
        box[side] += width if side > 1 else -width
        return box[0], box[1], box[2], box[3]

    def background(self, image: Image.Image, box: Box, draws: Draws) -> Image.Image:
        canvas, place = super().background(image, box, draws), [-box[0], -box[1]]
        side = int(draws["side"])
        step = round(1.02 * image.size[side % 2])
        place[side % 2] += step if side > 1 else -step
        canvas.paste(image.transpose(Image.Transpose.ROTATE_180), (place[0], place[1]))
        return canvas


class TextOverlay(Parametrised, FileAugmentation):
    """A line of text across the photo, white with a black outline. Strength multiplies its size.

    Args:
        height: Interval of the font's size, as a share of the photo's height.
    """

    height: Range = parameter(interval(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        words = torch.tensor([rng.integers(len(WORDS))])
        return super().sample(rng, size) | {"y": uniform(rng), "words": words}

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        image, size = image.copy(), max(1, limited(strength * draws["height"], image.height))
        letters = max(1, int(image.width / (0.6 * size)))
        lines = textwrap.wrap(WORDS[int(draws["words"])], letters, break_long_words=False)
        top = float(draws["y"]) * max(0, image.height - 1.3 * size * len(lines))
        outline: Any = {"stroke_width": size / 12, "stroke_fill": "black"}
        place, font = (image.width / 2, top), ImageFont.load_default(size)
        pen, text = ImageDraw.Draw(image), "\n".join(lines)
        pen.text(place, text, "white", font, "ma", align="center", **outline)
        return image


class EmojiOverlay(Parametrised, FileAugmentation):
    """Smileys and hearts anywhere on the photo. Strength multiplies their size.

    Args:
        count: Range of their number.
        side: Interval of their size, as a share of the photo's shorter side.
    """

    count: tuple[int, int] = parameter(COUNTS)
    side: Range = parameter(interval(0, 1))

    def sample(self, rng: np.random.Generator, size: int) -> Draws:
        most = self.count[1]
        return {
            "count": torch.tensor([rng.integers(self.count[0], most + 1)]),
            "kinds": torch.from_numpy(rng.integers(len(EMOJI), size=most)),
            "centres": uniform(rng, count=2 * most).view(most, 2),
            "sides": uniform(rng, self.side, most),
        }

    def apply(self, image: Image.Image, draws: Draws, strength: float = 1.0) -> Image.Image:
        image = image.copy()
        for index in range(int(draws["count"])):
            if side := limited(strength * draws["sides"][index], min(image.size)):
                sign = emoji(int(draws["kinds"][index])).resize((side, side))
                x, y = draws["centres"][index].tolist()
                place = round(x * image.width - side / 2), round(y * image.height - side / 2)
                image.paste(sign, place, sign)
        return image


def limited(share: torch.Tensor, side: int) -> int:
    """A share of a side in whole pixels, at most `WIDEST`."""
    return round(min(float(share), WIDEST) * side)


FACE, DARK, RED = "#ffcc33", "#5c3a00", "#e0245e"
MOUTH = (24, 58, 76, 58, 71, 71, 61, 79, 50, 82, 39, 79, 29, 71)
EMOJI: Any = (
    (("ellipse", (4, 4, 96, 96), FACE), ("ellipse", (28, 30, 40, 48), DARK),
     ("ellipse", (60, 30, 72, 48), DARK), ("polygon", MOUTH, DARK)),
    (("ellipse", (4, 10, 52, 58), RED), ("ellipse", (48, 10, 96, 58), RED),
     ("polygon", (9, 49, 28, 34, 72, 34, 91, 49, 50, 94), RED)),
)  # fmt: skip
"""A smiley and a heart: shapes, where they lie in a square of 100, and their colours."""


@cache
def emoji(kind: int) -> Image.Image:
    """An emoji with its transparency, 512 pixels wide.

    Args:
        kind: Its place in `EMOJI`.
    """
    image = Image.new("RGBA", (1024, 1024))
    pen = ImageDraw.Draw(image)
    for shape, places, colour in EMOJI[kind]:
        getattr(pen, shape)([10.24 * place for place in places], fill=colour)
    return image.resize((512, 512))
