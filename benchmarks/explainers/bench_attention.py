"""Methods on attention on a ViT-B/16 against their floor: the bare passes of the same batch, in time and memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import fastsal
from benchmarks.measure import DEVICE, against_floor
from benchmarks.models import vit_b_16
from benchmarks.passes import input_gradients, predictions

IMAGES = 32 if DEVICE == "cuda" else 1
ROUNDS = 15 if DEVICE == "cuda" else 5


@cache
def model() -> nn.Module:
    return vit_b_16(DEVICE)


@pytest.mark.benchmark(group="attention")
@pytest.mark.parametrize("method", ["LeGrad", "AttentionRelevance", "GradientAttention", "GradECLIP"])
def bench_backward(benchmark: Any, method: str) -> None:
    x, explainer = torch.randn(IMAGES, 3, 224, 224, device=DEVICE), getattr(fastsal, method)(model())
    floor = input_gradients(model(), x, 1, IMAGES, 7)
    against_floor(benchmark, lambda: explainer.attribute(x, 7), floor, "1 forward + backward", ROUNDS, memory=True)


@pytest.mark.benchmark(group="attention")
@pytest.mark.parametrize("method", ["RawAttention", "AttentionRollout"])
def bench_forward(benchmark: Any, method: str) -> None:
    """Of the class token, which no gradient has to find."""
    x, explainer = torch.randn(IMAGES, 3, 224, 224, device=DEVICE), getattr(fastsal, method)(model())
    floor = predictions(model(), x, 1, IMAGES)
    against_floor(benchmark, lambda: explainer.attribute(x, queries=0), floor, "1 forward", ROUNDS, memory=True)
