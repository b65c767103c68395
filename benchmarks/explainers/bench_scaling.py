"""Cost along masks, windows, steps, image size, batch and targets: linear, or better."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, growth
from benchmarks.models import resnet18

GPU = DEVICE == "cuda"


@cache
def model() -> nn.Module:
    return resnet18(DEVICE)


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


def rise(x: Tensor, count: int, target: Any = 7) -> Callable[[], Any]:
    explainer = fastsal.RISE(model())
    return lambda: explainer.attribute(x, target, n_masks=count)


@pytest.mark.benchmark(group="RISE, masks")
def bench_masks(benchmark: Any) -> None:
    x = images(1, 64)
    growth(benchmark, "masks", {count: rise(x, count) for count in (16, 64, 256, 1024)})


@pytest.mark.benchmark(group="Occlusion, windows")
def bench_windows(benchmark: Any) -> None:
    x, explainer = images(1, 64), fastsal.Occlusion(model())

    def occlude(side: int) -> Callable[[], Any]:
        width = 64 // side
        return lambda: explainer.attribute(x, (3, width, width), (3, width, width), target=7, incremental=False)

    growth(benchmark, "windows", {side * side: occlude(side) for side in (4, 8, 16, 32)})


@pytest.mark.benchmark(group="Integrated Gradients, steps")
def bench_steps(benchmark: Any) -> None:
    x, explainer = images(1, 64), fastsal.IntegratedGradients(model())
    growth(
        benchmark,
        "steps",
        {count: (lambda n=count: explainer.attribute(x, target=7, n_steps=n)) for count in (8, 32, 128, 512)},  # type: ignore[misc]
    )


@pytest.mark.benchmark(group="RISE, pixels of the image")
def bench_side(benchmark: Any) -> None:
    growth(benchmark, "pixels", {side**2: rise(images(1, side), 8) for side in (64, 128, 256, 512, 1024)})


@pytest.mark.benchmark(group="GradCAM, pixels of the image")
def bench_side_of_cam(benchmark: Any) -> None:
    explainer = fastsal.GradCAM(model(), "stages")

    def explain(side: int) -> Callable[[], Any]:
        x = images(1, side)
        return lambda: explainer.attribute(x, 7)

    growth(benchmark, "pixels", {side**2: explain(side) for side in (64, 128, 256, 512, 1024)})


@pytest.mark.benchmark(group="RISE, images in a batch")
def bench_batch(benchmark: Any) -> None:
    growth(benchmark, "images", {batch: rise(images(batch, 64), 16) for batch in (1, 4, 16, 64)})


@pytest.mark.benchmark(group="GradCAM, images in a batch")
def bench_batch_of_cam(benchmark: Any) -> None:
    explainer = fastsal.GradCAM(model(), "stages")

    def explain(batch: int) -> Callable[[], Any]:
        x = images(batch, 64)
        return lambda: explainer.attribute(x, 7)

    growth(benchmark, "images", {batch: explain(batch) for batch in (1, 4, 16, 64)})


@pytest.mark.benchmark(group="RISE, targets")
def bench_targets(benchmark: Any) -> None:
    """From the same passes: the first 10, 100 and all 1000 outputs."""
    x = images(1, 64)

    def explain(count: int) -> Callable[[], Any]:
        explainer = fastsal.RISE(lambda batch: model()(batch)[:, :count])
        return lambda: explainer.attribute(x, None if count > 1 else 0, n_masks=256)

    growth(benchmark, "targets", {count: explain(count) for count in (1, 10, 100, 1000)})


@pytest.mark.benchmark(group="GradCAM, targets")
def bench_targets_of_cam(benchmark: Any) -> None:
    x, explainer = images(1, 64), fastsal.GradCAM(model(), "stages")
    growth(
        benchmark,
        "targets",
        {
            count: (lambda n=count: explainer.attribute(x, targets=list(range(n))))  # type: ignore[misc]
            for count in (1, 10, 100, 1000)
        },
    )
