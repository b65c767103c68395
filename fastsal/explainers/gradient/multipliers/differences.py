"""DeepLIFT's two runs of a task, the multipliers of its inputs, and what to tell where they do not add up."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge, host_may_wait, leaves_autograd, run, scratch
from fastsal.explainers.gradient.multipliers.recording import Baselines, Inputs, Record
from fastsal.explainers.task import Task

TOLERATED = 0.1
"""|delta| beyond this part of |F(x) - F(b)| is told,"""
ROUNDING = 1e-3
"""and of the larger of |F(x)| and |F(b)|, or sixteen roundings of it: a change next to nothing is mostly rounding."""


class Differences:
    """What changes between baselines and inputs.

    Args:
        task: whose model runs, and whose scores are explained.
        count: copies of the examples.
        eps: a difference below it is not divided by.
    """

    def __init__(self, task: Task, count: int, eps: float) -> None:
        self._task, self._count, self._eps = task, count, eps
        self._kept: tuple[str, ...] = ()
        self._rounding = torch.zeros(())

    def multipliers(self, ends: tuple[Tensor, ...], starts: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """(multipliers of the inputs, F(x) - F(b) [count * B] in at least float32).

        Raises:
            ValueError: for a model that returns one score whatever the batch, or an input that no gradient reaches.
        """
        kept: list[Tensor] = []

        def scored(scores: Tensor) -> None:
            kept.append(scores.detach())
            mode.last(scores)

        with self._task.context(eager=True):
            try:
                before, records = self._on_baselines(starts)
            except (RuntimeError, ValueError) as error:
                if leaves_autograd(self._task.forward_func, error):
                    self._task.gradients(self._count, ends)  # says so
                raise
            with Inputs(ends, records, self._eps) as mode:
                found = self._task.gradients(self._count, ends, scored=scored)
        wide = torch.promote_types(before.dtype, torch.float32)
        first, second = kept[0].to(wide), before.to(wide)
        self._kept = tuple(mode.kept)
        part = max(ROUNDING, 16 * torch.finfo(before.dtype).eps)
        self._rounding = part * torch.maximum(first.abs(), second.abs())
        return found, first - second

    def _on_baselines(self, starts: tuple[Tensor, ...]) -> tuple[Tensor, list[Record]]:
        task, count = self._task, self._count
        extra = tuple(map(scratch, task.repeated(task.additional, count)))
        task.tiled_target(count)  # a function of the output is asked before, by a pass of its own
        rows = count * task.examples
        # With gradients, so that the model takes the same way as it will on the inputs.
        with torch.enable_grad(), Baselines(starts) as mode:
            leaves = tuple(tensor.detach().requires_grad_() for tensor in starts)
            try:
                scores = task.select(count)(run(task.forward_func, tuple(leaf.clone() for leaf in leaves), extra))
                alone = scores.numel() != rows
            except ChunkTooLarge:
                alone = True
        if alone:
            raise ValueError("model: its output is one score per call; DeepLift needs one per example")
        return scores.detach(), mode.records

    def excess(self, delta: Tensor, change: Tensor) -> str | None:
        """What to tell where the sum is off by more than a tenth of the change: by how much, and what may be why."""
        if not host_may_wait() or not delta.numel():
            return None
        large = (delta.abs() > TOLERATED * change.abs()) & (delta.abs() > self._rounding)
        if not bool(large.any()):
            return None
        worst = int((delta.abs() / change.abs().clamp_min(torch.finfo(delta.dtype).tiny) * large).argmax())
        why = f" (functions that do not add up: {', '.join(self._kept)})" if self._kept else ""
        return (
            f"the attributions sum to {float(change[worst] + delta[worst]):.3g} where F(x) - F(b) is "
            f"{float(change[worst]):.3g}, off by more than a tenth{why}; IntegratedGradients adds up with n_steps"
        )
