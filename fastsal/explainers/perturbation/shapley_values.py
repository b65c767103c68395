"""Shapley values, exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine import sweep
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import Baselines, Inputs, Target
from fastsal.explainers.perturbation._altered import AlteredScores
from fastsal.explainers.perturbation._features import Features
from fastsal.explainers.perturbation.shapley_value_sampling import ShapleyValueSampling

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

        def contributions(scores: AlteredScores, features: Features, score: Callable[..., Tensor]) -> Tensor:
            players = features.total
            if players > MOST:
                raise ValueError(
                    f"feature_mask: {players} features have 2^{players} coalitions; group them into at most {MOST}, "
                    "or use ShapleyValueSampling or KernelShap"
                )
            if players > MANY:
                warnings.warn(f"{players} features take {2**players} forward passes", UserWarning, stacklevel=5)
            share = torch.tensor(
                [math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players) for s in range(players)],
                dtype=torch.float64,
                device="cpu",
            )
            wide = torch.promote_types(scores.clean.dtype, torch.float64)
            total = torch.zeros((players, scores.clean.numel()), dtype=wide, device=_wide_device(scores))
            bits = torch.arange(players, device="cpu")

            def add(present: Tensor, values: Tensor) -> Tensor:
                # A coalition counts with it for its members, and against those who could join.
                size = present.sum(1, keepdim=True)
                weight = torch.where(present, share[(size - 1).clamp_min(0)], -share[size.clamp_max(players - 1)])
                return weight.T.to(total) @ values.to(total)

            def step(start: int, stop: int) -> Callable[[], None]:
                coalition = torch.arange(start + 1, stop + 1, device="cpu")[:, None]
                present = (coalition >> bits) & 1 == 1
                change = add(present, score(present))

                def commit() -> None:
                    total.add_(change)

                return commit

            if players:
                total += add(torch.zeros((1, players), dtype=torch.bool, device="cpu"), scores.clean[None])
            items = 2**players - 1
            sweep(items, step, scores.plan(items), show_progress=show_progress, description=self.get_name())
            return total

        return self._values(
            inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, contributions
        )


def _wide_device(scores: AlteredScores) -> torch.device:
    """Where float64 can be: the scores' device, or the CPU for those without it."""
    device = scores.clean.device
    return torch.device("cpu") if device.type == "mps" else device
