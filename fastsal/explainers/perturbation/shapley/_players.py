"""Features of inputs as the players of a game whose coalitions the model scores: what is absent is at its baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import scratch
from fastsal.explainers._old import scoring
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    baseline_inputs,
    examples_of,
)
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.features import coalitions, features_of, numbered, spread
from fastsal.explainers.scores import Target


class Players:
    """A game; its arguments as of ``ShapleyValueSampling.attribute``. The empty coalition is scored at once.

    Attributes:
        count: players.
        scores: of coalitions; ``scores.clean`` is the empty one's.

    Raises:
        TypeError, ValueError: for arguments outside of what they say.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Inputs,
        baselines: Baselines,
        target: Target,
        additional_forward_args: Any,
        feature_mask: Any,
        perturbations_per_eval: int | None,
    ) -> None:
        tensors, self._given_tuple = as_inputs(inputs)
        examples_of(tensors)
        self._inputs = tuple(scratch(t) if t.is_inference() else t.detach() for t in tensors)
        self._starts = as_baselines(baselines, self._inputs)
        self._features = numbered(features_of(feature_mask, self._inputs))
        self.count = self._features.total
        with scoring(forward_func):
            self.scores = AlteredScores(
                forward_func,
                self._inputs,
                as_arguments(additional_forward_args),
                target,
                perturbations_per_eval,
                first=baseline_inputs(baselines, self._inputs),
            )

    def score(self, present: Tensor) -> Tensor:
        """Scores [n, outputs] of coalitions [n, players] (bool)."""
        altered = coalitions(self._inputs, self._starts, self._features, present)
        return self.scores(len(present), dict(enumerate(altered)))

    def shaped(self, values: Tensor) -> Any:
        """Values [players, outputs] as ``attribute`` returns them."""
        scores = self.scores
        whole = not (scores.dtype.is_floating_point or scores.dtype.is_complex)
        dtype = torch.float32 if whole else scores.dtype
        results = [
            spread(values, ids, tensor, scores.shared)
            .reshape(*scores.shape, *tensor.shape[1:])
            .to(device=tensor.device, dtype=dtype)
            for ids, tensor in zip(self._features.ids, self._inputs, strict=True)
        ]
        return as_result(results, self._given_tuple)
