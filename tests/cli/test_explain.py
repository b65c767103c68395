"""`fastsal explain`: what it writes and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastsal import explainers, models
from fastsal.cli import results
from fastsal.explainers.registry import find
from tests.cli.conftest import Command

QUICK = (
    *("-O", "n_masks=50", "-O", "integrated-gradients.n_steps=4", "-O", "layer-integrated-gradients.n_steps=4"),
    *("-O", "shapley-value-sampling.n_samples=1", "-O", "ss-cam.n_samples=2", "-O", "is-cam.n_samples=2"),
)


@pytest.mark.slow
def test_files_and_document(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    methods = list(explainers.methods())
    out = tmp_path / "a" / "b"
    result = fastsal("explain", canvas, "--method", "all", "--out", out, "--json", *QUICK)
    assert (result.code, result.err) == (0, "")
    document = result.document
    assert document["layer"] == "block2"
    (image,) = document["images"]
    assert image["image"] == str(canvas)
    assert image["prediction"]["name"] == "3"
    assert image["prediction"]["probability"] > 0.5
    assert image["target"] == {"index": 3, "name": "3"}
    # No attention, one example, and more than pooling and linear maps behind the layer.
    attentive = {name for name in methods if find(name).reads == "attention"}
    assert set(image["refused"]) == attentive | {"feature-permutation", "layer-feature-permutation", "cam"}
    assert [*image["methods"]] == [name for name in methods if name not in image["refused"]]
    for name, facts in image["methods"].items():
        raw = np.load(facts["map"])
        assert raw.dtype == np.float32
        assert list(raw.shape) == facts["shape"]
        assert raw.shape[1:] == ((12, 12) if find(name).shape == "layer" else (96, 96)), name
        assert np.isfinite(raw).all()
        assert np.ptp(raw) > 0
        assert facts["seconds"] > 0
        with Image.open(facts["overlay"]) as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", (96, 96))
    with Image.open(image["sheet"]) as sheet:
        assert sheet.width > 4 * 224
        assert sheet.height > 2 * 224
    assert len(list(out.iterdir())) == 2 * len(image["methods"]) + 1


def test_the_raw_map_is_the_methods(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    """Grad-CAM written by hand at the layer that is printed gives the file's values."""
    fastsal("explain", canvas, "--out", tmp_path)
    raw = torch.from_numpy(np.load(tmp_path / f"{canvas.stem}.gradcam.npy"))
    loaded = models.load("demo", device="cpu")
    image = loaded.inputs([models.read_image(canvas)])
    model = loaded.model
    features = model.block2(model.block1(model.down2(model.down1(model.stem(image)))))
    score = model.head(model.flatten(model.pool(features)))[0, 3]
    (gradient,) = torch.autograd.grad(score, features)
    cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    cam = torch.nn.functional.interpolate(cam, (96, 96), mode="bilinear", align_corners=False)[0].detach()
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    torch.testing.assert_close(raw, cam, atol=1e-5, rtol=1e-4)


def test_plain_lines_in_a_pipe(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    result = fastsal("explain", canvas, "--method", "gradcam,saliency", "--out", tmp_path)
    assert result.code == 0
    assert result.err == ""
    layer, line = result.out.splitlines()
    assert layer.startswith("layer: block2 [64, 12, 12] (default")
    assert line.startswith(f"{canvas}: 3 (")
    assert line.endswith(f"; {tmp_path / canvas.stem}.sheet.png")
    assert "\r" not in result.out
    assert "gradcam " in line
    assert "saliency " in line


def test_no_layer_is_looked_for_where_none_is_read(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    result = fastsal("explain", canvas, "--method", "saliency", "--out", tmp_path)
    assert "layer:" not in result.out


def test_target_and_layer(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    maps = []
    for number, arguments in enumerate([(), ("--target", "5"), ("--layer", "block1")]):
        out = tmp_path / str(number)
        result = fastsal("explain", canvas, "--out", out, *arguments)
        assert result.code == 0
        maps.append(np.load(out / f"{canvas.stem}.gradcam.npy"))
        assert ("maps of 5" in result.out) == ("--target" in arguments)
        assert ("layer:" in result.out) == ("--layer" not in arguments)
    assert not np.allclose(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2])


def test_options_reach_the_methods_that_take_them(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    def rise(*options: str) -> np.ndarray:
        arguments = [part for option in options for part in ("-O", option)]
        result = fastsal("explain", canvas, "--method", "rise,gradcam", "--out", tmp_path, *arguments)
        assert result.code == 0, result.err
        return np.load(tmp_path / f"{canvas.stem}.rise.npy")

    first = rise("n_masks=40", "seed=1")
    assert np.array_equal(first, rise("rise.n_masks=40", "rise.seed=1"))
    assert not np.allclose(first, rise("n_masks=40", "seed=2"))


def test_batch_size_changes_nothing(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    maps = {}
    for size in ("1", "7"):
        out = tmp_path / size
        fastsal(
            "explain",
            canvas,
            "--method",
            "rise,occlusion,integrated-gradients",
            "--batch-size",
            size,
            "--out",
            out,
            *("-O", "n_masks=50", "-O", "n_steps=4"),
        )
        for file in out.glob("*.npy"):
            maps.setdefault(file.name, []).append(np.load(file))
    assert len(maps) == 3
    for one, seven in maps.values():
        np.testing.assert_allclose(one, seven, atol=1e-5, rtol=1e-3)


def test_half_precision(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    result = fastsal("explain", canvas, "--precision", "bfloat16", "--out", tmp_path, "--json")
    assert result.code == 0, result.err
    assert result.document["precision"] == "bfloat16"
    raw = np.load(tmp_path / f"{canvas.stem}.gradcam.npy")
    assert raw.dtype == np.float32
    assert np.isfinite(raw).all()


def test_images_with_one_stem_keep_their_own_results(fastsal: Command, tmp_path: Path) -> None:
    images = models.demo_images()[:3]
    given = []
    for folder, image in zip(("x", "y", "Z"), images, strict=True):
        (tmp_path / folder).mkdir()
        given.append(tmp_path / folder / ("A.png" if folder == "Z" else "a.png"))
        shutil.copy(image, given[-1])
    result = fastsal("explain", *given, "--out", tmp_path / "out", "--json")
    sheets = [Path(image["sheet"]).name for image in result.document["images"]]
    assert sheets == ["a.sheet.png", "a-2.sheet.png", "A-3.sheet.png"]
    maps = [np.load(image["methods"]["gradcam"]["map"]) for image in result.document["images"]]
    assert not np.allclose(maps[0], maps[1])


def test_unique_stems_step_around_given_numbers() -> None:
    names = results.unique_stems([Path("a.png"), Path("a-2.png"), Path("b/a.jpg"), Path("c/a.jpg")])
    assert names == ["a", "a-2", "a-3", "a-4"]


def test_a_broken_image_does_not_stop_the_others(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(canvas.read_bytes()[:200])
    result = fastsal("explain", broken, canvas, "--out", tmp_path / "out", "--json")
    assert result.code == 1
    assert [image["image"] for image in result.document["images"]] == [str(canvas)]
    assert [error["image"] for error in result.document["errors"]] == [str(broken)]
    assert result.err.count("\n") == 1


def test_a_photograph_of_another_shape(fastsal: Command, tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    models.read_image(models.demo_photos()[0]).resize((300, 120)).save(path)
    assert fastsal("explain", path, "--out", tmp_path).code == 0
    assert np.load(tmp_path / "wide.gradcam.npy").shape == (1, 96, 96)


@pytest.mark.parametrize("alpha", ["0", "1"])
def test_alpha(fastsal: Command, canvas: Path, tmp_path: Path, alpha: str) -> None:
    fastsal("explain", canvas, "--out", tmp_path, "--alpha", alpha)
    with Image.open(tmp_path / f"{canvas.stem}.gradcam.png") as overlay, Image.open(canvas) as image:
        assert np.array_equal(np.asarray(overlay), np.asarray(image)) == (alpha == "0")
