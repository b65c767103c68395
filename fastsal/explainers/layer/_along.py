"""A layer along points of the inputs: what is found at it, folded point by point, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import Reading
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.quadrature import rule_on
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, path

Groups = list[list[Tensor]]
"""The tensors of each layer."""
Weights = Callable[[Tensor], Tensor]
"""Of points [n], for values of a tensor's dtype and device."""


class Sums:
    """Weighted sums over points of what is found at layers, in at least float32: the same in any chunks."""

    def __init__(self) -> None:
        self._sums: Groups = []
        self._dtypes: list[list[torch.dtype]] = []

    def added(self, found: Sequence[Sequence[Tensor]], weights: Weights) -> tuple[Groups, list[list[torch.dtype]]]:
        """With values [n * B, ...] of n points, for :meth:`keep`; changes nothing."""
        sums = []
        for index, tensors in enumerate(found):
            partial = self._sums[index] if self._sums else [None] * len(tensors)
            sums.append(
                [path.fold(part, weights(part), partial=before) for part, before in zip(tensors, partial, strict=True)]
            )
        return sums, [[tensor.dtype for tensor in tensors] for tensors in found]

    def keep(self, added: tuple[Groups, list[list[torch.dtype]]]) -> None:
        """Take over what :meth:`added` returned."""
        self._sums, self._dtypes = added

    @property
    def values(self) -> Groups:
        """The sums, in the dtypes of what was found."""
        return [
            [part.to(dtype) for part, dtype in zip(*each, strict=True)]
            for each in zip(self._sums, self._dtypes, strict=True)
        ]


def evenly(count: int) -> Weights:
    """Weight 1 for each of so many points."""
    return lambda like: torch.ones(count, dtype=accumulation_dtype(like.dtype), device=like.device)


def rows_of(reading: Reading, rows: int) -> Reading:
    """A reading whose values have a row for each of the model's.

    Raises:
        ValueError: for another.
    """
    for tensor in (tensor for value in reading.values for tensor in value):
        if not tensor.is_floating_point() or tensor.dim() == 0 or tensor.shape[0] != rows:
            raise ValueError(
                f"layer: its value {tensor.dtype} of shape {tuple(tensor.shape)} is not floating point with the "
                f"{rows} rows of the call as dimension 0; choose another layer"
            )
    return reading


def on_path(
    explainer: LayerAttribution,
    task: Task,
    rule: tuple[str, int],
    at_input: bool,
    grad_kwargs: dict[str, Any] | None,
    added: Callable[[Reading, int, int], Any],
    keep: Callable[[Any], None],
    finish: Callable[[], Any],
) -> Call[Any]:
    """A sweep over points of the straight path from the baselines to the inputs.

    Args:
        explainer: of the layers.
        task: what is explained.
        rule: whose positions they have, and how many.
        at_input: read the layers' inputs.
        grad_kwargs: further arguments of ``torch.autograd.grad``.
        added: what a chunk adds, from its reading and its points; changes nothing.
        keep: takes over what ``added`` returned.
        finish: what ``attribute`` returns.
    """

    def work(start: int, stop: int) -> Any:
        batches = tuple(
            path.batch(
                tensor,
                rule_on(*rule, accumulation_dtype(tensor.dtype), tensor.device)[0][start:stop],
                baseline=begin,
            )
            for tensor, begin in zip(task.inputs, task.baselines, strict=True)
        )
        count = stop - start
        reading = explainer.read_copies(task, count, batches, at_input, grad_kwargs)
        return added(rows_of(reading, count * task.examples), start, stop)

    sizes = task.chunk_sizes(rule[1], cost=2, repeats=True)
    sizes.spread()
    return task.sweep(rule[1], work, lambda _start, _stop, found: keep(found), finish, chunk_sizes=sizes)
