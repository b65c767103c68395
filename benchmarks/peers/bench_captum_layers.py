"""Methods at a layer and of a neuron side by side with Captum, in one process, in turn; the memory of conductance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, against_peer, peak_bytes
from benchmarks.models import small_cnn
from benchmarks.passes import input_gradients
from fastsal.engine.run import ChunkSizes

captum = pytest.importorskip("captum.attr", reason="captum is not installed")
TARGET, STEPS, ROUNDS = 7, 50, 9
SIZES = (8, 32, 64) if DEVICE == "cpu" else (16, 64, 256)
NEURON = (3, 2, 2)


@cache
def network() -> nn.Module:
    return small_cnn(DEVICE)


def layer() -> nn.Module:
    """The convolution in the middle."""
    found = [part for part in network().modules() if isinstance(part, nn.Conv2d)]
    return found[len(found) // 2]


def image(side: int = 64) -> Tensor:
    return torch.randn(1, 3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


def conductance(package: Any, size: int | None, side: int = 64) -> Any:
    explainer = package.LayerConductance(network(), layer())
    return explainer.attribute(image(side), target=TARGET, n_steps=STEPS, internal_batch_size=size)


def neuron(package: Any, size: int | None) -> Any:
    explainer = package.NeuronIntegratedGradients(network(), layer())
    return explainer.attribute(image(), NEURON, n_steps=STEPS, internal_batch_size=size)


def shap(package: Any, _size: int | None) -> Any:
    explainer = package.LayerGradientShap(network(), layer())
    return explainer.attribute(image(), torch.zeros_like(image()), n_samples=STEPS, target=TARGET)


METHODS: dict[str, tuple[Callable[[Any, int | None], Any], bool]] = {
    "LayerConductance": (conductance, True),
    "NeuronIntegratedGradients": (neuron, True),
    "LayerGradientShap": (shap, False),
}
"""Each with whether Captum has a batch size for it."""


@pytest.mark.benchmark(group="layers and neurons")
@pytest.mark.parametrize("name", METHODS)
def bench_layers(benchmark: Any, name: str) -> None:
    explain, batched = METHODS[name]
    x = image()
    rows = ChunkSizes(STEPS, 1, 2 * x.numel() * x.element_size(), x.device).size
    best = (lambda size: lambda: explain(captum, size)) if batched else None
    against_peer(
        benchmark,
        lambda: explain(fastsal, None),
        lambda: explain(captum, None),
        best,
        input_gradients(network(), x, STEPS, rows, TARGET),
        ROUNDS,
        SIZES,
    )


@pytest.mark.benchmark(group="memory of LayerConductance")
def bench_memory(benchmark: Any) -> None:
    ours = peak_bytes(lambda: conductance(fastsal, None, 192))
    theirs = peak_bytes(lambda: conductance(captum, None, 192))
    benchmark.extra_info.update(ours_bytes=ours, captum_bytes=theirs, ratio=ours / theirs)
    benchmark.pedantic(lambda: conductance(fastsal, None, 192), rounds=1)
    assert ours <= theirs / 5
