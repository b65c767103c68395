"""Shapley values, exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers._old import attribute_method, scoring, sweep
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.perturbation.shapley._players import Players
from fastsal.explainers.perturbation.shapley.shapley_value_sampling import ShapleyValueSampling
from fastsal.explainers.scores import Target

MANY, MOST = 16, 24
"""Features above which the passes are worth a warning, and above which they would take days."""


class ShapleyValues(ShapleyValueSampling):
    """Sum over the coalitions S without the feature of |S|! (n - |S| - 1)! / n! (F(S and it) - F(S)): Shapley,
    "A Value for n-Person Games" (1953).

    Each of the 2^n coalitions is scored once, where going through the n! orders would score it many times.
    """

    @attribute_method
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Attribution [*output, ...] in the form of the inputs and the dtype of the output.

        Args:
            inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress: as
                of :meth:`ShapleyValueSampling.attribute`. Warns above 16 features.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or more than 24 features.
        """

        game = Players(
            self.forward_func,
            inputs,
            baselines,
            target,
            additional_forward_args,
            feature_mask,
            perturbations_per_eval,
        )
        players, empty = game.count, game.scores.clean
        if players > MOST:
            raise ValueError(
                f"feature_mask: {players} features have 2^{players} coalitions; group them into at most {MOST}, "
                "or use ShapleyValueSampling or KernelShap"
            )
        if players > MANY:
            warnings.warn(f"{players} features take {2**players} forward passes", UserWarning, stacklevel=3)
        share = torch.tensor(
            [math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players) for s in range(players)],
            dtype=torch.float64,
            device="cpu",
        )
        # float64 is on the scores' device, or for those without it on the CPU.
        device = torch.device("cpu") if empty.device.type == "mps" else empty.device
        wide = torch.promote_types(empty.dtype, torch.float64)
        bits = torch.arange(players, device="cpu")

        def add(present: Tensor, values: Tensor) -> Tensor:
            # A coalition counts with it for its members, and against those who could join.
            size = present.sum(1, keepdim=True)
            weight = torch.where(present, share[(size - 1).clamp_min(0)], -share[size.clamp_max(players - 1)])
            return weight.T.to(total) @ values.to(total)

        def step(start: int, stop: int) -> Callable[[], None]:
            coalition = torch.arange(start + 1, stop + 1, device="cpu")[:, None]
            present = (coalition >> bits) & 1 == 1
            change = add(present, game.score(present))

            def commit() -> None:
                total.add_(change)

            return commit

        items = 2**players - 1
        with scoring(self.forward_func):
            total = torch.zeros((players, empty.numel()), dtype=wide, device=device)
            if players:
                total += add(torch.zeros((1, players), dtype=torch.bool, device="cpu"), empty[None])
            plan = game.scores.plan(items)
            sweep(items, step, plan, show_progress=show_progress, description=self.get_name())
        return game.shaped(total)
