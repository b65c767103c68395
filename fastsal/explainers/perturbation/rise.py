"""RISE: the mean of random masks, weighted by the score of the masked input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine import Plan, evaluation, scratch, sweep
from fastsal.explainers._random import as_seed
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import (
    Baselines,
    PerturbationAttribution,
    Target,
    as_arguments,
    as_baselines,
    as_inputs,
    at_least_one,
    could_be_per_example,
    examples_of,
    tile,
    tile_target,
)
from fastsal.explainers.perturbation._scores import rows, scores_of
from fastsal.ops import masks


class RISE(PerturbationAttribution):
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
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Tensor:
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
            perturbations_per_eval: masks per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.

        Returns:
            float32 (float64 for float64 scores).

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
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
        design: dict[str, Any] = {"seed": as_seed(seed), "grid_size": grid_size}
        if perturbations_per_eval is None and could_be_per_example(additional, examples):
            perturbations_per_eval = 1
        row_bytes = plain[:1].numel() * plain.element_size()
        plan = Plan(n_masks, examples, row_bytes, plain.device, perturbations_per_eval, self.forward_func)
        state: Tensor | None = None

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            batch = masks.batch(plain, start, stop, **design, probability=probability, border=border, baseline=begin)
            extra = tuple(tile(scratch(value), count, examples) for value in additional)
            scores = scores_of(self.forward_func, (batch,), extra, tile_target(target, count, examples))
            scores = rows(scores, count, examples).reshape(count, -1)
            added = masks.accumulate(scores, start, size, **design, probability=probability, partial=state)

            def commit() -> None:
                nonlocal state
                state = added

            return commit

        with evaluation(self.forward_func), torch.no_grad():
            sweep(n_masks, step, plan, show_progress=show_progress, description="RISE")
            assert state is not None
            maps = masks.finish(state, size, grid_size=grid_size, border=border)
            return (maps / (n_masks * probability)).reshape(examples, -1, *size)
