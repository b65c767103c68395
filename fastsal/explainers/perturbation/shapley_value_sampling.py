"""Shapley Value Sampling: marginal contributions along random orders of the features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine import evaluation, scratch, sweep
from fastsal.explainers._random import generator
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import (
    Baselines,
    Inputs,
    PerturbationAttribution,
    Target,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    at_least_one,
    baseline_inputs,
    examples_of,
)
from fastsal.explainers.perturbation._altered import AlteredScores
from fastsal.explainers.perturbation._features import Features, coalitions, features_of, numbered, spread


class ShapleyValueSampling(PerturbationAttribution):
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

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        n_samples = at_least_one("n_samples", n_samples)
        random = generator(seed)

        def contributions(scores: AlteredScores, features: Features, score: Callable[..., Tensor]) -> Tensor:
            players = features.total
            total = scores.clean.new_zeros((players, scores.clean.numel()))
            # Only the orders of the samples that a chunk meets are held.
            orders: dict[int, Tensor] = {}
            before = scores.clean

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
                after = score(ranks[sample] <= position[:, None])
                previous = torch.cat([before[None], after[:-1]])
                firsts = (position == 0).nonzero()[:, 0].tolist()
                previous[firsts] = scores.clean
                joined, change = drawn[sample, position].to(total.device), after - previous

                def commit() -> None:
                    nonlocal before
                    # Sample by sample, where no feature comes twice: the same bits in any chunks, without atomics.
                    for features, changes in zip(joined.tensor_split(firsts), change.tensor_split(firsts), strict=True):
                        total[features] += changes
                    before = after[-1]
                    for index in samples[:-1]:
                        orders.pop(index)

                return commit

            items = n_samples * players
            sweep(items, step, scores.plan(items), show_progress=show_progress, description=self.get_name())
            return total / n_samples

        return self._values(
            inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, contributions
        )

    def _values(
        self,
        inputs: Inputs,
        baselines: Baselines,
        target: Target,
        additional_forward_args: Any,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        contributions: Callable[[AlteredScores, Features, Callable[[Tensor], Tensor]], Tensor],
    ) -> Any:
        """Attributions from ``contributions``: [features, outputs], given the scores and how to score coalitions."""
        tensors, given_tuple = as_inputs(inputs)
        examples_of(tensors)
        plain = tuple(scratch(t) if t.is_inference() else t.detach() for t in tensors)
        starts = as_baselines(baselines, plain)
        features = numbered(features_of(feature_mask, plain))
        with evaluation(self.forward_func), torch.no_grad():
            scores = AlteredScores(
                self.forward_func,
                plain,
                as_arguments(additional_forward_args),
                target,
                perturbations_per_eval,
                first=baseline_inputs(baselines, plain),
            )

            def score(present: Tensor) -> Tensor:
                altered = coalitions(plain, starts, features, present)
                return scores(len(present), dict(enumerate(altered)))

            found = contributions(scores, features, score)
            whole = not (scores.dtype.is_floating_point or scores.dtype.is_complex)
            dtype = torch.float32 if whole else scores.dtype
            results = [
                spread(found, ids, tensor, scores.shared)
                .reshape(*scores.shape, *tensor.shape[1:])
                .to(device=tensor.device, dtype=dtype)
                for ids, tensor in zip(features.ids, plain, strict=True)
            ]
        return as_result(results, given_tuple)
