"""Means over samples that fall into groups of their own draws, whose spread tells how far the mean may be off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsal.ops import noise

LEAST = 4
"""Groups below which their spread tells nothing."""
Means = list[list[Tensor | None]]
"""Of each value, by group."""


class Replicates:
    """Running means of values of samples, of which sample k falls into group k modulo the number of groups.

    The samples of a group are spread evenly, which makes their mean better than that of independent ones and its error
    hard to tell from them; the groups are drawn independently of each other (or spread evenly themselves, by which
    their means differ more rather than less), so that the spread of their means tells it: Owen, "Monte Carlo theory,
    methods and examples" (2013), chapter 17.

    Args:
        groups: how many; one keeps the mean alone.
    """

    def __init__(self, groups: int = 1) -> None:
        self._groups = groups
        self._means: Means = []

    def added(self, found: Sequence[Tensor], start: int, stop: int) -> Means:
        """With values [(stop - start) * B, ...] of samples, for :meth:`keep`; changes nothing."""
        return [
            self._with(value, start, stop, self._means[i] if self._means else [None] * self._groups)
            for i, value in enumerate(found)
        ]

    def _with(self, value: Tensor, start: int, stop: int, means: list[Tensor | None]) -> list[Tensor | None]:
        rows = value.unflatten(0, (stop - start, -1))
        result = list(means)
        for first in range(min(self._groups, stop - start)):
            place, group = divmod(start + first, self._groups)
            mine = rows[first :: self._groups]
            result[group] = noise.fold(mine.flatten(0, 1), len(mine), start=place, partial=means[group])
        return result

    def keep(self, means: Means) -> None:
        """Take over what :meth:`added` returned."""
        self._means = means

    def means(self, done: int) -> list[Tensor]:
        """Of each value, the mean over so many samples."""
        return [self._mean(each, self._shares(done)) for each in self._means]

    def errors(self, done: int) -> list[Tensor]:
        """Its standard error; infinite for too few groups."""
        shares = self._shares(done)
        return [self._error(each, shares) for each in self._means]

    def _shares(self, done: int) -> list[float]:
        return [len(range(group, done, self._groups)) / done for group in range(self._groups)]

    @staticmethod
    def _mean(means: Sequence[Tensor | None], shares: list[float]) -> Tensor:
        if len(shares) == 1:
            assert means[0] is not None
            return means[0][0]
        total: Tensor = torch.stack(
            [share * mean[0] for mean, share in zip(means, shares, strict=True) if mean is not None]
        ).sum(0)
        return total

    def _error(self, means: Sequence[Tensor | None], shares: list[float]) -> Tensor:
        mean = self._mean(means, shares)
        if self._groups < LEAST or None in means:
            return torch.full_like(mean, torch.inf)
        apart = torch.stack(
            [(share * (each[0] - mean)).square() for each, share in zip(means, shares, strict=True) if each is not None]
        ).sum(0)
        return (apart * self._groups / (self._groups - 1)).sqrt()
