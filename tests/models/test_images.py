"""Image files of every kind become upright 8-bit RGB, and broken ones a clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsal.models import read_image

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = saved(Image.fromarray(np.dstack([RAMP] * 3)), tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], np.rot90(RAMP, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB", "YCbCr"])
def test_modes(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(np.dstack([RAMP] * 3)).convert(mode)
    read = read_image(saved(image, tmp_path / f"a.{suffix}"))
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    assert np.asarray(read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"))).tolist() == [
        [[10, 20, 30]] * 2,
        [[255, 255, 255]] * 2,
    ]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 50, 60, 70])
    palette.putdata([0, 1])
    path = saved(palette, tmp_path / "b.png", transparency=0)
    assert np.asarray(read_image(path)).tolist() == [[[255, 255, 255], [50, 60, 70]]]
    grey = Image.fromarray(np.dstack([RAMP, np.full_like(RAMP, 255)]), "LA")
    assert np.array_equal(np.asarray(read_image(saved(grey, tmp_path / "c.png")))[..., 1], RAMP)


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    path = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(path))[..., 0], RAMP)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point_tiff(tmp_path: Path, scale: float) -> None:
    path = saved(Image.fromarray((RAMP / 255 * scale).astype(np.float32)), tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_image(path))[..., 0], RAMP)


def test_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.png is not an image that Pillow can read"):
        read_image(path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="not an image"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "bmp"])
def test_damaged_files_never_escape_as_another_error(tmp_path: Path, suffix: str) -> None:
    """Cut short, and with bytes overwritten, at many places: an image or a ValueError that names the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(pixels), tmp_path / f"a.{suffix}").read_bytes()
    path = tmp_path / f"b.{suffix}"
    rng = np.random.default_rng(1)
    messages = []
    for trial in range(60):
        if trial % 2:
            data = whole[: int(rng.integers(1, len(whole)))]
        else:
            changed = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 200), 6):
                changed[place] = int(rng.integers(256))
            data = bytes(changed)
        path.write_bytes(data)
        try:
            mode = read_image(path).mode
        except ValueError as error:
            messages.append(str(error))
        else:
            assert mode == "RGB"
    assert len(messages) > 5
    assert all(f"b.{suffix}" in message for message in messages)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("L", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(ValueError, match=r"a\.png has more than 0 million pixels"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)  # Pillow warns, but the image is read
    assert read_image(path).size == (100, 100)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)
