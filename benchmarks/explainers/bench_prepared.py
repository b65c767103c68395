"""Sweeps over prepared models, over plain ones, Captum's at its best batch, and the prepared model's bare passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, in_turn, timed
from benchmarks.models import convnext_t, mobilenet_v2, resnet50, vgg16, vit_b_16
from benchmarks.published import rise as published_rise

MODELS = {
    "resnet50": resnet50,
    "vgg16": vgg16,
    "mobilenetv2": mobilenet_v2,
    "convnext-t": convnext_t,
    "vit-b/16": vit_b_16,
}
# Windows per side.
SIDE = {"resnet50": 7} if DEVICE == "cpu" else {}
LOCAL = ("resnet50",)
SIZES = (4, 8, 16) if DEVICE == "cpu" else (16, 64, 256)
MASKS = 48 if DEVICE == "cpu" else 1024
REPEATS = 5
each_model = pytest.mark.parametrize("model", MODELS)


@cache
def network(name: str) -> nn.Module:
    return MODELS[name](DEVICE)


def image() -> Tensor:
    return torch.randn(1, 3, 224, 224, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))


@cache
def prepared(name: str, precision: str | None = None) -> fastsal.Prepared:
    return fastsal.prepare(network(name), image(), precision=precision)


def bare(model: nn.Module, x: Tensor, explainer: Any, clean: bool) -> Callable[[], None]:
    """The passes of an explainer's last attribution."""
    (swept,) = explainer.plan().sweeps
    batches = [x.repeat(size, 1, 1, 1) for size in ((1, *swept.sizes) if clean else swept.sizes)]

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    return run


def steps(name: str) -> dict[str, Any]:
    return {"prepared": [str(step) for step in prepared(name).steps]}


@pytest.mark.benchmark(group="Occlusion")
@each_model
def bench_occlusion(benchmark: Any, model: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    x, side = image(), 224 // SIDE.get(model, 4 if DEVICE == "cpu" else 16)
    geometry: dict[str, Any] = {"sliding_window_shapes": (3, side, side), "strides": (3, side, side), "target": 7}

    def ours(network_: nn.Module, **options: Any) -> Callable[[], Any]:
        explainer = fastsal.Occlusion(network_)
        return lambda: explainer.attribute(x, **geometry, **options)

    def captums(size: int) -> Callable[[], Any]:
        explainer = captum.Occlusion(network(model))
        return lambda: explainer.attribute(x, **geometry, perturbations_per_eval=size)

    best = min(SIZES, key=lambda size: timed(captums(size)))
    explainer = fastsal.Occlusion(prepared(model))
    explainer.attribute(x, **geometry, incremental=False)
    ways = {
        "prepared": ours(prepared(model), incremental=False),
        "bare passes of the prepared model": bare(prepared(model), x, explainer, clean=True),
        **({"prepared, incremental": ours(prepared(model), incremental=True)} if model in LOCAL else {}),
        "prepared, bfloat16": ours(prepared(model, "bfloat16"), incremental=False),
        "plain model": ours(network(model), incremental=False),
        f"Captum at its best ({best} per eval)": captums(best),
    }
    facts = {"case": f"{model}, {(224 // side) ** 2} windows", **steps(model)}
    in_turn(benchmark, ways, REPEATS, facts, memory=True)


@pytest.mark.benchmark(group="RISE")
@pytest.mark.parametrize("model", ["resnet50"])
def bench_rise(benchmark: Any, model: str) -> None:
    x = image()
    explainer = fastsal.RISE(prepared(model))

    def ours(explainer: fastsal.RISE) -> Callable[[], Any]:
        return lambda: explainer.attribute(x, 7, n_masks=MASKS)

    ours(explainer)()
    best = min(SIZES, key=lambda size: timed(lambda: published_rise(network(model), x, size, 7, 0.5, size)))
    ways = {
        "prepared": ours(explainer),
        "bare passes of the prepared model": bare(prepared(model), x, explainer, clean=False),
        "prepared, bfloat16": ours(fastsal.RISE(prepared(model, "bfloat16"))),
        "plain model": ours(fastsal.RISE(network(model))),
        f"as published, in PyTorch ({best} per batch)": lambda: published_rise(network(model), x, MASKS, 7, 0.5, best),
    }
    in_turn(benchmark, ways, REPEATS, {"case": f"{model}, {MASKS} masks", **steps(model)}, memory=True)


@pytest.mark.benchmark(group="IntegratedGradients")
@pytest.mark.parametrize("model", ["resnet50", "vit-b/16"])
def bench_integrated_gradients(benchmark: Any, model: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    x, count = image(), 16 if DEVICE == "cpu" else 128

    def explain(explainer: Any, **options: Any) -> Callable[[], Any]:
        return lambda: explainer.attribute(x, target=7, n_steps=count, **options)

    def captums(size: int) -> Callable[[], Any]:
        return explain(captum.IntegratedGradients(network(model)), internal_batch_size=size)

    best = min(SIZES, key=lambda size: timed(captums(size)))
    ways = {
        "prepared": explain(fastsal.IntegratedGradients(prepared(model))),
        "prepared, bfloat16": explain(fastsal.IntegratedGradients(prepared(model, "bfloat16"))),
        "plain model": explain(fastsal.IntegratedGradients(network(model))),
        f"Captum at its best ({best} per batch)": captums(best),
    }
    in_turn(benchmark, ways, REPEATS, {"case": f"{model}, {count} steps", **steps(model)}, memory=True)


@pytest.mark.benchmark(group="GradCAM")
@pytest.mark.parametrize("model", ["resnet50"])
def bench_gradcam(benchmark: Any, model: str) -> None:
    """Compiled too: on a GPU one graph; elsewhere what the call itself adds."""
    x, fast = image(), prepared(model)

    def predict(network_: nn.Module) -> Callable[[], Any]:
        def run() -> None:
            with torch.inference_mode():
                network_(x)

        return run

    explainer, quick = fastsal.GradCAM(network(model), "stages"), fastsal.GradCAM(fast, "stages")
    ways = {
        "plain inference": predict(network(model)),
        "GradCAM": lambda: explainer.attribute(x, 7),
        "inference of the prepared model": predict(fast),
        "GradCAM, prepared": lambda: quick.attribute(x, 7),
        "GradCAM, prepared and compiled": _of(fastsal.compile(quick, x, 7), x),
        **_packages(network(model), x),
    }
    in_turn(benchmark, ways, 15, {"case": f"{model}, batch 1", **steps(model)}, memory=True)


def _of(compiled: fastsal.Compiled, x: Tensor) -> Callable[[], Any]:
    return lambda: compiled(x, 7)


def _packages(model: Any, x: Tensor) -> dict[str, Callable[[], Any]]:
    """The usual packages' GradCAM, resized to the input, where they can be imported."""
    found: dict[str, Callable[[], Any]] = {}
    try:
        from torchcam.methods import GradCAM as TorchCam
    except ImportError:
        pass
    else:

        def torchcam() -> None:
            with TorchCam(model, "stages") as extractor:
                maps = extractor([7], model(x))
                torch.nn.functional.interpolate(maps[0][:, None], x.shape[2:], mode="bilinear")

        found["torchcam"] = torchcam
    try:
        from pytorch_grad_cam import GradCAM as PytorchGradCam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        pass
    else:
        theirs = PytorchGradCam(model=model, target_layers=[model.stages])
        found["pytorch-grad-cam"] = lambda: theirs(input_tensor=x, targets=[ClassifierOutputTarget(7)])
    return found
