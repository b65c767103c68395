"""Passes and memory: no needless model pass, and no memory that grows with the number of steps, windows or masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import PeakBytes, image, small


class Counted(nn.Module):
    """Counts the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("run", "rows"),
    [
        (lambda m, x: fastsal.Saliency(m).attribute(x, target=1), 2),
        (lambda m, x: fastsal.GuidedBackprop(m).attribute(x, target=1), 2),
        (lambda m, x: fastsal.GradCAM(m, "inner.last").attribute(x, target=1), 2),
        (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, target=1, n_steps=9), 2 * 9),
        (
            lambda m, x: fastsal.IntegratedGradients(m).attribute(
                x, target=1, n_steps=9, return_convergence_delta=True
            ),
            22,
        ),
        (lambda m, x: fastsal.Occlusion(m).attribute(x, (3, 4, 4), (3, 2, 2), target=1), 2 * (3 * 4 + 1)),
        (lambda m, x: fastsal.RISE(m).attribute(x, target=1, n_masks=33), 2 * 33),
        (lambda m, x: fastsal.explain(m, x, "gradcam", layer="inner.last"), 2),
        (lambda m, x: fastsal.explain(m, x, ["gradcam", "saliency"], layer="inner.last"), 4),
        # The prediction is the pass whose gradient is taken.
        (lambda m, x: fastsal.explain(m, x, "saliency"), 2),
    ],
)
def test_no_needless_pass(run: Callable[..., Any], rows: int) -> None:
    model, first = Counted(), 0
    for _ in range(3):
        model.calls.clear()
        run(model, image(batch=2))
        first = first or sum(model.calls)
        assert rows == sum(model.calls) or first == sum(model.calls)
    assert sum(model.calls) == rows
    # What the rows of a batch have to do with each other is looked for once: in three calls of four copies, and in
    # one of the last copy of a chunk.
    assert first in (rows, rows + 4 * 2, rows + 5 * 2)


def test_finding_the_default_layer_takes_one_row_once() -> None:
    model = Counted()
    explainer = fastsal.GradCAM(model)
    for _ in range(3):
        explainer.attribute(image(batch=4), target=1)
    assert model.calls == [1, 4, 4, 4]


@pytest.mark.parametrize("name", ["rise", "occlusion", "ig"])
def test_peak_memory_does_not_grow_with_the_number(name: str) -> None:
    """By what is allocated, not by the clock; the model is small against one batch of inputs."""
    x = torch.rand(1, 3, 32, 64)

    def model(batch: Tensor) -> Tensor:
        return batch.square().flatten(1).mean(1)

    def run(count: int) -> None:
        if name == "rise":
            fastsal.RISE(model).attribute(x, n_masks=count, perturbations_per_eval=8)
        elif name == "ig":
            fastsal.IntegratedGradients(model).attribute(x, n_steps=count, internal_batch_size=8)
        else:
            window = (3, 512 // count, 4)  # 8 or 64 columns of windows times 8 rows
            fastsal.Occlusion(model).attribute(x, window, (3, 4, 512 // count // 8), perturbations_per_eval=8)

    def occlude(stride: int) -> None:
        fastsal.Occlusion(model).attribute(x, (3, 4, 8), (3, 4, stride), perturbations_per_eval=8)

    peaks = []
    for step in (
        (lambda: occlude(8), lambda: occlude(1)) if name == "occlusion" else (lambda: run(64), lambda: run(512))
    ):
        step()  # what is cached once
        with PeakBytes() as memory:
            step()
        peaks.append(memory.peak)
    # A score a window, and a position and a weight a step: 4 to 24 bytes each, 100 times less than one input.
    assert peaks[1] - peaks[0] <= 512 * 24
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[0] > 8 * x.numel() * 4


def test_gradcam_needs_the_memory_of_a_plain_pass() -> None:
    model = nn.Sequential(
        *[nn.Sequential(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.Tanh()) for i in range(12)]
    )
    model.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))).eval()
    x = image(size=32)
    with PeakBytes() as plain, torch.no_grad():
        model(x)
    with PeakBytes() as tapped:
        fastsal.GradCAM(model, "11").attribute(x, target=1)
    with PeakBytes() as whole:
        fastsal.Saliency(model).attribute(x, target=1)
    assert tapped.peak < 3 * plain.peak
    assert whole.peak > 4 * plain.peak
