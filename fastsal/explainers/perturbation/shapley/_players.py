"""Features of inputs as the players of a game whose coalitions the model scores: what is absent is at its baseline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import examples_of
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.features import Features, coalitions, features_of, numbered, spread
from fastsal.explainers.task import Task


def players_of(task: Task, feature_mask: Any) -> Features:
    """The features that take part, numbered without gaps.

    Raises:
        TypeError, ValueError: for a mask of another form, or inputs without examples.
    """
    examples_of(task.inputs)
    return numbered(features_of(task.given.each(feature_mask), task.inputs))


class Players:
    """A game. The empty coalition is scored at once; make it inside the task's context.

    Attributes:
        count: players.
        scores: of coalitions; ``scores.clean`` is the empty one's.
    """

    def __init__(self, task: Task, features: Features) -> None:
        self._task, self._features, self.count = task, features, features.total
        self.scores = AlteredScores(task, first=task.starts())

    def score(self, present: Tensor) -> Tensor:
        """Scores [n, outputs] of coalitions [n, players] (bool)."""
        altered = coalitions(self._task.inputs, self._task.baselines, self._features, present)
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
            for ids, tensor in zip(self._features.ids, self._task.inputs, strict=True)
        ]
        return self._task.result(results)
