"""RISE: the mean of random masks, weighted by the score of the masked input."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.anytime import GROUPS, relative
from fastsal.explainers.arguments import Baselines, at_least_one, examples_of
from fastsal.explainers.base import Display, Estimating, PerturbationAttribution, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.perturbation.rise._designs import Masks, checked_design
from fastsal.explainers.perturbation.rise._estimators import checked_estimator, estimated
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import as_seed
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, masks


class RISE(Estimating, PerturbationAttribution):
    """Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018), eq. 6.

    Costs n_masks passes per example, and the masks are never held. Beside a model call's batch, memory grows with
    n_masks by what the masks' design and their fit take, about 3 kB a mask: 12 MB by default. With
    ``design="independent", estimator="plain"`` it does not grow. What is kept for another call of the same masks stays
    below 128 MB, and is freed by :func:`fastsal.clear_caches`.

    The paper's scores are probabilities: pass a forward function that ends in softmax, as :func:`fastsal.explain` does.

    >>> maps = fastsal.RISE(lambda x: model(x).softmax(1)).attribute(images, target=classes, n_masks=1000)
    """

    summary = "random masks weighted by the score that they leave"
    cost = "n_masks forward"
    fixed = exportable = True
    shape = "positions"
    display = Display("range", 100.0)

    @attribution
    def attribute(
        self,
        inputs: Tensor,
        target: Target = None,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        *,
        n_masks: int = 4000,
        grid_size: int | tuple[int, ...] = 7,
        probability: float = 0.5,
        border: masks.Border = "reflect",
        seed: int | None = 0,
        design: str = "sobol",
        estimator: str = "regression",
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of the target, or [B, K, *spatial] of all outputs [B, K] at once when target is None.

        Args:
            inputs: [B, C, *spatial], one to three spatial dimensions, floating point.
            target: which output to explain, one for all or one per example.
            baselines: what shows where a mask hides: None (0), a number or a tensor that broadcasts.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            n_masks: masks; all examples share them.
            grid_size: cells of a mask's grid per spatial dimension.
            probability: that a cell keeps the input.
            border: ``reflect`` (the authors' code) or ``clamp``.
            seed: the same seed gives the same masks at every batch size; None draws it from torch's global generator.
            design: how masks are chosen: ``independent`` (the paper), ``antithetic`` (pairs of opposite masks),
                ``balanced`` (each cell kept equally often) or ``sobol`` (spread evenly). Each has the same mean map.
            estimator: ``plain`` (the paper's mean of score times mask), ``centred`` (of the score's deviation from its
                mean) or ``regression`` (of what is left of it by a linear fit on the mask, whose part is known). Each
                estimates the same map; all but the plain one keep n_masks scores of each output.
            perturbations_per_eval: masks per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.

        Returns:
            float32 (float64 for float64 scores). :meth:`estimate` tells standard errors from 16 independent replicates
            of the design.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        if len(task.inputs) > 1:
            given = len(task.inputs)
            raise ValueError(f"inputs: {given} given; RISE masks one, the others go in additional_forward_args")
        shape = tuple(task.inputs[0].shape)
        if not 3 <= len(shape) <= 5:
            raise ValueError(
                f"inputs: shape {shape} is not [B, C, *spatial] with 1 to 3 spatial dimensions, which RISE masks; "
                "FeatureAblation, KernelShap and ShapleyValues take any form"
            )
        n_masks = at_least_one("n_masks", n_masks)
        if not 0.0 < probability <= 1.0:
            raise ValueError(f"probability: {probability} is not in (0, 1]")
        examples_of(task.inputs)
        checked_design(design)
        checked_estimator(estimator)
        each = masks.Masks(task.inputs[0].shape[2:], grid_size, probability, border, as_seed(seed))
        drawn = Masks(each, design, n_masks)
        # Errors are the spread of independent replicates, which take turns.
        several = dataclasses.replace(drawn, replicates=GROUPS, _held={})
        run = _Maps(task, drawn, estimator).described().run
        return Call(task, run, lambda: _Maps(task, several, estimator).anytime())


class _Maps:
    """The maps of one call from the scores of its masks: folded at once, or kept where an estimator needs them all."""

    def __init__(self, task: Task, drawn: Masks, estimator: str) -> None:
        self._task, self._drawn, self._estimator = task, drawn, estimator
        self._streams = estimator == "plain" and drawn.replicates == 1
        self._state: Tensor | None = None
        self._scores: Tensor | None = None

    def described(self) -> Call[Tensor]:
        total = self._drawn.total
        refused = ""
        if total < 2 * GROUPS:
            refused = f"n_masks: {total} is below {2 * GROUPS}, two for each of {GROUPS} replicates"
        return self._task.sweep(
            total,
            self.work,
            self.keep,
            self.finish,
            estimate=self.estimate,
            limit=f"n_masks={total}",
            refused=refused,
        )

    def anytime(self) -> Anytime:
        found = self.described().anytime
        assert found is not None
        return found()

    def work(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """(scores [masks, outputs], what they add to the state, or themselves)."""
        count = stop - start
        batch = self._drawn.batch(self._task.inputs[0], start, stop, self._task.baselines[0])
        scores = self._task.scores(count, {0: batch}).reshape(count, -1)
        return scores, self._drawn.accumulated(scores, slice(start, stop), self._state) if self._streams else scores

    def keep(self, start: int, stop: int, found: tuple[Tensor, Tensor]) -> None:
        scores, added = found
        if self._streams:
            self._state = added
            return
        if self._scores is None:
            self._scores = scores.new_empty((self._drawn.total, scores.shape[1]))
        self._scores[start:stop] = scores

    def finish(self) -> Tensor:
        drawn = self._drawn
        if self._state is not None:
            maps = drawn.each.finish(self._state) / (drawn.total * drawn.each.probability)
            return maps.reshape(self._task.examples, -1, *drawn.each.size)
        assert self._scores is not None
        maps, _ = estimated(self._scores, self._estimator, drawn, drawn.groups(drawn.total, 1))
        return self._shaped(maps)

    def estimate(self, done: int) -> tuple[Any, Any, float, int]:
        assert self._scores is not None
        groups = self._drawn.groups(done, GROUPS)
        maps, error = estimated(self._scores[:done], self._estimator, self._drawn, groups)
        maps = self._shaped(maps)
        error = torch.full_like(maps, torch.inf) if error is None else self._shaped(error)
        ratio = relative(*((each.flatten(0, 1).flatten(1),) for each in (maps, error)))
        return maps, error, ratio, done

    def _shaped(self, values: Tensor) -> Tensor:
        assert self._scores is not None
        values = values.to(accumulation_dtype(self._scores.dtype))
        return values.reshape(self._task.examples, -1, *self._drawn.each.size)
