"""Saliency, Integrated Gradients, Guided Backprop, DeepLIFT: autograd by hand, and Captum's DeepLIFT."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastsal
from tools.models import by_hand
from tools.models.cell import Wrong, near
from tools.models.subject import Score, Subject

STEPS = 3
ALLOWED = 1.25
"""DeepLIFT's sums may be off by that much of what Captum's are off by,"""
DEVIATIONS = 4.0
"""and in float64 by rounding: each of D functions rounds what it gives by at most u = 2^-53 of it, either way, so that
the terms of a sum are off by about sqrt(D) u of their size; this many times that. In float32, where u is 2^29 times as
large, both deltas may be rounding alone; what is more than that is there in float64 too."""


def saliency(subject: Subject) -> str:
    found = fastsal.Saliency(subject.model).attribute(subject.inputs, target=subject.target)
    return near("gradient", found, by_hand.gradient(subject).abs(), 1e-3)


def integrated_gradients(subject: Subject) -> str:
    found = fastsal.IntegratedGradients(subject.model).attribute(subject.inputs, target=subject.target, n_steps=STEPS)
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    total = torch.zeros_like(subject.inputs)
    for point, weight in zip(points, weights, strict=True):
        total += weight / 2 * by_hand.gradient(subject, (1 + point) / 2 * subject.inputs)
    return near("mean gradient", found, total * subject.inputs, 1e-3)


def guided_backprop(subject: Subject) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model without ReLU is told so
        found = fastsal.GuidedBackprop(subject.model).attribute(subject.inputs, target=subject.target)
    x = subject.inputs.clone().requires_grad_()
    with by_hand.evaluating(subject.model), torch.enable_grad():
        score = subject.of(subject.model(x.clone(), *subject.extra))
        met = 0
        for node in nodes(score.grad_fn):
            if node.name() == "ReluBackward0":
                met += 1
                # What a rectifier passes on, zero where it was not active, keeps its positive part.
                node.register_hook(lambda passed, _received: tuple(g if g is None else g.clamp_min(0) for g in passed))
        (expected,) = torch.autograd.grad(score.sum(), x)
    return near(f"{met} rectifiers:", found, expected, 1e-3)


def nodes(root: Any) -> list[Any]:
    """Every node of an autograd graph, from its root on."""
    found, waiting = {root: None}, [root]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def deep_lift(subject: Subject) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large delta is told
        found, told = fastsal.DeepLift(subject.model).attribute(
            subject.inputs, target=subject.target, return_convergence_delta=True
        )
    change = by_hand.scores(subject) - by_hand.scores(subject, torch.zeros_like(subject.inputs))
    delta = (found.flatten(1).sum(1) - change).abs()
    near("delta as told:", told.double().abs(), delta.double(), 1e-3, float(change.abs().max() + delta.max()))
    size = float(change.abs().mean().clamp_min(1e-12))
    ours, floor = float(delta.mean()) / size, 0.0
    if subject.inputs.dtype == torch.float64:
        floor = rounding(subject, found) / size
    theirs, name = _captum(subject, change)
    if theirs is None:
        # Captum cannot run this model: the gradient times the difference is what DeepLIFT must do no worse than.
        linear = (by_hand.gradient(subject) * subject.inputs).flatten(1).sum(1)
        theirs, name = float((linear - change).abs().mean()) / size, f"gradient times input's ({name})"
    detail = f"delta {ours:.1e} of the change, {name} {theirs:.1e}" + (f", rounding {floor:.1e}" if floor else "")
    if not ours <= max(ALLOWED * theirs, floor):
        raise Wrong(detail)
    return detail


def rounding(subject: Subject, attributions: Tensor) -> float:
    """What the sums of attributions may be off by for rounding alone: of their terms, and of both scores."""
    x = subject.inputs.detach().clone().requires_grad_()
    with by_hand.evaluating(subject.model), torch.enable_grad():
        score = subject.of(subject.model(x.clone(), *subject.extra))
    unit = torch.finfo(score.dtype).eps / 2
    terms = attributions.detach().double().flatten(1).abs().sum(1).mean()
    ends = score.detach().double().abs() + by_hand.scores(subject, torch.zeros_like(x)).double().abs()
    return float(DEVIATIONS * len(nodes(score.grad_fn)) ** 0.5 * unit * (terms + ends.mean()))


def _captum(subject: Subject, change: Tensor) -> tuple[float | None, str]:
    """Captum's mean delta as a share of the mean change, on a copy of the model; None and why where it fails."""
    from captum.attr import DeepLift

    model = copy.deepcopy(subject.model).eval()

    class Scored(torch.nn.Module):
        """Scores [B, 1] of any output."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor, *extra: Any) -> Tensor:
            return subject.of(self.inner(x, *extra))[:, None]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = DeepLift(Scored()).attribute(
                subject.inputs, target=0, additional_forward_args=subject.extra or None
            )
    except Exception as error:  # whatever Captum raises
        return None, f"Captum: {type(error).__name__}"
    delta = (theirs.detach().flatten(1).sum(1) - change).abs().mean() / change.abs().mean().clamp_min(1e-12)
    return (float(delta), "Captum's") if bool(delta.isfinite()) else (None, "Captum: not finite")


def describes_no_index(subject: Subject) -> bool:
    """Whether the target is an object that scores the output itself."""
    return isinstance(subject.target, Score)
