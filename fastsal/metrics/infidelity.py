"""Infidelity: how far an explanation's account of a perturbation is from what the perturbation does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import run, scratch
from fastsal.explainers.arguments import Baselines, Inputs, as_baselines, as_inputs
from fastsal.explainers.scores import Target, one_score_each
from fastsal.metrics._samples import interleave, interleave_like, interleave_target, task_of, widest
from fastsal.ops import wide_dtype

PerturbFunc = Callable[..., Any]


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[[PerturbFunc], PerturbFunc]:
    """Make a function that returns perturbed inputs one that returns (perturbations, perturbed inputs).

    Args:
        multiply_by_inputs: the perturbation I is (x - perturbed) / (x - baseline), 0 / 0 being 0, for attributions
            that contain the factor (x - baseline); without, it is x - perturbed.
    """

    def decorate(perturb_func: PerturbFunc) -> PerturbFunc:
        @functools.wraps(perturb_func)
        def perturb(inputs: Inputs, baselines: Baselines = None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            altered = perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines)
            tensors, _ = as_inputs(inputs)
            perturbed, _ = as_inputs(altered, "perturb_func")
            moves = tuple(x - y for x, y in zip(tensors, perturbed, strict=True))
            if not multiply_by_inputs:
                return moves, perturbed
            spans = (x - b for x, b in zip(tensors, as_baselines(baselines, tensors), strict=True))
            return tuple(m / s.where(s != 0, 1) for m, s in zip(moves, spans, strict=True)), perturbed

        return perturb

    return decorate


def infidelity(
    forward_func: Callable[..., Any],
    perturb_func: PerturbFunc,
    inputs: Inputs,
    attributions: Inputs,
    baselines: Baselines = None,
    additional_forward_args: Any = None,
    target: Target = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """Mean of (I . attributions - (F(x) - F(x - I)))^2 over random perturbations I, [B].

    Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019),
    definition 2.1. Costs one pass for x and n_perturb_samples per example; memory does not grow with the samples.

    Args:
        forward_func: module or callable with one score per example at the target.
        perturb_func: ``(inputs)``, or ``(inputs, baselines)`` if these are given, to (perturbations, perturbed
            inputs). It gets rows that repeat each example (example-major); a tensor for one input, a tuple for several.
        inputs: tensor [B, ...] or tuple of them.
        attributions: of their shapes.
        baselines: what perturb_func gets as its second argument: a number, a tensor, a tuple of these.
        additional_forward_args: further arguments of the model; per-example tensors are repeated.
        target: which output is explained, one for all or one per example.
        n_perturb_samples: perturbations of each example.
        max_examples_per_batch: rows per model call, at least B; chosen from memory when None.
        normalize: scale the attributions of each example by the factor that makes its infidelity least.

    Returns:
        float32 (float64 for float64 scores or attributions); sums are float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above, or shapes from perturb_func that do not fit.
    """
    task = task_of(forward_func, inputs, target, additional_forward_args, n_perturb_samples, max_examples_per_batch)
    examples, plain = task.examples, task.inputs
    maps, _ = as_inputs(attributions, "attributions")
    if [part.shape for part in maps] != [tensor.shape for tensor in plain]:
        raise ValueError(f"attributions: shapes {_shapes(maps)} are not those of the inputs, {_shapes(plain)}")
    starts = None if baselines is None else as_baselines(baselines, plain)
    interleave_target(target, 1, examples)  # refuses a function before the first pass
    sums: list[Tensor] = []

    def scores_of(rows: tuple[Tensor, ...], count: int) -> Tensor:
        extra = tuple(interleave(scratch(value), count, examples) for value in task.additional)
        output = run(task.forward_func, rows, extra)
        scores = one_score_each(output, interleave_target(target, count, examples), examples * count)
        if scores.numel() != examples * count:
            raise ValueError("forward_func: it returns one score per call; infidelity needs one per example")
        return scores.detach().reshape(examples, count)

    with task.context():
        clean = scores_of(tuple(map(scratch, plain)), 1)
        dtype = widest(clean.dtype, *(part.dtype for part in maps))
        precise = wide_dtype(clean.device)

        def work(start: int, stop: int) -> list[Tensor]:
            count = stop - start
            rows = tuple(tensor.repeat_interleave(count, 0) for tensor in plain)
            begin = None if starts is None else interleave_like(starts, plain, count)
            moves, altered = _perturbed(perturb_func, rows, begin)
            change = clean.to(precise) - scores_of(tuple(map(scratch, altered)), count).to(precise)
            told = torch.zeros_like(change)
            for part, move in zip(maps, moves, strict=True):
                wide = part.detach().to(move.device, precise).reshape(examples, 1, -1)
                told += (wide * move.detach().to(precise).reshape(examples, count, -1)).sum(2).to(told.device)
            if normalize:
                terms = [told.square().sum(1), (told * change).sum(1), change.square().sum(1)]
            else:
                terms = [(told - change).square().sum(1)]
            return [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms

        def keep(start: int, stop: int, added: list[Tensor]) -> None:
            sums[:] = added

        chunk_sizes = task.chunk_sizes(n_perturb_samples, repeats=True)
        task.swept(n_perturb_samples, work, keep, chunk_sizes=chunk_sizes).run()
        if normalize:
            told, both, change = sums
            # The least over the factor of (factor^2 told - 2 factor both + change), which rounding may take below 0.
            total = (change - both.square() / told.where(told != 0, 1)).clamp_min(0)
        else:
            (total,) = sums
        return (total / n_perturb_samples).to(dtype)


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)


def _perturbed(
    perturb_func: PerturbFunc, rows: tuple[Tensor, ...], starts: tuple[Any, ...] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(perturbations in the rows' shapes, perturbed inputs).

    Raises:
        TypeError, ValueError: for a result that is no such pair.
    """
    shapes = [tensor.shape for tensor in rows]
    given = rows if len(rows) > 1 else rows[0]
    begin = () if starts is None else (starts if len(rows) > 1 else starts[0],)
    result = perturb_func(given, *begin)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            "perturb_func: it must return (perturbations, perturbed inputs); one that returns perturbed inputs needs "
            "infidelity_perturb_func_decorator"
        )
    (moves, _), (altered, _) = as_inputs(result[0], "perturb_func"), as_inputs(result[1], "perturb_func")
    if [tensor.shape for tensor in altered] != shapes or len(moves) != len(shapes):
        raise ValueError(
            f"perturb_func: shapes {_shapes(altered)} are not those of its inputs, {list(map(tuple, shapes))}"
        )
    try:
        return tuple(move.expand(shape) for move, shape in zip(moves, shapes, strict=True)), altered
    except RuntimeError:
        raise ValueError(f"perturb_func: perturbations {_shapes(moves)} do not fit inputs {_shapes(altered)}") from None
