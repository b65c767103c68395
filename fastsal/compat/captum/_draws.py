"""Draws of Gradient SHAP and Feature Permutation from the global generators of NumPy and PyTorch, in Captum's order: a
program's seeds give the maps that they gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.gradient.samples import Drawn
from fastsal.explainers.perturbation.occlusion.feature_permutation import Orders, other_order


def draw(inputs: Sequence[Tensor], deviations: Sequence[Any], sizes: Sequence[int], samples: int) -> Drawn:
    """Samples of each example: rows of distributions of so many, places on the path, and noise.

    The noise is in memory for all samples at once, as in Captum, whose order goes example by example.
    """
    import numpy as np  # the module's import needs no NumPy

    examples = len(inputs[0])
    rows = [torch.as_tensor(np.random.choice(size, samples * examples)) for size in sizes]
    noise = None
    if any(isinstance(each, Tensor) or each != 0 for each in deviations):
        noise = [_noise(tensor, each, samples) for tensor, each in zip(inputs, deviations, strict=True)]
    places = torch.as_tensor(np.random.uniform(0.0, 1.0, samples * examples))

    def ends(start: int, stop: int) -> tuple[Tensor, ...]:
        copies = tuple(tensor.repeat(stop - start, *[1] * (tensor.dim() - 1)) for tensor in inputs)
        if noise is None:
            return copies
        return tuple(
            copy + each[:, start:stop].transpose(0, 1).flatten(0, 1) for copy, each in zip(copies, noise, strict=True)
        )

    return Drawn([_by_sample(each, examples) for each in rows], _by_sample(places, examples), ends)


def _noise(tensor: Tensor, deviation: Any, samples: int) -> Tensor:
    """[examples, samples, ...]"""
    spread = torch.as_tensor(deviation, device=tensor.device).expand(tensor.shape).repeat_interleave(samples, 0)
    drawn: Tensor = torch.normal(0.0, spread).to(tensor.dtype).unflatten(0, (-1, samples))
    return drawn


def _by_sample(values: Tensor, examples: int) -> Tensor:
    """Values that come example by example, as [samples, examples]."""
    return values.reshape(examples, -1).T


def orders() -> Orders:
    """Orders of the examples for one call, feature by feature as they are first asked for."""
    known: dict[tuple[int, int], Tensor] = {}

    def order(feature: int, examples: int) -> Tensor:
        if (feature, examples) not in known:
            known[feature, examples] = other_order(examples, None)
        return known[feature, examples]

    return order
