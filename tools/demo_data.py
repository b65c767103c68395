"""Draws the demo canvases: a real handwritten digit and distractor strokes on a crop of a real photograph.

Digits come from scikit-learn's ``load_digits`` and photographs from the files inside the scikit-image package; both are
needed at the training script's run only. Training and held-out canvases share no digit and no photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[Any]

SIZE = 96
TRAIN_PHOTOS = ("brick", "camera", "clock", "coffee", "grass", "gravel", "hubble_deep_field", "retina")
HELD_OUT_PHOTOS = ("astronaut", "chelsea", "rocket")
# Every fifth of the 1,797 digits. They are in the order of their writers, who are thus on both sides: a classifier that
# holds out the last writers instead is limited by their hands, at 97 % even on clean digits.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Sources:
    """digits: float [n, 8, 8] in [0, 1]; labels: int [n]; photos: RGB images."""

    digits: Array
    labels: Array
    photos: list[Image.Image]


@dataclass(frozen=True)
class Canvases:
    """images: uint8 [n, 96, 96, 3]; labels: int64 [n]; masks: bool [n, 96, 96], true on the digit's stroke."""

    images: Array
    labels: Array
    masks: Array


def photo(name: str) -> Image.Image:
    """The RGB photograph of that name in scikit-image's package."""
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def sources(held_out: bool) -> Sources:
    """The digits and photographs of one side of the split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = (np.arange(len(bunch.target)) % HELD_OUT_EVERY == 0) == held_out
    names = HELD_OUT_PHOTOS if held_out else TRAIN_PHOTOS
    return Sources((bunch.images[part] / 16).astype(np.float32), bunch.target[part], [photo(name) for name in names])


def _background(photos: list[Image.Image], rng: np.random.Generator) -> Array:
    """A random crop at a random scale, its contrast lowered around a random grey: float [96, 96, 3]."""
    image = photos[rng.integers(len(photos))]
    side = int(rng.uniform(SIZE, min(300, *image.size)))
    left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
    crop = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    pixels = np.asarray(crop, np.float32) / 255
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    lowered: Array = (pixels - pixels.mean()) * rng.uniform(0.3, 0.6) + rng.uniform(0.2, 0.4)
    return lowered


@dataclass(frozen=True)
class Hand:
    """How a glyph is drawn: its height in pixels, width over height, turn and shear, and where ink starts (0 to 1)."""

    size: float
    aspect: float = 1.0
    angle: float = 0.0
    shear: float = 0.0
    threshold: float = 0.3

    @staticmethod
    def draw(rng: np.random.Generator) -> Hand:
        """A hand of its own for each canvas: the digits come from 13 writers only."""
        return Hand(
            size=rng.uniform(28, 40),
            aspect=rng.uniform(0.85, 1.1),
            angle=rng.uniform(-0.15, 0.15),
            shear=rng.uniform(-0.2, 0.2),
            threshold=rng.uniform(0.25, 0.38),
        )


def _stroke(glyph: Array, hand: Hand, centre: tuple[float, float]) -> Array:
    """The small grey glyph, smoothly enlarged at `centre`, as opacity: float [96, 96].

    The enlarged image is blurry; a soft threshold makes it a stroke with an antialiased edge.
    """
    height, width = glyph.shape
    padded = Image.fromarray(np.pad(glyph, 2).astype(np.float32), mode="F")
    cos, sin = np.cos(hand.angle), np.sin(hand.angle)
    turn = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1, hand.shear], [0, 1]])
    # Canvas to glyph, as an affine transform in Pillow reads it.
    matrix = np.diag([1 / hand.aspect, 1]) @ turn * (8 / hand.size)
    offset = np.array([width / 2 + 2, height / 2 + 2]) - matrix @ np.array(centre)
    (a, b), (d, e) = matrix
    coefficients = (a, b, offset[0], d, e, offset[1])
    large = padded.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.clip((np.asarray(large) - hand.threshold) * 2.5, 0, 1)


def _curve(rng: np.random.Generator) -> Array:
    """A short bent line that is no digit, as opacity: float [96, 96]."""
    start = rng.uniform(8, SIZE - 8, 2)
    angle = rng.uniform(0, 2 * np.pi)
    points = [start]
    for _ in range(8):
        points.append(points[-1] + rng.uniform(1.5, 2.5) * np.array([np.cos(angle), np.sin(angle)]))
        angle += rng.uniform(-0.35, 0.35)
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).line([tuple(p) for p in points], fill=255, width=int(rng.integers(3, 6)), joint="curve")
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255


def _fragment(digits: Array, rng: np.random.Generator) -> Array:
    """A quarter of a digit, drawn as a digit is, as opacity: float [96, 96]."""
    row, column = rng.integers(2, size=2) * 4
    quarter = digits[rng.integers(len(digits))][row : row + 4, column : column + 4]
    centre = (rng.uniform(10, SIZE - 10), rng.uniform(10, SIZE - 10))
    return _stroke(quarter, Hand(rng.uniform(28, 38), angle=rng.uniform(0, 2 * np.pi)), centre)


def _colour(rng: np.random.Generator) -> Array:
    """A bright RGB colour, some saturated and some nearly white: float [3]."""
    colour: Array = 1 - rng.uniform(0, 0.75) * rng.random(3)
    return np.asarray(colour / colour.max() * rng.uniform(0.85, 1), np.float32)


def canvas(sources: Sources, index: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """One canvas with digit `index`: uint8 [96, 96, 3] and the digit's mask, bool [96, 96]."""
    pixels = _background(sources.photos, rng)
    hand = Hand.draw(rng)
    margin = hand.size / 2 + 1
    centre = (rng.uniform(margin, SIZE - margin), rng.uniform(margin, SIZE - margin))
    digit = _stroke(sources.digits[index], hand, centre)
    # Distractors give way around the digit: what is to be recognised stays whole.
    halo = Image.fromarray((255 * digit).astype(np.uint8)).filter(ImageFilter.MaxFilter(9))
    clear = 1 - np.asarray(halo, np.float32) / 255
    for _ in range(rng.integers(3, 7)):
        layer = _curve(rng) if rng.random() < 0.4 else _fragment(sources.digits, rng)
        alpha = (layer * clear * rng.uniform(0.7, 1))[..., None]
        pixels = pixels * (1 - alpha) + _colour(rng) * alpha
    alpha = (digit * rng.uniform(0.7, 1))[..., None]
    pixels = pixels * (1 - alpha) + _colour(rng) * alpha
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), digit > 0.5


def draw(sources: Sources, indices: Array, rng: np.random.Generator) -> Canvases:
    """One canvas for each digit index, in that order."""
    drawn = [canvas(sources, int(index), rng) for index in indices]
    images, masks = (np.stack(parts) for parts in zip(*drawn, strict=True))
    return Canvases(images, sources.labels[indices].astype(np.int64), masks)
