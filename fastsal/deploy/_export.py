"""An explainer as one compiled file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastsal._torch import aoti_compile_and_package, check_torch
from fastsal.deploy import _onnx
from fastsal.deploy._metadata import FLOATS, Metadata
from fastsal.engine.run import bounded
from fastsal.explainers import Attribution
from fastsal.explainers.arguments import at_least_one
from fastsal.explainers.registry import registered
from fastsal.explainers.scores import Target
from fastsal.explanation.compiled import check_fixed, explained, is_index, top_class

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ITEMS = 64
"""Alterations per model pass, unless told otherwise."""
MOST_PASSES = 64
"""Each is a copy of the model's operations in the graph, and compiled."""


@bounded
def export(
    explainer: Attribution,
    example_inputs: Tensor,
    path: str | os.PathLike[str],
    *,
    target: Target = None,
    dynamic_batch: int | None = None,
    inductor_configs: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Write prediction and map as one AOTInductor package (.pt2), which runs without Python; returns its path.

    A path that ends in ``.onnx`` gives an ONNX file instead, with the inputs ``input`` and ``target`` and the outputs
    ``output`` and ``map``, for the methods and models whose operations ONNX has.

    >>> path = fastsal.export(fastsal.GradCAM(model), images, "gradcam.pt2")  # doctest: +SKIP
    >>> output, target, maps = fastsal.load("gradcam.pt2", trust_code=True)(images)  # doctest: +SKIP

    The package takes the input [B, ...] and targets int64 [B], and returns the model's output [B, K] and the map. A
    negative target stands for the class with the highest output; for one of K or more the map is NaN. The gradient is
    part of the compiled graph, random masks and noise are constants of it: no operation of fastsal's own is left.
    A model in training mode is exported in evaluation mode, with the weights that it has.

    Args:
        explainer: one that is ``exportable`` (gradients, Integrated Gradients, SmoothGrad, Occlusion, RISE, and class
            activation maps that need no eigenvectors and no further passes), of a model of one input.
        example_inputs: a batch [B, ...] on the device and in the dtype that the package is for.
        path: ends in ``.pt2`` or ``.onnx``; an existing file is replaced.
        target: None for a model with outputs [B, K], whose class is given in each call. Any other target that gives one
            score for each example (a tuple into a dense output, one of :mod:`fastsal.targets`) is part of the package,
            whose output is then the score, [B, 1].
        dynamic_batch: the largest batch of a package that takes every batch from 1 on; None fixes the example's.
        inductor_configs: settings of the compiler (see ``torch._inductor.list_options``).
        options: arguments of the explainer's ``attribute``, fixed from here on. ``perturbations_per_eval`` (or
            ``internal_batch_size``) is the number of masks, windows, samples or steps per model pass, 64 unless given;
            every pass is a part of the graph of its own, at most 64 of them.

    Raises:
        TypeError: for another explainer, input or option.
        ValueError: for options that would differ from call to call, too many passes, another end of the path, and what
            the explainer refuses.
        RuntimeError: for a PyTorch before 2.11.
    """
    check_torch("2.11", "fastsal.export")
    path = os.path.abspath(os.fspath(path))
    if not path.endswith((".pt2", ".onnx")):
        raise ValueError(f"path: {path!r} ends in neither .pt2 nor .onnx")
    onnx = path.endswith(".onnx")
    if onnx and inductor_configs is not None:
        raise ValueError("inductor_configs: an ONNX file is not compiled; leave it out")
    decompose = _onnx.decompositions() if onnx else None
    program, metadata = program_of(explainer, example_inputs, dynamic_batch, options, decompose, target)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if onnx:
        _onnx.write(program, metadata, path)
        return path
    configs = {**(inductor_configs or {}), "aot_inductor.metadata": metadata.texts()}
    return aoti_compile_and_package(program, path, configs)


def program_of(
    explainer: Attribution,
    x: Tensor,
    dynamic_batch: int | None,
    options: Mapping[str, Any],
    decompose: Mapping[Any, Any] | None = None,
    target: Target = None,
) -> tuple[ExportedProgram, Metadata]:
    """The program and what it is, for whatever compiles it.

    Raises:
        TypeError, ValueError: as :func:`export`.
    """
    from fastsal.deploy._trace import trace  # slow to import

    if not (isinstance(explainer, Attribution) and explainer.exportable):
        names = ", ".join(kind.__name__ for kind in registered() if kind.exportable)
        raise TypeError(f"explainer: {type(explainer).__name__} is none of {names}")
    if not isinstance(x, Tensor) or x.dim() < 2 or x.dtype not in FLOATS.values():
        given = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"example_inputs: {given} is not one tensor [B, ...] of {', '.join(FLOATS)}")
    if dynamic_batch is not None:
        dynamic_batch = at_least_one("dynamic_batch", dynamic_batch)
    check_fixed(explainer, options)
    if "additional_forward_args" in options:
        raise TypeError("additional_forward_args: a package has one input; make them part of the model")
    for name in ("baselines", "stdevs"):
        if isinstance(options.get(name), Tensor) and options[name].dim() == x.dim() and options[name].shape[0] > 1:
            raise ValueError(f"{name}: one per example would be of the example batch alone; pass one for all")
    if is_index(target):
        raise TypeError("target: a package takes a class in each call; export without one, or with what is no index")
    if isinstance(target, list):
        raise TypeError("target: a list goes by the example batch; pass one target for all")
    items, passed = _items(options, len(x))
    # A run of it finds the layer, the number of alterations and the shapes, and refuses what attribute() refuses.
    plain = x.detach()[:1]
    found = explained(explainer, plain, passed, _class if target is None else target)
    for swept in explainer.plan().sweeps:
        if swept.alone and items > 1:
            raise ValueError(f"perturbations_per_eval: {items} would make the map wrong: {swept.alone}; pass 1")
        passes = -(-swept.total // items)
        if passes > MOST_PASSES:
            raise ValueError(
                f"perturbations_per_eval: {swept.total} at {items} per model pass are {passes} passes, each compiled, "
                f"at most {MOST_PASSES}; pass {-(-swept.total // MOST_PASSES)} or more"
            )
    if not isinstance(found.attribution, Tensor):
        raise ValueError("options: the attribution is not one tensor")
    try:
        program = trace(
            explainer, x.detach(), passed, fixed=target, items=items, most=dynamic_batch, decompose=decompose
        )
    except Exception as error:
        if target is None or isinstance(error, TypeError):
            raise
        line = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise ValueError(f"target: with it the model's course depends on values or on the batch: {line}") from error
    read_at = tuple(str(name) for name in getattr(explainer, "layer_names", ()))
    batch = (len(x), len(x)) if dynamic_batch is None else (1, dynamic_batch)
    return program, Metadata(
        method=type(explainer).__name__,
        options=options,
        layers=read_at,
        input_shape=tuple(x.shape[1:]),
        dtype=x.dtype,
        batch=batch,
        outputs=found.output.shape[1] if target is None else 1,
        map_shape=tuple(found.attribution.shape[1:]),
        device=x.device.type,
    )


def _class(output: Any) -> Tensor:
    """The class with the highest output.

    Raises:
        TypeError, ValueError: for an output that is not [B, K].
    """
    found = top_class(output)
    if found is None:
        raise ValueError(
            f"forward_func: its output {tuple(output.shape)} has no classes; return [B, 1], or export with a target of "
            "fastsal.targets"
        )
    return found


def _items(options: Mapping[str, Any], examples: int) -> tuple[int, dict[str, Any]]:
    """Alterations per model pass, and the options without what chose them."""
    passed = dict(options)
    items, rows = passed.pop("perturbations_per_eval", None), passed.pop("internal_batch_size", None)
    if items is not None:
        return at_least_one("perturbations_per_eval", items), passed
    if rows is not None:
        return max(1, at_least_one("internal_batch_size", rows) // examples), passed
    return ITEMS, passed
