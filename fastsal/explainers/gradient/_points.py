"""Sums of gradients along a path: by a rule of so many points, or by ever more of them, whose sums can be looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastsal.explainers.gradient.quadrature import rule_on
from fastsal.ops import accumulation_dtype, path

Sums = list[Tensor]


class Weighted:
    """The points of a rule, each with its weight."""

    def __init__(self, method: str, n_steps: int) -> None:
        self._rule = method, n_steps
        self.total = n_steps
        self.mean: Sums = []

    def positions(self, start: int, stop: int, tensor: Tensor) -> Tensor:
        """Positions [stop - start] in [0, 1], for a path of the tensor."""
        return rule_on(*self._rule, accumulation_dtype(tensor.dtype), tensor.device)[0][start:stop]

    def added(self, gradients: tuple[Tensor, ...], start: int, stop: int) -> Sums:
        """The sums with the gradients of points start .. stop, for :meth:`keep`."""
        added = []
        for index, gradient in enumerate(gradients):
            weights = rule_on(*self._rule, accumulation_dtype(gradient.dtype), gradient.device)[1][start:stop]
            added.append(path.fold(gradient, weights, partial=self.mean[index] if self.mean else None))

        return added

    def keep(self, added: Sums) -> None:
        """Take over what :meth:`added` returned."""
        self.mean = added

    def turn(self, convert: Callable[[Tensor], Tensor]) -> None:
        """Put a linear function of each sum in its place."""
        self.mean = [convert(each).to(each.dtype) for each in self.mean]


class Doubled:
    """The trapezoid rule with 2, 3, 5, 9 ... points, each reusing those before: both ends, then all midpoints.

    Raises:
        ValueError: for fewer than 3 points.
    """

    def __init__(self, n_steps: int) -> None:
        if n_steps < 3:
            raise ValueError(f"n_steps: {n_steps} is below 3, the fewest that a tolerance or a deadline needs")
        self.total = 2 ** _complete(n_steps) + 1
        self._sums: dict[int, Sums] = {}

    def positions(self, start: int, stop: int, tensor: Tensor) -> Tensor:
        """Positions [stop - start] in [0, 1], for a path of the tensor."""
        found = [float(index) if index < 2 else _midpoint(index) for index in range(start, stop)]
        return torch.tensor(found, dtype=accumulation_dtype(tensor.dtype), device=tensor.device)

    def added(self, gradients: tuple[Tensor, ...], start: int, stop: int) -> dict[int, Sums]:
        """The sums with the gradients of points start .. stop, for :meth:`keep`."""
        added = dict(self._sums)
        for level in range(_level(start), _level(stop - 1) + 1):
            low, high = (0, 2) if level == 0 else (2 ** (level - 1) + 1, 2**level + 1)
            low, high = max(low, start), min(high, stop)
            sums = []
            for index, gradient in enumerate(gradients):
                rows = gradient.unflatten(0, (stop - start, -1))[low - start : high - start].flatten(0, 1)
                ones = torch.ones(high - low, dtype=accumulation_dtype(gradient.dtype), device=gradient.device)
                sums.append(path.fold(rows, ones, partial=added[level][index] if level in added else None))
            added[level] = sums

        return added

    def keep(self, added: dict[int, Sums]) -> None:
        """Take over what :meth:`added` returned."""
        self._sums = added

    def turn(self, convert: Callable[[Tensor], Tensor]) -> None:
        """Put a linear function of each sum in its place."""
        self._sums = {level: [convert(each).to(each.dtype) for each in sums] for level, sums in self._sums.items()}

    @property
    def mean(self) -> Sums:
        """Means by all points."""
        return self._trapezoid(_complete(self.total))

    def means(self, done: int) -> tuple[Sums, Sums | None, int] | None:
        """(means by the most points, by about half as many, the number of points), after ``done`` of them."""
        if done < 2:
            return None
        level = _complete(done)
        coarse = self._trapezoid(level - 1) if level else None
        return self._trapezoid(level), coarse, 2**level + 1

    def _trapezoid(self, level: int) -> Sums:
        parts = [self._sums[each] for each in range(level + 1)]
        return [(each[0] / 2 + sum(each[1:])) / 2**level for each in zip(*parts, strict=True)]


def _level(index: int) -> int:
    """Of a point: 0 for the ends, then how many doublings to its own."""
    return 0 if index < 2 else (index - 1).bit_length()


def _complete(count: int) -> int:
    """The last level of which there are all points."""
    return (count - 1).bit_length() - 1


def _midpoint(index: int) -> float:
    pieces = 1 << _level(index)
    return (2 * (index - pieces // 2 - 1) + 1) / pieces
