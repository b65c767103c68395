"""fastsal-run against the Python explainer: equal numbers, and one line for what does not fit.

python test_run.py PATH-OF-FASTSAL-RUN FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastsal
from tests.deploy.packages import altered

PROGRAM, FOLDER = sys.argv[1], Path(sys.argv[2])


def run(*words: object, status: int = 0) -> str:
    """What it prints, on standard output or, where it refuses, its one line."""
    ran = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == status, (words, ran.returncode, ran.stderr)
    if status:
        assert ran.stderr.startswith("fastsal-run: "), ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert not ran.stdout, ran.stdout
    return ran.stderr if status else ran.stdout


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 4)
    ).double()


def saved(array: Tensor, name: str) -> Path:
    path = FOLDER / name
    np.save(path, array.numpy())
    return path


def maps_are_pythons() -> Path:
    model = network().eval()
    explainers: dict[str, tuple[Any, dict[str, Any]]] = {
        "saliency": (fastsal.Saliency(model), {}),
        "input_x_gradient": (fastsal.InputXGradient(model), {}),
        "integrated_gradients": (fastsal.IntegratedGradients(model), {"n_steps": 4}),
        "smooth_grad": (fastsal.SmoothGrad(model), {"n_samples": 3}),
        "occlusion": (fastsal.Occlusion(model), {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}),
        "layer_cam": (fastsal.LayerCAM(model, "1"), {}),
        "gradcam": (fastsal.GradCAM(model, "1"), {}),
        "rise": (fastsal.RISE(model), {"n_masks": 32, "grid_size": 3}),
    }
    for name, (explainer, options) in explainers.items():
        path = Path(
            fastsal.export(
                explainer, torch.zeros(2, 3, 8, 10).double(), FOLDER / f"{name}.pt2", dynamic_batch=4, **options
            )
        )
        for batch, target in ((1, None), (3, 2)):
            x = torch.randn(batch, 3, 8, 10, dtype=torch.float64)
            words = [] if target is None else ["--target", target]
            told = json.loads(run(path, saved(x, "input.npy"), "--map", FOLDER / "map.npy", *words))
            chosen = model(x).argmax(1) if target is None else target
            expected = explainer.attribute(x, target=chosen, **options)
            np.testing.assert_allclose(np.load(FOLDER / "map.npy"), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
            classes = torch.as_tensor(chosen).expand(batch)
            assert told["target"] == classes.tolist()
            scores = model(x).gather(1, classes[:, None])[:, 0]
            np.testing.assert_allclose(told["score"], scores.detach().numpy(), rtol=1e-7)
            assert told["map_shape"] == list(expected.shape)
    return FOLDER / "gradcam.pt2"


def images_and_bench(package: Path) -> None:
    pixels = torch.randint(0, 256, (8, 10, 3), dtype=torch.uint8)
    (FOLDER / "image.ppm").write_bytes(b"P6\n# a comment\n10 8\n255\n" + pixels.numpy().tobytes())
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]).double(), torch.tensor([0.2, 0.3, 0.25]).double()
    x = ((pixels.double() / 255 - mean) / deviation).permute(2, 0, 1)[None]
    words = ("--mean", "0.4,0.5,0.6", "--std", "0.2,0.3,0.25", "--map", FOLDER / "map.pgm", "--bench", 20)
    told = json.loads(run(package, FOLDER / "image.ppm", "--threads", 1, *words))
    # The image is read as float32, whose rounding is 6e-8 of a value.
    np.testing.assert_allclose(told["score"], network().eval()(x).amax(1).detach().numpy(), rtol=1e-5)
    assert told["runs"] == 20
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert (FOLDER / "map.pgm").read_bytes().startswith(b"P5\n10 8\n255\n")


def refusals(package: Path) -> None:
    good = saved(torch.zeros(1, 3, 8, 10).double(), "good.npy")
    for path, words in (
        (FOLDER / "none.pt2", "there is no file"),
        (altered(package, FOLDER, torch="2.1.0"), "was made with torch 2.1.0"),
    ):
        assert words in run(path, good, status=2), words
    for changes, words in (
        ({"fastsal_format": "7"}, "has format 7"),
        ({"input_dtype": "int4"}, "takes int4"),
    ):
        assert words in run(altered(package, FOLDER, **changes), good, status=2), words
    if not torch.cuda.is_available():
        assert "is for a CUDA device" in run(altered(package, FOLDER, device="cuda"), good, status=2)
    content = package.read_bytes()
    cut = FOLDER / "cut.pt2"
    cut.write_bytes(content[: len(content) // 2])
    assert "is damaged" in run(cut, good, status=2)
    for array, words in (
        (torch.zeros(1, 3, 8, 10), "input: Float, the package takes Double"),
        (torch.zeros(1, 3, 8, 9).double(), "shape [1, 3, 8, 9], the package takes [1 to 4, 3, 8, 10]"),
        (torch.zeros(5, 3, 8, 10).double(), "shape [5, 3, 8, 10]"),
    ):
        assert words in run(package, saved(array, "bad.npy"), status=2), words
    (FOLDER / "cut.npy").write_bytes(good.read_bytes()[:200])
    (FOLDER / "image.jpg").write_bytes(b"")
    refused: tuple[tuple[tuple[object, ...], str], ...] = (
        ((package, FOLDER / "cut.npy"), "is truncated"),
        ((package, FOLDER / "image.jpg"), "is neither .npy, .ppm nor .pgm"),
        ((package, good, "--target", "4"), "--target: 4 is not below"),
        ((package, good, "--target", "a"), "--target: a is not a number"),
        ((package, good, "--mean", "1,2,3"), "they are for images"),
        ((package, good, "--map", FOLDER / "map.png"), "is neither .npy nor .pgm"),
        ((package, good, "--speed", "1"), "--speed: no such option"),
        ((package,), "a package and an input are needed"),
    )
    for arguments, told in refused:
        assert told in run(*arguments, status=2), told
    assert "usage" in run("--help")
    assert fastsal.__version__ in run("--version")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = maps_are_pythons()
    images_and_bench(made)
    refusals(made)
    print("as in Python")
