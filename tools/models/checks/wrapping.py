"""Models as they come: compiled, wrapped, in half precision, quantised, with a forward of their owner's."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from tools.models import by_hand
from tools.models.cell import Wrong, apart, near
from tools.models.checks.cams import arranged
from tools.models.checks.sweeps import one_by_one, window_of
from tools.models.subject import Subject

WORSE = 4.0
"""How much further from float32 than plain autograd in the same precision a gradient in half precision may be."""


def _both(subject: Subject, wrapped: nn.Module) -> str:
    """Saliency and Grad-CAM of a wrapped model, against the plain model by hand."""
    found = fastsal.Saliency(wrapped).attribute(subject.inputs, target=subject.target)
    figure = near("gradient", found, by_hand.gradient(subject).abs(), 1e-3)
    if subject.kind != "image" or not subject.stated.grids:
        return figure
    explainer = fastsal.GradCAM(wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = explainer.attribute(
            subject.inputs, subject.target, relu_attributions=False, upsample=False, normalize=False
        )[:, 0]
    _, runs = arranged(subject, explainer)  # its layers are the plain model's
    gaps = []
    for value, gradient, grid in runs:
        if gradient is not None:
            parts = gradient.flatten(2).mean(2)[(..., *[None] * len(grid))] * value
            gaps.append(apart(raw, parts.sum(1), float(parts.abs().sum(1).max())))
    if not gaps or not min(gaps) <= 1e-4:
        raise Wrong(f"Grad-CAM's layer {gaps} apart")
    return f"{figure}, layer's map {min(gaps):.1e}"


def compiled(subject: Subject) -> str:
    torch.compiler.reset()
    wrapped: Any = torch.compile(subject.model, backend="eager")
    try:
        return _both(subject, wrapped)
    finally:
        torch.compiler.reset()


def parallel(subject: Subject) -> str:
    return _both(subject, nn.DataParallel(subject.model))


def bfloat16(subject: Subject) -> str:
    return _half(subject, torch.bfloat16)


def float16(subject: Subject) -> str:
    return _half(subject, torch.float16)


def _half(subject: Subject, dtype: torch.dtype) -> str:
    fine = by_hand.gradient(subject).abs()
    extra = tuple(e.to(dtype) if isinstance(e, Tensor) and e.is_floating_point() else e for e in subject.extra)
    model = copy.deepcopy(subject.model).to(dtype)
    coarse = replace(subject, model=model, inputs=subject.inputs.to(dtype), extra=extra)
    try:
        own = by_hand.gradient(coarse).abs()
    except RuntimeError as error:
        try:
            fastsal.Saliency(model).attribute(coarse.inputs, target=subject.target)
        except Exception as refusal:
            return f"the model itself does not run: {str(error)[:60]}; neither does Saliency: {type(refusal).__name__}"
        raise Wrong("a map of a model that does not run in that precision") from error
    found = fastsal.Saliency(model).attribute(coarse.inputs, target=subject.target)
    ours, plain = apart(found.float(), fine), apart(own.float(), fine)
    same = apart(found.float(), own.float())
    detail = f"{ours:.1e} from float32, plain autograd {plain:.1e}, apart {same:.1e}"
    if not (ours <= WORSE * plain + 1e-2 or same <= 1e-2 or not bool(own.isfinite().all())):
        raise Wrong(detail)
    return detail


def quantised(subject: Subject) -> str:
    """Linear layers of 8-bit weights have no gradient: Occlusion is right, gradients are refused or the true ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(subject.model).eval(), {nn.Linear}, torch.qint8)
        small = replace(subject, model=model)
        try:
            clean = by_hand.scores(small)
        except (TypeError, AttributeError) as error:  # it reads a weight, which a quantised layer has not
            return f"the model itself does not run: {type(error).__name__}"
    window = window_of(small)
    drops = fastsal.Occlusion(model).attribute(small.inputs, window, window, target=small.target)
    expected = one_by_one(small, window)
    # The scale of a quantised layer's input is that of the whole batch: rows of a batch depend on each other there.
    size = max(float(expected.abs().max()), 1e-2 * float(clean.abs().max()))
    figure = near("drops", drops, expected, 1e-3, size)
    try:
        true: Tensor | None = by_hand.gradient(small).abs()
    except RuntimeError:
        true = None
    try:
        found = fastsal.Saliency(model).attribute(small.inputs, target=small.target)
    except (ValueError, TypeError) as refusal:
        if true is not None and bool(true.any()):
            raise
        return f"{figure}; Saliency: {str(refusal)[:90]}"
    if true is None:
        raise Wrong("a gradient of a model that has none")
    return f"{figure}, {near('gradient', found, true, 1e-3)}"


def patched(subject: Subject) -> str:
    """A forward that was put on the module, as profilers and adapters do, with half the input."""
    model = copy.deepcopy(subject.model)
    original = model.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(0.5 * x, *args, **kwargs)

    model.forward = forward
    other = replace(subject, model=model)
    gradients = fastsal.Saliency(model).attribute(subject.inputs, target=subject.target)
    figure = near("gradient", gradients, by_hand.gradient(other).abs(), 1e-3)
    prepared: Any = fastsal.prepare(model, (subject.inputs, *subject.extra), probe_seconds=0)
    with torch.no_grad(), by_hand.evaluating(model):  # what the forward closes over may be the model itself
        found = by_hand.leaves(prepared(subject.inputs.clone(), *subject.extra))
    figures = [
        near("prepared", a, b, 1e-3) for a, b in zip(found, by_hand.leaves(by_hand.output_of(other)), strict=True)
    ]
    gradients = fastsal.Saliency(prepared).attribute(subject.inputs, target=subject.target)
    near("gradient of the prepared one", gradients, by_hand.gradient(other).abs(), 1e-3)
    return f"{figure}, {figures[0]}"
