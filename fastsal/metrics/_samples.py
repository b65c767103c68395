"""What the metrics on altered inputs share: copies of each example side by side, and how many at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs, at_least_one, examples_of
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


def interleave(value: Any, count: int, examples: int) -> Any:
    """A per-example tensor with ``count`` copies of each example, example-major; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples:
        return value.repeat_interleave(count, 0)
    return value


def interleave_like(values: Any, inputs: tuple[Tensor, ...], count: int) -> Any:
    """Baselines or feature masks for ``count`` copies of each example: those with an entry per example repeated."""
    several = isinstance(values, tuple)
    result = tuple(
        value.repeat_interleave(count, 0)
        if isinstance(value, Tensor) and value.dim() == tensor.dim() and value.shape[0] == tensor.shape[0] > 1
        else value
        for value, tensor in zip(values if several else (values,), inputs, strict=several)
    )
    return result if several else result[0]


def interleave_target(target: Target, count: int, examples: int) -> Target:
    """A target for ``count`` altered copies of each example, example-major.

    Raises:
        TypeError: for a function, which would choose anew for each altered copy.
    """
    if callable(target) and not isinstance(target, Tensor):
        raise TypeError(
            "target: a function would choose anew for each altered copy; pass what it returns for the inputs"
        )
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, list) and len(target) == examples:
        return [entry for entry in target for _ in range(count)]
    if isinstance(target, Tensor) and target.numel() > 1:
        return target.repeat_interleave(count)
    return target


def task_of(
    forward_func: Callable[..., Any],
    inputs: Inputs,
    target: Target,
    additional_forward_args: Any,
    n_perturb_samples: int,
    max_examples_per_batch: int | None,
) -> Task:
    """A task whose copies are samples; Captum's limit counts rows, of which a sample has one per example.

    Raises:
        ValueError: for no samples, or a limit below 1.
    """
    at_least_one("n_perturb_samples", n_perturb_samples)
    task = Task(
        forward_func,
        inputs,
        target,
        additional_forward_args,
        rows_per_call=max_examples_per_batch,
        named="max_examples_per_batch",
    )
    if max_examples_per_batch is not None and max_examples_per_batch < task.examples:
        warnings.warn(
            f"max_examples_per_batch: {max_examples_per_batch} is below the {task.examples} examples, which are run "
            "together",
            stacklevel=3,
        )
    examples_of(task.inputs)
    return task


def widest(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype that holds all of them, at least float32."""
    wide = torch.float32
    for dtype in dtypes:
        wide = torch.promote_types(wide, dtype)
    return wide
