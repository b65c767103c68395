"""Every explainer on a ResNet-50 against its floor: the model passes that it needs, run bare at the same batch size."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, against_floor
from benchmarks.models import resnet50
from benchmarks.passes import input_gradients, predictions

ITEMS = 256 if DEVICE == "cuda" else 16
ROWS = 64 if DEVICE == "cuda" else 8


@cache
def model() -> nn.Module:
    return resnet50(DEVICE)


def image() -> Tensor:
    return torch.randn(1, 3, 224, 224, device=DEVICE)


@pytest.mark.benchmark(group="gradcam")
def bench_gradcam(benchmark: Any) -> None:
    x, explainer = image(), fastsal.GradCAM(model(), "stages")
    against_floor(benchmark, lambda: explainer.attribute(x, 7), predictions(model(), x, 1, ROWS), "1 forward", 25)


@pytest.mark.benchmark(group="saliency")
def bench_saliency(benchmark: Any) -> None:
    x, explainer = image(), fastsal.Saliency(model())
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, 7),
        input_gradients(model(), x, 1, ROWS, 7),
        "1 forward + backward",
        15,
    )


@pytest.mark.benchmark(group="guided-backprop")
def bench_guided_backprop(benchmark: Any) -> None:
    x, explainer = image(), fastsal.GuidedBackprop(model())
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, 7),
        input_gradients(model(), x, 1, ROWS, 7),
        "1 forward + backward",
        15,
    )


@pytest.mark.benchmark(group="deconvolution")
def bench_deconvolution(benchmark: Any) -> None:
    x, explainer = image(), fastsal.Deconvolution(model())
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, 7),
        input_gradients(model(), x, 1, ROWS, 7),
        "1 forward + backward",
        15,
    )


@pytest.mark.benchmark(group="integrated-gradients")
def bench_integrated_gradients(benchmark: Any) -> None:
    x, explainer = image(), fastsal.IntegratedGradients(model())
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, target=7, n_steps=ITEMS, internal_batch_size=ROWS),
        input_gradients(model(), x, ITEMS, ROWS, 7),
        f"{ITEMS} forward + backward",
    )


@pytest.mark.benchmark(group="occlusion")
def bench_occlusion(benchmark: Any) -> None:
    side = 224 // int(ITEMS**0.5)
    x, explainer = image(), fastsal.Occlusion(model())
    bare, clean = predictions(model(), x, ITEMS, ROWS), predictions(model(), x, 1, ROWS)

    def floor() -> None:
        clean()
        bare()

    against_floor(
        benchmark,
        lambda: explainer.attribute(x, (3, side, side), (3, side, side), target=7, perturbations_per_eval=ROWS),
        floor,
        f"{ITEMS} + 1 forward",
    )


@pytest.mark.benchmark(group="rise")
def bench_rise(benchmark: Any) -> None:
    x, explainer = image(), fastsal.RISE(model())
    against_floor(
        benchmark,
        lambda: explainer.attribute(x, 7, n_masks=ITEMS, perturbations_per_eval=ROWS),
        predictions(model(), x, ITEMS, ROWS),
        f"{ITEMS} forward",
    )
