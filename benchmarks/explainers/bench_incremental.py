"""Incremental occlusion beside the plain sweep over the same prepared model, and Captum's at its best batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.explainers.bench_prepared import MODELS, SIZES, network
from benchmarks.measure import DEVICE, rounds, spread, timed

AUTO = 'incremental="auto"'
ROWS = 32
"""Rows per call of both ways."""
CASES = [
    ("mobilenetv2", 224, 16, 8),
    ("resnet50", 224, 16, 8),
    ("resnet50", 224, 32, 16),
    ("vgg16", 224, 16, 8),
    ("convnext-t", 224, 16, 8),
    ("vit-b/16", 224, 32, 32),
    ("resnet50", 448, 16, 16),
    ("vgg16", 448, 16, 16),
]
MOST_SECONDS = 30 if DEVICE == "cpu" else 600
"""A plain sweep or Captum's that would take longer is timed on its first rows, and its time multiplied."""


@cache
def prepared(name: str, side: int) -> fastsal.Prepared:
    return fastsal.prepare(network(name), torch.randn(1, 3, side, side, device=DEVICE))


def seconds_of_all(way: Any, count: int, rows: int, model: nn.Module, x: Tensor) -> tuple[float, bool]:
    """Of a sweep, or of bare passes over as many rows, which is less, where that takes too long; and which it was."""
    batch = x.repeat(rows, 1, 1, 1)
    with torch.no_grad():
        model(batch)
        passes = min(timed(lambda: model(batch)) for _ in range(2)) / rows * count
    return (passes, True) if passes > MOST_SECONDS else (timed(way), False)


@pytest.mark.benchmark(group="Occlusion, incremental")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def bench_incremental(benchmark: Any, case: tuple[str, int, int, int]) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    name, side, window, stride = case
    assert name in MODELS
    x = torch.randn(1, 3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    model = prepared(name, side)
    explainer, theirs = fastsal.Occlusion(model), captum.Occlusion(network(name))
    geometry: dict[str, Any] = {
        "sliding_window_shapes": (3, window, window),
        "strides": (3, stride, stride),
        "target": 7,
    }
    count = (-(-(side - window) // stride) + 1) ** 2

    def quick() -> Any:
        return explainer.attribute(x, **geometry)

    first = timed(quick)  # with a trace, where there is one
    seconds = {AUTO: [timed(quick)]}
    how = str(explainer.plan().sweeps[-1])

    def plain(rows: int | None) -> Any:
        return lambda: explainer.attribute(x, **geometry, incremental=False, perturbations_per_eval=rows)

    # Sixteen windows choose Captum's batch.
    few = (3, -(-side // 4), -(-side // 4))
    best = min(
        SIZES, key=lambda size: timed(lambda: theirs.attribute(x, few, few, target=7, perturbations_per_eval=size))
    )
    rows = model.rows or ROWS

    def captums() -> Any:
        return theirs.attribute(x, **geometry, perturbations_per_eval=best)

    others = {
        f"plain sweep, {ROWS} rows": (plain(ROWS), ROWS, model),
        f"plain sweep, {rows} rows, its best": (plain(None), rows, model),
        f"Captum at its best ({best} per eval)": (captums, best, network(name)),
    }
    scaled = set()
    for way, (run, size, of) in others.items():
        spent, passes = seconds_of_all(run, count, size, of, x)
        seconds[way] = [spent]
        if passes:
            scaled.add(way)
    if not scaled:  # all are short: in turn, twice more
        for way, more in rounds({AUTO: quick} | {way: run for way, (run, _, _) in others.items()}, 2).items():
            seconds[way] += more
    benchmark.extra_info.update(
        case=f"{name}, {side} x {side}, window {window}, stride {stride}, {count} positions",
        how=f"{how}; the first call {first:.1f} s",
        ways=[
            spread(way + (" (bare passes of some rows, multiplied)" if way in scaled else ""), each, seconds[AUTO])
            for way, each in seconds.items()
        ],
    )
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
