"""Sensitivity: how much an explanation changes when its input hardly does."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Rows
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs
from fastsal.explainers.base import Attribution
from fastsal.explainers.seeds import as_seed
from fastsal.explainers.task import Task
from fastsal.metrics._samples import interleave, interleave_like, interleave_target, task_of, widest


def default_perturb_func(
    inputs: Inputs, perturb_radius: float = 0.02, *, seed: int | None = None
) -> tuple[Tensor, ...]:
    """The inputs plus uniform noise from [-perturb_radius, perturb_radius], in their dtypes (float32 for integers).

    Args:
        inputs: tensor [B, ...] or tuple of them.
        perturb_radius: radius of the ball in the maximum norm.
        seed: the same for every device; None draws one from torch's global generator.
    """
    tensors, _ = as_inputs(inputs)
    return _noisy(tensors, perturb_radius, as_seed(seed), 0, 1)


def _noisy(tensors: tuple[Tensor, ...], radius: float, seed: int, start: int, stop: int) -> tuple[Tensor, ...]:
    """Samples start .. stop of each example, example-major. A sample has noise of its own whatever the chunk."""
    parts: list[list[Tensor]] = [[] for _ in tensors]
    for sample in range(start, stop):
        key = hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=8).digest()
        random = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        for part, tensor in zip(parts, tensors, strict=True):
            exact = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
            noise = radius * (2 * torch.rand(tensor.shape, generator=random, dtype=exact, device="cpu") - 1)
            kept = tensor.dtype if tensor.is_floating_point() else exact
            part.append(tensor.to(kept) + noise.to(tensor.device, kept))
    return tuple(torch.stack(part, 1).flatten(0, 1) for part in parts)


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Inputs,
    perturb_func: Callable[..., Any] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: str | float = "fro",
    max_examples_per_batch: int | None = None,
    *,
    seed: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Greatest |Phi(y) - Phi(x)| / |Phi(x)| over random y near x, [B], for an explanation Phi.

    Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019),
    SENS_MAX (its section on explanation sensitivity), divided by the explanation's norm where that is not 0. Costs
    n_perturb_samples + 1 explanations per example; memory does not grow with the samples. Altered copies are explained
    one at a time, with a warning, where the rows of a batch depend on each other (which an explainer's model is asked
    once, and any other explanation_func by three more explanations).

    Args:
        explanation_func: usually ``explainer.attribute``. It gets the inputs as a tuple, the altered ones as
            perturb_func returns them, and kwargs.
        inputs: tensor [B, ...] or tuple of them.
        perturb_func: ``(inputs)`` or ``(inputs, perturb_radius)`` to altered inputs. It gets rows that repeat each
            example (example-major); a tensor for one input, a tuple for several.
        perturb_radius: second argument of perturb_func.
        n_perturb_samples: altered copies of each example.
        norm_ord: 'fro' (the 2-norm of an example's explanation as a vector) or the order of a vector norm.
        max_examples_per_batch: rows per call of explanation_func, at least B; chosen from memory when None.
        seed: of default_perturb_func only: the same seed gives the same noise whatever the batch size; None draws
            one from torch's global generator. For an explainer's own, bind it: ``functools.partial``.
        **kwargs: of explanation_func. In altered calls target, additional_forward_args, baselines and feature_mask
            have their per-example entries repeated.

    Returns:
        float32 (float64 for float64 explanations).

    Raises:
        TypeError, ValueError: for arguments outside of the above, or explanations of differing shapes.
    """
    order = _order(norm_ord)
    task = task_of(explanation_func, inputs, None, None, n_perturb_samples, max_examples_per_batch)
    examples, plain = task.examples, task.inputs
    takes_radius = len(inspect.signature(perturb_func).parameters) > 1
    noise_seed = as_seed(seed)
    most: Tensor | None = None

    with torch.inference_mode(False), torch.no_grad():
        clean = _vectors(explanation_func(plain, **kwargs), examples, 1)
        size = torch.linalg.vector_norm(clean, order, 2)
        size = size.where(size != 0, 1)

        def work(start: int, stop: int) -> Tensor:
            count = stop - start
            if perturb_func is default_perturb_func:
                altered: Any = _noisy(plain, perturb_radius, noise_seed, start, stop)
            else:
                rows = tuple(tensor.repeat_interleave(count, 0) for tensor in plain)
                given = rows if len(rows) > 1 else rows[0]
                altered = perturb_func(given, perturb_radius) if takes_radius else perturb_func(given)
            found = _vectors(explanation_func(altered, **_repeated(kwargs, plain, count)), examples, count)
            if found.shape[2] != clean.shape[2]:
                raise ValueError(
                    f"explanation_func: {found.shape[2]} elements for an altered row, {clean.shape[2]} for an example"
                )
            change = torch.linalg.vector_norm(found - clean, order, 2) / size
            greatest = change.amax(1)
            return greatest if most is None else torch.maximum(most, greatest)

        def keep(start: int, stop: int, greatest: Tensor) -> None:
            nonlocal most
            most = greatest

        chunk_sizes = task.chunk_sizes(n_perturb_samples, repeats=True)
        rows = _rows_of(explanation_func, task, kwargs)
        sweep = task.swept(n_perturb_samples, work, keep, chunk_sizes=chunk_sizes)
        dataclasses.replace(sweep, rows=rows).run()
    assert most is not None
    return most


def _rows_of(explanation_func: Callable[..., Any], task: Task, kwargs: dict[str, Any]) -> Callable[[], Rows]:
    """What tells whether altered copies can be explained in one batch: the explainer's model, else what explains."""
    function: Any = explanation_func
    while isinstance(function, functools.partial):
        kwargs, function = {**function.keywords, **kwargs}, function.func
    explainer = getattr(function, "__self__", None)
    if isinstance(explainer, Attribution):
        given = kwargs.get("target"), kwargs.get("additional_forward_args")
        return Task(explainer.forward_func, task.inputs, *given).rows

    def explained(*copies: Tensor) -> Any:
        count = len(copies[0]) // task.examples
        rows = tuple(each.unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1) for each in copies)
        parts, is_tuple = as_inputs(explanation_func(rows, **_repeated(kwargs, task.inputs, count)), "explanation_func")
        found = [part.unflatten(0, (-1, count)).transpose(0, 1).flatten(0, 1) for part in parts]
        return tuple(found) if is_tuple else found[0]

    return Task(explained, task.inputs, None, None).rows


def _order(norm_ord: str | float) -> float:
    """
    Raises:
        ValueError: for a norm of matrices, which an example's explanation is not.
    """
    if norm_ord == "fro":
        return 2
    try:
        return float(norm_ord)
    except (TypeError, ValueError):
        raise ValueError(f"norm_ord: {norm_ord!r} is neither 'fro' nor a number") from None


def _vectors(explanation: Any, examples: int, copies: int) -> Tensor:
    """[examples, copies, elements] of an explanation with example-major rows, in at least float32.

    Raises:
        TypeError, ValueError: for what is no tensor or tuple of tensors, or another number of rows.
    """
    parts, _ = as_inputs(explanation, "explanation_func")
    dtype = widest(*(part.dtype for part in parts))
    for part in parts:
        if part.shape[0] != examples * copies:
            raise ValueError(f"explanation_func: {part.shape[0]} rows for {examples * copies} examples")
    return torch.cat([part.detach().to(dtype).reshape(examples, copies, -1) for part in parts], 2)


def _repeated(kwargs: dict[str, Any], inputs: tuple[Tensor, ...], count: int) -> dict[str, Any]:
    """The keyword arguments of explanation_func for ``count`` altered copies of each example."""
    examples, result = inputs[0].shape[0], dict(kwargs)
    if "target" in kwargs:
        result["target"] = interleave_target(kwargs["target"], count, examples)
    if kwargs.get("additional_forward_args") is not None:
        additional = as_arguments(kwargs["additional_forward_args"])
        result["additional_forward_args"] = tuple(interleave(value, count, examples) for value in additional)
    for name in {"baselines", "feature_mask"} & kwargs.keys():
        result[name] = interleave_like(kwargs[name], inputs, count)
    return result
