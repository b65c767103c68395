"""RISE: the mean of random masks, weighted by the score of the masked input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Plan, scratch
from fastsal.explainers._old import Run, attribute_method, could_be_per_example, execute, limits_of, scores_of, scoring
from fastsal.explainers.anytime import GROUPS, relative
from fastsal.explainers.arguments import Baselines, as_arguments, as_baselines, as_inputs, at_least_one, examples_of
from fastsal.explainers.base import Estimating, PerturbationAttribution
from fastsal.explainers.perturbation.rise._designs import Masks, checked_design
from fastsal.explainers.perturbation.rise._estimators import checked_estimator, estimated
from fastsal.explainers.scores import Target, rows, tile, tile_target
from fastsal.explainers.seeds import as_seed
from fastsal.ops import accumulation_dtype, masks


class RISE(Estimating, PerturbationAttribution):
    """Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018), eq. 6.

    Costs n_masks passes per example; memory does not grow with n_masks, and the masks are never held. The paper's
    scores are probabilities: pass a forward function that ends in softmax, as :func:`fastsal.explain` does.
    """

    @attribute_method
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
        return_standard_error: bool = False,
        tolerance: float | None = None,
        deadline: float | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Any:
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
            return_standard_error: return (maps, their standard errors) from 16 independent replicates of the design.
            tolerance: stop when the relative error is estimated to be below it, and return an :class:`Estimate`.
            deadline: stop before so many seconds have passed since the call, and return an :class:`Estimate`.
            perturbations_per_eval: masks per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.

        Returns:
            float32 (float64 for float64 scores); with ``return_standard_error`` two of these.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        limits = limits_of(tolerance, deadline)
        tensors, _ = as_inputs(inputs)
        if len(tensors) > 1:
            raise ValueError(f"inputs: {len(tensors)} given; RISE masks one, the others go in additional_forward_args")
        (tensor,) = tensors
        (begin,) = as_baselines(baselines, (tensor,))
        n_masks = at_least_one("n_masks", n_masks)
        if not 0.0 < probability <= 1.0:
            raise ValueError(f"probability: {probability} is not in (0, 1]")
        if perturbations_per_eval is not None:
            perturbations_per_eval = at_least_one("perturbations_per_eval", perturbations_per_eval)
        additional = as_arguments(additional_forward_args)
        plain = scratch(tensor) if tensor.is_inference() else tensor.detach()
        examples, size = examples_of((plain,)), list(plain.shape[2:])
        checked_design(design)
        checked_estimator(estimator)
        grid = masks.cells(size, grid_size)
        several = limits.estimating or return_standard_error
        if return_standard_error and n_masks < 2 * GROUPS:
            raise ValueError(f"n_masks: {n_masks} is below {2 * GROUPS}, two for each of {GROUPS} replicates")
        key = as_seed(seed)
        run = Masks(tuple(size), tuple(grid), border, probability, key, design, n_masks, GROUPS if several else 1)
        streams = estimator == "plain" and not several
        if perturbations_per_eval is None and could_be_per_example(additional, examples):
            perturbations_per_eval = 1
        row_bytes = plain[:1].numel() * plain.element_size()
        plan = Plan(n_masks, examples, row_bytes, plain.device, perturbations_per_eval, self.forward_func)
        state: Tensor | None = None
        kept: Tensor | None = None

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            batch = run.batch(plain, start, stop, begin)
            extra = tuple(tile(scratch(value), count, examples) for value in additional)
            scores = scores_of(self.forward_func, (batch,), extra, tile_target(target, count, examples))
            scores = rows(scores, count, examples).reshape(count, -1)
            added = run.accumulated(scores, slice(start, stop), state) if streams else scores

            def commit() -> None:
                nonlocal state, kept
                if streams:
                    state = added
                    return
                if kept is None:
                    kept = scores.new_empty((n_masks, scores.shape[1]))
                kept[start:stop] = scores

            return commit

        def shaped(values: Tensor) -> Tensor:
            assert kept is not None
            return values.to(accumulation_dtype(kept.dtype)).reshape(examples, -1, *size)

        def finish() -> Any:
            if state is not None:
                return (run.finished(state) / (n_masks * probability)).reshape(examples, -1, *size)
            assert kept is not None
            maps, error = estimated(kept, estimator, run, run.groups(n_masks, GROUPS if several else 1))
            return shaped(maps) if error is None else (shaped(maps), shaped(error))

        def estimate(done: int) -> tuple[Tensor, Tensor, float, int]:
            assert kept is not None
            maps, error = estimated(kept[:done], estimator, run, run.groups(done, GROUPS))
            found = shaped(maps), torch.full_like(shaped(maps), torch.inf) if error is None else shaped(error)
            return *found, relative(*((each.flatten(0, 1).flatten(1),) for each in found)), done

        return execute(
            Run(
                n_masks,
                step,
                plan,
                "RISE",
                show_progress,
                lambda: scoring(self.forward_func),
                finish,
                estimate,
                f"n_masks={n_masks}",
            ),
            limits,
        )
