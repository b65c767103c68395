"""What LIME and Kernel SHAP explain: features that are present or at their baseline, and scores of coalitions."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Sweep, tell
from fastsal.explainers.arguments import examples_of
from fastsal.explainers.perturbation.features import Baseline, Features, coalitions, features_of
from fastsal.explainers.perturbation.surrogate.lime_base import item_scores
from fastsal.explainers.scores import selected
from fastsal.explainers.task import Task


class Problem:
    """The features of inputs, for all examples or for one.

    Args:
        task: what is explained.
        features: of the inputs.
        example: which one; None is the batch.

    Attributes:
        inputs, baselines, features: of the examples.
    """

    def __init__(self, task: Task, features: Features, example: int | None = None) -> None:
        self._task, self.features = task, features
        self.inputs: tuple[Tensor, ...] = task.inputs
        self.baselines: tuple[Baseline, ...] = task.baselines
        if example is None:
            return
        self.inputs = tuple(tensor[example : example + 1] for tensor in task.inputs)
        self.baselines = tuple(
            _example(baseline, tensor, example) if isinstance(baseline, Tensor) else baseline
            for baseline, tensor in zip(task.baselines, task.inputs, strict=True)
        )
        ids = tuple(map(_example, features.ids, task.inputs, itertools.repeat(example)))
        self.features = Features(ids, features.total)

    def parts(self, together: bool) -> list[Problem]:
        """One problem per example, or the batch as one."""
        if together:
            return [self]
        return [Problem(self._task, self.features, example) for example in range(self._task.examples)]

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        """The inputs and keyword arguments of a user's functions."""
        form = self._task.result
        options = {"feature_mask": form(self.features.ids), "num_interp_features": self.features.total}
        return form(self.inputs), {"baselines": form(self.baselines), **options}

    def form(self, tensors: tuple[Tensor, ...]) -> Any:
        """Tensors like the inputs in the form in which these were passed."""
        return self._task.result(tensors)

    def altered(self, present: Tensor) -> tuple[Tensor, ...]:
        """Batches in which the features of coalitions [n, M] (or [n, B, M]) are present."""
        return coalitions(self.inputs, self.baselines, self.features, present)

    def scoring(self, present: Tensor) -> tuple[list[Tensor], Sweep[Tensor]]:
        """(a list to which the sweep appends scores [n, B], or [n, 1] of whole batches, the sweep over coalitions)."""
        task = self._task
        found: list[Tensor] = []

        def work(start: int, stop: int) -> Tensor:
            count = stop - start
            output = task.run(count, dict(enumerate(self.altered(present[start:stop]))))
            scores = selected(output, task.tiled_target(count))
            items = 1 if scores.numel() == count == 1 else count * task.examples
            return item_scores(scores, items, task.target, task.per_call).reshape(count, -1)

        def keep(start: int, stop: int, scores: Tensor) -> None:
            found.append(scores)

        return found, task.swept(len(present), work, keep)

    def result(self, coefficients: Any, outputs: Tensor, return_input_shape: bool) -> Any:
        """A surrogate's coefficients as ``attribute`` returns them, in the dtype of the outputs [B or 1, n].

        Raises:
            ValueError: for fewer coefficients than features.
        """
        dtype, total, groups = outputs.dtype, self.features.total, len(outputs)
        if not return_input_shape:
            return coefficients.to(self._task.device, dtype) if isinstance(coefficients, Tensor) else coefficients
        values = coefficients.detach().to(self._task.device, dtype).reshape(groups, -1)
        if values.shape[1] < total:
            raise ValueError(
                f"interpretable_model: its representation has {values.shape[1]} entries for {total} features; "
                "return_input_shape=False returns it as it is"
            )
        results = []
        for tensor, ids in zip(self.inputs, self.features.ids, strict=True):
            rows = torch.arange(groups, device=tensor.device).reshape(-1, *[1] * (tensor.dim() - 1))
            shape = tensor.shape if groups == tensor.shape[0] else (1, *tensor.shape[1:])
            chosen = values.to(tensor.device)[rows, ids if groups > 1 else ids[:1]]
            results.append(chosen.expand(shape).contiguous())
        return self._task.result(results)


def _example(value: Tensor, tensor: Tensor, index: int) -> Tensor:
    per_example = value.dim() == tensor.dim() and value.shape[0] == tensor.shape[0]
    return value[index : index + 1] if per_example else value


def problem_of(task: Task, feature_mask: Any) -> Problem:
    """A task's problem; a mask whose ids start elsewhere is taken to start at 0, with a warning.

    Raises:
        TypeError, ValueError: for forms outside of Captum's, or inputs without features.
    """
    examples_of(task.inputs)
    features = features_of(task.given.each(feature_mask), task.inputs)
    lowest = min((int(ids.min()) for ids in features.ids if ids.numel()), default=0)
    if lowest > 0:
        tell(f"feature_mask: the first feature is {lowest}; it is taken as 0")
        features = Features(tuple(ids - lowest for ids in features.ids), features.total - lowest)
    if features.total == 0:
        raise ValueError("inputs: they have no features")
    return Problem(task, features)
