"""What lower precision costs a map: rank correlation with the float32 map, on the built-in model.

Spearman's correlation of the pixels of each map (attributions summed over channels in magnitude), over held-out
canvases; mean and least.

    python -m tools.precision [--canvases 32]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastsal
from fastsal import models

PRECISIONS = ("bfloat16", "float16")
Explain = Callable[[Any, Tensor, Tensor], Tensor]
METHODS: dict[str, Explain] = {
    "gradcam": lambda model, x, t: fastsal.GradCAM(model).attribute(x, t),
    "saliency": lambda model, x, t: fastsal.Saliency(model).attribute(x, t),
    "integrated-gradients": lambda model, x, t: fastsal.IntegratedGradients(model).attribute(x, target=t),
    "smoothgrad": lambda model, x, t: fastsal.SmoothGrad(model).attribute(x, t),
    "occlusion": lambda model, x, t: fastsal.Occlusion(_softmax(model)).attribute(x, (3, 12, 12), (3, 6, 6), target=t),
    "rise": lambda model, x, t: fastsal.RISE(_softmax(model)).attribute(x, t, n_masks=1000),
}


def _softmax(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x).softmax(1)


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension, equal values sharing their mean rank."""
    ordered, order = values.sort(-1)
    found = torch.empty_like(values, dtype=torch.float64)
    for row in range(values.shape[0]):
        _, inverse, counts = ordered[row].unique_consecutive(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).double()
        shared = ends - (counts.double() - 1) / 2
        found[row, order[row]] = shared[inverse]
    return found


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of each row of [B, n]."""
    return torch.stack([torch.corrcoef(pair)[0, 1] for pair in torch.stack([ranks(first), ranks(second)], 1)])


def measure(canvases: int) -> list[tuple[str, str, float, float]]:
    """(method, precision, mean, least)."""
    model, data = models.demo(), models.demo_canvases()
    images, labels = data.images[:canvases], data.labels[:canvases]
    rows = []
    for name, explain in METHODS.items():
        expected = explain(model, images, labels).abs().sum(1).flatten(1)
        for precision in PRECISIONS:
            fast = fastsal.prepare(model, images[:8], precision=precision, probe_seconds=0)
            found = explain(fast, images, labels).float().abs().sum(1).flatten(1)
            correlation = rank_correlation(expected, found)
            rows.append((name, precision, float(correlation.mean()), float(correlation.min())))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--canvases", type=int, default=32)
    options = parser.parse_args()
    print("| method | precision | rank correlation, mean | least |\n|---|---|---|---|")
    for name, precision, mean, least in measure(options.canvases):
        print(f"| {name} | {precision} | {mean:.4f} | {least:.4f} |", flush=True)


if __name__ == "__main__":
    main()
