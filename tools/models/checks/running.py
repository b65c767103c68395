"""Models and explainers made ready: prepared, compiled, exported."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastsal
from fastsal.deploy._export import program_of
from fastsal.engine.prepare import Prepared
from tools.models import by_hand
from tools.models.cell import Wrong, near
from tools.models.checks.cams import arranged, in_the_inputs_size
from tools.models.checks.gradients import describes_no_index
from tools.models.subject import BATCH_NORMS, Subject, plain

# Weights of the wrapper do not matter: the C++ around the kernels is compiled without optimising, for time.
QUICK = {"aot_inductor.compile_wrapper_opt_level": "O0", "max_autotune": False}


def prepare(subject: Subject) -> str:
    prepared: Any = fastsal.prepare(subject.model, (subject.inputs, *subject.extra), probe_seconds=0.2)
    with torch.no_grad():
        found = by_hand.leaves(prepared(subject.inputs.clone(), *subject.extra))
    expected = by_hand.leaves(by_hand.output_of(subject))
    if len(found) != len(expected):
        raise Wrong(f"{len(found)} tensors, not {len(expected)}")
    figure = [near("output", a, b, 1e-3) for a, b in zip(found, expected, strict=True)]
    gradients = fastsal.Saliency(prepared).attribute(subject.inputs, target=subject.target)
    figure.append(near("gradient", gradients, by_hand.gradient(subject).abs(), 1e-3))
    return f"{_folded(prepared, subject)}, {figure[0]}, {figure[-1]}"


def _folded(prepared: Prepared, subject: Subject) -> str:
    norms = sum(isinstance(m, BATCH_NORMS) for m in subject.model.modules())
    pairs = len(prepared.choice.pairs)
    return f"{pairs} of {norms} batch norms folded"


def compiled(subject: Subject) -> str:
    explainer, expected = _explained(subject)
    if describes_no_index(subject):
        run = fastsal.compile(explainer, subject.inputs, target=subject.target)
        _output, _target, maps = run(subject.inputs)
        figure = ""
    else:
        run = fastsal.compile(explainer, subject.inputs)
        output, target, maps = run(subject.inputs)
        figure = near("output", plain(output), plain(by_hand.output_of(subject)), 1e-4) + ", "
        if not torch.equal(target, plain(by_hand.output_of(subject)).argmax(1)):
            raise Wrong(f"target {target.tolist()} is not the top class")
    return figure + expected(maps)


def export(subject: Subject) -> str:
    """The graph that a package is compiled from, run by PyTorch."""
    explainer, expected = _explained(subject)
    target = subject.target if describes_no_index(subject) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, _ = program_of(explainer, subject.inputs, None, {}, target=target)
        with torch.no_grad():
            output, maps = program.module()(subject.inputs.clone(), torch.full((len(subject.inputs),), -1))
    return _exported(subject, output) + expected(maps)


def package(subject: Subject) -> str:
    """The package, compiled, loaded and run."""
    explainer, expected = _explained(subject)
    options: dict[str, Any] = {} if not describes_no_index(subject) else {"target": subject.target}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = fastsal.export(explainer, subject.inputs, Path(folder) / "model.pt2", inductor_configs=QUICK, **options)
        output, target, maps = fastsal.load(path, trust_code=True)(subject.inputs)
    if not describes_no_index(subject) and not torch.equal(target, plain(by_hand.output_of(subject)).argmax(1)):
        raise Wrong(f"target {target.tolist()} is not the top class")
    return _exported(subject, output) + expected(maps)


def _exported(subject: Subject, output: Tensor) -> str:
    own = plain(by_hand.output_of(subject)) if not describes_no_index(subject) else by_hand.scores(subject)[:, None]
    return near("output", output, own, 1e-3) + ", "


def _explained(subject: Subject) -> tuple[Any, Callable[[Tensor], str]]:
    """An explainer, and a function that compares its maps of the top class with those by hand."""
    target = None if describes_no_index(subject) else plain(by_hand.output_of(subject)).argmax(1)
    if subject.kind != "image" or not subject.stated.grids:

        def gradients(maps: Tensor) -> str:
            x = subject.inputs.clone().requires_grad_()
            with by_hand.evaluating(subject.model), torch.enable_grad():
                score = subject.of(subject.model(x.clone(), *subject.extra), target)
                (expected,) = torch.autograd.grad(score.sum(), x)
            return near("gradient", maps, expected.abs(), 1e-3)

        return fastsal.Saliency(subject.model), gradients
    explainer = fastsal.GradCAM(subject.model)

    def cams(maps: Tensor) -> str:
        name, runs = arranged(subject, explainer, target)
        gaps = []
        for value, gradient, grid in runs:
            if gradient is not None:
                parts = gradient.flatten(2).mean(2)[(..., *[None] * len(grid))] * value
                gaps.append(in_the_inputs_size(subject, maps, parts.sum(1), float(parts.abs().sum(1).max())))
        if not gaps or not min(gaps) <= 3e-3:
            raise Wrong(f"{name}: map {gaps} apart")
        return f"{name}: map {min(gaps):.1e}"

    return explainer, cams
