"""Random points between noisy inputs and drawn baselines, which Gradient SHAP averages over."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.gradient.distribution import Draws, distribution_of, positions
from fastsal.explainers.gradient.noise_tunnel import deviations_of
from fastsal.explainers.seeds import generator
from fastsal.explainers.task import Task
from fastsal.ops import noise


class Sample(NamedTuple):
    """Tensors [n * B, ...] for each input, sample-major: noisy inputs, drawn baselines, and points between."""

    ends: tuple[Tensor, ...]
    starts: tuple[Tensor, ...]
    points: tuple[Tensor, ...]


GROUPS = 8
"""Of samples, each spread evenly by itself."""


class Samples:
    """The samples of one call, the same in any chunks, spread evenly over the path and over the baselines.

    Args:
        task: what is explained.
        inputs, baselines, stdevs, seed: as of :meth:`fastsal.GradientShap.attribute`.
        n_samples: for each example.

    Attributes:
        noisy: whether there is noise.
        rows: baselines in the distribution, the most of an input.
        groups: sample k is of group k modulo their number; groups are drawn independently of each other.

    Raises:
        TypeError, ValueError: for baselines or deviations of another form.
    """

    def __init__(
        self, task: Task, inputs: Inputs, baselines: Any, n_samples: int, stdevs: Any, seed: int | None
    ) -> None:
        self._task, self._deviations = task, deviations_of(stdevs, len(task.inputs))
        self.noisy = any(isinstance(each, Tensor) or each != 0 for each in self._deviations)
        random = generator(seed)
        self._seeds = torch.randint(0, 2**62, (len(task.inputs),), generator=random, device="cpu").tolist()
        self.groups = min(GROUPS, n_samples)
        self._shares = positions(n_samples, task.examples, random, self.groups)
        distribution = distribution_of(baselines, inputs)
        self.rows = max(map(len, distribution))
        self._draws = Draws(distribution, n_samples, task.examples, random, self.groups)

    def __call__(self, start: int, stop: int) -> Sample:
        """The samples start to stop."""
        ends = tuple(
            noise.batch(tensor, start, stop, std=deviation, seed=key)
            for tensor, deviation, key in zip(self._task.inputs, self._deviations, self._seeds, strict=True)
        )
        starts = tuple(rows.to(end) for rows, end in zip(self._draws(start, stop), ends, strict=True))
        points = tuple(
            begin + _column(self._shares[start:stop], end) * (end - begin)
            for begin, end in zip(starts, ends, strict=True)
        )
        return Sample(ends, starts, points)


def _column(shares: Tensor, like: Tensor) -> Tensor:
    """Shares [n, B] as [n * B, 1, ...]."""
    return shares.to(like).reshape(-1, *[1] * (like.dim() - 1))
