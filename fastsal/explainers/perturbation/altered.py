"""Scores of altered copies of the inputs, beside those of the inputs as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import ChunkSizes, ChunkTooLarge, Sweep, run, scratch
from fastsal.explainers.scores import selected
from fastsal.explainers.task import Task


class AlteredScores:
    """Scores [copies, outputs] of copies of a batch, in at least float32 (float64 for outputs that are integers).

    The model may return one score or more per example, or the same number for a whole batch. Made by one pass; call
    inside the task's context.

    Args:
        task: what is explained.
        first: what stands for the clean scores: the inputs unless other tensors like them are given.

    Attributes:
        task: as given.
        shape: of the selected output, [B, ...]; [1] or more for one that has no examples.
        dtype: of the selected output; float32 for one that has no negative numbers, as a difference may be one.
        clean: the scores of ``first``, flat.
        shared: whether the output's rows are not the examples; copies are scored one at a time unless told otherwise.

    Raises:
        ValueError: for more than one copy per call where the output does not grow with the batch.
    """

    def __init__(self, task: Task, first: tuple[Tensor, ...] | None = None) -> None:
        self.task, self.additional = task, task.additional
        if first is None:
            output = run(task.forward_func, tuple(map(scratch, task.inputs)), tuple(map(scratch, task.additional)))
            task.note(output)
        else:
            output = run(task.forward_func, tuple(map(scratch, first)), tuple(map(scratch, task.additional)))
        clean = selected(output, task.tiled_target(1)).detach()
        self.shared = clean.dim() == 0 or clean.shape[0] != task.examples
        if clean.dim() == 0 and task.per_call not in (None, 1):
            raise ValueError("perturbations_per_eval: the output has one score per call, so it must be 1")
        self.shape = tuple(clean.shape) or (1,)
        self.dtype = clean.dtype if clean.dtype.is_signed else torch.float32
        least = torch.float32 if clean.is_floating_point() or clean.is_complex() else torch.float64
        self._wide = torch.promote_types(clean.dtype, least)
        self.clean = clean.reshape(-1).to(self._wide)

    def chunk_sizes(self, total: int) -> ChunkSizes:
        """Chunk sizes for ``total`` copies."""
        return self.task.chunk_sizes(total, alone=self.shared)

    def sweep(self, total: int, work: Callable[[int, int], Any], keep: Callable[[int, int, Any], None]) -> Sweep[Any]:
        """A sweep over ``total`` copies; ``work`` and ``keep`` as of :class:`fastsal.engine.run.Sweep`."""
        swept = self.task.swept(total, work, keep, chunk_sizes=self.chunk_sizes(total))
        swept.rows = lambda: self.task.rows()._replace(fixed="")  # which each call is asked for
        return swept

    def __call__(self, count: int, altered: dict[int, Tensor]) -> Tensor:
        """Scores [count, outputs] of ``count`` copies, copy-major; inputs that are not altered are repeated."""
        scores = self.task.selected(count, altered)
        if tuple(scores.shape or (1,)) != (count * self.shape[0], *self.shape[1:]):
            if count == 1:
                raise ValueError(f"forward_func: its output changed from {self.shape} to {tuple(scores.shape)}")
            if self.task.per_call is None:
                raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
            raise ValueError(
                f"perturbations_per_eval: for {count} copies the output has the shape {tuple(scores.shape)}, which is "
                f"not {count} times {self.shape}; where the output does not grow with the batch it must be 1"
            )
        return scores.reshape(count, -1).to(self._wide)

    def alone(self) -> str:
        """Why copies must be run one at a time; empty where they need not."""
        return self.task.rows().alone

    def output_of(self, rows: Tensor) -> Any:
        """The model's output for rows of the one input."""
        return run(self.task.forward_func, (rows,))

    def of_rows(self, output: Any, count: int, example: int) -> Tensor:
        """Scores [count, outputs of an example] of an output whose rows are altered copies of one example."""
        return selected(output, self.task.target_of(example, count)).detach().reshape(count, -1).to(self._wide)
