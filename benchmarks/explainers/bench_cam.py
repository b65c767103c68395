"""Class activation maps on networks of true size, against plain predictions and against torchcam."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, against_floor
from benchmarks.models import resnet18, resnet50, vit_b_16
from benchmarks.passes import predictions

# Network and layer.
MODELS = {"resnet50": (resnet50, "stages"), "vit-b/16": (vit_b_16, "blocks.11.norm_attention")}
each_model = pytest.mark.parametrize("name", MODELS)
each_batch = pytest.mark.parametrize("batch", [1, 8])


@cache
def network(name: str) -> nn.Module:
    return MODELS[name][0](DEVICE)


def images(batch: int, size: int = 224) -> Tensor:
    return torch.randn(batch, 3, size, size, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


def plain(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


@pytest.mark.benchmark(group="gradcam")
@each_batch
@each_model
def bench_gradcam(benchmark: Any, name: str, batch: int) -> None:
    model, layer, x = network(name), MODELS[name][1], images(batch)
    explainer = fastsal.GradCAM(model, layer)
    against_floor(
        benchmark, lambda: explainer.attribute(x, 7), plain(model, x), f"{name}, {batch} forward", 15, memory=True
    )


@pytest.mark.benchmark(group="gradcam, torchcam's")
@each_batch
@each_model
def bench_torchcam(benchmark: Any, name: str, batch: int) -> None:
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    if name != "resnet50":
        pytest.skip("torchcam has no grid for tokens without a transform of the user's")
    model, layer, x = network(name), MODELS[name][1], images(batch)

    def explain() -> None:
        with torchcam.GradCAM(model, layer) as extractor:
            scores = model(x)
            maps = extractor([7] * batch, scores)
            torch.nn.functional.interpolate(maps[0][:, None], x.shape[2:], mode="bilinear")

    against_floor(benchmark, explain, plain(model, x), f"{name}, {batch} forward", 15, memory=True)


@pytest.mark.benchmark(group="gradcam, 10 targets")
@each_model
def bench_many_targets(benchmark: Any, name: str) -> None:
    explainer, x = fastsal.GradCAM(network(name), MODELS[name][1]), images(1)
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, targets=list(range(10))),
        lambda: explainer.attribute(x, 7),
        f"{name}, gradcam of 1 target",
        15,
    )


@pytest.mark.benchmark(group="ablationcam")
@pytest.mark.parametrize("layer", ["stages", "stages.3.0"])
def bench_ablationcam(benchmark: Any, layer: str) -> None:
    """Behind ``stages`` all is affine; behind the block before the last, that block runs for each of 512 channels."""
    model: Any = resnet18(DEVICE)
    x = images(1, 128)
    explainer = fastsal.AblationCAM(model, layer)
    if layer == "stages":
        against_floor(benchmark, lambda: explainer.attribute(x, 7), plain(model, x), "resnet18, 1 forward", 15)
        return
    tail = nn.Sequential(model.stages[3][1], model.pool, nn.Flatten(), model.head)
    values = torch.randn(32, 512, 4, 4, device=DEVICE)

    def floor() -> None:
        with torch.inference_mode():
            model(x)
            for _ in range(16):
                tail(values)

    against_floor(benchmark, lambda: explainer.attribute(x, 7), floor, "resnet18, 1 forward, 512 of the tail", 9)


@pytest.mark.benchmark(group="scorecam")
def bench_scorecam(benchmark: Any) -> None:
    model, x = resnet18(DEVICE), images(1, 128)
    explainer = fastsal.ScoreCAM(model, "stages")
    against_floor(
        benchmark, lambda: explainer.attribute(x, 7), predictions(model, x, 512, 32), "resnet18, 512 + 1 forward", 3
    )
