"""Shapley Value Sampling: marginal contributions along random orders of the features."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers._old import Run, attribute_method, execute, limits_of, scoring
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Baselines, Inputs, at_least_one
from fastsal.explainers.base import Estimating, PerturbationAttribution
from fastsal.explainers.perturbation.shapley._players import Players
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import generator


class ShapleyValueSampling(Estimating, PerturbationAttribution):
    """Mean change of the score when a feature joins those before it in a random order: Castro, Gómez, Tejada,
    "Polynomial calculation of the Shapley value based on sampling" (2009); Štrumbelj, Kononenko (2010).

    Unbiased, and for every sample the attributions add up to F(x) - F(baseline). Costs n_samples * features forward
    passes and one; memory does not grow with n_samples.
    """

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
        tolerance: float | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Attribution [*output, ...] in the form of the inputs and the dtype of the output.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: an absent feature's values: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B, K, ...].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one.
            n_samples: orders of the features; all examples share them.
            perturbations_per_eval: coalitions per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            seed: chooses the orders; None draws it from torch's global generator.
            tolerance: stop when the relative error is estimated to be below it, after n_samples at the most, and return
                an :class:`Estimate`. Only whole orders count; before the first is whole, features that have
                not joined have 0, and errors are infinite.
            deadline: stop before so many seconds have passed since the call, and return an :class:`Estimate`.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        limits = limits_of(tolerance, deadline)
        n_samples = at_least_one("n_samples", n_samples)
        random = generator(seed)
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
        with torch.inference_mode(False):
            total = empty.new_zeros((players, empty.numel()))
            spread = _Spread(total) if limits.estimating else None
        # Only the orders of the samples that a chunk meets are held.
        orders: dict[int, Tensor] = {}
        before = empty

        def order(sample: int) -> Tensor:
            if sample not in orders:
                orders[sample] = torch.randperm(players, generator=random, device="cpu")
            return orders[sample]

        def step(start: int, stop: int) -> Callable[[], None]:
            samples = range(start // players, (stop - 1) // players + 1)
            item = torch.arange(start, stop, device="cpu")
            sample, position = item // players - samples.start, item % players
            drawn = torch.stack([order(index) for index in samples])
            ranks = torch.empty_like(drawn, dtype=torch.int32)
            ranks.scatter_(1, drawn, torch.arange(players, dtype=torch.int32, device="cpu").expand_as(drawn))
            after = game.score(ranks[sample] <= position[:, None])
            previous = torch.cat([before[None], after[:-1]])
            firsts = (position == 0).nonzero()[:, 0].tolist()
            previous[firsts] = empty
            joined, change = drawn[sample, position].to(total.device), after - previous

            def commit() -> None:
                nonlocal before
                # Sample by sample, where no feature comes twice: the same bits in any chunks, without atomics.
                for features, changes, places in zip(
                    *(each.tensor_split(firsts) for each in (joined, change, position)), strict=True
                ):
                    total[features] += changes
                    if spread is not None and len(places):
                        spread.add(features, changes, whole=int(places[-1]) == players - 1)
                before = after[-1]
                for index in samples[:-1]:
                    orders.pop(index)

            return commit

        def estimate(_done: int) -> tuple[Any, Any, float, int]:
            assert spread is not None
            if not spread.count:
                # What has joined in the first order, of which nothing is known yet.
                return game.shaped(total), game.shaped(torch.full_like(total, torch.inf)), math.inf, 0
            mean, error = spread.mean, spread.error()
            return game.shaped(mean), game.shaped(error), relative((mean.T,), (error.T,)), spread.count

        def finish() -> Any:
            return game.shaped(total / n_samples)

        def context() -> contextlib.AbstractContextManager[Any]:
            return scoring(self.forward_func)

        items, name, limit = n_samples * players, self.get_name(), f"n_samples={n_samples}"
        plan = game.scores.plan(items)
        return execute(Run(items, step, plan, name, show_progress, context, finish, estimate, limit), limits)


class _Spread:
    """Mean and variance of the contributions of whole orders (Welford, "Note on a method for calculating corrected sums
    of squares and products", 1962)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean, self._squares, self._current = (torch.zeros_like(like) for _ in range(3))

    def add(self, features: Tensor, changes: Tensor, *, whole: bool) -> None:
        """Contributions of an order's features, each once; ``whole`` with the last of them."""
        self._current[features] = changes
        if whole:
            self.count += 1
            apart = self._current - self.mean
            self.mean += apart / self.count
            self._squares += apart * (self._current - self.mean)

    def error(self) -> Tensor:
        """Standard error of the mean; infinite for one order."""
        if self.count < 2:
            return torch.full_like(self.mean, torch.inf)
        return (self._squares / (self.count * (self.count - 1))).sqrt()
