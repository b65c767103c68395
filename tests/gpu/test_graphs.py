"""Captured explanations on the device: right after others used the memory, after changes, and from several streams."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import image, small
from tests.gpu.networks import moved, same

CAPTURED: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "grad-cam": (lambda m: fastsal.GradCAM(m, "last"), {}),
    "eigen-cam": (lambda m: fastsal.EigenCAM(m, "last"), {}),
    "layer-cam": (lambda m: fastsal.LayerCAM(m, "last"), {}),
    "saliency": (fastsal.Saliency, {}),
    "smooth-grad": (fastsal.SmoothGrad, {"n_samples": 6, "seed": 0}),
    "integrated-gradients": (fastsal.IntegratedGradients, {"n_steps": 6}),
    "occlusion": (fastsal.Occlusion, {"sliding_window_shapes": (3, 4, 4), "incremental": False}),
    "rise": (fastsal.RISE, {"n_masks": 12}),
}
EXACT = 1e-9


def given(device: torch.device, seed: int = 1) -> tuple[nn.Module, Tensor]:
    return moved(small(dtype=torch.float64), image(batch=2, size=16, seed=seed, dtype=torch.float64), device)


def empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@pytest.mark.parametrize("name", CAPTURED)
def test_other_inputs_after_the_caches_were_turned_over(name: str, device: torch.device) -> None:
    make, options = CAPTURED[name]
    model, x = given(device)
    target = None if name == "eigen-cam" else 0
    compiled = fastsal.compile(make(model), x, target, **options)
    if device.type == "cuda":
        assert compiled.step.done, compiled.step.detail
    for seed in range(9):  # designs, regressions and quadratures of others
        fastsal.RISE(model).attribute(x, 1, n_masks=10, seed=seed)
        fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=3 + 2 * seed)
    fastsal.clear_caches()
    empty(device)
    held = [torch.full((2**16,), torch.nan, device=device) for _ in range(64)]  # where freed memory was
    for seed in (2, 3):
        other = image(batch=2, size=16, seed=seed, dtype=torch.float64).to(device)
        asked = None if target is None else seed % 4
        expected = make(model).attribute(other, target=asked, **options)
        same((compiled(other, asked).attribution,), (expected,), EXACT)
    del held


def test_a_capture_that_fails_leaves_the_process_well(cuda: torch.device) -> None:
    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.inner(x)
            return scores if float(scores.sum()) > 0 else scores * 1.0

    model, x = Waits().to(cuda), image().to(cuda)
    stream = torch.cuda.current_stream()
    compiled = fastsal.compile(fastsal.Saliency(model), x, 0)
    assert not compiled.step.done
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # dies where a capture was left under way
    same((compiled(x, 1).attribution,), (fastsal.Saliency(model).attribute(x, 1),), 1e-5)
    other = fastsal.compile(fastsal.GradCAM(small().to(cuda), "last"), x, 0)
    assert other.step.done, other.step.detail


@pytest.mark.parametrize("change", ["in place", "data", "assign"])
def test_weights_that_change_between_calls(change: str, device: torch.device) -> None:
    model, x = given(device)
    compiled = fastsal.compile(fastsal.GradCAM(model, "last"), x, 0)
    compiled(x, 1)
    weight: Any = model.get_submodule("head").weight
    if change == "in place":
        with torch.no_grad():
            weight.mul_(-2)
    elif change == "data":
        weight.data = -2 * weight.data
    else:
        scaled = {key: -2 * value if "norm" not in key else value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(scaled, assign=True)
    empty(device)
    same((compiled(x, 1).attribution,), (fastsal.GradCAM(model, "last").attribute(x, 1),), EXACT)


def test_streams_and_threads(device: torch.device) -> None:
    model, _ = given(device)
    inputs = [image(batch=2, size=16, seed=seed, dtype=torch.float64).to(device) for seed in range(4)]
    compiled = fastsal.compile(fastsal.GradCAM(model, "last"), inputs[0], 0)
    expected = [fastsal.GradCAM(model, "last").attribute(x, 1) for x in inputs]
    wrong: list[float] = []

    def work(index: int) -> None:
        stream = torch.cuda.Stream() if device.type == "cuda" else None
        with torch.cuda.stream(stream):
            for call in range(100):
                place = (index + call) % len(inputs)
                found = compiled(inputs[place], 1).attribution
                apart = float((found - expected[place]).abs().max())
                if not apart <= EXACT:
                    wrong.append(apart)

    if device.type == "cuda":
        torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_on_a_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("no second CUDA device")
    for index in (0, 1):
        model, x = given(torch.device("cuda", index))
        compiled = fastsal.compile(fastsal.GradCAM(model, "last"), x, 0)
        assert compiled.step.done, compiled.step.detail
        other = image(batch=2, size=16, seed=5, dtype=torch.float64).to(x.device)
        same((compiled(other, 1).attribution,), (fastsal.GradCAM(model, "last").attribute(other, 1),), EXACT)
