"""Shapley values, exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import tell
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.features import segments
from fastsal.explainers.perturbation.shapley._players import Players, players_of
from fastsal.explainers.perturbation.shapley.shapley_value_sampling import ShapleyValueSampling
from fastsal.explainers.scores import Target

MANY, MOST = 16, 24
"""Features above which the passes are worth a warning, and above which they would take days."""


class ShapleyValues(ShapleyValueSampling):
    """Sum over the coalitions S without the feature of |S|! (n - |S| - 1)! / n! (F(S and it) - F(S)): Shapley,
    "A Value for n-Person Games" (1953).

    Each of the 2^n coalitions is scored once, where going through the n! orders would score it many times.

    >>> columns = torch.arange(9) // 3
    >>> maps = fastsal.ShapleyValues(model).attribute(images, target=classes, feature_mask=columns)

    Args:
        forward_func: module or callable.
    """

    summary = "features' contributions, averaged over all orders in which they can join"
    cost = "2^features forward"
    exact = True

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs, most=9)}

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution [*output, ...] in the form of the inputs and the dtype of the output.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: an absent feature's values: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B, K, ...].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one. Warns above
                16 features.
            perturbations_per_eval: coalitions per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or more than 24 features.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        features = players_of(task, feature_mask)
        players = features.total
        if players > MOST:
            raise ValueError(
                f"feature_mask: {players} features have 2^{players} coalitions; group them into at most {MOST}, "
                "or use ShapleyValueSampling or KernelShap"
            )
        if players > MANY:
            tell(f"{players} features take {2**players} forward passes")

        def run() -> Any:
            with task.context():
                coalitions = _Coalitions(Players(task, features))
                coalitions.game.scores.sweep(2**players - 1, coalitions.work, coalitions.keep).run()
                return coalitions.game.shaped(coalitions.total)

        return task.once(run)


class _Coalitions:
    """The sum over all coalitions but the empty one, which is in it from the start."""

    def __init__(self, game: Players) -> None:
        self.game, players, empty = game, game.count, game.scores.clean
        self._share = torch.tensor(
            [math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players) for s in range(players)],
            dtype=torch.float64,
            device="cpu",
        )
        # float64 is on the scores' device, or for those without it on the CPU.
        device = torch.device("cpu") if empty.device.type == "mps" else empty.device
        wide = torch.promote_types(empty.dtype, torch.float64)
        self._bits = torch.arange(players, device="cpu")
        self.total = torch.zeros((players, empty.numel()), dtype=wide, device=device)
        if players:
            self.total += self._added(torch.zeros((1, players), dtype=torch.bool, device="cpu"), empty[None])

    def _added(self, present: Tensor, values: Tensor) -> Tensor:
        # A coalition counts with it for its members, and against those who could join.
        size = present.sum(1, keepdim=True)
        last = self.game.count - 1
        weight = torch.where(present, self._share[(size - 1).clamp_min(0)], -self._share[size.clamp_max(last)])
        return weight.T.to(self.total) @ values.to(self.total)

    def work(self, start: int, stop: int) -> Tensor:
        coalition = torch.arange(start + 1, stop + 1, device="cpu")[:, None]
        present = (coalition >> self._bits) & 1 == 1
        return self._added(present, self.game.score(present))

    def keep(self, start: int, stop: int, change: Tensor) -> None:
        self.total.add_(change)
