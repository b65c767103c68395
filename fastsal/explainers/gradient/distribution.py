"""Baselines given as a distribution: the forms in which it comes, and rows drawn from it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
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
    """Row indices for every sample and example, each tensor's rows drawn for itself and spread evenly.

    Of a group's samples as many in a row as there are rows meet each row once, in a new order each time; the groups
    begin at places of one order that are spread evenly too. A single sample's row is uniform.

    Args:
        distribution: tensors [rows, ...].
        samples: for each example.
        examples: how many.
        random: draws the orders.
        groups: sample k is of group k modulo their number.
    """

    def __init__(
        self,
        distribution: tuple[Tensor, ...],
        samples: int,
        examples: int,
        random: torch.Generator,
        groups: int = 1,
    ) -> None:
        self.distribution = distribution
        index = torch.arange(samples, device="cpu")
        group, place = index % groups, index // groups
        self.rows = []
        for each in distribution:
            count = len(each)
            first = torch.rand(examples, count, generator=random, dtype=torch.float64, device="cpu").argsort(1)
            starts = torch.arange(groups, device="cpu") * count // groups
            orders = [first[:, (starts[:, None] + torch.arange(count, device="cpu")) % count]]
            rounds = -(-samples // (groups * count)) - 1
            if rounds > 0:
                shape = (examples, groups, rounds, count)
                drawn = torch.rand(shape, generator=random, dtype=torch.float64, device="cpu").argsort(3)
                orders.append(drawn.flatten(2))
            self.rows.append(torch.cat(orders, 2)[:, group, place].T)

    def __call__(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Baselines [(stop - start) * examples, ...] of the samples start to stop, sample-major."""
        return taken(self.distribution, self.rows, start, stop)


def taken(distribution: Sequence[Tensor], rows: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """Of each distribution the rows [samples, examples] that the samples start to stop have, sample-major."""
    return tuple(
        tensor[each[start:stop].reshape(-1).to(tensor.device)] for tensor, each in zip(distribution, rows, strict=True)
    )


def positions(samples: int, examples: int, random: torch.Generator, groups: int = 1) -> Tensor:
    """Places [samples, examples] on a path from 0 to 1, float64, spread evenly; a single one's is uniform.

    A group's samples follow the sequence of van der Corput, moved by a start of its own (Cranley, Patterson,
    "Randomization of number theoretic methods for multiple integration", 1976); the starts are one in each part of the
    path.
    """
    parts = torch.rand(examples, groups, generator=random, dtype=torch.float64, device="cpu").argsort(1)
    inside = torch.rand(examples, groups, generator=random, dtype=torch.float64, device="cpu")
    index = torch.arange(samples, device="cpu")
    found: Tensor = ((parts + inside) / groups)[:, index % groups] + _halved(index // groups, samples)
    return (found % 1).T


def _halved(index: Tensor, below: int) -> Tensor:
    """The sequence of van der Corput at indices below a number: their bits mirrored at the point."""
    value, weight = torch.zeros(index.shape, dtype=torch.float64, device="cpu"), 0.5
    for _ in range(below.bit_length()):
        value += weight * (index % 2)
        index, weight = index // 2, weight / 2
    return value
