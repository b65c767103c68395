"""Stage 6: explanations of a ResNet-50 on the card, beside the bare passes of the same batches and Captum's own.

Grad-CAM is timed eager, of a prepared model and compiled, beside a prediction eager and as a graph.
"""

from __future__ import annotations

import importlib.util
import statistics
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import rounds
from benchmarks.models import resnet50, small_cnn
from benchmarks.passes import input_gradients, predictions
from tools.gpu_check.rows import Rows, describe
from tools.gpu_check.stage import Limit
from tools.gpu_check.timed import kernels_of, peak_bytes, seconds_of

RESERVE = 10.0
"""Seconds that one method may take."""
ROUNDS = 5
CAPTUM_ROWS = (16, 64, 256)
"""Batches of which Captum's fastest counts."""


class Sizes(NamedTuple):
    """Of the sweeps: image, rows a pass, items."""

    side: int
    rows: int
    masks: int
    window: int
    stride: int
    steps: int


FULL, TINY = Sizes(224, 256, 4000, 32, 7, 50), Sizes(32, 4, 8, 8, 8, 4)


class Case(NamedTuple):
    """A method.

    Attributes:
        name: for people.
        work: a call.
        floor: the bare passes that it cannot do without, in the same batches; None where there is nothing to say.
        passes: what these are.
        captum: Captum's calls, by rows a pass.
    """

    name: str
    work: Callable[[], Any]
    floor: Callable[[], Any] | None
    passes: str
    captum: dict[int, Callable[[], Any]]


def cases(model: nn.Module, layer: str, x: Tensor, sizes: Sizes) -> Iterator[Callable[[], Case]]:
    """Makers of the cases, those of most interest first: one that fails leaves the others."""
    yield lambda: _grad_cam(model, layer, x)
    yield lambda: _grad_cam_prepared(model, layer, x)
    yield lambda: _grad_cam_compiled(model, layer, x)
    yield lambda: _saliency(model, x)
    yield lambda: _rise(model, x, sizes)
    yield lambda: _integrated_gradients(model, x, sizes)
    yield lambda: _smooth_grad(model, x, sizes)
    for incremental in ("auto", False, True):
        yield partial(_occlusion, model, x, sizes, incremental)
    yield lambda: _rise(fastsal.prepare(model, x.expand(8, -1, -1, -1), probe_seconds=2), x, sizes, ", prepared")
    yield lambda: _score_cam(model, layer, x, sizes)


def _grad_cam(model: nn.Module, layer: str, x: Tensor) -> Case:
    explainer = fastsal.GradCAM(model, layer)
    return Case("Grad-CAM", lambda: explainer.attribute(x, 7), predictions(model, x, 1, 1), "1 forward", {})


def _grad_cam_prepared(model: nn.Module, layer: str, x: Tensor) -> Case:
    fast = fastsal.prepare(model, x)
    explainer = fastsal.GradCAM(fast, layer)
    return Case(
        "Grad-CAM, prepared", lambda: explainer.attribute(x, 7), predictions(model, x, 1, 1), "1 forward, plain", {}
    )


def _grad_cam_compiled(model: nn.Module, layer: str, x: Tensor) -> Case:
    compiled = fastsal.compile(fastsal.GradCAM(model, layer), x, 7)
    if x.is_cuda and not compiled.step.done:
        raise RuntimeError(f"not captured: {compiled.step.detail}")
    floor = predictions(model, x, 1, 1)
    if x.is_cuda:
        floor = _graph_of(model, x)
    return Case("Grad-CAM, compiled", lambda: compiled(x, 7), floor, "1 forward as a graph", {})


def _graph_of(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """A prediction as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        kept = model(x)

    def replay() -> Tensor:
        graph.replay()
        return kept  # type: ignore[no-any-return]

    return replay


def _saliency(model: nn.Module, x: Tensor) -> Case:
    explainer = fastsal.Saliency(model)
    return Case(
        "Saliency", lambda: explainer.attribute(x, 7), input_gradients(model, x, 1, 1, 7), "1 forward + backward", {}
    )


def _rise(model: Any, x: Tensor, sizes: Sizes, more: str = "") -> Case:
    explainer = fastsal.RISE(model)
    floor = predictions(model, x, sizes.masks, sizes.rows)
    name = f"RISE, {sizes.masks} masks{more}"
    options: dict[str, Any] = {"n_masks": sizes.masks, "perturbations_per_eval": sizes.rows}
    return Case(name, lambda: explainer.attribute(x, 7, **options), floor, f"{sizes.masks} forward", {})


def _integrated_gradients(model: nn.Module, x: Tensor, sizes: Sizes) -> Case:
    explainer, steps = fastsal.IntegratedGradients(model), sizes.steps
    captum: dict[int, Callable[[], Any]] = {}
    if importlib.util.find_spec("captum"):
        from captum.attr import IntegratedGradients

        theirs = IntegratedGradients(model)
        for rows in CAPTUM_ROWS:
            captum[rows] = partial(theirs.attribute, x, target=7, n_steps=steps, internal_batch_size=min(rows, steps))
    return Case(
        f"Integrated Gradients, {steps} steps",
        lambda: explainer.attribute(x, target=7, n_steps=steps),
        input_gradients(model, x, steps, sizes.rows, 7),
        f"{steps} forward + backward",
        captum,
    )


def _smooth_grad(model: nn.Module, x: Tensor, sizes: Sizes) -> Case:
    explainer, count = fastsal.SmoothGrad(model), sizes.steps
    return Case(
        f"SmoothGrad, {count} samples",
        lambda: explainer.attribute(x, 7, n_samples=count),
        input_gradients(model, x, count, sizes.rows, 7),
        f"{count} forward + backward",
        {},
    )


def _occlusion(model: nn.Module, x: Tensor, sizes: Sizes, incremental: Any) -> Case:
    explainer = fastsal.Occlusion(model)
    window, stride = (3, sizes.window, sizes.window), (3, sizes.stride, sizes.stride)
    count = (1 + -(-(sizes.side - sizes.window) // sizes.stride)) ** 2
    captum: dict[int, Callable[[], Any]] = {}
    if importlib.util.find_spec("captum") and incremental is False:
        from captum.attr import Occlusion

        theirs = Occlusion(model)
        for rows in CAPTUM_ROWS:
            captum[rows] = partial(theirs.attribute, x, window, stride, target=7, perturbations_per_eval=rows)
    return Case(
        f"Occlusion, {count} windows, incremental={incremental!r}",
        lambda: explainer.attribute(x, window, stride, target=7, incremental=incremental),
        predictions(model, x, count + 1, sizes.rows),
        f"{count + 1} forward",
        captum,
    )


def _score_cam(model: nn.Module, layer: str, x: Tensor, sizes: Sizes) -> Case:
    explainer = fastsal.ScoreCAM(model, layer)
    with torch.no_grad():
        found: list[Tensor] = []
        handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: found.append(output))
        model(x)
        handle.remove()
    channels = found[0].shape[1]
    return Case(
        f"Score-CAM, {channels} channels",
        lambda: explainer.attribute(x, 7, perturbations_per_eval=sizes.rows),
        predictions(model, x, channels + 1, sizes.rows),
        f"{channels + 1} forward",
        {},
    )


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row for each method.

    Raises:
        RuntimeError: where the limit left some out, or the device no longer answers.
    """
    device, sizes = ("cpu", TINY) if rehearse else ("cuda", FULL)
    model, layer = (small_cnn(device), "8") if rehearse else (resnet50(device), "stages")
    x = torch.randn(1, 3, sizes.side, sizes.side, device=device)
    for make in cases(model, layer, x, sizes):
        if limit.left() < RESERVE:
            raise RuntimeError("stopped at the limit: methods are left")
        name = "a case"
        try:
            case = make()
            name = case.name
            rows.add("explainer", name=name, passes=case.passes, **_measured(case, device))
        except Exception as error:
            traceback.print_exc()
            rows.add("error", of=name, error=describe(error))
            if not rehearse:
                torch.cuda.synchronize()  # raises where the error has broken the context: no later figure would hold


def _measured(case: Case, device: str) -> dict[str, Any]:
    works = {"ours": case.work, **({"floor": case.floor} if case.floor is not None else {})}
    found = {name: statistics.median(each) for name, each in rounds(works, ROUNDS, warm_up=1).items()}
    captum = {rows: seconds_of(work, most=3)["seconds"] for rows, work in case.captum.items()}
    best = min(captum.values(), default=None)
    return {
        "seconds": found["ours"],
        "floor_seconds": found.get("floor"),
        "ratio": found["ours"] / found["floor"] if "floor" in found else None,
        "captum_seconds": best,
        "captum_rows": min(captum, key=captum.__getitem__) if captum else None,
        "peak_bytes": peak_bytes(case.work, device),
        "launched": kernels_of(case.work, device) if found["ours"] < 0.2 else None,
    }
