"""Scores of altered copies of the inputs, beside those of the inputs as they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge, Plan, run, scratch
from fastsal.explainers._old import could_be_per_example
from fastsal.explainers.arguments import at_least_one
from fastsal.explainers.perturbation.scores import scores_of, selected
from fastsal.explainers.scores import Target, resolved, target_of, tile, tile_target


class AlteredScores:
    """Scores [copies, outputs] of copies of a batch, in at least float32 (float64 for outputs that are integers).

    Call inside ``evaluation`` and ``torch.no_grad``.

    Args:
        forward_func: module or callable, with one score or more per example, or the same number for a whole batch.
        inputs: tensors [B, ...], detached.
        additional: further arguments; per-example tensors are repeated for the copies.
        target: which output to score; a function of the output is asked once, for the clean one.
        perturbations_per_eval: copies per model call; chosen from memory when None.
        first: what stands for the clean scores: the inputs unless other tensors like them are given.

    Attributes:
        shape: of the selected output, [B, ...]; [1] or more for one that has no examples.
        dtype: of the selected output; float32 for one that has no negative numbers, as a difference may be one.
        clean: the scores of ``first``, flat.
        seconds: what the clean pass took for each example.
        additional: further arguments, as given.
        shared: whether the output's rows are not the examples; copies are scored one at a time unless told otherwise.

    Raises:
        TypeError, ValueError: for perturbations_per_eval that is not an int, below 1, or above it where the output does
            not grow with the batch.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        additional: tuple[Any, ...],
        target: Target,
        perturbations_per_eval: int | None,
        first: tuple[Tensor, ...] | None = None,
    ) -> None:
        self._forward_func, self._inputs, self.additional = forward_func, inputs, additional
        self._given = (
            None if perturbations_per_eval is None else at_least_one("perturbations_per_eval", perturbations_per_eval)
        )
        self._examples = inputs[0].shape[0]
        copies = tuple(map(scratch, inputs if first is None else first))
        began = time.perf_counter()
        output = run(forward_func, copies, tuple(map(scratch, additional)))
        self.seconds = (time.perf_counter() - began) / self._examples
        self._target = resolved(target, output)
        clean = selected(output, self._target).detach()
        self.shared = clean.dim() == 0 or clean.shape[0] != self._examples
        if clean.dim() == 0 and self._given not in (None, 1):
            raise ValueError("perturbations_per_eval: the output has one score per call, so it must be 1")
        self.shape = tuple(clean.shape) or (1,)
        self.dtype = clean.dtype if clean.dtype.is_signed else torch.float32
        least = torch.float32 if clean.is_floating_point() or clean.is_complex() else torch.float64
        self._wide = torch.promote_types(clean.dtype, least)
        self.clean = clean.reshape(-1).to(self._wide)

    def plan(self, total: int) -> Plan:
        """Chunk sizes for ``total`` copies."""
        given = self._given
        if given is None and (self.shared or could_be_per_example(self.additional, self._examples)):
            given = 1
        row_bytes = sum(tensor[:1].numel() * tensor.element_size() for tensor in self._inputs)
        return Plan(total, self._examples, row_bytes, self._inputs[0].device, given, self._forward_func)

    def __call__(self, count: int, altered: dict[int, Tensor]) -> Tensor:
        """Scores [count, outputs] of ``count`` copies, copy-major; inputs that are not altered are repeated."""
        batch = tuple(
            altered[i] if i in altered else tile(scratch(tensor), count, self._examples)
            for i, tensor in enumerate(self._inputs)
        )
        extra = tuple(tile(scratch(value), count, self._examples) for value in self.additional)
        target = tile_target(self._target, count, self._examples)
        scores = scores_of(self._forward_func, batch, extra, target).detach()
        if tuple(scores.shape or (1,)) != (count * self.shape[0], *self.shape[1:]):
            if count == 1:
                raise ValueError(f"forward_func: its output changed from {self.shape} to {tuple(scores.shape)}")
            if self._given is None:
                raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
            raise ValueError(
                f"perturbations_per_eval: for {count} copies the output has the shape {tuple(scores.shape)}, which is "
                f"not {count} times {self.shape}; where the output does not grow with the batch it must be 1"
            )
        return scores.reshape(count, -1).to(self._wide)

    def output_of(self, rows: Tensor) -> Any:
        """The model's output for rows of the one input."""
        return run(self._forward_func, (rows,))

    def of_rows(self, output: Any, count: int, example: int) -> Tensor:
        """Scores [count, outputs of an example] of an output whose rows are altered copies of one example."""
        target = tile_target(target_of(self._target, example, self._examples), count, 1)
        return selected(output, target).detach().reshape(count, -1).to(self._wide)
