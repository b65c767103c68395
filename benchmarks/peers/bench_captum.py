"""Side by side with Captum: the same model, settings and threads, in one process, in turn; and the bare passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, against_peer
from benchmarks.models import resnet18, small_cnn
from benchmarks.passes import input_gradients, predictions
from fastsal.engine.run import ChunkSizes

captum = pytest.importorskip("captum.attr", reason="captum is not installed")

# Network, size of the image, rounds.
MODELS = {"cnn 64": (small_cnn, 64, 15), "resnet18 224": (resnet18, 224, 3)}
SIZES = (8, 32, 64) if DEVICE == "cpu" else (16, 64, 256)
TARGET = 7
each_model = pytest.mark.parametrize("model", MODELS)


@cache
def network(name: str) -> nn.Module:
    return MODELS[name][0](DEVICE)


def image(name: str) -> Tensor:
    side = MODELS[name][1]
    return torch.randn(1, 3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


def rows(x: Tensor, count: int, bytes_per_row: int = 1) -> int:
    """The batch that fastsal would choose, which the bare passes get too."""
    return ChunkSizes(count, 1, bytes_per_row * x.numel() * x.element_size(), x.device).size


def segments(x: Tensor) -> Tensor:
    """50 features: a grid of 5 by 10."""
    row, column = (torch.arange(x.shape[-1], device=DEVICE) * count // x.shape[-1] for count in (5, 10))
    return (10 * row[:, None] + column)[None, None]


def compare(benchmark: Any, name: str, explain: Callable[..., Any], floor: Callable[[], Any], batched: bool) -> None:
    """``explain(package, perturbations_per_eval)`` with ours, and with Captum's defaults and best."""
    best = (lambda size: lambda: explain(captum, size)) if batched else None
    against_peer(
        benchmark,
        lambda: explain(fastsal, None),
        lambda: explain(captum, 1),
        best,
        floor,
        MODELS[name][2],
        SIZES,
    )


def forward_floor(name: str, x: Tensor, count: int) -> Callable[[], None]:
    one, many = predictions(network(name), x, 1, 1), predictions(network(name), x, count, rows(x, count))

    def run() -> None:
        one()
        many()

    return run


@pytest.mark.benchmark(group="Occlusion")
@each_model
def bench_occlusion(benchmark: Any, model: str) -> None:
    x = image(model)
    side = x.shape[-1] // 8

    def explain(package: Any, size: int | None) -> Any:
        return package.Occlusion(network(model)).attribute(
            x, (3, 2 * side, 2 * side), (3, side, side), target=TARGET, perturbations_per_eval=size
        )

    compare(benchmark, model, explain, forward_floor(model, x, 49), True)


@pytest.mark.benchmark(group="IntegratedGradients")
@each_model
def bench_integrated_gradients(benchmark: Any, model: str) -> None:
    x = image(model)

    def explain(package: Any, _: int | None) -> Any:
        return package.IntegratedGradients(network(model)).attribute(x, target=TARGET, n_steps=50)

    compare(benchmark, model, explain, input_gradients(network(model), x, 50, rows(x, 50, 2), TARGET), False)


@pytest.mark.benchmark(group="NoiseTunnel(Saliency)")
@each_model
def bench_noise_tunnel(benchmark: Any, model: str) -> None:
    x = image(model)

    def explain(package: Any, _: int | None) -> Any:
        tunnel = package.NoiseTunnel(package.Saliency(network(model)))
        return tunnel.attribute(x, nt_samples=50, stdevs=0.1, target=TARGET)

    compare(benchmark, model, explain, input_gradients(network(model), x, 50, rows(x, 50, 2), TARGET), False)


@pytest.mark.benchmark(group="FeatureAblation")
@each_model
def bench_feature_ablation(benchmark: Any, model: str) -> None:
    x = image(model)
    mask = segments(x)

    def explain(package: Any, size: int | None) -> Any:
        explainer = package.FeatureAblation(network(model))
        return explainer.attribute(x, target=TARGET, feature_mask=mask, perturbations_per_eval=size)

    compare(benchmark, model, explain, forward_floor(model, x, 50), True)


@pytest.mark.benchmark(group="KernelShap")
@each_model
def bench_kernel_shap(benchmark: Any, model: str) -> None:
    x = image(model)
    mask = segments(x)

    def explain(package: Any, size: int | None) -> Any:
        explainer = package.KernelShap(network(model))
        return explainer.attribute(x, target=TARGET, feature_mask=mask, n_samples=200, perturbations_per_eval=size)

    compare(benchmark, model, explain, predictions(network(model), x, 200, rows(x, 200)), True)
