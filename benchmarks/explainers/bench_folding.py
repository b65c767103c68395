"""What folding is worth where norm and activation are one module, and whether preparing a detector slows it down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, in_turn

ROWS = 8 if DEVICE == "cpu" else 64
REPEATS = 15
SIDE = 160
"""Of images for detectors, which enlarge them to their own sizes unless told."""
DETECTORS = {
    "retinanet": ("retinanet_resnet50_fpn", {"min_size": SIDE, "max_size": SIDE}),
    "fcos": ("fcos_resnet50_fpn", {"min_size": SIDE, "max_size": SIDE}),
    "fasterrcnn": ("fasterrcnn_mobilenet_v3_large_320_fpn", {"min_size": SIDE, "max_size": SIDE}),
    "ssdlite": ("ssdlite320_mobilenet_v3_large", {}),
}


def lively(model: nn.Module) -> nn.Module:
    """Statistics of batch norms near those of trained ones, so that values stay in range."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval().to(DEVICE)


def image(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


def passes(model: nn.Module, rows: Tensor) -> Callable[[], Any]:
    def run() -> None:
        with torch.no_grad():
            model(rows)

    return run


def steps(prepared: fastsal.Prepared) -> list[str]:
    return [str(step) for step in prepared.steps]


@pytest.mark.benchmark(group="Folding")
@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_large_100"])
def bench_folding(benchmark: Any, name: str) -> None:
    """Bare passes of the same replica, in the same memory format, with and without."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model, x = lively(timm.create_model(name)), image(224)
    folded = fastsal.prepare(model, x, probe_seconds=0)
    plain = fastsal.prepare(model, x, probe_seconds=0, fold_batch_norm=False)
    rows = x.repeat(ROWS, 1, 1, 1)
    ways = {"folded": passes(folded, rows), "not folded": passes(plain, rows), "plain model": passes(model, rows)}
    in_turn(benchmark, ways, REPEATS, {"case": f"{name}, {ROWS} rows", "prepared": steps(folded)})


@pytest.mark.benchmark(group="Detectors")
@pytest.mark.parametrize("name", DETECTORS)
def bench_detectors(benchmark: Any, name: str) -> None:
    """Occlusion of the highest score, each model at the rows per call that it gets."""
    detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    torch.manual_seed(0)
    kind, options = DETECTORS[name]
    model = lively(getattr(detection, kind)(weights=None, weights_backbone=None, num_classes=5, **options))
    x = image(SIDE)
    best = [lambda objects: objects["scores"].sum()]

    def occlude(network: nn.Module) -> Callable[[], Any]:
        explainer = fastsal.Occlusion(network)
        side = SIDE // 4
        return lambda: explainer.attribute(x, (3, side, side), (3, side, side), target=best)

    prepared = fastsal.prepare(model, x)
    ways = {"prepared": occlude(prepared), "plain model": occlude(model)}
    in_turn(benchmark, ways, 7, {"case": f"{name}, 16 windows", "prepared": steps(prepared)})
