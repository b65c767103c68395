"""Feature Permutation: the drop of the score when a feature is exchanged between the examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers._random import as_seed
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import Inputs, Target, as_inputs
from fastsal.explainers.perturbation.feature_ablation import FeatureAblation


def permute_feature(x: Tensor, feature_mask: Tensor, random: torch.Generator | None = None) -> Tensor:
    """x [B, ...] with the elements of feature_mask [1 or B, ...] taken from other examples, in a random order."""
    examples = x.shape[0]
    order = identity = torch.arange(examples, device="cpu")
    while torch.equal(order, identity):
        order = torch.randperm(examples, generator=random, device="cpu")
    return torch.where(feature_mask, x[order.to(x.device)], x)


class FeaturePermutation(FeatureAblation):
    """F(x) - F(x with the feature of other examples): Fisher, Rudin, Dominici, "All Models are Wrong, but Many are
    Useful" (JMLR 2019), section 3; Molnar, "Interpretable Machine Learning", on permutation importance.

    Costs a forward pass per feature and one for the score itself.

    Args:
        forward_func: module or callable.
        perm_func: (x [B, ...], mask [1 or B, ...] of bool) into x with the masked elements exchanged. The default takes
            a random order of the examples that is not their own.
    """

    def __init__(
        self, forward_func: Callable[..., Any], perm_func: Callable[[Tensor, Tensor], Tensor] = permute_feature
    ) -> None:
        super().__init__(forward_func)
        if not callable(perm_func):
            raise TypeError(f"perm_func: {type(perm_func).__name__} is not callable")
        self.perm_func = perm_func

    @attribute_method
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
    ) -> Any:
        """Attribution in the form of the inputs and the dtype of the output, [outputs, ...].

        Args:
            inputs, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress: as of
                :meth:`FeatureAblation.attribute`; at least two examples.
            seed: chooses the orders of the default perm_func; None reads it off torch's global generator, which stays
                as it is. An order depends on the seed, the feature and the input alone.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        tensors, given_tuple = as_inputs(inputs)
        if tensors[0].shape[0] < 2:
            raise ValueError("inputs: one example has none to exchange features with; pass at least two")
        key = as_seed(seed) if self.perm_func is permute_feature else 0

        def permute(tensor: Tensor, place: int, feature: int, where: Tensor) -> Tensor:
            if self.perm_func is not permute_feature:
                return self.perm_func(tensor, where)
            mixed = hash((key, place, feature)) & (2**63 - 1)
            return permute_feature(tensor, where, torch.Generator("cpu").manual_seed(mixed))

        return self._ablate(
            tensors,
            given_tuple,
            permute,
            target,
            additional_forward_args,
            feature_mask,
            perturbations_per_eval,
            show_progress,
            rowwise=True,
        )
