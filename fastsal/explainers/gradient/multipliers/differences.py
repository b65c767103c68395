"""DeepLIFT's two runs of a task, the multipliers of its inputs, and what to tell where they do not add up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastsal.engine.reading import Unrelated
from fastsal.engine.run import ChunkTooLarge, host_may_wait, leaves_autograd, run, scratch
from fastsal.explainers.gradient.multipliers.recording import Baselines, Inputs, Record
from fastsal.explainers.task import Task

TOLERATED = 0.1
"""|delta| beyond this part of |F(x) - F(b)| is told,"""
ROUNDING = 1e-3
"""and of the larger of |F(x)| and |F(b)|, or sixteen roundings of it: a change next to nothing is mostly rounding."""

Tensors = tuple[Tensor, ...]
Uses = Sequence[Sequence[Tensors]]
"""The tensors that pass at each layer, use by use."""
Sent = TypeVar("Sent")


def _by_layer(passed: Uses) -> list[Tensors]:
    if not all(passed):
        raise ValueError("layer: the model did not run it; choose one that its forward calls")
    return [tuple(tensor for use in uses for tensor in use) for uses in passed]


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
        return self._compared(
            starts,
            lambda scored: self._task.gradients(self._count, ends, scored=scored),
            ends,
            contextlib.nullcontext,
        )[:2]

    def at_layers(
        self,
        ends: Tensors,
        starts: Tensors,
        watched: Callable[[], contextlib.AbstractContextManager[Uses]],
        unused: Callable[[int, Tensors], None] | None = None,
    ) -> tuple[list[Tensors], list[Tensors], list[Tensors], Tensor]:
        """(values of layers for the inputs, for the baselines, multipliers of these, F(x) - F(b)).

        Args:
            ends, starts: inputs and baselines [count * B, ...].
            watched: a context in which the values that pass at each layer are in its list, use by use.
            unused: take zeros for a layer on which the scores do not depend through autograd; it is told of which, with
                its values, and may refuse.

        Raises:
            ValueError: as of :meth:`multipliers`, and for layers that run otherwise for the baselines.
        """
        task, found, unrelated = self._task, list[Tensors](), list[int]()
        task.tiled_target(self._count)  # a function of the output is asked before, by a pass that is not watched

        def multipliers(scored: Callable[[Tensor], None]) -> list[Tensors]:
            extra = tuple(map(scratch, task.repeated(task.additional, self._count)))
            with torch.enable_grad():
                leaves = tuple(tensor.detach().requires_grad_() for tensor in ends)
                with watched() as passed:
                    output = run(task.forward_func, tuple(leaf.clone() for leaf in leaves), extra)
                scores = task.select(self._count)(output)
                scored(scores)
                found[:] = _by_layer(passed)
                flat = [tensor for value in found for tensor in value]
                wanted = [tensor for tensor in flat if tensor.requires_grad]
                related = bool(wanted) and scores.requires_grad
                if not related and unused is None:
                    raise Unrelated
                none = [None] * len(wanted)
                gradients = iter(torch.autograd.grad(scores.sum(), wanted, allow_unused=True) if related else none)
            by_layer = [[next(gradients) if tensor.requires_grad else None for tensor in value] for value in found]
            unrelated[:] = [i for i, each in enumerate(by_layer) if all(gradient is None for gradient in each)]
            if unrelated and unused is None:
                raise Unrelated
            return [
                tuple(torch.zeros_like(t) if g is None else g for t, g in zip(*pair, strict=True))
                for pair in zip(found, by_layer, strict=True)
            ]

        sent, change, begun = self._compared(starts, multipliers, ends, watched)
        before = _by_layer(begun)
        shapes = [[[tuple(tensor.shape) for tensor in value] for value in values] for values in (before, found)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"layer: its values have the shapes {shapes[0]} for the baselines and {shapes[1]} for the "
                "inputs; choose another layer"
            )
        detached = [[tuple(tensor.detach() for tensor in value) for value in values] for values in (found, before)]
        if unused is not None:
            for place in unrelated:
                unused(place, detached[0][place])
        return detached[0], detached[1], sent, change

    def _compared(
        self,
        starts: Tensors,
        multipliers: Callable[[Callable[[Tensor], None]], Sent],
        ends: Tensors,
        watched: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> tuple[Sent, Tensor, Any]:
        """(what ``multipliers`` returns after a run of the inputs, the change, what was watched of the baselines')."""
        kept: list[Tensor] = []

        def scored(scores: Tensor) -> None:
            kept.append(scores.detach())
            mode.last(scores)

        with self._task.context(eager=True):
            try:
                with watched() as begun:
                    before, records = self._on_baselines(starts)
            except (RuntimeError, ValueError) as error:
                if leaves_autograd(self._task.forward_func, error):
                    self._task.gradients(self._count, ends)  # says so
                raise
            with Inputs(ends, records, self._eps) as mode:
                found = multipliers(scored)
        wide = torch.promote_types(before.dtype, torch.float32)
        first, second = kept[0].to(wide), before.to(wide)
        self._kept = tuple(mode.kept)
        part = max(ROUNDING, 16 * torch.finfo(before.dtype).eps)
        self._rounding = part * torch.maximum(first.abs(), second.abs())
        return found, first - second, begun

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
