"""How explanations run on the device: without waits, within memory, prepared, incremental, beside predictions."""

from __future__ import annotations

import gc
import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.registry import find
from tests.explainers.networks import image, small
from tests.gpu.networks import explained, moved, same
from tools import launches

ROOT = Path(__file__).resolve().parents[2]


def without_waits() -> list[str]:
    """Methods whose row in the table of launches has no waits."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (ROOT / "docs/launches.md").read_text(), re.MULTILINE)
    columns = {name: [each.strip() for each in rest.split("|")] for name, rest in rows}
    return [name for name, each in columns.items() if not each[3] and not each[4]]


@pytest.mark.parametrize("method", without_waits())
def test_the_host_does_not_wait(method: str, device: torch.device) -> None:
    """A warm call with an int target, by the driver's own check of what synchronises."""
    ruled = launches.ruled([]).to(device).eval()
    explainer = launches.made(find(method), ruled, "1")
    x = torch.rand(2 if "permutation" in method else 1, 3, *launches.SIZE, device=device)
    options = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in launches.options(explainer, launches.ITEMS).items()
    }
    if {"target", "kwargs"} & set(inspect.signature(explainer.attribute).parameters):
        options["target"] = 1
    for _ in range(2):
        explainer.attribute(x, **options)
    if device.type != "cuda":
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        explainer.attribute(x, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def little_memory(cuda: torch.device) -> Iterator[int]:
    """Bytes that this process may hold on the device: 400 MB beyond what it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    allowed = torch.cuda.memory_reserved() + 400 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    yield allowed
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_sweep_that_does_not_fit_is_halved(little_memory: int, cuda: torch.device) -> None:
    wide = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, x = moved(nn.Sequential(wide, nn.Linear(256, 4)).eval(), image(batch=1, size=64), cuda)
    expected = fastsal.RISE(model).attribute(x, 1, n_masks=256, perturbations_per_eval=8)
    before = torch.cuda.memory_allocated()
    explainer = fastsal.RISE(model)
    found = explainer.attribute(x, 1, n_masks=256, perturbations_per_eval=256)  # 256 x 256 channels x 64 x 65 floats
    assert explainer.plan().sweeps[0].retried > 0
    same((found,), (expected,), 1e-4)
    del found
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


@pytest.mark.parametrize("tf32", [False, True])
def test_prepare_folds_under_both_arithmetics(tf32: bool, device: torch.device) -> None:
    model, x = moved(small(), image(batch=2, size=32), device)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        fast = fastsal.prepare(model, x, memory_format="channels_last", probe_seconds=0)
        done = {step.name: step for step in fast.steps}
        assert done["batch norm"].done, str(done["batch norm"])
        assert done["memory format"].done, str(done["memory format"])
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=0, atol=5e-3 * float(model(x).abs().max()))
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("tf32", [False, True])
def test_incremental_occlusion_is_the_plain_one(tf32: bool, device: torch.device) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.ReLU()) for c in (3, 8, 8)]
            self.body, self.head = nn.Sequential(*layers), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.body(x).mean((2, 3)))
            return scores

    torch.manual_seed(0)
    model, x = moved(Deep().eval(), image(batch=1, size=32), device)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        options: dict[str, Any] = {"sliding_window_shapes": (3, 5, 5), "strides": (3, 3, 3), "target": 1}
        plain = fastsal.Occlusion(model).attribute(x, **options, incremental=False)
        found = fastsal.Occlusion(model).attribute(x, **options, incremental=True)
        # Of differences of scores: TF32 keeps ten bits of a product's factors.
        same((found,), (plain,), 5e-2 if tf32 else 1e-4)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_threads_that_predict_and_explain(device: torch.device) -> None:
    """Each result is what one thread alone gets, to the bit where the device's libraries are deterministic."""
    model, x = moved(small(dtype=torch.float64), image(batch=2, size=16, dtype=torch.float64), device)
    methods = ("grad-cam", "saliency", "integrated-gradients", "rise")
    with torch.no_grad():
        predicted = model(x)
    expected = {method: explained(method, model, x) for method in methods}
    wrong: list[str] = []

    def explain(method: str) -> None:
        for _ in range(10):
            if any(
                float((a - b).abs().max()) > 1e-10
                for a, b in zip(explained(method, model, x), expected[method], strict=True)
            ):
                wrong.append(method)

    def predict() -> None:
        for _ in range(50):
            with torch.no_grad():
                if float((model(x) - predicted).abs().max()) > 1e-12:
                    wrong.append("a prediction")

    threads = [threading.Thread(target=explain, args=(method,)) for method in methods]
    threads += [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_on_another_stream(cuda: torch.device) -> None:
    model, x = moved(small(dtype=torch.float64), image(batch=2, size=16, dtype=torch.float64), cuda)
    expected = {method: explained(method, model, x) for method in ("grad-cam", "integrated-gradients", "rise")}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = {method: explained(method, model, x) for method in expected}
    stream.synchronize()
    for method, maps in found.items():
        same(maps, expected[method], 1e-12)


def test_an_offset_input_takes_kernels_that_are_right(device: torch.device) -> None:
    """Of a pointer that is not aligned to 16 bytes, after one that is: the launch cache tells them apart."""
    model = small().to(device)
    flat = torch.randn(1 + 3 * 16 * 16, device=device)
    aligned, offset = flat[:-1].view(1, 3, 16, 16), flat[1:].view(1, 3, 16, 16)
    for x in (aligned, offset, aligned):
        same(explained("rise", model, x), explained("rise", model, x.clone()), 1e-5)
