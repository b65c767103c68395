"""Feature Permutation: the drop of the score when a feature is exchanged between the examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import scratch, tell
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.features import segments
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import as_seed


def permute_feature(x: Tensor, feature_mask: Tensor, random: torch.Generator | None = None) -> Tensor:
    """x [B, ...] with the elements of feature_mask [1 or B, ...] taken from other examples, in a random order.

    Raises:
        ValueError: for less than two examples.
    """
    return torch.where(feature_mask, x[other_order(x.shape[0], random).to(x.device)], x)


def other_order(examples: int, random: torch.Generator | None) -> Tensor:
    """A random order of the examples that is not their own."""
    if examples < 2:
        raise ValueError("inputs: one example has none to exchange features with; pass at least two")
    order = own = torch.arange(examples, device="cpu")
    while torch.equal(order, own):
        order = torch.randperm(examples, generator=random, device="cpu")
    return order


Orders = Callable[[int, int], Tensor]
"""(feature, examples) to an order of the examples that is not their own, int64 [examples]: the same whenever asked."""


def _seeded(seed: int) -> Orders:
    """Seeded by the feature: the same order in any chunk, and in all inputs that have a part of it."""
    return lambda feature, examples: other_order(examples, torch.Generator("cpu").manual_seed(_mixed(seed, feature)))


class FeaturePermutation(FeatureAblation):
    """F(x) - F(x with the feature of other examples): Fisher, Rudin, Dominici, "All Models are Wrong, but Many are
    Useful" (JMLR 2019), section 3; Molnar, "Interpretable Machine Learning", on permutation importance.

    Costs a forward pass per feature and one for the score itself.

    >>> maps = fastsal.FeaturePermutation(model).attribute(images, target=classes, feature_mask=torch.arange(9) // 3)

    Args:
        forward_func: module or callable.
        perm_func: (x [B, ...], mask [1 or B, ...] of bool) into x with the masked elements exchanged; x is a copy. The
            default takes a random order of the examples that is not their own, the same for all parts of a feature.
    """

    summary = "drop of the score when a feature is exchanged between the examples"
    cost = "1 forward, 1 for each feature"
    least_examples = 2
    _orders: Callable[[], Orders] | None = None
    """Makes what draws the orders of a call without a seed, if not by a seed of its own."""

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs), "seed": 0}

    def __init__(
        self, forward_func: Callable[..., Any], perm_func: Callable[[Tensor, Tensor], Tensor] = permute_feature
    ) -> None:
        super().__init__(forward_func)
        if not callable(perm_func):
            raise TypeError(f"perm_func: {type(perm_func).__name__} is not callable")
        self.perm_func = perm_func
        self._min_examples_per_batch_grouped = 2

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
    ) -> Call[Any]:
        """Attribution in the form of the inputs and the dtype of the output, [outputs, ...].

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype. With one example a feature stays as it is, also where
                another input has more of it: it has zeros, with a warning.
            target: which output to explain. With None, an output [B, K] gives attributions [B * K, ...], and an output
                of n scores for the whole batch gives [n, ...].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one.
            perturbations_per_eval: features per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            seed: chooses the orders of the default perm_func; None draws it from torch's global
                generator. An order depends on the seed, the feature and the input alone.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        alone = [place for place, tensor in enumerate(task.inputs) if len(tensor) == 1]
        if self._min_examples_per_batch_grouped < 2:
            if alone and self.perm_func is permute_feature:
                raise ValueError("inputs: one example has none to exchange features with; pass at least two")
            alone = []
        if alone:
            tell("FeaturePermutation: one example has none to exchange features with; its features have zeros")
        order = _seeded(as_seed(seed)) if self._orders is None or seed is not None else self._orders()

        def exchange(tensor: Tensor, _place: int, features: range, where: Tensor) -> Tensor:
            if len(tensor) == 1:  # whose features stay
                return torch.stack([tensor] * len(features))
            orders = torch.stack([order(feature, len(tensor)) for feature in features])
            return torch.where(where, tensor[orders.to(tensor.device)], tensor)

        def call(tensor: Tensor, _place: int, _features: range, where: Tensor) -> Tensor:
            return torch.stack([self._permuted(tensor, mask) for mask in where])

        return self.ablated(task, exchange if self.perm_func is permute_feature else call, feature_mask, stay=alone)

    def _permuted(self, tensor: Tensor, mask: Tensor) -> Tensor:
        """What the caller's perm_func makes of one input and one feature."""
        if not mask.any():
            return tensor  # the feature is in other inputs
        permuted = self.perm_func(scratch(tensor), mask)
        if not isinstance(permuted, Tensor) or permuted.shape != tensor.shape:
            kind = tuple(permuted.shape) if isinstance(permuted, Tensor) else type(permuted).__name__
            raise ValueError(f"perm_func: it returned {kind} for an input {tuple(tensor.shape)}; return its like")
        return permuted.to(tensor)


def _mixed(seed: int, feature: int) -> int:
    """A seed for one feature."""
    digest = hashlib.blake2b(f"{seed} {feature}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
