"""Random points between noisy inputs and drawn baselines, which Gradient SHAP averages over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.gradient.distribution import Draws, distribution_of, positions, taken
from fastsal.explainers.gradient.noise_tunnel import deviations_of
from fastsal.explainers.seeds import generator
from fastsal.explainers.task import Task
from fastsal.ops import noise


class Sample(NamedTuple):
    """Tensors [n * B, ...] for each input, sample-major: noisy inputs, drawn baselines, and points between."""

    ends: tuple[Tensor, ...]
    starts: tuple[Tensor, ...]
    points: tuple[Tensor, ...]


class Drawn(NamedTuple):
    """What a call's samples are made of.

    Attributes:
        rows: of each input's distribution, [samples, examples].
        places: on the path, [samples, examples] in [0, 1].
        ends: (start, stop) to the noisy inputs [(stop - start) * B, ...], sample-major.
    """

    rows: Sequence[Tensor]
    places: Tensor
    ends: Callable[[int, int], tuple[Tensor, ...]]


Draw = Callable[[Sequence[Tensor], Sequence[Any], Sequence[int], int], Drawn]
"""Draws from (inputs, deviations of their noise, rows in the distribution of each, samples)."""
GROUPS = 8
"""Of samples, each spread evenly by itself."""


class Samples:
    """The samples of one call, the same in any chunks, spread evenly over the path and over the baselines.

    Args:
        task: what is explained.
        inputs, baselines, stdevs, seed: as of :meth:`fastsal.GradientShap.attribute`.
        n_samples: for each example.
        draw: draws them where no seed is given, rather than evenly.

    Attributes:
        noisy: whether there is noise.
        rows: baselines in the distribution, the most of an input.
        groups: sample k is of group k modulo their number; groups are drawn independently of each other.

    Raises:
        TypeError, ValueError: for baselines or deviations of another form.
    """

    def __init__(
        self,
        task: Task,
        inputs: Inputs,
        baselines: Any,
        n_samples: int,
        stdevs: Any,
        seed: int | None,
        draw: Draw | None = None,
    ) -> None:
        deviations = deviations_of(stdevs, len(task.inputs))
        self.noisy = any(isinstance(each, Tensor) or each != 0 for each in deviations)
        self.groups = min(GROUPS, n_samples)
        self._distribution = distribution_of(baselines, inputs)
        self.rows = max(map(len, self._distribution))
        if draw is not None and seed is None:
            self._drawn = draw(task.inputs, deviations, list(map(len, self._distribution)), n_samples)
        else:
            self._drawn = self._evenly(task, deviations, n_samples, generator(seed))

    def _evenly(self, task: Task, deviations: Sequence[Any], n_samples: int, random: torch.Generator) -> Drawn:
        seeds = torch.randint(0, 2**62, (len(task.inputs),), generator=random, device="cpu").tolist()
        places = positions(n_samples, task.examples, random, self.groups)
        draws = Draws(self._distribution, n_samples, task.examples, random, self.groups)

        def ends(start: int, stop: int) -> tuple[Tensor, ...]:
            return tuple(
                noise.batch(tensor, start, stop, std=deviation, seed=key)
                for tensor, deviation, key in zip(task.inputs, deviations, seeds, strict=True)
            )

        return Drawn(draws.rows, places, ends)

    def __call__(self, start: int, stop: int) -> Sample:
        """The samples start to stop."""
        ends = self._drawn.ends(start, stop)
        drawn = taken(self._distribution, self._drawn.rows, start, stop)
        starts = tuple(rows.to(end) for rows, end in zip(drawn, ends, strict=True))
        points = tuple(
            begin + _column(self._drawn.places[start:stop], end) * (end - begin)
            for begin, end in zip(starts, ends, strict=True)
        )
        return Sample(ends, starts, points)


def _column(shares: Tensor, like: Tensor) -> Tensor:
    """Shares [n, B] as [n * B, 1, ...]."""
    return shares.to(like).reshape(-1, *[1] * (like.dim() - 1))
