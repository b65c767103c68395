"""From a picture to a model's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastsal.models import Preprocess


def image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_normalisation() -> None:
    picture = image(8, 6)
    given = Preprocess((8, 6), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), crop=1.0)
    expected = (torch.from_numpy(np.array(picture)) / 255 - torch.tensor(given.mean)) / torch.tensor(given.std)
    torch.testing.assert_close(given(picture), expected.permute(2, 0, 1))
    assert given(picture).is_contiguous()


def test_one_number_serves_every_channel() -> None:
    picture = image(4, 4)
    one, three = Preprocess((4, 4), (0.5,), (0.2,), 1.0), Preprocess((4, 4), (0.5,) * 3, (0.2,) * 3, 1.0)
    assert torch.equal(one(picture), three(picture))


@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 300), (100, 100)])
def test_resize_and_centre_crop(height: int, width: int) -> None:
    """The same as resizing the shorter side to size / crop and cutting out the middle, but for rounding."""
    original = image(height, width).resize((width, height)).convert("RGB")
    smooth = Image.fromarray(np.asarray(original.resize((12, 12))).copy()).resize((width, height))
    side = 256
    scale = side / min(height, width)
    large = smooth.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (large.width - 224) // 2, (large.height - 224) // 2
    expected = np.asarray(large.crop((left, top, left + 224, top + 224))).astype(int)
    found = np.asarray(Preprocess(crop=224 / 256).picture(smooth)).astype(int)
    assert np.abs(found - expected).mean() < 1.5


def test_whole_square_without_resizing_is_untouched() -> None:
    picture = image(96, 96)
    assert np.array_equal(np.asarray(Preprocess((96, 96), crop=1.0).picture(picture)), np.asarray(picture))


def test_squash_shows_everything() -> None:
    picture = image(30, 90)
    expected = picture.resize((20, 20), Image.Resampling.BICUBIC)
    found = Preprocess((20, 20), squash=True, interpolation="bicubic").picture(picture)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 4)}, "size must be two positive"),
        ({"mean": (0.1, 0.2)}, "one or three"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"crop": 0.0}, "crop must be above 0"),
        ({"interpolation": "cubist"}, "interpolation must be one of nearest"),
    ],
)
def test_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**changes)
