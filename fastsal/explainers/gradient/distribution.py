"""Baselines given as a distribution: the forms in which it comes, and rows drawn from it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs


def distribution_of(baselines: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    """Tensors [rows, ...], one per input, from tensors or from a function of nothing or of the inputs.

    Raises:
        TypeError, ValueError: for anything else, a wrong number of them, or rows in another shape than the examples.
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = baselines(inputs) if inspect.signature(baselines).parameters else baselines()
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(given) != len(tensors):
        raise ValueError(f"baselines: {len(given)} given for {len(tensors)} inputs; one each is needed")
    for rows, tensor in zip(given, tensors, strict=True):
        if not isinstance(rows, Tensor):
            raise TypeError(f"baselines: {type(rows).__name__} is not a tensor [rows, ...]; a distribution is")
        if rows.dim() == 0 or not len(rows) or rows.dim() != tensor.dim():
            raise ValueError(f"baselines: {tuple(rows.shape)} is not [rows, ...] like the input {tuple(tensor.shape)}")
        try:
            rows[:1].expand(1, *tensor.shape[1:])
        except RuntimeError:
            shapes = f"{tuple(rows.shape)} has no rows like the input's {tuple(tensor.shape)}"
            raise ValueError(f"baselines: {shapes}") from None
    return given


class Draws:
    """Row indices for every sample and example, each tensor's rows drawn for itself."""

    def __init__(self, distribution: tuple[Tensor, ...], samples: int, examples: int, random: torch.Generator) -> None:
        self.distribution = distribution
        self.rows = [
            torch.randint(0, len(rows), (samples, examples), generator=random, device="cpu") for rows in distribution
        ]

    def __call__(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Baselines [(stop - start) * examples, ...] of the samples start to stop, sample-major."""
        return tuple(
            tensor[rows[start:stop].reshape(-1).to(tensor.device)]
            for tensor, rows in zip(self.distribution, self.rows, strict=True)
        )
