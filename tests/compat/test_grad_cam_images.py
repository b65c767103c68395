"""fastsal.compat.grad_cam.utils.image: OpenCV's colours and pytorch-grad-cam's blending, without OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from fastsal.compat.grad_cam.utils import image as helpers
from fastsal.compat.grad_cam.utils.image import show_cam_on_image

# Of cv2.applyColorMap(level, cv2.COLORMAP_JET).
JET_BGR = {
    0: (128, 0, 0),
    1: (132, 0, 0),
    31: (252, 0, 0),
    32: (255, 0, 0),
    33: (255, 4, 0),
    95: (255, 252, 0),
    96: (254, 255, 2),
    97: (250, 255, 6),
    127: (130, 255, 126),
    128: (126, 255, 130),
    159: (1, 255, 254),
    160: (0, 252, 255),
    223: (0, 0, 255),
    224: (0, 0, 252),
    255: (0, 0, 128),
}


def levels() -> np.ndarray:
    """Masks whose level is each number once."""
    return ((np.arange(256) + 0.5) / 255)[None]


def test_jet() -> None:
    # Each level's own row, so that the brightest value is that level's.
    for level, color in JET_BGR.items():
        found = show_cam_on_image(np.zeros((1, 1, 3)), levels()[:, level : level + 1], image_weight=0)
        stretched = np.float32(color) / max(color)
        assert np.abs(found[0, 0] - 255 * stretched).max() < 1
    # Levels 32 to 223 have a full channel, so that nothing is stretched there.
    table = show_cam_on_image(np.zeros((1, 256, 3)), levels(), image_weight=0)[0].astype(int)
    assert all(np.abs(table[level] - color).max() <= 1 for level, color in JET_BGR.items())


def test_jet_as_opencv_has_it() -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv-python is not installed")
    expected = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET)[0, :, ::-1]
    np.testing.assert_array_equal(helpers._jet(), expected)


@pytest.mark.parametrize("use_rgb", [False, True])
def test_blending(use_rgb: bool) -> None:
    generator = np.random.default_rng(0)
    picture, mask = generator.random((5, 6, 3)), generator.random((5, 6))
    heat = helpers._jet()[np.uint8(255 * mask)]
    heat = np.float32(heat if use_rgb else heat[..., ::-1]) / 255
    blended = 0.3 * heat + 0.7 * picture
    found = show_cam_on_image(picture, mask, use_rgb=use_rgb, image_weight=0.7)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.uint8(255 * (blended / blended.max())))


def test_refusals() -> None:
    picture, mask = np.ones((2, 2, 3)), np.ones((2, 2))
    with pytest.raises(ValueError, match="img: its largest value is 255"):
        show_cam_on_image(255 * picture, mask)
    with pytest.raises(ValueError, match="image_weight: 2 "):
        show_cam_on_image(picture, mask, image_weight=2)
    assert not show_cam_on_image(0 * picture, mask, image_weight=1).any()


def test_another_colormap_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(
        ImportError, match=r"colormap: 16 needs OpenCV; COLORMAP_JET, 2, does not: .*pip install opencv"
    ):
        show_cam_on_image(np.ones((2, 2, 3)), np.ones((2, 2)), colormap=16)


def test_preprocess() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    expected = ((np.float32(picture) / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]
    found = helpers.preprocess_image(picture, mean=mean, std=std)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        helpers.preprocess_image(np.float32(picture) / 255).numpy(),
        (np.float32(picture) / 255 * 2 - 1).transpose(2, 0, 1)[None],
        rtol=1e-5,
        atol=1e-6,
    )


def test_deprocess() -> None:
    values = np.random.default_rng(0).standard_normal((6, 5, 3))
    expected = np.clip((values - values.mean()) / (values.std() + 1e-5) * 0.1 + 0.5, 0, 1)
    np.testing.assert_array_equal(helpers.deprocess_image(values), np.uint8(expected * 255))


def test_scaling() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, 4))
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose(helpers.scale_cam_image(maps), (maps - low) / (1e-7 + high - low), rtol=1e-6)
    assert helpers.scale_cam_image(maps, (8, 6)).shape == (2, 6, 8)
    channels = helpers.scale_accross_batch_and_channels(maps[:, None].repeat(2, 1), (8, 6))
    np.testing.assert_array_equal(channels[:, 1], helpers.scale_cam_image(maps, (8, 6)))
    volume = np.random.default_rng(0).random((1, 3, 4, 5))
    scaled = (volume - volume.min()) / (1e-7 + volume.max() - volume.min())
    found = helpers.scale_cam_image(volume, (10, 8, 6))
    np.testing.assert_allclose(found[0], zoom(np.float32(scaled[0]), (2, 2, 2)), rtol=1e-5, atol=1e-6)


def test_volumes_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match="SciPy is not installed; it resizes the maps of volumes"):
        helpers.scale_cam_image(np.ones((1, 2, 2, 2)), (4, 4, 4))
