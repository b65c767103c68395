"""The built-in model and its canvases, as they are committed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastsal import models
from fastsal.models.demo_net import DemoNet, Residual


def test_the_committed_data_is_small(root: Path) -> None:
    files = list((root / "fastsal" / "models" / "data").iterdir())
    assert sum(file.stat().st_size for file in files) < 3_000_000
    assert (root / "fastsal" / "models" / "data" / "demo.safetensors").stat().st_size < 900_000


def test_canvases() -> None:
    canvases = models.demo_canvases()
    count = len(canvases)
    assert count >= 100
    assert canvases.images.shape == (count, 3, 96, 96)
    assert canvases.images.dtype == torch.float32
    assert canvases.images.min() >= 0
    assert canvases.images.max() <= 1
    assert canvases.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert canvases.masks.shape == (count, 96, 96)
    assert canvases.masks.flatten(1).any(1).all()


def test_boxes_hold_the_masks_tightly() -> None:
    canvases = models.demo_canvases(10)
    boxes = canvases.box_masks()
    assert not (canvases.masks & ~boxes).any()
    for mask, (left, top, right, bottom) in zip(canvases.masks, canvases.boxes.tolist(), strict=True):
        assert mask[top].any()
        assert mask[bottom - 1].any()
        assert mask[:, left].any()
        assert mask[:, right - 1].any()
    assert boxes[0].sum() == (canvases.boxes[0, 2] - canvases.boxes[0, 0]) * (
        canvases.boxes[0, 3] - canvases.boxes[0, 1]
    )


def test_count_is_checked() -> None:
    assert len(models.demo_canvases(7)) == 7
    for count in (0, 10_000):
        with pytest.raises(ValueError, match="count must be between 1 and"):
            models.demo_canvases(count)


def test_the_model_is_as_accurate_as_its_metadata_says() -> None:
    facts = models.demo_facts()
    assert float(facts["accuracy"]) >= 0.965
    assert {"seed", "steps", "date", "parameters", "torch"} <= facts.keys()
    canvases = models.demo_canvases()
    model = models.demo()
    assert not model.training
    with torch.no_grad():
        right = model(canvases.images).argmax(1) == canvases.labels
    # One canvas may fall the other way where rounding differs.
    assert abs(right.float().mean().item() - float(facts["accuracy_packaged"])) < 1.5 / len(canvases)


def test_the_architecture_is_what_explainers_need() -> None:
    model = models.demo()
    count = sum(p.numel() for p in model.parameters())
    assert 100_000 <= count <= 200_000
    assert str(count) == models.demo_facts()["parameters"]
    assert any(isinstance(module, Residual) for module in model.modules())
    with torch.no_grad():
        x = model.stem(torch.rand(1, 3, 96, 96))
        assert model.block2(model.block1(model.down2(model.down1(x)))).shape[2:] == (12, 12)


def test_every_call_gives_a_model_of_its_own() -> None:
    first, second = models.demo(), models.demo()
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.abs().sum() > 0


def test_an_untrained_model_cannot_do_it() -> None:
    """What the accuracy above is worth: chance is one in ten."""
    canvases = models.demo_canvases()
    with torch.no_grad():
        right = DemoNet().eval()(canvases.images).argmax(1) == canvases.labels
    assert right.float().mean() < 0.3


def test_single_files() -> None:
    canvases = models.demo_canvases(6)
    files = models.demo_images()
    preprocess = models.load("demo", device="cpu").preprocess
    assert len(files) == 6
    for index, file in enumerate(files):
        with Image.open(file) as image:
            pixels = preprocess(image.convert("RGB"))
        torch.testing.assert_close(pixels, canvases.images[index])
    for photo in models.demo_photos():
        assert models.read_image(photo).size == (256, 256)


@pytest.mark.slow
def test_held_out_canvases_come_from_the_script(root: Path) -> None:
    """The committed canvases are what tools/train_demo.py draws, from digits and photographs unseen in training."""
    pytest.importorskip("sklearn")
    pytest.importorskip("skimage")
    import numpy as np

    from tools import demo_data, train_demo

    held_out, training = demo_data.sources(held_out=True), demo_data.sources(held_out=False)
    assert not set(demo_data.HELD_OUT_PHOTOS) & set(demo_data.TRAIN_PHOTOS)
    assert len(held_out.labels) + len(training.labels) == 1797
    drawn = train_demo.shared_out(held_out, 11, np.random.default_rng(train_demo.SEED + 2))
    canvases = models.demo_canvases()
    assert drawn.labels.tolist() == canvases.labels.tolist()
    # Another Pillow may round a resampled pixel the other way.
    difference = (train_demo.to_float(drawn.images) - canvases.images).abs() * 255
    assert difference.mean() < 0.1
    assert (torch.from_numpy(drawn.masks) != canvases.masks).float().mean() < 1e-3
