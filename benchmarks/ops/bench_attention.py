"""attention: against the reference, and against the matrices that one would write; ViT-B's and ViT-L's sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import attention

HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SIZES = {"ViT-B": (32, 12, 197, 64), "ViT-L": (32, 16, 1024, 64)} if DEVICE == "cuda" else {"ViT-B": (1, 12, 197, 64)}


def made(size: str, count: int) -> tuple[list[Tensor], int, int]:
    """(tensors [B, H, N, D], bytes of one, bytes of one number for each query)."""
    shape = SIZES[size]
    tensors = [torch.randn(shape, device=DEVICE, dtype=HALF) for _ in range(count)]
    return tensors, tensors[0].nbytes, 4 * tensors[0][..., 0].numel()


def facts(benchmark: Any, size: str, products: int) -> None:
    """Multiply-adds of the N x N x D products, twice, beside the bytes."""
    batch, heads, count, width = SIZES[size]
    benchmark.extra_info["flops"] = 2 * products * batch * heads * count * count * width


@pytest.mark.benchmark(group="attention.gradient_received")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def bench_gradient_received(benchmark: Any, way: str, size: str) -> None:
    (g, v), tensor, row = made(size, 2)
    facts(benchmark, size, 1)
    bench(
        benchmark,
        way,
        lambda: attention.gradient_received(g, v),
        lambda: (g @ v.mT).relu().mean(2),
        2 * tensor + row,
    )


@pytest.mark.benchmark(group="attention.received")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def bench_received(benchmark: Any, way: str, size: str) -> None:
    """With its log-sum-exp."""
    (q, k), tensor, row = made(size, 2)
    facts(benchmark, size, 2)
    scale = q.shape[-1] ** -0.5
    bench(
        benchmark,
        way,
        lambda: attention.received(q, k),
        lambda: (q @ k.mT * scale).softmax(-1).mean(2),
        4 * tensor + 3 * row,
    )


@pytest.mark.benchmark(group="attention.relevance")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def bench_relevance(benchmark: Any, way: str, size: str) -> None:
    """With its log-sum-exp."""
    (q, k, v, g), tensor, row = made(size, 4)
    facts(benchmark, size, 3)
    scale = q.shape[-1] ** -0.5
    bench(
        benchmark,
        way,
        lambda: attention.relevance(q, k, v, g),
        lambda: ((q @ k.mT * scale).softmax(-1) * (g @ v.mT)).relu().mean(2),
        6 * tensor + 3 * row,
    )
