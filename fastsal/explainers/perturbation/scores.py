"""The model's output as scores [rows, outputs], as perturbation methods read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import run
from fastsal.explainers.base import Target, scores_examples, select_target
from fastsal.explainers.targets import main_output


def scores_of(
    forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], additional: tuple[Any, ...], target: Target
) -> Tensor:
    """The selected output as a tensor; a Python number becomes a tensor without dimensions.

    Raises:
        TypeError: for an output that is neither a tensor nor a number.
    """
    return selected(run(forward_func, inputs, additional), target)


def selected(output: Any, target: Target) -> Tensor:
    """The same of an output."""
    if isinstance(output, (int, float)) and not isinstance(output, bool):
        output = torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)
    if not scores_examples(target):
        output = main_output(output)
        if not isinstance(output, Tensor):
            raise TypeError(f"forward_func: its output is a {type(output).__name__}, not a tensor or a number; wrap it")
    return select_target(output, target)


def rows(scores: Tensor, count: int, examples: int) -> Tensor:
    """Scores [count * examples, ...] as [count, examples, K] in floating point.

    Raises:
        ValueError: for an output whose dimension 0 is not the batch.
    """
    if scores.dim() == 0 or scores.shape[0] != count * examples:
        raise ValueError(
            f"forward_func: its output for {count * examples} rows has the shape {tuple(scores.shape)}; there must be "
            "scores for each row"
        )
    if not scores.is_floating_point():
        scores = scores.to(torch.float32)
    return scores.detach().reshape(count, examples, -1)
